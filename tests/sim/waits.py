"""A judge: how long each job that wants a slot waits for its next one.

A job waits from when it becomes runnable, or from when it was served last, until it is served: a chunk of it is dealt,
or a driver of it goes on. For worlds without accidents, in which all kernels suit everybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from park.broker.turns import Turn
from park.wire import messages
from tests.sim.world import World


@dataclass
class Waits:
    """The waits of the jobs of a world, from now on."""

    world: World
    #: job -> since when it has waited
    since: dict[int, float] = field(default_factory=dict)
    #: job -> the longest wait, seconds; those that have not ended count
    longest: dict[int, float] = field(default_factory=dict)
    #: every wait that has ended
    ended: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.judges.append(self)

    def died(self) -> None:
        self.since.clear()

    def turned(self, turn: Turn) -> None:
        pass

    def decided(self, turn: Turn) -> None:
        now, dispatcher = self.world.now, self.world.dispatcher
        for send in (*turn.sends, *turn.sends_after_commit):
            job = self._served(send.message)
            if job in self.since:
                self.ended.append(now - self.since.pop(job))
        wanting = set(dispatcher.state.clock.waiting)
        for job in self.since.keys() - wanting:
            del self.since[job]
        for job in wanting:
            waited = now - self.since.setdefault(job, now)
            self.longest[job] = max(waited, self.longest.get(job, 0.0))

    def _served(self, message: object) -> int:
        if isinstance(message, messages.Run):
            return message.job
        if isinstance(message, messages.Resume) or (isinstance(message, messages.Results) and message.resume):
            attempt = self.world.dispatcher.state.attempts.get(message.attempt)
            return attempt.map.job if attempt is not None else 0
        return 0

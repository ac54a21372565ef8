"""The followers of the streams of jobs: each message of a job goes to every follower of it, once and in order.

A follower keeps its place in the stream (`park.wire.cursor`), so that it misses nothing when the broker comes back.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import Protocol

from park.client.outgoing import Outgoing
from park.client.pending import Pending, Reply, refusal
from park.errors import ParkError
from park.net.reactor import Reactor
from park.util.stdio import tell
from park.wire import codec, messages
from park.wire.cursor import Cursor
from park.wire.messages import Message
from park.wire.pack import Buffer


class Follower(Protocol):
    """An object that gets the messages of a job's stream. Its methods are called in the reactor's loop."""

    #: it gets the last lines of the job's log first
    logs: bool
    place: Cursor

    def put(self, kind: str, data: Buffer) -> None:
        """A message has come."""

    def fail(self, error: ParkError) -> None:
        """End the follower: no more messages will come."""


class Followers:
    """All followers of a link. *ask* sends a request that is made from its number."""

    def __init__(
        self,
        reactor: Reactor,
        out: Outgoing,
        pending: Pending,
        ask: Callable[[Callable[[int], Message]], Reply],
    ) -> None:
        self._reactor = reactor
        self._out = out
        self._pending = pending
        self._ask = ask
        #: by job, and by the number of the request `Watch`
        self.by_job: dict[int, dict[int, Follower]] = {}
        #: followers that leave; filled by any thread, also while the loop collects garbage
        self._leaving: deque[tuple[int, Follower]] = deque()

    def __len__(self) -> int:
        """The number of jobs that are followed."""
        return len(self.by_job)

    def watch(self, job: int, follower: Follower) -> Reply:
        """Give *follower* each message of the job's stream, in the loop; the answer says whether it may follow."""

        def make(number: int) -> Message:
            self.by_job.setdefault(job, {})[number] = follower
            return messages.Watch(number, job, follower.logs, follower.place.ask())

        return self._ask(make)

    def unwatch(self, job: int, follower: Follower) -> None:
        """Stop following the job, from the next turn of the loop on. Any thread may call this."""
        self._leaving.append((job, follower))
        self._reactor.wake()

    # -- in the reactor's loop -----------------------------------------------------------------

    def waiting(self) -> bool:
        """Whether a follower wants to leave."""
        return bool(self._leaving)

    def turn(self) -> None:
        """Let those go that want to leave."""
        while self._leaving:
            self._leave(*self._leaving.popleft())

    def forget_places(self) -> None:
        """Forget all places: the broker has another store, where the old places mean nothing."""
        for followers in self.by_job.values():
            for follower in followers.values():
                follower.place.forget()

    def watch_again(self) -> None:
        """The broker is back: follow all jobs again, from the places that were reached."""
        for job, followers in self.by_job.items():
            for old in list(followers):
                number = self._pending.next_number()
                followers[number] = follower = followers.pop(old)
                self._out.send(messages.Watch(number, job, follower.logs, follower.place.ask()))

    def receive(self, message: messages.Stream, data: Buffer) -> None:
        """Pass on a message of a job's stream: to all its followers or, if it is part of an answer, to the one that
        asked.
        """
        followers = self.by_job.get(message.job, {})
        if message.reply:
            followers = {n: f for n, f in followers.items() if n == message.reply}
        for follower in list(followers.values()):
            if follower.place.passes(message):
                self._call(message.job, follower, lambda f: f.put(message.kind, data))
                if _ends_stream(message.kind, data):
                    self._remove(message.job, follower)

    def refused(self, message: messages.Failure) -> None:
        """The broker refuses a request, perhaps to follow a job, as one that was deleted while it was away."""
        for job, followers in self.by_job.items():
            if message.reply in followers:
                follower = followers[message.reply]
                self._remove(job, follower)
                self._call(job, follower, lambda f: f.fail(refusal(message)))
                return

    def fail(self, error: ParkError) -> None:
        """All streams end with this *error*."""
        followers, self.by_job = self.by_job, {}
        for job, several in followers.items():
            for follower in several.values():
                self._call(job, follower, lambda f: f.fail(error))

    def _leave(self, job: int, follower: Follower) -> None:
        if self._remove(job, follower) and job not in self.by_job:
            self._out.send(messages.Unwatch(job))

    def _remove(self, job: int, follower: Follower) -> bool:
        """Send no more of the job to this follower. Whether it followed."""
        followers = self.by_job.get(job, {})
        numbers = [n for n, f in followers.items() if f is follower]
        for number in numbers:
            del followers[number]
        if not followers:
            self.by_job.pop(job, None)
        return bool(numbers)

    def _call(self, job: int, follower: Follower, method: Callable[[Follower], None]) -> None:
        """Call a follower; one that raises follows no longer, and the others go on."""
        try:
            method(follower)
        except Exception:
            tell(f"park: a follower of job {job} failed, and follows it no longer:\n{traceback.format_exc()}")
            self._leave(job, follower)


def _ends_stream(kind: str, data: Buffer) -> bool:
    """Whether this message ends the job's stream. An error does if it has the record of the job."""
    return kind in ("complete", "abort") or (kind == "error" and codec.unpack(data)["record"] is not None)

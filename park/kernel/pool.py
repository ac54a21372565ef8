"""The kernel's slot processes: which one a chunk goes to, and when one is started or let go.

A process never runs code of two owners, nor with other thread limits than it was started with: others are
started for them. Idle processes beyond the number of slots, or some more while several owners take turns, are let
go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from park.kernel.actions import Action, Kill, Let, Start
from park.kernel.process import Process, ProcessState
from park.wire import messages

#: Where jobs of several owners take turns, idle processes of them are kept: so many for each slot.
IDLE_PER_SLOT = 4
#: So many processes for each slot may clean up beside those that work; beyond that, the oldest has had its time.
MOST_CLEANING = 8


class Pool:
    """See the module. *spare*: one process that nobody has used is there for the next owner who comes.

    *do* takes the actions that follow.
    """

    def __init__(self, slots: int, spare: bool, do: Callable[[Action], None]) -> None:
        self._slots = slots
        self.spare = spare
        self._do = do
        self.processes: dict[int, Process] = {}
        self._next = 1
        self._runs = 0

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes.values())

    @property
    def free(self) -> int:
        """Slots that no process holds."""
        return self._slots - sum(p.width for p in self)

    def start(self, cpus: int) -> Process:
        process = Process(self._next, cpus)
        self._next += 1
        self.processes[process.number] = process
        self._do(Start(process.number, cpus))
        return process

    def let(self, process: Process) -> None:
        """It cleans up and ends."""
        process.state = ProcessState.ENDING
        self._do(Let(process.number))

    def take(self, run: messages.Run) -> Process:
        """The process for a chunk; from now on it is the owner's."""
        process = self._place(run)
        fresh = not process.owner
        process.owner = run.owner
        process.state = ProcessState.BUSY
        process.jobs.add(run.job)
        self._runs += 1
        process.used = self._runs
        if fresh and self.spare and not any(p.blank for p in self):
            self.start(1)
        return process

    def _place(self, run: messages.Run) -> Process:
        """A driver that waits for the chunk, one that has the job prepared, any idle one, a new one."""
        idle: list[Process] = []
        for process in self.processes.values():
            if process.state is ProcessState.BUSY:
                if process.waits == run.map and not run.apart and process.kill_at is None:
                    return process
            elif process.free:
                idle.append(process)
        best: Process | None = None
        for process in idle:
            if process.cpus == run.cpus and process.owner in ("", run.owner):
                if run.job in process.jobs:
                    return process
                if best is None or (process.owner and not best.owner):
                    best = process
        if best is not None:
            return best
        if len(idle) >= IDLE_PER_SLOT * self._slots:
            self.let(min(idle, key=lambda p: (bool(p.owner), p.used)))
        return self.start(run.cpus)

    def trim(self) -> None:
        """Let idle processes go that are too many; fewer would have to be started again for the next chunks."""
        resting = [p for p in self.processes.values() if p.state is ProcessState.IDLE]
        if len(resting) <= self._slots:
            return
        cleaning = [p for p in resting if p.cleaning]
        for process in cleaning[: max(0, len(cleaning) - MOST_CLEANING * self._slots)]:
            process.state = ProcessState.ENDING
            self._do(Kill(process.number))
        idle = [p for p in resting if p.free]
        if self.spare:
            idle = [p for p in idle if p.owner] + [p for p in idle if not p.owner][1:]
        if len(idle) <= self._slots:
            return
        most = self._slots * (IDLE_PER_SLOT if len({p.owner for p in idle}) > 1 else 1)
        if len(idle) > most:
            for process in sorted(idle, key=lambda p: (len(p.jobs), p.used))[: len(idle) - most]:
                self.let(process)

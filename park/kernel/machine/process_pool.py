"""The kernel's slot processes: the choice of one for a chunk, and when processes are started or told to end.

A process never runs code of two owners, and keeps the environment, the number of threads and the GPUs with which it was
started. For other needs the pool starts other processes. An idle process ends before another one gets its GPU. Idle
processes beyond the number of slots are told to end; some more stay while several owners, or jobs with other needs,
take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from park.kernel.machine.actions import Action, CloseProcess, KillProcess, StartProcess
from park.kernel.machine.process import Process, ProcessState
from park.model import IDLE_PROCESSES_PER_SLOT, WHOLE_GPU, gpu_part
from park.wire import messages

#: For each slot, the number of processes that may clean up beside those that work. Beyond it the oldest one is killed.
MAX_CLEANING_PER_SLOT = 8


class ProcessPool:
    """The slot processes of the kernel. *spare*: one process that no owner has used stays ready for the next new owner.

    *do* takes the actions that follow.
    """

    def __init__(self, slots: int, spare: bool, do: Callable[[Action], None]) -> None:
        self._slots = slots
        self.spare = spare
        self._do = do
        self.processes: dict[int, Process] = {}
        self._next_number = 1
        self._chunks = 0

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes.values())

    @property
    def free(self) -> int:
        """Slots that no process takes."""
        return self._slots - sum(process.width for process in self)

    def start(self, cpus: int, devices: tuple[int, ...] = (), environment: str = "") -> Process:
        """Start a process in an *environment*, with this many threads for numerical libraries, and these GPUs."""
        process = Process(self._next_number, cpus, devices, environment)
        self._next_number += 1
        self.processes[process.number] = process
        self._do(StartProcess(process.number, cpus, devices, environment))
        return process

    def close(self, process: Process) -> None:
        """Tell the process to clean up and end."""
        process.move(ProcessState.ENDING)
        self._do(CloseProcess(process.number))

    def kill(self, process: Process) -> None:
        """End the process at once."""
        process.move(ProcessState.ENDING)
        self._do(KillProcess(process.number))

    def take(self, run: messages.Run) -> Process:
        """The process for a chunk; from now on it is the owner's."""
        process = self._choose(run)
        fresh = not process.owner
        process.owner, process.gpus = run.owner, run.gpus
        if process.state is ProcessState.IDLE:
            process.move(ProcessState.BUSY)
        process.jobs.add(run.job)
        self._chunks += 1
        process.chunks += 1
        process.last_chunk = self._chunks
        if fresh and self.spare and not any(other.is_blank for other in self):
            self.start(1)
        return process

    def _choose(self, run: messages.Run) -> Process:
        """A driver that waits for the chunk, else an idle process with the job prepared, else any idle, else a new one."""
        found, idle = self._match(run)
        if found is not None:
            return found
        if len(idle) >= IDLE_PROCESSES_PER_SLOT * self._slots:
            self.close(min(idle, key=lambda process: (bool(process.owner), process.last_chunk)))
        return self.start(run.cpus, tuple(run.devices), run.environment)

    def _match(self, run: messages.Run) -> tuple[Process | None, list[Process]]:
        """The process that may run the chunk, if there is one, and idle processes."""
        idle: list[Process] = []
        devices = tuple(run.devices)
        for process in self.processes.values():
            if process.state is ProcessState.IDLE:
                if not process.cleaning:
                    idle.append(process)
            elif (
                process.map_waited_for == run.map
                and process.devices == devices
                and not run.apart
                and process.kill_at is None
            ):
                return process, idle
        best: Process | None = None
        for process in idle:
            same = (process.cpus, process.devices, process.environment) == (
                run.cpus,
                devices,
                run.environment,
            )
            if same and process.owner in ("", run.owner):
                if run.job in process.jobs:
                    return process, idle
                if best is None or (process.owner and not best.owner):
                    best = process
        return best, idle

    def makes_way(self, run: messages.Run) -> bool:
        """Whether the GPUs of the chunk are free for it. Idle processes that hold memory of them are told to end."""
        if not run.devices or self._match(run)[0] is not None:
            return True
        taken: Counter[int] = Counter()
        for process in list(self):
            shared = set(run.devices).intersection(process.devices)
            if shared and process.state is ProcessState.IDLE:
                self.close(process)
            if process.state is ProcessState.ENDING or process.width:
                taken.update(dict.fromkeys(shared, gpu_part(process.gpus)))
        return all(taken[device] + gpu_part(run.gpus) <= WHOLE_GPU for device in run.devices)

    def trim(self) -> None:
        """Tell superfluous idle processes to end. Some stay, because the next chunks would have to start them again."""
        resting = [process for process in self.processes.values() if process.state is ProcessState.IDLE]
        if len(resting) <= self._slots:
            return
        cleaning = [process for process in resting if process.cleaning]
        for process in cleaning[: max(0, len(cleaning) - MAX_CLEANING_PER_SLOT * self._slots)]:
            self.kill(process)
        idle = [process for process in resting if process.is_free]
        if self.spare:
            blank = [process for process in idle if not process.owner]
            idle = [process for process in idle if process.owner] + blank[1:]
        if len(idle) <= self._slots:
            return
        several_kinds = len({(p.owner, p.cpus, p.devices, p.environment) for p in idle}) > 1
        limit = self._slots * (IDLE_PROCESSES_PER_SLOT if several_kinds else 1)
        if len(idle) > limit:
            oldest = sorted(idle, key=lambda process: (len(process.jobs), process.last_chunk))
            for process in oldest[: len(idle) - limit]:
                self.close(process)

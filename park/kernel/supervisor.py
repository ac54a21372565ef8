"""The slot processes of one kernel, as the system's processes: started, talked to, watched and ended.

The supervisor decides nothing. It passes on the messages of the processes, and reports why each of them has ended.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from park.errors import ProtocolError
from park.kernel import orphan_killer
from park.kernel.machine.exit_cause import ExitCause
from park.kernel.machine.shutdown import CLEANUP_SECONDS
from park.kernel.node.gpus import NO_GPUS, Gpus
from park.kernel.node.memory import OomWatch
from park.kernel.output_relay import OutputRelay
from park.kernel.slot_process import SlotProcess
from park.kernel.temporary_folders import TemporaryFolders
from park.net.reactor import Reactor
from park.util.processes import parent
from park.util.spawn import SpawnedProcess
from park.util.stdio import tell
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.print_marks import Printed

#: Seconds that all processes together may take to end when the kernel itself is stopped.
STOP_SECONDS = 0.5
#: Seconds that a process may take to end after it has closed its channel.
CLOSED_CHANNEL_SECONDS = 1.0
READ, WRITE = 1, 2
#: Signals with which a batch system ends all processes of a job.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL") if hasattr(signal, name)
)
#: The cause of the end of a process that closed its channel and went on.
CHANNEL_CLOSED = (
    "its process closed its connection to the kernel: descriptors that a body did not open are not its own"
)


class Supervisor:
    """The parent of the slot processes: it starts them, watches them and ends them.

    *mark*: the kernel's mark, which its processes carry. *memory*: bytes that the node's processes may use; 0: unknown.
    *place* tells the sys.path and the folder of the script whose service this is; None: processes keep their own.
    *is_full* tells whether a process is not to be read, because too much that it has published waits. *line_prefix*
    returns the beginning of each line that a process prints. *on_printed* takes the number of a process, the name of its
    stream, "out" or "err", and the pieces that have come there. *on_message* takes the number of a process, a message, its
    payload and its frames; *on_exit* the number, why the process has ended, its last lines on standard error,
    and whether one of the `STOP_SIGNALS` has ended it. *programs*: the Python of each named environment, and under "" that
    of the kernel. *gpus*: those of the node.
    """

    def __init__(
        self,
        reactor: Reactor,
        mark: str,
        memory: int,
        place: Callable[[], messages.Setup] | None,
        is_full: Callable[[int], bool],
        line_prefix: Callable[[int], str],
        on_printed: Callable[[int, str, list[Printed]], None],
        on_message: Callable[[int, Message, Buffer, list[Any] | None], None],
        on_exit: Callable[[int, str, str, bool], None],
        programs: Mapping[str, str] | None = None,
        gpus: Gpus = NO_GPUS,
    ) -> None:
        self._reactor = reactor
        self._programs = programs or {"": sys.executable}
        self._mark = mark
        self._memory = memory
        self._place = place
        self._is_full = is_full
        self._line_prefix = line_prefix
        self._on_printed = on_printed
        self._on_message = on_message
        self._on_exit = on_exit
        self._gpus = gpus
        self._processes: dict[int, SlotProcess] = {}
        #: when processes that were told to end are killed
        self._kill_at: dict[int, float] = {}
        #: processes that have ended, which `turn` has still to report
        self._exited: list[SlotProcess] = []
        #: numbers of processes that could not be made, and why
        self._failed_starts: list[tuple[int, str]] = []
        #: processes that are not read, because too much that they say waits
        self._unread: set[SlotProcess] = set()
        self._output = OutputRelay(reactor)
        self._oom = OomWatch()
        self._orphan_killer: SpawnedProcess | None = None
        self._folders = TemporaryFolders()

    def __len__(self) -> int:
        return len(self._processes)

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        """Whether the end of a process has still to be reported."""
        return bool(self._exited or self._failed_starts)

    @property
    def any_unread(self) -> bool:
        """Whether a process is not read because too many of its messages wait for the broker."""
        return any(self._is_full(process.number) for process in self._unread)

    def turn(self, now: float) -> None:
        """Read processes again that were full, pass on output, tell which processes have ended, kill overdue ones."""
        self._output.turn(now)
        for process in [process for process in self._unread if not self._waits(process)]:
            self._unread.discard(process)
            self._listen(process)
        while self._exited:
            self._take_exit(self._exited.pop())
        while self._failed_starts:
            number, cause = self._failed_starts.pop()
            self._on_exit(number, cause, "", False)
        for number, kill_at in list(self._kill_at.items()):
            if now >= kill_at:
                del self._kill_at[number]
                process = self._processes[number]
                process.fault = process.fault or CHANNEL_CLOSED
                process.kill()
        self._oom.turn(now)

    def deadlines(self) -> Iterator[float]:
        """The time at which `turn` has something to do."""
        yield from self._kill_at.values()
        yield from self._output.deadlines()

    def stop(self) -> None:
        """End all processes, and kill those that do not end by themselves."""
        for process in self._processes.values():
            process.interrupt()
            process.channel.finish()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            self._ignore(process)
            process.end(deadline - time.monotonic())
        for process in self._processes.values():
            process.wait(2.0)
            process.close()
        self._processes.clear()
        if self._orphan_killer is not None:
            self._orphan_killer.kill()
            self._orphan_killer.wait()
            orphan_killer.end(self._mark, STOP_SECONDS)
        self._folders.close()

    # -- what the kernel does with a process ------------------------------------------------------

    def start(self, number: int, cpus: int, devices: tuple[int, ...] = (), environment: str = "") -> None:
        """Start a process in an environment whose libraries use this many threads, and see these GPUs of the node."""
        of_script = self._place is not None
        prefix, settings = partial(self._line_prefix, number), self._gpus.settings(devices)
        try:
            program = self._programs[environment]
            printed = partial(self._on_printed, number)
            process = SlotProcess(number, cpus, self._mark, of_script, prefix, program, settings, printed)
        except OSError as error:
            self._failed_starts.append((number, f"no process could be started: {error}"))
            return
        self._processes[number] = process
        self._listen(process)
        self._reactor.in_thread(lambda: self._spawn(process))

    def _spawn(self, process: SlotProcess) -> None:
        if process.number not in self._processes:
            return
        try:
            if (
                self._orphan_killer is None and self._place is None
            ):  # kernels of a script share its temporary files
                self._folders.open()
            process.start(self._folders.make(process.number))
            if self._orphan_killer is None:
                # after the process, which loads modules for longer than this takes, and has no children before
                self._orphan_killer = orphan_killer.start(self._mark, str(self._folders.root or ""))
        except OSError as error:
            process.channel.close()
            self._remove(process, f"no process could be started: {error}")
            return
        for descriptor, lines in process.streams:
            # messages that came before the output go before it
            self._output.add(
                descriptor, lines, partial(self._is_full, process.number), partial(self._read, process)
            )
        if process.pidfd is not None:
            self._reactor.listen(process.pidfd, lambda ready: self._note_exit(process))

    def send(self, number: int, message: Message, payload: Buffer, frames: list[Any] | None = None) -> None:
        """Send a message to a process, where it could be started; *frames*: the message and its payload, encoded."""
        process = self._processes.get(number)
        if process is None:
            return
        if self._place is not None and isinstance(message, messages.Run):
            place = self._place()
            if place is not process.place:
                process.place = place
                process.channel.send(codec.encode(place))
        if isinstance(message, messages.Run):
            process.permits.issue(message.count - 1)
        if not process.channel.send(codec.encode(message, payload) if frames is None else frames):
            self._listen(process)

    def pid(self, number: int) -> int | None:
        """The system's number of a process; None: it has not begun, or has ended."""
        process = self._processes.get(number)
        return process.pid if process is not None else None

    def withdraw(self, number: int) -> int:
        """Take the permits that a process has not used for a unit. Returns their number."""
        process = self._processes.get(number)
        return process.permits.withdraw() if process is not None else 0

    def interrupt(self, number: int) -> None:
        """Raise park.Abort in the body that a process runs."""
        if (process := self._processes.get(number)) is not None:
            process.interrupt()

    def close(self, number: int) -> None:
        """Tell a process to clean up and end."""
        if (process := self._processes.get(number)) is not None:
            process.channel.finish()
            self._kill_at[number] = time.monotonic() + CLEANUP_SECONDS

    def kill(self, number: int) -> None:
        """End a process at once."""
        if (process := self._processes.get(number)) is not None:
            process.kill()

    # -- what comes from processes ----------------------------------------------------------------

    def _listen(self, process: SlotProcess) -> None:
        """Wait for its messages, unless it is full, and for space in its socket while something waits to go out."""
        events = WRITE if process.channel.pending else 0
        if not self._waits(process):
            events |= READ
        else:
            self._unread.add(process)
        if not events:
            self._reactor.ignore(process.channel)
            return
        self._reactor.listen(process.channel, partial(self._on_ready, process), events)

    def _waits(self, process: SlotProcess) -> bool:
        """Whether the process waits until the broker or a reader of the kernel's own streams has taken more."""
        return self._is_full(process.number) or self._output.is_paused(process.streams)

    def _take_output(self, process: SlotProcess) -> None:
        """Read the process's streams now: the output is older than the message that comes next."""
        if process.has_printed:
            for descriptor, lines in process.streams:
                self._output.take(descriptor, lines)

    def _on_ready(self, process: SlotProcess, ready: int) -> None:
        if ready & WRITE:
            process.channel.flush()
            self._listen(process)
        if ready & READ:
            self._read(process)

    def _read(self, process: SlotProcess) -> None:
        try:
            for frames in process.channel.receive():
                message, payload = codec.decode(frames)
                self._take_output(process)
                try:
                    self._on_message(process.number, message, payload, frames)
                except ProtocolError:
                    raise
                except Exception as error:
                    # a message that no process sends by itself must not end the kernel
                    tell(f"park-kernel: {traceback.format_exc()}", "error")
                    raise ProtocolError(
                        f"the kernel failed at its {type(message).__name__}: {error!r}"
                    ) from error
            if self._waits(process):
                self._listen(process)
        except EOFError:
            self._reactor.ignore(process.channel)
            if process.pidfd is None:
                self._note_exit(process)
            else:  # it is about to end, unless the body closed our socket
                self._kill_at.setdefault(process.number, time.monotonic() + CLOSED_CHANNEL_SECONDS)
        except ProtocolError as error:
            process.fault = f"a body wrote into its connection to the kernel: {error}"
            self._reactor.ignore(process.channel)
            process.kill()

    # -- how processes end ------------------------------------------------------------------------

    def process_above(self, pid: int) -> int | None:
        """The process that is *pid*, or that has started it; None: there is none. Any thread may call it."""
        numbers = {process.pid: number for number, process in list(self._processes.items())}
        while pid and pid not in numbers:
            pid = parent(pid)
        return numbers.get(pid)

    def fail(self, number: int, cause: str) -> None:
        """End a process, for this *cause* in words."""
        process = self._processes.get(number)
        if process is not None:
            process.fault = process.fault or cause
            process.kill()

    def _note_exit(self, process: SlotProcess) -> None:
        if process.number in self._processes and process not in self._exited:
            self._exited.append(process)

    def _take_exit(self, process: SlotProcess) -> None:
        """A process or its channel has ended: read the remaining messages, then report the end."""
        process.end(0.25)
        process.wait(5.0)
        with contextlib.suppress(EOFError, ProtocolError, OSError):
            while True:
                for frames in process.channel.receive():
                    message, payload = codec.decode(frames)
                    self._take_output(process)
                    self._on_message(process.number, message, payload, None)
        for descriptor, lines in process.streams:
            lines.read(descriptor, 0.0)
            lines.settle()
        cause = self._exit_cause(process)
        by_signal = cause.code is not None and -cause.code in STOP_SIGNALS
        stopped = by_signal and not cause.starved and not process.fault
        self._remove(process, process.fault or str(cause), stopped)

    def _exit_cause(self, process: SlotProcess) -> ExitCause:
        starved = self._oom.look(time.monotonic())
        return ExitCause(process.exit_code(), process.peak, process.floor, self._memory, starved)

    def _remove(self, process: SlotProcess, cause: str, stopped: bool = False) -> None:
        del self._processes[process.number]
        self._kill_at.pop(process.number, None)
        self._unread.discard(process)
        self._ignore(process)
        self._on_exit(process.number, cause, process.last_lines(), stopped)
        if process.exit_code():  # it did not end in order, and may have left programs behind
            orphan_killer.kill(self._mark, process.number)
        process.close()
        self._folders.remove(process.number)

    def _ignore(self, process: SlotProcess) -> None:
        for descriptor, lines in process.streams:
            self._output.remove(descriptor, lines)
        for other in (process.channel, process.pidfd):
            if other is not None:
                self._reactor.ignore(other)

"""A slot process from outside: start it, talk to it, see it die, end it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from park.kernel.orphan_killer import MARK_VARIABLE, NUMBER_VARIABLE
from park.kernel.output_lines import OutputLines
from park.net.channel import Channel
from park.util.permits import Permits
from park.util.processes import descendants
from park.util.spawn import PIPE, SpawnedProcess
from park.util.stdio import ERR, OUT
from park.wire.print_marks import Printed

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: The environment variables in which numerical libraries look for their number of threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: The signal that raises park.Abort in a body.
INTERRUPT_SIGNAL = getattr(signal, "SIGUSR1", signal.SIGINT)
KILL_SIGNAL = getattr(signal, "SIGKILL", signal.SIGTERM)


class SlotProcess:
    """One child that runs user code. The channel exists at once, the process from `start` on.

    The process and its children carry the kernel's *mark*. A process *of_script* has the options and the environment of
    the script whose local service this is, and prints as the script does. *prefix* makes the beginning of each line of
    other processes. *program*: its Python interpreter. *settings* are further variables of its environment. *on_printed*
    takes the name of a stream, "out" or "err", and the pieces that have come there.
    """

    def __init__(
        self,
        number: int,
        cpus: int,
        mark: str,
        of_script: bool = False,
        prefix: Callable[[], str] = str,
        program: str = sys.executable,
        settings: Mapping[str, str] | None = None,
        on_printed: Callable[[str, list[Printed]], None] = lambda stream, pieces: None,
    ) -> None:
        self.number = number
        self._program = program
        self._of_script = of_script
        self._settings = dict(settings or {})
        self._cpus = cpus
        self._mark = mark
        ours, self._theirs = socket.socketpair()
        ours.setblocking(False)
        with contextlib.suppress(OSError):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.channel = Channel(ours)
        self.permits = Permits()
        self._popen: SpawnedProcess | None = None
        #: a descriptor that becomes readable when the process ends (pidfd); None if the system has none
        self.pidfd: int | None = None
        #: the lines that it writes to its standard streams
        self._out, self._err = (
            OutputLines(to, None if of_script else prefix, partial(on_printed, name))
            for name, to in (("out", OUT), ("err", ERR))
        )
        #: tells whether there is something to read there
        self._printed = select.poll()
        #: the sys.path, folder and arguments of a script that it was told last
        self.place: Any = None
        #: why the kernel killed the process because of a fault; "": it did not
        self.fault = ""
        #: bytes that the kernel held when it started the process, and the most that the process held; 0: unknown
        self.floor = self.peak = 0

    def __repr__(self) -> str:
        return f"<SlotProcess {self.number}, pid {self.pid}>"

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen is not None else None

    @property
    def streams(self) -> list[tuple[int, OutputLines]]:
        """Descriptors of its standard output and error, while they are open, and their lines."""
        if self._popen is None:
            return []
        both = ((self._popen.stdout, self._out), (self._popen.stderr, self._err))
        return [(file.fileno(), lines) for file, lines in both if file is not None and not file.closed]

    @property
    def has_printed(self) -> bool:
        """Whether its standard streams have something to read, or have ended."""
        return bool(self._printed.poll(0))

    def start(self, folder: Path | None = None) -> None:
        """Start the process, from a thread that lives as long as the kernel: the process dies with that thread.

        *folder*: its folder for temporary files; None: that of the kernel.
        """
        descriptor = self._theirs.fileno()
        self.floor = _peak(resource.getrusage(resource.RUSAGE_SELF)) if resource is not None else 0
        self._popen = SpawnedProcess(
            [
                self._program,
                *(options() if self._of_script else ()),
                "-P",
                "-m",
                "park.slot.slot",
                str(descriptor),
                str(self.permits.reader),
                str(os.getpid()),
            ],
            self._environment(folder),
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(descriptor, self.permits.reader),
            # Batch systems send it to every process of a job; the slot process handles it before it unblocks it.
            blocked=[signal.SIGTERM],
        )
        self._theirs.close()
        for descriptor, _ in self.streams:
            os.set_blocking(descriptor, False)
            self._printed.register(descriptor, select.POLLIN)
        with contextlib.suppress(AttributeError, OSError):
            self.pidfd = os.pidfd_open(self._popen.pid)

    def _environment(self, folder: Path | None) -> dict[str, str]:
        given = os.environ if self._of_script else without_settings(os.environ)
        env = slot_environment(given, self._cpus, self._program)
        marks = {MARK_VARIABLE: self._mark, NUMBER_VARIABLE: str(self.number)}
        return env | self._settings | marks | ({"TMPDIR": str(folder)} if folder is not None else {})

    def exit_code(self) -> int | None:
        """The exit status as of subprocess; None while it runs."""
        popen = self._popen
        if popen is None:
            return None
        if popen.returncode is None and resource is not None:
            try:
                pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
            except ChildProcessError:  # another part of this program has waited for it
                return popen.poll()
            if pid:
                popen.returncode, self.peak = os.waitstatus_to_exitcode(status), _peak(usage)
        return popen.poll()

    def last_lines(self) -> str:
        """The last lines that it wrote to standard error."""
        return self._err.last()

    def interrupt(self) -> None:
        self._signal(INTERRUPT_SIGNAL)

    def kill(self) -> None:
        """Kill the process, its process group, and the programs that they have started. The group is killed even if the
        process itself has ended already.
        """
        if self._popen is not None and self._popen.returncode is None:
            below = descendants(self._popen.pid)  # also those that have left the group
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(self._popen.pid, KILL_SIGNAL)
            self._signal(KILL_SIGNAL)
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, KILL_SIGNAL)

    def _signal(self, number: int) -> None:
        if (
            self._popen is not None and self._popen.returncode is None
        ):  # else another process may have its number
            with contextlib.suppress(OSError):
                os.kill(self._popen.pid, number)

    def end(self, timeout: float) -> None:
        """Give it *timeout* seconds to end, then kill it; in any case kill its process group."""
        if self.pidfd is not None:
            self._look(timeout)
        else:
            self.wait(max(0.0, timeout))
        self.kill()

    def wait(self, timeout: float) -> bool:
        """Whether it ended within *timeout* seconds."""
        if self._popen is None:
            return True
        end = time.monotonic() + timeout
        if self.pidfd is not None:
            self._look(timeout)
        while self.exit_code() is None:
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        return True

    def _look(self, timeout: float) -> None:
        """Wait until it has ended, but do not reap it, so that no other process gets its number or the number of its
        group.
        """
        assert self.pidfd is not None
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)

    def close(self) -> None:
        """Close everything that belongs to the process, which has ended."""
        self.channel.close()
        self.permits.close()
        if self._popen is None:
            self._theirs.close()
        else:
            self._popen.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def options() -> list[str]:
    """The options with which this Python was started, without those that would hide PARK from a slot process."""
    given: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [option for option in given if option not in ("-E", "-I", "-S")]


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without PARK's own variables, so that bodies do not see the broker, home or key of the kernel.

    >>> without_settings({"PARK_BROKER": "/home/ada/connection.json", "PARKTAG": "ada", "PATH": "/bin"})
    {'PATH': '/bin'}
    """
    return {name: value for name, value in environment.items() if not name.startswith("PARK")}


def slot_environment(
    environment: Mapping[str, str], cpus: int, program: str = sys.executable
) -> dict[str, str]:
    """The environment of a slot process: it finds PARK, and libraries use *cpus* threads unless the user chose a number.

    If *program* is another interpreter than this process's, it has its own PARK and libraries, and its folder comes
    first on the PATH.
    """
    env = dict(environment)
    for name in THREAD_VARIABLES:
        env.setdefault(name, str(cpus))
    # All processes hash texts alike, so that a sum over a set of texts has one rounding everywhere.
    env.setdefault("PYTHONHASHSEED", "0")
    if program != sys.executable:
        env["PATH"] = os.pathsep.join([str(Path(program).parent), env.get("PATH", os.defpath)])
        return env
    root = str(Path(__file__).resolve().parents[2])
    paths = env.get("PYTHONPATH", "")
    if root not in paths.split(os.pathsep):
        env["PYTHONPATH"] = os.pathsep.join([paths, root]) if paths else root
    return env


def _peak(usage: Any) -> int:
    """The largest number of bytes of memory that was held."""
    return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)

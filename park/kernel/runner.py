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
from pathlib import Path
from typing import Any

from park.kernel.child import PIPE, Child
from park.kernel.guard import MARK
from park.kernel.lines import Lines
from park.util.channel import Channel
from park.util.outlet import ERR, OUT

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: What numerical libraries read for their number of threads.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: The signal that raises park.Abort in a body.
INTERRUPT = getattr(signal, "SIGUSR1", signal.SIGINT)
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class SlotProcess:
    """One child that runs user code. The channel exists at once, the process when `start` was called.

    It and what it starts carry the kernel's *mark*. With *alike* its Python has the `options` of this one. *whose* makes
    what each line begins with that they write.
    """

    def __init__(
        self, number: int, cpus: int, mark: str, alike: bool = False, whose: Callable[[], str] = str
    ) -> None:
        self.number = number
        self._alike = alike
        self._cpus = cpus
        self._mark = mark
        ours, self._theirs = socket.socketpair()
        ours.setblocking(False)
        with contextlib.suppress(OSError):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
            self._theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.channel = Channel(ours)
        self._popen: Child | None = None
        #: readable when the process has ended, where the system has it
        self.pidfd: int | None = None
        #: what it writes to its standard streams
        self._out, self._err = Lines(OUT, whose), Lines(ERR, whose)
        #: why it was killed, where that was our doing, and it was not to be
        self.fault = ""
        #: bytes that this process held when it started that one, and that one at the most; 0: not known
        self.floor = self.peak = 0

    def __repr__(self) -> str:
        return f"<SlotProcess {self.number}, pid {self.pid}>"

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen is not None else None

    @property
    def streams(self) -> list[tuple[int, Lines]]:
        """Descriptors of its standard output and error, while they are open, and what reads them."""
        if self._popen is None:
            return []
        both = ((self._popen.stdout, self._out), (self._popen.stderr, self._err))
        return [(file.fileno(), lines) for file, lines in both if file is not None and not file.closed]

    def start(self) -> None:
        """Start the process. From a thread that lives as long as this process: it dies with that thread."""
        descriptor = self._theirs.fileno()
        self.floor = _peak(resource.getrusage(resource.RUSAGE_SELF)) if resource is not None else 0
        self._popen = Child(
            [
                sys.executable,
                *(options() if self._alike else ()),
                "-P",
                "-m",
                "park.kernel.slot",
                str(descriptor),
                str(os.getpid()),
            ],
            slot_environment(os.environ, self._cpus) | {MARK: self._mark},
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=(descriptor,),
        )
        self._theirs.close()
        for descriptor, _ in self.streams:
            os.set_blocking(descriptor, False)
        with contextlib.suppress(AttributeError, OSError):
            self.pidfd = os.pidfd_open(self._popen.pid)

    def exit_code(self) -> int | None:
        """As of subprocess; None while it runs."""
        popen = self._popen
        if popen is None:
            return None
        if popen.returncode is None and resource is not None:
            try:
                pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                return popen.poll()
            if pid:
                popen.returncode, self.peak = os.waitstatus_to_exitcode(status), _peak(usage)
        return popen.poll()

    def last_lines(self) -> str:
        """The last lines that it wrote to standard error."""
        return self._err.last()

    def interrupt(self) -> None:
        self._signal(INTERRUPT)

    def kill(self) -> None:
        """End it and what it started, now. What it started, also when it has ended itself and was not waited for."""
        if self._popen is not None and self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
                os.killpg(self._popen.pid, KILL)
            self._signal(KILL)

    def _signal(self, number: int) -> None:
        if self._popen is not None and self._popen.returncode is None:  # else its number may be another's
            with contextlib.suppress(OSError):
                os.kill(self._popen.pid, number)

    def end(self, timeout: float) -> None:
        """Give it *timeout* seconds to end, then kill it, and in any case what it started."""
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
        """Wait until it has ended, but do not take note of it: its number, and its group's, are still its own."""
        assert self.pidfd is not None
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)

    def close(self) -> None:
        """Forget it; it has ended."""
        self.channel.close()
        if self._popen is None:
            self._theirs.close()
        else:
            self._popen.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def options() -> list[str]:
    """The options with which this Python was started, those apart without which a slot process does not find PARK."""
    given: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [option for option in given if option not in ("-E", "-I", "-S")]


def slot_environment(environment: Mapping[str, str], cpus: int) -> dict[str, str]:
    """The environment of a slot process: park can be imported, libraries use *cpus* threads unless the user said so."""
    env = dict(environment)
    for name in THREADS:
        env.setdefault(name, str(cpus))
    # Sets of texts come in one order in all processes, so that what is summed over them is one number.
    env.setdefault("PYTHONHASHSEED", "0")
    root = str(Path(__file__).resolve().parents[2])
    paths = env.get("PYTHONPATH", "")
    if root not in paths.split(os.pathsep):
        env["PYTHONPATH"] = os.pathsep.join([paths, root]) if paths else root
    return env


def _peak(usage: Any) -> int:
    """The most bytes of memory that were held."""
    return int(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)

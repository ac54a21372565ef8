"""Child processes that are started without a wait, whatever the other threads of this process do.

`subprocess.Popen` reads from a pipe until its child has begun. Where the user's code forks just then, as
`multiprocessing` does, the new process holds that pipe open, and the read may never end. ``posix_spawn`` has no such pipe.
It does not close what other code has left open for children either: `close_inherited` does, in the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where no slot process can be started
    fcntl = None  # type: ignore[assignment]

#: The target of a child's standard stream: a pipe, or nothing.
PIPE, DEVNULL = -1, -3
#: Signals that Python ignores, and that end other programs.
_SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]


class SpawnedProcess:
    """A child process, with the methods of `subprocess.Popen` that are used here. Raises OSError where none can be
    started.

    Its standard input is empty. *stdout* and *stderr* are the parent's (None), DEVNULL or PIPE, whose other end is the
    attribute of the same name. It keeps the descriptors *pass_fds* under the same numbers. It leads a process group of
    its own, or a session (*start_new_session*).
    """

    def __init__(
        self,
        arguments: list[str],
        env: Mapping[str, str],
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
        blocked: Sequence[int] = (),
    ) -> None:
        if fcntl is None:
            raise OSError("this system has no posix_spawn")
        self.returncode: int | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        ]
        with contextlib.ExitStack() as meanwhile:

            def give(descriptor: int, number: int) -> None:
                # from another number: only the copy that is made under a new one stays open in the child
                copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
                meanwhile.callback(os.close, copy)
                actions.append((os.POSIX_SPAWN_DUP2, copy, number))

            for number, name, where in ((1, "stdout", stdout), (2, "stderr", stderr)):
                if where == DEVNULL:
                    actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0))
                elif where == PIPE:
                    ours, theirs = os.pipe()
                    meanwhile.callback(os.close, theirs)
                    setattr(self, name, open(ours, "rb", 0))  # noqa: SIM115
                    give(theirs, number)
            for descriptor in pass_fds:
                give(descriptor, descriptor)
            group = {"setsid": True} if start_new_session else {"setpgroup": 0}
            try:
                self.pid = os.posix_spawnp(
                    arguments[0],
                    arguments,
                    env,
                    file_actions=actions,
                    setsigdef=_SIGNALS,
                    setsigmask=blocked,
                    **group,
                )
            except BaseException:
                self.close()
                raise

    def __repr__(self) -> str:
        return f"<Child {self.pid}: {'it runs' if self.returncode is None else f'code {self.returncode}'}>"

    def poll(self) -> int | None:
        """The exit code of the child; None while it runs."""
        return self._ask(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ask(0)

    def _ask(self, how: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, how)
            except ChildProcessError:  # another thread has waited for it, and has its status
                self.returncode = 0
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:  # else its number may be another's
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close our ends of its pipes."""
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()


def close_inherited(keep: Collection[int]) -> None:
    """Close all inherited descriptors of a child but the standard streams and those of *keep*."""
    with contextlib.suppress(OSError):
        for number in [int(name) for name in os.listdir("/dev/fd")]:
            with contextlib.suppress(OSError):
                if number > 2 and number not in keep and os.get_inheritable(number):
                    os.close(number)

"""Starts one kernel on each node, passes on their output, and ends them all.

One line reports a kernel that does not come up, with its last words; the others go on. When this process ends, however
that happens, the kernels leave: their standard input ends, or the batch system ends them. A node whose kernel has left
while others work is idle. It is given back to the batch system if that is possible.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from park.kernel.nodes import CAME_UP, Launch

#: Seconds within which a node's kernel shall come up.
START_SECONDS = 30.0
#: Characters of last words that are told.
MAX_LAST_WORDS_CHARS = 300
#: Lines of last words that are kept.
_LAST = 3
READ_BYTES = 1 << 16
#: Seconds for which a node must be idle before it is given back, because most kernels leave together.
IDLE_NODE_SECONDS = 15.0
#: Seconds between two looks at those that have ended.
ENDED_POLL_SECONDS = 0.2


@dataclass(eq=False)
class NodeKernel:
    """The kernel of one node, and the command that has started it."""

    launch: Launch
    process: subprocess.Popen[bytes]
    since: float
    up: bool = False
    #: when the kernel ended, and until when its node was idle: until the node was given back, or all kernels had ended
    ended: float | None = None
    idle_until: float | None = None
    #: its node was given back, or it was found that this cannot be done
    settled: bool = False
    #: its failure was reported
    told: bool = False
    begun: bytes = b""
    last: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The last output of the kernel, in one line."""
        said = " ".join(" ".join(self.last).split())[-MAX_LAST_WORDS_CHARS:]
        return f"its last words: {said}" if said else "it has said nothing"


class NodeWatch:
    """The kernels of all nodes. *say* prints a line: the node ("" for the watch itself), and a text.

    *release* gets a node to give back and the nodes that stay; it returns whether it was done, and a text.
    """

    def __init__(
        self,
        launches: Sequence[Launch],
        say: Callable[[str, str], None],
        ending: float,
        release: Callable[[str, Sequence[str]], tuple[bool, str]] = lambda node, kept: (False, ""),
    ) -> None:
        self._say = say
        self._release = release
        #: seconds after which a kernel that was told to leave is killed
        self._ending = ending
        self._ends_at: float | None = None
        self._told_to_end = False
        self._selector = selectors.DefaultSelector()
        self._kernels: list[NodeKernel] = []
        #: why the first node that failed did so, in words; "": none has
        self.failure = ""
        for launch in launches:
            self._start(launch)

    def _start(self, launch: Launch) -> None:
        try:
            process = subprocess.Popen(
                launch.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which ends them in good order
            )
        except OSError as error:
            self._fail(f"node {launch.node}: {launch.command[0]} cannot be started: {error.strerror}")
            return
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        kernel = NodeKernel(launch, process, time.monotonic())
        self._kernels.append(kernel)
        self._selector.register(process.stdout, selectors.EVENT_READ, kernel)

    @property
    def came_up(self) -> int:
        """The number of kernels that have come up."""
        return sum(kernel.up for kernel in self._kernels)

    def end(self) -> None:
        """Tell all of them to leave in good order. May be called by a signal's handler."""
        self._told_to_end = True

    def run(self) -> None:
        """Pass on what they say until all have ended."""
        running = list(self._kernels)
        while running:
            for key, _ in self._selector.select(ENDED_POLL_SECONDS):
                self._read(key.data)
            now = time.monotonic()
            if self._told_to_end and self._ends_at is None:
                self._ends_at = now + self._ending
                for kernel in running:
                    self._let(kernel)
            if self._ends_at is not None and now >= self._ends_at:
                for kernel in running:
                    self._signal(kernel, signal.SIGKILL)
            for kernel in running:
                self._look(kernel, now)
            running = [kernel for kernel in running if kernel.process.returncode is None]
            if running and not self._told_to_end:
                self._give_back(now)

    def _give_back(self, now: float) -> None:
        """Give back the nodes that have been idle for a while."""
        for kernel in self._kernels:
            if kernel.settled or kernel.ended is None or now < kernel.ended + IDLE_NODE_SECONDS:
                continue
            kernel.settled = True
            kept = [each.launch.node for each in self._kernels if each.idle_until is None]
            is_back, words = self._release(kernel.launch.node, [n for n in kept if n != kernel.launch.node])
            if is_back:
                kernel.idle_until = now
            self._say("", f"node {kernel.launch.node}, whose kernel has ended, {words}")

    @property
    def idle(self) -> dict[str, float]:
        """Seconds for which each node was idle at the end, after all have left."""
        ends = {kernel: kernel.ended for kernel in self._kernels if kernel.ended is not None}
        last = max(ends.values(), default=0.0)
        return {k.launch.node: (k.idle_until or last) - ended for k, ended in ends.items()}

    def _let(self, kernel: NodeKernel) -> None:
        assert kernel.process.stdin is not None
        with contextlib.suppress(OSError):
            kernel.process.stdin.close()
        if not kernel.launch.held:
            self._signal(kernel, signal.SIGTERM)

    def _signal(self, kernel: NodeKernel, number: int) -> None:
        with contextlib.suppress(OSError):
            kernel.process.send_signal(number)

    def _look(self, kernel: NodeKernel, now: float) -> None:
        """Report a kernel that does not come up, or has ended."""
        node, code = kernel.launch.node, kernel.process.poll()
        if code is not None:
            self._read(kernel)
            if not kernel.up and not kernel.told:
                self._fail(f"node {node} did not come up: its kernel ended with code {code}; {kernel.words}")
            elif code and not self._told_to_end:
                self._fail(f"node {node}: its kernel ended with code {code}; {kernel.words}")
            kernel.ended = now
            self._close(kernel)
        elif not kernel.up and not kernel.told and now >= kernel.since + START_SECONDS:
            kernel.told = True
            self._fail(f"node {node} did not come up in {START_SECONDS:g} s; {kernel.words}")

    def _fail(self, text: str) -> None:
        """Report what went wrong with a node."""
        self.failure = self.failure or text
        self._say("", text)

    def _close(self, kernel: NodeKernel) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(kernel.process.stdout)  # type: ignore[arg-type]
        for stream in (kernel.process.stdin, kernel.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _read(self, kernel: NodeKernel) -> None:
        """Pass on the lines that have come."""
        assert kernel.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while data := os.read(kernel.process.stdout.fileno(), READ_BYTES):
                *lines, kernel.begun = (kernel.begun + data).split(b"\n")
                for line in lines:
                    self._heard(kernel, line.rstrip(b"\r").decode(errors="replace"))
            with contextlib.suppress(KeyError):  # its output has ended
                self._selector.unregister(kernel.process.stdout)
            if kernel.begun:
                self._heard(kernel, kernel.begun.decode(errors="replace"))
                kernel.begun = b""

    def _heard(self, kernel: NodeKernel, line: str) -> None:
        if CAME_UP in line:
            kernel.up = True
        kernel.last = [*kernel.last, line][-_LAST:]
        self._say(kernel.launch.node, line)

"""One loop for every part of a process: link, broker, supervisor, alone or together.

A part has ``turn(now) -> bool`` (handle what has arrived; True if there was anything) and ``deadline()``
(monotonic seconds, None: no need), and registers the descriptors it listens to. A *cycle* turns the parts
until none has anything left. Cycles run under one lock, so parts need no locks of their own; only the
wait for descriptors is outside. A thread that calls into the parts (`Reactor.call`) runs the cycle itself: the
message is on its way when the call returns, without waking the loop's thread, which matters when a busy
Python thread would make that wake-up wait for the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from park.errors import ServiceClosed

T = TypeVar("T")

_MAIN = threading.main_thread().ident

#: The longest wait, seconds; only a guard, nothing depends on it.
LONGEST = 10.0


class _uninterrupted:
    """In this block a Ctrl-C waits: it must not tear a part that the main thread is just turning."""

    __slots__ = ("_came", "_old")

    def __enter__(self) -> None:
        self._old: Any = None
        self._came = False
        if threading.get_ident() == _MAIN:
            old = signal.getsignal(signal.SIGINT)
            if callable(old):
                self._old = old
                signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            if self._came:
                self._old(signal.SIGINT, None)

    def _note(self, *_: object) -> None:
        self._came = True


class Part(Protocol):
    """What a reactor drives."""

    def turn(self, now: float) -> bool: ...

    def deadline(self) -> float | None: ...

    def close(self) -> None: ...


class Reactor:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ, self._drain)
        self._parts: list[Part] = []
        self._until = float("inf")
        self._cycling = False
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._pid = os.getpid()
        self._stopping = False
        self._error: BaseException | None = None
        #: work that only the loop's own thread may do, as starting children
        self._own: list[Callable[[], None]] = []

    # -- set-up --------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        with self._lock:
            self._parts.append(part)
            self.wake()

    def remove(self, part: Part) -> None:
        with self._lock:
            self._parts.remove(part)

    def listen(self, fd: Any, callback: Callable[[int], None] | None = None, events: int = 1) -> None:
        """Call *callback* with the ready events (1 readable, 2 writable) of *fd*; None: the parts' turns will see."""
        key = self._selector.get_map().get(fd)
        if key is None:
            self._selector.register(fd, events, callback)
        elif key.events != events:
            self._selector.modify(fd, events, callback)
        else:
            return
        if not self.inside:  # not every system's selector notices by itself
            self.wake()

    def ignore(self, fd: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(fd)

    # -- running -------------------------------------------------------------------------------

    @property
    def inside(self) -> bool:
        """Whether this is the loop's own thread."""
        return self._ident == threading.get_ident()

    def start(self, name: str) -> None:
        """Run in a thread of its own, which ends with the process."""
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)
        self._thread.start()

    def run(self) -> None:
        """Run in this thread until `stop`."""
        self._ident = threading.get_ident()
        try:
            with self._lock:
                self._cycle()
            while not self._stopping:
                timeout = min(LONGEST, max(0.0, self._until - time.monotonic()))
                ready = self._selector.select(timeout)
                with self._lock:
                    if self._stopping:
                        break
                    for key, events in ready:
                        if key.data is not None:
                            key.data(events)
                    own, self._own = self._own, []
                    for work in own:
                        work()
                    self._cycle()
        except BaseException as error:
            self._error = error
            raise
        finally:
            with self._lock:
                self._stopping = True
                for part in self._parts:
                    part.close()
                self._parts.clear()
                self._selector.close()
                self._reader.close()
                self._writer.close()

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* among the parts, then a cycle, in the calling thread."""
        if os.getpid() != self._pid:
            raise ServiceClosed(
                "this process is a fork of the one that opened the service: open it anew here"
            )
        with self._lock, _uninterrupted():
            if self._stopping:
                raise ServiceClosed("the service has been closed") from self._error
            result = function()
            if not self._cycling:
                before = self._until
                self._cycle()
                if self._until < before and not self.inside:
                    self.wake()
            return result

    def in_thread(self, work: Callable[[], None]) -> None:
        """Run *work* in the loop's own thread, at once if this is it."""
        if self.inside:
            work()
        else:
            self._own.append(work)
            self.wake()

    def stop(self) -> None:
        """End the loop; from another thread, wait for it."""
        self._stopping = True
        self.wake()
        thread = self._thread
        if thread is not None and not self.inside:
            thread.join(timeout=5.0)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"x")

    def _drain(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def _cycle(self) -> None:
        self._cycling = True
        try:
            self._turn_all()
        except BaseException as error:  # a part is broken: nobody may go on waiting for it
            self._error = self._error or error
            self._stopping = True
            self.wake()
            raise
        finally:
            self._cycling = False

    def _turn_all(self) -> None:
        moved = True
        while moved:
            moved = False
            now = time.monotonic()
            for part in tuple(self._parts):
                moved |= part.turn(now)
        deadlines = (part.deadline() for part in self._parts)
        self._until = min((d for d in deadlines if d is not None), default=float("inf"))

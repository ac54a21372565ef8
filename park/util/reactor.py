"""One loop for every part of a process: link, broker, supervisor, alone or together.

A part has ``waiting()`` (whether something is there to be handled), ``deadline()`` (when it has something to do
even so, monotonic seconds, None: never) and ``turn(now)`` (do what is due), and registers the descriptors it
listens to. A *cycle* turns the parts that have a reason until none has one. Cycles run under one lock, so
parts need no locks of their own; only the wait for descriptors is outside.

A thread that calls into the parts (`Reactor.call`) runs the cycle itself: the message is on its way when the
call returns, without waking the loop's thread. A thread that waits for an answer (`Reactor.attend`) is the loop
meanwhile, and the loop's own thread stands by (it looks whether it is needed, after 2 ms and then more and more
seldom): the answer wakes the one thread that wants it. Each wake-up that is saved is some 50 us, and 5 ms beside
a busy Python thread, which holds the interpreter for so long. (`park.util.waits` saves more of them.)
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what is behind `signal`, without 10 us of enums a call
import contextlib
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from park.errors import ServiceClosed
from park.util.waits import Waits

T = TypeVar("T")

_MAIN = threading.main_thread().ident
#: Signals whose handlers wait, as numbers, which are faster: not those of real time and of faults, nor those without.
_FAULTS = ("SIGKILL", "SIGSTOP", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSYS")
_SIGNALS = tuple(
    n for n in map(int, signal.valid_signals()) if n < 32 and signal.Signals(n).name not in _FAULTS
)

NEVER = float("inf")
#: Seconds by which a part may have its turn late while one thing comes soon after the other: when parts are due takes them
#: some time to say, so they are asked before somebody sleeps.
LATE = 0.005
#: The longest wait, seconds; only a guard, nothing depends on it.
LONGEST = 10.0
#: Seconds after which a cycle ends though some part still has a reason: descriptors are looked at, and it goes on.
LONGEST_CYCLE = 0.01
#: Descriptors that are looked at in one cycle, at most.
MOST = 64
#: How long the loop's own thread stands by after a caller was the loop, because it may soon be so again, and for how
#: long it rests at most before it looks again, seconds.
STAND_BY, LONGEST_REST = 0.002, 0.008


class _Waiting:
    """In place of the *handler* of a signal during a block in which signals wait."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        if _uninterrupted.block is not None:
            _uninterrupted.block.came.append(number)
        else:
            _signal.signal(number, self.handler)
            self.handler(number, frame)


class _uninterrupted:
    """In this block signals wait: a handler may raise (Ctrl-C, an alarm), and must not tear a part that the main thread is
    just turning. Afterwards they come as if for the first time.
    """

    __slots__ = ("came", "outermost")

    #: the block in which the main thread is
    block: _uninterrupted | None = None
    #: the handlers that were seen last, and those of them that are exchanged: number, handler, what stands for it
    seen: list[Any] = []  # noqa: RUF012
    exchanged: tuple[tuple[int, Any, _Waiting], ...] = ()

    def __enter__(self) -> None:
        cls = _uninterrupted
        self.outermost = threading.get_ident() == _MAIN and cls.block is None
        if not self.outermost:
            return
        self.came: list[int] = []
        handlers = [*map(_signal.getsignal, _SIGNALS)]
        if handlers != cls.seen:
            own = [h.handler if isinstance(h, _Waiting) else h for h in handlers]
            pairs = zip(_SIGNALS, own, strict=True)
            cls.exchanged = tuple((n, h, _Waiting(h)) for n, h in pairs if callable(h))
            cls.seen = handlers
        try:
            cls.block = self
            for number, _, waiting in cls.exchanged:
                _signal.signal(number, waiting)
        except BaseException:  # of one that did not wait yet
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        if self.outermost:
            self._leave()

    def _leave(self) -> None:
        _uninterrupted.block = None
        left, came = [*_uninterrupted.exchanged], self.came
        error: BaseException | None = None
        while left:
            try:
                while left:
                    _signal.signal(left[-1][0], left[-1][1])
                    left.pop()
                while came:
                    _signal.raise_signal(came.pop(0))
            except BaseException as raised:  # another signal, meanwhile
                error = error or raised
        while came:
            _signal.raise_signal(came.pop(0))
        if error is not None:
            raise error


#: What was registered, and what it is ready for: 1 to be read, 2 to be written.
_Ready = tuple[selectors.SelectorKey, int]


class _Poller:
    """Asks *selector* what is ready: descriptors and for what. Epoll it asks itself, which takes a third of the time."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._epoll: Any = None
        if sys.platform == "linux" and isinstance(selector, selectors.EpollSelector):
            self._epoll = select.epoll.fromfd(os.dup(selector.fileno()))

    def ask(self, timeout: float) -> list[tuple[int, int]]:
        if self._epoll is None:
            return [(key.fd, events) for key, events in self._selector.select(timeout)]
        found: list[tuple[int, int]] = self._epoll.poll(timeout, MOST)
        # an end and an error are for who reads as for who writes
        return [(fd, 1 if e == 1 else (1 if e & ~4 else 0) | (2 if e & ~1 else 0)) for fd, e in found]

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()


class Lock(Protocol):
    """As of `threading.Lock`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def locked(self) -> bool: ...


class Part(Protocol):
    """What a reactor drives."""

    def waiting(self) -> bool: ...

    def turn(self, now: float) -> None: ...

    def deadline(self) -> float | None: ...

    def close(self) -> None: ...


class Reactor:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._poller = _Poller(self._selector)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        key = self._selector.register(self._reader, selectors.EVENT_READ, self._drain)
        #: what is listened to, by descriptor
        self._keys = {key.fd: key}
        #: the parts, and when each is due, as far as that was looked at
        self._parts: dict[Part, float] = {}
        self._until = NEVER
        #: a cycle has passed since that was looked at, and when it is looked at though another comes at once
        self._stale, self._look_at = False, 0.0
        self._cycling = False
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._pid = os.getpid()
        self._stopping = False
        self._error: BaseException | None = None
        #: the caller that is the loop, whom only who holds the door may let in, and when the last one left
        self._guest: object | None = None
        self._door = threading.Lock()
        self._guest_left = -1e9
        #: what that caller waits for, while it waits for descriptors
        self._awaited: Lock | None = None
        self._own_waits, self._guest_waits = Waits(), Waits()
        #: work that only the loop's own thread may do, as starting children
        self._own: list[Callable[[], None]] = []

    # -- set-up --------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        with self._lock:
            self._parts[part] = 0.0
            self.wake()

    def listen(self, fd: Any, callback: Callable[[int], Any], events: int = 1) -> None:
        """Call *callback* with the ready events (1 readable, 2 writable) of *fd*."""
        key = self._selector.get_map().get(fd)
        if key is None:
            key = self._selector.register(fd, events, callback)
        elif key.events != events:
            key = self._selector.modify(fd, events, callback)
        else:
            return
        self._keys[key.fd] = key
        if not self.inside:  # not every system's selector notices by itself
            self.wake()

    def ignore(self, fd: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._keys.pop(self._selector.unregister(fd).fd, None)

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
                ready = self._own_waits.wait(self._ask, LONGEST)
                if self._stand_by():
                    ready = []  # seen to by somebody else
                with self._lock:
                    if self._stopping:
                        break
                    if self._own:
                        own, self._own = self._own, []
                        for work in own:
                            work()
                    self._handle(ready)
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
                self._poller.close()
                self._reader.close()
                self._writer.close()

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* among the parts, then a cycle, in the calling thread."""
        self._check_own()
        with self._lock, _uninterrupted():
            if self._stopping:
                raise ServiceClosed("the service has been closed") from self._error
            result = function()
            if not self._cycling:
                before = self._until
                self._cycle()
                if self._stale:
                    self._look_ahead()
                if self._until < before and not self.inside:
                    self.wake()
            return result

    def _check_own(self) -> None:
        if os.getpid() != self._pid:
            raise ServiceClosed(
                "this process is a fork of the one that opened the service: open it anew here"
            )

    def attend(self, lock: Lock, limit: float | None) -> bool:
        """Wait until *lock* can be taken, at most *limit* seconds (None: no limit); whether it was.

        What the caller waits for is done by a part, which then releases the lock.
        """
        if lock.acquire(False):
            return True
        self._check_own()
        if self.inside or self._stopping:
            return lock.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX))
        me = object()  # by which it is known who is the guest, wherever a signal's handler raises
        try:
            with self._door:
                if self._guest is None:
                    self._guest = me
            if self._guest is not me:
                return lock.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX))
            end = NEVER if limit is None else time.monotonic() + limit
            while True:
                self._awaited = lock  # first: whoever releases it from now on wakes us
                if lock.acquire(False):
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                if self._stopping:
                    return lock.acquire(timeout=min(left, LONGEST))
                ready = self._guest_waits.wait(self._ask, left)
                with self._lock, _uninterrupted():
                    self._awaited = None
                    if not self._stopping:
                        self._handle(ready)
        finally:
            if self._guest is me:
                self._guest = self._awaited = None  # first: a second Ctrl-C may come after any call
                self._guest_left = time.monotonic()

    def _stand_by(self) -> bool:
        """In the loop's own thread: leave the loop to a caller that is in it, or was just now. Whether there was one."""
        rest, stood = STAND_BY, False
        while not (self._own or self._stopping) and (
            self._guest is not None or time.monotonic() - self._guest_left < STAND_BY
        ):
            stood = True
            time.sleep(rest)
            rest = min(2 * rest, LONGEST_REST)
        return stood

    def _ask(self, limit: float) -> list[_Ready]:
        """What is ready within *limit* seconds, or until a part is due."""
        timeout = 0.0
        if limit > 0:
            if self._stale:
                with self._lock, _uninterrupted():
                    self._look_ahead()
            timeout = min(LONGEST, limit, max(0.0, self._until - time.monotonic()))
        try:
            found = self._poller.ask(timeout)
        except (OSError, ValueError):
            if self._stopping:  # closed meanwhile
                return []
            raise
        # at once what was registered: the number may be another's when it is handled
        keys = self._keys
        return [(key, events & key.events) for fd, events in found if (key := keys.get(fd)) is not None]

    def _handle(self, ready: list[_Ready]) -> None:
        for key, events in ready:
            if self._keys.get(key.fd) is key:  # else it was ignored, or closed, meanwhile
                key.data(events)
        self._cycle()

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
        awaited = self._awaited
        if awaited is not None and not awaited.locked():  # another thread's answer came in our cycle
            self.wake()

    def _turn_all(self) -> None:
        turned, now = False, time.monotonic()
        overdue = now >= self._look_at
        for part, due in self._parts.items():
            if now >= due:
                overdue = True
            elif not part.waiting():
                continue
            part.turn(now)
            turned, now = True, time.monotonic()
        until = now + LONGEST_CYCLE
        while turned:
            if now >= until:  # a stream without an end: other descriptors have their turn too
                self.wake()
                break
            turned = False
            for part in self._parts:
                if part.waiting():
                    part.turn(now)
                    turned, now = True, time.monotonic()
        if overdue:
            self._look_ahead()
        else:
            self._stale = True

    def _look_ahead(self) -> None:
        """When each part is due."""
        until = NEVER
        for part in self._parts:
            deadline = part.deadline()
            self._parts[part] = due = NEVER if deadline is None else deadline
            if due < until:
                until = due
        self._until, self._stale = until, False
        self._look_at = time.monotonic() + LATE

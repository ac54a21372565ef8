"""The event loop of a process: one loop for link, broker and supervisor, alone or together.

The loop drives *components*. A component has ``waiting()`` (whether it has input to handle), ``deadline()`` (the time at
which it has work without input, monotonic seconds; None: never) and ``turn(now)`` (do the work that is due), and
registers the descriptors that it reads. A *cycle* turns each component that has a reason, until none has one. Cycles run
under one lock, so components need no locks of their own; only the wait for descriptors runs without the lock.

A thread that calls into the components (`Reactor.call`) runs the cycle itself: the message is on its way when the call
returns, and the loop's thread sleeps on. A thread that waits for an answer (`Reactor.attend`) runs the loop meanwhile,
and the loop's own thread stands by (it checks whether it is needed, first after 2 ms, then less often). So the answer
wakes only the thread that waits for it. Each wake-up that is saved is some 50 us, and 5 ms beside a busy Python thread,
which holds the interpreter that long. (`park.net.spin` saves further wake-ups.)
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C part of `signal`: its enums cost 10 us a call
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
from park.net.spin import SpinWait

T = TypeVar("T")

_MAIN = threading.main_thread().ident
#: Numbers of the signals that are held: all except real-time signals, faults, and signals that cannot be handled.
_FAULTS = ("SIGKILL", "SIGSTOP", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGSYS")
_HELD_SIGNALS = tuple(
    n for n in map(int, signal.valid_signals()) if n < 32 and signal.Signals(n).name not in _FAULTS
)

NEVER = float("inf")
#: Seconds by which a component may get its turn late while events follow closely. Asking all components for their
#: deadlines takes time, so the loop asks before it blocks, and otherwise only this often.
MAX_LATE_SECONDS = 0.005
#: Seconds of the longest wait. It is only a safeguard; no component depends on it.
MAX_WAIT_SECONDS = 10.0
#: Seconds after which a cycle is interrupted to look at descriptors, and then goes on.
MAX_CYCLE_SECONDS = 0.01
#: Descriptors that are handled in one cycle, at most.
MAX_READY_SOCKETS = 64
#: Seconds for which the loop's own thread stands by after a caller has run the loop, because another call may follow soon,
#: and seconds of its longest sleep before it checks again.
STAND_BY_SECONDS, MAX_REST_SECONDS = 0.002, 0.008


class _HeldHandler:
    """Replaces the *handler* of a signal during a block in which signals are held."""

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        if SignalsHeld.block is not None:
            SignalsHeld.block.came.append(number)
        else:
            _signal.signal(number, self.handler)
            self.handler(number, frame)


class SignalsHeld:
    """A block in which signals are held: their handlers may raise (Ctrl-C, an alarm), and must not interrupt a component
    that the main thread is turning. After the block the signals are raised again.
    """

    __slots__ = ("came", "outermost")

    #: the block that the main thread is in
    block: SignalsHeld | None = None
    #: the handlers that were seen last, and the replaced ones: number, handler, replacement
    seen: list[Any] = []  # noqa: RUF012
    exchanged: tuple[tuple[int, Any, _HeldHandler], ...] = ()

    def __enter__(self) -> None:
        cls = SignalsHeld
        self.outermost = threading.get_ident() == _MAIN and cls.block is None
        if not self.outermost:
            return
        self.came: list[int] = []
        handlers = [*map(_signal.getsignal, _HELD_SIGNALS)]
        if handlers != cls.seen:
            own = [h.handler if isinstance(h, _HeldHandler) else h for h in handlers]
            pairs = zip(_HELD_SIGNALS, own, strict=True)
            cls.exchanged = tuple((n, h, _HeldHandler(h)) for n, h in pairs if callable(h))
            cls.seen = handlers
        try:
            cls.block = self
            for number, _, waiting in cls.exchanged:
                _signal.signal(number, waiting)
        except BaseException:  # a signal came that was not held yet
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        if self.outermost:
            self._leave()

    def _leave(self) -> None:
        SignalsHeld.block = None
        left, came = [*SignalsHeld.exchanged], self.came
        error: BaseException | None = None
        while left:
            try:
                while left:
                    _signal.signal(left[-1][0], left[-1][1])
                    left.pop()
                while came:
                    _signal.raise_signal(came.pop(0))
            except BaseException as raised:  # another signal has come meanwhile
                error = error or raised
        while came:
            _signal.raise_signal(came.pop(0))
        if error is not None:
            raise error


#: A registered descriptor, and its events: 1 readable, 2 writable.
_Ready = tuple[selectors.SelectorKey, int]


class _Poller:
    """Asks *selector* for ready descriptors and their events. On Linux it asks epoll directly, which takes a third of the
    time.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._epoll: Any = None
        if sys.platform == "linux" and isinstance(selector, selectors.EpollSelector):
            self._epoll = select.epoll.fromfd(os.dup(selector.fileno()))

    def ask(self, timeout: float) -> list[tuple[int, int]]:
        if self._epoll is None:
            return [(key.fd, events) for key, events in self._selector.select(timeout)]
        found: list[tuple[int, int]] = self._epoll.poll(timeout, MAX_READY_SOCKETS)
        # a hang-up and an error count as readable and as writable
        return [(fd, 1 if e == 1 else (1 if e & ~4 else 0) | (2 if e & ~1 else 0)) for fd, e in found]

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()


class Lock(Protocol):
    """The methods of `threading.Lock` that are used here."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def locked(self) -> bool: ...


class Component(Protocol):
    """A part of the process that a reactor drives."""

    def waiting(self) -> bool: ...

    def turn(self, now: float) -> None: ...

    def deadline(self) -> float | None: ...

    def close(self) -> None: ...


class Reactor:
    """The event loop; the module explains it.

    It has more than 20 attributes: all are the state of one wait, which other threads and signals may end.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._poller = _Poller(self._selector)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        key = self._selector.register(self._reader, selectors.EVENT_READ, self._drain)
        #: registered descriptors by number
        self._keys = {key.fd: key}
        #: each component, and its deadline when it was last asked
        self._parts: dict[Component, float] = {}
        self._until = NEVER
        #: a cycle has run since deadlines were asked for; and the time at which they are asked for even between close
        #: events
        self._stale, self._look_at = False, 0.0
        self._cycling = False
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._pid = os.getpid()
        self._stopping = False
        self._error: BaseException | None = None
        #: the caller that runs the loop (set only under `_guest_lock`), and the time at which the last one left
        self._guest: object | None = None
        self._guest_lock = threading.Lock()
        self._guest_left = -1e9
        #: the lock that this caller waits for, while it waits for descriptors
        self._awaited: Lock | None = None
        self._own_waits, self._guest_waits = SpinWait(), SpinWait()
        #: work that only the loop's own thread may do, such as starting children
        self._own: list[Callable[[], None]] = []

    # -- set-up --------------------------------------------------------------------------------

    def add(self, part: Component) -> None:
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
        if not self.inside:  # not every selector notices a change by itself
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
        """Run in a new daemon thread."""
        thread = threading.Thread(target=self.run, name=name, daemon=True)
        with SignalsHeld():  # an exception in the start of a thread becomes a KeyError of `threading`
            thread.start()
            self._thread = thread

    def run(self) -> None:
        """Run in this thread until `stop`."""
        self._ident = threading.get_ident()
        try:
            with self._lock:
                self._cycle()
            while not self._stopping:
                ready = self._own_waits.wait(self._ask, MAX_WAIT_SECONDS)
                if self._stand_by():
                    ready = []  # the caller has handled them
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
            self._close()

    def call(self, function: Callable[[], T]) -> T:
        """Run *function* under the lock, then a cycle, in the calling thread."""
        self._check_own()
        with self._lock, SignalsHeld():
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
        """Block until *lock* is acquired, at most *limit* seconds (None: no limit). Returns whether it was acquired.

        A component does the work that the caller waits for, and then releases the lock.
        """
        if lock.acquire(False):
            return True
        self._check_own()
        if self.inside or self._stopping:
            return lock.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX))
        me = object()  # identifies the guest, wherever a signal handler raises
        try:
            with self._guest_lock:
                if self._guest is None:
                    self._guest = me
            if self._guest is not me:
                return lock.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX))
            end = NEVER if limit is None else time.monotonic() + limit
            while True:
                self._awaited = (
                    lock  # set it first: from now on the thread that releases the lock wakes this one
                )
                if lock.acquire(False):
                    return True
                left = end - time.monotonic()
                if left <= 0:
                    return False
                if self._stopping:
                    return lock.acquire(timeout=min(left, MAX_WAIT_SECONDS))
                ready = self._guest_waits.wait(self._ask, left)
                with self._lock, SignalsHeld():
                    self._awaited = None
                    if not self._stopping:
                        self._handle(ready)
        finally:
            if self._guest is me:
                self._guest = self._awaited = None  # first: a second Ctrl-C may arrive after any call
                self._guest_left = time.monotonic()

    def _stand_by(self) -> bool:
        """Leave the loop to a caller that runs it (called in the loop's own thread). Returns whether there was one."""
        rest, stood = STAND_BY_SECONDS, False
        while not (self._own or self._stopping) and (
            self._guest is not None or time.monotonic() - self._guest_left < STAND_BY_SECONDS
        ):
            stood = True
            time.sleep(rest)
            rest = min(2 * rest, MAX_REST_SECONDS)
        return stood

    def _ask(self, limit: float) -> list[_Ready]:
        """The descriptors that are ready within *limit* seconds, or before a component is due."""
        timeout = 0.0
        if limit > 0:
            if self._stale:
                with self._lock, SignalsHeld():
                    self._look_ahead()
            timeout = min(MAX_WAIT_SECONDS, limit, max(0.0, self._until - time.monotonic()))
        try:
            found = self._poller.ask(timeout)
        except (OSError, ValueError):
            if self._stopping:  # closed meanwhile
                return []
            raise
        # the keys are looked up now, because a number may belong to another file by the time it is handled
        keys = self._keys
        return [(key, events & key.events) for fd, events in found if (key := keys.get(fd)) is not None]

    def _handle(self, ready: list[_Ready]) -> None:
        for key, events in ready:
            if self._keys.get(key.fd) is key:  # else it was ignored or closed meanwhile
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
        """End the loop; from another thread, wait until it has ended. A loop that never ran is closed at once."""
        self._stopping = True
        self.wake()
        thread = self._thread
        if thread is not None and not self.inside:
            thread.join(timeout=5.0)
        elif thread is None and self._ident is None:
            self._close()

    def _close(self) -> None:
        with self._lock:
            self._stopping = True
            for part in self._parts:
                part.close()
            self._parts.clear()
            self._selector.close()
            self._poller.close()
            self._reader.close()
            self._writer.close()

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
        except BaseException as error:  # a component is broken: no thread may go on waiting for it
            self._error = self._error or error
            self._stopping = True
            self.wake()
            raise
        finally:
            self._cycling = False
        awaited = self._awaited
        if (
            awaited is not None and not awaited.locked()
        ):  # this cycle has brought the answer of another thread
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
        until = now + MAX_CYCLE_SECONDS
        while turned:
            if now >= until:  # input without an end: other descriptors get their turn
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
        """Ask each component when it is due."""
        until = NEVER
        for part in self._parts:
            deadline = part.deadline()
            self._parts[part] = due = NEVER if deadline is None else deadline
            if due < until:
                until = due
        self._until, self._stale = until, False
        self._look_at = time.monotonic() + MAX_LATE_SECONDS

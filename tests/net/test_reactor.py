"""The loop that all parts of a process share: who hears of what, and when parts are due."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from park.errors import ServiceClosed
from park.net import reactor as module
from park.net.reactor import Reactor

#: Seconds after which a test that waits gives up.
LIMIT = 20.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.stop()


def locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def test_who_looks_hears_of_an_answer_that_another_thread_finds(reactor: Reactor) -> None:
    lock = locked()
    reactor._guest_waits.brief = True
    thread = threading.Thread(target=lambda: reactor.call(lock.release))
    thread.start()
    assert reactor.attend(lock, LIMIT)
    thread.join()


def test_who_looks_hears_what_comes(reactor: Reactor) -> None:
    ours, theirs = socket.socketpair()
    lock = locked()
    with ours, theirs:
        reactor.listen(ours, lambda ready: (ours.recv(1), lock.release()))
        reactor._guest_waits.brief = True
        theirs.send(b"x")
        assert reactor.attend(lock, LIMIT)
        reactor.ignore(ours)


@pytest.mark.parametrize("kind", [selectors.DefaultSelector, selectors.SelectSelector])
def test_what_is_ready_is_told_as_selectors_tell_it(kind: type[selectors.BaseSelector]) -> None:
    ours, theirs = socket.socketpair()
    with ours, kind() as selector:
        poller = module._Poller(selector)
        key = selector.register(ours, READ | WRITE)
        assert poller.ask(0) == [(key.fd, WRITE)]
        theirs.send(b"x")
        assert dict(poller.ask(0)) in ({key.fd: READ | WRITE}, {key.fd: READ})
        ours.recv(1)
        selector.modify(ours, READ)
        assert poller.ask(0) == []
        theirs.close()
        # the end of the file is to be read, too
        (ready,) = poller.ask(LIMIT)
        assert ready[1] & READ
        poller.close()


class Clock:
    """A part that is due at a time, and counts its turns; something comes for it whenever *busy*."""

    def __init__(self) -> None:
        self.at, self.asked, self.turns, self.busy = float("inf"), 0, 0, False

    def waiting(self) -> bool:
        busy, self.busy = self.busy, False
        return busy

    def turn(self, now: float) -> None:
        self.turns += 1
        if now >= self.at:
            self.at = float("inf")

    def deadline(self) -> float:
        self.asked += 1
        return self.at

    def close(self) -> None:
        """Nothing is open."""


def test_parts_are_asked_when_they_are_due_before_somebody_sleeps_and_once_in_a_while(
    reactor: Reactor,
) -> None:
    clock = Clock()
    reactor.add(clock)
    reactor._cycle()
    reactor._drain(READ)
    asked = clock.asked
    # when: one thing comes after the other, for a while
    began = time.monotonic()
    cycles = 0
    while clock.asked < asked + 5:
        clock.busy = True
        reactor._cycle()
        cycles += 1
    # then: it was not asked each time, but once in a while
    assert time.monotonic() - began >= 4 * module.MAX_LATE_SECONDS
    assert cycles > 12
    # and when: it is due soon, says so in such a cycle, and then nothing comes any more
    clock.busy, clock.at = True, time.monotonic() + 0.05
    reactor._look_at = float("inf")
    reactor._cycle()
    assert not reactor._ask(LIMIT)
    # then: whoever slept was awake in time
    assert 0.0 <= time.monotonic() - clock.at < LIMIT / 2


def test_a_loop_that_never_ran_is_closed_by_stop() -> None:
    before = os.listdir("/dev/fd")
    reactor = Reactor()
    assert len(os.listdir("/dev/fd")) > len(before)
    reactor.stop()
    reactor.stop()
    assert os.listdir("/dev/fd") == before
    with pytest.raises(ServiceClosed):
        reactor.call(lambda: None)


class Alarm(Exception):
    """Raised by the handler of a signal."""


def test_an_alarm_while_the_loop_starts_is_raised_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of `Thread.start` it would become a KeyError of `threading`."""

    def ring(*_: object) -> None:
        raise Alarm

    name = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    start: Any = getattr(threading, name)

    def start_and_ring(*given: Any, **more: Any) -> Any:
        started = start(*given, **more)
        time.sleep(0.05)
        signal.raise_signal(signal.SIGALRM)
        return started

    before = signal.signal(signal.SIGALRM, ring)
    reactor = Reactor()
    try:
        monkeypatch.setattr(threading, name, start_and_ring)
        with pytest.raises(Alarm):
            reactor.start("rings")
        assert reactor.call(lambda: 7) == 7
    finally:
        signal.signal(signal.SIGALRM, before)
        reactor.stop()

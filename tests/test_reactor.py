"""How a loop waits: when it sleeps, and when it looks for what comes without sleeping."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from park.util import reactor as module
from park.util.reactor import KEPT, LONGEST_PAUSE, PAUSE, Reactor, _Waits

#: Seconds after which a test that waits gives up.
LIMIT = 20.0
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Looked:
    """A poller that notes for how long it was asked to wait, and has what *answer* says."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[float] = []
        self._answer = answer

    def ask(self, timeout: float) -> list[Any]:
        self.asked.append(timeout)
        found: list[Any] = self._answer(timeout)
        return found


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor._selector.close()
    reactor._poller.close()
    reactor._reader.close()
    reactor._writer.close()


def locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def answer(reactor: Reactor, monkeypatch: pytest.MonkeyPatch, sleeps: bool = False) -> list[float]:
    """Wait for an answer that is there at the first look, or when the caller *sleeps*; for how long it looked each time."""
    lock = locked()

    def look(timeout: float) -> list[Any]:
        if timeout == 0 and sleeps:
            return []
        lock.release()
        return [(reactor._reader.fileno(), READ)]

    looked = Looked(look)
    with monkeypatch.context() as patch:
        patch.setattr(reactor, "_poller", looked)
        assert reactor.attend(lock, LIMIT)
    return looked.asked


def test_after_a_brief_answer_the_next_is_looked_for(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a caller that slept, and had its answer at once
    (first,) = answer(reactor, monkeypatch)
    assert first > 0
    # then: the next time it does not sleep
    assert answer(reactor, monkeypatch)[0] == 0


def test_who_looks_in_vain_sleeps(reactor: Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(reactor, monkeypatch)
    # when: no answer comes as soon as the last one
    asked = answer(reactor, monkeypatch, sleeps=True)
    # then: it has looked, then it sleeps
    assert asked[0] == 0
    assert asked[-1] > 0
    # and: after an answer that took so long nobody looks
    assert answer(reactor, monkeypatch)[0] > 0


def test_nobody_looks_where_others_want_the_processor(
    reactor: Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(reactor, monkeypatch)

    def others() -> None:  # whoever gets the processor keeps it for a while
        end = time.monotonic() + 2 * KEPT
        while time.monotonic() < end:
            pass

    # given: a processor that others take
    monkeypatch.setattr(module, "_yield", others)
    asked = answer(reactor, monkeypatch, sleeps=True)
    # then: it was looked once, and then it sleeps
    assert [timeout > 0 for timeout in asked] == [False, True]
    # and: for some time nobody looks, however brief the answers are
    reactor._guest_waits.brief = True
    assert answer(reactor, monkeypatch)[0] > 0


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


def test_the_pause_grows_while_others_want_the_processor_again_and_again() -> None:
    waits, now, pauses = _Waits(), 100.0, []
    for _ in range(9):
        waits.crowded(now)
        pauses.append(waits.crowded_until - now)
        now = waits.crowded_until + 0.001
    assert pauses[:3] == pytest.approx([PAUSE, 2 * PAUSE, 4 * PAUSE])
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    # after a time without that it is short again
    waits.crowded(now + 2 * LONGEST_PAUSE)
    assert waits.pause == PAUSE


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
    end = time.monotonic() + 10 * module.LATE
    cycles = 0
    while time.monotonic() < end:
        clock.busy = True
        reactor._cycle()
        cycles += 1
    # then: it was not asked each time, but once in a while
    assert 3 <= clock.asked - asked <= 12 < cycles
    # and when: it is due soon, says so in such a cycle, and then nothing comes any more
    clock.busy, clock.at = True, time.monotonic() + 0.05
    reactor._look_at = float("inf")
    reactor._cycle()
    assert not reactor._wait(LIMIT, _Waits())
    # then: whoever slept was awake in time
    assert 0.0 <= time.monotonic() - clock.at < LIMIT / 2

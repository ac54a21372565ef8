"""How a loop waits: when it sleeps, and when it looks for what comes without sleeping."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from park.util import reactor as module
from park.util.reactor import KEPT, LONGEST_PAUSE, PAUSE, Reactor, _Waits

#: Seconds after which a test that waits gives up.
LIMIT = 20.0


class Looked:
    """A selector that notes for how long it was asked to wait, and has what *answer* says."""

    def __init__(self, answer: Any) -> None:
        self.asked: list[float] = []
        self._answer = answer

    def select(self, timeout: float) -> list[Any]:
        self.asked.append(timeout)
        found: list[Any] = self._answer(timeout)
        return found


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor._selector.close()
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
        return [(SimpleNamespace(fd=-1), 1)]  # of what nobody listens to any more

    looked = Looked(look)
    with monkeypatch.context() as patch:
        patch.setattr(reactor, "_selector", looked)
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

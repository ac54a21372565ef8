"""Waiting threads: when they sleep, and when they look for messages without sleeping."""

from __future__ import annotations

import pytest

from park.net import spin as module
from park.net.spin import CROWDED_SECONDS, MAX_PAUSE_SECONDS, PAUSE_SECONDS, SPIN_SECONDS, SpinWait

#: Seconds for which the waits here may last.
LIMIT = 20.0

pytestmark = pytest.mark.skipif(
    module._yield is None, reason="this system cannot yield the processor: a thread sleeps at once"
)


class Clock:
    """A clock that goes on by a microsecond at each look, and further when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock) -> SpinWait:
    return SpinWait(clock)


def asked(waits: SpinWait, clock: Clock, sleeps: float = 0.0) -> list[float]:
    """The limits of the questions of one wait: something is there at once, or after *sleeps* seconds."""
    limits: list[float] = []

    def ask(limit: float) -> str:
        limits.append(limit)
        if limit == 0 and sleeps:
            return ""
        clock.now += sleeps
        return "something"

    assert waits.wait(ask, LIMIT) == "something"
    return limits


def test_after_a_brief_wait_a_thread_polls_before_it_sleeps(waits: SpinWait, clock: Clock) -> None:
    # given: a thread that slept, and had something at once
    assert asked(waits, clock) == [LIMIT]
    # then: the next time it does not sleep
    assert asked(waits, clock) == [0.0]


@pytest.mark.parametrize(("factor", "polls"), [(0.9, True), (1.1, False)])
def test_a_wait_is_brief_up_to_the_time_of_spinning(
    waits: SpinWait, clock: Clock, factor: float, polls: bool
) -> None:
    asked(waits, clock, sleeps=factor * SPIN_SECONDS)
    assert waits.brief is polls


def test_a_thread_that_polled_in_vain_sleeps(
    waits: SpinWait, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: a processor that nobody else wants
    monkeypatch.setattr(module, "_yield", lambda: None)
    asked(waits, clock)
    # when: nothing comes as soon as the last time
    limits = asked(waits, clock, sleeps=0.01)
    # then: the thread has polled for the time of spinning, then it sleeps
    assert set(limits[:-1]) == {0.0}
    assert len(limits) - 1 == pytest.approx(SPIN_SECONDS / 1e-6, abs=3)
    assert limits[-1] == LIMIT
    # and: after a wait that took so long it does not poll
    assert asked(waits, clock) == [LIMIT]


def test_a_thread_polls_no_longer_than_its_limit(waits: SpinWait) -> None:
    limits: list[float] = []
    waits.brief = True
    assert waits.wait(limits.append, 0.0) is None
    assert limits == [0.0, 0.0]


def test_a_thread_sleeps_while_others_want_the_processor(
    waits: SpinWait, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(waits, clock)

    def others() -> None:  # another thread gets the processor and keeps it
        clock.now += 2 * CROWDED_SECONDS

    # given: a processor that others take
    monkeypatch.setattr(module, "_yield", others)
    # then: the thread polled once, and then it sleeps
    assert asked(waits, clock, sleeps=0.01) == [0.0, LIMIT]
    # and: for some time it does not poll, however brief its waits are
    waits.brief = True
    assert asked(waits, clock) == [LIMIT]
    # and: after the pause it does
    clock.now += PAUSE_SECONDS
    assert asked(waits, clock) == [0.0]


def test_the_pause_grows_while_others_want_the_processor_again_and_again() -> None:
    waits, now, pauses = SpinWait(), 100.0, []
    for _ in range(9):
        waits.crowded(now)
        pauses.append(waits.crowded_until - now)
        now = waits.crowded_until + 0.001
    assert pauses[:3] == pytest.approx([PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS])
    assert pauses[-1] == pytest.approx(MAX_PAUSE_SECONDS)
    # after a time without that it is short again
    waits.crowded(now + 2 * MAX_PAUSE_SECONDS)
    assert waits.pause == PAUSE_SECONDS

"""Waiting threads: when they sleep, and when they look for messages without sleeping."""

from __future__ import annotations

import time

import pytest

from park.net import spin as module
from park.net.spin import CROWDED_SECONDS, MAX_PAUSE_SECONDS, PAUSE_SECONDS, SpinWait

#: Seconds for which the waits here may last.
LIMIT = 20.0

pytestmark = pytest.mark.skipif(
    module._yield is None, reason="this system has no way to let others have the processor: all sleep"
)


def asked(waits: SpinWait, sleeps: bool = False) -> list[float]:
    """For how long *waits* asks when something is there at the first look, or when it *sleeps*."""
    limits: list[float] = []

    def ask(limit: float) -> str:
        limits.append(limit)
        return "" if limit == 0 and sleeps else "something"

    assert waits.wait(ask, LIMIT) == "something"
    return limits


def test_after_a_brief_wait_the_next_thing_is_looked_for() -> None:
    waits = SpinWait()
    # given: one who slept, and had what it waited for at once
    assert asked(waits) == [LIMIT]
    # then: the next time it does not sleep
    assert asked(waits) == [0.0]


def test_who_looks_in_vain_sleeps() -> None:
    waits = SpinWait()
    asked(waits)
    # when: nothing comes as soon as the last time
    limits = asked(waits, sleeps=True)
    # then: it has looked, then it sleeps
    assert limits[0] == 0.0
    assert limits[-1] == LIMIT
    # and: after a wait that took so long it does not look
    assert asked(waits) == [LIMIT]


def test_nobody_looks_longer_than_told() -> None:
    waits, limits = SpinWait(), []
    waits.brief = True
    assert waits.wait(limits.append, 0.0) is None
    assert limits == [0.0, 0.0]


def test_nobody_looks_where_others_want_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = SpinWait()
    asked(waits)

    def others() -> None:  # whoever gets the processor keeps it for a while
        end = time.monotonic() + 2 * CROWDED_SECONDS
        while time.monotonic() < end:
            pass

    # given: a processor that others take
    monkeypatch.setattr(module, "_yield", others)
    # then: it was looked once, and then it sleeps
    assert asked(waits, sleeps=True) == [0.0, LIMIT]
    # and: for some time nobody looks, however brief the waits are
    waits.brief = True
    assert asked(waits) == [LIMIT]


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

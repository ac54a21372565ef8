"""The time left, from progress at earlier times."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.model import JobRecord, Progress
from park.util import html, pace
from park.util.pace import Pace


@given(st.floats(0.01, 1e6), st.floats(0, 1e3), st.floats(1, 1e4), st.integers(3, 60), st.floats(1.1, 100))
def test_at_a_steady_pace_the_time_left_is_right(
    rate: float, start: float, every: float, looks: int, more: float
) -> None:
    total = (start + rate * every * looks) * more
    watched = Pace()
    lefts = []
    for n in range(looks):
        done = start + rate * every * n
        lefts.append(watched.left(Progress(done, total, "steps"), 100 + every * n))
        if lefts[-1] is not None:
            assert lefts[-1] == pytest.approx((total - done) / rate, rel=0.01)
    assert lefts[0] is lefts[1] is None, "nobody knows how long it took what was done before"
    assert lefts[-1] is not None


def test_a_wait_before_the_first_step_does_not_count() -> None:
    watched = Pace()
    for now in range(1000):
        assert watched.left(Progress(0, 100), now) is None
    assert watched.left(Progress(1, 100), 1000) is None
    assert watched.left(Progress(2, 100), 1001) == 98


def test_a_new_pace_is_followed() -> None:
    watched = Pace()
    done = 0
    for now in range(200):
        done += 10 if now < 100 else 1
        left = watched.left(Progress(done, 10_000), now)
    assert left == pytest.approx((10_000 - done) / 1, rel=0.05)


def test_who_stalls_takes_longer() -> None:
    watched = Pace()
    for done in range(5):
        watched.left(Progress(done, 10), done)
    lefts = [watched.left(Progress(4, 10), 4 + later) for later in (0, 10, 100)]
    assert lefts[:2] == [6, 26]
    assert lefts[2] >= 206


@pytest.mark.parametrize("then", [Progress(1, 100, "samples"), Progress(5, 100, "steps")])
def test_a_new_count_has_no_pace_yet(then: Progress) -> None:
    watched = Pace()
    for n in range(10, 20):
        watched.left(Progress(n, 100, "steps"), n)
    assert watched.left(Progress(20, 100, "steps"), 20) is not None
    assert watched.left(then, 21) is None


def test_no_total_has_no_end() -> None:
    watched = Pace()
    assert {watched.left(Progress(n, 0), n) for n in range(5)} == {None}


def test_a_record_says_how_far_its_job_is() -> None:
    assert JobRecord(1, "ada", done=3, total=7).how_far == Progress(3, 7, "units")
    fit = JobRecord(1, "ada", done=0, progress=(3.0, 7.0), units="steps", note="chisq 1.2")
    assert fit.how_far == Progress(3, 7, "steps", "chisq 1.2")


@pytest.mark.parametrize("module", [pace, html])
def test_the_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]

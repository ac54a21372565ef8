"""The service clock: shares over many services, and what nobody gains by."""

from __future__ import annotations

from collections import Counter

import pytest

from park.core.fairshare import ServiceClock


def serve(clock: ServiceClock, times: int, cost: float = 1.0) -> Counter[int]:
    """How often each job is served when all that are runnable always want more."""
    served: Counter[int] = Counter()
    for _ in range(times):
        pick = clock.pick(lambda job: job)
        assert pick is not None
        served[pick[0]] += 1
        clock.charge(pick[0], cost)
        clock.check()
    return served


def clock_with(*jobs: tuple[int, str, int]) -> ServiceClock:
    clock = ServiceClock()
    for number, owner, priority in jobs:
        clock.add(number, owner, priority)
        clock.wake(number)
    return clock


def test_nothing_is_due_when_nothing_is_runnable() -> None:
    clock = clock_with((1, "ann", 0))
    assert not clock.idle
    clock.sleep(1)
    assert clock.idle
    assert clock.pick(lambda job: job) is None
    clock.wake(1)
    assert clock.pick(lambda job: None) is None
    assert clock.pick(lambda job: "work") == (1, "work")


def test_owners_share_equally_however_many_jobs_they_have() -> None:
    clock = clock_with((1, "ann", 0), *((n, "bob", 0) for n in range(2, 22)))
    served = serve(clock, 400)
    assert served[1] == 200
    assert all(served[n] == 10 for n in range(2, 22))


@pytest.mark.parametrize("priority", [-3, 1, 4, 6])
def test_a_job_s_share_is_its_weight(priority: int) -> None:
    weight = 2.0**priority
    served = serve(clock_with((1, "ann", priority), (2, "bob", 0)), 1000)
    assert served[1] == pytest.approx(1000 * weight / (1 + weight), abs=1 + weight)


def test_idle_time_earns_nothing() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    clock.sleep(2)
    serve(clock, 100)
    clock.wake(2)
    served = serve(clock, 100)
    assert served[1] == pytest.approx(50, abs=1)


def test_a_correction_gives_the_share_back() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    served: Counter[int] = Counter()
    for _ in range(300):
        pick = clock.pick(lambda job: job)
        assert pick is not None
        served[pick[0]] += 1
        clock.charge(pick[0], 10.0)
        clock.charge(pick[0], (1.0 if pick[0] == 1 else 2.0) - 10.0)
    assert served[1] == pytest.approx(200, abs=2)


def test_whoever_has_nothing_to_offer_is_passed_over_and_loses_nothing() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    for _ in range(10):
        pick = clock.pick(lambda job: job if job == 2 else None)
        assert pick == (2, 2)
        clock.charge(2, 1.0)
    assert serve(clock, 10) == {1: 10}


def test_a_job_that_has_ended_is_forgotten() -> None:
    clock = clock_with((1, "ann", 0), (2, "ann", 0))
    clock.remove(1)
    clock.charge(1, 5.0)
    assert not clock.runnable(1)
    assert serve(clock, 3) == {2: 3}
    clock.remove(2)
    assert clock.idle
    clock.check()


def test_nobody_starves() -> None:
    clock = clock_with((1, "ann", -3), *((n, f"owner {n}", 6) for n in range(2, 6)))
    gaps, last = [], 0
    for turn in range(20_000):
        pick = clock.pick(lambda job: job)
        assert pick is not None
        clock.charge(pick[0], 1.0)
        if pick[0] == 1:
            gaps.append(turn - last)
            last = turn
    assert max(gaps) <= 4 * 64 * 8 + 5

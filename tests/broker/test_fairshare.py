"""The service clock: shares over many services, and what nobody gains by."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from park.broker.scheduler.fairshare import (
    MIN_USAGE_FACTOR,
    QUANTUM_SLOT_SECONDS,
    STARTS_AHEAD,
    ServiceClock,
    longest_wait,
)

PLAIN_WORK = "any"
HOUR = 3600.0


def serve(clock: ServiceClock, times: int, cost: float = 1.0, now: float = 0.0) -> Counter[int]:
    """The number of times each job is served when all that are runnable always want more."""
    served: Counter[int] = Counter()
    for _ in range(times):
        job = clock.pick([PLAIN_WORK], now)
        assert job
        served[job] += 1
        clock.serve(job, PLAIN_WORK, cost, now)
        clock.check()
    return served


def clock_with(*jobs: tuple[int, str, int], born: float = 0.0) -> ServiceClock:
    clock = ServiceClock()
    for number, owner, priority in jobs:
        clock.add(number, owner, 2.0**priority, born)
        clock.wake(number, PLAIN_WORK, 0.0)
    return clock


def test_nothing_is_due_when_nothing_is_runnable() -> None:
    clock = clock_with((1, "ann", 0))
    assert clock.awake
    clock.sleep(1, PLAIN_WORK, 0.0)
    assert not clock.awake
    assert clock.pick([PLAIN_WORK], 0.0) == 0
    clock.wake(1, PLAIN_WORK, 0.0)
    assert clock.pick(["another"], 0.0) == 0
    assert clock.pick(["another", PLAIN_WORK], 0.0) == 1


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


def test_an_urgent_job_lifts_none_of_its_owner_s_free_ones() -> None:
    clock = clock_with((1, "ann", 6), *((n, "ann", 0) for n in range(2, 1002)), (1002, "bob", 0))
    expected = clock.shares(range(1, 1003), 0.0)
    served = serve_quickly(clock, 100_000)
    assert expected[1002] == pytest.approx(1001 / 1064 / (1 + 1001 / 1064))
    assert served[1002] / 100_000 == pytest.approx(expected[1002], rel=0.01)
    assert served[1] / 100_000 == pytest.approx(expected[1], rel=0.02)


def serve_quickly(clock: ServiceClock, times: int) -> Counter[int]:
    served: Counter[int] = Counter()
    for _ in range(times):
        job = clock.pick([PLAIN_WORK], 0.0)
        served[job] += 1
        clock.serve(job, PLAIN_WORK, 0.01, 0.0)
    return served


def test_who_waits_long_is_served_more_and_who_used_much_less() -> None:
    clock = clock_with((1, "ann", 0))
    clock.add(2, "bob", 1.0, 24 * HOUR)
    clock.wake(2, PLAIN_WORK, 24 * HOUR)
    assert clock.rates(1, 24 * HOUR).job == 2 * clock.rates(2, 24 * HOUR).job
    served = serve(clock, 300, now=24 * HOUR)
    assert served[1] == pytest.approx(200, abs=2)
    # ann's use is above the mean by half of what she has more
    clock.used("ann", 200_000.0, 24 * HOUR)
    assert clock.usage("ann", 24 * HOUR) == pytest.approx(0.5)
    assert clock.usage("bob", 24 * HOUR) == 1.0
    assert clock.usage("ann", 48 * HOUR) == pytest.approx(1 / 1.5)
    clock.used("ann", 1e9, 48 * HOUR)
    assert clock.usage("ann", 48 * HOUR) == MIN_USAGE_FACTOR


def test_idle_time_earns_nothing() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    clock.sleep(2, PLAIN_WORK, 0.0)
    serve(clock, 100)
    clock.wake(2, PLAIN_WORK, 1.0)
    served = serve(clock, 100)
    assert served[1] == pytest.approx(50, abs=1)


def test_a_short_sleep_keeps_the_tag_but_not_more_than_a_quantum_of_it() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    cost = QUANTUM_SLOT_SECONDS / 10
    clock.sleep(2, PLAIN_WORK, 0.0)
    serve(clock, 5, cost)
    clock.wake(2, PLAIN_WORK, QUANTUM_SLOT_SECONDS / 2)
    served = serve(clock, 5, cost)
    assert served[2] >= 4  # bob makes up for what he is behind
    clock.sleep(2, PLAIN_WORK, 1.0)
    serve(clock, 1000, cost)
    clock.wake(2, PLAIN_WORK, 1.0 + QUANTUM_SLOT_SECONDS / 2)
    served = serve(clock, 100, cost)
    assert served[2] == pytest.approx(55, abs=2)  # a quantum's worth more than half


def test_a_correction_gives_the_share_back() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    served: Counter[int] = Counter()
    for _ in range(300):
        job = clock.pick([PLAIN_WORK], 0.0)
        served[job] += 1
        rates = clock.serve(job, PLAIN_WORK, 10.0, 0.0)
        clock.charge(job, (1.0 if job == 1 else 2.0) - 10.0, rates)
        clock.check()
    assert served[1] == pytest.approx(200, abs=2)


def test_a_refund_of_hours_does_not_keep_others_waiting_for_hours() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    rates = clock.serve(1, PLAIN_WORK, HOUR, 0.0)
    served = serve(clock, 1000, QUANTUM_SLOT_SECONDS / 10)
    assert served == {2: 1000}
    clock.refund(1, HOUR, rates)
    assert clock.charged(1) == 0.0
    served = serve(clock, 100, QUANTUM_SLOT_SECONDS / 10)
    assert served[1] == pytest.approx(55, abs=2)


def test_work_classes_and_owners_of_kernels() -> None:
    clock = ServiceClock()
    for number, owner, work_class in [(1, "ann", "gpu"), (2, "bob", PLAIN_WORK), (3, "cid", PLAIN_WORK)]:
        clock.add(number, owner, 1.0, 0.0)
        clock.wake(number, work_class, 0.0)
    assert clock.pick([PLAIN_WORK], 0.0) == 2
    assert clock.pick([PLAIN_WORK, "gpu"], 0.0) == 1
    assert clock.pick([PLAIN_WORK], 0.0, owner="cid") == 3
    assert clock.pick([PLAIN_WORK], 0.0, owner="ann") == 2
    assert clock.pick([PLAIN_WORK], 0.0, owner="ann", only=True) == 0
    # an owner that could not be served in one work class loses nothing, and gains nothing, in it
    for _ in range(10):
        clock.serve(clock.pick([PLAIN_WORK], 0.0), PLAIN_WORK, 1.0, 0.0)
    clock.add(4, "dan", 1.0, 0.0)
    clock.wake(4, PLAIN_WORK, 0.0)
    assert serve(clock, 30)[4] == pytest.approx(10, abs=1)


def test_a_slot_stays_with_its_job_for_a_quantum_unless_the_other_is_new() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    assert clock.pick([PLAIN_WORK], 0.0) == 1
    clock.serve(1, PLAIN_WORK, QUANTUM_SLOT_SECONDS / 4, 0.0)
    assert clock.pick([PLAIN_WORK], 0.0, prefer=1) == 2  # bob's first unit goes out early
    clock.serve(2, PLAIN_WORK, QUANTUM_SLOT_SECONDS / 4, 0.0)
    stays = 0
    while clock.pick([PLAIN_WORK], 0.0, prefer=1) == 1:
        clock.serve(1, PLAIN_WORK, QUANTUM_SLOT_SECONDS / 4, 0.0)
        stays += 1
    assert stays == 5
    assert clock.pick([PLAIN_WORK], 0.0, prefer=7) == 2


def test_an_owner_without_a_process_waits_for_as_long_as_some_would_take_to_start() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    idle = {"ann": 1}
    clock.serve(1, PLAIN_WORK, 0.01, 0.0)
    assert clock.pick([PLAIN_WORK], 0.0, ready=idle, start=1.0) == 2  # bob's first unit goes out early
    clock.serve(2, PLAIN_WORK, 0.02, 0.0)
    clock.serve(1, PLAIN_WORK, 0.5, 0.0)
    assert clock.pick([PLAIN_WORK], 0.0, ready={"ann": 1, "bob": 1}, start=1.0) == 2
    assert clock.pick([PLAIN_WORK], 0.0, ready=idle, start=0.1) == 2  # ann is too far ahead
    assert clock.pick([PLAIN_WORK], 0.0, ready=idle, start=1.0) == 1
    assert clock.pick([PLAIN_WORK], STARTS_AHEAD, ready=idle, start=1.0) == 1
    assert clock.pick([PLAIN_WORK], STARTS_AHEAD + 0.1, ready=idle, start=1.0) == 2
    clock.serve(2, PLAIN_WORK, 0.02, 5.0)  # and it waits anew
    assert clock.pick([PLAIN_WORK], 5.0, ready=idle, start=1.0) == 1
    clock.add(3, "bob", 1.0, 5.0)
    clock.sleep(2, PLAIN_WORK, 5.0)
    clock.wake(3, PLAIN_WORK, 5.0)
    assert clock.pick([PLAIN_WORK], 5.0, ready=idle, start=1.0) == 1  # another job of the owner waits, too
    clock.reweigh(3, 2.0)
    assert clock.pick([PLAIN_WORK], 5.0, ready=idle, start=1.0) == 3  # an urgent job waits for no other
    clock.reweigh(3, 1.0)
    clock.sleep(3, PLAIN_WORK, 5.0)
    clock.wake(3, PLAIN_WORK, 7.0)
    assert clock.pick([PLAIN_WORK], 7.0, ready=idle, start=1.0) == 3  # nor does the first after a rest


def test_owners_that_have_left_their_processes_behind_do_not_hide_those_that_work() -> None:
    clock = clock_with((1, "ann", 0), (2, "bob", 0))
    clock.serve(1, PLAIN_WORK, 0.02, 0.0)
    clock.serve(2, PLAIN_WORK, 0.01, 0.0)
    ready = dict.fromkeys([*(f"gone {n}" for n in range(100)), "ann"])
    assert clock.pick([PLAIN_WORK], 0.0, ready=ready, start=1.0) == 1


def test_a_job_that_has_ended_is_forgotten() -> None:
    clock = clock_with((1, "ann", 0), (2, "ann", 0))
    clock.remove(1, 0.0)
    assert clock.waiting == [2]
    assert serve(clock, 3) == {2: 3}
    clock.remove(2, 0.0)
    assert not clock.awake
    clock.check()


def test_nobody_starves() -> None:
    """Nor waits longer than the module says."""
    rng = random.Random(5)
    for _ in range(20):
        slots = rng.randint(1, 4)
        jobs = [(n, f"owner {rng.randint(1, 4)}", rng.randint(-3, 6)) for n in range(1, rng.randint(3, 9))]
        clock = clock_with(*jobs)
        longest, now = 0.05, 0.0
        ends = [0.0] * slots
        last = {n: 0.0 for n, _, _ in jobs}
        rates: dict[str, list[float]] = {}
        for _, owner, priority in jobs:
            rates.setdefault(owner, []).append(2.0**priority)
        start = rng.choice([0.0, 0.2, 60.0])
        bounds = {
            n: longest_wait(owner, 2.0**priority, rates, longest, slots, start=start)
            for n, owner, priority in jobs
        }
        for _ in range(5000):
            now = min(ends)
            processes = dict.fromkeys(f"owner {rng.randint(1, 4)}" for _ in range(rng.randint(0, 2)))
            job = clock.pick([PLAIN_WORK], now, prefer=rng.choice(jobs)[0], ready=processes, start=start)
            last[job] = now
            cost = rng.uniform(0.001, longest)
            ends[ends.index(now)] = now + cost
            served = clock.serve(job, PLAIN_WORK, longest, now)
            clock.charge(job, cost - longest, served)
            for n, since in last.items():
                assert now - since <= bounds[n], (n, jobs)


def test_what_is_ahead_is_what_one_finds_job_by_job() -> None:
    rng = random.Random(7)
    clock = clock_with(*((n, f"owner {n % 5}", rng.randint(-3, 6)) for n in range(1, 60)))
    serve(clock, 500)
    shares = clock.shares(range(1, 60), 0.0)
    line = clock.forecast(shares)
    assert sum(shares.values()) == pytest.approx(1.0)
    for number in shares:
        j = clock._jobs[number]
        own = [clock._jobs[n] for n in shares if clock._jobs[n].owner is j.owner]
        expected = sum(max(0.0, j.tag - other.tag) * other.weight for other in own)
        part = sum(shares[n] for n in shares if clock._jobs[n].owner is j.owner)
        for n, share in shares.items():
            expected += max(0.0, j.owner.tag - clock._jobs[n].owner.tag) * share / part
        assert clock.ahead(number, line) == pytest.approx(expected)


def test_whoever_comes_last_of_many_alike_waits_for_a_unit_of_each() -> None:
    clock = clock_with(*((n, "ann", 0) for n in range(1, 101)), (101, "bob", 0))
    line = clock.forecast(clock.shares(range(1, 102), 0.0))
    assert clock.ahead(1, line, unit=5.0) == 0.0
    assert clock.ahead(100, line, unit=5.0) == pytest.approx(99 * 5.0 * 2)  # bob gets as much
    assert clock.ahead(101, line, unit=5.0) == 0.0

"""Shares of the slots in the long run, in the simulator: they follow the formula of the design."""

from __future__ import annotations

import pytest

from park.broker.scheduler.fairshare import QUANTUM_SLOT_SECONDS
from tests.sim.shares import Busy, Race, fluid, shares
from tests.support.trials import (
    CHUNK,
    back_again,
    many_owners,
    race,
    share_at_once,
    share_in_the_long_run,
    short_generations,
    small_jobs,
    sometimes_idle,
    waits_within_the_bound,
)

# -- the formula itself ------------------------------------------------------------------------------


def test_the_formula_gives_what_the_design_says() -> None:
    crowd = [Busy("ann", 6), *(Busy("ann", 0) for _ in range(1000)), Busy("bob", 0)]
    right = shares(crowd, {})
    assert sum(right) == pytest.approx(1.0)
    assert right[-1] == pytest.approx(0.485, abs=0.001)
    assert right[0] == pytest.approx(64 * right[1])
    assert shares([Busy("ann", -3), Busy("bob", 6), Busy("cat", 6)], {})[0] == pytest.approx(1 / 1025)
    assert shares([Busy("ann", 0)] * 100 + [Busy("bob", 0)], {})[-1] == pytest.approx(0.5)


def test_use_above_the_mean_lowers_a_share_down_to_a_quarter_of_the_rate() -> None:
    pair = [Busy("ann", 0), Busy("bob", 0)]
    assert shares(pair, {"ann": 200_000.0}) == pytest.approx([1 / 3, 2 / 3])
    assert shares(pair, {"ann": 1e9}) == pytest.approx([0.2, 0.8])


# -- mixes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.heavy) for n in range(2, 24))]
)
def test_every_job_of_a_mix_gets_its_share_at_once(seed: int) -> None:
    share_at_once(seed)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tens", range(20))
def test_every_job_of_a_mix_gets_its_share_within_two_percent(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        share_in_the_long_run(seed)


# -- single cases ------------------------------------------------------------------------------------


def crowd(rounds: int) -> tuple[list[float], list[float]]:
    """The shares that an urgent and 1,000 free jobs of ann's and a free one of bob's had, and should have had.

    In a round each free job of ann's has a chunk, and her urgent one 64.
    """
    jobs = [Busy("ann", 6), *(Busy("ann", 0) for _ in range(1000)), Busy("bob", 0)]
    seconds = rounds * 1064 * CHUNK / 0.515
    made = Race(jobs, supply=2 * seconds)
    made.run(seconds)
    return made.served, fluid(jobs, sum(made.served))


@pytest.mark.heavy
def test_a_free_job_has_half_beside_an_owner_with_an_urgent_and_a_thousand_free_ones() -> None:
    served, right = crowd(rounds=4)
    assert served[-1] == pytest.approx(right[-1], rel=0.03)
    assert served[-1] / sum(served) == pytest.approx(0.48, abs=0.02)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_an_urgent_job_lifts_none_of_its_owners_free_jobs() -> None:
    served, right = crowd(rounds=120)
    assert served[-1] == pytest.approx(right[-1], rel=0.01)
    assert sum(served[1:-1]) == pytest.approx(sum(right[1:-1]), rel=0.02)
    assert served[0] == pytest.approx(right[0], rel=0.05)


def test_an_owner_with_a_hundred_jobs_gets_the_share_of_an_owner_with_one() -> None:
    made = Race([*(Busy("ann", 0) for _ in range(100)), Busy("bob", 0)], slots=2, supply=60.0)
    made.world.run_for(16.0)
    assert made.served[-1] == pytest.approx(sum(made.served) / 2, rel=0.02)


@pytest.mark.parametrize(
    "chunks", [5, pytest.param(300, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])]
)
def test_a_background_job_keeps_its_share_beside_two_urgent_ones(chunks: int) -> None:
    made = race([Busy("ann", -3), Busy("bob", 6), Busy("cat", 6)], chunks)
    share = made.served[0] / sum(made.served)
    assert share >= 0.98 / 1025
    assert made.errors()[0] < 0.02 + QUANTUM_SLOT_SECONDS / CHUNK / chunks


@pytest.mark.parametrize(
    ("slots", "seconds"), [(1, 20.0), *(pytest.param(n, 60.0, marks=pytest.mark.heavy) for n in (1, 2))]
)
def test_a_job_of_short_generations_keeps_its_share(slots: int, seconds: float) -> None:
    short_generations(slots, seconds)


@pytest.mark.parametrize(
    ("owners", "kernels", "seconds", "drivers"),
    [
        (12, 1, 12.0, False),
        (12, 1, 12.0, True),  # more drivers than the kernel holds of one owner
        pytest.param(40, 2, 40.0, False, marks=pytest.mark.heavy),
        pytest.param(16, 1, 40.0, True, marks=pytest.mark.heavy),
        pytest.param(24, 2, 40.0, True, marks=pytest.mark.heavy),
    ],
)
def test_owners_who_take_turns_do_not_start_processes_all_the_time(
    owners: int, kernels: int, seconds: float, drivers: bool
) -> None:
    computed, error, started = many_owners(owners, kernels, 2, seconds, drivers)
    assert computed >= 0.8, started
    # of what is due to each, as far as it may be ahead or behind; all have something
    assert error < min(0.9, 5.0 / (seconds * kernels / owners))


@pytest.mark.parametrize(
    ("owners", "kernels"), [(12, 2), *(pytest.param(n, n // 12, marks=pytest.mark.heavy) for n in (12, 24))]
)
def test_small_jobs_of_many_owners_do_not_start_a_process_each(owners: int, kernels: int) -> None:
    assert small_jobs(owners, kernels, 2) >= 0.5


@pytest.mark.parametrize("idle", [0.01, 0.05, 0.099, 0.2, pytest.param(1.0, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("units", [10, pytest.param(50, marks=pytest.mark.heavy)])
def test_who_is_sometimes_idle_gains_nothing(units: int, idle: float) -> None:
    sometimes_idle(units, idle)


@pytest.mark.heavy
def test_who_was_away_is_served_no_more_than_others_when_it_is_back() -> None:
    back_again()


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 3), *(pytest.param(n, 10, marks=pytest.mark.heavy) for n in range(3, 303, 10))],
)
def test_no_job_waits_longer_than_the_bound(first: int, count: int) -> None:
    for seed in range(first, first + count):
        waits_within_the_bound(seed)

"""Small campaigns: real processes are harmed while they work, and no promise is broken. `benchmarks chaos` is larger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.campaign.chaos import Campaign, PromiseBroken, Size
from tests.campaign.planted import BUGS

#: Enough that all kinds of jobs meet all kinds of harm in some seconds.
SMALL = Size(clients=2, units=260, seconds=0.004, rounds=2, kernels=2, away=(0.0, 0.5))


@pytest.mark.heavy
def test_a_broker_that_is_killed_loses_nothing_and_nothing_runs_again(tmp_path: Path) -> None:
    size = replace(
        SMALL,
        kinds=("map", "driver", "nest"),
        lease=3.0,
        heartbeat=0.5,
        harms={"kill broker": 1, "kill promiser": 1},
    )
    found = Campaign(tmp_path, size, seed=1).run()
    assert not found.broken, found
    assert not found.again, found
    assert not found.sessions_again, found


def test_whatever_is_killed_or_stopped_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    harms = {"kill broker": 1, "kill kernel": 1, "kill slot": 2, "kill client": 1, "stop kernel": 1}
    found = Campaign(tmp_path, replace(SMALL, harms=harms), seed=2).run()
    assert not found.broken, found


@pytest.mark.heavy
def test_cut_held_and_slow_connections_break_no_promise_and_mirrors_show_the_broker_s_table(
    tmp_path: Path,
) -> None:
    harms = {f"{how} {who}": 1 for how in ("cut", "hold", "slow") for who in ("clients", "kernels", "table")}
    size = replace(SMALL, tcp=True, mirrors=6, throttled=2, harms=harms | {"kill broker": 1})
    found = Campaign(tmp_path, size, seed=3).run()
    assert not found.broken, found


#: The harm that brings each planted bug to light.
HARMS = {
    "acknowledges_before_the_commit": {"kill promiser": 3},
    "knows_no_request_again": {"kill client": 3},
    "never_ends_a_lease": {"kill kernel": 2},
    "forgets_leases_of_its_last_life": {"kill broker": 3},
}


@pytest.mark.heavy
@pytest.mark.parametrize("bug", BUGS)
def test_a_campaign_notices_a_planted_bug(tmp_path: Path, bug: str) -> None:
    kinds = ("map", "driver", "nest")
    size = replace(SMALL, kinds=kinds, lease=3.0, heartbeat=0.5, planted=bug, harms=HARMS[bug], patience=10.0)
    try:
        found = Campaign(tmp_path, size, seed=1).run()
    except PromiseBroken:
        return
    assert found.broken or (found.again and "kill kernel" not in HARMS[bug]), found

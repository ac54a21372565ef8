"""Small campaigns: real processes are harmed while they work, and no promise is broken. `benchmarks chaos` is larger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.campaign.chaos import Campaign, Size

#: Enough that all kinds of jobs meet all kinds of harm in some seconds.
SMALL = Size(clients=2, units=260, seconds=0.004, rounds=2, kernels=2)


def test_a_broker_that_is_killed_loses_nothing_and_nothing_runs_again(tmp_path: Path) -> None:
    size = replace(SMALL, kinds=("map", "driver", "nest"), lease=3.0, heartbeat=0.5, harms={"kill broker": 2})
    found = Campaign(tmp_path, size, seed=1).run()
    assert not found.broken, found
    assert not found.again, found


def test_whatever_is_killed_or_stopped_nothing_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    harms = {"kill broker": 1, "kill kernel": 1, "kill slot": 2, "kill client": 1, "stop kernel": 1}
    found = Campaign(tmp_path, replace(SMALL, harms=harms), seed=2).run()
    assert not found.broken, found

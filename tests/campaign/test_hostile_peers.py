"""A small campaign of hostile peers, and the holes that it must notice. `benchmarks hostile` is larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.hostile import Hostile
from tests.campaign.planted import HOLES


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_attackers_of_each_role_harm_nobody(tmp_path: Path) -> None:
    found = Hostile(tmp_path, 20.0).run()
    assert not found.broken, found


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("hole", HOLES)
def test_a_planted_hole_is_noticed(tmp_path: Path, hole: str) -> None:
    assert Hostile(tmp_path, 20.0, planted=hole).run().broken

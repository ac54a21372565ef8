"""The demonstration, as a person runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bumps")
pytest.importorskip("matplotlib")


@pytest.mark.heavy
def test_the_demonstration_prints_the_table_and_leaves_plots(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    out = tmp_path / "plots"
    done = subprocess.run(
        [sys.executable, "-m", "park.demo", "--out", str(out), "--slots", "2"],
        capture_output=True,
        text=True,
        timeout=220,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert "reduced chi-squared 0.941: 97 points, 6 parameters" in done.stdout
    aggregation = float(re.search(r"aggregation +([\d.]+)\(", done.stdout)[1])
    assert 97 < aggregation < 99
    plots = re.findall(r"\S+\.png", done.stdout)
    assert len(plots) == 5
    assert all(Path(plot).stat().st_size > 10_000 for plot in plots)

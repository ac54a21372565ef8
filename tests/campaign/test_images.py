"""Images of a crash of the store: a few of them; ``python -m benchmarks chaos images --size full`` makes a thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import faults
from tests.campaign.images import BUGS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not faults.POSSIBLE, reason="there is no C compiler")


def survey(images: int, bug: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.campaign.images", "--images", str(images), "--bug", bug]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_whatever_a_crash_leaves_holds_what_was_acknowledged() -> None:
    done = survey(100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 are wrong" in done.stdout


@pytest.mark.parametrize("bug", BUGS[1:])
def test_a_store_that_acknowledges_too_early_is_noticed(bug: str) -> None:
    done = survey(30, bug)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong" in done.stdout

"""Settings of all tests: the heavy ones wait for ``--all``, and no test leaves a process behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

_SETTINGS: dict[str, Any] = {
    "deadline": None,
    # A test that failed runs again, on a new object of its class: that must not fail for this reason alone.
    "suppress_health_check": [hypothesis.HealthCheck.differing_executors],
}
hypothesis.settings.register_profile("here", max_examples=50, **_SETTINGS)
hypothesis.settings.register_profile("ci", max_examples=50, derandomize=True, print_blob=True, **_SETTINGS)
hypothesis.settings.register_profile("all", max_examples=200, print_blob=True, **_SETTINGS)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts commands in the background with Ctrl-C ignored, and all processes of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PR_SET_CHILD_SUBREAPER = 36
if sys.platform == "linux":
    # A process that loses its parent becomes a child of this process instead of init's, and is seen below.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the heavy tests too")


def pytest_configure(config: pytest.Config) -> None:
    profile = "all" if config.getoption("--all") else "ci" if os.environ.get("CI") else "here"
    hypothesis.settings.load_profile(profile)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--all"):
        heavy = [item for item in items if item.get_closest_marker("heavy")]
        items[:] = [item for item in items if not item.get_closest_marker("heavy")]
        config.hook.pytest_deselected(items=heavy)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much faster than time the simulator was, if it has run."""
    stats = terminalreporter.stats
    reports = [r for how in ("passed", "failed") for r in stats.get(how, ()) if r.when == "call"]
    simulated = [(s, r.duration) for r in reports for name, s in r.user_properties if name == "simulated"]
    if simulated:
        seconds, took = (sum(column) for column in zip(*simulated, strict=True))
        terminalreporter.write_line(
            f"the simulator has lived {seconds / 3600:.1f} h in {took:.0f} s: {seconds / took:.0f} times as fast as time"
        )


def children() -> dict[int, str]:
    """The living children of this process: number -> command line. Empty where there is no /proc."""
    found = {}
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(pid) for pid in listed.read_text().split()]
        except OSError:  # a thread that ended meanwhile; its children have passed to another
            continue
        for pid in pids:
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
            except OSError:  # it ended meanwhile
                continue
            if state not in "ZX":
                found[pid] = command
    return found


def strangers(before: dict[int, str]) -> dict[int, str]:
    """Children that were not there *before*. The slot processes of this process's own local service, and its guard, are
    no strangers: it lives until the interpreter ends, and keeps them."""
    own = ("park.slot.slot", "park/kernel/orphan_killer.py") if "park.local" in sys.modules else ()
    return {
        pid: command
        for pid, command in children().items()
        if pid not in before and not any(name in command for name in own)
    }


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Fails a test whose processes are still there 15 s after it, and ends them for the next test's sake."""
    before = children()
    yield
    give_up = time.monotonic() + 15.0
    while (left := strangers(before)) and time.monotonic() < give_up:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"the test left processes behind: {left}"

"""CPython's own tests of executors on PARK's, where the installed standard library has them.

`NOT_OURS` says which are about something else, and about what. `tests.test_executor` has the same cases in our words.
"""

from __future__ import annotations

import importlib
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import pytest

from park.local import LocalService

#: Tests of the standard library that do not apply to PARK, and why.
NOT_OURS = {
    "test_max_workers_negative": "the service says how many slots there are, not the executor",
    "test_interpreter_shutdown": "it makes executors of concurrent.futures in scripts; ours has such scripts",
    "test_submit_after_interpreter_shutdown": "the same",
    "test_hang_gh83386": "the same",
    "test_map_submits_without_iteration": "its calls change a list of the caller's, which processes do not share",
}


class Event:
    """An event that processes share: a file."""

    def __init__(self) -> None:
        self._file = Path(tempfile.mkdtemp()) / "set"

    def set(self) -> None:
        self._file.touch()

    def wait(self, timeout: float = 60.0) -> bool:
        end = time.monotonic() + timeout
        while not self._file.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return self._file.exists()


def library(module: str, name: str) -> type[Any] | None:
    """A class of tests, from the package of later releases or the one module of earlier ones."""
    for place in (f"test.test_concurrent_futures.{module}", "test.test_concurrent_futures"):
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ImportError:
            continue
        if found is not None:
            return found  # type: ignore[no-any-return]
    return None


PARTS = [
    library("executor", "ExecutorTest"),
    library("test_wait", "WaitTests"),
    library("test_as_completed", "AsCompletedTests"),
    library("test_shutdown", "ExecutorShutdownTest"),
]
CASES = [(part, name) for part in PARTS if part is not None for name in dir(part) if name.startswith("test_")]


class OnPark(unittest.TestCase):
    """The methods that the library's classes expect of those that they are mixed with."""

    worker_count = 2
    service: LocalService

    def setUp(self) -> None:
        self.executor = self.executor_type()

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)

    def executor_type(self, max_workers: int = 2) -> Any:
        return self.service.executor()

    def create_event(self) -> Event:
        return Event()


@pytest.mark.heavy
@pytest.mark.skipif(not CASES, reason="this Python was installed without its own tests")
def test_the_library_s_own_tests_pass() -> None:
    service = LocalService()
    service.configure(slots=2)
    suite = unittest.TestSuite()
    for part, name in CASES:
        if name not in NOT_OURS:
            made: Any = type(part.__name__, (part, OnPark), {"service": service})
            suite.addTest(made(name))
    result = unittest.TestResult()
    try:
        suite.run(result)
    finally:
        service.close()
    assert result.testsRun > 15
    assert not [(str(case), trace) for case, trace in (*result.failures, *result.errors)]

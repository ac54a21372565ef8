"""A job's changes to its process are its own: other jobs find it as on a fresh one."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from park.core.server import ServerProxy
from park.local import LocalService


@pytest.fixture(scope="module")
def service() -> Iterator[ServerProxy]:
    """One slot, so that all jobs come to one process."""
    service = LocalService()
    service.configure(slots=1)
    yield service
    service.close()


def handler(*_: Any) -> None:
    raise AssertionError("this signal is another job's")


def pair() -> str:
    """A locale that is not the one at hand."""
    return "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C"


#: What a job may change, and how it looks.
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "a variable": (lambda: os.environ.update(MODE="A"), lambda: os.environ.get("MODE")),
    "no variable": (lambda: os.environ.pop("PATH"), lambda: "PATH" in os.environ),
    "the environment": (lambda: setattr(os, "environ", {}), lambda: len(os.environ) > 3),
    "the time zone": (
        lambda: (os.environ.update(TZ="Asia/Tokyo"), time.tzset()),
        lambda: time.strftime("%H", time.gmtime(0)) + time.strftime("%Z"),
    ),
    "the path": (lambda: sys.path.insert(0, "/elsewhere"), lambda: list(sys.path)),
    "another path": (lambda: setattr(sys, "path", ["/elsewhere"]), lambda: list(sys.path)),
    "filters": (lambda: warnings.simplefilter("error"), lambda: warnings.filters[0][0] == "error"),
    "how warnings show": (
        lambda: setattr(warnings, "showwarning", print),
        lambda: warnings.showwarning is print,
    ),
    "precision": (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: str(1 / decimal.Decimal(3))),
    "rounding": (
        lambda: setattr(decimal.getcontext(), "rounding", decimal.ROUND_UP),
        lambda: decimal.getcontext().rounding,
    ),
    "numpy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "numpy's printing": (lambda: np.set_printoptions(precision=2), lambda: str(np.array([1 / 3]))),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, pair()), lambda: locale.setlocale(locale.LC_ALL)),
    "a handler": (
        lambda: signal.signal(signal.SIGTERM, handler),
        lambda: signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    ),
    "an alarm": (
        lambda: (signal.signal(signal.SIGALRM, handler), signal.setitimer(signal.ITIMER_REAL, 100)),
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
    ),
    "umask": (lambda: os.umask(0o27), lambda: (lambda mask: (os.umask(mask), mask)[1])(os.umask(0))),
    "recursion": (lambda: sys.setrecursionlimit(500), sys.getrecursionlimit),
    "digits": (lambda: sys.set_int_max_str_digits(700), sys.get_int_max_str_digits),
    "output": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "hook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook is print),
    "threads' hook": (lambda: setattr(threading, "excepthook", print), lambda: threading.excepthook is print),
    "trace": (lambda: sys.setprofile(lambda *_: None), lambda: sys.getprofile() is None),
    "garbage": (lambda: (gc.disable(), gc.set_threshold(7)), lambda: (gc.isenabled(), gc.get_threshold())),
    "logging": (
        lambda: (logging.disable(50), logging.basicConfig(level=10)),
        lambda: (logging.root.level, len(logging.root.handlers), logging.root.isEnabledFor(40)),
    ),
    "time-out": (lambda: socket.setdefaulttimeout(0.1), socket.getdefaulttimeout),
    "temporary files": (lambda: setattr(tempfile, "tempdir", "/elsewhere"), lambda: tempfile.gettempdir()),
    "children": (
        lambda: multiprocessing.set_start_method("spawn"),
        lambda: multiprocessing.get_start_method(True),
    ),
    "a limit": (
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])),
        lambda: resource.getrlimit(resource.RLIMIT_CORE),
    ),
    "arguments": (lambda: sys.argv.append("more"), lambda: list(sys.argv)),
}


@pytest.fixture(scope="module")
def fresh(service: ServerProxy) -> dict[str, Any]:
    seen: dict[str, Any] = service.wait(service.start(look), timeout=60)
    return seen


def look() -> dict[str, Any]:
    return {name: see() for name, (_, see) in CHANGES.items()} | {"process": os.getpid()}


@pytest.mark.parametrize("name", CHANGES)
def test_another_job_finds_it_as_on_a_fresh_process(
    service: ServerProxy, fresh: dict[str, Any], name: str
) -> None:
    change, see = CHANGES[name]

    def body() -> tuple[Any, Any, int]:
        before = see()
        change()
        return before, see(), os.getpid()

    before, after, process = service.wait(service.start(body), timeout=60)
    assert before == fresh[name] or name == "a limit"
    if name != "a limit" or fresh[name][0]:
        assert after != before, "the test changes nothing"
    found = service.wait(service.start(look), timeout=60)
    assert found[name] == fresh[name]
    assert found["process"] == process


class Prepares:
    """Changes much in prepare, and needs it in each unit."""

    def prepare(self, env: Any) -> None:
        os.chdir("/")
        os.environ["MODE"] = "mine"
        decimal.getcontext().prec = 4
        warnings.simplefilter("error")

    def run(self, x: int) -> Any:
        time.sleep(0.02)
        return (
            os.getcwd(),
            os.environ.get("MODE"),
            str(1 / decimal.Decimal(3)),
            warnings.filters[0][0],
            os.getpid(),
        )

    def cleanup(self, env: Any) -> None:
        assert os.environ["MODE"] == "mine"


def test_a_job_that_takes_turns_with_others_finds_its_own_again(
    service: ServerProxy, fresh: dict[str, Any]
) -> None:
    job = service.start(Prepares(), range(40))
    others = [service.wait(service.start(look, priority="urgent"), timeout=60) for _ in range(4)]
    found = service.wait(job, timeout=60)
    assert {row[:-1] for row in found} == {("/", "mine", "0.3333", "error")}
    assert {seen["folder"] for seen in others} == {fresh["folder"]}
    assert {seen["process"] for seen in others} == {row[-1] for row in found}, "they have not met"


def test_warnings_that_a_job_has_seen_are_shown_to_the_next(service: ServerProxy) -> None:
    def body() -> None:
        warnings.warn("as ever", UserWarning, stacklevel=1)

    for _ in range(2):
        job = service.job(service.start(body))
        job.wait(timeout=60)
        assert any("as ever" in log.text for log in job.logs())


def test_what_cannot_be_set_back_takes_another_process(service: ServerProxy) -> None:
    """An administrator may raise it again: there that fails by other means."""

    def lower() -> int:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        if not os.getuid():
            os.setpriority = None  # type: ignore[assignment]
        return os.getpid()

    def seen() -> tuple[int, int]:
        return os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)

    before = service.wait(service.start(seen), timeout=60)
    assert service.wait(service.start(lower), timeout=60) == before[0]
    after = service.wait(service.start(seen), timeout=60)
    assert after[0] != before[0]
    assert after[1] == before[1]

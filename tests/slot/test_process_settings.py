"""A job's changes to its process are its own: other jobs find it as on a fresh one."""

from __future__ import annotations

import ast
import asyncio
import builtins
import copyreg
import ctypes
import decimal
import faulthandler
import gc
import locale
import logging
import multiprocessing
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from park.core.server import ServerProxy
from park.errors import JobFailed
from park.local import LocalService
from park.slot import process_settings, process_state


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


def ignore(*_: Any) -> None:
    """Does nothing."""


class Finder:
    """Finds no module."""

    @staticmethod
    def find_spec(*_: Any) -> None:
        """See the class."""


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.14 deprecates policies

    class Loops(asyncio.DefaultEventLoopPolicy):
        """As the usual ones."""


class Loud(logging.Logger):
    """As the usual one."""


def wakeup_is_set() -> bool:
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor >= 0


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


#: Settings that a job may change, and how each is read.
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
    "the class of loggers": (
        lambda: logging.setLoggerClass(Loud),
        lambda: logging.getLoggerClass().__name__,
    ),
    "the class of records": (
        lambda: logging.setLogRecordFactory(lambda *given, **more: None),  # type: ignore[arg-type, return-value]
        lambda: logging.getLogRecordFactory() is logging.LogRecord,
    ),
    "errors of logging": (
        lambda: setattr(logging, "raiseExceptions", False),
        lambda: logging.raiseExceptions,
    ),
    "reports of crashes": (faulthandler.disable, faulthandler.is_enabled),
    "hooks of generators": (
        lambda: sys.set_asyncgen_hooks(firstiter=print),
        lambda: sys.get_asyncgen_hooks().firstiter is print,
    ),
    "origins of coroutines": (
        lambda: sys.set_coroutine_origin_tracking_depth(3),
        sys.get_coroutine_origin_tracking_depth,
    ),
    "how libraries are loaded": (
        lambda: sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_NOW),
        sys.getdlopenflags,
    ),
    "who hears of signals": (
        lambda: signal.set_wakeup_fd(os.open(os.devnull, os.O_WRONLY | os.O_NONBLOCK)),
        lambda: wakeup_is_set(),
    ),
    "numpy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "numpy's printing": (lambda: np.set_printoptions(precision=2), lambda: str(np.array([1 / 3]))),
    "locale": (lambda: locale.setlocale(locale.LC_ALL, pair()), lambda: locale.setlocale(locale.LC_ALL)),
    "a handler": (
        lambda: signal.signal(signal.SIGTERM, handler),
        lambda: getattr(signal.getsignal(signal.SIGTERM), "__name__", "") == "handler",
    ),
    "an alarm": (
        lambda: (signal.signal(signal.SIGALRM, handler), signal.setitimer(signal.ITIMER_REAL, 100)),
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
    ),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM]),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    ),
    "umask": (lambda: os.umask(0o27), lambda: (lambda mask: (os.umask(mask), mask)[1])(os.umask(0))),
    "recursion": (lambda: sys.setrecursionlimit(500), sys.getrecursionlimit),
    "digits": (lambda: sys.set_int_max_str_digits(700), sys.get_int_max_str_digits),
    "output": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout is None),
    "hook": (lambda: setattr(sys, "excepthook", print), lambda: sys.excepthook is print),
    "threads' hook": (lambda: setattr(threading, "excepthook", print), lambda: threading.excepthook is print),
    "trace": (lambda: sys.setprofile(lambda *_: None), lambda: sys.getprofile() is None),
    "threads' trace": (lambda: threading.setprofile(lambda *_: None), lambda: threading.getprofile() is None),
    "memory's trace": (tracemalloc.start, tracemalloc.is_tracing),
    "bytecode": (
        lambda: setattr(sys, "dont_write_bytecode", not sys.dont_write_bytecode),
        lambda: sys.dont_write_bytecode,
    ),
    "garbage": (lambda: (gc.disable(), gc.set_threshold(7)), lambda: (gc.isenabled(), gc.get_threshold())),
    "logging": (
        lambda: (logging.disable(50), logging.basicConfig(level=10)),
        lambda: (logging.root.level, len(logging.root.handlers), logging.root.isEnabledFor(40)),
    ),
    "a logger": (
        lambda: (
            logging.getLogger("some.library").setLevel(10),
            logging.getLogger("other").addHandler(logging.NullHandler()),
        ),
        lambda: [(log.level, len(log.handlers)) for log in map(logging.getLogger, ("some.library", "other"))],
    ),
    "watches of garbage": (
        lambda: (gc.callbacks.append(ignore), gc.set_debug(gc.DEBUG_UNCOLLECTABLE)),
        lambda: (len(gc.callbacks), gc.get_debug()),
    ),
    "matplotlib's parameters": (
        lambda: matplotlib.rcParams.update({"lines.linewidth": 9}),
        lambda: matplotlib.rcParams["lines.linewidth"],
    ),
    "matplotlib's backend": (lambda: pyplot.switch_backend("svg"), lambda: pyplot.get_backend()),
    "figures": (lambda: pyplot.figure(), lambda: pyplot.get_fignums()),
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
    "finders": (lambda: sys.meta_path.insert(0, Finder), lambda: Finder in sys.meta_path),
    "builtins": (
        lambda: (setattr(builtins, "print", ignore), setattr(builtins, "mine", 1)),
        lambda: (builtins.print is ignore, hasattr(builtins, "mine")),
    ),
    "reducers": (lambda: copyreg.pickle(Finder, ignore), lambda: Finder in copyreg.dispatch_table),
    "event loops": (
        lambda: asyncio.set_event_loop_policy(Loops()),
        lambda: type(asyncio.get_event_loop_policy()).__name__,
    ),
    "the event loop that runs": (
        lambda: asyncio.events._set_running_loop(asyncio.new_event_loop()),
        lambda: asyncio.events._get_running_loop() is None,
    ),
    "the number of processes": (
        lambda: resource.setrlimit(resource.RLIMIT_NPROC, (9, resource.getrlimit(resource.RLIMIT_NPROC)[1])),
        lambda: resource.getrlimit(resource.RLIMIT_NPROC),
    ),
    "the name of the thread": (
        lambda: setattr(threading.current_thread(), "name", "mine"),
        lambda: threading.current_thread().name,
    ),
    "the place of bytecode": (
        lambda: setattr(sys, "pycache_prefix", "/elsewhere"),
        lambda: sys.pycache_prefix,
    ),
    "standard streams": (lambda: (os.close(1), os.close(2)), lambda: [is_open(n) for n in range(3)]),
    "another standard stream": (
        lambda: os.dup2(os.open(os.devnull, os.O_RDWR), 2),
        lambda: os.path.samestat(os.fstat(2), os.stat(os.devnull)),
    ),
    "precision of new contexts": (
        lambda: setattr(decimal.DefaultContext, "prec", 5),
        lambda: decimal.DefaultContext.prec,
    ),
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


def round_up() -> None:
    ctypes.CDLL(None).fesetround(0x800 if platform.machine() in ("x86_64", "i686") else 0x400000)


def become_nobody() -> None:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


#: Changes that nothing sets back.
FOR_EVER: dict[str, Callable[[], Any]] = {
    "standard input": lambda: sys.stdin.close(),
    "the file below standard output": lambda: sys.stdout.buffer.close(),
    "the encoding of standard error": lambda: sys.stderr.reconfigure(encoding="ascii"),  # type: ignore[union-attr]
    "rounding": round_up,
    "the scheduler": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "the user": become_nobody,
}


def look_at_state() -> tuple[Any, int]:
    print("some words", flush=True)
    return process_state.read(), os.getpid()


@pytest.mark.parametrize("change", FOR_EVER)
def test_a_state_that_nothing_sets_back_takes_another_process(service: ServerProxy, change: str) -> None:
    if change == "the user" and os.getuid():
        pytest.skip("only root becomes another user")
    if change == "rounding" and platform.machine() not in ("x86_64", "i686", "aarch64"):
        pytest.skip("the number that asks for it is not known here")
    fresh, process = service.wait(service.start(look_at_state), timeout=60)
    service.wait(service.start(FOR_EVER[change]), timeout=60)
    job = service.job(service.start(look_at_state))
    assert job.wait(timeout=60)[0] == fresh
    assert job.result[1] != process
    assert [log.text for log in job.logs()] == ["some words"]


def test_a_body_that_closes_its_output_takes_it_from_no_other_unit(service: ServerProxy) -> None:
    def body(x: int) -> None:
        with sys.stdout as stream:
            stream.write(f"unit {x}\n")

    job = service.job(service.start(body, range(3)))
    job.wait(timeout=60)
    assert "\n".join(log.text for log in job.logs()) == "unit 0\nunit 1\nunit 2"


def test_the_watchdog_of_a_job_ends_no_other(service: ServerProxy) -> None:
    def sets_it() -> int:
        faulthandler.dump_traceback_later(0.3, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        return os.getpid()

    def goes_on() -> int:
        time.sleep(0.6)
        return os.getpid()

    assert service.wait(service.start(sets_it), timeout=60) == service.wait(
        service.start(goes_on), timeout=60
    )


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


def test_threads_that_a_job_has_left_meet_no_other_job(service: ServerProxy) -> None:
    def leaves() -> int:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        return os.getpid()

    def seen() -> tuple[int, int]:
        with ThreadPoolExecutor(2) as pool:  # whose threads end with it
            list(pool.map(abs, range(5)))
        return os.getpid(), threading.active_count()

    before = service.wait(service.start(seen), timeout=60)
    assert service.wait(service.start(leaves), timeout=60) == before[0]
    after = service.wait(service.start(seen), timeout=60)
    assert after[1] == before[1] == 1
    assert after[0] != before[0]


MODULE = """
import decimal, os, signal, sys, warnings
import numpy

class Finder:
    @staticmethod
    def find_spec(*_): return None

def handler(*_): pass

def look():
    return [
        [message and message.pattern for _, message, *_ in warnings.filters][:1],
        os.environ.get("MADE"), "/front" in sys.path, sys.path.index("/end") - len(sys.path), Finder in sys.meta_path,
        signal.getsignal(signal.SIGUSR2) is handler, decimal.getcontext().prec, decimal.DefaultContext.prec,
        numpy.geterr()["over"], os.environ.get("MODE"), "/elsewhere" in sys.path,
    ]

warnings.filterwarnings("ignore", message="of the module")
sys.path[:] = ["/front", *sys.path, "/end"]
sys.meta_path.append(Finder)
os.environ["MADE"] = "yes"
signal.signal(signal.SIGUSR2, handler)
decimal.DefaultContext.prec, decimal.getcontext().prec = 40, 50
numpy.seterr(over="raise")
"""


def test_a_module_that_several_jobs_use_has_set_for_each_what_it_sets_when_imported(
    service: ServerProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "setting_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def body() -> Any:
        os.environ["MODE"] = "of the job"
        sys.path.insert(0, "/elsewhere")
        decimal.getcontext().prec = 3
        return __import__("setting_module").look(), os.getpid()

    def seen() -> Any:
        return __import__("setting_module").look(), os.getpid()

    first, *others = (service.wait(service.start(run), timeout=60) for run in (body, seen, seen))
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import setting_module; print(setting_module.look())"
    )
    output = subprocess.run([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, check=True)
    fresh = ast.literal_eval(output.stdout.decode())
    assert first[0][-2:] == ["of the job", True]
    assert others == [(fresh, first[1])] * 2


def test_an_error_of_an_import_shows_nothing_of_the_watch_for_settings(service: ServerProxy) -> None:
    def body() -> None:
        __import__("no_such_module")

    with pytest.raises(JobFailed) as caught:
        service.wait(service.start(body), timeout=60)
    assert "no_such_module" in str(caught.value)
    assert "import_settings" not in str(caught.value)
    assert "importlib" not in str(caught.value)


@pytest.mark.parametrize(("mode", "own"), [(0o700, True), (0o777, False), (0o1777, False), (0o750, False)])
def test_only_a_folder_of_this_user_alone_is_made_again(tmp_path: Path, mode: int, own: bool) -> None:
    tmp_path.chmod(mode)
    assert process_settings._private_folder(str(tmp_path)) == (str(tmp_path) if own else "")
    assert process_settings._private_folder(str(tmp_path / "none")) == ""

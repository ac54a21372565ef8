"""Settings of a process that a job may change for all code in it, and that another job finds as on a fresh one.

The folder, the environment, ``sys.path``, filters of warnings, handlers of signals, limits and the like are noted when the
process begins, and looked at when another job's chunk comes: what the last job has changed is kept for its next chunk,
since its body may have been prepared here, and is as it was for the other. What lives in context variables (decimal's
precision, numpy's handling of errors) each job has in a context of its own. A unit of the same job costs one comparison.

Modules that are loaded, and what was changed in them, stay. What cannot be set back (a lowered hard limit, say) takes
another process.
"""

from __future__ import annotations

import _locale  # what is behind `locale`, without 1 ms of tables
import _signal  # type: ignore[import-not-found]  # and behind `signal`, without 30 us of enums
import contextlib
import contextvars
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Signals whose handlers are looked at.
SIGNALS = tuple(
    number for number in map(int, signal.valid_signals()) if number < 32 and number not in (9, 19)
)
TIMERS = tuple(
    getattr(signal, name)
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
    if hasattr(signal, name)
)
LIMITS = tuple(
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "STACK")
    if hasattr(resource, f"RLIMIT_{name}")
)
HOOKS = ("stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook", "breakpointhook")


class Settings:
    """Of this process, as it is now."""

    def __init__(self) -> None:
        self._environ, self._path = os.environ, sys.path
        self._table: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
            "environment": (self._environment, self._set_environment),
            "path": (lambda: list(sys.path), self._set_path),
            "folder": (_folder, os.chdir),
            "warnings": (_warnings, _set_warnings),
            "signals": (lambda: list(map(_signal.getsignal, SIGNALS)), _set_signals),
            "timers": (lambda: [_signal.getitimer(timer)[0] > 0 for timer in TIMERS], _stop_timers),
            "umask": (_umask, os.umask),
            "locale": (
                lambda: _locale.setlocale(_locale.LC_ALL),
                lambda v: _locale.setlocale(_locale.LC_ALL, v),
            ),
            "hooks": (
                lambda: [getattr(sys, name, None) for name in HOOKS],
                _set_hooks,
            ),
            "threads": (lambda: threading.excepthook, lambda hook: setattr(threading, "excepthook", hook)),
            "trace": (
                lambda: (sys.gettrace(), sys.getprofile()),
                _set_trace,
            ),
            "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
            "switches": (sys.getswitchinterval, sys.setswitchinterval),
            "digits": (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
            "garbage": (lambda: (gc.isenabled(), gc.get_threshold()), _set_gc),
            "stack": (threading.stack_size, threading.stack_size),
            "logging": (_logging, _set_logging),
            "timeout": (
                lambda: _of("socket", "getdefaulttimeout"),
                lambda v: _of("socket", "setdefaulttimeout", v),
            ),
            "temporary": (_temporary, lambda v: setattr(sys.modules["tempfile"], "tempdir", v)),
            "children": (
                lambda: _of("multiprocessing", "get_start_method", True),
                lambda v: _of("multiprocessing", "set_start_method", v, True),
            ),
        }
        if resource is not None:
            self._table["limits"] = (lambda: list(map(resource.getrlimit, LIMITS)), _set_limits)
            self._table["priority"] = (
                lambda: os.getpriority(os.PRIO_PROCESS, 0),
                lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
            )
        if hasattr(os, "sched_getaffinity"):
            self._table["processors"] = (
                lambda: os.sched_getaffinity(0),
                lambda value: os.sched_setaffinity(0, value),
            )
        self._fresh = self._now()
        #: the job whose settings these are now, and what others have changed that may come again
        self._job = 0
        self._changes: dict[int, dict[str, Any]] = {}
        self._contexts: dict[int, contextvars.Context] = {}

    def enter(self, job: int) -> list[str]:
        """A chunk of this job comes: it finds what it has left, and no other job has. What could not be set, by name."""
        if job == self._job:
            return []
        changes = {name: value for name, value in self._now().items() if value != self._fresh[name]}
        self._changes.pop(self._job, None)
        if changes and self._job in self._contexts:
            self._changes[self._job] = changes
        wanted = self._changes.get(job, {})
        failed = []
        for name in changes.keys() | wanted.keys():
            try:
                self._table[name][1](wanted.get(name, self._fresh[name]))
            except Exception:
                failed.append(name)
        _say_again()
        self._job = job
        return failed

    def context(self, job: int) -> contextvars.Context:
        """The context variables of a job."""
        found = self._contexts.get(job)
        if found is None:
            found = self._contexts[job] = contextvars.Context()
        return found

    def forget(self, job: int) -> None:
        """The job has ended."""
        self._changes.pop(job, None)
        self._contexts.pop(job, None)

    def note(self, *names: str) -> None:
        """These are as on a fresh process now."""
        for name in names:
            self._fresh[name] = self._table[name][0]()

    def _now(self) -> dict[str, Any]:
        return {name: get() for name, (get, _) in self._table.items()}

    def _environment(self) -> dict[Any, Any]:
        return dict(getattr(os.environ, "_data", os.environ))  # bytes, which need no decoding

    def _set_environment(self, values: dict[Any, Any]) -> None:
        os.environ = self._environ  # noqa: B003  # a body may have put something else there
        now = self._environment()
        decode = os.fsdecode
        for name in now.keys() - values.keys():
            del os.environ[decode(name)]
        for name, value in values.items():
            if now.get(name) != value:
                os.environ[decode(name)] = decode(value)
        if hasattr(time, "tzset"):
            time.tzset()

    def _set_path(self, path: list[Any]) -> None:
        sys.path = self._path
        sys.path[:] = path


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _warnings() -> tuple[Any, ...]:
    return list(warnings.filters), warnings.showwarning, warnings.formatwarning


def _set_warnings(values: tuple[Any, ...]) -> None:
    filters: Any = warnings.filters
    filters[:], warnings.showwarning, warnings.formatwarning = values


def _say_again() -> None:
    """Warnings that were shown once are shown to the next job too."""
    changed: Any = getattr(warnings, "_filters_mutated", None)
    if changed is not None:
        with contextlib.suppress(Exception):
            changed()


def _set_signals(handlers: list[Any]) -> None:
    for number, handler in zip(SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) != handler:
            _signal.signal(number, handler)


def _stop_timers(_: Any) -> None:
    for timer in TIMERS:
        signal.setitimer(timer, 0)


def _set_hooks(values: list[Any]) -> None:
    for name, value in zip(HOOKS, values, strict=True):
        setattr(sys, name, value)


def _set_trace(functions: tuple[Any, Any]) -> None:
    sys.settrace(functions[0])
    sys.setprofile(functions[1])


def _set_gc(values: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])


def _set_limits(values: list[tuple[int, int]]) -> None:
    for limit, value in zip(LIMITS, values, strict=True):
        if resource.getrlimit(limit) != value:
            resource.setrlimit(limit, value)


def _of(module: str, name: str, *given: Any) -> Any:
    """The value that a function of a module returns, if that is loaded; else None, as before anybody has set anything."""
    found = sys.modules.get(module)
    function = getattr(found, name, None)
    return function(*given) if function is not None else None


def _temporary() -> Any:
    return getattr(sys.modules.get("tempfile"), "tempdir", None)


def _logging() -> tuple[Any, ...]:
    logging: Any = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "root"):
        return (30, [], 0)
    return logging.root.level, list(logging.root.handlers), logging.root.manager.disable


def _set_logging(values: tuple[Any, ...]) -> None:
    logging: Any = sys.modules["logging"]
    logging.root.setLevel(values[0])
    logging.root.handlers[:] = values[1]
    logging.disable(values[2])

"""Settings that a job may change for all code in its process. Another job finds them as in a fresh process.

At its beginning the process notes its folder, environment, ``sys.path``, filters of warnings, signal handlers, limits
and others. When a chunk of another job comes it compares them. It undoes the changes of the last job, and keeps them
for that job's next chunk, since its body may have been prepared here. Each job has a context of its own for context
variables (decimal's precision, numpy's handling of errors). A unit of the same job costs one comparison.

Loaded modules and changes in them stay, and so do settings that modules made while they were imported
(`park.slot.import_settings`). Where a setting cannot be undone (a lowered hard limit, `park.slot.process_state`), the
other job needs another process.
"""

from __future__ import annotations

import _locale  # `locale` without 1 ms of tables
import _signal  # type: ignore[import-not-found]  # `signal` without 30 us of enums
import builtins
import contextlib
import contextvars
import copyreg
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from park.slot import import_settings, library_settings, process_state

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Signals whose handlers are compared.
SIGNAL_NUMBERS = tuple(
    number for number in map(int, signal.valid_signals()) if number < 32 and number not in (9, 19)
)
TIMER_NUMBERS = tuple(
    getattr(signal, name)
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
    if hasattr(signal, name)
)
LIMIT_NUMBERS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
DECIMAL_NAMES = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
HOOK_NAMES = (
    *("stdin", "stdout", "stderr"),
    *("excepthook", "displayhook", "unraisablehook", "breakpointhook", "pycache_prefix"),
)


#: The function that reads a setting, and the one that sets it.
Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


class ProcessSettings:
    """The settings of this process."""

    def __init__(self) -> None:
        self._environ, self._path = os.environ, sys.path
        self._streams = _Streams()
        #: the folder for temporary files of this process; "": there is none
        self._folder = _private_folder(os.environ.get("TMPDIR", ""))
        self._table = self._settings()
        self._fresh = self._now()
        #: the job whose settings the process has
        self._job = 0
        #: changes of other jobs, which may come again
        self._changes: dict[int, dict[str, Any]] = {}
        self._contexts: dict[int, contextvars.Context] = {}
        #: the context variables of a fresh process, and the values of its context of decimal, where imports changed them
        self._context = contextvars.Context()
        self._decimal: Any = None
        import_settings.watch(self._begin_import, self._end_import)

    def _settings(self) -> dict[str, Setting]:
        """All settings by name."""
        table: dict[str, Setting] = {
            "environment": (self._environment, self._set_environment),
            "path": (lambda: list(sys.path), self._set_path),
            "folder": (_folder, os.chdir),
            "warnings": (_warnings, _set_warnings),
            "finders": (lambda: (list(sys.meta_path), list(sys.path_hooks)), _set_finders),
            "signals": (lambda: tuple(map(_signal.getsignal, SIGNAL_NUMBERS)), _set_signals),
            "timers": (lambda: [_signal.getitimer(timer)[0] > 0 for timer in TIMER_NUMBERS], _stop_timers),
            "decimal": (
                lambda: _decimal(_decimal_context("DefaultContext")),
                lambda v: _set_decimal(_decimal_context("DefaultContext"), v),
            ),
            "umask": (_umask, os.umask),
            "locale": (
                lambda: _locale.setlocale(_locale.LC_ALL),
                lambda v: _locale.setlocale(_locale.LC_ALL, v),
            ),
            "hooks": (lambda: tuple(getattr(sys, name, None) for name in HOOK_NAMES), _set_hooks),
            "threads": (
                lambda: (threading.excepthook, threading.current_thread().name),
                _set_threads,
            ),
            "reducers": (lambda: dict(copyreg.dispatch_table), _set_reducers),
            "loops": (library_settings.event_loops, library_settings.set_event_loops),
            "streams": (self._streams.read, self._streams.restore),
            "state": (process_state.read, process_state.refuse),
            "logging": (library_settings.logging, library_settings.set_logging),
            "numerics": (library_settings.numerics, library_settings.set_numerics),
            "plots": (library_settings.plots, library_settings.set_plots),
            "timeout": (
                lambda: _of("socket", "getdefaulttimeout"),
                lambda v: _of("socket", "setdefaulttimeout", v),
            ),
            "temporary": (_temporary, lambda v: setattr(sys.modules["tempfile"], "tempdir", v)),
            "temporary folder": (
                lambda: os.access(self._folder, os.W_OK | os.X_OK),
                lambda v: _make_folder(self._folder) if v else None,
            ),
            "children": (
                lambda: _of("multiprocessing", "get_start_method", True),
                lambda v: _of("multiprocessing", "set_start_method", v, True),
            ),
        }
        return table | _interpreter_settings() | _system_settings()

    def enter(self, job: int) -> list[str]:
        """Make the settings those of this job. Returns the names of settings that could not be set."""
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
        _show_warnings_again()
        faulthandler.cancel_dump_traceback_later()
        self._job = job
        return failed

    def context(self, job: int) -> contextvars.Context:
        """The context variables of a job."""
        found = self._contexts.get(job)
        if found is None:
            found = self._contexts[job] = self._context.copy()
            if self._decimal is not None:
                found.run(lambda: _set_decimal(_decimal_context("getcontext"), self._decimal))
        return found

    def forget(self, job: int) -> None:
        """The job has ended."""
        self._changes.pop(job, None)
        self._contexts.pop(job, None)

    def note(self, *names: str) -> None:
        """A fresh process has these settings as they are now."""
        for name in names:
            self._fresh[name] = self._table[name][0]()

    def _begin_import(self) -> tuple[dict[str, Any], Any, contextvars.Context]:
        return self._now(), _decimal(_decimal_context("getcontext")), contextvars.copy_context()

    def _end_import(self, before: tuple[dict[str, Any], Any, contextvars.Context]) -> None:
        """Modules were imported: a fresh process that imports them has their settings, too."""
        settings, decimal, context = before
        for name, value in self._now().items():
            self._fresh[name] = import_settings.merged(self._fresh[name], settings[name], value)
        after = _decimal(_decimal_context("getcontext"))
        if after != (decimal or _decimal(_decimal_context("DefaultContext"))):
            self._decimal = after
        for variable, value in contextvars.copy_context().items():
            # a context of decimal is changed in its place
            if context.get(variable) is not value and variable.name != "decimal_context":
                self._context.run(variable.set, value)

    def _now(self) -> dict[str, Any]:
        return {name: get() for name, (get, _) in self._table.items()}

    def _environment(self) -> dict[Any, Any]:
        return dict(getattr(os.environ, "_data", os.environ))  # bytes need no decoding

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


class _Streams:
    """The descriptors of standard input, output and error: a body may close them, and a file of the next one gets the
    number, and what is printed.
    """

    def __init__(self) -> None:
        self._fresh = self.read()
        self._copies = [None if it is None else os.dup(number) for number, it in enumerate(self._fresh)]

    def read(self) -> tuple[tuple[int, int] | None, ...]:
        """Device and inode of each; None: it is closed."""
        found: list[tuple[int, int] | None] = []
        for number in range(3):
            try:
                file = os.fstat(number)
                found.append((file.st_dev, file.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    def restore(self, wanted: tuple[tuple[int, int] | None, ...]) -> None:
        """Open those again that were open in the fresh process; a change of a job that comes again is not made again."""
        for number, copy in enumerate(self._copies):
            if copy is not None and self.read()[number] != self._fresh[number]:
                os.dup2(copy, number)


def _interpreter_settings() -> dict[str, Setting]:
    """Settings of the interpreter itself."""
    return {
        "builtins": (lambda: dict(vars(builtins)), _set_builtins),
        "trace": (
            lambda: (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()),
            _set_trace,
        ),
        "memory trace": (lambda: bool(_of("tracemalloc", "is_tracing")), _trace_memory),
        "bytecode": (lambda: sys.dont_write_bytecode, lambda v: setattr(sys, "dont_write_bytecode", v)),
        "faults": (
            faulthandler.is_enabled,
            lambda v: report_crashes() if v else faulthandler.disable(),
        ),
        "coroutines": (
            lambda: (*sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()),
            _set_coroutines,
        ),
        "recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
        "switches": (sys.getswitchinterval, sys.setswitchinterval),
        "digits": (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
        "garbage": (_gc, _set_gc),
        "stack": (threading.stack_size, threading.stack_size),
    }


def _system_settings() -> dict[str, Setting]:
    """Settings that some systems do not have."""
    table: dict[str, Setting] = {}
    if hasattr(sys, "setdlopenflags"):
        table["libraries"] = (sys.getdlopenflags, sys.setdlopenflags)
    if hasattr(signal, "pthread_sigmask"):
        table["wakeup"] = (_wakeup, signal.set_wakeup_fd)
        table["mask"] = (lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()), _set_signal_mask)
    if resource is not None:
        table["limits"] = (lambda: tuple(map(resource.getrlimit, LIMIT_NUMBERS)), _set_limits)
        table["priority"] = (
            lambda: os.getpriority(os.PRIO_PROCESS, 0),
            lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
        )
    if hasattr(os, "sched_getaffinity"):
        table["processors"] = (
            lambda: os.sched_getaffinity(0),
            lambda value: os.sched_setaffinity(0, value),
        )
    return table


def report_crashes() -> None:
    """Let a crash print Python's stack. The stack of C, which follows it from Python 3.14 on, would hide what was printed
    before.
    """
    options: dict[str, Any] = {"c_stack": False} if sys.version_info >= (3, 14) else {}
    faulthandler.enable(**options)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _private_folder(path: str) -> str:
    """The folder, if it is this user's alone; "": others use it, too, and its mode is no business of this process."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return path if found.st_uid == os.getuid() and not found.st_mode & 0o077 else ""


def _make_folder(path: str) -> None:
    """Make a folder again that was removed, or closed."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _warnings() -> tuple[Any, ...]:
    return list(warnings.filters), warnings.showwarning, warnings.formatwarning


def _set_warnings(values: tuple[Any, ...]) -> None:
    filters: Any = warnings.filters
    filters[:], warnings.showwarning, warnings.formatwarning = values


def _show_warnings_again() -> None:
    """Forget which warnings were shown, so that the next job sees them again."""
    changed: Any = getattr(warnings, "_filters_mutated", None)
    if changed is not None:
        with contextlib.suppress(Exception):
            changed()


def _set_finders(values: tuple[list[Any], list[Any]]) -> None:
    sys.meta_path[:], sys.path_hooks[:] = values
    sys.path_importer_cache.clear()


def _decimal_context(name: str) -> Any:
    """A context of decimal; None: the module is not loaded."""
    found = getattr(sys.modules.get("decimal"), name, None)
    return found() if name == "getcontext" and found is not None else found


def _decimal(context: Any) -> Any:
    """The values of a context of decimal."""
    return context and (*(getattr(context, name) for name in DECIMAL_NAMES), dict(context.traps))


def _set_decimal(context: Any, values: Any) -> None:
    for name, value in zip(DECIMAL_NAMES, values or (), strict=False):
        setattr(context, name, value)
    if values:
        context.traps.update(values[-1])


def _set_signals(handlers: tuple[Any, ...]) -> None:
    for number, handler in zip(SIGNAL_NUMBERS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) != handler:
            _signal.signal(number, handler)


def _set_signal_mask(blocked: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _wakeup() -> int:
    """The descriptor to which signals are written."""
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    return descriptor


def _stop_timers(_: Any) -> None:
    for timer in TIMER_NUMBERS:
        signal.setitimer(timer, 0)


def _set_hooks(values: tuple[Any, ...]) -> None:
    for name, value in zip(HOOK_NAMES, values, strict=True):
        setattr(sys, name, value)


def _set_threads(values: tuple[Any, str]) -> None:
    threading.excepthook, threading.current_thread().name = values


def _set_builtins(values: dict[str, Any]) -> None:
    names = vars(builtins)
    names |= values
    for name in names.keys() - values.keys():
        del names[name]


def _set_reducers(values: dict[Any, Any]) -> None:
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table |= values


def _set_trace(functions: tuple[Any, ...]) -> None:
    sys.settrace(functions[0])
    sys.setprofile(functions[1])
    threading.settrace(functions[2])
    threading.setprofile(functions[3])


def _set_coroutines(values: tuple[Any, ...]) -> None:
    sys.set_asyncgen_hooks(*values[:2])
    sys.set_coroutine_origin_tracking_depth(values[2])


def _trace_memory(wanted: bool) -> None:
    _of("tracemalloc", "start" if wanted else "stop")


def _gc() -> tuple[bool, tuple[int, int, int], int, list[Any]]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), list(gc.callbacks)


def _set_gc(values: tuple[bool, tuple[int, int, int], int, list[Any]]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])
    gc.set_debug(values[2])
    gc.callbacks[:] = values[3]


def _set_limits(values: tuple[tuple[int, int], ...]) -> None:
    for limit, value in zip(LIMIT_NUMBERS, values, strict=True):
        if resource.getrlimit(limit) != value:
            resource.setrlimit(limit, value)


def _of(module: str, name: str, *given: Any) -> Any:
    """The value that a function of a module returns; None if the module is not loaded, so that nothing was set with it."""
    found = sys.modules.get(module)
    function = getattr(found, name, None)
    return function(*given) if function is not None else None


def _temporary() -> Any:
    return getattr(sys.modules.get("tempfile"), "tempdir", None)

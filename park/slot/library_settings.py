"""Settings of libraries that a job may change for all code in the process: logging, asyncio, numpy and matplotlib.

A library that is not loaded has no settings. Each function reads, or sets, all settings of one library.
"""

from __future__ import annotations

import sys
from typing import Any


def logging() -> tuple[Any, ...]:
    """Level and handlers of the root logger, the level that is disabled, the loggers that differ from a new one, and how
    loggers and records are made.
    """
    module: Any = sys.modules.get("logging")
    if module is None or not hasattr(module, "root"):
        return ()
    # there may be hundreds of loggers, and this is read whenever another job comes
    changed = {
        name: _state(logger)
        for name, logger in _loggers(module)
        if logger.level or logger.handlers or logger.disabled or not logger.propagate
    }
    makers = module.getLoggerClass(), module.getLogRecordFactory(), module.raiseExceptions
    return module.root.level, list(module.root.handlers), module.root.manager.disable, changed, *makers


def set_logging(values: tuple[Any, ...]) -> None:
    """Set what `logging` returns."""
    module: Any = sys.modules["logging"]
    level, handlers, disabled, changed, loggers, records, raises = values or (
        *(30, [], 0, {}),
        *(module.Logger, module.LogRecord, True),
    )
    module.root.handlers[:], module.raiseExceptions = handlers, raises
    module.root.setLevel(level)
    module.disable(disabled)
    module.setLoggerClass(loggers)
    module.setLogRecordFactory(records)
    for name, logger in _loggers(module):
        wanted = changed.get(name, _NEW_LOGGER)
        if _state(logger) != wanted:
            level, handlers, logger.propagate, logger.disabled = wanted
            logger.setLevel(level)
            logger.handlers[:] = handlers


#: The state of a logger that was just made.
_NEW_LOGGER: tuple[int, list[Any], bool, bool] = (0, [], True, False)


def _state(logger: Any) -> tuple[int, list[Any], bool, bool]:
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled


def _loggers(module: Any) -> list[tuple[str, Any]]:
    """All loggers but the root, by name; others are places in the tree of names."""
    return [
        (n, it) for n, it in list(module.root.manager.loggerDict.items()) if isinstance(it, module.Logger)
    ]


def event_loops() -> tuple[Any, Any]:
    """The policy of asyncio, and the loop that asyncio takes for running in this thread."""
    module: Any = sys.modules.get("asyncio.events")
    if not hasattr(module, "_get_running_loop"):
        return None, None
    return module._event_loop_policy, module._get_running_loop()


def set_event_loops(values: tuple[Any, Any]) -> None:
    """Set what `event_loops` returns."""
    module: Any = sys.modules["asyncio.events"]
    module._event_loop_policy = values[0]
    module._set_running_loop(values[1])


def numerics() -> dict[str, Any]:
    """numpy's handling of errors, and how it prints. Newer ones keep both in context variables, where nobody changes them
    for other jobs.
    """
    module: Any = sys.modules.get("numpy")
    if not hasattr(module, "set_printoptions") or not hasattr(module, "seterrcall"):
        return {}
    return {"errors": module.geterr(), "call": module.geterrcall(), "printing": module.get_printoptions()}


def set_numerics(values: dict[str, Any]) -> None:
    """Set what `numerics` returns."""
    module: Any = sys.modules["numpy"]
    module.seterr(**values["errors"])
    module.seterrcall(values["call"])
    module.set_printoptions(**values["printing"])


def plots() -> tuple[Any, ...]:
    """The values of matplotlib's parameters, without a look for its backend, and the open figures of pyplot."""
    parameters: Any = getattr(sys.modules.get("matplotlib"), "rcParams", None)
    if parameters is None:
        return ((), [])
    figures: Any = getattr(sys.modules.get("matplotlib._pylab_helpers"), "Gcf", None)
    return tuple(dict.values(parameters)), list(getattr(figures, "figs", {}).items())


def set_plots(values: tuple[Any, ...]) -> None:
    """Set what `plots` returns."""
    parameters: Any = sys.modules["matplotlib"].rcParams
    backend = dict.get(parameters, "backend")
    dict.update(
        parameters, zip(dict.keys(parameters), values[0], strict=False)
    )  # each was checked when it was first set
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and dict.get(parameters, "backend") is not backend:
        pyplot._backend_mod = None  # type: ignore[attr-defined]  # pyplot loads the other one when it needs it
    figures: Any = getattr(sys.modules.get("matplotlib._pylab_helpers"), "Gcf", None)
    if figures is not None:
        figures.figs.clear()
        figures.figs.update(values[1])

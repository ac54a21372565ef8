"""PARK: fit models to data on one laptop or on a fabric of many kernels.

    with park.local_service:
        fit = Fit(Assembly((model, data)))
        result = fit.wait()

This module has all public names. Heavy parts load when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from park.backends import offer
from park.errors import (
    Abort,
    BatchError,
    InvalidRequest,
    JobAborted,
    JobFailed,
    LimitReached,
    NoBroker,
    NotComplete,
    NotPicklable,
    ParkError,
    ProtocolError,
    Refused,
    ServiceClosed,
    StoreError,
    UnitError,
    UnknownJob,
    UnknownKernel,
    WaitTimeout,
)
from park.version import __version__

if TYPE_CHECKING:
    from park.body.environment import environment
    from park.client.requests import JobCopy
    from park.core.connect import connect
    from park.core.server import Server, ServerProxy, default_service, usertag
    from park.fit import Assembly, Constant, Fit, Uncertainty
    from park.job import Job, JobManager, as_completed
    from park.local import local_service
    from park.model import NOT_RUN as NotRun
    from park.model import (
        AccountRecord,
        Improvement,
        JobRecord,
        JobState,
        Log,
        Progress,
        Request,
    )
    from park.service import ServiceManager

_LAZY = {
    "AccountRecord": "park.model",
    "batch": "park.batch",
    "Improvement": "park.model",
    "JobRecord": "park.model",
    "JobState": "park.model",
    "Log": "park.model",
    "NotRun": "park.model:NOT_RUN",
    "Progress": "park.model",
    "Request": "park.model",
    "Assembly": "park.fit",
    "Constant": "park.fit",
    "Fit": "park.fit",
    "Uncertainty": "park.fit",
    "JobCopy": "park.client.requests",
    "Server": "park.core.server",
    "ServerProxy": "park.core.server",
    "default_service": "park.core.server",
    "usertag": "park.core.server",
    "Job": "park.job",
    "JobManager": "park.job",
    "as_completed": "park.job",
    "environment": "park.body.environment",
    "local_service": "park.local",
    "ServiceManager": "park.service",
    "connect": "park.core.connect",
}

__all__ = [
    "Abort",
    "AccountRecord",
    "Assembly",
    "BatchError",
    "Constant",
    "Fit",
    "Improvement",
    "InvalidRequest",
    "Job",
    "JobAborted",
    "JobCopy",
    "JobFailed",
    "JobManager",
    "JobRecord",
    "JobState",
    "Log",
    "NoBroker",
    "NotComplete",
    "NotPicklable",
    "NotRun",
    "ParkError",
    "Progress",
    "ProtocolError",
    "LimitReached",
    "Refused",
    "Request",
    "Server",
    "ServerProxy",
    "ServiceClosed",
    "ServiceManager",
    "StoreError",
    "Uncertainty",
    "UnitError",
    "UnknownJob",
    "UnknownKernel",
    "WaitTimeout",
    "__version__",
    "as_completed",
    "batch",
    "connect",
    "default_service",
    "environment",
    "local_service",
    "usertag",
]


offer()


def __getattr__(name: str) -> Any:
    place = _LAZY.get(name)
    if place is None:
        raise AttributeError(f"module 'park' has no attribute {name!r}")
    from importlib import import_module

    module, _, called = place.partition(":")
    if module == f"{__name__}.{name}":
        return import_module(module)
    value = getattr(import_module(module), called or name)
    if name != "default_service":
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

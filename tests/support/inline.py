"""Fits in this process, as ``park run`` runs a unit: what travels is pickled, nothing is dealt out.

``fit(M1, method="lm")`` and ``sample(M1, start)`` return results; a fit that fails raises here.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from park.body.rerun import rerun_unit
from park.fit import Fit, FitResult, Uncertainty
from park.model import Request


class InProcess:
    """A service that runs a job before `submit` returns."""

    def __init__(self) -> None:
        self.result: Any = None
        #: progress, improvements and logs, as text
        self.told = ""

    def submit(self, request: Request, monitor: Any = None) -> int:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            self.result = rerun_unit(1, request, None, self._nothing)
        self.told = told.getvalue()
        return 1

    def _nothing(self, job: int) -> Any:
        raise LookupError(f"no job {job}: this service keeps nothing")


def fit(assembly: Any, method: str | None = None, **given: Any) -> FitResult:
    """The result of a `Fit`, by its default method where none is named."""
    if method is not None:
        given["method"] = method
    service = InProcess()
    Fit(assembly, service=service, **({"seed": 1} | given))
    result: FitResult = service.result
    return result


def sample(assembly: Any, start: Any = None, **given: Any) -> FitResult:
    """The result of an `Uncertainty`."""
    service = InProcess()
    Uncertainty(assembly, start, service=service, **({"seed": 1} | given))
    result: FitResult = service.result
    return result

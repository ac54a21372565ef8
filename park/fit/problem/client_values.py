"""Values of the objective function in the client, which kernels compare with their own before they compute.

A job must fail if its model computes different values on a kernel than in the client. The cause may be another version of a
library, a table that was pickled without its last column, or a constant that the script has set in a module. The client
therefore evaluates the objective function at the start and, if that is cheap, at a point nearby: some models keep
their last value and would bring it along. Both values are sent with the job. Each process on another machine, or with
other libraries, evaluates the same points and compares.

Differences by rounding are allowed. Compilers, processors and the order of sums change the last digits of a model, and some
algorithms (integrals, differential equations) the last half of the digits. Each value may therefore differ by a relative
1e-7, and in single precision by 200 units in the last place. For residuals (f - y)/dy this is a relative difference of
y/dy. By the Cauchy-Schwarz inequality over all residuals r, half their sum of squares may differ by::

    part * |r| * (|r| + |y/dy|) + (part * (|r| + |y/dy|))**2 / 2

plus *part* times the value and times the number of points. For other likelihoods only the latter counts. Nan and infinity
are equal. Models that draw random numbers are not compared: two evaluations in one process differ.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from park.body.generators import Generators
from park.errors import InvalidRequest, ParkError
from park.fit.arrays import quiet
from park.fit.problem.preserved_state import reachable
from park.model import Log

if TYPE_CHECKING:
    from park.fit.arrays import Array
    from park.fit.environment import Env
    from park.fit.problem.assembly import Assembly
    from park.fit.problem.objective import Objective

#: Relative difference of a model's values that two machines may have, in double and in single precision.
DOUBLE_TOLERANCE = 1e-7
SINGLE_TOLERANCE = 200 * float(np.finfo(np.float32).eps)
#: Names of dtypes with less than double precision.
SINGLE_DTYPES = ("float16", "float32", "complex64")
#: A model draws random numbers if two evaluations differ by more than this part of their distance from the client's value.
_STEADY_PART = 1e-3
#: The client evaluates a second point if one evaluation takes no longer than this (seconds).
CHEAP_EVALUATION_SECONDS = 0.02


class ModelDiffers(ParkError, RuntimeError):
    """Raised if the objective function differs from its values in the client."""

    #: errors of jobs show this exception without a traceback of the fit
    complete = True


class StartValue(NamedTuple):
    """The first evaluation at the start: its `number`, whether the model has single precision, and its duration."""

    value: float
    single: bool
    seconds: float


class ComparedValue(NamedTuple):
    """The `number` of an objective function at *x*, and its tolerance."""

    x: Array
    value: float
    tolerance: float

    def agrees(self, other: float) -> bool:
        """Whether *other* is equal within the tolerance."""
        if not math.isfinite(self.value) or not math.isfinite(other):
            return not math.isfinite(self.value) and not math.isfinite(other)
        return abs(self.value - other) <= self.tolerance


@dataclass(frozen=True, slots=True)
class ClientValues:
    """The values of an objective function in the client, with the client's machine and versions of libraries."""

    names: tuple[str, ...]
    #: empty if the model raises in the client: it may work on a kernel
    values: tuple[ComparedValue, ...]
    #: whether two evaluations at the start agree; None if there was only one
    steady: bool | None
    #: the name of the figure
    what: str
    place: str
    versions: dict[str, str]


def number(objective: Objective, x: Array) -> float:
    """The figure that is compared: half the sum of squared residuals, or the nllf of a bumps problem."""
    with quiet():
        return objective.number(x)


# -- in the client -------------------------------------------------------------------------------


def evaluate_start(objective: Objective, single: bool) -> StartValue | None:
    """The figure at the start; None if the model raises, which may happen only in the client."""
    began = time.perf_counter()
    try:
        value = number(objective, objective.start)
    except InvalidRequest:
        raise
    except Exception:
        return None
    return StartValue(value, single, time.perf_counter() - began)


def has_single(problem: Any) -> bool:
    """Whether data or models of a bumps problem hold numbers of single precision."""
    for one in reachable(problem):
        for value in vars(one).values() if hasattr(one, "__dict__") else ():
            if isinstance(value, _WITH_DTYPE) and _is_single(value):
                return True
    return False


#: a dtype, or values that have one
_WITH_DTYPE = (np.ndarray, np.generic, np.dtype)


def _is_single(value: Any) -> bool:
    dtype = value if isinstance(value, np.dtype) else value.dtype
    return dtype.name in SINGLE_DTYPES


def with_values(assembly: Assembly, objects: Iterable[Any] | None = None) -> Assembly:
    """A copy of the assembly with the values of its objective function in this process.

    Evaluations may change the models: `park.fit.problem.preserved_state.preserved_state` restores them. *objects*, if
    known, are all that belong to the models.
    """
    objects = reachable(*assembly.foreign) if objects is None else objects
    objective = assembly.objective
    values, steady = _evaluated(objective)
    travelling = copy(assembly)
    travelling.sent = ClientValues(
        objective.names, values, steady, objective.number_is, process_identity(), _versions(assembly, objects)
    )
    return travelling


def _evaluated(objective: Objective) -> tuple[tuple[ComparedValue, ...], bool | None]:
    known = objective.first
    if known is None:
        return (), None
    if objective.own_generators.drawn:
        return (), False
    if known.seconds > CHEAP_EVALUATION_SECONDS:
        return (_value(objective, objective.start, known.value, known.single),), None
    values = []
    try:
        with quiet():
            for x in (objective.start, _near(objective)):  # the model may have changed since `check`
                values.append(_value(objective, x, objective.number(x), known.single))
            again = objective.number(objective.start)
    except Exception:  # the model may fail nearby
        return tuple(values), None
    return tuple(values), values[0].agrees(again)


def _near(objective: Objective) -> Array:
    """A point close to the start, inside the limits, at which all parameters differ from the start."""
    low, high, start = objective.low, objective.high, objective.start
    wide = np.isfinite(high - low)
    with np.errstate(all="ignore"):
        step = 1e-3 * np.where(wide, high - low, np.where(start == 0, 1.0, np.abs(start)))
    near: Array = np.where(start + step <= high, start + step, start - step)
    return np.clip(near, low, high)


def _value(objective: Objective, x: Array, value: float, single: bool) -> ComparedValue:
    part = SINGLE_TOLERANCE if single else DOUBLE_TOLERANCE
    length = math.sqrt(2 * abs(value)) if math.isfinite(value) else 0.0
    size = length + objective.length_of_data()
    return ComparedValue(
        x, value, part * length * size + (part * size) ** 2 / 2 + part * (abs(value) + objective.points)
    )


# -- anywhere ------------------------------------------------------------------------------------


def process_identity() -> str:
    """Machine, Python and user of this process, as text. Processes with the same text compute equal values."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return f"{platform.node()} ({platform.machine()}, Python {platform.python_version()} in {sys.prefix}, user {user})"


def _versions(assembly: Assembly, objects: Iterable[Any]) -> dict[str, str]:
    """The versions of the libraries that the models with these *objects* use, by name."""
    names = {"numpy", "scipy", "bumps"}
    for one in (*(part.model.function for part in assembly.parts), *objects):
        module = getattr(one if callable(one) else type(one), "__module__", None) or ""
        names.add(str(module).partition(".")[0])
    return {name: version for name in sorted(names) if (version := _version(name))}


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", ""))


# -- where it runs -------------------------------------------------------------------------------


def compare(assembly: Assembly, env: Env | None = None) -> None:
    """Raises ModelDiffers if the objective function differs from its values in the client."""
    known = assembly.sent
    if known is None:
        return
    objective = assembly.objective
    if objective.names != known.names:
        raise ModelDiffers(
            f"the client fits {', '.join(known.names)}, and here the problem has {', '.join(objective.names)}: its "
            f"parameters have changed on their way from {known.place} to {process_identity()}"
        )
    generators = Generators(keep=True)  # the comparison must not change the random numbers of the fit
    try:
        random = known.steady is False or _differs(objective, known)
    finally:
        generators.restore()
    if random and env is not None:
        env.publish(Log("the model draws random numbers: it is not compared with the client's", "warning"))


def _differs(objective: Objective, known: ClientValues) -> bool:
    """Raises ModelDiffers; True if the value differs, and two evaluations here differ as well."""
    for value in known.values:
        try:
            here = number(objective, value.x)
            if value.agrees(here):
                continue
            again = number(objective, value.x)
        except Exception:
            return False  # the method reports a model that raises
        # in the client two evaluations may have agreed by chance
        if abs(again - here) > _STEADY_PART * abs(here - value.value):
            return True
        raise ModelDiffers(_difference(known, value, here))
    return False


def _difference(known: ClientValues, value: ComparedValue, here: float) -> str:
    at = ", ".join(f"{n} = {v:.6g}" for n, v in zip(known.names[:4], value.x, strict=False))
    more = ", ..." if len(known.names) > 4 else ""
    other = [
        f"{name} {version} there and {_version(name)} here"
        for name, version in known.versions.items()
        if _version(name) not in ("", version)
    ]
    why = f"Releases differ: {'; '.join(other)}." if other else "Releases of libraries are the same."
    return (
        f"the model is not what was sent: at {at}{more} {known.what} was {value.value:.10g} in the client, on "
        f"{known.place}, and is {here:.10g} on {process_identity()}. {why} Look for what does not travel by value: files, "
        "libraries, and constants that the script has set in modules"
    )

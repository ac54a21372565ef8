"""The objective computes the same where it runs as it did in the client, or the job fails and says so.

Code, data and libraries may change on their way: a library of another version, a table that was pickled without its
last column, a module whose constants the script has set. So the client evaluates its objective at the start, and once
more nearby where that is cheap, since some models keep their last value and bring it along. Both values travel with
the job, and each process on another machine, or with other libraries, compares them before it computes.

A difference is one beyond rounding. Compilers, processors and the order of sums change the last digits of a model, some
algorithms (integrals, differential equations) the last half of them, so each value of the model may be off by a part in
ten million, and one in single precision by two hundred units in its last place. For residuals (f - y)/dy that means up
to that part of y/dy; summed over all residuals r with the inequality of Cauchy and Schwarz it is the tolerance of half
the sum of their squares::

    part * |r| * (|r| + |y/dy|) + (part * (|r| + |y/dy|))**2 / 2

plus that part of the value itself and of the number of points, which is all for other likelihoods. Nan and infinity are
all one. A model that draws random numbers shows it, as two evaluations in one process differ, and is not compared.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
import warnings
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from park.errors import ParkError
from park.fit.unchanged import reachable, unchanged
from park.kernel.generators import Generators
from park.model import Log

if TYPE_CHECKING:
    from park.fit.assembly import Assembly
    from park.fit.data import Array
    from park.fit.env import Env
    from park.fit.objective import Objective

#: The part of a model's value that two machines may differ by.
DOUBLE = 1e-7
SINGLE = 200 * float(np.finfo(np.float32).eps)
#: The names of dtypes of less than double precision.
SINGLES = ("float16", "float32", "complex64")
#: Seconds of one evaluation up to which the client makes more of them.
CHEAP = 0.02


class NotAsSent(ParkError, RuntimeError):
    """Raised when an objective computes something else than it did in the client."""

    #: it needs no traceback of the fit
    complete = True


class First(NamedTuple):
    """The first evaluation at the start: its `number`, whether it has single precision, and the seconds that it took."""

    value: float
    single: bool
    seconds: float


class Value(NamedTuple):
    """The `number` of an objective at *x*, and what it may be off by."""

    x: Array
    value: float
    tolerance: float

    def agrees(self, other: float) -> bool:
        """Whether *other* is the same value but for rounding."""
        if not math.isfinite(self.value) or not math.isfinite(other):
            return not math.isfinite(self.value) and not math.isfinite(other)
        return abs(self.value - other) <= self.tolerance


@dataclass(frozen=True, slots=True)
class Sent:
    """An objective as the client has it."""

    names: tuple[str, ...]
    #: empty where its model raises in the client: it may work elsewhere
    values: tuple[Value, ...]
    #: whether two evaluations gave the same value; None if there was one
    steady: bool | None
    #: what the number is
    what: str
    place: str
    versions: dict[str, str]


def number(objective: Objective, x: Array) -> float:
    """The number that is compared: half the sum of squared residuals, or a bumps problem's own negative log likelihood."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return objective.number(x)


# -- in the client -------------------------------------------------------------------------------


def first(objective: Objective, single: bool) -> First | None:
    """The objective at its start; None where the model raises, which it may do here alone."""
    began = time.perf_counter()
    try:
        value = number(objective, objective.start)
    except Exception:
        return None
    return First(value, single, time.perf_counter() - began)


def has_single(problem: Any) -> bool:
    """Whether numbers of single precision belong to a bumps problem: its data, or a model's kernel."""
    for one in reachable(problem):
        if any(map(_is_single, vars(one).values() if hasattr(one, "__dict__") else ())):
            return True
    return False


def _is_single(value: Any) -> bool:
    dtype = value.dtype if isinstance(value, np.ndarray | np.generic) else value
    return isinstance(dtype, np.dtype) and dtype.name in SINGLES


def with_values(assembly: Assembly) -> Assembly:
    """The assembly as it travels: with what its objective is here, evaluated as often as is cheap."""
    objective = assembly.objective
    with unchanged(*assembly.foreign):
        values, steady = _evaluated(objective)
    travelling = copy(assembly)
    travelling.sent = Sent(objective.names, values, steady, objective.number_is, place(), _versions(assembly))
    return travelling


def _evaluated(objective: Objective) -> tuple[tuple[Value, ...], bool | None]:
    known = objective.first
    if known is None:
        return (), None
    if known.seconds > CHEAP:
        return (_value(objective, objective.start, known.value, known.single),), None
    values = []
    try:
        for x in (objective.start, _near(objective)):  # it may have changed since
            values.append(_value(objective, x, number(objective, x), known.single))
        again = number(objective, objective.start)
    except Exception:  # nearby it may have no value
        return tuple(values), None
    return tuple(values), values[0].agrees(again)


def _near(objective: Objective) -> Array:
    """A point close to the start, inside the limits, where all parameters differ from it."""
    low, high, start = objective.low, objective.high, objective.start
    wide = np.isfinite(high - low)
    with np.errstate(all="ignore"):
        step = 1e-3 * np.where(wide, high - low, np.where(start == 0, 1.0, np.abs(start)))
    near: Array = np.where(start + step <= high, start + step, start - step)
    return np.clip(near, low, high)


def _value(objective: Objective, x: Array, value: float, single: bool) -> Value:
    part = SINGLE if single else DOUBLE
    length = math.sqrt(2 * abs(value)) if math.isfinite(value) else 0.0
    size = length + objective.length_of_data()
    return Value(
        x, value, part * length * size + (part * size) ** 2 / 2 + part * (abs(value) + objective.points)
    )


# -- anywhere ------------------------------------------------------------------------------------


def place() -> str:
    """This machine, with its Python and its user: processes of one place compute the same."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    return f"{platform.node()} ({platform.machine()}, Python {platform.python_version()} in {sys.prefix}, user {user})"


def _versions(assembly: Assembly) -> dict[str, str]:
    """The releases of what the models are made of."""
    names = {"numpy", "scipy", "bumps"}
    for one in (*(part.model.function for part in assembly.parts), *reachable(*assembly.foreign)):
        module = getattr(one if callable(one) else type(one), "__module__", None) or ""
        names.add(str(module).partition(".")[0])
    return {name: version for name in sorted(names) if (version := _version(name))}


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", ""))


# -- where it runs -------------------------------------------------------------------------------


def compare(assembly: Assembly, env: Env | None = None) -> None:
    """Raises NotAsSent where the objective computes something else than it did in the client."""
    known = assembly.sent
    if known is None:
        return
    objective = assembly.objective
    if objective.names != known.names:
        raise NotAsSent(
            f"the client fits {', '.join(known.names)}, and here the problem has {', '.join(objective.names)}: its "
            f"parameters have changed on their way from {known.place} to {place()}"
        )
    generators = Generators(keep=True)  # a fit draws the same numbers wherever this was done
    try:
        random = known.steady is False or _differs(objective, known)
    finally:
        generators.restore()
    if random and env is not None:
        env.publish(Log("the model draws random numbers: it is not compared with the client's", "warning"))


def _differs(objective: Objective, known: Sent) -> bool:
    """Raises NotAsSent; True where two evaluations differ here, and the client has made but one."""
    for value in known.values:
        try:
            here = number(objective, value.x)
            if value.agrees(here):
                continue
            again = number(objective, value.x)
        except Exception:
            return False  # the driver tells a model that raises from one that raises at times
        if known.steady is None and not value._replace(value=here).agrees(again):
            return True
        raise NotAsSent(_difference(known, value, here))
    return False


def _difference(known: Sent, value: Value, here: float) -> str:
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
        f"{known.place}, and is {here:.10g} on {place()}. {why} Look for what does not travel by value: files, "
        "libraries, and constants that the script has set in modules"
    )

"""The inequality constraints of a bumps problem: its *constraints*, and the limits of its computed parameters.

bumps gives a point outside them a penalty or an infinite value. As inequalities with a slack they let a method follow
their edge, and errors keep the directions that are free there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.problem.objective import Inequality


def check_constraints(problem: Any) -> None:
    """Raises InvalidRequest for a constraint that is no inequality of parameters."""
    for number, constraint in enumerate(getattr(problem, "constraints", ()), 1):
        operator = _operator(constraint)
        if operator in ("<", "<=", ">", ">="):
            continue
        given = f"{constraint.a} {operator} {constraint.b}" if operator else repr(constraint)
        raise InvalidRequest(
            f"constraint {number} of the problem is {given:.80}, not an inequality such as a.x <= b.y: == compares the two "
            "objects at once, and an equation ties parameters in this way: a.x.equals(b.y)"
        )


def inequalities_of(problem: Any, names: tuple[str, ...], two: tuple[Array, Array]) -> Iterator[Inequality]:
    """The inequalities of a problem whose fitted parameters have the *names*.

    An inequality depends on the parameters that change its slack between the *two* points.
    """

    def made(text: str, slack: Any) -> Inequality:
        one, other = two
        with np.errstate(all="ignore"):
            at_one = slack(one)
            moved = [np.where(np.arange(one.size) == j, other, one) for j in range(one.size)]
            used = tuple(name for name, x in zip(names, moved, strict=True) if slack(x) != at_one)
        return Inequality(text, slack, used)

    for constraint in getattr(problem, "constraints", ()):
        yield made(str(constraint).strip("()"), partial(_slack, problem, constraint))
    for parameter in computed_with_limits(problem):
        for sign, limit, word in zip((1.0, -1.0), parameter.prior.limits, (">=", "<="), strict=True):
            if np.isfinite(limit):
                yield made(f"{parameter} {word} {limit:g}", partial(_inside, problem, parameter, sign, limit))


def computed_with_limits(problem: Any) -> list[Any]:
    """The parameters of a problem that are computed from others and have limits."""
    fitted = {id(parameter) for parameter in getattr(problem, "_parameters", ())}
    return [
        parameter
        for parameter in getattr(problem, "_priors", ())
        if id(parameter) not in fitted
        and not getattr(parameter, "fittable", True)
        and np.isfinite(parameter.prior.limits).any()
    ]


def fails(problem: Any, limited: list[Any]) -> bool:
    """Whether a constraint, or a limit of the computed parameters in *limited*, does not hold at the present parameters."""
    if hasattr(problem, "constraints_nllf") and problem.constraints_nllf()[1]:
        return True
    return any(
        not low <= parameter.value <= high for parameter in limited for low, high in (parameter.prior.limits,)
    )


def _operator(constraint: Any) -> str:
    """The comparison of a constraint as text; "" if it compares nothing."""
    if not all(hasattr(constraint, name) for name in ("op", "a", "b")):
        return ""
    return str(getattr(constraint.op, "value", constraint.op))


def _slack(problem: Any, constraint: Any, x: Array) -> float:
    problem.setp(x)
    below = float(constraint.b) - float(constraint.a)
    return below if _operator(constraint).startswith("<") else -below


def _inside(problem: Any, parameter: Any, sign: float, limit: float, x: Array) -> float:
    problem.setp(x)
    return float(sign * (parameter.value - limit))

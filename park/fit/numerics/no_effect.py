"""Parameters on which a model does not depend anywhere.

At the end of a fit the derivative by such a parameter is zero, as it is on a plateau, where the fit has not converged. The
difference shows elsewhere: a parameter that is merely on a plateau changes the model at other points.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from park.fit.arrays import Array
from park.fit.numerics.derivatives import difference_steps
from park.fit.problem.objective import Objective
from park.fit.problem.undefined_points import trials

#: Largest change that is rounding noise, as a part of the change by a difference step.
_NOISE = 1e-6


def has_effect(objective: Objective, x: Array, j: int, scale: float) -> bool:
    """Whether parameter *j* changes the model about *x* (k,), the start, or any of some random points.

    It is moved across its limits or, without limits, by *scale* and multiples of it.
    """
    steps = difference_steps(objective, fenced=False)
    for point in (x, objective.start, *trials(objective.start, objective.low, objective.high)):
        values = [steps.function(moved) for moved in _moved(objective, point, j, scale)]
        for value in values[1:]:
            same = np.array_equal(value, values[0], equal_nan=True)
            if not same and not steps.change(value - values[0]) <= _NOISE:
                return True
    return False


def _moved(objective: Objective, point: Array, j: int, scale: float) -> Iterator[Array]:
    low, high = float(objective.low[j]), float(objective.high[j])
    if np.isfinite(high - low):
        values = np.linspace(low, high, 5)
    else:
        values = np.clip(point[j] + scale * np.array([0.0, 1.0, -1.0, 1e3, -1e3]), low, high)
    for value in values:
        moved = point.copy()
        moved[j] = value
        yield moved

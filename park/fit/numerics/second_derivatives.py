"""The second derivatives of the negative log likelihood (nllf), by differences whose steps are chosen by its rise.

Short steps are for smooth functions. Long steps, of about one standard error, see over ripples and over jumps of the slope:
at the minimum of abs(a) there is no derivative, but nllf rises by 1/2 at some distance, which is the standard error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.numerics.derivatives import EPS

#: Rise of nllf by a step of second differences: a few hundredths of a standard error, far above the rounding noise.
SHORT_STEP_RISE = 1e-4
#: The same for a step of one conditional standard error, for a model that is not smooth.
LONG_STEP_RISE = 0.5
#: Factor within which a step has the desired rise, and the ratio of a step that is too long to one that is too short at
#: which the search ends.
_SHORT_RISE_FACTORS, _LONG_RISE_FACTORS = (3.0, 1.5), (1.1, 1.02)
#: A second difference below this multiple of the rounding of nllf says nothing: limits may leave no room for more.
_NOISE_RATIO = 1e4
#: Number of updates of long steps, until each is about one standard error with the others following.
_LONG_STEP_UPDATES = 3
#: The distance in steps that second differences keep from a limit.
_OFF_LIMIT = 1.001


def second_derivatives(
    model: Callable[[Array], float],
    x: Array,
    low: Array,
    high: Array,
    rise: float = SHORT_STEP_RISE,
) -> tuple[Array, NDArray[np.float64]]:
    """The gradient (k,) and the second derivatives (k, k) of nllf, the function *model*, at *x*.

    *rise* is the mean rise of nllf above and below, by which steps are chosen. Within one step of a limit the derivatives
    are evaluated a little more than one step inside, because nllf may be infinite on the limit. A second pass along the
    eigenvectors of the first keeps them accurate for correlated parameters.
    """

    def nllf(point: Array) -> float:  # rounding may carry a step to a limit across it
        return model(np.clip(point, low, high))

    value = nllf(x)
    target = max(rise, 1e6 * EPS * abs(value) if np.isfinite(value) else 0.0)
    sizes = np.array([_reach(nllf, x, j, low, high, value, target) for j in range(x.size)])
    room = (high - low) / 4
    sizes = np.minimum(sizes, room)
    center = np.clip(x, low + _OFF_LIMIT * sizes, high - _OFF_LIMIT * sizes)
    gradient, hessian = _along(nllf, center, np.diag(sizes))
    scaled = hessian * np.outer(sizes, sizes)
    if not np.isfinite(scaled).all():
        return gradient, hessian
    noise = np.abs(np.diag(scaled)) < _NOISE_RATIO * EPS * abs(value)
    if noise.any():
        hessian[noise] = hessian[:, noise] = 0.0
        return gradient, hessian
    values, vectors = np.linalg.eigh(scaled)
    if values.min() > 1e-12 * values.max() and values.max() > 30 * values.min():
        basis = (vectors * np.sqrt(2 * target / values)) * sizes[:, None]
        reach = np.abs(basis).sum(axis=1)
        if np.all(center - reach > low) and np.all(center + reach < high):
            again = _along(nllf, center, basis)
            if np.isfinite(again[1]).all():
                return again
    for _ in range(_LONG_STEP_UPDATES if rise >= LONG_STEP_RISE else 0):
        with np.errstate(all="ignore"):
            sizes = np.minimum(np.sqrt(np.diag(np.linalg.pinv(hessian, hermitian=True))), room)
        again = _along(
            nllf, np.clip(x, low + _OFF_LIMIT * sizes, high - _OFF_LIMIT * sizes), np.diag(sizes), True
        )
        if not (np.isfinite(again[1]).all() and np.linalg.eigvalsh(again[1] * np.outer(sizes, sizes))[0] > 0):
            break
        gradient, hessian = again
    return gradient, hessian


def _along(
    nllf: Callable[[Array], float], x: Array, basis: Array, jumps: bool = False
) -> tuple[Array, Array]:
    """The gradient and second derivatives at *x* by steps along the columns of *basis* (k, k).

    *jumps* says that slopes may jump at *x*. Where the mixed derivatives have different signs above and below, as those
    of abs(a) and another parameter, their mean says nothing, and those above count.
    """
    k = x.size
    value = nllf(x)
    up = np.array([nllf(x + step) for step in basis.T])
    down = np.array([nllf(x - step) for step in basis.T])
    second = np.diag(up + down - 2 * value)
    for i in range(k):
        for j in range(i):
            above = nllf(x + basis[:, i] + basis[:, j]) - up[i] - up[j] + value
            below = nllf(x - basis[:, i] - basis[:, j]) - down[i] - down[j] + value
            second[i, j] = second[j, i] = above if jumps and above * below < 0 else (above + below) / 2
    inverse = np.linalg.inv(basis)
    gradient: Array = inverse.T @ ((up - down) / 2)
    return gradient, inverse.T @ second @ inverse


def _reach(
    nllf: Callable[[Array], float], x: Array, j: int, low: Array, high: Array, value: float, target: float
) -> float:
    """The step of parameter *j* at which half the second difference of nllf is *target*."""
    room = (high[j] - low[j]) / 4
    step = 1e-4 * room if np.isfinite(room) else 2.0**-20 * (abs(x[j]) or 1.0)
    least, most = 0.0, np.inf
    noise = 8 * EPS * abs(value)
    # over a long step the likelihood need not be quadratic
    factor, closest = _LONG_RISE_FACTORS if target >= LONG_STEP_RISE else _SHORT_RISE_FACTORS
    for _ in range(60):
        center = x.copy()
        center[j] = min(max(x[j], low[j] + _OFF_LIMIT * step), high[j] - _OFF_LIMIT * step)
        up, down = center.copy(), center.copy()
        up[j], down[j] = center[j] + step, center[j] - step
        rise = abs(nllf(up) + nllf(down) - 2 * nllf(center)) / 2
        if target / factor <= rise <= factor * target:
            return step
        if rise < target:
            least = step
            if step >= room:
                return step
            following = min(step * (min((target / rise) ** 0.5, 1e3) if rise > noise else 30.0), room)
            following = following if following < most else (least * most) ** 0.5
        else:
            most = step
            following = step * max((target / rise) ** 0.5, 1e-4) if np.isfinite(rise) else step * 1e-3
            following = following if following > least else (least * most) ** 0.5
        if most < closest * least or not 1e-300 < following < 1e100:
            break
        step = float(following)
    return step

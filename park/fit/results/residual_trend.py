"""A test of residuals for scatter, where there is no dy with which to compare them.

Errors that are estimated from the residuals are right if the residuals are independent. A wrong model, or a local
minimum, leaves residuals that follow a curve: along x each is like the one before it. With dy, chi-squared shows such a
fit. Without dy only this test shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from park.fit.curves.curve import Curve

#: Least correlation of neighbours, and its least ratio to that of pure scatter, 1/sqrt(n), that count as a trend.
_LEAST_CORRELATION, _LEAST_SIGMAS = 0.5, 5.0
#: Residuals below this part of the spread of the data are those of a nearly exact model.
_EXACT_RATIO = 1e-4


def trends(curves: Iterable[Curve]) -> Iterator[str]:
    """A remark for each curve without dy whose residuals are no scatter."""
    for curve in curves:
        found = _correlation(curve) if curve.dy is None else 0.0
        if found > max(_LEAST_CORRELATION, _LEAST_SIGMAS / math.sqrt(max(curve.y.size, 1))):
            yield (
                f"the residuals of {curve.name} are no pure scatter (correlation {found:.2f} of neighbours): the model is "
                "wrong, this is a local minimum, or the scatter is correlated; the errors, which come from the residuals, "
                "are too small; fit from more points (starts=10) or with method 'de'"
            )


def _correlation(curve: Curve) -> float:
    """The correlation of neighbouring residuals along x; 0 if the points have no order, or the model is nearly exact."""
    x, y, residuals = curve.x, curve.y, curve.residuals
    if not (y.ndim == 1 and y.size > 1 and x.shape == y.shape == residuals.shape and y.dtype.kind == "f"):
        return 0.0
    away = curve.theory - y
    if not (np.isfinite(away).all() and away.std() > _EXACT_RATIO * y.std()):
        return 0.0
    away = (away - away.mean())[np.argsort(x, kind="stable")]
    return float(away[1:] @ away[:-1]) / float(away @ away)

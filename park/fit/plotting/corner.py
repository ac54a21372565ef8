"""Corner plots: the distributions of parameters and of pairs of parameters, from draws or from the covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from park.fit.arrays import Array
from park.fit.plotting import kernel_density
from park.fit.plotting.curve_panels import BAND_COLOR, FIT_COLOR
from park.fit.plotting.notebook_figure import NotebookFigure

if TYPE_CHECKING:
    from park.fit.results.result import FitResult

#: Radii, in standard deviations, that hold 68.3 and 95 % of a normal distribution in two dimensions.
ELLIPSE_RADII = (1.515, 2.448)
#: Line widths (points) of the contours that hold 95 and 68 % of the draws.
CONTOUR_WIDTHS = (0.8, 1.6)


def distribution(result: FitResult, n: int) -> tuple[Array, Array] | None:
    """Positions and probability densities of parameter *n*; None for constant draws or an unknown error.

    Without draws the distribution is normal, or Student's t if the size of dy was estimated.
    """
    if result.draws is not None:
        draws = result.draws[:, n]
        if not np.ptp(draws):
            return None
        return kernel_density.smooth(draws, result.low[n], result.high[n], independent(result, [n]))
    mean, sigma = result.x[n], result.dx[n]
    if not (np.isfinite(sigma) and sigma > 0):
        return None
    low, high = result.intervals(0.95)[result.names[n]]
    reach = max(4.0, 0.75 * (high - low) / sigma)
    t = np.linspace(-reach, reach, 401)
    freedom = np.inf if result.student is None else float(result.student[n])
    density = np.exp(-0.5 * t**2) if np.isinf(freedom) else (1 + t**2 / freedom) ** (-0.5 * (freedom + 1))
    return mean + sigma * t, density


def independent(result: FitResult, chosen: Sequence[int]) -> float:
    """The smallest effective sample size of the chosen parameters."""
    assert result.draws is not None
    if result.ess is not None and np.isfinite(result.ess[list(chosen)]).all():
        return max(10.0, float(result.ess[list(chosen)].min()))
    return max(10.0, len(result.draws) / 10)


def pairs(result: FitResult, chosen: Sequence[int]) -> NotebookFigure:
    """A corner plot of the chosen parameters, with their distributions on the diagonal."""
    count = len(chosen)
    side = min(13.0, 1.7 * count + 1.4)
    figure = NotebookFigure(figsize=(side, side), layout="constrained")
    grid = figure.subplots(count, count, squeeze=False, sharex="col")
    correlation = correlations(result.cov)
    for row, vertical in enumerate(chosen):
        for column, horizontal in enumerate(chosen):
            axes = grid[row][column]
            if column > row:
                axes.set_visible(False)
                continue
            if column == row:
                _diagonal(axes, result, vertical)
            else:
                _pair(axes, result, horizontal, vertical)
                text = f"ρ = {correlation[vertical, horizontal]:.2f}"
                axes.set_title(text, fontsize="small", loc="right", pad=2, color="0.3")
            bottom, left = row == count - 1, column == 0 and row > 0
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelsize="x-small")
            axes.tick_params(axis="x", labelbottom=bottom, rotation=30)
            axes.tick_params(axis="y", labelleft=left)
            axes.set_xlabel(result.label(result.names[horizontal]) if bottom else "")
            axes.set_ylabel(result.label(result.names[vertical]) if left else "")
    best = Line2D([], [], color="black", marker="+", ls="", ms=7, label="best")
    figure.legend(handles=[*_contours(result), best], loc="upper right", frameon=False)
    return figure


def _contours(result: FitResult) -> list[Artist]:
    """Legend entries for the contours."""
    if result.draws is not None:
        widths = zip(("68 %", "95 %"), reversed(CONTOUR_WIDTHS), strict=True)
        return [Line2D([], [], color=FIT_COLOR, lw=width, label=label) for label, width in widths]
    return [
        Patch(facecolor=BAND_COLOR, alpha=0.75, edgecolor=FIT_COLOR, label="68 %"),
        Patch(facecolor=BAND_COLOR, alpha=0.3, edgecolor=FIT_COLOR, label="95 %"),
    ]


def _diagonal(axes: Axes, result: FitResult, n: int) -> None:
    found = distribution(result, n)
    if found is not None:
        axes.fill_between(*found, color=BAND_COLOR, alpha=0.6, lw=0)
        axes.plot(*found, color="0.25", lw=1)
        axes.set_ylim(bottom=0)
        axes.set_xlim(found[0][0], found[0][-1])
    axes.axvline(result.x[n], color=FIT_COLOR, lw=1)
    axes.set_yticks([])


def _pair(axes: Axes, result: FitResult, horizontal: int, vertical: int) -> None:
    """The density of the draws, or the ellipses of the covariance, with the best point."""
    axes.yaxis.set_major_locator(MaxNLocator(3))
    pair = [horizontal, vertical]
    if result.draws is None:
        _ellipses(axes, result, pair)
    elif np.ptp(result.draws[:, pair], axis=0).all():
        limits = np.array([result.low[pair], result.high[pair]]).T
        both = result.draws[:, pair]
        u, v, density = kernel_density.smooth2(both[:, 0], both[:, 1], limits, independent(result, pair))
        axes.set_facecolor(colormaps["Oranges"](0))
        axes.set_xlim(kernel_density.window(both[:, 0], *limits[0]))
        axes.set_ylim(kernel_density.window(both[:, 1], *limits[1]))
        axes.pcolormesh(u, v, density, cmap="Oranges", rasterized=True, shading="nearest")
        heights = kernel_density.levels(density, (0.95, 0.68))
        if heights[0] < heights[1]:
            axes.contour(u, v, density, levels=heights, colors=[FIT_COLOR], linewidths=CONTOUR_WIDTHS)
    axes.plot(result.x[horizontal], result.x[vertical], "+", color="black", ms=7)


def _ellipses(axes: Axes, result: FitResult, pair: list[int]) -> None:
    """Ellipses as wide as the intervals of the parameters (Student's t if the size of dy was estimated)."""
    from park.fit.numerics.intervals import widened

    x, cov = result.x[pair], widened(result.cov, result.student)[np.ix_(pair, pair)]
    deviation = np.sqrt(np.diag(cov))
    if not np.isfinite(cov).all() or not (deviation > 0).all():
        return
    # In units of the errors: parameters of very different sizes would lose the shorter axis to rounding.
    size, axis = np.linalg.eigh(cov / np.outer(deviation, deviation))
    turn = np.linspace(0, 2 * np.pi, 181)
    circle = np.sqrt(np.maximum(size, 0))[:, None] * np.array([np.cos(turn), np.sin(turn)])
    for radius, alpha in zip(reversed(ELLIPSE_RADII), (0.3, 0.75), strict=True):
        ellipse = x[:, None] + deviation[:, None] * radius * (axis @ circle)
        axes.fill(*ellipse, facecolor=BAND_COLOR, alpha=alpha, edgecolor="none")
        axes.plot(*ellipse, color=FIT_COLOR, lw=0.8)
    axes.set_xlim(x[0] - 4 * deviation[0], x[0] + 4 * deviation[0])
    axes.set_ylim(x[1] - 4 * deviation[1], x[1] + 4 * deviation[1])


def heat_map(result: FitResult) -> tuple[NotebookFigure, list[str]]:
    """A map of all correlation coefficients, and the three strongest correlations as text."""
    count = len(result.names)
    side = min(13.0, 0.32 * count + 3.2)
    figure = NotebookFigure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    correlation = correlations(result.cov)
    mesh = axes.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    size = "small" if count <= 24 else "x-small"
    axes.set_xticks(range(count), result.names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), result.names, fontsize=size)
    if count <= 16:
        for (row, column), value in np.ndenumerate(correlation):
            if np.isfinite(value) and row != column:
                color = "white" if abs(value) > 0.6 else "0.3"
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5}
                axes.text(column, row, f"{value:.2f}", color=color, **place)
    figure.colorbar(mesh, ax=axes, label="correlation", shrink=0.8)
    known = [(a, b) for a in range(count) for b in range(a) if np.isfinite(correlation[a, b])]
    known.sort(key=lambda pair: -abs(correlation[pair]))
    return figure, [f"{result.names[b]} and {result.names[a]} {correlation[a, b]:.3f}" for a, b in known[:3]]


def correlations(cov: Array) -> Array:
    """The correlation coefficients (k, k) of a covariance (k, k); nan for infinite or zero variances."""
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.diag(cov))
        result: Array = cov / np.outer(deviation, deviation)
    return result

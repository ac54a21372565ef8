"""Pictures of a result. Each method returns a matplotlib ``Figure``; pyplot and its global state stay out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from park.errors import InvalidRequest
from park.fit import densities, drawing
from park.fit.curve import Curve
from park.fit.data import Array
from park.fit.drawing import VIEWS

if TYPE_CHECKING:
    from park.fit.result import FitResult

_FIT, _BAND = drawing.FIT, drawing.BAND
#: Parts in one picture, and parameters for which every pair has a panel.
MOST_PARTS, MOST_PAIRED = 20, 8
#: A larger R-hat is told.
WELL_MIXED = 1.05
#: Radii that hold 68.3 and 95 % of a normal distribution in two dimensions.
RADII = (1.515, 2.448)


class Plots:
    """The pictures of one result: ``result.plot``."""

    def __init__(self, result: FitResult) -> None:
        self._result = result

    def all(self) -> dict[str, Figure]:
        """Every picture that this result has something for, by name."""
        return {name: draw() for name, draw in self.each().items()}

    def each(self) -> dict[str, Callable[[], Figure]]:
        """What draws each picture that this result has something for, by name."""
        pictures: dict[str, Callable[[], Figure]] = {}
        if self._result.curves:
            pictures["fit"] = self.fit
        if len(self._result.convergence):
            pictures["convergence"] = self.convergence
        pictures["marginals"] = self.marginals
        if len(self._result.names) > 1:
            pictures["correlations"] = self.correlations
        return pictures

    def fit(self, view: str | None = None, parts: Sequence[int] | int | None = None) -> Figure:
        """Data with error bars, the fit, its 95 % band, and the residuals below; for images all three side by side.

        *view* is "linear", "log" (y), "logx", "loglog" or "q4" (y times the fourth power of x, on a logarithmic
        axis); None looks at the data. *parts* are the numbers of the parts to draw, from 1; None draws all, but
        no more than the first twenty.
        """
        if view not in (None, *VIEWS):
            raise InvalidRequest(f"view={view!r} is none of {', '.join(VIEWS)}")
        curves, more = self._parts(parts)
        figure, cells = _grid(curves)
        for cell, curve in zip(cells, curves, strict=True):
            drawing.draw(figure, cell, curve, view, drawing.title(curve, len(self._result.curves) == 1))
        self._headline(figure, f"{self._result.statistic} {self._result.chisq:.4g}{more}")
        return figure

    def _parts(self, parts: Sequence[int] | int | None) -> tuple[list[Curve], str]:
        curves = self._result.curves
        if parts is None:
            few = list(curves[:MOST_PARTS])
            more = f"; the first {len(few)} of {len(curves)} parts" if len(few) < len(curves) else ""
            return few, more
        chosen = [parts] if isinstance(parts, int) else list(parts)
        for number in chosen:
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(curves):
                raise InvalidRequest(f"parts={parts!r}: the parts have the numbers 1 to {len(curves)}")
        return [curves[number - 1] for number in chosen], ""

    def _headline(self, figure: Figure, text: str) -> None:
        """The title of a picture, with what keeps one from trusting it."""
        result = self._result
        doubts = []
        if result.stopped:
            doubts.append("stopped early")
        elif not result.converged:
            doubts.append("not converged")
            if result.rhat is not None and np.nanmax(result.rhat, initial=1.0) > WELL_MIXED:
                doubts.append(f"R-hat up to {np.nanmax(result.rhat):.2f}")
        if doubts:
            figure.suptitle(f"{text}; {', '.join(doubts)}", fontsize="medium", color="tab:red", weight="bold")
        else:
            figure.suptitle(text, fontsize="medium")

    def convergence(self) -> Figure:
        """The best chi-squared so far, and the spread of the population, over the steps.

        Where chi-squared is not what is minimised (unknown dy, counts) it is the negative log likelihood.
        """
        result = self._result
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        rows = result.convergence
        reduced = result.dof > 0 and result.statistic == "reduced chi-squared"
        rows = rows * (2 / result.dof if reduced else 1.0)
        rows = np.where(np.isfinite(rows), rows, np.nan)
        steps = np.arange(1, len(rows) + 1)
        if rows.shape[1] == 6:
            axes.fill_between(steps, rows[:, 2], rows[:, 4], color=_BAND, alpha=0.4, lw=0, label="20 to 80 %")
            axes.plot(steps, rows[:, 3], color=_BAND, label="median of the population")
        axes.plot(steps, rows[:, 0], color=_FIT, label="best", marker="o" if len(rows) < 20 else "", ms=3)
        finite = rows[np.isfinite(rows)]
        if finite.size and 0 < 10 * finite.min() < finite.max():
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("reduced chi-squared" if reduced else "negative log likelihood")
        axes.legend(frameon=False)
        self._headline(figure, f"{result.method}, {result.steps} steps")
        return figure

    def marginals(self) -> Figure:
        """Each fitted parameter's distribution with its 68 and 95 % intervals."""
        result = self._result
        count = len(result.names)
        columns = min(4 if count <= 16 else 6, count)
        rows = -(-count // columns)
        width, height = (3.4, 2.8) if count <= 16 else (2.6, 2.1)
        layout = ConstrainedLayoutEngine(w_pad=0.08)
        figure = Figure(figsize=(max(width * columns, 5.0), height * rows + 0.6), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False)
        for n, axes in enumerate(grid.flat):
            if n >= count:
                axes.set_visible(False)
            else:
                self._marginal(axes, n)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        self._headline(figure, _counted(result))
        return figure

    def _marginal(self, axes: Axes, n: int) -> None:
        result = self._result
        name = result.names[n]
        found = self._density(n)
        if found is not None:
            x, density = found
            axes.plot(x, density, color="0.25", lw=1)
            for p, alpha in ((0.95, 0.3), (0.68, 0.75)):
                low, high = result.intervals(p)[name]
                inside = np.linspace(max(low, x[0]), min(high, x[-1]), 256)
                axes.fill_between(
                    inside,
                    np.interp(inside, x, density),
                    color=_BAND,
                    alpha=alpha,
                    lw=0,
                    label=f"{100 * p:.0f} %",
                )
            axes.set_ylim(bottom=0)
            axes.set_xlim(x[0], x[-1])
            for limit in (result.low[n], result.high[n]):
                if x[0] - 0.02 * np.ptp(x) <= limit <= x[-1] + 0.02 * np.ptp(x):
                    axes.axvline(limit, color="0.2", lw=1.5, ls=":", label="limit")
        else:
            axes.text(0.5, 0.5, "no error", ha="center", va="center", transform=axes.transAxes, color="0.4")
        axes.axvline(result.x[n], color=_FIT, lw=1.2, label="best")
        axes.set_title(_value(result, name), fontsize="medium" if len(result.names) <= 16 else "small")
        axes.set_xlabel(name)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(3))

    def _density(self, n: int) -> tuple[Array, Array] | None:
        """The distribution of a parameter: smoothed draws, or that of its standard error; None without one."""
        result = self._result
        if result.draws is not None:
            draws = result.draws[:, n]
            if not np.ptp(draws):
                return None
            return densities.smooth(draws, result.low[n], result.high[n], self._independent([n]))
        mean, sigma = result.x[n], result.dx[n]
        if not (np.isfinite(sigma) and sigma > 0):
            return None
        x = np.linspace(mean - 4 * sigma, mean + 4 * sigma, 201)
        return x, np.exp(-0.5 * ((x - mean) / sigma) ** 2)

    def _independent(self, chosen: list[int]) -> float:
        """How many independent draws those of the chosen parameters are worth."""
        result = self._result
        assert result.draws is not None
        if result.ess is not None and np.isfinite(result.ess[chosen]).all():
            return max(10.0, float(result.ess[chosen].min()))
        return max(10.0, len(result.draws) / 10)

    def correlations(self, names: Sequence[str] | None = None) -> Figure:
        """Pairs of parameters with the contours that hold 68 and 95 %: of the draws, or of the covariance.

        For more than eight parameters it is a map of all correlation coefficients, and *names* choose those
        whose pairs are drawn.
        """
        result = self._result
        for name in names or ():
            if name not in result.names:
                raise InvalidRequest(f"names={names!r}: fitted are {', '.join(result.names)}")
        chosen = [result.names.index(name) for name in names or result.names]
        if names is None and len(chosen) > MOST_PAIRED:
            return self._map()
        count = len(chosen)
        side = min(13.0, 1.7 * count + 1.4)
        figure = Figure(figsize=(side, side), layout="constrained")
        grid = figure.subplots(count, count, squeeze=False, sharex="col")
        correlation = _correlation(result.cov)
        for row, vertical in enumerate(chosen):
            for column, horizontal in enumerate(chosen):
                axes = grid[row][column]
                if column > row:
                    axes.set_visible(False)
                    continue
                if column == row:
                    self._diagonal(axes, vertical)
                else:
                    self._pair(axes, horizontal, vertical)
                    text = f"{correlation[vertical, horizontal]:.2f}"
                    axes.set_title(text, fontsize="small", loc="right", pad=2, color="0.3")
                axes.xaxis.set_major_locator(MaxNLocator(3))
                axes.tick_params(labelsize="x-small")
                axes.tick_params(axis="x", labelbottom=row == count - 1, rotation=30)
                axes.tick_params(axis="y", labelleft=column == 0 and row > 0)
                if row == count - 1:
                    axes.set_xlabel(result.names[horizontal])
                if column == 0 and row > 0:
                    axes.set_ylabel(result.names[vertical])
        handles = [
            Patch(facecolor=_BAND, alpha=0.75, edgecolor=_FIT, label="68 %"),
            Patch(facecolor=_BAND, alpha=0.3, edgecolor=_FIT, label="95 %"),
            Line2D([], [], color="black", marker="+", ls="", ms=7, label="best"),
        ]
        figure.legend(handles=handles, loc="upper right", frameon=False)
        self._headline(figure, _counted(result))
        return figure

    def _diagonal(self, axes: Axes, n: int) -> None:
        found = self._density(n)
        if found is not None:
            axes.fill_between(*found, color=_BAND, alpha=0.6, lw=0)
            axes.plot(*found, color="0.25", lw=1)
            axes.set_ylim(bottom=0)
            axes.set_xlim(found[0][0], found[0][-1])
        axes.axvline(self._result.x[n], color=_FIT, lw=1)
        axes.set_yticks([])

    def _pair(self, axes: Axes, horizontal: int, vertical: int) -> None:
        result = self._result
        axes.yaxis.set_major_locator(MaxNLocator(3))
        pair = [horizontal, vertical]
        if result.draws is not None and np.ptp(result.draws[:, pair], axis=0).all():
            limits = np.array([result.low[pair], result.high[pair]]).T
            both = result.draws[:, pair]
            u, v, density = densities.smooth2(both[:, 0], both[:, 1], limits, self._independent(pair))
            axes.set_facecolor(colormaps["Oranges"](0))
            axes.set_xlim(densities.window(both[:, 0], *limits[0]))
            axes.set_ylim(densities.window(both[:, 1], *limits[1]))
            axes.pcolormesh(u, v, density, cmap="Oranges", rasterized=True, shading="nearest")
            heights = densities.levels(density, (0.95, 0.68))
            if heights[0] < heights[1]:
                axes.contour(u, v, density, levels=heights, colors=[_FIT], linewidths=[0.8, 1.2])
        elif result.draws is None:
            self._ellipses(axes, horizontal, vertical)
        axes.plot(result.x[horizontal], result.x[vertical], "+", color="black", ms=7)

    def _ellipses(self, axes: Axes, horizontal: int, vertical: int) -> None:
        result = self._result
        pair = np.array([horizontal, vertical])
        block, deviation = result.cov[np.ix_(pair, pair)], result.dx[pair]
        if not np.isfinite(block).all() or not (deviation > 0).all():
            return
        # In units of the errors: parameters of very different sizes would lose the shorter axis to rounding.
        size, axis = np.linalg.eigh(block / np.outer(deviation, deviation))
        turn = np.linspace(0, 2 * np.pi, 181)
        circle = np.sqrt(np.maximum(size, 0))[:, None] * np.array([np.cos(turn), np.sin(turn)])
        for radius, alpha in zip(reversed(RADII), (0.3, 0.75), strict=True):
            ellipse = result.x[pair][:, None] + deviation[:, None] * radius * (axis @ circle)
            axes.fill(*ellipse, facecolor=_BAND, alpha=alpha, edgecolor="none")
            axes.plot(*ellipse, color=_FIT, lw=0.8)
        axes.set_xlim(result.x[horizontal] - 4 * deviation[0], result.x[horizontal] + 4 * deviation[0])
        axes.set_ylim(result.x[vertical] - 4 * deviation[1], result.x[vertical] + 4 * deviation[1])

    def _map(self) -> Figure:
        """All correlation coefficients as colours, and the strongest in words."""
        result = self._result
        count = len(result.names)
        side = min(13.0, 0.32 * count + 3.2)
        figure = Figure(figsize=(side + 1.2, side), layout="constrained")
        axes = figure.subplots()
        correlation = _correlation(result.cov)
        mesh = axes.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
        size = "small" if count <= 24 else "x-small"
        axes.set_xticks(range(count), result.names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), result.names, fontsize=size)
        if count <= 16:
            for (row, column), value in np.ndenumerate(correlation):
                if np.isfinite(value) and row != column:
                    color = "white" if abs(value) > 0.6 else "0.3"
                    axes.text(
                        column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color
                    )
        figure.colorbar(mesh, ax=axes, label="correlation", shrink=0.8)
        pairs = [(row, column) for row in range(count) for column in range(row)]
        pairs = [pair for pair in pairs if np.isfinite(correlation[pair])]
        strongest = sorted(pairs, key=lambda pair: -abs(correlation[pair]))[:3]
        words = [f"{result.names[b]} and {result.names[a]} {correlation[a, b]:.3f}" for a, b in strongest]
        self._headline(
            figure, "\n".join(["correlations; the strongest:", *words]) if words else "correlations"
        )
        return figure


def _grid(curves: Sequence[Curve]) -> tuple[Figure, list[SubplotSpec]]:
    """A figure and a cell of it for each curve: one row for a few, else about a square."""
    count = max(1, len(curves))
    if any(drawing.wide(curve) for curve in curves):
        columns = 1 if count <= 4 else 2
        width, height = 11.0 / columns**0.5, 3.6
    else:
        columns = math.ceil(math.sqrt(count))
        width, height = (
            ((6.4, 5.6), (6.0, 4.8), (4.8, 4.2))[min(columns, 3) - 1] if columns <= 3 else (4.0, 3.6)
        )
        if any(curve.profiles for curve in curves):
            height *= 1.4
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    return figure, [grid[divmod(n, columns)] for n in range(len(curves))]


def _counted(result: FitResult) -> str:
    return result.method if result.draws is None else f"{len(result.draws)} draws"


def _value(result: FitResult, name: str) -> str:
    """A parameter with its error, and whether it ended at a limit."""
    from park.fit.result import uncertain

    estimate = result[name]
    at_limit = ", at limit" if name in result.at_limit else ""
    return f"{uncertain(estimate.value, estimate.stderr)}{at_limit}"


def _correlation(cov: Array) -> Array:
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.diag(cov))
        result: Array = cov / np.outer(deviation, deviation)
    return result

"""The plots of a result. Each method returns a matplotlib ``Figure``; pyplot and its global state are not used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from park.errors import InvalidRequest
from park.fit.curves.curve import Curve
from park.fit.plotting import corner, curve_panels
from park.fit.plotting.curve_panels import VIEWS
from park.fit.plotting.notebook_figure import NotebookFigure

if TYPE_CHECKING:
    from park.fit.results.result import FitResult

_FIT, _BAND = curve_panels.FIT_COLOR, curve_panels.BAND_COLOR
#: Parts in one picture, and parameters for which every pair has a panel.
MAX_PANELS, MAX_PAIRED_PARAMETERS = 20, 8


class Plots:
    """The plots of one *result*: ``result.plot``. With *quiet* True a notebook does not show them by itself.

    >>> import numpy as np
    >>> import park
    >>> from park.fit import Assembly, Fit, Model
    >>> x = np.linspace(0, 4, 20)
    >>> line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-5, 5))
    >>> with park.local_service:
    ...     result = Fit(Assembly((line, (x, 2 * x + 1, 0.1)))).wait()
    >>> sorted(result.plot.all())
    ['convergence', 'correlations', 'fit', 'marginals']
    """

    def __init__(self, result: FitResult, quiet: bool = False) -> None:
        self._result = result
        self._quiet = quiet

    def all(self) -> dict[str, NotebookFigure]:
        """All plots that this result has data for, by name."""
        return {name: draw() for name, draw in self.each().items()}

    def each(self) -> dict[str, Callable[[], NotebookFigure]]:
        """The functions that draw these plots, by name."""
        pictures: dict[str, Callable[[], NotebookFigure]] = {}
        if any(curve.residuals.size or curve.image for curve in self._result.curves):
            pictures["fit"] = self.fit
        if len(self._result.convergence):
            pictures["convergence"] = self.convergence
        pictures["marginals"] = self.marginals
        if len(self._result.names) > 1:
            pictures["correlations"] = self.correlations
        return pictures

    def fit(self, view: str | None = None, parts: Sequence[int] | int | None = None) -> NotebookFigure:
        """Data with error bars, the fit with its 95 % band, and the residuals below; images are drawn side by side.

        *view* is "linear", "log" (y), "logx", "loglog" or "q4" (y times the fourth power of x, on a logarithmic axis); with
        None the range of the data decides. *parts* are the numbers of the parts to draw, from 1; None draws the first
        twenty. Raises InvalidRequest for an unknown view or part.
        """
        if view not in (None, *VIEWS):
            raise InvalidRequest(f"view={view!r} is none of {', '.join(VIEWS)}")
        curves, more = self._parts(parts)
        figure, cells = _grid(curves)
        for cell, curve in zip(cells, curves, strict=True):
            curve_panels.draw(
                figure, cell, curve, view, curve_panels.title(curve, len(self._result.curves) == 1)
            )
        return self._headed(figure, f"{self._result.statistic} {self._result.chisq:.4g}{more}")

    def _parts(self, parts: Sequence[int] | int | None) -> tuple[list[Curve], str]:
        curves = self._result.curves
        if parts is None:
            few = list(curves[:MAX_PANELS])
            more = f"; the first {len(few)} of {len(curves)} parts" if len(few) < len(curves) else ""
            return few, more
        chosen = [parts] if isinstance(parts, int) else list(parts)
        for number in chosen:
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(curves):
                raise InvalidRequest(f"parts={parts!r}: the parts have the numbers 1 to {len(curves)}")
        return [curves[number - 1] for number in chosen], ""

    def _headed(self, figure: NotebookFigure, text: str) -> NotebookFigure:
        """The figure with its title, which says in red if the fit was stopped or has not converged."""
        result = self._result
        doubts = []
        if result.stopped:
            doubts.append("stopped early")
        elif not result.converged:
            doubts.append("not converged")
        if doubts:
            figure.suptitle(f"{text}; {', '.join(doubts)}", fontsize="medium", color="tab:red", weight="bold")
        else:
            figure.suptitle(text, fontsize="medium")
        return figure if self._quiet else figure.under_cell()

    def convergence(self) -> NotebookFigure:
        """The lowest reduced chi-squared so far, and the spread of the population, against the steps.

        For data without dy, and for counts, the negative log likelihood takes the place of chi-squared.
        """
        result = self._result
        figure = NotebookFigure(figsize=(6.4, 4.2), layout="constrained")
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
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return self._headed(figure, f"{result.method}, {result.steps} steps")

    def marginals(self) -> NotebookFigure:
        """The distribution of each fitted parameter with its 68 and 95 % intervals."""
        result = self._result
        count = len(result.names)
        rows = -(-count // (4 if count <= 16 else 6))
        columns = -(-count // rows)
        width, height = (3.4, 2.8) if count <= 16 else (2.6, 2.1)
        layout = ConstrainedLayoutEngine(w_pad=0.08)
        figure = NotebookFigure(figsize=(max(width * columns, 5.0), height * rows + 0.6), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False)
        for n, axes in enumerate(grid.flat):
            if n >= count:
                axes.set_visible(False)
            else:
                self._marginal(axes, n)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return self._headed(figure, _counted(result))

    def _marginal(self, axes: Axes, n: int) -> None:
        result = self._result
        name = result.names[n]
        found = corner.distribution(result, n)
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
        axes.set_xlabel(result.label(name))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(3))

    def correlations(self, names: Sequence[str] | None = None) -> NotebookFigure:
        """A corner plot: contours of 68 and 95 % probability for each pair of parameters.

        The contours are those of the draws, or of the covariance. More than eight parameters give a map of all correlation
        coefficients instead; *names* chooses parameters for a corner plot. Raises InvalidRequest for an unknown name.
        """
        result = self._result
        for name in names or ():
            if name not in result.names:
                raise InvalidRequest(f"names={names!r}: fitted are {', '.join(result.names)}")
        chosen = [result.names.index(name) for name in names or result.names]
        if names is None and len(chosen) > MAX_PAIRED_PARAMETERS:
            return self._map()
        figure = corner.pairs(result, chosen)
        return self._headed(figure, _counted(result))

    def _map(self) -> NotebookFigure:
        figure, strongest = corner.heat_map(self._result)
        return self._headed(figure, "\n".join(["correlations; the strongest:", *strongest]))


def _grid(curves: Sequence[Curve]) -> tuple[NotebookFigure, list[SubplotSpec]]:
    """A figure with a cell for each curve, in about as many rows as columns."""
    count = max(1, len(curves))
    if any(curve_panels.wide(curve) for curve in curves):
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
    figure = NotebookFigure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    return figure, [grid[divmod(n, columns)] for n in range(len(curves))]


def _counted(result: FitResult) -> str:
    """The method, or the number of draws with R-hat and effective sample size."""
    if result.draws is None:
        return result.method
    words = f"{len(result.draws)} draws"
    if result.rhat is not None and np.isfinite(result.rhat).any():
        words += f", R-hat up to {np.nanmax(result.rhat):.3g}"
    if result.ess is not None and np.isfinite(result.ess).any():
        words += f", effective sample size from {np.nanmin(result.ess):.0f}"
    return words


def _value(result: FitResult, name: str) -> str:
    """A parameter with its standard error, marked if it ended at a limit."""
    from park.fit.numerics.intervals import format_value

    estimate = result[name]
    at_limit = ", at limit" if name in result.at_limit else ""
    return f"{format_value(estimate.value, estimate.stderr)}{at_limit}"

"""Pictures of a result. Each method returns a matplotlib ``Figure``; pyplot and its global state stay out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from park.errors import InvalidRequest
from park.fit.data import Array
from park.fit.objective import Curve

if TYPE_CHECKING:
    from park.fit.result import FitResult

VIEWS = ("linear", "log", "logx", "loglog")

_DATA, _FIT, _BAND = "0.35", "tab:red", "tab:orange"


class Plots:
    """The pictures of one result: ``result.plot``."""

    def __init__(self, result: FitResult) -> None:
        self._result = result

    def all(self) -> dict[str, Figure]:
        """Every picture that this result has something for, by name."""
        figures = {}
        if self._result.curves:
            figures["fit"] = self.fit()
        if len(self._result.convergence):
            figures["convergence"] = self.convergence()
        figures["marginals"] = self.marginals()
        if len(self._result.names) > 1:
            figures["correlations"] = self.correlations()
        return figures

    def fit(self, view: str | None = None) -> Figure:
        """Data with error bars, the fit, its 95 % band after `Uncertainty`, and the residuals below.

        *view* is "linear", "log" (y), "logx" or "loglog"; None looks at the data.
        """
        if view not in (None, *VIEWS):
            raise InvalidRequest(f"view={view!r} is none of {', '.join(VIEWS)}")
        curves = self._result.curves
        count = max(1, len(curves))
        figure = Figure(figsize=(min(6.4 * count, 16), 5.6), layout="constrained")
        grid = figure.subplots(2, count, squeeze=False, sharex="col", gridspec_kw={"height_ratios": [3, 1]})
        for n, curve in enumerate(curves):
            self._curve(grid[0][n], grid[1][n], curve, view)
        figure.suptitle(f"reduced chi-squared {self._result.chisq:.4g}", fontsize="medium")
        return figure

    def _curve(self, top: Axes, bottom: Axes, curve: Curve, view: str | None) -> None:
        one = curve.y.ndim == 1 and curve.x.shape == curve.y.shape and curve.y.size > 0
        size = curve.residuals.size
        x = np.ravel(curve.x) if one else np.arange(1.0, size + 1)
        order = np.argsort(x)
        if curve.y.size:
            y, theory = np.ravel(curve.y), np.ravel(curve.theory)
            dy = None if curve.dy is None else np.ravel(curve.dy)
            view = view or (_view(x, y) if one else "linear")
            top.errorbar(x, y, dy, fmt="o", ms=3, lw=1, color=_DATA, label="data", zorder=1)
            if curve.low is not None and curve.high is not None:
                low, high = np.ravel(curve.low)[order], np.ravel(curve.high)[order]
                top.fill_between(x[order], low, high, color=_BAND, alpha=0.5, lw=0, label="95 %", zorder=2)
            top.plot(x[order], theory[order], "-" if one else ".", color=_FIT, label="fit", zorder=3)
            if view in ("logx", "loglog"):
                top.set_xscale("log")
                bottom.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                bottom.xaxis.set_minor_formatter(NullFormatter())
            if view in ("log", "loglog"):
                top.set_yscale("log", nonpositive="clip")
                positive = y[y > 0]
                if positive.size:  # error bars that reach below zero must not stretch the picture
                    top.set_ylim(bottom=positive.min() / 3)
            top.set_ylabel(curve.labels[1])
            top.legend(frameon=False, fontsize="small")
        top.set_title(curve.name, fontsize="medium")
        bottom.axhline(0, color=_FIT, lw=1)
        bottom.plot(x, curve.residuals, "o", ms=3, color=_DATA)
        bottom.set_ylabel("residuals" if curve.dy is None else "residuals\n(in dy)")
        bottom.set_xlabel(curve.labels[0] if one else "point")

    def convergence(self) -> Figure:
        """The best chi-squared so far, and the spread of the population, over the steps.

        After `Uncertainty` without dy it is minus the log of the posterior, which is another quantity there.
        """
        result = self._result
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        rows = result.convergence
        reduced = result.dof > 0 and bool(
            np.isclose(np.min(rows[:, 0], initial=np.inf), result.nllf, rtol=1e-3)
        )
        rows = rows * (2 / result.dof if reduced else 1.0)
        rows = np.where(np.isfinite(rows), rows, np.nan)
        steps = np.arange(1, len(rows) + 1)
        if rows.shape[1] == 6:
            axes.fill_between(steps, rows[:, 2], rows[:, 4], color=_BAND, alpha=0.4, lw=0, label="20 to 80 %")
            axes.plot(steps, rows[:, 3], color=_BAND, label="median of the population")
        axes.plot(steps, rows[:, 0], color=_FIT, label="best")
        finite = rows[np.isfinite(rows)]
        if finite.size and 0 < 10 * finite.min() < finite.max():
            axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("reduced chi-squared" if reduced else "minus log probability")
        axes.legend(frameon=False)
        return figure

    def marginals(self) -> Figure:
        """Each fitted parameter's distribution with its 68 and 95 % intervals."""
        result = self._result
        columns = min(4, len(result.names))
        rows = -(-len(result.names) // columns)
        figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        inner, outer = result.intervals(0.68), result.intervals(0.95)
        for n, axes in enumerate(grid.flat):
            if n >= len(result.names):
                axes.set_visible(False)
                continue
            name = result.names[n]
            self._distribution(axes, n)
            if np.isfinite(outer[name]).all():
                axes.axvspan(*outer[name], color=_BAND, alpha=0.18, lw=0, label="95 %")
                axes.axvspan(*inner[name], color=_BAND, alpha=0.35, lw=0, label="68 %")
            axes.axvline(result.x[n], color=_FIT, lw=1, label="best")
            axes.set_xlabel(name)
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(4))
        grid.flat[0].legend(frameon=False, fontsize="small")
        return figure

    def _distribution(self, axes: Axes, n: int) -> None:
        draws = self._result.draws
        if draws is not None:
            axes.hist(draws[:, n], bins=40, histtype="stepfilled", color="0.75")
            return
        mean, sigma = self._result.x[n], self._result.dx[n]
        if np.isfinite(sigma) and sigma > 0:
            x = np.linspace(mean - 4 * sigma, mean + 4 * sigma, 201)
            axes.fill_between(x, np.exp(-0.5 * ((x - mean) / sigma) ** 2), color="0.75", lw=0)

    def correlations(self) -> Figure:
        """Pairs of parameters: the draws' density, or the 68 and 95 % ellipses of the covariance."""
        result = self._result
        count = len(result.names)
        side = min(12.0, 1.6 * count + 1.6)
        figure = Figure(figsize=(side, side), layout="constrained")
        grid = figure.subplots(count, count, squeeze=False)
        correlation = _correlation(result.cov)
        for row in range(count):
            for column in range(count):
                axes = grid[row][column]
                if column > row:
                    axes.set_visible(False)
                    continue
                if column == row:
                    self._distribution(axes, row)
                    axes.set_yticks([])
                else:
                    self._pair(axes, column, row)
                    axes.annotate(
                        f"{correlation[row, column]:.2f}", (0.95, 0.95), xycoords="axes fraction",
                        ha="right", va="top", fontsize="small",
                    )  # fmt: skip
                axes.xaxis.set_major_locator(MaxNLocator(3))
                if column != row:
                    axes.yaxis.set_major_locator(MaxNLocator(3))
                axes.tick_params(labelsize="x-small", rotation=30)
                axes.tick_params(labelbottom=row == count - 1, labelleft=column == 0 and row > 0)
                if row == count - 1:
                    axes.set_xlabel(result.names[column])
                if column == 0 and row > 0:
                    axes.set_ylabel(result.names[row])
        return figure

    def _pair(self, axes: Axes, column: int, row: int) -> None:
        result = self._result
        if result.draws is not None:
            axes.hist2d(result.draws[:, column], result.draws[:, row], bins=40, cmap="Oranges", cmin=1)
            axes.plot(result.x[column], result.x[row], "+", color=_FIT)
            return
        block = result.cov[np.ix_((column, row), (column, row))]
        if not np.isfinite(block).all():
            return
        size, axis = np.linalg.eigh(block)
        turn = np.linspace(0, 2 * np.pi, 181)
        circle = np.sqrt(np.maximum(size, 0))[:, None] * np.array([np.cos(turn), np.sin(turn)])
        for radius in (1.515, 2.448):  # 68.3 and 95 % of a normal distribution in two dimensions
            ellipse = radius * (axis @ circle)
            axes.plot(result.x[column] + ellipse[0], result.x[row] + ellipse[1], color=_FIT, lw=1)
        axes.plot(result.x[column], result.x[row], "+", color=_FIT)


def _view(x: Array, y: Array) -> str:
    """Logarithmic axes for what spans decades."""
    log_x = bool(np.all(x > 0)) and x.max() > 30 * x.min()
    positive = y[y > 0]
    few, most = np.quantile(positive, (0.05, 0.95)) if positive.size >= 0.9 * y.size else (1.0, 1.0)
    if most > 100 * few:
        return "loglog" if log_x else "log"
    return "logx" if log_x else "linear"


def _correlation(cov: Array) -> Array:
    with np.errstate(all="ignore"):
        deviation = np.sqrt(np.diag(cov))
        result: Array = cov / np.outer(deviation, deviation)
    return result

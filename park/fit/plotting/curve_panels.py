"""Draws one `Curve` into a cell of a figure: lines with residuals, images, profiles, or the plot of a model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.image import imread
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from park.fit.arrays import Array
from park.fit.curves.curve import Curve, CurveLine
from park.fit.plotting import image_panels

VIEWS = ("linear", "log", "logx", "loglog", "q4")
DATA_COLOR, FIT_COLOR, BAND_COLOR = "0.35", "tab:red", "tab:orange"
PALETTE = (
    "tab:blue",
    "tab:orange",
    "tab:green",
    "tab:purple",
    "tab:brown",
    "tab:pink",
    "tab:olive",
    "tab:cyan",
)
#: Largest number of points of a line that are drawn.
MAX_LINE_POINTS = 3000


def draw(figure: Figure, cell: SubplotSpec, curve: Curve, view: str | None, title: str) -> None:
    """Draws *curve* in *cell*. With *view* None the range of the data decides."""
    lines = curve.lines()
    image = None if lines else curve.pixels()
    if lines:
        _lines(figure, cell, curve, lines, view, title)
    elif image is not None:
        view = view or curve.view or ("log" if _decades(image.data.ravel()) else "linear")
        image_panels.draw(figure, cell, image, "log" in view.replace("logx", ""), curve.dy is not None, title)
    elif curve.image:
        axes = figure.add_subplot(cell)
        axes.imshow(imread(io.BytesIO(curve.image), format="png"))
        axes.set_axis_off()
        axes.set_title(title, fontsize="medium")
    else:
        axes = figure.add_subplot(cell)
        axes.set_title(title, fontsize="medium")
        if curve.residuals.size:
            _residuals_alone(axes, curve.residuals)
        else:
            axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", transform=axes.transAxes)
            axes.set_axis_off()


def wide(curve: Curve) -> bool:
    """Whether a curve needs the width of three panels."""
    return curve.is_image()


def title(curve: Curve, alone: bool) -> str:
    """The name of the part, with chi-squared per point if dy is known and there are several parts."""
    name = curve.name if len(curve.name) <= 48 else f"{curve.name[:47]}…"
    if alone or curve.dy is None or not curve.residuals.size or not np.isfinite(curve.residuals).all():
        return name
    return f"{name}   χ²/n {np.mean(curve.residuals**2):.3g}"


def _lines(
    figure: Figure, cell: SubplotSpec, curve: Curve, lines: list[CurveLine], view: str | None, title: str
) -> None:
    heights = [3.0, 1.0, 1.5] if curve.profiles else [3.0, 1.0]
    grid = cell.subgridspec(len(heights), 1, height_ratios=heights)
    top = figure.add_subplot(grid[0])
    bottom = figure.add_subplot(grid[1], sharex=top)
    view = view or curve.view or _view(lines)
    several = len(lines) > 1
    for n, line in enumerate(lines):
        color = PALETTE[n % len(PALETTE)] if several else DATA_COLOR
        fit, band = (_darker(color), color) if several else (FIT_COLOR, BAND_COLOR)
        _line(top, _scaled(line, view), color, band)
        x, values = curve.drawn(line)
        _fit(top, x, values * x**4 if view == "q4" else values, fit)
        _residuals(bottom, line, color, band)
    _views(top, bottom, lines, view)
    top.set_title(title, fontsize="medium")
    top.set_ylabel(f"{curve.value} × x⁴" if view == "q4" else curve.value)
    top.tick_params(labelbottom=False)
    _legend(top, several)
    bottom.set_ylabel("data − fit" if curve.dy is None else "(data − fit)\n/ dy", fontsize="small")
    bottom.set_xlabel(curve.against)
    if curve.profiles:
        _profiles(figure.add_subplot(grid[2]), curve)


def _legend(axes: Axes, several: bool) -> None:
    """Adds the legend: the data of each line, and one entry each for fit and band."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    data = [name for name in found if name not in ("fit", "95 %")]
    names = [*data, *(name for name in ("fit", "95 %") if name in found)]
    legend = axes.legend(
        [found[name] for name in names],
        names,
        frameon=False,
        fontsize="small",
        ncols=1 if len(names) < 8 else 2,
    )
    for handle, name in zip(legend.legend_handles, names, strict=True):
        if name == "95 %" and handle is not None:
            handle.set(linewidth=0)
    if several:  # each line has its own colours: grey stands for all of them
        for handle, name in zip(legend.legend_handles, names, strict=True):
            if handle is not None and name in ("fit", "95 %"):
                handle.set(color="0.3" if name == "fit" else "0.7")


def _line(axes: Axes, line: CurveLine, color: str, band: Any) -> None:
    """Draws data with error bars, and the band."""
    step = -(-line.x.size // MAX_LINE_POINTS)
    dy = None if line.dy is None else line.dy[::step]
    label = line.label or "data"
    if step > 1:
        label += f" (1 of {step} points)"
    style: dict[str, Any] = {"fmt": "o", "ms": 3 if line.x.size < 300 else 2, "lw": 0, "elinewidth": 0.8}
    style["alpha"] = 1.0 if line.x.size < 500 else 0.4
    axes.errorbar(line.x[::step], line.y[::step], dy, color=color, label=label, zorder=1, **style)
    if line.low is not None and line.high is not None:
        x, low, high = _envelope(line.x, line.low, line.high)
        # the edge shows where the band is narrower than the line of the fit
        axes.fill_between(x, low, high, color=band, alpha=0.45, lw=3, label="95 %", zorder=2)


def _fit(axes: Axes, x: Array, values: Array, color: Any) -> None:
    """Draws the line of the fit; of many points the lowest and the highest of each block, so that peaks remain."""
    where, low, high = _envelope(x, values, values)
    if where.size < x.size:
        where, low = np.repeat(where, 2), np.column_stack([low, high]).ravel()
    axes.plot(where, low, "-", lw=1, color=color, label="fit", zorder=3)


def _envelope(x: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The start, the lowest and the highest value of each of at most MAX_LINE_POINTS blocks of points."""
    if x.size <= MAX_LINE_POINTS:
        return x, low, high
    starts = np.linspace(0, x.size, MAX_LINE_POINTS, endpoint=False).astype(int)
    return x[starts], np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)


def _residuals(axes: Axes, line: CurveLine, color: str, band: Any) -> None:
    size = np.ones_like(line.y) if line.dy is None else line.dy
    with np.errstate(all="ignore"):
        values = (line.y - line.theory) / size
    step = -(-line.x.size // MAX_LINE_POINTS)
    axes.plot(line.x[::step], values[::step], "o", ms=3 if line.x.size < 300 else 1.5, color=color, zorder=1)
    if line.low is not None and line.high is not None:
        with np.errstate(all="ignore"):
            bounds = (line.low - line.theory) / size, (line.high - line.theory) / size
        x, low, high = _envelope(line.x, *bounds)
        axes.fill_between(x, low, high, color=band, alpha=0.45, lw=0, zorder=2)
    _unit_lines(axes, values, line.dy is not None)


def _residuals_alone(axes: Axes, residuals: Array) -> None:
    """Draws residuals against the number of the point."""
    step = -(-residuals.size // MAX_LINE_POINTS)
    axes.plot(np.arange(1, residuals.size + 1)[::step], residuals[::step], "o", ms=3, color=DATA_COLOR)
    _unit_lines(axes, residuals, True)
    axes.set_xlabel("point")
    axes.set_ylabel("residuals")


def _unit_lines(axes: Axes, values: Array, known: bool) -> None:
    """Draws lines at zero and at plus and minus one standard error, or the scatter if dy is unknown."""
    finite = values[np.isfinite(values)]
    unit = 1.0 if known or not finite.size else float(np.sqrt(np.mean(finite**2)))
    axes.axhline(0, color=FIT_COLOR, lw=1, zorder=3)
    for level in (-unit, unit):
        axes.axhline(level, color="0.5", lw=0.8, ls="--", zorder=0)
    most = max(2.5 * unit, 1.1 * float(np.max(np.abs(finite), initial=0.0)), *map(abs, axes.get_ylim()))
    if np.isfinite(most) and most > 0:
        axes.set_ylim(-most, most)
    axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))


def _scaled(line: CurveLine, view: str) -> CurveLine:
    """The line times the fourth power of x for the view ``q4``, which flattens a Porod or Fresnel decay."""
    if view != "q4":
        return line
    factor = line.x**4
    return CurveLine(line.label, line.x, *(None if a is None else a * factor for a in line[2:]))  # type: ignore[arg-type]


def _views(top: Axes, bottom: Axes, lines: Sequence[CurveLine], view: str) -> None:
    lines = [_scaled(line, view) for line in lines]
    if view in ("logx", "loglog") and any((line.x > 0).any() for line in lines):
        top.set_xscale("log")
        positive = np.concatenate([line.x[line.x > 0] for line in lines])
        _log_ticks(bottom.xaxis, positive.min(), positive.max())
    if view in ("log", "loglog", "q4"):
        positive = np.concatenate([line.y[line.y > 0] for line in lines])
        if positive.size:  # error bars that reach below zero must not stretch the axis
            top.set_yscale("log", nonpositive="clip")
            fits = np.concatenate([line.theory[np.isfinite(line.theory)] for line in lines])
            highest = float(np.max(fits, initial=positive.max()))
            bottom_edge, top_edge = float(np.quantile(positive, 0.01)) / 3, highest * 2
            top.set_ylim(bottom_edge, top_edge)
            _log_ticks(top.yaxis, bottom_edge, top_edge)


def _log_ticks(axis: Any, low: float, high: float) -> None:
    """Sets ticks that do not overlap, also at 2 and 5 for few decades."""
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=9))
    axis.set_minor_formatter(NullFormatter())
    if decades < 4 and low > 1e-4 and high < 1e5:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _view(lines: Sequence[CurveLine]) -> str:
    """The default view: logarithmic axes for values that span decades."""
    x, y = (np.concatenate([line[n] for line in lines]) for n in (1, 2))
    log_x = bool(np.all(x > 0)) and x.max() > 30 * x.min()
    return ("loglog" if log_x else "log") if _decades(y) else ("logx" if log_x else "linear")


def _decades(y: Array) -> bool:
    """Whether values are nearly all positive and span more than two decades."""
    y = y[np.isfinite(y)]
    positive = y[y > 0]
    if not y.size or positive.size < 0.9 * y.size:
        return False
    few, most = np.quantile(positive, (0.05, 0.95))
    return bool(most > 100 * few)


def _darker(color: str) -> tuple[float, ...]:
    return tuple(0.6 * part for part in to_rgb(color))


def _profiles(axes: Axes, curve: Curve) -> None:
    """Draws scattering length densities against depth; an angle has its own axis."""
    twin = None
    for n, profile in enumerate(curve.profiles):
        where, color = axes, ("tab:green", "tab:blue", "tab:red", "tab:purple", "tab:brown")[n % 5]
        if profile.labels[1] != curve.profiles[0].labels[1]:
            twin = twin or axes.twinx()
            twin.set_ylabel(profile.labels[1], fontsize="small")
            where, color = twin, "0.2"
        if profile.low is not None and profile.high is not None:
            where.fill_between(profile.x, profile.low, profile.high, color=color, alpha=0.3, lw=2)
        where.plot(profile.x, profile.y, color=color, lw=1.2, label=profile.name)
    handles = [handle for part in (axes, twin) if part is not None for handle in part.get_lines()]
    names = [str(handle.get_label()) for handle in handles]
    style = {"frameon": False, "fontsize": "small", "borderaxespad": 0.1}
    axes.legend(handles, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names), **style)
    densities = [p for p in curve.profiles if p.labels[1] == curve.profiles[0].labels[1]]
    low, high = min(p.y.min() for p in densities), max(p.y.max() for p in densities)
    room = (high - low) or 1.0
    bounds = [edge for p in densities for edge in (p.low, p.high) if edge is not None]
    if bounds:  # a very wide band must not stretch the axis
        low = max(low - room, min(np.nanmin(edge) for edge in bounds))
        high = min(high + room, max(np.nanmax(edge) for edge in bounds))
    axes.set_ylim(low - 0.08 * room, high + 0.08 * room)
    axes.set_xlabel(curve.profiles[0].labels[0])
    axes.set_ylabel(curve.profiles[0].labels[1], fontsize="small")

"""Kernel density estimates of draws in one and two dimensions, for marginals and correlations.

A fine histogram is smoothed with a normal kernel whose width follows from the draws (Silverman's rule). The kernel is
reflected at the limits of a parameter, outside of which the density is zero.
"""

from __future__ import annotations

import numpy as np

from park.fit.arrays import Array

HISTOGRAM_BINS = 256
#: Bins along each of two dimensions, and the correlation above which the grid is sheared.
GRID_BINS, LEANING_CORRELATION = 96, 0.5
#: Share of the draws at either end that the range of a plot leaves out.
STRAY_SHARE = 0.0005


def window(draws: Array, low: float, high: float) -> tuple[float, float]:
    """The range of a plot: nearly all draws with a margin, within the limits."""
    first, last = np.quantile(draws, (STRAY_SHARE, 1 - STRAY_SHARE))
    room = 0.08 * (last - first) or abs(first) * 1e-6 or 1e-6
    return max(float(first - room), low), min(float(last + room), high)


def smooth(draws: Array, low: float, high: float, independent: float) -> tuple[Array, Array]:
    """The density of *draws* (n,) at the centres of bins: positions and values, each of shape (bins,).

    *independent* is the effective sample size: successive draws of a chain are correlated.
    """
    first, last = window(draws, low, high)
    count, edges = np.histogram(draws, bins=HISTOGRAM_BINS, range=(first, last))
    bin_width = edges[1] - edges[0]
    at_limits = bool(first <= low), bool(last >= high)
    density = _blurred(count.astype(float), bandwidth(draws, independent, 1) / bin_width, at_limits, 0)
    return (edges[1:] + edges[:-1]) / 2, density / (density.sum() * bin_width)


def smooth2(u: Array, v: Array, limits: Array, independent: float) -> tuple[Array, Array, Array]:
    """The density of pairs of draws: horizontal and vertical positions, and values, each (rows, columns).

    *limits* (2, 2) are low and high of *u*, then of *v*. For correlated draws the grid and the kernel are sheared along the
    correlation: an upright kernel would be wider than the ridge, or would leave beads on it.
    """
    correlation = float(np.corrcoef(u, v)[0, 1])
    slope = correlation * float(np.std(v) / np.std(u)) if abs(correlation) > LEANING_CORRELATION else 0.0
    upright = v - slope * u
    ends = (limits[0], (-np.inf, np.inf) if slope else limits[1])
    shown = [window(draws, *end) for draws, end in zip((u, upright), ends, strict=True)]
    count, across, up = np.histogram2d(u, upright, bins=GRID_BINS, range=shown)
    density = count.T
    for axis, draws, edges, end, edge in zip((1, 0), (u, upright), (across, up), ends, shown, strict=True):
        at_limits = bool(edge[0] <= end[0]), bool(edge[1] >= end[1])
        width = bandwidth(draws, independent, 2) / (edges[1] - edges[0])
        density = _blurred(density, width, at_limits, axis)
    horizontal, vertical = np.meshgrid((across[1:] + across[:-1]) / 2, (up[1:] + up[:-1]) / 2)
    return horizontal, vertical + slope * horizontal, density


def levels(density: Array, shares: tuple[float, ...]) -> list[float]:
    """The density levels that enclose each share of the probability; ascending if *shares* descend."""
    sorted_values = np.sort(density, axis=None)[::-1]
    total = np.cumsum(sorted_values)
    places = [int(np.searchsorted(total, share * total[-1])) for share in shares]
    return [float(sorted_values[min(place, sorted_values.size - 1)]) for place in places]


def bandwidth(draws: Array, independent: float, dimensions: int) -> float:
    """Silverman's kernel width, from the smallest measure of spread.

    The shortest intervals that hold a half and a quarter of the draws lie within one of several peaks. For a single normal
    peak they are slightly too short: the standard deviation is used if it is similar.
    """
    values = np.sort(draws)
    whole = float(np.std(values))
    spreads = [whole]
    # a normal distribution with a spread of 1 has these shares of its draws within these widths
    for share, width in ((0.5, 1.349), (0.25, 0.637)):
        count = max(1, int(share * values.size))
        spreads.append(float(np.min(values[count:] - values[:-count])) / width)
    spread = min((value for value in spreads if value > 0), default=0.0)
    spread = whole if spread > 0.8 * whole else spread
    return float(spread * (independent * (dimensions + 2) / 4) ** (-1 / (dimensions + 4)))


def _blurred(values: Array, width: float, at_limits: tuple[bool, bool], axis: int) -> Array:
    """The values convolved with a normal kernel of *width* bins along *axis*, reflected at limits."""
    reach = min(int(np.ceil(4 * width)), values.shape[axis] - 1)
    if reach < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    rows = np.moveaxis(values, axis, -1)
    ends = [
        side if mirrored else np.zeros_like(side)
        for side, mirrored in zip(
            (rows[..., :reach][..., ::-1], rows[..., -reach:][..., ::-1]), at_limits, strict=True
        )
    ]
    padded = np.concatenate([ends[0], rows, ends[1]], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.size, axis=-1)
    blurred: Array = np.moveaxis(windows @ (kernel / kernel.sum()), -1, axis)
    return blurred

"""Smooth densities of draws in one and two dimensions, for marginals and correlations.

A histogram of many bins is smoothed with a normal kernel whose width follows from the draws (Silverman's
rule), and reflected at the limits of a parameter, beyond which there is no probability.
"""

from __future__ import annotations

import numpy as np

from park.fit.data import Array

BINS = 256
#: Bins along each of two dimensions: more of them where the parameters are strongly correlated.
SQUARE = (96, 320)
#: Of the draws, this share at either end does not stretch a picture.
STRAY = 0.0005


def window(draws: Array, low: float, high: float) -> tuple[float, float]:
    """The range of a picture: nearly all draws with some room, but nothing outside the limits."""
    first, last = np.quantile(draws, (STRAY, 1 - STRAY))
    room = 0.08 * (last - first) or abs(first) * 1e-6 or 1e-6
    return max(float(first - room), low), min(float(last + room), high)


def smooth(draws: Array, low: float, high: float, independent: float) -> tuple[Array, Array]:
    """The density of *draws* (n,) at the centres of bins: positions and values, each of shape (bins,).

    The draws of a chain resemble each other: *independent* says how many independent ones they are worth.
    """
    first, last = window(draws, low, high)
    count, edges = np.histogram(draws, bins=BINS, range=(first, last))
    bin_width = edges[1] - edges[0]
    at_limits = bool(first <= low), bool(last >= high)
    density = _blurred(count.astype(float), bandwidth(draws, independent, 1) / bin_width, at_limits, 0)
    return (edges[1:] + edges[:-1]) / 2, density / (density.sum() * bin_width)


def smooth2(u: Array, v: Array, limits: Array, independent: float) -> tuple[Array, Array, Array]:
    """The density of pairs of draws: positions of columns and rows, and values (rows, columns).

    *limits* (2, 2) are low and high of *u*, then of *v*.
    """
    ranges = [window(draws, *ends) for draws, ends in zip((u, v), limits, strict=True)]
    # A kernel along the axes must not be wider than the spread of one parameter at a given value of the other.
    narrow = float(np.sqrt(max(1 - np.corrcoef(u, v)[0, 1] ** 2, 1e-6)))
    bins = int(np.clip(SQUARE[0] / (3 * narrow), *SQUARE))
    count, across, up = np.histogram2d(u, v, bins=bins, range=ranges)
    density = count.T
    for axis, draws, edges, ends, shown in (
        (1, u, across, limits[0], ranges[0]),
        (0, v, up, limits[1], ranges[1]),
    ):
        at_limits = bool(shown[0] <= ends[0]), bool(shown[1] >= ends[1])
        density = _blurred(
            density, narrow * bandwidth(draws, independent, 2) / (edges[1] - edges[0]), at_limits, axis
        )
    return (across[1:] + across[:-1]) / 2, (up[1:] + up[:-1]) / 2, density


def levels(density: Array, shares: tuple[float, ...]) -> list[float]:
    """The heights above which each share of the probability lies; ascending if *shares* descend."""
    sorted_values = np.sort(density, axis=None)[::-1]
    total = np.cumsum(sorted_values)
    places = [int(np.searchsorted(total, share * total[-1])) for share in shares]
    return [float(sorted_values[min(place, sorted_values.size - 1)]) for place in places]


def bandwidth(draws: Array, independent: float, dimensions: int) -> float:
    """Silverman's width of the kernel; it does not let two far peaks widen each other."""
    quarter, three = np.quantile(draws, (0.25, 0.75))
    spread = min(float(np.std(draws)), float(three - quarter) / 1.349) or float(np.std(draws))
    return float(spread * (independent * (dimensions + 2) / 4) ** (-1 / (dimensions + 4)))


def _blurred(values: Array, width: float, at_limits: tuple[bool, bool], axis: int) -> Array:
    """The values convolved with a normal kernel of *width* bins along *axis*, mirrored at limits."""
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

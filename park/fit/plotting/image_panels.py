"""Draws data, fit and residuals of an image side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator

from park.fit.arrays import Array
from park.fit.curves.curve import Image

#: Largest number of pixels along a side of an image.
MAX_SIDE_PIXELS = 512


def draw(
    figure: Figure, cell: SubplotSpec, image: Image, logarithmic: bool, in_errors: bool, title: str
) -> None:
    """Draws data and fit in one scale of colours, and the residuals beside them; pixels without a point are grey.

    *in_errors* says that the residuals are in units of dy.
    """
    grid = cell.subgridspec(1, 3)
    image = coarse(image, in_errors)
    colours, contrast = _colours(image, logarithmic), _contrast(image, 3.0 if in_errors else 0.0)
    data, fit, residuals = (figure.add_subplot(grid[n]) for n in range(3))
    _panel(data, image, image.data, colours, "")
    _panel(fit, image, image.theory, colours, image.labels[2])
    _panel(residuals, image, image.residuals, contrast, "(data − fit) / dy" if in_errors else "data − fit")
    for axes, name in ((data, f"{title}\ndata"), (fit, "fit"), (residuals, "residuals")):
        axes.set_title(name, fontsize="medium")
        axes.tick_params(labelleft=axes is data)
    data.set_ylabel(image.labels[1])


def _panel(axes: Axes, image: Image, values: Array, style: dict[str, Any], label: str) -> None:
    """Draws one of the three panels, with a colour bar if it has a *label*."""
    shown = np.ma.masked_invalid(values)
    mesh = axes.pcolormesh(image.across, image.up, shown, rasterized=True, **style)
    axes.set_facecolor("0.85")
    axes.set_xlabel(image.labels[0])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if _equal(image):
        axes.set_aspect("equal")
    if label:
        axes.figure.colorbar(mesh, cax=axes.inset_axes((1.03, 0, 0.05, 1)), label=label)


def _colours(image: Image, logarithmic: bool) -> dict[str, Any]:
    """A common colour scale for data and fit, by quantiles, so that a few pixels do not stretch it."""
    both = np.concatenate([image.data.ravel(), image.theory.ravel()])
    both = both[np.isfinite(both)]
    positive = both[both > 0]
    norm: Normalize
    if logarithmic and positive.size:
        low, high = np.quantile(positive, (0.005, 1.0))
        norm = LogNorm(low, high if high > low else low * 10)
    else:
        low, high = np.quantile(both, (0.001, 0.999)) if both.size else (0.0, 1.0)
        norm = Normalize(low, high if high > low else low + 1)
    return {"cmap": "viridis", "norm": norm}


def _contrast(image: Image, least: float) -> dict[str, Any]:
    """A colour scale that is white at zero and reaches at least *least* on both sides."""
    finite = np.abs(image.residuals[np.isfinite(image.residuals)])
    most = max(float(np.quantile(finite, 0.995)) if finite.size else 1.0, least) or 1.0
    return {"cmap": "RdBu_r", "norm": Normalize(-most, most)}


def _equal(image: Image) -> bool:
    """Whether both axes have the same unit and similar lengths."""
    ratio = float(np.ptp(image.across) / np.ptp(image.up))
    units = {label.partition("(")[2] for label in image.labels[:2]}
    return len(units) == 1 and 1 / 3 < ratio < 3


def coarse(image: Image, in_errors: bool) -> Image:
    """The image with squares of pixels averaged, if it has more than MAX_SIDE_PIXELS along a side.

    Residuals *in_errors* are then in units of the standard error of the mean.
    """
    step = -(-max(image.data.shape) // MAX_SIDE_PIXELS)
    if step == 1:
        return image
    count = _squares(np.isfinite(image.residuals).astype(float), step)[0]
    data, theory, residuals = (_squares(values, step)[1] for values in image[3:])
    if in_errors:
        residuals = residuals * np.sqrt(count)
    edges = [np.append(edge[:-1:step], edge[-1]) for edge in (image.across, image.up)]
    return Image(edges[0], edges[1], image.labels, data, theory, residuals)


def _squares(values: Array, step: int) -> tuple[Array, Array]:
    """The sums and the means of squares of *step* times *step* pixels, without pixels that are nan."""
    rows, columns = (-(-size // step) * step for size in values.shape)
    padded = np.full((rows, columns), np.nan)
    padded[: values.shape[0], : values.shape[1]] = values
    squares = padded.reshape(rows // step, step, columns // step, step)
    sums = np.nansum(squares, axis=(1, 3))
    with np.errstate(all="ignore"):
        return sums, sums / np.isfinite(squares).sum(axis=(1, 3))

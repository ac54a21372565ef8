"""Small pictures of fits for mails: data and curves, drawn from the numbers that a fit has kept.

A process of its own draws them. So the broker never loads matplotlib, and hostile numbers of a job can only spoil their
own picture. Where matplotlib is not installed there are no pictures.
"""

from __future__ import annotations

import importlib.util
import io
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from msgspec import DecodeError, Struct, ValidationError, field, json

#: Seconds that the pictures of one mail may take, and the seconds of processor time after which their process ends.
DRAW_SECONDS, CPU_SECONDS = 120.0, 60
#: Size in inches, and dots to an inch: sharp on a phone, which shows it half as large.
_SIZE, _DPI = (4.2, 2.3), 200
#: Lines of one picture, and points of one line: a fit keeps no more.
_MAX_LINES, _MAX_POINTS = 6, 1_000
#: Colours of Okabe and Ito's set.
_TONES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

Numbers = list[float | None]


class Line(Struct):
    """One line of data in the file of a fit, with the curve through it; *fine* has more points of the curve."""

    label: str = ""
    x: Numbers = field(default_factory=list)
    data: Numbers = field(default_factory=list)
    dy: Numbers | None = None
    fit: Numbers = field(default_factory=list)
    fine: tuple[Numbers, Numbers] | None = None


class DrawnImage(Struct):
    """Data over two axes, and the fit to them."""

    data: list[Numbers]
    fit: list[Numbers]


class DrawnCurve(Struct):
    """A part of a fit: lines, or an image."""

    view: str | None = None
    x: str = ""
    y: str = ""
    lines: list[Line] = field(default_factory=list)
    image: DrawnImage | None = None


class Curves(Struct):
    """The part of the file of a fit that a picture shows."""

    curves: list[DrawnCurve] = field(default_factory=list)


def pictures(fits: Mapping[int, bytes]) -> dict[int, bytes]:
    """PNG pictures of the *fits*, files of fits by job. A fit that cannot be drawn has none."""
    if not fits or importlib.util.find_spec("matplotlib") is None:
        return {}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.encode(fits),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=DRAW_SECONDS,
        )
        return json.decode(done.stdout, type=dict[int, bytes])
    except (OSError, subprocess.SubprocessError, DecodeError):
        return {}


def picture(fit: bytes) -> bytes | None:
    """The PNG of the first part of a fit that can be drawn."""
    try:
        found = json.decode(fit, type=Curves).curves
    except (DecodeError, ValidationError, RecursionError):
        return None
    curve = next((curve for curve in found if curve.lines or curve.image), None)
    if curve is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    if curve.image is not None:
        _draw_image(figure, curve.image)
    else:
        _draw_lines(figure, curve)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw_lines(figure: Any, curve: DrawnCurve) -> None:
    axes = figure.subplots()
    lines = curve.lines[:_MAX_LINES]
    for n, line in enumerate(lines):
        data, curve_tone = _TONES[n], _TONES[n if len(lines) > 1 else 1]
        errors = None if line.dy is None else [abs(value) for value in _plain(line.dy)]
        x, y = _plain(line.x), _plain(line.data)
        axes.errorbar(x, y, errors, fmt="o", ms=2, lw=0.6, color=data, alpha=0.8, zorder=1)
        fx, fy = line.fine or (line.x, line.fit)
        axes.plot(_plain(fx), _plain(fy), lw=1.3, color=curve_tone, zorder=2)
    if curve.view in ("logx", "loglog"):
        axes.set_xscale("log", nonpositive="mask")
    if curve.view in ("log", "loglog"):
        axes.set_yscale("log", nonpositive="mask")
    # Their texts come from the job: a dollar sign in them begins no formula.
    axes.set_xlabel(curve.x[:60], parse_math=False)
    axes.set_ylabel(curve.y[:60], parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_image(figure: Any, image: DrawnImage) -> None:
    planes = [[_plain(row) for row in plane] for plane in (image.data, image.fit)]
    finite = [value for plane in planes for row in plane for value in row if math.isfinite(value)]
    for axes, plane, title in zip(figure.subplots(1, 2), planes, ("data", "fit"), strict=True):
        axes.imshow(plane, origin="lower", vmin=min(finite), vmax=max(finite), cmap="cividis")
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()


def _plain(values: Numbers) -> list[float]:
    return [math.nan if value is None else value for value in values[:_MAX_POINTS]]


def main() -> None:
    """Read files of fits by job from the standard input, and write their pictures to the standard output."""
    try:
        import resource
    except ImportError:
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    found: dict[int, bytes] = {}
    for job, fit in json.decode(sys.stdin.buffer.read(), type=dict[int, bytes]).items():
        try:
            png = picture(fit)
        except Exception:  # its numbers cannot be drawn
            continue
        if png is not None:
            found[job] = png
    sys.stdout.buffer.write(json.encode(found))


if __name__ == "__main__":
    main()

"""The numbers of a result as plain JSON: the file ``fit.json`` that a fit keeps with its job; and the files of its models.

A page or a program of any language draws the fit from it without pickle, numpy or the fit's own libraries. Lines have
at most `MAX_POINTS` points, images `MAX_PIXELS` in each direction, draws `MAX_DRAWS` rows. Longer ones are thinned
evenly. Numbers have seven digits; null stands for one that is not finite.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
from msgspec import json

from park.errors import ParkError
from park.fit.curves.curve import Curve, CurveLine, Image
from park.fit.environment import Env
from park.fit.numerics.intervals import format_value
from park.fit.results.result import Estimate, FitResult
from park.model import Log

NAME = "fit.json"
#: The form of the file: a reader that does not know it leaves the file alone.
FORMAT = 1
#: The files that models of bumps have written, where there are any, and the most bytes of them (compressed).
MODELS = "bumps-files.zip"
MAX_MODEL_BYTES = 8 << 20
MAX_POINTS, MAX_PIXELS, MAX_DRAWS, MAX_STEPS, MAX_CURVES, MAX_BINS = 1_000, 96, 2_000, 1_000, 24, 48
MAX_STARTS = 200


def keep_numbers(result: FitResult, env: Env) -> None:
    """Keep the file with the job. A fit ends well without it, and its log says why."""
    try:
        store: MutableMapping[str, bytes] = env.store
        store[NAME] = json.encode(numbers(result))
        if 0 < sum(map(len, result.files.values())) <= MAX_MODEL_BYTES:
            store[MODELS] = zipped(result.files)
    except ParkError as error:
        env.publish(Log(f"the fit goes without the file {NAME}: {error}", "warning"))


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The compressed *files* of a result, by what follows their base name, as one archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for suffix, content in files.items():
            archive.writestr(f"fit{suffix}", zlib.decompress(content))
    return out.getvalue()


def numbers(result: FitResult) -> dict[str, Any]:
    """The result as JSON takes it."""
    found = {
        "format": FORMAT,
        "method": result.method,
        "seed": str(result.seed),
        "statistic": result.statistic,
        "chisq": _number(result.chisq),
        "nllf": _number(result.nllf),
        "dof": result.dof,
        "points": result.dof + len(result.names),
        "steps": result.steps,
        "converged": result.converged,
        "stopped": result.stopped,
        "remarks": result.remarks(),
        "parameters": _parameters(result),
        "convergence": _rows(_thin(result.convergence, MAX_STEPS)),
        "curves": [_curve(curve) for curve in result.curves[:MAX_CURVES]],
        "correlations": _rows(_correlations(result)),
    }
    if result.starts is not None:
        order = np.argsort(result.starts[:, 0])  # nan, a model that failed, comes last
        found["starts"] = [[int(n) + 1, *_list(result.starts[n])] for n in order[:MAX_STARTS]]
        found["starts_at_best"] = result.starts_at_best
        found["starts_made"] = len(result.starts)
    if result.draws is not None:
        found["count"] = len(result.draws)
        found["draws"] = _rows(_thin(result.draws, MAX_DRAWS))
        found["marginals"] = [_marginal(column) for column in result.draws.T]
    return found


def _parameters(result: FitResult) -> list[dict[str, Any]]:
    inner, outer = result.intervals(0.68), result.intervals(0.95)
    found = []
    for n, estimate in enumerate(result.parameters.values()):
        row = _parameter(result, estimate)
        if estimate.name in inner:
            row |= {
                "inner": [_number(value) for value in inner[estimate.name]],
                "outer": [_number(value) for value in outer[estimate.name]],
                "limits": [_number(result.low[n]), _number(result.high[n])],
                "rhat": None if result.rhat is None else _number(result.rhat[n]),
                "ess": None if result.ess is None else _number(result.ess[n]),
            }
        found.append(row)
    return found


def _parameter(result: FitResult, estimate: Estimate) -> dict[str, Any]:
    return {
        "name": estimate.name,
        "label": result.label(estimate.name),
        "value": _number(estimate.value),
        "stderr": _number(estimate.stderr),
        "text": format_value(estimate.value, estimate.stderr),
        "kind": estimate.kind,
        "at_limit": estimate.name in result.at_limit,
    }


def _correlations(result: FitResult) -> Any:
    with np.errstate(all="ignore"):
        size = np.sqrt(np.diag(result.cov))
        return result.cov / np.outer(size, size)


def _marginal(column: Any) -> dict[str, Any]:
    """A histogram of the middle 99.8 % of the draws of one parameter."""
    low, high = np.quantile(column, (0.001, 0.999))
    if not high > low:
        return {"edges": [], "counts": []}
    counts, edges = np.histogram(column, MAX_BINS, (low, high))
    return {"edges": _list(edges), "counts": counts.tolist()}


def _curve(curve: Curve) -> dict[str, Any]:
    found: dict[str, Any] = {"name": curve.name, "view": curve.view, "x": "", "y": "", "lines": []}
    image = curve.pixels() if curve.y.size else None
    if image is not None:
        return found | {"image": _image(image)}
    lines = curve.lines()
    if lines:
        found |= {"x": curve.against, "y": curve.value}
    for line in lines[:MAX_CURVES]:
        entry = _line(line)
        if curve.fine is not None and len(lines) == 1:
            x, y = (_thin(a, MAX_POINTS) for a in curve.drawn(line))
            entry["fine"] = [_list(x), _list(y)]
        found["lines"].append(entry)
    return found


def _line(line: CurveLine) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        residuals = (line.y - line.theory) / (1.0 if line.dy is None else line.dy)
    arrays = {
        "x": line.x,
        "data": line.y,
        "dy": line.dy,
        "fit": line.theory,
        "low": line.low,
        "high": line.high,
        "residuals": residuals,
    }
    return {"label": line.label} | {
        name: None if array is None else _list(_thin(array, MAX_POINTS)) for name, array in arrays.items()
    }


def _image(image: Image) -> dict[str, Any]:
    rows = -(-image.data.shape[0] // MAX_PIXELS)
    columns = -(-image.data.shape[1] // MAX_PIXELS)
    planes = {"data": image.data, "fit": image.theory, "residuals": image.residuals}
    return {
        "labels": list(image.labels),
        "across": [_number(image.across[0]), _number(image.across[-1])],
        "up": [_number(image.up[0]), _number(image.up[-1])],
    } | {name: _rows(plane[::rows, ::columns]) for name, plane in planes.items()}


def _thin(array: Any, most: int) -> Any:
    """The array with at most *most* of its entries, evenly spread from the first to the last."""
    if len(array) <= most:
        return array
    return array[np.linspace(0, len(array) - 1, most).round().astype(int)]


def _rows(array: Any) -> list[list[float | None]]:
    if not np.size(array):
        return []
    table = np.atleast_2d(array)
    values, width = _list(table.ravel()), table.shape[1]
    return [values[at : at + width] for at in range(0, len(values), width)]


def _list(array: Any) -> list[float | None]:
    array = np.asarray(array, dtype=np.float64)
    values = array.tolist()
    if not np.isfinite(array).all():
        return [_number(value) for value in values]
    # all in one text, which is several times faster than each alone
    return list(map(float, ("%.7g " * len(values) % tuple(values)).split()))


def _number(value: Any) -> float | None:
    """*value* with seven digits; None where it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None

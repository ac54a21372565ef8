"""Writes the files of a result beside its figures: curves, files of the models, chains of DREAM, plots.

Files that cannot be written are left out and named in one warning at the end. The figures are on disk by then.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from park.fit.curves.bumps_output import describe_error
from park.fit.curves.curve import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from park.fit.results.result import FitResult

#: Largest number of rows of a text table; larger tables are written only as numpy files.
MAX_TEXT_ROWS = 300_000
#: Largest number of models with a plot of their own.
MAX_MODEL_PICTURES = 20


class SavedFiles:
    """Writes files whose paths begin with *base*, and lists the written and the failed ones."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.written: list[Path] = []
        self.failed: list[str] = []

    def path(self, suffix: str) -> Path:
        """The path of a file."""
        return self.base.with_name(self.base.name + Path(suffix).name)

    def __contains__(self, suffix: str) -> bool:
        return self.path(suffix) in self.written

    def attempt(self, suffixes: str | tuple[str, ...], write: Callable[..., object], *given: Any) -> None:
        """Calls ``write(path, *given)`` with the path of the first suffix. It writes the files of all suffixes."""
        suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes
        paths = [self.path(suffix) for suffix in suffixes]
        try:
            write(paths[0], *given)
        except Exception as error:
            self.failed.append(f"{', '.join(path.name for path in paths)}: {describe_error(error)}")
        else:
            self.written += paths


def save_more(result: FitResult, base: Path) -> list[Path]:
    """Writes all files beside the figures, returns their paths, and warns of files that failed."""
    files = SavedFiles(base)
    for suffix, content in result.files.items():
        files.attempt(suffix, _unpack, content)
    for n, curve in enumerate(result.curves, 1):
        _curve(files, f"-{n}", curve)
    if result.pickled_state is not None:
        _chains(files, result)
    _pictures(files, result)
    if files.failed:
        warnings.warn(f"not saved: {'; '.join(files.failed)}", stacklevel=3)
    return files.written


def _curve(files: SavedFiles, stem: str, curve: Curve) -> None:
    """Writes a text table, unless the model has written one, and a numpy file for images and large tables."""
    if not curve.y.size:
        return
    if f"{stem}.dat" not in files and curve.y.size <= MAX_TEXT_ROWS:
        files.attempt(f"{stem}.dat", write_table, curve)
    if curve.is_image() or curve.y.size > MAX_TEXT_ROWS:
        arrays = {"x": curve.x, "y": curve.y, "fit": curve.theory}
        arrays |= {name: a for name, a in (("dy", curve.dy), ("mask", curve.mask)) if a is not None}
        files.attempt(f"{stem}.npz", _write_arrays, arrays)


def _unpack(path: Path, content: bytes) -> None:
    path.write_bytes(zlib.decompress(content))


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _draw(path: Path, draw: Callable[[], Figure]) -> None:
    draw().savefig(path, dpi=120)


def write_table(path: Path, curve: Curve) -> None:
    """Writes a row for each point: coordinates, y, dy (nan if unknown) and fit; a block for each piece."""
    names, columns = table(curve)
    use = ~np.ravel(curve.missing())
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# {' '.join(names)}\n")
        for label, rows in _blocks(curve):
            if label:
                file.write(f"# {label}\n")
            np.savetxt(file, np.transpose([column[rows][use[rows]] for column in columns]))


def table(curve: Curve) -> tuple[list[str], list[NDArray[Any]]]:
    """The names and the columns of the table of a curve, with a row for each point."""
    at: list[NDArray[Any]] = [np.ravel(coordinate) for coordinate in curve.coordinates()]
    names = ["x"] if len(at) == 1 else [f"x{n + 1}" for n in range(len(at))]
    if len(at) < curve.y.ndim:  # the coordinates do not identify a point: its indices in y, from 0, do
        places = [np.ravel(index) for index in np.indices(curve.y.shape)]
        names, at = [*(f"index{n + 1}" for n in range(curve.y.ndim)), *names], [*places, *at]
    columns = list(at)
    dy = np.full(curve.y.shape, np.nan, dtype=curve.y.dtype) if curve.dy is None else curve.dy
    for name, values in (("y", curve.y), ("dy", dy), ("fit", curve.theory)):
        row = np.ravel(values)
        if np.iscomplexobj(curve.y):
            names += [f"{name}.real", f"{name}.imag"]
            columns += [row.real, row.imag]
        else:
            names.append(name)
            columns.append(row)
    return names, columns


def _blocks(curve: Curve) -> Iterator[tuple[str, slice]]:
    end = 0
    for label, size in curve.pieces or (("", curve.y.size),):
        yield label, slice(end, end + size)
        end += size


def _chains(files: SavedFiles, result: FitResult) -> None:
    def write_errors(path: Path) -> None:
        from bumps.dream.stats import save_vars, var_stats

        save_vars(var_stats(result.state.draw()), str(path))

    files.attempt("-err.json", write_errors)
    suffixes = ("-chain.mc.gz", "-point.mc.gz", "-stats.mc.gz")
    files.attempt(suffixes, lambda path: result.state.save(str(files.base)))


def _pictures(files: SavedFiles, result: FitResult) -> None:
    """Writes the plots of the result, and one of each bumps model under bumps' file name."""
    try:
        from park.fit.plotting.plots import Plots

        plots = Plots(result, quiet=True)
    except ImportError:
        return  # matplotlib is not installed
    for name, draw in plots.each().items():
        files.attempt(f"-{name}.png", _draw, draw)
    for n, curve in enumerate(result.curves[:MAX_MODEL_PICTURES]):
        if curve.image:
            files.attempt(f"-model{n}.png", Path.write_bytes, curve.image)
        elif curve.from_bumps and curve.y.size:
            files.attempt(f"-model{n}.png", _draw, partial(plots.fit, parts=n + 1))

"""Files and plots that bumps models make themselves, collected where the fit ran and sent with the result."""

from __future__ import annotations

import io
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

#: Largest size (bytes) of the compressed files of all models, and of one plot.
MAX_FILE_BYTES, MAX_PICTURE_BYTES = 16 << 20, 4 << 20


def model_files(models: Iterable[tuple[int, Any]]) -> tuple[dict[str, bytes], list[str]]:
    """The compressed files that each numbered model writes by ``model.save(basename)``, and remarks on missing files.

    The keys are the suffixes of the base name: ``-1-refl.dat`` is a file of model 1.
    """
    files: dict[str, bytes] = {}
    notes: list[str] = []
    writing = [(number, model) for number, model in models if _writes_more_than_its_table(model)]
    if not writing:
        return files, notes
    with tempfile.TemporaryDirectory(prefix="park-") as folder:
        for number, model in writing:
            own = Path(folder)
            if (
                len(writing) > 1
            ):  # a file without the number in its name must not replace that of another model
                own /= str(number)
                own.mkdir()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("default")
                    model.save(str(own / f"model-{number}"))
            except Exception as error:
                notes.append(f"model {number} did not write its files: {describe_error(error)}")
            for path in sorted(path for path in own.rglob("*") if path.is_file()):
                name = path.name.removeprefix("model")
                name = name if name != path.name else f"-{number}-{name}"
                content = zlib.compress(path.read_bytes(), 1)  # far faster, and hardly larger
                if len(content) + sum(map(len, files.values())) > MAX_FILE_BYTES:
                    notes.append(f"the file {name} of model {number} is too large to travel with the result")
                else:
                    files[name] = content
    return files, notes


def _writes_more_than_its_table(model: Any) -> bool:
    """Whether a model has files of its own. A bumps ``Curve`` has none: it writes the table of points that a result has.

    bumps also fails to write it where dy is one number for all points.
    """
    curve = sys.modules.get("bumps.curve")
    plain = (
        curve is not None
        and getattr(type(model), "save", None) is curve.Curve.save
        and np.ndim(model.x) == 1
        and np.shape(model.x) == np.shape(model.y)
    )
    return callable(getattr(model, "save", None)) and not plain


def model_picture(model: Any, view: str | None = None) -> bytes:
    """The plot (PNG) that ``model.plot(view)`` draws with pyplot; b"" if it draws nothing.

    Raises the exceptions of the model, ImportError without matplotlib, and ValueError for a plot that is too large.
    """
    import matplotlib
    from matplotlib import pyplot

    if not isinstance(dict.__getitem__(matplotlib.rcParams, "backend"), str):
        pyplot.switch_backend("agg")  # no backend is chosen yet, and the default may open a window
    before = pyplot.get_fignums()
    current = pyplot.gcf().number if before else None
    figure = pyplot.figure(figsize=(8, 6))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            model.plot(view=view)
            figure = pyplot.gcf()
            if not figure.axes:
                return b""
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=100)
    finally:
        for number in set(pyplot.get_fignums()) - set(before):
            pyplot.close(number)
        if current is not None:
            pyplot.figure(current)
    content = file.getvalue()
    if len(content) > MAX_PICTURE_BYTES:
        raise ValueError(f"it has {len(content) >> 20} MB and may have {MAX_PICTURE_BYTES >> 20}")
    return content


def describe_error(error: BaseException) -> str:
    """An exception in one line of text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__

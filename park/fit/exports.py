"""What models of bumps write and draw themselves, taken where the fit ran, to travel with the result"""

from __future__ import annotations

import io
import tempfile
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: The files of all models take no more than this after compression, and a picture no more than this.
MOST_BYTES, MOST_PICTURE = 16 << 20, 4 << 20


def written(models: Iterable[tuple[int, Any]]) -> tuple[dict[str, bytes], list[str]]:
    """The files that each numbered model writes by ``model.save(basename)``, and why some are missing.

    Compressed, by what follows the base name: ``-1-refl.dat`` is a file of model 1.
    """
    files: dict[str, bytes] = {}
    notes: list[str] = []
    writing = [(number, model) for number, model in models if callable(getattr(model, "save", None))]
    if not writing:
        return files, notes
    with tempfile.TemporaryDirectory(prefix="park-") as folder:
        for number, model in writing:
            own = Path(folder, str(number))
            own.mkdir()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("default")
                    model.save(str(own / f"model-{number}"))
            except Exception as error:
                notes.append(f"model {number} did not write its files: {in_words(error)}")
            for path in sorted(path for path in own.rglob("*") if path.is_file()):
                name = path.name.removeprefix("model")
                name = name if name != path.name else f"-{number}-{name}"
                content = zlib.compress(path.read_bytes())
                if len(content) + sum(map(len, files.values())) > MOST_BYTES:
                    notes.append(f"the file {name} of model {number} is too large to travel with the result")
                else:
                    files[name] = content
    return files, notes


def picture(model: Any, view: str | None = None) -> bytes:
    """The picture (PNG) that ``model.plot(view)`` draws by pyplot; empty if it draws nothing.

    Raises what the model raises, ImportError without matplotlib, and ValueError for a picture that is too large.
    """
    import matplotlib
    from matplotlib import pyplot

    if not isinstance(dict.__getitem__(matplotlib.rcParams, "backend"), str):
        pyplot.switch_backend("agg")  # nobody has chosen one: without this a window may open
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
    if len(content) > MOST_PICTURE:
        raise ValueError(f"it has {len(content) >> 20} MB and may have {MOST_PICTURE >> 20}")
    return content


def in_words(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__

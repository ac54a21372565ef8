"""Objects of other libraries that do not travel as they are, and how they are made again where they arrive.

A compiled model of sasmodels pickles only the path of its library in the user's cache, and not its precision. On
another machine the path leads nowhere, and a model of single precision computes noise. Here it travels with its
precision, and with its source where that is no part of sasmodels itself. Where the library is not found it is compiled
anew; a model of a graphics card that is not there becomes a compiled one.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

from park.errors import ParkError

#: A reducer returns this, as `object.__reduce_ex__` does.
Reduced = tuple[Any, ...]


class NotRebuilt(ParkError, OSError):
    """Raised if a part of a model is missing and cannot be made."""


def reducer_of(kind: type) -> Callable[[Any], Reduced] | None:
    """The function that reduces objects of the class *kind*; None for classes that pickle well."""
    reduce = _REDUCE.get((kind.__module__, kind.__name__))
    if reduce is None or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
        return None
    return reduce


# -- sasmodels -----------------------------------------------------------------------------------


def _reduce_compiled(model: Any) -> Reduced:
    return rebuild_compiled, (model.info, _precision(model), model.dllpath, _source(model))


def _reduce_gpu(model: Any) -> Reduced:
    return rebuild_gpu, (type(model), model.info, model.source, model.dtype, model.fast)


def _reduce_experiment(experiment: Any) -> Reduced:
    """The experiment without the intermediate results of its last evaluation, which may hold functions of the library."""
    function, arguments, state, *_ = experiment.__reduce_ex__(5)
    return function, arguments, {**state, "results": None}


_REDUCE: dict[tuple[str, str], Callable[[Any], Reduced]] = {
    ("sasmodels.bumps_model", "Experiment"): _reduce_experiment,
    ("sasmodels.kerneldll", "DllModel"): _reduce_compiled,
    ("sasmodels.kernelcl", "GpuModel"): _reduce_gpu,
    ("sasmodels.kernelcuda", "GpuModel"): _reduce_gpu,
}


def _precision(model: Any) -> Any:
    """The dtype of a model; one that was copied by other means has lost it, and its library's name tells it."""
    if model.dtype is not None:
        return model.dtype
    numpy: Any = importlib.import_module("numpy")
    name = os.path.basename(model.dllpath)
    bits = {"sas32": "f4", "sas64": "f8"}.get(name.partition("_")[0])
    return numpy.dtype(bits if bits is not None else numpy.longdouble)


def _source(model: Any) -> str | None:
    """The C source of a model that was not made by sasmodels' own files; else None."""
    known: str | None = vars(model).get("park_source")
    if known is not None:
        return known
    generate: Any = importlib.import_module("sasmodels.generate")
    info = model.info
    files = {info.filename, info.basefile, *generate.model_sources(info)} - {None}
    own = os.path.dirname(os.path.abspath(generate.__file__)) + os.sep
    if info.translation is None and all(os.path.abspath(file).startswith(own) for file in files):
        return None
    source: str = generate.make_source(info)["dll"]
    return source


def rebuild_compiled(info: Any, dtype: Any, path: str, source: str | None) -> Any:
    """sasmodels' compiled model of this precision, with its library from *path* or compiled here. Raises NotRebuilt."""
    kernel: Any = importlib.import_module("sasmodels.kerneldll")
    beside = os.path.join(kernel.SAS_DLL_PATH, os.path.basename(path))
    found = next((place for place in (path, beside) if _opens(place)), None)
    if found is None:
        found = _compiled(kernel, info, dtype, path, source)
    model = kernel.DllModel(found, info, dtype)
    if source is not None:
        model.park_source = source  # it may travel on from here
    return model


def _compiled(kernel: Any, info: Any, dtype: Any, path: str, source: str | None) -> str:
    """The path of the library, compiled into sasmodels' own folder. It comes there whole: other processes may load it."""
    generate: Any = importlib.import_module("sasmodels.generate")
    folder = kernel.SAS_DLL_PATH
    try:
        text = source if source is not None else generate.make_source(info)["dll"]
        place: str = kernel.dll_path(f"{info.id}_{generate.tag_source(text)}", dtype)
        if _opens(place):
            return place
        os.makedirs(folder, exist_ok=True)
        import tempfile  # it loads `random`, which then is seeded for each unit

        with tempfile.TemporaryDirectory(prefix=".park-", dir=folder) as new:
            kernel.SAS_DLL_PATH = new
            made = kernel.make_dll(text, info, dtype)
            os.replace(made, place)
        return place
    except Exception as error:
        raise NotRebuilt(
            f"the sasmodels model {info.name!r} needs the C library {path}, which is not on {platform.node()}, and it "
            f"cannot be compiled there: {error}. It takes a C compiler (cc), and a folder to write to, {folder} (or "
            "$SAS_DLL_PATH)"
        ) from error
    finally:
        kernel.SAS_DLL_PATH = folder


def rebuild_gpu(kind: type, info: Any, source: dict[str, str], dtype: Any, fast: bool) -> Any:
    """sasmodels' model on a graphics card; where there is none, the compiled one of the same precision."""
    module: Any = importlib.import_module(kind.__module__)
    use = getattr(module, "use_opencl", None) or module.use_cuda
    with contextlib.suppress(Exception):
        if use():
            return kind(source, info, dtype, fast)
    return rebuild_compiled(info, dtype, f"{info.id}.so", source["dll"])


def _opens(path: str) -> bool:
    """Whether there is a library that works on this machine."""
    if not os.path.isfile(path):
        return False
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True

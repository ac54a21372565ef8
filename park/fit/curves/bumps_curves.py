"""Reads data, fit and profiles of bumps models as plain arrays.

Models differ: `bumps.curve.Curve` has x, y, dy and ``theory()``; refl1d's experiments have a probe, and a
``reflectivity()`` of (Q, R) pairs, one for each cross section of polarised neutrons; those of sasmodels have
Iq, dIq and a data object for one dimension, two dimensions, or SESANS. The kind is recognised by these names alone, and no
library is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from park.fit.arrays import Array
from park.fit.curves.bumps_output import describe_error, model_picture
from park.fit.curves.curve import Curve, DepthProfile, nothing

#: Attribute names of coordinates, measured values and errors in models.
X_NAMES, Y_NAMES, DY_NAMES = ("x", "Q", "q"), ("y", "R", "Iq", "I", "data"), ("dy", "dR", "dIq", "dI", "err")
#: Attributes of a model that may hold these arrays in its place.
DATA_HOLDERS = ("data", "_data", "probe")

#: Largest number of depths of a profile.
MAX_PROFILE_DEPTHS = 1000


class ModelArrays(NamedTuple):
    """The arrays of data and fit of a model, from which a `Curve` is made."""

    x: Array
    y: NDArray[Any]
    dy: NDArray[Any] | None
    theory: NDArray[Any]
    labels: tuple[str, ...] = ("x", "y")
    pieces: tuple[tuple[str, int], ...] = ()
    view: str | None = None
    mask: NDArray[np.bool_] | None = None
    fine: tuple[Array, Array] | None = None


def curve(model: Any, name: str) -> tuple[Curve, list[str]]:
    """The curve of a model at its present parameters, and remarks on missing pieces.

    For a model whose points are unknown the curve has only the residuals and the plot that the model draws itself.
    """
    found, residuals, notes = None, np.empty(0), []
    try:
        # The residuals of a density are not used.
        if callable(getattr(model, "residuals", None)) and getattr(model, "has_residuals", True):
            residuals = np.ravel(_numbers(model.residuals()))
        found = _read(model)
    except Exception as error:
        notes.append(f"there is no curve of {name}: {describe_error(error)}")
    image = b""
    try:
        # A bumps Curve may have a plotter of the user.
        if callable(getattr(model, "plot", None)) and (found is None or getattr(model, "plotter", None)):
            image = model_picture(model)
    except Exception as error:
        notes.append(f"there is no picture of {name}: {describe_error(error)}")
    if found is None:
        return replace(nothing(name), residuals=residuals, image=image, from_bumps=True), notes
    profiles: list[DepthProfile] = []
    try:
        profiles += _profiles(model)
    except Exception as error:
        notes.append(f"there is no profile of {name}: {describe_error(error)}")
    return (
        Curve(
            name=name,
            x=found.x,
            y=found.y,
            dy=found.dy,
            theory=found.theory,
            residuals=residuals,
            labels=found.labels,
            mask=found.mask,
            pieces=found.pieces,
            profiles=tuple(profiles),
            view=found.view,
            fine=found.fine,
            image=image,
            from_bumps=True,
        ),
        notes,
    )


def drawn(model: Any, profiles: Sequence[DepthProfile]) -> list[NDArray[Any]]:
    """The fit and the *profiles*, at their depths, for the present parameters of the model."""
    found = _read(model)
    assert found is not None
    if not profiles:
        return [found.theory]
    columns = {name: (z, values) for name, _, z, values in _densities(model)}
    return [found.theory, *(np.interp(p.x, *columns[p.name]) for p in profiles)]


def _read(model: Any) -> ModelArrays | None:
    for reader in (_reflectometry, _scattering, _plain):
        found = reader(model)
        if found is not None:
            return found
    return None


def _reflectometry(model: Any) -> ModelArrays | None:
    """Reflectivity of one probe, of several measured one after the other, or of cross sections."""
    probe = getattr(model, "probe", None)
    if probe is None or not callable(getattr(model, "reflectivity", None)):
        return None
    found = model.reflectivity()
    if getattr(probe, "polarized", False):
        probes = [(_cross_section(probe, xs, n), xs) for n, xs in enumerate(probe.xs)]
        pairs = [(name, xs, pair) for (name, xs), pair in zip(probes, found, strict=True) if xs is not None]
    else:
        pairs = [("", probe, found)]
    if any(getattr(xs, "R", None) is None for _, xs, _ in pairs):
        return None  # a simulation, without data
    pieces = [(name, len(pair[0])) for name, _, pair in pairs]
    several = getattr(probe, "probes", None)
    if several is not None:
        pieces = [(str(getattr(p, "name", None) or f"data {n}"), len(p.Q)) for n, p in enumerate(several, 1)]
    errors = [getattr(xs, "dR", None) for _, xs, _ in pairs]
    return ModelArrays(
        x=_joined(pair[0] for _, _, pair in pairs),
        y=_joined(xs.R for _, xs, _ in pairs),
        dy=None if any(error is None for error in errors) else _joined(errors),
        theory=_joined(pair[1] for _, _, pair in pairs),
        labels=("Q (1/Å)", "reflectivity"),
        pieces=tuple(pieces) if len(pieces) > 1 else (),
        view="log",
    )


def _cross_section(probe: Any, xs: Any, number: int) -> str:
    """``++`` and the like: the polarisation before and after the sample."""
    for name in ("mm", "mp", "pm", "pp"):
        if xs is not None and getattr(probe, name, None) is xs:
            return name.replace("m", "\N{MINUS SIGN}").replace("p", "+")
    return f"cross section {number + 1}"


def _scattering(model: Any) -> ModelArrays | None:
    """Small-angle scattering over q or over (qx, qy), and SESANS over the spin echo length."""
    kind, data = getattr(model, "data_type", None), getattr(model, "_data", None)
    if kind is None or data is None or getattr(model, "Iq", None) is None:
        return None
    theory, index = _numbers(model.theory()), getattr(model, "index", slice(None))
    y = _numbers(model.Iq)
    dy = None if getattr(model, "dIq", None) is None else _numbers(model.dIq)
    if getattr(data, "qx_data", None) is not None:
        x = np.array([_numbers(q)[index] for q in (data.qx_data, data.qy_data)])
        return ModelArrays(x, y, dy, theory, ("qx (1/Å)", "qy (1/Å)", "I (1/cm)"), view="log")
    x = _numbers(data.x)[index]
    if kind == "sesans":
        unit = str(getattr(data, "_xunit", "")) or "A"
        labels = (f"spin echo length ({unit.replace('A', 'Å')})", "log(P)/(tλ²) (1/(Å² cm))")
        return ModelArrays(x, y, dy, theory, labels)
    return ModelArrays(x, y, dy, theory, ("q (1/Å)", "I(q) (1/cm)"), view="loglog")


def _plain(model: Any) -> ModelArrays | None:
    """A model with ``theory()``: an array, a pair (x, values), or a list of either."""
    if not callable(getattr(model, "theory", None)):
        return None
    theory, x, sizes = _theory(model.theory())
    given = _column(model, Y_NAMES, theory.size)
    if given is None:
        return None
    y, mask = _numbers(given), np.ma.getmaskarray(given) if np.ma.isMaskedArray(given) else None
    dy = _column(model, DY_NAMES, y.size)
    if x is None:
        x = _column(model, X_NAMES, None)
    x = np.arange(1.0, y.size + 1).reshape(y.shape) if x is None else _numbers(x)
    labels = getattr(model, "labels", None)
    if not (isinstance(labels, Sequence) and len(labels) >= 2 and all(isinstance(t, str) for t in labels)):
        labels = ("x", "y")
    if y.ndim == 1:
        labels = labels[:2]  # a name for the only line follows
    return ModelArrays(
        x=x,
        y=y,
        dy=None if dy is None else np.broadcast_to(_numbers(dy), theory.shape).reshape(y.shape),
        theory=theory.reshape(y.shape),
        labels=tuple(labels),
        pieces=tuple((f"{n}", size) for n, size in enumerate(sizes, 1)) if len(sizes) > 1 else (),
        mask=mask,
        fine=_fine(model, y.ndim),
    )


def _theory(given: Any) -> tuple[NDArray[Any], NDArray[Any] | None, list[int]]:
    """The values of ``theory()``, their x if they come with one, and the sizes of the pieces of a list."""
    if isinstance(given, tuple) and len(given) == 2 and all(np.ndim(column) == 1 for column in given):
        return _numbers(given[1]), _numbers(given[0]), []
    if isinstance(given, list | tuple) and any(isinstance(one, tuple) for one in given):
        pairs = [(_numbers(x), _numbers(values)) for x, values in (one for one in given if one is not None)]
        sizes = [values.size for _, values in pairs]
        return _joined(values for _, values in pairs), _joined(x for x, _ in pairs), sizes
    return _numbers(given), None, []


def _fine(model: Any, dimensions: int) -> tuple[Array, Array] | None:
    """The fit at the points of bumps' ``plot_x``; None without them."""
    x = getattr(model, "plot_x", None)
    if x is None or dimensions != 1:
        return None
    x = np.ravel(_numbers(x))
    values = np.ravel(_numbers(model.theory(x)))
    return (x, values) if x.size == values.size and not np.iscomplexobj(values) else None


def _column(model: Any, names: Sequence[str], size: int | None) -> Any:
    """The first of the model's attributes with one of these names that is numbers, *size* of them.

    An error may be one number for all points, and values may be a list of arrays, one for each piece.
    """
    for holder in (model, *(getattr(model, name, None) for name in DATA_HOLDERS)):
        for name in names:
            value = getattr(holder, name, None)
            if value is None or isinstance(value, str | bytes) or callable(value):
                continue
            try:
                if isinstance(value, list) and any(np.ndim(one) for one in value):
                    value = np.concatenate([np.ravel(one) for one in value if one is not None])
                array = np.ma.asarray(value) if np.ma.isMaskedArray(value) else np.asarray(value)
            except ValueError:
                continue
            if array.dtype.kind not in "iufbc":
                continue
            if (array.ndim and size in (None, array.size)) or (names is DY_NAMES and not array.ndim):
                return array
    return None


def _numbers(values: Any) -> NDArray[Any]:
    """Floats of double precision, or complex numbers; raises TypeError for anything else."""
    array = np.asarray(np.ma.getdata(values))
    if array.dtype.kind not in "iufbc":
        raise TypeError(f"numbers are needed, not {array.dtype}")
    return np.array(array, dtype=np.complex128 if array.dtype.kind == "c" else np.float64)


def _joined(arrays: Any) -> NDArray[Any]:
    return np.concatenate([np.ravel(_numbers(array)) for array in arrays])


def _profiles(model: Any) -> Iterator[DepthProfile]:
    """The profiles of `_densities` at a limited number of depths, without constant ones other than ρ."""
    for name, label, z, values in _densities(model):
        if name.partition(",")[0] == "ρ" or np.ptp(values) > 1e-3:
            grid = z if z.size <= MAX_PROFILE_DEPTHS else np.linspace(z[0], z[-1], MAX_PROFILE_DEPTHS)
            yield DepthProfile(name, grid, np.interp(grid, z, values), ("depth (Å)", label))


def _densities(model: Any) -> Iterator[tuple[str, str, Array, Array]]:
    """Name, label, depths and values of each scattering length density of each sample of the model."""
    parts = getattr(model, "parts", None)
    for n, part in enumerate(parts if isinstance(parts, Sequence) else (model,), 1):
        if not callable(getattr(part, "smooth_profile", None)):
            continue
        title = "" if part is model else f", sample {n}"
        magnetic = bool(getattr(part, "ismagnetic", False))
        columns = part.magnetic_smooth_profile() if magnetic else part.smooth_profile()
        z, *values = (_numbers(column) for column in columns)
        for name, value in zip(("ρ", "iρ", "ρM", "θM"), values, strict=False):
            yield f"{name}{title}", "angle (°)" if name == "θM" else "SLD (10⁻⁶/Å²)", z, value

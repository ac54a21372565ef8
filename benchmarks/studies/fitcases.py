"""Fits of the kinds that people make, small enough to be repeated: each is a `Case` by name in `CASES`.

``make`` takes a decorator for the model functions (a counter) and returns what `park.fit.Fit` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from park.fit import Assembly, Model, Parameter

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A problem to fit, *parts* of it, and the methods that get anywhere."""

    make: Callable[[Decorator], Any]
    parts: int = 1
    methods: tuple[str, ...] = ("default", "lm", "amoeba", "de", "newton")
    #: options of single methods
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def noise(size: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=size)


def decay(t: Any, height: float, time: float, floor: float) -> Any:
    return height * np.exp(-t / time) + floor


def one_decay(counted: Decorator) -> Assembly:
    t = np.linspace(0, 5, 40)
    y = decay(t, 3.0, 1.5, 0.4) + 0.05 * noise(40, 1)
    model = Model(
        counted(decay),
        height=Parameter(4.0, limits=(0, 10)),
        time=Parameter(2.0, limits=(0.1, 10)),
        floor=(-1, 1),
    )
    return Assembly((model, (t, y, 0.05)))


def three_peaks(x: Any, a1, c1, w1, a2, c2, w2, a3, c3, w3, level, slope) -> Any:  # type: ignore[no-untyped-def]
    bells = (a * np.exp(-0.5 * ((x - c) / w) ** 2) for a, c, w in ((a1, c1, w1), (a2, c2, w2), (a3, c3, w3)))
    return sum(bells) + level + slope * x


def peaks(counted: Decorator) -> Assembly:
    x = np.linspace(0, 10, 300)
    right = (8.0, 2.0, 0.3, 5.0, 4.5, 0.5, 6.0, 7.2, 0.4, 1.0, 0.1)
    y = three_peaks(x, *right) + 0.1 * noise(300, 2)
    limits = {
        "a1": (0, 14), "c1": (1.5, 2.6), "w1": (0.1, 0.8), "a2": (0, 14), "c2": (4, 5.2), "w2": (0.1, 1),
        "a3": (0, 14), "c3": (6.6, 7.6), "w3": (0.1, 1), "level": (-3, 4), "slope": (-1, 1.5),
    }  # fmt: skip
    return Assembly((Model(counted(three_peaks), **limits), (x, y, 0.1)))


def sphere_intensity(q: Any, radius: float, spread: float, scale: float, background: float) -> Any:
    """Spheres of normally distributed radii, averaged over 30 of them."""
    away = np.linspace(-3, 3, 30)
    radii = radius * (1 + spread * away)[:, None]
    weights = np.exp(-0.5 * away**2)[:, None]
    qr = q * radii
    amplitude = 3 * (np.sin(qr) - qr * np.cos(qr)) / qr**3
    volume = (radii / 50.0) ** 3
    intensity = np.sum(weights * (volume * amplitude) ** 2, axis=0) / np.sum(weights * volume)
    return scale * intensity + background


def sphere(counted: Decorator) -> Assembly:
    q = np.geomspace(0.005, 0.3, 120)
    y = sphere_intensity(q, 60.0, 0.12, 20.0, 0.05)
    dy = 0.02 * y + 0.005
    limits = {"radius": (30, 100), "spread": (0.02, 0.3), "scale": (1, 60), "background": (0, 1)}
    return Assembly((Model(counted(sphere_intensity), **limits), (q, y + dy * noise(120, 3), dy)))


def parts(counted: Decorator) -> Assembly:
    shared = Parameter(3.0, limits=(0.1, 20))
    model, made = counted(decay), []
    for n in range(6):
        t = np.linspace(0, 6, 30 + n)
        y = decay(t, 1.5 + 0.4 * n, 2.1, 0.2) + 0.05 * noise(t.size, 10 + n)
        made.append((Model(model, height=(0, 10), time=shared, floor=(-1, 1)), (t, y, 0.05)))
    return Assembly(*made)


def many_points(counted: Decorator) -> Assembly:
    x = np.linspace(0, 10, 3000)
    model = Model(counted(decay), height=(0, 10), time=(0.2, 9), floor=(-2, 3))
    return Assembly((model, (x, decay(x, 4.0, 2.0, 0.5) + 0.1 * noise(3000, 4), 0.1)))


def bumps_curve(counted: Decorator) -> Any:
    from bumps.curve import Curve
    from bumps.fitproblem import FitProblem

    t = np.linspace(0, 5, 60)
    y = decay(t, 3.0, 1.5, 0.4) + 0.05 * noise(60, 5)
    curve = Curve(counted(decay), t, y, np.full(60, 0.05), height=4.0, time=2.0, floor=0.1)
    curve.height.range(0, 10)
    curve.time.range(0.1, 10)
    curve.floor.range(-1, 1)
    return FitProblem(curve)


CASES: dict[str, Case] = {
    "decay": Case(one_decay),
    "peaks": Case(peaks, options={"de": {"steps": 200}}, methods=("default", "lm", "amoeba", "de")),
    "sphere": Case(sphere),
    "parts": Case(parts, 6, methods=("default", "lm", "amoeba", "de"), options={"de": {"steps": 60}}),
    "many points": Case(many_points, methods=("default", "lm", "amoeba")),
    "bumps Curve": Case(bumps_curve),
}

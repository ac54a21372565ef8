"""A fit depends neither on units, nor on where an axis begins, nor on whether a value is large, small or nothing.

Each case is fitted as it is, and in other coordinates: y, dy and parameters in other units, parameters shifted together
with their limits, x too. What comes back is transformed back and compared: after optimizers to rounding, of chains
within the scatter of their draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from park.fit import Assembly, FitResult, Model, Parameter
from tests.support.inline import fit, sample

pytest.importorskip("bumps")

Array = np.ndarray[Any, Any]
# In steps of 1/16: exact after the shifts below.
X = np.arange(-24, 24) / 16
NOISE = np.random.default_rng(77).normal(size=X.size)


def peak(x: Any, height: float, centre: float, width: float, floor: float) -> Any:
    return height * np.exp(-0.5 * ((x - centre) / width) ** 2) + floor


def wave(x: Any, height: float, phase: float, offset: float) -> Any:
    return height * np.sin(3.0 * x + phase) + offset


def peak_slopes(x: Array, height: float, centre: float, width: float, floor: float) -> Array:
    away = (x - centre) / width
    bell = np.exp(-0.5 * away**2)
    return np.stack(
        [bell, height * bell * away / width, height * bell * away**2 / width, np.ones_like(x)], axis=1
    )


def wave_slopes(x: Array, height: float, phase: float, offset: float) -> Array:
    return np.stack(
        [np.sin(3 * x + phase), height * np.cos(3 * x + phase), np.ones_like(x)],
        axis=1,
    )


@dataclass(frozen=True)
class Case:
    """A model in natural units with its data; *limits* and *start* by parameter; *heights* go with the unit of y."""

    function: Callable[..., Any]
    y: Array
    dy: float | None
    limits: dict[str, tuple[float, float] | None]
    start: dict[str, float]
    heights: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """Coordinates: a parameter p becomes p * scale + shift, y becomes y * unit, and dy besides dy * blur."""

    scale: dict[str, float] = field(default_factory=dict)
    shift: dict[str, float] = field(default_factory=dict)
    unit: float = 1.0
    blur: float = 1.0

    def assembly(self, case: Case) -> Assembly:
        names = list(case.limits)
        scale = {name: self.scale.get(name, 1.0) for name in names}
        shift = {name: self.shift.get(name, 0.0) for name in names}
        unit, function = self.unit, case.function

        def model(x: Any, **p: float) -> Any:
            return unit * function(x, **{name: (p[name] - shift[name]) / scale[name] for name in names})

        parameters = {}
        for name, limits in case.limits.items():
            there = [(end * scale[name] + shift[name]) for end in limits or ()]
            given = {"limits": tuple(there)} if there else {}
            parameters[name] = Parameter(case.start[name] * scale[name] + shift[name], **given)
        errors = () if case.dy is None else (case.dy * unit * self.blur,)
        return Assembly((Model(model, **parameters), (X, case.y * unit, *errors)))

    def back(self, case: Case, x: Array, dx: Array) -> tuple[Array, Array]:
        """Values and errors in the units of the case."""
        scale = np.array([self.scale.get(name, 1.0) for name in case.limits])
        shift = np.array([self.shift.get(name, 0.0) for name in case.limits])
        return (x - shift) / scale, dx / scale / self.blur


PEAK = Case(
    peak,
    peak(X, 5.0, 0.3, 0.4, 0.7) + 0.05 * NOISE,
    0.05,
    {"height": (0.0, 20.0), "centre": (-1.5, 1.4), "width": (0.05, 3.0), "floor": (-4.0, 5.0)},
    {"height": 3.0, "centre": 0.0, "width": 0.6, "floor": 0.3},
    ("height", "floor"),
)
WAVE = Case(
    wave,
    wave(X, 2.0, 0.0, 0.0) + 0.1 * NOISE,
    0.1,
    {"height": (0.0, 9.0), "phase": (-1.6, 1.5), "offset": (-3.0, 2.0)},
    {"height": 1.0, "phase": 0.4, "offset": 0.5},
    ("height", "offset"),
)
CASES = {
    "peak": PEAK,
    "free": replace(PEAK, limits=dict.fromkeys(PEAK.limits)),
    "no dy": replace(PEAK, dy=None),
    #: the best floor is below its lower limit
    "fence": replace(PEAK, limits=PEAK.limits | {"floor": (0.75, 5.0)}, start=PEAK.start | {"floor": 1.0}),
    "wave": WAVE,
    "free wave": replace(WAVE, limits=dict.fromkeys(WAVE.limits)),
}
#: method -> cases: those that are always looked at, and more under --all
TAKEN = {
    "auto": (("peak", "fence"), ("free", "no dy")),
    "lm": (("free", "no dy"), ("peak", "fence")),
    "amoeba": (("peak",), ("free wave",)),
    "newton": ((), ("free wave",)),
    "de": ((), ("wave",)),
    "pt": ((), ("wave",)),
}
OPTIONS: dict[str, dict[str, Any]] = {"pt": {"steps": 100, "burn": 50, "nT": 8}}
#: These draw random numbers, and one that falls otherwise leads elsewhere: they are compared within errors.
RANDOM = frozenset({"pt", "dream"})
EACH = [
    pytest.param(method, case, marks=[pytest.mark.heavy] if number else [])
    for method, groups in TAKEN.items()
    for number, group in enumerate(groups)
    for case in group
]


def some(often: list[float], more: list[float]) -> list[Any]:
    """Values that are always tried, and *more* under --all."""
    return [*often, *(pytest.param(value, marks=pytest.mark.heavy) for value in more)]


@cache
def plainly(case: str, method: str) -> FitResult:
    return fit(View().assembly(CASES[case]), method, **OPTIONS.get(method, {}))


def same(case: str, method: str, view: View, rounding: float = 0.0) -> None:
    """The same minimum to a small part of its errors, the same errors, chi-squared and verdict."""
    given, plain = CASES[case], plainly(case, method)
    found = fit(view.assembly(given), method, **OPTIONS.get(method, {}))
    x, dx = view.back(given, found.x, found.dx)
    near, rel = (1.0, 0.1) if method in RANDOM else (1e-2 + rounding, 1e-3 + rounding)
    assert (x - plain.x) / plain.dx == pytest.approx(0, abs=near), view
    assert dx == pytest.approx(plain.dx, rel=rel), view
    chisq = plain.chisq * (view.unit**2 if given.dy is None else view.blur**-2)
    assert found.chisq == pytest.approx(chisq, rel=rel), view
    assert found.converged == plain.converged, found.message
    assert found.converged or method in RANDOM, found.message
    assert found.at_limit == plain.at_limit


@pytest.mark.parametrize(("method", "case"), EACH)
class TestCoordinates:
    @pytest.mark.parametrize("unit", some([1e-9, 1e9], [1e-3, 1e4]))
    def test_the_unit_of_y(self, method: str, case: str, unit: float) -> None:
        """Alone, the parameters being what they were; and with the parameters that are measured in it."""
        given = CASES[case]
        same(case, method, View(unit=unit))
        heights = dict.fromkeys(given.heights, unit)
        plain, view = plainly(case, method), View(scale=heights, unit=unit)

        def inside(x: Any, **p: float) -> Any:  # the model as one writes it, in that unit
            return given.function(x, **p)

        assembly = view.assembly(given)
        assembly = Assembly((Model(inside, **assembly.parts[0].model.parameters), assembly.parts[0].data))
        found = fit(assembly, method, **OPTIONS.get(method, {}))
        x, dx = view.back(given, found.x, found.dx)
        near, rel = (1.0, 0.1) if method in RANDOM else (1e-3, 1e-4)
        assert (x - plain.x) / plain.dx == pytest.approx(0, abs=near)
        assert dx == pytest.approx(plain.dx, rel=rel)

    @pytest.mark.parametrize("unit", [1e-9, 1e9])
    def test_the_unit_of_each_parameter(self, method: str, case: str, unit: float) -> None:
        for name in CASES[case].limits:
            same(case, method, View(scale={name: unit}))

    def test_units_that_differ_by_eighteen_decades(self, method: str, case: str) -> None:
        same(case, method, View(scale=dict(zip(CASES[case].limits, (1e-9, 1e9, 1e-3, 1e6), strict=False))))

    @pytest.mark.parametrize("blur", some([1e-6, 1e6], [1e-3, 1e3]))
    def test_the_size_of_dy(self, method: str, case: str, blur: float) -> None:
        """newton stops by the likelihood, whose unit this is."""
        if CASES[case].dy is not None and method not in (*RANDOM, "newton"):
            same(case, method, View(blur=blur))

    @pytest.mark.parametrize("far", some([1e9], [-1e3, 1e6]))
    def test_where_each_parameter_begins(self, method: str, case: str, far: float) -> None:
        """At a billion a value has seven decimals left, and a derivative loses what its step loses of them."""
        for name in CASES[case].limits:
            same(case, method, View(shift={name: far}), rounding=abs(far) * 5e-12)


METHODS = [
    pytest.param(m, marks=[pytest.mark.heavy] if m == "de" else [])
    for m in ("auto", "lm", "amoeba", "newton", "de")
]


def errors_of(slopes: Array, dy: float) -> Array:
    return np.sqrt(np.diag(np.linalg.inv(slopes.T @ slopes))) * dy


class TestAxes:
    """Models as people write them, on axes that begin far away."""

    @pytest.mark.parametrize("far", [2_460_000.5, 5e9, -(2.0**30)])
    @pytest.mark.parametrize("method", METHODS[:3] + METHODS[4:])
    def test_a_peak_at_a_date_or_a_frequency(self, method: str, far: float) -> None:
        limits = PEAK.limits | {"centre": (far - 1.5, far + 1.4)}
        start = PEAK.start | {"centre": far}
        model = Model(peak, **{name: Parameter(start[name], limits=limits[name]) for name in limits})
        found = fit(Assembly((model, (X + far, PEAK.y, 0.05))), method)
        plain = plainly("peak", "lm")
        rounding = abs(far) * 5e-12
        assert (found.x - [0, far, 0, 0] - plain.x) / plain.dx == pytest.approx(0, abs=1e-2 + rounding)
        assert found.dx == pytest.approx(plain.dx, rel=1e-3 + rounding)
        assert found.converged, found.message

    @pytest.mark.parametrize(("far", "span"), [(2_460_000.0, 30.0), (1.7e9, 7200.0)])
    @pytest.mark.parametrize("method", ["auto", "lm"])
    def test_a_line_over_dates(self, method: str, far: float, span: float) -> None:
        """Slope and value at zero are one thing to six decimals, and two by theory: little is left of the digits."""
        away = np.linspace(-1, 1, 41) * span
        y = 3.0 + 2.0 * away / span + 0.1 * np.random.default_rng(9).normal(size=41)
        model = Model(lambda x, a, b: a + b * x, a=Parameter(0.0), b=Parameter(0.0))
        found = fit(Assembly((model, (far + away, y, 0.1))), method)
        centred = np.stack([np.ones(41), away], axis=1)
        (at, slope), cov = (
            np.linalg.lstsq(centred, y, rcond=None)[0],
            np.linalg.inv(centred.T @ centred) * 0.01,
        )
        move = np.array([[1.0, -far], [0.0, 1.0]])
        dx = np.sqrt(np.diag(move @ cov @ move.T))
        assert (found.x - [at - slope * far, slope]) / dx == pytest.approx(0, abs=0.1)
        assert found.dx == pytest.approx(dx, rel=3e-2)
        assert found.converged, found.message


class TestZero:
    """Values that end at zero, near it, or at a limit; starts that are too small by many decades."""

    @pytest.mark.parametrize("limits", ["wave", "free wave"])
    @pytest.mark.parametrize("tiny", [0.0, 1e-15, 3e-8])
    @pytest.mark.parametrize("method", METHODS)
    def test_exact_data_about_zero(self, method: str, tiny: float, limits: str) -> None:
        if method == "newton" and limits == "wave":
            limits = "free wave"
        case = replace(CASES[limits], y=wave(X, 2.0, tiny, -tiny))
        found = fit(View().assembly(case), method)
        dx = errors_of(wave_slopes(X, 2.0, tiny, -tiny), 0.1)
        assert (found.x - [2.0, tiny, -tiny]) / dx == pytest.approx(0, abs=1e-2)
        assert found.dx == pytest.approx(dx, rel=1e-3)
        assert found.converged, found.message

    @pytest.mark.parametrize("method", METHODS)
    def test_a_start_at_zero_or_near_it(self, method: str) -> None:
        dx = plainly("free wave", "lm").dx
        for start in (0.0, 1e-12, -1e-300):
            case = replace(WAVE, start={"height": 1.0, "phase": start, "offset": start})
            if method == "newton":
                case = replace(case, limits=CASES["free wave"].limits)
            found = fit(View().assembly(case), method)
            assert (found.x - plainly("free wave", "lm").x) / dx == pytest.approx(0, abs=1e-2)
            assert found.dx == pytest.approx(dx, rel=1e-3)

    @pytest.mark.parametrize("small", [1e-6, 1e-12])
    @pytest.mark.parametrize("method", METHODS)
    def test_a_start_that_is_decades_too_small(self, method: str, small: float) -> None:
        """Of a rate and a height: the fit gets there, or says that it has not."""
        t = np.linspace(0, 4, 30)
        y = 6 * np.exp(-0.8 * t) + 0.05 * NOISE[:30]
        model = Model(
            lambda t, height, rate: height * np.exp(-rate * t), height=Parameter(small), rate=Parameter(small)
        )
        found = fit(Assembly((model, (t, y, 0.05))), method)
        x, dx = self.decay(t, y)
        off = np.max(np.abs(found.x - x) / dx)
        if method == "auto" or found.converged:
            assert off < 0.05, found.message
            assert found.dx == pytest.approx(dx, rel=1e-2)
            assert found.converged
        else:
            assert found.message

    def decay(self, t: Array, y: Array) -> tuple[Array, Array]:
        x = np.array([6, 0.8])
        for _ in range(20):
            fall = np.exp(-x[1] * t)
            slopes = np.stack([fall, -x[0] * t * fall], axis=1)
            x = x + np.linalg.lstsq(slopes, y - x[0] * fall, rcond=None)[0]
        return x, errors_of(slopes, 0.05)

    @pytest.mark.parametrize("value", [1e-14, 1e-21])
    @pytest.mark.parametrize("method", ["auto", "lm", "amoeba"])
    def test_values_that_are_small_by_nature(self, method: str, value: float) -> None:
        """A cross-section in square metres beside a count."""
        model = Model(
            lambda t, area, floor: area / value * t + floor,
            area=Parameter(value / 50),
            floor=Parameter(10.0),
        )
        t = np.linspace(0, 5, 25)
        found = fit(Assembly((model, (t, 4 * t + 20 + 0.3 * NOISE[:25], 0.3))), method)
        slopes = np.stack([t, np.ones(25)], axis=1)
        dx = errors_of(slopes, 0.3)
        x = np.linalg.lstsq(slopes, 4 * t + 20 + 0.3 * NOISE[:25], rcond=None)[0]
        assert (found.x / [value, 1] - x) / dx == pytest.approx(0, abs=1e-2)
        assert found.dx / [value, 1] == pytest.approx(dx, rel=1e-3)


class TestChains:
    """Intervals of DREAM, from far and from the best point."""

    def intervals(self, case: str, view: View, start: bool, samples: int = 2500) -> tuple[Array, Array]:
        given = CASES[case]
        if start:
            best = plainly(case, "lm").x
            scale = np.array([view.scale.get(name, 1.0) for name in given.limits])
            shift = np.array([view.shift.get(name, 0.0) for name in given.limits])
            found = sample(view.assembly(given), best * scale + shift, samples=samples)
        else:
            found = fit(view.assembly(given), "dream", samples=samples, burn=200)
        return view.back(given, np.median(found.draws, axis=0), found.dx)

    @pytest.mark.parametrize(
        ("case", "view", "start"),
        [
            pytest.param("free wave", View(), True, marks=pytest.mark.heavy),
            ("free wave", View(shift={"phase": 1e9, "offset": 1e6}), True),
            pytest.param(
                "free wave", View(scale={"height": 1e-9, "phase": 1e9}), True, marks=pytest.mark.heavy
            ),
            pytest.param("wave", View(), False, marks=pytest.mark.heavy),
            pytest.param("wave", View(shift={"phase": 1e9}), False, marks=pytest.mark.heavy),
            pytest.param("wave", View(unit=1e9), False, marks=pytest.mark.heavy),
            pytest.param("wave", View(unit=1e-9), False, marks=pytest.mark.heavy),
            pytest.param("wave", View(scale={"offset": 1e-9}), False, marks=pytest.mark.heavy),
            pytest.param("free wave", View(shift={"height": -1e6}), False, marks=pytest.mark.heavy),
            pytest.param("free wave", View(scale={"height": 1e9}), False, marks=pytest.mark.heavy),
            pytest.param("free wave", View(unit=1e9), True, marks=pytest.mark.heavy),
            pytest.param("free", View(shift={"centre": 1e9}), True, marks=pytest.mark.heavy),
            pytest.param("no dy", View(unit=1e-9), True, marks=pytest.mark.heavy),
        ],
    )
    def test_they_are_those_of_the_covariance(self, case: str, view: View, start: bool) -> None:
        plain = plainly(case, "lm")
        middle, dx = self.intervals(case, view, start)
        assert dx == pytest.approx(plain.dx, rel=0.2)
        assert (middle - plain.x) / plain.dx == pytest.approx(0, abs=0.25)

    def test_a_start_at_zero_is_left(self) -> None:
        """The best offset and phase are zero: chains are spread by what a parameter does, not by its value."""
        case = replace(CASES["free wave"], y=wave(X, 2.0, 0.0, 0.0))
        found = sample(View().assembly(case), [2.0, 0.0, 0.0], samples=2500)
        assert found.dx == pytest.approx(errors_of(wave_slopes(X, 2.0, 0.0, 0.0), 0.1), rel=0.2)

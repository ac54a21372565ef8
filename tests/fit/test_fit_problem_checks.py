"""Points without a value are named: in the data of models of a bumps problem, and in what models compute."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from bumps.curve import Curve, PoissonCurve
from bumps.fitproblem import FitProblem
from bumps.parameter import Parameter

import park
from park.errors import InvalidRequest
from park.fit import Assembly, Fit, Model
from park.fit.methods.monitor import ModelFailed
from park.fit.problem.bumps_data import check_problem, columns_of
from park.fit.problem.bumps_undefined import check_holes, without_value
from park.fit.problem.preserved_state import preserved_state

T = np.linspace(0.0, 3.0, 16)


def rise(t: Any, rate: float) -> Any:
    return np.exp(rate * t)


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with park.local_service as service:
        yield service


class Measured:
    """A model of bumps' kind that keeps its data as *holder* says."""

    def __init__(self, name: str = "", **held: Any) -> None:
        self.name = name
        self.rate = Parameter(0.5, name="rate", bounds=(0, 2))
        self.rate.fixed = False
        self.__dict__.update(held)

    def parameters(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def numpoints(self) -> int:
        return T.size

    def columns(self) -> tuple[Any, Any, Any]:
        for held in vars(self).values():
            if isinstance(held, SimpleNamespace):
                x = held.Q if hasattr(held, "Q") else held.x
                y = held.R if hasattr(held, "R") else held.y
                dy = held.dR if hasattr(held, "dR") else held.dy
                return x, y, dy
            if isinstance(held, tuple):
                return held  # type: ignore[return-value]
        raise AssertionError("there are no data")

    def residuals(self) -> Any:
        x, y, dy = self.columns()
        return np.ma.filled((rise(x, self.rate.value) - y) / dy, 0.0)

    def nllf(self) -> float:
        return 0.5 * float(np.sum(self.residuals() ** 2))


def columns() -> dict[str, Any]:
    return {"x": T.copy(), "y": rise(T, 0.7), "dy": np.full(T.shape, 0.1)}


HOLDERS = {
    "probe": lambda c: {"probe": SimpleNamespace(Q=c["x"], R=c["y"], dR=c["dy"], name="film 3")},
    "data": lambda c: {"data": SimpleNamespace(**c)},
    "a tuple": lambda c: {"data": (c["x"], c["y"], c["dy"])},
    "_data": lambda c: {"_data": SimpleNamespace(**c, filename="film 3")},
}
WORDS = {"x": "(x|Q)", "y": "(y|R)", "dy": "(dy|dR)"}


@pytest.mark.parametrize(
    ("what", "bad"), [("x", math.nan), ("x", math.inf), ("y", -math.inf), ("dy", math.nan), ("dy", math.inf)]
)
@pytest.mark.parametrize("holder", sorted(HOLDERS))
def test_what_is_not_finite_is_named_wherever_a_model_keeps_it(holder: str, what: str, bad: float) -> None:
    given = columns()
    given[what][9] = bad
    model = Measured("film 3", **HOLDERS[holder](given))
    with pytest.raises(
        InvalidRequest,
        match=rf"model 'film 3' of the problem: {WORDS[what]} must be finite; it is {bad} at index 9:",
    ):
        Assembly(FitProblem(model))


@pytest.mark.parametrize("holder", sorted(HOLDERS))
def test_good_data_pass(holder: str) -> None:
    assert Assembly(FitProblem(Measured(**HOLDERS[holder](columns())))).names == ("rate",)


def test_a_model_without_a_name_is_counted() -> None:
    given = columns()
    given["y"][0] = math.nan
    models = [Measured(data=SimpleNamespace(**columns())), Measured(data=SimpleNamespace(**given))]
    with pytest.raises(InvalidRequest, match=r"model 2 of the problem, Measured: y must be finite"):
        Fit(FitProblem(models))


def test_an_error_of_zero_is_named() -> None:
    curve = Curve(rise, T, rise(T, 0.7), np.full(T.shape, 0.1), name="decay", rate=0.5)
    curve.rate.range(0, 1)
    curve.dy[4] = 0
    with pytest.raises(
        InvalidRequest, match=r"'decay' of the problem: dy must be positive; it is 0 at index 4"
    ):
        Assembly(FitProblem(curve))


def test_tables_and_images_have_indices_of_two_numbers() -> None:
    rows = np.array([rise(T, 0.7), rise(T, 0.9)])
    rows[1, 3] = math.nan
    curve = Curve(lambda t, rate: np.array([rise(t, rate)] * 2), T, rows, 0 * rows + 1, name="two", rate=0.5)
    curve.rate.range(0, 1)
    with pytest.raises(InvalidRequest, match=r"y must be finite; it is nan at index \(1, 3\)"):
        Assembly(FitProblem(curve))


def test_masked_points_are_no_errors() -> None:
    given = columns()
    given["y"][2] = math.nan
    given["y"] = np.ma.masked_invalid(given["y"])
    assert Assembly(FitProblem(Measured(data=SimpleNamespace(**given)))).names == ("rate",)


def test_a_likelihood_of_counts_may_have_empty_bins() -> None:
    counts = np.array([0.0, 1, 2, 3] * 4)
    curve = PoissonCurve(rise, T, counts, rate=0.5)
    curve.rate.range(0, 1)
    assert Assembly(FitProblem(curve)).names == ("rate",)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_negative_counts_are_named() -> None:
    curve = PoissonCurve(rise, T, np.array([3.0, 1, -2, 3] * 4), rate=0.5)
    curve.rate.range(0, 1)
    with pytest.raises(InvalidRequest, match="counts must not be negative; y is -2 at index 2"):
        Assembly(FitProblem(curve))


def turn(t: Any, rate: float) -> Any:
    return np.exp(1j * rate * t)


def test_a_complex_likelihood_is_refused() -> None:
    """bumps would compare the real part of a sum of complex squares, which has no minimum at the truth."""
    curve = Curve(turn, T, turn(T, 0.7), np.full(T.size, 0.1), rate=0.5)
    curve.rate.range(0, 1)
    with pytest.raises(InvalidRequest, match=r"complex, and bumps would drop.*park\.fit\.Model"):
        Assembly(FitProblem(curve))


def test_imaginary_parts_of_zero_are_no_matter(service: Any) -> None:
    curve = Curve(rise, T, rise(T, 0.7) + 0j, np.full(T.size, 0.1), rate=0.5)
    curve.rate.range(0, 1)
    assert Fit(FitProblem(curve)).wait()["rate"].value == pytest.approx(0.7)


def test_what_a_model_cannot_show_is_passed_over() -> None:
    class Odd(Measured):
        @property
        def probe(self) -> Any:
            raise RuntimeError("there is no probe yet")

    model = Odd(data=(T, rise(T, 0.7), 0.1), x=[[1, 2], [3]], y="counts", dy=object())
    check_problem(FitProblem(model))
    assert [column.name for column in columns_of(model)] == ["x", "y"]


# -- models --------------------------------------------------------------------------------------


def slope(t: Any, rate: float) -> Any:
    with np.errstate(all="ignore"):
        return rate * np.sin(t) / t


def root(t: Any, rate: float) -> Any:
    with np.errstate(all="ignore"):
        return np.sqrt(t - rate)


def curve_of(function: Any, rate: float = 0.5) -> Any:
    curve = Curve(function, T, np.ones(T.shape), np.ones(T.shape), name="wave", rate=rate)
    curve.rate.range(0, 2)
    return curve


def test_a_model_of_a_problem_that_never_has_a_value_at_a_point_is_refused() -> None:
    message = r"model 'wave' of the problem: it has no finite value at index 0 \(x = 0\), whatever its parameters are"
    with pytest.raises(InvalidRequest, match=message):
        check_holes(FitProblem(curve_of(slope)))
    problem = FitProblem(curve_of(root))
    check_holes(problem)  # for other parameters it has
    assert problem.getp().tolist() == [0.5]


def test_points_without_a_value_are_told_with_their_part() -> None:
    part = Assembly((Model(root, rate=(0.5, 1.5)), (T, np.ones(T.shape)))).objective
    assert without_value(part, np.array([1.0])) == (
        "part1, model root, has no finite value at 5 of 16 points, the first at index 0 (x = 0)"
    )
    assert without_value(part, np.array([0.0])) == ""
    assert without_value(part, np.array([9.0])) == ""  # all have none
    problem = Assembly(FitProblem(curve_of(root))).objective
    assert without_value(problem, np.array([1.0])) == (
        "model 'wave' of the problem, has no finite value at 5 of 16 points, the first at index 0 (x = 0)"
    )


@pytest.mark.parametrize("of_bumps", [False, True])
def test_a_fit_that_finds_no_value_says_at_which_points(service: Any, of_bumps: bool) -> None:
    """In few lines: the cause, and no traceback of PARK's own."""
    model = Model(root, rate=park.fit.Parameter(1.0, limits=(0.5, 1.5)))
    fitted = FitProblem(curve_of(root, 1.0)) if of_bumps else Assembly((model, (T, np.ones(T.shape))))
    if of_bumps:
        next(iter(fitted.models)).rate.range(0.5, 1.5)
    with pytest.raises(park.JobFailed) as caught:
        Fit(fitted, method="amoeba").wait(60)
    told = str(caught.value).splitlines()
    assert "the model is not finite at all" in told[0]
    assert told[0].endswith("has no finite value at 5 of 16 points, the first at index 0 (x = 0)")
    assert len(told) == 1


def test_a_model_that_raises_brings_its_own_traceback_only(service: Any) -> None:
    def broken(t: Any, rate: float) -> Any:
        raise ZeroDivisionError("the wave is flat")

    with pytest.raises(park.JobFailed) as caught:
        Fit(Assembly((Model(broken, rate=(0, 1)), (T, np.ones(T.shape)))), method="amoeba").wait(60)
    told = str(caught.value)
    assert told.splitlines()[0].endswith(": ZeroDivisionError: the wave is flat")
    assert "in broken" in told
    assert "park/fit" not in told
    assert len(told.splitlines()) < 12
    assert isinstance(ModelFailed("x"), park.ParkError)


# -- a problem stays as it was -------------------------------------------------------------------


def test_an_evaluation_leaves_no_trace() -> None:
    class Keeps(Measured):
        def residuals(self) -> Any:
            self.kernel = lambda: None
            self.data.cache.append(1)
            self.data.table["new"] = object()
            del self.data.old
            return super().residuals()

    held = SimpleNamespace(**columns(), cache=[0], table={"a": 1}, old=3)
    model = Keeps(data=held)
    problem = FitProblem(model)
    with preserved_state(problem):
        problem.nllf()
        assert model.kernel is not None
    assert not hasattr(model, "kernel")
    assert (held.cache, held.table, held.old) == ([0], {"a": 1}, 3)


class Element:
    """A chemical element, as libraries have it: one for the process, with a table that is loaded at the first use."""

    LOADED: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.number = 26

    def __reduce__(self) -> str:
        return "ELEMENT"

    @property
    def weight(self) -> float:
        if not self.LOADED:
            self.LOADED.append("weights")
            self.table = [55.8]
        return self.table[0]


ELEMENT = Element()


def test_tables_that_a_library_loads_once_stay_loaded() -> None:
    problem = FitProblem(Measured(data=SimpleNamespace(**columns(), material=ELEMENT)))
    with preserved_state(problem):
        assert ELEMENT.weight == 55.8
    assert ELEMENT.weight == 55.8


def test_what_refers_to_itself_is_no_trap() -> None:
    loop: list[Any] = []
    loop.append({"loop": loop})
    with preserved_state(loop), preserved_state(loop):
        loop.append(2)
    assert len(loop) == 1


def test_a_model_that_overflows_is_infinite_without_a_warning() -> None:
    model = Model(lambda t, rate: 1e160 * np.exp(np.minimum(rate * t * 100, 300)), rate=(-9, 9))
    for data in ((T, T, 0.1), (T, T)):
        objective = Assembly((model, data)).objective
        assert objective.nllf(np.array([8.0])) == math.inf

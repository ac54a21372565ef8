"""Functions as they are: whatever Python can call is a model; and the texts that compute parameters."""

from __future__ import annotations

import enum
import functools
import math
import pickle
import random
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import park
import park.fit
from park.errors import InvalidRequest
from park.fit.problem.assembly import Assembly
from park.fit.problem.data import Data
from park.fit.problem.expression import FUNCTIONS, compiled, names_in
from park.fit.problem.model import Constant, Model
from park.fit.problem.parameter import Parameter
from tests.support.fits import fit

X = np.linspace(0.5, 4, 9)


def theory(model: Model, x: Any = X, y: Any = None) -> Any:
    """The values of a model at the start."""
    a = Assembly((model, Data(x, np.zeros(9) if y is None else y)))
    return a.residuals(a.start) + np.ravel(0 if y is None else y)


def switched(x: Any, a: float, kind: str = "lin", flag: bool = True) -> Any:
    return (a * x if kind == "lin" else a * x**2) + (0 if flag else 100)


def annotated(x: Any, a: float, kind: Literal["lin", "quad"], order: int) -> Any:
    return sum(a * x**n for n in range(1, order + 1)) * (1 if kind == "lin" else 2)


def placed(x: Any, a: float, b: float = 3.0, /, c: float = 1.0, *, d: float = 0.0) -> Any:
    return a * x + b * c + d


def spread(x: Any, scale: float, *p: float, shift: float = 0.0) -> Any:
    return scale * sum(one * x**n for n, one in enumerate(p)) + shift


class Degree(enum.IntEnum):
    """An option of a model, which is a number too."""

    LINEAR = 1
    CUBE = 3


class Kernel:
    """A callable object, with a method that is a model too."""

    def __init__(self, power: int) -> None:
        self.power = power

    def __call__(self, x: Any, a: float) -> Any:
        return a * x**self.power

    def halved(self, x: Any, a: float) -> Any:
        return self(x, a) / 2


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model(switched, a=(0, 4)), 2 * X),
        (Model(switched, a=(0, 4), kind="quad"), 2 * X**2),
        (Model(switched, a=(0, 4), kind="quad", flag=False), 2 * X**2 + 100),
        (Model(annotated, a=(0, 4), kind="quad", order=2), 4 * (X + X**2)),
        (Model(annotated, a=(0, 4), kind=Constant("lin"), order=np.int64(3)), 2 * (X + X**2 + X**3)),
        (Model(lambda x, a, table: a * x * table, a=(0, 4), table=np.arange(9)), 2 * X * np.arange(9)),
        (Model(lambda x, a, f: a * f(x), a=(0, 4), f=np.sqrt), 2 * np.sqrt(X)),
        (Model(lambda x, a, o: a * x * o["k"], a=(0, 4), o={"k": 3}), 6 * X),
        (Model(lambda x, a, n=None: a * x if n is None else x, a=(0, 4), n=None), 2 * X),
        (Model(lambda x, a, m: a * x * (m is Degree.CUBE) * 3, a=(0, 4), m=Degree.CUBE), 6 * X),
        (Model(lambda x, a, m: a * x * len(m), a=(0, 4), m=Constant([1, 2, 3])), 6 * X),
        (Model(lambda x, a, z: a * x * abs(z), a=(0, 4), z=Constant(3j)), 6 * X),
        (Model(placed, a=(0, 4)), 2 * X + 3),
        (Model(placed, a=(0, 4), b=1, c=5, d=2), 2 * X + 7),
        (Model(placed, a=(0, 4), c=5), 2 * X + 15),
        (Model(spread, scale=2, p=[(0, 4), (1, 3), 0.5]), 2 * (2 + 2 * X + 0.5 * X**2)),
        (Model(spread, scale=2, p0=(0, 4), p1=1.0, shift=3), 2 * (2 + X) + 3),
        (Model(spread, scale=2, p=[(0, 4), "2*p0"]), 2 * (2 + 4 * X)),
        (Model(lambda x, *p: p[0] * x, p0=(0, 4)), 2 * X),
        (Model(lambda *all_of_it: all_of_it[1] * all_of_it[0], all_of_it=[(0, 4)]), 2 * X),
        (Model(lambda x, p: np.polyval(p, x), p=[(0, 4), (1, 3)]), 2 * X + 2),
        (Model(lambda x, **k: k["a"] * x, a=(0, 4)), 2 * X),
        (Model(lambda x, *, a, kind="quad": a * x**2 if kind == "quad" else x, a=(0, 4)), 2 * X**2),
        (Model(functools.partial(switched, kind="quad"), a=(0, 4)), 2 * X**2),
        (Model(functools.partial(annotated, kind="lin", order=2), a=(0, 4)), 2 * (X + X**2)),
        (Model(Kernel(3), a=(0, 4)), 2 * X**3),
        (Model(Kernel(3).halved, a=(0, 4)), X**3),
        (Model(np.power, x2=(0, 4)), X**2),
        (Model(np.hypot, x2=(0, 4)), np.hypot(X, 2)),
        (Model(np.vectorize(lambda x, a: 0 if x < 1 else a * x), a=(0, 3)), np.where(X < 1, 0, 1.5 * X)),
    ],
)
def test_a_function_is_called_as_in_python(model: Model, expected: Any) -> None:
    assert theory(model) == pytest.approx(expected)
    again = Model(model.function, **model._shown) if not model._vectors else model
    assert theory(again) == pytest.approx(expected)


def test_constants_are_no_parameters() -> None:
    a = Assembly((Model(switched, a=(0, 4), kind="quad", flag=False), (X, X, 1)))
    assert a.names == ("a",)
    assert a.objective.others(a.start) == {}


def test_whole_numbers_stay_parameters_for_results_and_expressions() -> None:
    a = Assembly(
        (Model(annotated, a="order / 4 * b", kind="lin", order=2), (X, X)),
        (Model(lambda x, b: b * x, b=(0, 4)), (X, X)),
    )
    assert a.objective.others(a.start) == {"a": 1.0, "order": 2.0}
    assert a.residuals(a.start)[:9] == pytest.approx((X + X**2) - X)


def test_repr() -> None:
    model = Model(switched, a=(0, 4), kind="quad", flag=False)
    assert (
        repr(model)
        == "Model(switched, a=Parameter(2, limits=(0, 4)), kind=Constant('quad'), flag=Constant(False))"
    )
    assert repr(Constant(np.zeros((3, 4)))) == "Constant(<array of shape (3, 4)>)"
    assert repr(Constant("y" * 99)) == "Constant('" + "y" * 56 + "...)"
    assert repr(Model(lambda x, t, a: x, a=(0, 4))) == "Model(<lambda>(x, t), a=Parameter(2, limits=(0, 4)))"
    assert (
        repr(Model(functools.partial(switched, flag=False), a=1))
        == "Model(switched, a=Parameter(1, fixed=True))"
    )


def test_constants_travel() -> None:
    a = Assembly((Model(switched, a=(0, 4), kind=Constant("quad"), flag=False), (X, X)))
    b = pickle.loads(pickle.dumps(a))
    assert b.residuals([1.5]).tolist() == a.residuals([1.5]).tolist()


def test_the_name_is_public() -> None:
    assert park.Constant is park.fit.Constant is Constant


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Model(lambda x, a, mode: x, a=1, mode="power law"),
            r"parameter 'mode': .*Constant\('power law'\)",
        ),
        (lambda: Model(lambda x, a, mode: x, a=1, mode=[1, 2, 3]), r"not a pair.*Constant\(\[1, 2, 3\]\)"),
        (
            lambda: Model(lambda x, a, mode: x, a=1, mode=["p", "q"]),
            r"not a number.*Constant\(\['p', 'q'\]\)",
        ),
        (lambda: Model(lambda x, a, mode: x, a=1, mode=1j), r"not a number.*Constant\(1j\)"),
        (lambda: Model(lambda x, a: x, a=np.array([0.0, 4.0])), "not a number"),
        (
            lambda: Model(spread, scale=1, p=(0, 4)),
            r"vector of parameters: give a list.*\[\(0, 4\), \(1, 2\)\]",
        ),
        (lambda: Model(spread, scale=1, p=3), "vector of parameters"),
        (lambda: Model(spread, scale=1, p0=1, p2=2), "no value for p1, and there is one for p2"),
        (lambda: Model(spread, scale=1, p=[(0, 4)], p0=2), "two values for p0"),
        (lambda: Model(spread, scale=1, q0=2), r"no argument q0; \*p takes p0, p1, \.\.\., or p=\[\.\.\.\]"),
        (lambda: Model(lambda x, a: x, x=1, a=1), "x, the first argument"),
        (lambda: Model(lambda *, x, a: x, a=1), "takes no x as first argument"),
        (lambda: Model(lambda x, a, *, b: x, a=1), "no value for b"),
        (lambda: Model(np.power, exponent=2), "no argument exponent; it has x1, x2"),
    ],
)
def test_what_is_not_clear_says_what_to_do(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        make()


def test_a_forgotten_parameter_is_named() -> None:
    for model in (Model(switched), Model(lambda x, a, b: a * x + b, b=(0, 1))):
        with pytest.raises(
            InvalidRequest, match=r"part1, model .*: no value for a; without one, x, a are coordinates"
        ):
            Assembly((model, (X, X)))


def test_a_text_that_is_no_expression_says_so() -> None:
    with pytest.raises(InvalidRequest, match=r"uses 'log_normal'.*Constant\('log_normal'\) if it is a text"):
        Assembly((Model(lambda x, a, mode: a * x, a=(0, 4), mode="log_normal"), (X, X)))


@pytest.mark.parametrize(
    "use", [lambda n: sum(1 for _ in range(n)), lambda n: [4, 5, 6][n], lambda n: "abc"[:n]]
)
def test_a_function_that_needs_an_int_is_told_how_to_get_one(use: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"part1, model <lambda>: .*for an int give n=Constant\(2\)"):
        Assembly((Model(lambda x, a, n: (use(n), a * x)[1], a=(0, 4), n=2), (X, X)))
    Assembly((Model(lambda x, a, n: (use(n), a * x)[1], a=(0, 4), n=Constant(2)), (X, X)))


def test_a_vector_is_fitted() -> None:
    y = 0.5 - 2 * X + 3 * X**2
    result = fit(
        Assembly((Model(spread, scale=1.0, p=[(-9, 9), (-9, 9), Parameter(1.0)]), (X, y, 0.1))), "lm"
    )
    assert result.names == ("p0", "p1", "p2")
    assert result.x == pytest.approx([0.5, -2, 3], abs=1e-6)


def test_whole_numbers_of_numpy_vectorize_do_not_cut_off_what_follows() -> None:
    step = np.vectorize(lambda x, a: 0 if x < 1 else a * np.exp(1j * x))
    y = np.zeros(9) + 0j
    a = Assembly((Model(step, a=(0, 3)), (X, y)))
    expected = np.where(X < 1, 0, 1.5 * np.exp(1j * X))
    assert a.residuals([1.5]) == pytest.approx(np.concatenate([expected.real, expected.imag]))


def arithmetic() -> st.SearchStrategy[str]:
    """Texts of expressions with the parameters a and b."""
    leaf = st.sampled_from(["a", "b", "2", "0.5", "pi", "np.pi"])

    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        pair = st.tuples(inner, inner)
        condition = st.tuples(inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), inner).map(" ".join)
        joined = st.one_of(
            condition,
            condition.map("not ({})".format),
            st.tuples(condition, st.sampled_from(["and", "or"]), condition).map(" ".join),
            st.tuples(inner, inner, inner).map(lambda t: f"({t[0]}) < ({t[1]}) <= ({t[2]})"),
        )
        return st.one_of(
            st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(
                lambda t: f"({t[0]}) {t[1]} ({t[2]})"
            ),
            inner.map("-({})".format),
            st.tuples(st.sampled_from(["sin", "np.cos", "math.atan", "numpy.tanh", "abs"]), inner).map(
                lambda t: f"{t[0]}({t[1]})"
            ),
            st.tuples(st.sampled_from(["min", "max", "np.hypot", "atan2"]), pair).map(
                lambda t: f"{t[0]}({t[1][0]}, {t[1][1]})"
            ),
            st.tuples(pair, joined).map(lambda t: f"(({t[0][0]}) if {t[1]} else ({t[0][1]}))"),
        )

    return st.recursive(leaf, more, max_leaves=12)


class TestExpressions:
    @given(arithmetic(), st.floats(-3, 3), st.floats(-3, 3))
    @settings(max_examples=150)
    def test_they_compute_as_python_does(self, text: str, a: float, b: float) -> None:
        known = {"abs": abs, "min": min, "max": max, "sin": math.sin, "atan2": math.atan2, "pi": math.pi}
        expected = eval(text, {"np": np, "numpy": np, "math": math, **known}, {"a": a, "b": b})
        assert compiled(text, {"a": 0, "b": 1})([np.float64(a), np.float64(b)]) == pytest.approx(
            expected, rel=1e-12
        )
        assert set(names_in(text)) <= {"a", "b", "pi"}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("min(b, 2, 1)", 1.0),
            ("max(b)", 3.0),
            ("where(b > 2 and b != 4, b, -b)", 3.0),
            ("log(b - 3) if b > 3 else 0", 0.0),
            ("clip(b, 0, 1)", 1.0),
            ("round(b / 7, 2)", 0.43),
            ("math.erf(b - 3)", 0.0),
            ("np.float_power(b, 2)", 9.0),
            ("1 if 2 < b < 4 else 0", 1.0),
        ],
    )
    def test_functions_and_conditions(self, text: str, value: float) -> None:
        assert compiled(text, {"b": 0})([np.float64(3.0)]) == value

    def test_a_parameter_hides_a_constant_but_not_that_of_a_module(self) -> None:
        assert compiled("pi + math.pi", {"pi": 0})([np.float64(1)]) == 1 + math.pi
        assert names_in("np.sin(part2.b) + np.pi") == ["part2.b"]

    def test_every_function_has_a_value_for_its_number_of_arguments(self) -> None:
        given_to = {"where": "b > 0, b, b", "clip": "b, b, b"}
        for name, function in FUNCTIONS.items():
            arguments = given_to.get(name) or ", ".join("b" * getattr(function, "nin", 1))
            with np.errstate(all="ignore"):
                assert np.ndim(compiled(f"{name}({arguments})", {"b": 0})([np.float64(0.5)])) == 0
            with pytest.raises(InvalidRequest, match=f"calls {name} with 0 arguments; it takes"):
                names_in(f"{name}()")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("b ^ 2", r"a power is written with \*\*"),
            ("foo(b)", "it may call abs, .*arctan2, .*where"),
            ("np.load(b)", "calls 'load'; it may call"),
            ("np.linalg", "may stand in it"),
            ("np.linalg.norm(b)", "may stand in it"),
            ("os.system(b)", "may stand in it"),
            ("math.b", "may stand in it"),
            ("(b > 0) * 3", "may stand in it"),
            ("b if b else 1", r"'b' as a condition: a comparison such as 'b > 0'"),
            ("where(b, 1, 2)", "as a condition"),
            ("1 if b > 0 and b else 2", "as a condition"),
            ("1 if b is b else 2", "as a condition"),
            ("1 if b in (1, 2) else 2", "as a condition"),
            ("sqrt(b, 2)", "calls sqrt with 2 arguments; it takes 1"),
            ("max()", "it takes 1 to 255"),
            ("where(b > 0, 1)", "it takes 3"),
            ("max(*b)", "may stand in it"),
            ("min(b, key=b)", "may stand in it"),
        ],
    )
    def test_what_they_do_not_know_is_said(self, text: str, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            names_in(text)


#: beside the models below, as a script has it
own = np.random.default_rng(77)
other = random.Random(5)
TIMES = np.linspace(0, 4, 25)


def jittered(t: Any, a: float, b: float) -> Any:
    return a * t + b + 1e-3 * own.normal(size=t.size)


def jittered_by_another(t: Any, a: float, b: float) -> Any:
    return jittered(t, a, b) + 1e-3 * other.random()


class Jittered:
    def __init__(self) -> None:
        self.draws = np.random.RandomState(3)

    def __call__(self, t: Any, a: float, b: float) -> Any:
        return a * t + b + 1e-3 * self.draws.rand()


class TestGeneratorsOfAModel:
    """A model may draw from a generator of its own: fits of equal seeds give equal numbers, whatever ran before."""

    @pytest.mark.parametrize("model", [jittered, jittered_by_another, Jittered()])
    @pytest.mark.parametrize("method", ["de", "amoeba", "dream"])
    def test_equal_seeds_give_equal_numbers(self, model: Any, method: str) -> None:
        few = {"de": {"steps": 20}, "amoeba": {}, "dream": {"samples": 400, "max_samples": 400}}[method]
        assembly = Assembly((Model(model, a=(0, 4), b=(-2, 4)), (TIMES, 2 * TIMES + 1, 0.1)))
        found = [fit(assembly, method, seed=11, **few).x.tolist() for _ in range(2)]
        assert found[0] == found[1]

    def test_a_value_depends_on_the_parameters_alone(self) -> None:
        assembly = Assembly((Model(jittered, a=(0, 4), b=(-2, 4)), (TIMES, 2 * TIMES + 1, 0.1)))
        before = own.bit_generator.state
        assert assembly.nllf([2, 1]) == assembly.nllf([2, 1])
        assert own.bit_generator.state == before

    def test_those_of_a_bumps_model_too(self) -> None:
        names = pytest.importorskip("bumps.names")
        curve = names.Curve(jittered, TIMES, 2 * TIMES + 1, np.full(25, 0.1), a=1.0, b=0.0)
        curve.a.range(0, 4)
        curve.b.range(-2, 4)
        problem = Assembly(names.FitProblem(curve))
        found = [fit(problem, "amoeba", seed=11).x.tolist() for _ in range(2)]
        assert found[0] == found[1]

"""Parameters, models, data and assemblies: what they accept, what they refuse, and the numbers they give."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import park.errors
from park.errors import InvalidRequest
from park.fit.problem.assembly import Assembly, as_assembly
from park.fit.problem.data import Data
from park.fit.problem.expression import compiled, names_in
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter, as_parameter

X = np.linspace(0, 5, 11)


def line(x: Any, a: float, b: float) -> Any:
    return a * x + b


def decay(x: Any, height: float, time: float, floor: float = 0.0) -> Any:
    return height * np.exp(-x / time) + floor


def test_import_is_light() -> None:
    code = (
        "import sys, park.fit\n"
        "from park.fit.problem.assembly import Assembly; from park.fit.problem.model import Model\n"
        "Assembly((Model(lambda x, a: a * x, a=(0, 1)), ([1, 2], [1, 2])))\n"
        "print([m for m in ('bumps', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestParameter:
    def test_a_number_is_fixed(self) -> None:
        parameter = as_parameter(3)
        assert (parameter.value, parameter.fixed, parameter.fitted) == (3.0, True, False)

    def test_a_pair_is_fitted_from_the_middle(self) -> None:
        parameter = as_parameter((0, 4))
        assert (parameter.value, parameter.limits, parameter.fitted) == (2.0, (0.0, 4.0), True)

    def test_a_text_is_an_expression(self) -> None:
        parameter = as_parameter("2*b1")
        assert (parameter.expression, parameter.fitted) == ("2*b1", False)

    def test_a_parameter_is_fitted_without_limits(self) -> None:
        assert Parameter(500.0).limits == (-math.inf, math.inf)
        assert Parameter(500.0).fitted

    def test_an_array_scalar_is_a_number(self) -> None:
        assert as_parameter(np.float32(2)).value == 2.0

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (None, "the value None is not a number"),
            (True, "not a number"),
            (math.nan, "not finite"),
            ((4, 0), "must be below"),
            ((0, math.inf), "no middle"),
            ((0, math.nan), "nan"),
            ((0, 1, 2), "not a pair"),
            (("a", "b"), "not a number"),
            ("2*", "cannot be read"),
            ("", "cannot be read"),
            (object(), "not a number"),
        ],
    )
    def test_refuses_a_shorthand(self, given: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says.replace("*", r"\*")):
            as_parameter(given)

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"value": 11, "limits": (0, 10)}, "outside its limits"),
            ({"value": 1, "limits": (2, 2)}, "must be below"),
            ({"value": 1, "prior": (1, 0)}, "positive sigma"),
            ({"value": 1, "prior": (math.inf, 1)}, "finite mean"),
            ({"value": 1, "expression": "b"}, "has no value"),
            ({"expression": 3}, "not a text"),
            ({}, "no middle"),
        ],
    )
    def test_refuses_fields(self, fields: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Parameter(**fields)

    def test_the_error_names_model_and_parameter(self) -> None:
        with pytest.raises(InvalidRequest, match="model line, parameter 'b': limits"):
            Model(line, a=1, b=(3, 2))

    def test_an_error_is_a_value_error(self) -> None:
        assert issubclass(InvalidRequest, ValueError)
        assert issubclass(InvalidRequest, park.errors.ParkError)


class TestExpression:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2*b1", 6.0),
            ("-b1**2 + 1", -8.0),
            ("sqrt(b1*12)", 6.0),
            ("part2.b1 / b1", 5.0 / 3.0),
            ("maximum(b1, part2.b1) % 2", 1.0),
            ("2*pi", 2 * math.pi),
            ("b1 // 2", 1.0),
            (" 1e3 ", 1000.0),
        ],
    )
    def test_computes(self, text: str, value: float) -> None:
        assert compiled(text, {"b1": 0, "part2.b1": 1})([3.0, 5.0]) == pytest.approx(value)

    def test_division_by_zero_is_infinite_and_not_an_exception(self) -> None:
        with np.errstate(all="ignore"):
            assert compiled("1/b", {"b": 0})([np.float64(0)]) == math.inf

    def test_huge_powers_take_no_time(self) -> None:
        with np.errstate(all="ignore"):
            assert compiled("9**9**9**9", {})([]) == math.inf

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('true')",
            "().__class__",
            "b1.__class__.__mro__",
            "[b1 for b1 in (1,)]",
            "lambda: 1",
            "eval('1')",
            "b1 if b1 else 2",
            "b1 and 2",
            "'text'",
            "True",
            "1j",
            "exp(b1, out=b1)",
            "exp(*b1)",
            "b1[0]",
            "f'{b1}'",
            "(b1 := 3)",
            "exp.__call__(1)(2)",
        ],
    )
    def test_refuses_what_is_not_arithmetic(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="expression"):
            names_in(text)

    def test_deep_nesting_is_refused_or_read(self) -> None:
        with pytest.raises(InvalidRequest):
            names_in("(" * 3000 + "1" + ")" * 3000)

    def test_names(self) -> None:
        assert names_in("exp(b1) + part2.b1*b1 - c") == ["b1", "c", "part2.b1"]


class TestModel:
    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: Model(3), "not a function"),
            (lambda: Model(lambda: 1), "takes no x"),
            (lambda: Model(line, a=1), "no value for b"),
            (lambda: Model(line, a=1, b=1, c=1), "no argument c"),
            (lambda: Model(decay, height=1, time=1, flor=2), "no argument flor"),
        ],
    )
    def test_refuses(self, make: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            make()

    def test_defaults_may_be_left_out(self) -> None:
        assert list(Model(decay, height=1, time=(1, 2)).parameters) == ["height", "time"]

    def test_functions_that_take_any_keyword(self) -> None:
        Model(lambda x, **named: x, anything=1)

    def test_repr(self) -> None:
        assert repr(Model(line, a=(0, 4), b="2*a")) == (
            "Model(line, a=Parameter(2, limits=(0, 4)), b=Parameter(expression='2*a'))"
        )


class TestData:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (([1, 2], [1, math.nan]), "y must be finite; it is nan at index 1"),
            (([1, math.inf], [1, 2]), "x must be finite"),
            (([1, 2], [1, 2], [1, math.nan]), "dy must be finite"),
            (([1, 2], [1, 2], [1, 0]), "dy must be positive; it is 0 at index 1"),
            (([1, 2], [1, 2], -1), "dy must be positive"),
            (([1, 2, 3], [1, 2]), "does not match"),
            (([1, 2], [1, 2], [1, 2, 3]), "dy has shape"),
            (([], []), "x is empty"),
            ((["a", "b"], [1, 2]), "x has dtype"),
            (([1j, 2], [1, 2]), "x has dtype complex"),
            (([1, 2], [None, 2]), "y must be finite; it is None at index 0"),
            (([1, 2], [object(), 2]), "y has dtype object"),
            (([[1], [1, 2]], [1, 2]), "x is not an array"),
            (([1], 3), "not an array of data"),
        ],
    )
    def test_refuses(self, arguments: tuple[Any, ...], says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Data(*arguments)

    def test_keeps_a_copy(self) -> None:
        y = np.ones(3)
        data = Data([1, 2, 3], y)
        y[:] = 0
        assert data.y.tolist() == [1, 1, 1]

    def test_one_error_for_all_points(self) -> None:
        assert Data([1, 2], [1, 2], 0.5).dy.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("shape", [(5, 2), (2, 5), (5,)])
    def test_several_coordinates(self, shape: tuple[int, ...]) -> None:
        assert Data(np.ones(shape), np.ones(5)).x.shape == shape

    def test_an_image(self) -> None:
        data = Data(np.ones(4), np.ones((3, 4)), 1)
        assert (len(data), data.dy.shape) == (12, (3, 4))


class TestAssembly:
    def test_residuals_and_likelihood(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b=1.0), (X, 3 * X, 0.5)))
        assert a.names == ("a",)
        assert a.residuals([2.5]) == pytest.approx((2.5 * X + 1 - 3 * X) / 0.5)
        assert a.nllf([2.5]) == pytest.approx(0.5 * np.sum(a.residuals([2.5]) ** 2))

    def test_weights_multiply_residuals(self) -> None:
        part = (Model(line, a=(0, 4), b=1.0), (X, 3 * X))
        other = (Model(line, a=1.0, b=(0, 2)), (X, X))
        plain, weighted = Assembly(part, other), Assembly(part, other, weights=[1, 3])
        factors = np.repeat([1, 3], X.size)
        assert weighted.residuals([2, 0.5]) == pytest.approx(factors * plain.residuals([2, 0.5]))

    @pytest.mark.parametrize(
        ("weights", "says"),
        [
            ([1, 2], "2 weights for 1"),
            ([0], "positive"),
            ([math.nan], "positive"),
            ("x", "not a sequence"),
            (3, "not"),
        ],
    )
    def test_refuses_weights(self, weights: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Assembly((Model(line, a=(0, 1), b=0), (X, X)), weights=weights)

    def test_a_prior_is_one_more_point(self) -> None:
        a = Assembly((Model(line, a=Parameter(2, prior=(1.5, 0.1)), b=0), (X, X, 1)))
        assert a.objective.points == X.size + 1
        assert a.residuals([2])[-1] == pytest.approx(5)

    def test_outside_the_limits_is_infinitely_bad(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b=1.0), (X, X)))
        assert a.objective.nllf(np.array([5.0])) == math.inf
        with pytest.raises(InvalidRequest, match=r"a=5 is outside its limits \(0, 4\)"):
            a.nllf([5])

    def test_equal_names_are_told_apart(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b=(0, 1)), (X, X)), (Model(line, a=(1, 2), b="part1.b"), (X, X)))
        assert a.names == ("part1.a", "part1.b", "part2.a")

    def test_one_object_is_one_parameter(self) -> None:
        shared = Parameter(1, limits=(0, 2))
        a = Assembly(
            (Model(line, a=shared, b=(0, 1)), (X, X)), (Model(decay, height=shared, time=(1, 3)), (X, X))
        )
        assert a.names == ("a", "b", "time")
        model = Model(line, a=(0, 1), b=(0, 1))
        assert Assembly((model, (X, X)), (model, (X, 2 * X))).names == ("a", "b")

    def test_expressions_between_parts(self) -> None:
        a = Assembly(
            (Model(line, a=(0, 4), b="sqrt(slope)"), (X, X)),
            (Model(lambda x, slope, b: slope * x + b, slope="2*a", b="part1.b + 1"), (X, X)),
        )
        assert a.names == ("a",)
        theory = np.concatenate([2 * X + 2, 4 * X + 3])
        assert a.residuals([2]) == pytest.approx(theory - np.concatenate([X, X]))
        assert a.objective.others(np.array([2.0])) == pytest.approx(
            {"part1.b": 2.0, "slope": 4.0, "part2.b": 3.0}
        )

    def test_limits_of_a_computed_parameter_forbid(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b=Parameter(expression="a", limits=(0, 3))), (X, X)))
        assert math.isfinite(a.nllf([2.9]))
        assert a.nllf([3.1]) == math.inf

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: Assembly(), "at least one part"),
            (lambda: Assembly((Model(line, a=1, b=2), (X, X))), "nothing to fit"),
            (lambda: Assembly(Model(line, a=1, b=(0, 1)), (X, X)), "part1 is Model"),
            (lambda: Assembly((Model(line, a=1, b=(0, 1)), X)), "part1, data"),
            (lambda: Assembly((Model(line, a=1, b=(0, 1)), (X, X, 0))), "part1, data: dy must be positive"),
            (lambda: Assembly((Model(line, a=(0, 1), b="2*c"), (X, X))), "part1, parameter 'b'.*uses 'c'"),
            (lambda: Assembly((Model(line, a="b", b="a"), (X, X))), "uses itself: a -> b -> a"),
            (
                lambda: Assembly((Model(line, a=(0, 1), b="b"), (X, X))),
                "parameter 'b': its expression uses itself",
            ),
            (lambda: Assembly((Model(line, a=(0, 1), b="part7.a"), (X, X))), "'part7.a'"),
            (lambda: Assembly((Model(lambda x, a: a, a=(0, 1)), (X, X))), r"returned shape \(\) for y"),
            (lambda: Assembly((Model(lambda x, a: x[1:], a=(0, 1)), (X, X))), r"returned shape \(10,\)"),
            (lambda: Assembly((Model(lambda x, a: x * 1j, a=(0, 1)), (X, X))), "dtype complex"),
            (lambda: Assembly((Model(lambda x, a: None, a=(0, 1)), (X, X))), "returned shape"),
            (
                lambda: Assembly(
                    (Model(line, a=(0, 1), b=Parameter(expression="a+9", limits=(0, 1))), (X, X))
                ),
                "b = a.9 is 9.5 at the start, outside",
            ),
        ],
    )
    def test_refuses(self, make: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            make()

    def test_an_ambiguous_name_is_explained(self) -> None:
        with pytest.raises(InvalidRequest, match=r"say part1\.a or part2\.a"):
            Assembly(
                (Model(line, a=(0, 4), b=1), (X, X)),
                (Model(line, a=(0, 4), b=1), (X, X)),
                (Model(lambda x, c: c * x, c="a"), (X, X)),
            )

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ([1], "shape"),
            ({"c": 1}, "names c"),
            ([9, 0], "outside"),
            ([math.nan, 0], "outside"),
            ("ab", "not a vector"),
        ],
    )
    def test_refuses_a_start(self, given: Any, says: str) -> None:
        with pytest.raises(InvalidRequest, match=says):
            Assembly((Model(line, a=(0, 4), b=(-1, 1)), (X, X))).vector(given)

    def test_a_start_may_name_some(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b=(-1, 1)), (X, X)))
        assert a.vector({"b": 0.25}).tolist() == [2.0, 0.25]

    def test_pickles(self) -> None:
        a = Assembly((Model(line, a=(0, 4), b="a**2"), (X, X, 0.1)))
        b = pickle.loads(pickle.dumps(a))
        assert b.nllf([1.25]) == a.nllf([1.25])
        assert repr(b) == "<Assembly: 1 part, 11 points, fits a>"

    def test_what_is_no_assembly(self) -> None:
        with pytest.raises(InvalidRequest, match="neither an Assembly nor"):
            as_assembly(3)

    def test_a_point_where_the_model_never_has_a_value_is_named(self) -> None:
        def rippled(x: Any, a: float) -> Any:
            return a * np.sin(x) / x

        with pytest.raises(InvalidRequest, match=r"part2, model rippled: .* at index 4 \(x = 0\), whatever"):
            Assembly(
                (Model(line, a=(0, 1), b=0), (X, X)),
                (Model(rippled, a=(0, 2)), (np.arange(-4.0, 5), np.ones(9))),
            )
        masked = np.ma.masked_equal(np.arange(-4.0, 5), 0)
        assert math.isfinite(Assembly((Model(rippled, a=(0, 2)), (masked, np.ones(9)))).nllf([1]))

    def test_points_without_a_value_for_some_parameters_only_are_no_mistake(self) -> None:
        model = Model(lambda x, a: np.sqrt(a - x), a=(1, 9))
        assert math.isinf(Assembly((model, (X, X))).nllf([4]))
        Assembly((Model(lambda x, a: x * np.nan, a=(1, 9)), (X, X)))  # the job says so

    def test_a_model_that_fails_only_here_is_forgiven(self) -> None:
        def model(x: Any, a: float) -> Any:
            raise OSError("its library is on the cluster")

        Assembly((Model(model, a=(0, 1)), (X, X)))


class TestBumps:
    def test_the_problem_has_the_same_numbers(self) -> None:
        a = Assembly(
            (Model(line, a=(0, 4), b=Parameter(0.5, limits=(-1, 1), prior=(0, 0.1))), (X, X, 0.2)),
            (Model(decay, height="3*a", time=Parameter(2.0), floor=0.1), (X, np.exp(-X), 0.1)),
            weights=[1, 0.5],
        )
        problem = a.problem()
        assert tuple(problem.labels()) == a.names
        assert problem.getp() == pytest.approx(a.start)
        assert problem.dof == a.objective.dof
        for x in ([1, 0.1, 3], [3.5, -0.9, 0.2]):
            assert problem.nllf(np.array(x)) == pytest.approx(a.nllf(x))
            problem.setp(np.array(x))
            assert problem.residuals() == pytest.approx(a.residuals(x))
        assert problem.nllf(np.array([5.0, 0, 1])) == math.inf

    def problem(self) -> Any:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        curve = Curve(line, X, 2 * X + 1, np.full(X.shape, 0.1), a=1, b=0)
        curve.a.range(0, 5)
        curve.b.dev(0.5, mean=0.9)
        return FitProblem(curve)

    def test_a_problem_is_taken_as_it_is(self) -> None:
        problem = self.problem()
        a = as_assembly(problem)
        assert a.names == ("a", "b")
        assert a.problem() is problem
        assert a.nllf([2.5, 0.8]) == pytest.approx(problem.nllf(np.array([2.5, 0.8])))
        assert 0.5 * np.sum(a.residuals([2.5, 0.8]) ** 2) == pytest.approx(a.nllf([2.5, 0.8]))
        assert a.objective.points == X.size + 1

    @pytest.mark.parametrize(("what", "bad"), [("x", math.inf), ("y", math.nan), ("dy", math.nan)])
    def test_its_data_must_be_finite(self, what: str, bad: float) -> None:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        columns = {"x": X.copy(), "y": 2 * X, "dy": np.ones(X.shape)}
        columns[what][4] = bad
        curve = Curve(line, **columns, name="run 9", a=1, b=0)
        curve.a.range(0, 5)
        with pytest.raises(
            InvalidRequest,
            match=f"model 'run 9' of the problem: {what} must be finite; it is {bad} at index 4",
        ):
            Assembly(FitProblem(curve))

    def test_a_model_may_leave_holes_out_itself(self) -> None:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        class Patient(Curve):  # type: ignore[misc]
            def nllf(self) -> float:
                return 0.5 * float(np.nansum(self.residuals() ** 2))

        curve = Patient(line, X, np.where(X > 4, np.nan, X), np.ones(X.shape), a=1, b=0)
        curve.a.range(0, 5)
        assert math.isfinite(Assembly(FitProblem(curve)).nllf([2]))

    def test_its_start_must_be_inside(self) -> None:
        problem = self.problem()
        problem.setp(np.array([7.0, 0]))
        with pytest.raises(InvalidRequest, match=r"a=7 is outside its limits"):
            Assembly(problem)

    def test_it_brings_its_weights(self) -> None:
        with pytest.raises(InvalidRequest, match="weights of its own"):
            Assembly(self.problem(), weights=[1])

    def test_what_its_model_raises_comes_through(self) -> None:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        def broken(x: Any, a: float) -> Any:
            raise ZeroDivisionError("in the model")

        curve = Curve(broken, X, X, a=1)
        curve.a.range(0, 5)
        with pytest.raises(ZeroDivisionError, match="in the model"):
            Assembly(FitProblem(curve)).nllf([2])

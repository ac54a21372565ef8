"""The drivers, in this process: every method, seeds, stop and abort, and models that fail."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from park.errors import Abort, InvalidRequest
from park.fit.bodies import starting_points, with_remark
from park.fit.methods.monitor import ModelFailed
from park.fit.methods.options import METHODS, check_method
from park.fit.numerics.covariance import covariance
from park.fit.problem.assembly import Assembly
from park.fit.problem.model import Model
from park.fit.problem.parameter import Parameter
from park.fit.results.result import FitResult
from park.model import Improvement, Log, Progress
from tests.support import nist
from tests.support.fits import NOISE, SETTINGS, TRUE, Env, X, assembly, decay, fit, sample
from tests.support.rooms import ROOT


@pytest.fixture(scope="module")
def best() -> FitResult:
    return fit(assembly(), "lm")


def test_the_job_says_what_is_to_be_known_of_its_result(best: FitResult) -> None:
    env = Env()
    assert with_remark(best, env) is best
    assert env.remarks == []
    with_remark(replace(best, converged=False, message="no steps were left"), env)
    assert env.remarks == ["NOT CONVERGED: no steps were left"]
    ended = Env()
    fit(assembly(model=lambda x, height, time, floor: decay(x, height, time, floor - 2)), "lm", ended)
    (said,) = ended.remarks
    assert said.startswith("floor ended at its limit 1; reduced chi-squared is 15.9, far above 1")


def test_the_docs_name_each_option_with_its_default() -> None:
    page = (ROOT / "docs" / "fits.rst").read_text()
    table = page.partition("options with their defaults\n")[2].partition("==\n\n")[0]
    rows = re.split(r"^``(\w+)`` +", table, flags=re.MULTILINE)
    found = dict(zip(rows[1::2], rows[2::2], strict=True))
    for method, options in METHODS.items():
        said = [f"``{name}={repr(v).replace(chr(39), chr(34))}``" for name, v in options.items()]
        assert re.findall(r"``\w+=[^`]*``", found[method]) == said


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_minimum(best: FitResult, method: str) -> None:
    env = Env()
    start = {"height": 4, "time": 2} if method == "newton" else None  # which knows no limits
    result = fit(assembly(), method, env, start=start, **SETTINGS[method])
    near = 1e-2 if method not in ("pt", "dream") else 1.0
    assert np.abs(result.x - best.x) / best.dx == pytest.approx(0, abs=near)
    assert result.nllf == pytest.approx(best.nllf, abs=0.5)
    assert assembly().nllf(result.x) == pytest.approx(result.nllf)
    assert result.method == method
    assert env.calls == result.steps == len(env.of(Progress))
    assert env.of(Improvement)[-1].value == pytest.approx(result.nllf)
    assert set(env.of(Improvement)[0].point) == {"height", "time", "floor"}
    assert (env.mapped > 0) == (method in ("de", "dream"))
    values = [message.value for message in env.of(Improvement)]
    assert values == sorted(values, reverse=True)
    least = 0 if method == "dream" else 1  # of the burn-in there are no samples
    assert all(least <= message.done <= message.total for message in env.of(Progress))


def test_newton_takes_its_last_step_with_accurate_derivatives(best: FitResult) -> None:
    calls = 0

    def counted(x: Any, height: float, time: float, floor: float) -> Any:
        nonlocal calls
        calls += 1
        return decay(x, height, time, floor)

    made = assembly(model=counted)
    calls = 0
    result = fit(made, "newton", start={"height": 4, "time": 2})
    assert np.abs(result.x - best.x) / best.dx == pytest.approx(0, abs=5e-4)
    assert calls < 165  # a second run of newton would take 171 together, and end further away


def test_the_truth_is_within_the_errors(best: FitResult) -> None:
    assert np.abs(best.x - TRUE) / best.dx == pytest.approx(0, abs=3)
    assert best.chisq == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_options_are_those_of_bumps(method: str) -> None:
    from bumps import fitters

    theirs = {name: value for f in fitters.FITTERS if f.id == method for name, value in f.settings}
    ours = {"pop", "init", "rhat", "ess", "max_samples"} if method == "dream" else set()
    for name, default in METHODS[method].items():
        if name not in ours and method not in ("auto", "lm"):
            assert theirs[name] == default, name


@pytest.mark.parametrize("method", ["amoeba", "newton", "lm"])
def test_a_start_is_used(best: FitResult, method: str) -> None:
    near = fit(assembly(), method, start=best)
    assert near.steps <= fit(assembly(), method).steps
    assert near.x == pytest.approx(best.x, rel=1e-3)


@pytest.mark.parametrize("method", ["de", "dream", "pt"])
def test_equal_seeds_give_equal_answers(method: str) -> None:
    options = {"steps": 20} if method != "dream" else {"samples": 300, "burn": 20, "max_samples": 300}
    first, again, other = (fit(assembly(), method, Env(seed=s), **options) for s in (3, 3, 4))
    assert first.x.tolist() == again.x.tolist()
    assert first.convergence.tolist() == again.convergence.tolist()
    assert first.convergence.tolist() != other.convergence.tolist()
    if method == "dream":
        assert first.draws is not None
        assert again.draws is not None
        assert first.draws.tolist() == again.draws.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_stop_keeps_the_best_so_far(method: str) -> None:
    env = Env(stop_after=3)
    options = {"samples": 2000} if method == "dream" else {}
    result = fit(assembly(), method, env, **options)
    assert result.stopped
    assert result.steps < 15  # dream looks only each ten generations
    assert math.isfinite(result.nllf)
    assert assembly().nllf(result.x) == pytest.approx(result.nllf)


@pytest.mark.parametrize(("method", "steps"), [("amoeba", 12), ("newton", 2), ("de", 3)])
def test_a_method_that_takes_its_last_step_says_so(method: str, steps: int) -> None:
    result = fit(assembly(), method, start={"height": 9, "time": 9}, steps=steps)
    assert result.steps >= steps - 1
    assert not result.converged
    assert f"it took its last of {steps} steps" in result.message


def test_least_squares_that_stays_on_a_ripple_says_how_to_go_on() -> None:
    def stepped(x: Any, a: float, b: float) -> Any:
        return np.floor(200 * (a * x + b)) / 200 + 0.02 * np.sin(400 * a)

    model = Model(stepped, a=Parameter(1.2, limits=(0, 5)), b=Parameter(0.0, limits=(-5, 5)))
    result = fit(Assembly((model, (X, 2 * X + 1, 0.1))), "lm")
    assert not result.converged
    assert "fit with method 'auto', which searches further" in result.message


def test_between_limits_too_wide_points_are_of_no_use() -> None:
    wide = {name: Parameter(1.0, limits=(-1e9, 1e9)) for name in ("height", "time", "floor")}
    y = decay(X, *TRUE) + 0.05 * NOISE
    a = Assembly((Model(decay, **wide), (X, y, 0.05)))
    result = fit(a, "de", steps=5)
    assert "those of height, time, floor are" in result.message
    assert "times as wide as a step that matters: give limits as narrow as you can believe" in result.message
    assert fit(a, "amoeba").converged


def test_a_simplex_that_has_collapsed_begins_again() -> None:
    problem = nist.load("MGH09")
    parameters = {f"b{n}": Parameter(value) for n, value in enumerate(problem.start1, 1)}
    result = fit(Assembly((Model(problem.model, **parameters), (problem.x, problem.y))), "amoeba", steps=5000)
    assert result.converged
    assert result.x == pytest.approx(problem.certified, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_abort_passes_through(method: str) -> None:
    env = Env(abort_after=2)
    with pytest.raises(Abort):
        fit(assembly(), method, env)
    assert env.calls == 2


class TestStarts:
    def wavy(self, x: Any, phase: float) -> Any:
        return np.cos(x - phase) * np.exp(-((phase - 9) ** 2) / 50)

    def hard(self) -> Assembly:
        y = self.wavy(X, 9.0)
        return Assembly((Model(self.wavy, phase=Parameter(2.7, limits=(0, 20))), (X, y, 0.1)))

    def test_many_starts_find_what_one_misses(self) -> None:
        alone = fit(self.hard(), "lm")
        env = Env()
        many = fit(self.hard(), "lm", env, starts=12)
        assert alone.nllf > 10
        assert many.x == pytest.approx([9.0])
        last = env.of(Progress)[-1]
        assert (last.done, last.total, last.units) == (12, 12, "starts")
        assert env.mapped == 12
        assert len(many.convergence) == 12

    def test_stop_is_heard_between_waves(self) -> None:
        env = Env(stop_after=1)
        result = fit(self.hard(), "lm", env, starts=100)
        assert result.stopped
        assert env.mapped == len(result.convergence) == 4

    @pytest.mark.parametrize("starts", [2, 4, 5, 12, 13, 40])
    def test_every_start_is_tried_once(self, starts: int) -> None:
        env = Env()
        assert len(fit(self.hard(), "lm", env, starts=starts).convergence) == starts
        assert env.mapped == starts

    def test_population_methods_too(self) -> None:
        assert fit(self.hard(), "de", starts=2, steps=30).x == pytest.approx([9.0], abs=1e-3)

    def test_they_are_seeded(self) -> None:
        first, again = (fit(self.hard(), "amoeba", Env(seed=8), starts=3) for _ in range(2))
        assert first.x.tolist() == again.x.tolist()

    def test_points(self) -> None:
        model = Model(
            lambda x, a, b, c, d: x,
            a=(0, 1),
            b=Parameter(5, limits=(2, math.inf)),
            c=Parameter(-5, limits=(-math.inf, -2)),
            d=Parameter(0.0),
        )
        objective = Assembly((model, (X, X))).objective
        points = starting_points(objective, objective.start, 200, 1)
        assert len(points) == 200
        assert points[0].tolist() == [0.5, 5, -5, 0]
        assert all(objective.inside(point) for point in points)
        assert len({tuple(point) for point in points}) == 200
        assert points[7].tolist() == starting_points(objective, objective.start, 200, 1)[7].tolist()
        assert np.ptp([point[3] for point in points]) > 2


class TestErrors:
    def test_without_dy_they_follow_the_scatter(self, best: FitResult) -> None:
        plain = fit(assembly(dy=None), "lm")
        assert plain.x == pytest.approx(best.x, rel=1e-6)
        assert plain.dx == pytest.approx(best.dx * math.sqrt(best.chisq), rel=1e-6)

    def test_a_line_has_known_errors(self) -> None:
        a = Assembly(
            (Model(lambda x, a, b: a * x + b, a=Parameter(0.0), b=Parameter(0.0)), (X, 2 * X + NOISE, 0.7))
        )
        result = fit(a, "lm")
        design = np.stack([X, np.ones_like(X)], axis=1) / 0.7
        assert result.cov == pytest.approx(np.linalg.inv(design.T @ design), rel=1e-6)
        assert result.dof == X.size - 2

    def test_what_the_data_do_not_determine_is_infinite(self) -> None:
        model = Model(lambda x, a, b, c: (a + b) * x + c, a=(0, 2), b=(0, 2), c=(-1, 1))
        a = Assembly((model, (X, X, 0.1)))
        deviation = np.sqrt(np.diag(covariance(a.objective, a.start)))
        assert np.isinf(deviation[:2]).all()
        assert 0 < deviation[2] < 0.1

    def test_exact_data_have_none(self) -> None:
        a = Assembly((Model(lambda x, a: a * x, a=(0, 4)), (X, 3 * X)))
        result = fit(a, "lm")
        assert result.x == pytest.approx([3])
        assert result.dx[0] < 1e-12

    def test_no_degree_of_freedom(self) -> None:
        a = Assembly((Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-2, 2)), ([1, 2], [2, 3])))
        result = fit(a, "lm")
        assert result.x == pytest.approx([1, 1], abs=1e-6)
        assert math.isnan(result.chisq)
        assert np.isinf(result.dx).all()
        assert "nan" in repr(result)

    def test_limits_are_respected(self) -> None:
        seen: list[float] = []

        def model(x: Any, a: float) -> Any:
            seen.append(float(a))
            return a * x

        a = Assembly((Model(model, a=Parameter(0.5, limits=(0, 2))), (X, 3 * X, 0.1)))
        assert fit(a, "lm").x == pytest.approx([2])
        assert min(seen) >= 0
        assert max(seen) <= 2

    def test_computed_parameters_have_errors(self) -> None:
        a = Assembly(
            (
                Model(decay, height=(0, 10), time=(0.1, 10), floor="height/10"),
                (X, decay(X, 3, 1.5, 0.3), 0.05),
            )
        )
        result = fit(a, "lm")
        assert result["floor"].value == pytest.approx(0.3, rel=1e-6)
        assert result["floor"].stderr == pytest.approx(result["height"].stderr / 10, rel=1e-5)
        assert result["floor"].kind == "computed"


class TestUncertainty:
    def test_agrees_with_the_covariance(self, best: FitResult) -> None:
        result = sample(assembly(), best, samples=6000, max_samples=6000)
        assert result.draws is not None
        assert result.draws.shape[1] == 3
        assert result.draws.shape[0] >= 3000
        assert result.dx == pytest.approx(best.dx, rel=0.25)
        values = np.array([result[name].value for name in result.names])
        assert values == pytest.approx(np.median(result.draws, axis=0))
        assert (values - best.x) / best.dx == pytest.approx(0, abs=0.3)
        assert result.nllf <= best.nllf + 1e-9
        assert result.curves[0].low is not None

    @pytest.mark.heavy
    def test_without_dy_the_scatter_counts(self, best: FitResult) -> None:
        plain = fit(assembly(dy=None), "lm")
        result = sample(assembly(dy=None), plain, samples=6000, max_samples=6000)
        assert result.dx == pytest.approx(plain.dx, rel=0.25)
        assert result.chisq == pytest.approx(plain.chisq, rel=1e-6)

    def test_fits_first_without_a_start(self, best: FitResult) -> None:
        result = sample(assembly(), samples=500, max_samples=500, burn=20)
        assert result.x == pytest.approx(best.x, rel=1e-2)

    def test_stop(self, best: FitResult) -> None:
        result = sample(assembly(), best, Env(stop_after=3), samples=2000)
        assert result.stopped
        assert len(result) == 3

    def test_what_it_prints_goes_to_the_log(self, capsys: pytest.CaptureFixture[str]) -> None:
        env = Env()
        fit(assembly(), "dream", env, samples=1000, max_samples=1000, init="random")
        assert any("outliers" in log.text for log in env.of(Log))
        assert capsys.readouterr().out == ""

    def test_one_parameter(self) -> None:
        a = Assembly((Model(lambda x, a: a * x, a=(0, 4)), (X, 3 * X + NOISE, 1.0)))
        result = sample(a, samples=1000, max_samples=1000)
        assert result.dx[0] == pytest.approx(1 / math.sqrt(np.sum(X**2)), rel=0.3)
        assert result.cov.shape == (1, 1)


class TestFailures:
    def broken(self, x: Any, height: float, time: float, floor: float) -> Any:
        raise ZeroDivisionError("the density is zero")

    def nan(self, x: Any, height: float, time: float, floor: float) -> Any:
        return np.full(x.shape, np.nan)

    def partly(self, x: Any, height: float, time: float, floor: float) -> Any:
        if time > 5:
            raise ZeroDivisionError("too slow")
        return decay(x, height, time, floor)

    @pytest.mark.parametrize("starts", [1, 3])
    @pytest.mark.parametrize("method", METHODS)
    def test_a_model_that_raises_everywhere_says_so(self, method: str, starts: int) -> None:
        with pytest.raises(
            ModelFailed, match=r"the model raised at .*: ZeroDivisionError: the density is zero"
        ) as caught:
            fit(assembly(model=self.broken), method, starts=starts)
        assert "in broken" in caught.value.__notes__[0]

    @pytest.mark.parametrize("method", METHODS)
    def test_a_model_without_values_says_so(self, method: str) -> None:
        with pytest.raises(ModelFailed, match="not finite at"):
            fit(assembly(model=self.nan), method)

    @pytest.mark.parametrize("method", ["amoeba", "de"])
    def test_one_bad_region_is_only_bad_points(self, best: FitResult, method: str) -> None:
        env = Env()
        result = fit(assembly(model=self.partly), method, env, start={"time": 3.0})
        assert result.x == pytest.approx(best.x, rel=1e-2)
        logs = [log.text for log in env.of(Log)]
        if logs:  # the traceback once, and how often at the end
            traceback, count = logs
            assert "too slow" in traceback
            assert re.fullmatch(r"the model raised at \d+ of [\d,]+ points; the first: .*too slow", count)

    def test_in_a_bumps_problem_too(self) -> None:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        curve = Curve(self.broken, X, X, height=1, time=1, floor=1)
        for parameter in curve.pars.values():
            parameter.range(0, 2)
        for method in ("amoeba", "de"):
            with pytest.raises(ModelFailed, match="the density is zero"):
                fit(Assembly(FitProblem(curve)), method)


class TestBumpsProblem:
    def problem(self) -> Any:
        from bumps.curve import Curve
        from bumps.fitproblem import FitProblem

        curve = Curve(
            decay, X, decay(X, *TRUE) + 0.05 * NOISE, np.full(X.shape, 0.05), name="", height=5, time=5
        )
        curve.height.range(0, 10)
        curve.time.range(0.1, 10)
        curve.floor.range(-1, 1)
        return FitProblem(curve)

    @pytest.mark.parametrize(
        "method", ["amoeba", "lm", pytest.param("de", marks=pytest.mark.heavy), "newton"]
    )
    def test_same_answers(self, best: FitResult, method: str) -> None:
        problem = self.problem()
        result = fit(Assembly(problem), method, start={"height": 4, "time": 2})
        order = [best.names.index(name) for name in result.names]
        assert result.x == pytest.approx(best.x[order], rel=1e-3)
        assert result.dx == pytest.approx(best.dx[order], rel=1e-2)
        assert result.chisq == pytest.approx(best.chisq, rel=1e-4)
        assert "nllf" not in problem.__dict__
        (curve,) = result.curves
        assert curve.theory.shape == X.shape

    def test_uncertainty(self, best: FitResult) -> None:
        result = sample(Assembly(self.problem()), samples=3000, max_samples=3000)
        order = [best.names.index(name) for name in result.names]
        assert result.dx == pytest.approx(best.dx[order], rel=0.3)

    def test_a_density(self) -> None:
        from bumps.fitproblem import FitProblem
        from bumps.pdfwrapper import PDF

        def bowl(a: float, b: float) -> float:
            return 0.5 * ((a - 1) / 0.1) ** 2 + 0.5 * ((b + 2) / 0.2) ** 2

        pdf = PDF(bowl, a=0.5, b=0, dof=10)
        pdf.a.range(-5, 5)
        pdf.b.range(-5, 5)
        result = fit(Assembly(FitProblem(pdf)), "amoeba")
        assert result.x == pytest.approx([1, -2], abs=1e-3)
        assert result.dx == pytest.approx([0.1, 0.2], rel=0.05)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("simplex", {}, "unknown method 'simplex'; there are auto, amoeba, lm"),
        (3, {}, "unknown method"),
        ("amoeba", {"step": 3}, "no option 'step'; it has steps"),
        ("amoeba", {"steps": 0}, "must be positive"),
        ("amoeba", {"steps": "many"}, "a number is needed"),
        ("amoeba", {"steps": 1.5}, "a whole number"),
        ("amoeba", {"xtol": math.nan}, "a number is needed"),
        ("dream", {"init": "best"}, "one of auto, eps, lhs"),
        ("dream", {"trim": 1}, "True or False"),
        ("dream", {"pop": 0.5}, "4 chains"),
    ],
)
def test_refuses_methods_and_options(method: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        check_method(method, options, assembly().objective)


def test_parallel_tempering_needs_limits() -> None:
    a = Assembly((Model(lambda x, a, b: a * x + b, a=(0, 1), b=Parameter(3.0)), (X, X)))
    with pytest.raises(InvalidRequest, match="'pt' steps between limits, and b has not both"):
        check_method("pt", {}, a.objective)

"""The objective of a bumps ``FitProblem`` that somebody made; priors and constraints are its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit import reading
from park.fit.arrival import SINGLE, first, has_single
from park.fit.curve import Curve, Profile
from park.fit.data import Array
from park.fit.objective import Group, Inequality, Objective, group
from park.fit.problem_checks import length_of_data
from park.fit.problem_holes import check_holes
from park.fit.raising import Likelihood


class BumpsObjective(Objective):
    """The numbers of a ``FitProblem``.

    A ``Curve`` that was made without dy has a dy of exactly 1 everywhere: it is taken as data whose errors are unknown,
    and the result says so.
    """

    number_is = "its negative log likelihood"

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self._likelihood = Likelihood(problem)
        labels = [str(label) for label in problem.labels()]
        self.names = tuple(
            label if label not in labels[:n] else f"{label} #{labels[:n].count(label) + 1}"
            for n, label in enumerate(labels)
        )
        self.start = np.array(problem.getp(), dtype=np.float64)
        self.low, self.high = np.array(problem.bounds(), dtype=np.float64)
        self._dof = int(problem.dof) if np.isfinite(getattr(problem, "dof", np.nan)) else 0
        self.points = self._dof + len(self.names)

    def check(self) -> None:
        super().check()
        for name, value, low, high in zip(self.names, self.start, self.low, self.high, strict=True):
            if not low <= value <= high:
                raise InvalidRequest(f"{name}={value:g} is outside its limits ({low:g}, {high:g})")
        self.first = first(self, has_single(self._problem))
        if self.first is not None and not np.isfinite(self.first.value):
            check_holes(self._problem)

    @cached_property
    def squares(self) -> bool:
        """Half the sum of squared residuals differs from the likelihood by a constant: compared at two points."""
        problem = self._problem
        # A problem of densities has a `residuals` too, but its models say that it is only for show.
        real = getattr(problem, "has_residuals", hasattr(problem, "residuals"))
        if not real or not all(
            getattr(model, "has_residuals", True) for model in getattr(problem, "models", ())
        ):
            return False
        differences, rounding = [], SINGLE if has_single(problem) else 1e-8
        with np.errstate(all="ignore"):
            for x in self._two_points():
                try:
                    residuals = self.free_residuals(x)
                    nllf = self._likelihood(x)
                except Exception:
                    continue  # the driver says what a model raises at its start
                half = 0.5 * float(residuals @ residuals)
                if np.isfinite(nllf) and np.isfinite(half) and not self._failing(x):
                    differences.append((nllf - half, rounding * (abs(nllf) + half + 1)))
        return (
            len(differences) < 2
            or abs(differences[1][0] - differences[0][0]) <= differences[0][1] + differences[1][1]
        )

    def _two_points(self) -> tuple[Array, Array]:
        wide = self.high - self.low
        step = np.where(
            np.isfinite(wide), 0.01 * wide, 1e-3 * np.where(self.start == 0, 1.0, np.abs(self.start))
        )
        other = np.where(self.start + step <= self.high, self.start + step, self.start - step)
        return self.start, np.clip(other, self.low, self.high)

    def _models(self) -> Iterator[Any]:
        """The models, each with its own values of free variables while it is looked at."""
        return iter(getattr(self._problem, "models", ()))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        if not self.squares:
            return ()
        residuals = self.free_residuals(self.start)
        groups: list[Group] = []
        start = 0
        weights = getattr(self._problem, "weights", None) or repeat(1.0)
        for n, (model, weight) in enumerate(zip(self._models(), weights, strict=False), 1):
            count = int(np.size(model.residuals()))
            name = str(getattr(model, "name", None) or f"part{n}")
            if count:
                groups.append(
                    self._group(model, name, start, residuals[start : start + count], float(weight))
                )
            start += count
        if start < residuals.size:
            rest = slice(start, residuals.size)
            groups.append(Group("priors", rest, True, 1.0, 1.0 + float(np.max(np.abs(residuals[rest])))))
        return tuple(groups)

    def _group(self, model: Any, name: str, start: int, residuals: Array, weight: float) -> Group:
        y, dy = (np.asarray(getattr(model, what, None)) for what in ("y", "dy"))
        if (
            y.dtype.kind in "iuf"
            and y.size == residuals.size
            and dy.dtype.kind in "iuf"
            and dy.shape in ((), y.shape)
        ):
            unknown = _without_errors(model)
            about_mean, about_zero = (np.ravel((y - mean) / dy) * weight for mean in (np.mean(y), 0.0))
            made = group(name, start, about_mean, about_zero, not unknown)
            return replace(made, emphasis=weight**2) if unknown else made
        size = float(np.sqrt(np.mean(np.square(residuals))))
        size = max(size, 1.0) if np.isfinite(size) else 1.0
        return Group(name, slice(start, start + residuals.size), True, size, size)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        names = ", ".join(g.name for g in self.unknown)
        return (
            (f"dy is 1 everywhere in {names}: the size of the errors is taken as unknown",) if names else ()
        )

    @cached_property
    def inequalities(self) -> tuple[Inequality, ...]:
        return tuple(
            Inequality(
                str(constraint).strip("()"), partial(self._slack, constraint), self._names_of(constraint)
            )
            for constraint in getattr(self._problem, "constraints", ())
        )

    def _slack(self, constraint: Any, x: Array) -> float:
        self._problem.setp(x)
        below = float(constraint.b) - float(constraint.a)
        return below if str(getattr(constraint.op, "value", constraint.op)).startswith("<") else -below

    def _names_of(self, constraint: Any) -> tuple[str, ...]:
        """The fitted parameters that change the slack."""
        with np.errstate(all="ignore"):
            one, two = self._two_points()
            slack = self._slack(constraint, one)
            moved = [np.where(np.arange(one.size) == j, two, one) for j in range(one.size)]
            return tuple(
                n for n, x in zip(self.names, moved, strict=True) if self._slack(constraint, x) != slack
            )

    def _failing(self, x: Array) -> bool:
        self._problem.setp(x)
        _, failing = (
            self._problem.constraints_nllf() if hasattr(self._problem, "constraints_nllf") else (0.0, ())
        )
        return bool(failing)

    def residuals(self, x: Array) -> Array:
        residuals = self.free_residuals(x)
        return np.full_like(residuals, np.inf) if self._failing(x) else residuals

    def free_residuals(self, x: Array) -> Array:
        self._problem.setp(x)
        rows = (np.ravel(self._problem.residuals()), self._problem.parameter_residuals())
        return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])

    def nllf(self, x: Array) -> float:
        value = self._likelihood(x)
        if not self.unknown or not np.isfinite(value) or self._failing(x):
            return value
        residuals = self.free_residuals(x)
        for unknown in self.unknown:
            part = residuals[unknown.rows]
            value += unknown.nllf(residuals) - 0.5 * float(part @ part)
        return value

    def free_nllf(self, x: Array) -> float:
        if self.squares:
            return super().free_nllf(x)
        if not self.inequalities:
            return self.nllf(x)
        self._problem.setp(x)
        return float(self._problem.parameter_nllf()[0] + self._problem.model_nllf())

    def deviance(self, x: Array) -> float | None:
        """Of counts: where the likelihood of each model is Poisson's, or a sum of squares."""
        from scipy.special import gammaln, xlogy

        self._problem.setp(x)
        total = 2 * float(
            np.sum(np.square(np.asarray(self._problem.parameter_residuals(), dtype=np.float64))) / 2
        )
        for model in self._models():
            try:
                y, theory = np.ravel(model.y).astype(float), np.ravel(model.theory()).astype(float)
                nllf, residuals = float(model.nllf()), np.ravel(model.residuals())
            except Exception:
                return None
            half = 0.5 * float(residuals @ residuals)
            with np.errstate(all="ignore"):
                poisson = float(np.sum(theory - xlogy(y, theory) + gammaln(y + 1)))
            if abs(nllf - half) <= 1e-8 * (abs(nllf) + 1):
                total += 2 * half
            elif abs(nllf - poisson) <= 1e-6 * (abs(nllf) + 1):
                total += 2 * float(np.sum(xlogy(y, y / theory) - (y - theory)))
            else:
                return None
        return total

    def number(self, x: Array) -> float:
        return self._likelihood(x)

    def length_of_data(self) -> float:
        return length_of_data(self._problem)

    def curves(self, x: Array) -> tuple[list[Curve], list[str]]:
        curves, notes = [], []
        for n, model in self.models(x):
            curve, missing = reading.curve(model, str(getattr(model, "name", None) or f"part{n}"))
            curves.append(replace(curve, dy=None) if _without_errors(model) else curve)
            notes += missing
        return curves, notes

    def drawn(self, x: Array, wanted: Sequence[Sequence[Profile] | None]) -> Iterator[list[NDArray[Any]]]:
        for n, model in self.models(x):
            profiles = wanted[n - 1]
            if profiles is not None:
                yield reading.drawn(model, profiles)

    def models(self, x: Array) -> Iterator[tuple[int, Any]]:
        self._problem.setp(x)
        return enumerate(self._models(), 1)

    def problem(self) -> Any:
        self._problem.setp(self.start)
        return self._problem


def _without_errors(model: Any) -> bool:
    """Whether a bumps ``Curve`` was made without dy, which leaves ones; subclasses may have a likelihood of their own."""
    from bumps.curve import Curve as BumpsCurve

    return (
        isinstance(model, BumpsCurve)
        and type(model).nllf is BumpsCurve.nllf
        and type(model).residuals is BumpsCurve.residuals
        and bool(np.all(np.asarray(model.dy) == 1))
    )

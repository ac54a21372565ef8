"""The objective function of a bumps ``FitProblem``, with its own priors and constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.curves import bumps_curves
from park.fit.curves.curve import Curve, DepthProfile
from park.fit.problem.bumps_conditions import check_constraints, computed_with_limits, fails, inequalities_of
from park.fit.problem.bumps_data import length_of_data
from park.fit.problem.bumps_likelihood import RaisingLikelihood, as_real
from park.fit.problem.bumps_undefined import check_holes
from park.fit.problem.client_values import SINGLE_TOLERANCE, evaluate_start, has_single
from park.fit.problem.objective import Group, Inequality, Objective, group
from park.fit.problem.own_generators import OwnGenerators
from park.fit.problem.undefined_points import trials

#: Relative rounding of nllf and residuals in double precision.
_ROUNDING = 1e-8


class BumpsObjective(Objective):
    """The objective function of a ``FitProblem``.

    A ``Curve`` without dy has a dy of exactly 1 at all points. Its errors are taken as unknown, and the result says so.
    """

    number_is = "its negative log likelihood"

    def __init__(self, problem: Any) -> None:
        self._problem = problem
        self.own_generators = own = OwnGenerators([problem])
        self._likelihood: Callable[[Any], float] = RaisingLikelihood(problem)
        if own:
            self._likelihood = partial(own.kept, self._likelihood)
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
        check_constraints(self._problem)
        for name, value, low, high in zip(self.names, self.start, self.low, self.high, strict=True):
            if not low <= value <= high:
                raise InvalidRequest(f"{name}={value:g} is outside its limits ({low:g}, {high:g})")
        self.first = evaluate_start(self, self._single)
        if self.first is not None and not np.isfinite(self.first.value):
            check_holes(self._problem)

    @cached_property
    def _single(self) -> bool:
        """Whether data or models have single precision."""
        return has_single(self._problem)

    @cached_property
    def squares(self) -> bool:
        """Whether nllf and half the sum of squared residuals differ by a constant, as compared at two points.

        These are the first two at which both are known: a likelihood of counts may have no value at the start.
        """
        problem = self._problem
        # A problem of densities has residuals too, but its models mark them as unused.
        real = getattr(problem, "has_residuals", hasattr(problem, "residuals"))
        return bool(
            real
            and all(getattr(model, "has_residuals", True) for model in getattr(problem, "models", ()))
            and self._same_excess(*self._known_excesses)
        )

    def recognise(self, x: Array) -> None:
        # A penalty may begin between the start and the end, and censored points may count at the end only.
        found = self._excess_at(x) if self.squares else None
        if found is not None and not self._same_excess(found, *self._known_excesses[:1]):
            self.squares = False

    def _same_excess(self, *excesses: tuple[float, float]) -> bool:
        """Whether nllf exceeds half the sum of squared residuals by the same amount at two points, if both are known."""
        if len(excesses) < 2:
            return True
        (a, size), (b, more) = excesses
        apart, size = abs(a - b), size + more
        # single precision is looked for only where it matters
        return apart <= _ROUNDING * size or (self._single and apart <= SINGLE_TOLERANCE * size)

    @cached_property
    def _known_excesses(self) -> list[tuple[float, float]]:
        """The excesses at the first two points at which they are known."""
        points = chain(self._two_points(), trials(self.start, self.low, self.high))
        known = (excess for x in points if (excess := self._excess_at(x)) is not None)
        return list(islice(known, 2))

    def _excess_at(self, x: Array) -> tuple[float, float] | None:
        """nllf minus half the sum of squared residuals at *x*, and the size of its terms; None if there is no value."""
        with np.errstate(all="ignore"):
            try:
                nllf = self._likelihood(x)
                residuals = self._present_residuals()
                failing = self._fails_now()
            except Exception:
                return None  # the method reports a model that raises
            half = 0.5 * float(residuals @ residuals)
        if failing or not (np.isfinite(nllf) and np.isfinite(half)):
            return None
        return nllf - half, abs(nllf) + half + 1

    def _two_points(self) -> tuple[Array, Array]:
        wide = self.high - self.low
        step = np.where(
            np.isfinite(wide), 0.01 * wide, 1e-3 * np.where(self.start == 0, 1.0, np.abs(self.start))
        )
        other = np.where(self.start + step <= self.high, self.start + step, self.start - step)
        return self.start, np.clip(other, self.low, self.high)

    def _models(self) -> Iterator[Any]:
        """The models. Each has its own values of free variables while the iterator is at it."""
        return iter(getattr(self._problem, "models", ()))

    def _weights(self) -> Iterable[float]:
        """The weights of the models, without an end if the problem has none."""
        return getattr(self._problem, "weights", None) or repeat(1.0)

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._groups if self.squares else ()

    @cached_property
    def _groups(self) -> tuple[Group, ...]:
        """The groups of residuals, also of a likelihood that is no sum of squares."""
        residuals = self.free_residuals(self.start)
        groups: list[Group] = []
        start = 0
        for n, (model, weight) in enumerate(zip(self._models(), self._weights(), strict=False), 1):
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
    def unknown(self) -> tuple[Group, ...]:
        # Curves without dy may stand beside counts.
        return (
            tuple(g for g in self._groups if not g.known) if any(map(_without_errors, self._models())) else ()
        )

    @cached_property
    def inequalities(self) -> tuple[Inequality, ...]:
        return tuple(inequalities_of(self._problem, self.names, self._two_points()))

    def _fails_now(self) -> bool:
        """Whether a constraint does not hold at the present parameters of the problem."""
        return fails(self._problem, self._limited)

    @cached_property
    def _limited(self) -> list[Any]:
        """The computed parameters with limits."""
        return computed_with_limits(self._problem)

    def residuals(self, x: Array) -> Array:
        residuals = self.free_residuals(x)
        return np.full_like(residuals, np.inf) if self._fails_now() else residuals

    def free_residuals(self, x: Array) -> Array:
        self._problem.setp(x)
        return self._present_residuals()

    def _present_residuals(self) -> Array:
        """The residuals at the present parameters, without those of plain limits, which are zero inside."""
        problem, own, telling = self._problem, self.own_generators, self._telling
        found = own.kept(problem.residuals) if own else problem.residuals()
        rows = np.array(as_real(found, "one of the residuals"), dtype=np.float64).ravel()
        if telling is None:
            return rows
        priors = np.asarray(problem.parameter_residuals(), dtype=np.float64)
        return np.concatenate([rows, priors[telling]])

    @cached_property
    def _telling(self) -> Any:
        """The priors that do more than limit their parameter, as an index; None if there are none."""
        priors = getattr(self._problem, "_priors", None)
        if priors is None:
            return slice(None)
        return [n for n, one in enumerate(priors) if not _is_plain_limit(one.prior)] or None

    def nllf(self, x: Array) -> float:
        value = self._likelihood(x)
        if not self.unknown or not np.isfinite(value) or self._fails_now():
            return value
        return value + self._of_unknown_errors()

    def _of_unknown_errors(self) -> float:
        """The nllf of the parts without dy at the present parameters, minus that of bumps, which takes dy as 1."""
        residuals = self._present_residuals()
        own = [0.5 * float(residuals[g.rows] @ residuals[g.rows]) for g in self.unknown]
        return float(sum(g.nllf(residuals) - half for g, half in zip(self.unknown, own, strict=True)))

    def free_nllf(self, x: Array) -> float:
        if self.squares:
            return super().free_nllf(x)
        if not self.inequalities:
            return self.nllf(x)
        self._problem.setp(x)
        limited = {id(parameter) for parameter in self._limited}
        priors = sum(p.nllf() for p in self._problem._priors if id(p) not in limited)
        value = float(priors + self._problem.model_nllf())
        return value + self._of_unknown_errors() if self.unknown else value

    def deviance(self, x: Array) -> float | None:
        """The deviance of counts, if the likelihood of each model is Poisson or a sum of squares; otherwise None."""
        from scipy.special import gammaln, xlogy

        self._problem.setp(x)
        priors = self._present_residuals()[sum(int(np.size(m.residuals())) for m in self._models()) :]
        total = float(priors @ priors)
        for model, weight in zip(self._models(), self._weights(), strict=False):
            try:
                y, theory = np.ravel(model.y).astype(float), np.ravel(model.theory()).astype(float)
                nllf, residuals = float(model.nllf()), np.ravel(model.residuals())
            except Exception:
                return None
            half = 0.5 * float(residuals @ residuals)
            with np.errstate(all="ignore"):
                poisson = float(np.sum(theory - xlogy(y, theory) + gammaln(y + 1)))
            if _without_errors(model):
                total += weight**2 * residuals.size  # its sum of squares over the variance SS/n
            elif abs(nllf - half) <= 1e-8 * (abs(nllf) + 1):
                total += weight**2 * 2 * half
            elif abs(nllf - poisson) <= 1e-6 * (abs(nllf) + 1):
                total += weight**2 * 2 * float(np.sum(xlogy(y, y / theory) - (y - theory)))
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
            curve, missing = bumps_curves.curve(model, str(getattr(model, "name", None) or f"part{n}"))
            curves.append(replace(curve, dy=None) if _without_errors(model) else curve)
            notes += missing
        return curves, notes

    def drawn(
        self, x: Array, wanted: Sequence[Sequence[DepthProfile] | None]
    ) -> Iterator[list[NDArray[Any]]]:
        for n, model in self.models(x):
            profiles = wanted[n - 1]
            if profiles is not None:
                yield bumps_curves.drawn(model, profiles)

    def models(self, x: Array) -> Iterator[tuple[int, Any]]:
        self._problem.setp(x)
        return enumerate(self._models(), 1)

    def problem(self) -> Any:
        self._problem.setp(self.start)
        return self._problem


def _without_errors(model: Any) -> bool:
    """Whether *model* is a bumps ``Curve`` without dy: all ones. Subclasses with their own likelihood do not count."""
    from bumps.curve import Curve as BumpsCurve

    return (
        isinstance(model, BumpsCurve)
        and type(model).nllf is BumpsCurve.nllf
        and type(model).residuals is BumpsCurve.residuals
        and bool(np.all(np.asarray(model.dy) == 1))
    )


def _is_plain_limit(prior: Any) -> bool:
    """Whether a prior only limits its parameter."""
    from bumps.bounds import Bounded, BoundedAbove, BoundedBelow, Unbounded

    return prior is None or isinstance(prior, Bounded | BoundedAbove | BoundedBelow | Unbounded)

"""bumps' optimizers, run on an objective and watched step by step.

They run in coordinates of their own (`park.fit.scaling`), so that neither units nor offsets matter; what they
report, keep and find is in the user's units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from park.fit.asked import Asked
from park.fit.convergence import judge
from park.fit.covariance import covariance, curvature
from park.fit.data import Array
from park.fit.derivatives import natural_scale
from park.fit.env import Env
from park.fit.methods import METHODS
from park.fit.objective import Objective
from park.fit.resume import Keeper, going_on
from park.fit.scaling import Coordinates, scaled
from park.fit.shadow import Fenced, Shadow
from park.fit.watch import Evaluations, Found, ModelFailed, Monitor, steps_of

#: A method begins again where it is, with the scale of there, until that lowers the likelihood by no more.
GAIN = 1e-3
#: Limits so many times as wide as the step that matters leave a method that steps between them no chance.
WIDE = 1e6


def run_bumps(
    objective: Objective,
    method: str,
    options: dict[str, Any],
    x0: Array,
    env: Env,
    evaluations: Evaluations,
    keeper: Keeper | None,
    asked: Asked | None,
) -> Found:
    """Runs one of bumps' optimizers from *x0*, or from what the *keeper* has of it."""
    return _Optimizer(objective, method, options, x0, env, evaluations, keeper, asked).run()


class _Optimizer:
    """One method, which may begin again where it has ended, while it has steps left."""

    def __init__(
        self,
        objective: Objective,
        method: str,
        options: dict[str, Any],
        x0: Array,
        env: Env,
        evaluations: Evaluations,
        keeper: Keeper | None,
        asked: Asked | None,
    ) -> None:
        from bumps import fitters

        self.fitclass = next(f for f in fitters.FITTERS if f.id == method)
        self.objective = objective
        self.method = method
        self.options = {**METHODS[method], **options}
        self.env = env
        self.evaluations = evaluations
        #: where an earlier process was
        self.saved = keeper.of(method) if keeper is not None else None
        self.state = self.saved.state if self.saved is not None else None
        total: float = self.fitclass.max_steps(_Sized(x0.size), self.options)
        self.monitor = Monitor(env, objective, steps_of(total), evaluations, method, keeper, asked)
        self.at = self.monitor.at
        self.x0 = x0
        self.x = x0 if self.at.point is None else self.at.point
        self.value = self.at.value

    def run(self) -> Found:
        """The best point."""
        while True:
            before = self.value
            fitter = self._once()
            done, steps = self.at.step, self.options["steps"]
            found = Found(self.x, self.value, done, self.monitor.convergence)
            found.ended = _ended(self.method, fitter, done, steps)
            if self.env.should_stop:
                return found
            again = before - self.value > GAIN and done < steps
            if self.method != "newton":
                self._test(found)
                again = again and self.method == "amoeba" and not found.ended
                again = again and found.verdict is not None and not found.verdict.converged
            if not again:
                break
        if self.method in ("de", "pt") and found.verdict is not None and not found.verdict.converged:
            wide = wide_limits(self.objective, self.x0)
            found.ended = "; ".join(each for each in (found.ended, wide) if each)
        return found

    def _test(self, found: Found) -> None:
        """Tests what was *found*: a simplex may have collapsed. The result does not test it again."""
        try:
            found.local = curvature(self.objective, found.x)
            found.verdict = judge(self.objective, found.x, found.value, found.local)
        except Exception:  # the result will say so
            found.local = found.verdict = None

    def _once(self) -> Any:
        """Runs the method from where it is, and returns bumps' fitter."""
        from bumps import fitters

        # newton knows no limits, and its steps for derivatives are parts of a unit
        coordinates = scaled(self.objective, self.x, limits=self.method != "newton")
        kind = Fenced if self.method == "newton" else Shadow
        shadow = kind(self.objective, coordinates, self.evaluations, self._covariance, self.x)
        options, state = self._going_on(coordinates)
        with quietly(self.evaluations):
            driver = fitters.FitDriver(
                self.fitclass,
                problem=shadow,
                monitors=[Watching(self.monitor, coordinates, shadow)],
                abort_test=lambda: self.env.should_stop,
                mapper=lambda points: self.evaluations.mapped(coordinates.x(points)),
                **options,
            )
            u, value = driver.fit(fit_state=state)
        self.x, self.value = coordinates.x(shadow.inside(u)), shadow.likelihood(float(value), u)
        if self.at.point is not None and not self.value <= self.at.value:
            self.x, self.value = self.at.point, self.at.value  # de ends with its last best, not with its best
        return driver.fitter

    def _covariance(self, x: Array) -> Array:
        return covariance(self.objective, x)

    def _going_on(self, coordinates: Coordinates) -> tuple[dict[str, Any], Any]:
        """The options with which it begins, or begins again, and bumps' state."""
        options, state = dict(self.options), None
        if self.saved is not None:
            options, state = going_on(self.saved, self.state, options, coordinates)
            self.saved = None
        elif self.at.step:
            options["steps"] -= self.at.step
        if self.method == "de" and options["xtol"]:
            # bumps ends where the population is narrow. Between wide limits that is not enough: it is level, too.
            narrow = f"Rx({options['xtol']!r}, scaled=False)"
            options["stop"] = f"{narrow} & Rf({options['ftol']!r}, scaled=False)"
        return options, state


def wide_limits(objective: Objective, x0: Array) -> str:
    """Words on limits so wide that points between them are of no use, judged at *x0*; "" where none are."""
    wide = objective.high - objective.low
    with np.errstate(all="ignore"):
        ratio = np.where(np.isfinite(wide), wide, 0.0) / natural_scale(objective, x0)
    names = [name for name, each in zip(objective.names, ratio, strict=True) if each > WIDE]
    if not names:
        return ""
    return (
        f"its first points lie evenly between the limits, and those of {', '.join(names)} are {ratio.max():.0e} times as "
        "wide as a step that matters: give limits as narrow as you can believe, or fit with method 'auto'"
    )


class _Sized:
    """A problem of *k* parameters, of which only the number is known."""

    def __init__(self, k: int) -> None:
        self._k = k

    def getp(self) -> Array:
        return np.zeros(self._k)


@contextmanager
def quietly(evaluations: Evaluations) -> Iterator[None]:
    """Around a run: numpy says nothing of what methods try, and a model without values is the cause that is told."""
    with np.errstate(all="ignore"):
        try:
            yield
        except ModelFailed:
            raise
        except Exception:
            evaluations.verify()  # pt, for one, trips over a model without values
            raise


class Watching:
    """bumps' monitor: tells ours where a method is, in the user's units."""

    def __init__(self, monitor: Monitor, coordinates: Coordinates, shadow: Shadow) -> None:
        self._monitor = monitor
        self._coordinates = coordinates
        self._shadow = shadow

    def config_history(self, history: Any) -> None:
        """Asks bumps for the population."""
        history.requires(time=1, value=1, point=1, step=1, population_values=1, population_points=1)

    def __call__(self, history: Any) -> None:
        shadow, x, u = self._shadow, self._coordinates.x, history.point[0]
        values: Any = getattr(history, "population_values", ())
        members = history.population_points[0] if len(values) else None
        self._monitor.update(
            shadow.likelihood(history.value[0], u),
            x(shadow.inside(u)),
            shadow.likelihood(values[0], members) if len(values) else None,
            (lambda: x(shadow.inside(members))) if len(values) else None,
            lambda: _state(self._monitor.at.method, history, self._coordinates),
        )


def _state(method: str, history: Any, coordinates: Coordinates) -> Any:
    """What bumps' *method* needs to go on, in the user's units, from the history that its monitors see."""
    if method == "de":
        state = history.snapshot()
        for name in ("point", "population_points"):
            state[name] = [coordinates.x(u).tolist() for u in state[name]]
        return state
    if method == "amoeba":
        return coordinates.x(history.population_points[0])
    return None


_NEWTON = {
    3: "its line search met a point without a value",
    4: "it took its last of {steps:,} steps",
    5: "its steps stayed as long as they may be: there may be no minimum",
    7: "its line search found no lower point",
    8: "its line search found no lower point",
    9: "its matrix of second derivatives has become singular",
}


def _ended(method: str, fitter: Any, done: int, steps: int) -> str:
    """Why it ended, if not by its own rule. pt has none: it takes its steps."""
    if method == "newton":
        return _NEWTON.get(fitter.result["status"], "").format(steps=steps)
    # The last step of amoeba is the one before the last.
    if method in ("amoeba", "de") and done >= steps - (method == "amoeba"):
        return f"it took its last of {steps:,} steps"
    return ""

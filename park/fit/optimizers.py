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
from park.fit.covariance import covariance
from park.fit.data import Array
from park.fit.env import Env
from park.fit.methods import METHODS
from park.fit.objective import Objective
from park.fit.resume import Keeper, going_on
from park.fit.scaling import Coordinates, scaled
from park.fit.shadow import Fenced, Shadow
from park.fit.watch import Evaluations, Found, ModelFailed, Monitor

#: newton begins again, with the scale of where it is, until that lowers the likelihood by no more.
GAIN = 1e-3


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
    from bumps import fitters

    fitclass = next(f for f in fitters.FITTERS if f.id == method)
    given = {**METHODS[method], **options}
    total: float = fitclass.max_steps(_Sized(x0.size), given)
    saved = keeper.of(method) if keeper is not None else None
    kept = saved.state if saved is not None else None
    monitor = Monitor(env, objective.names, lambda: total, evaluations, method, keeper, asked)
    at = monitor.at
    x, value = x0 if at.point is None else at.point, at.value
    while True:
        # newton knows no limits, and its steps for derivatives are parts of a unit
        coordinates = scaled(objective, x, limits=method != "newton")
        options, state = dict(given), None
        if saved is not None:
            options, state = going_on(saved, kept, given, coordinates)
        elif at.step:
            options["steps"] = given["steps"] - at.step
        if method == "de" and options["xtol"]:
            # bumps ends where the population is narrow. Between wide limits that is not enough: it is level, too.
            narrow = f"Rx({options['xtol']!r}, scaled=False)"
            options["stop"] = f"{narrow} & Rf({options['ftol']!r}, scaled=False)"
        kind = Fenced if method == "newton" else Shadow
        shadow = kind(objective, coordinates, evaluations, lambda x: covariance(objective, x), x)
        with quietly(evaluations):
            driver = fitters.FitDriver(
                fitclass,
                problem=shadow,
                monitors=[Watching(monitor, coordinates, shadow)],
                abort_test=lambda: env.should_stop,
                mapper=lambda points, x=coordinates.x: evaluations.mapped(x(points)),
                **options,
            )
            u, reached = driver.fit(fit_state=state)
        before, saved = value, None
        x, value = coordinates.x(shadow.inside(u)), shadow.likelihood(float(reached), u)
        if at.point is not None and not value <= at.value:
            x, value = at.point, at.value  # de ends with its last best, not with its best
        if method != "newton" or not before - value > GAIN or at.step >= given["steps"] or env.should_stop:
            break
    ended = _ended(method, driver.fitter, at.step, given["steps"])
    return Found(x, value, at.step, monitor.convergence, ended=ended)


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
        shadow, u = self._shadow, history.point[0]
        values: Any = getattr(history, "population_values", ())
        points = None
        if len(values):
            members = history.population_points[0]
            values = [shadow.likelihood(value, u) for value, u in zip(values[0], members, strict=True)]
            points = self._coordinates.x(shadow.inside(members))
        self._monitor.update(
            shadow.likelihood(history.value[0], u),
            self._coordinates.x(shadow.inside(u)),
            values if len(values) else None,
            points,
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

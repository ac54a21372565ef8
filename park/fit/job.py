"""`Fit` and `Uncertainty`: jobs that fit. Making one submits it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from park.core.server import default_service
from park.errors import InvalidRequest
from park.fit.arrival import with_values
from park.fit.asked import check_samples
from park.fit.assembly import Assembly, as_assembly
from park.fit.bodies import FitBody, UncertaintyBody, check_earlier
from park.fit.methods import DEFAULT, check_method
from park.fit.resume import INTERVAL
from park.fit.unchanged import unchanged
from park.job import Job, Reference
from park.model import Request, duration, texts


class Fitting(Job):
    """What fits and samplings have in common: what they can be asked while they run."""

    def get_population(self) -> bool:
        """Ask where it is: the answer comes with its next step, as a message of the kind "population" on the job's stream.

        That is a dict with *method*, *step*, *names*, *points* (one a row: the simplex of amoeba, the members of de, the
        chains of dream and pt, the one point of lm and newton, of many starts the best), *nllf* (of each point; a sampler's
        with its priors), *best* and *best_nllf*. Who asks in one step is answered at once. Returns as `Job.control` does::

            class Monitor:
                def on_population(self, message):
                    print(message["step"], message["points"].mean(axis=0))
        """
        return self.control("get_population")

    def extend(self, samples: int) -> bool:
        """Let DREAM draw so many *samples* more than it was to, before it ends; returns as `Job.control` does.

        Other methods refuse it, with a `park.stream.Error` on the job's stream. To end a fit now, with its best so far, is
        `Job.stop`. After its end it takes nothing: ``Uncertainty(assembly, resume=job)`` goes on from its draws.
        """
        return self.control({"kind": "extend", "value": check_samples(samples)})


class Fit(Fitting):
    """Fits an assembly: a job whose result is a `FitResult`.

    *assembly* is an `Assembly`, or a bumps ``FitProblem``. *method* is "auto" (least squares, tested at its end, and
    a simplex search where the test fails), "amoeba" (Nelder-Mead), "lm" (least squares alone), "de" (differential
    evolution), "newton", "pt" (parallel tempering) or "dream"; *options* are the method's own, such as ``steps=2000``.
    *start* is a vector, a dict of some values, or an earlier result (a reference will do). *starts* runs the method
    from so many points in parallel, that one and random ones, and keeps the best. Equal seeds give equal answers.

    Every *checkpoint* seconds (or a text such as "5m") the fit keeps its state: if its process, its kernel or the broker
    dies, it goes on from there. Of many *starts* it keeps those that have ended.

    The rest is as in `park.Request`: at *max_time* the fit stops, and its result is the best so far. Evaluations are
    *pure*: a late one may be started a second time, beside the first. Say ``pure=False`` of a model that writes files, or
    starts a program that does. What cannot be fitted raises `park.InvalidRequest` here, in the client.
    """

    def __init__(
        self,
        assembly: Any,
        method: str = DEFAULT,
        start: Any = None,
        starts: int = 1,
        seed: int | None = None,
        after: Any = None,
        service: Any = None,
        tags: Sequence[str] = (),
        priority: int | str = "free",
        name: str = "",
        when: datetime | float | None = None,
        monitor: Any = None,
        cpus: int = 1,
        memory: float | str = 0,
        labels: Sequence[str] = (),
        requires: Any = (),
        checkpoint: float | str = INTERVAL,
        max_time: float | str | None = None,
        max_unit_time: float | str | None = None,
        pure: bool = True,
        **options: Any,
    ) -> None:
        request = fit_request(
            assembly,
            method,
            start,
            starts,
            seed,
            checkpoint,
            options,
            name=name,
            tags=tags,
            priority=priority,
            after=after,
            when=when,
            cpus=cpus,
            memory=memory,
            labels=labels,
            requires=requires,
            max_time=max_time,
            max_unit_time=max_unit_time,
            pure=pure,
        )
        _submit(self, request, service, monitor)


class Uncertainty(Fitting):
    """Samples the posterior of an assembly with bumps' DREAM: a job whose result is a `FitResult` with draws.

    *start* is the best point: a result, a reference to one (``fit.result``), a vector or a dict; without it
    the job fits first, as `Fit` does. The chains burn *burn* generations, then draw *samples* points, each chain one a
    generation, and draw on until they have mixed: until R-hat of each parameter is at most *rhat* and its effective
    sample size at least *ess*, or *max_samples* are drawn (ten times *samples*, if it is 0; with ``max_samples=samples``
    it never draws on). In that case ``result.converged`` is False, and ``result.message`` says what is missing.

    *pop* is the number of chains for each parameter, or, if negative, of all chains; without it there are ten for each
    up to forty, and at least two for each. With *thin* the draws are one of so many generations. Other *options* are
    DREAM's own; ``init="lhs"`` or "random" spreads the chains between the limits.

    *resume* is the result of an earlier `Uncertainty` of the same assembly, or its job: its chains go on, *samples*
    points further, and the draws of both count::

        err = Uncertainty(M1)
        more = Uncertainty(M1, resume=err, samples=50_000)

    Without dy the size of the errors is taken as unknown too, so that intervals follow the scatter.

    Every *checkpoint* seconds (or a text such as "5m") it keeps its chains and draws, and goes on from there if it has
    to run again. Evaluations are *pure*, as those of a `Fit`.
    """

    def __init__(
        self,
        assembly: Any,
        start: Any = None,
        samples: int = 10_000,
        seed: int | None = None,
        after: Any = None,
        service: Any = None,
        tags: Sequence[str] = (),
        priority: int | str = "free",
        burn: int = 100,
        pop: float | None = None,
        resume: Any = None,
        name: str = "",
        when: datetime | float | None = None,
        monitor: Any = None,
        cpus: int = 1,
        memory: float | str = 0,
        labels: Sequence[str] = (),
        requires: Any = (),
        checkpoint: float | str = INTERVAL,
        max_time: float | str | None = None,
        max_unit_time: float | str | None = None,
        pure: bool = True,
        **options: Any,
    ) -> None:
        assembly = as_assembly(assembly)
        options |= {"samples": samples, "burn": burn} | ({} if pop is None else {"pop": pop})
        options = _checked("dream", options, assembly)
        earlier = _earlier(assembly, resume)
        if earlier is not None and not (start is pop is None):
            raise InvalidRequest("resume= goes on with the chains of an earlier run: leave start and pop out")
        seed = _seed(seed)
        every = duration(checkpoint, "checkpoint")
        request = Request(
            UncertaintyBody(with_values(assembly), options, _start(assembly, start), seed, every, earlier),
            name=name or "uncertainty",
            tags=texts(tags, "tag"),
            priority=priority,
            after=() if after is None else after,
            when=when,
            seed=seed,
            cpus=cpus,
            memory=memory,
            labels=texts(labels, "label"),
            requires=requires,
            max_time=max_time,
            max_unit_time=max_unit_time,
            pure=pure,
            kind="uncertainty",
        )
        _submit(self, request, service, monitor)


def fit_request(
    assembly: Any,
    method: str = DEFAULT,
    start: Any = None,
    starts: int = 1,
    seed: int | None = None,
    checkpoint: float | str = INTERVAL,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Request:
    """The request of a `Fit`, which is not submitted: *options* are the method's, *fields* those of `park.Request`."""
    assembly = as_assembly(assembly)
    checked = _checked(method, dict(options or {}), assembly)
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise InvalidRequest(f"starts={starts!r} is not a whole number from 1")
    seed = _seed(seed)
    every = duration(checkpoint, "checkpoint")
    body = FitBody(with_values(assembly), method, checked, _start(assembly, start), starts, seed, every)
    fields["name"] = fields.get("name") or f"fit {method}"
    return Request(body, seed=seed, kind="fit", **{"pure": True} | fields)


def _checked(method: str, options: dict[str, Any], assembly: Assembly) -> dict[str, Any]:
    with unchanged(*assembly.foreign):
        return check_method(method, options, assembly.objective)


def _seed(seed: Any) -> int:
    """The given one, or a new one, so that the result can tell it: ``Fit(..., seed=result.seed)`` repeats it."""
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidRequest(f"seed={seed!r} is not a whole number from 0")
    return seed


def _start(assembly: Assembly, start: Any) -> Any:
    """A start that was looked at, unless it is a reference to what is not there yet."""
    if isinstance(start, Job):
        start = start.result
    return start if start is None or isinstance(start, Reference) else assembly.vector(start)


def _earlier(assembly: Assembly, resume: Any) -> Any:
    """An earlier sampling that was looked at, unless it is a reference to what is not there yet."""
    if isinstance(resume, Job):
        resume = resume.result
    if resume is not None and not isinstance(resume, Reference):
        check_earlier(assembly, resume)
    return resume


def _submit(job: Job, request: Request, service: Any, monitor: Any) -> None:
    service = default_service() if service is None else service
    Job.__init__(job, service, service.submit(request, monitor=monitor))

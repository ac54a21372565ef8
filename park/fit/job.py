"""`Fit` and `Uncertainty`: jobs that fit and sample. Creating one submits it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from park.body.reference import Reference
from park.core.server import default_service
from park.errors import InvalidRequest
from park.fit.bodies import FitBody, UncertaintyBody, check_earlier
from park.fit.methods.checkpoint import CHECKPOINT_SECONDS
from park.fit.methods.controls import check_samples
from park.fit.methods.options import DEFAULT_METHOD, check_method
from park.fit.problem.assembly import Assembly, as_assembly
from park.fit.problem.client_values import with_values
from park.fit.problem.preserved_state import preserved_state
from park.job import Job
from park.model import REQUEST_FIELDS, Request, duration, make_request, takes_request_fields

#: Least time (seconds) that a fit gets to end after its `max_time`. It completes the step under way and computes the errors
#: of its best point; on a busy machine, or with a slow model, that takes a while, and an abort would lose the best point.
MIN_GRACE_SECONDS = 120.0
#: Fields of a request that a fit decides itself.
NOT_IN_FITS = ("on_error", "idempotent", "kind")


class Fitting(Job):
    """A job that fits or samples: the controls that it answers while it runs."""

    def get_population(self) -> bool:
        """Request the current population. The answer comes after the next step, as a message on the job's stream.

        The message is a dict of the kind "population" with these fields. *method*, *step* and *names* say which method has
        taken how many steps with which k parameters. *points*, shape (n, k), are the vertices of the simplex of amoeba, the
        members of de, the chains of dream and pt, the current point of lm and newton, or the best of several starts.
        *nllf*, shape (n,), is the negative log likelihood of each point, with priors. *best*, shape (k,), and
        *best_nllf* are the best point so far. All requests during one step get one message. Returns as `Job.control` does::

            class Monitor:
                def on_population(self, message):
                    print(message["step"], message["points"].mean(axis=0))
        """
        return self.control("get_population")

    def extend(self, samples: int) -> bool:
        """Let DREAM draw *samples* more samples than were requested. Returns as `Job.control` does.

        Other methods refuse the request with a `park.client.stream.Error` on the job's stream. `Job.stop` ends a fit early
        with its best point so far. A job that has ended cannot be extended: ``Uncertainty(assembly, resume=job)`` continues
        its chains. Raises InvalidRequest unless *samples* is a positive integer.
        """
        return self.control({"kind": "extend", "value": check_samples(samples)})


class Fit(Fitting):
    """Fits an assembly. The result of the job is a `FitResult`.

    *assembly* is an `Assembly` or a bumps ``FitProblem``. *method* is one of

    * "auto": least squares with a test of convergence at its end, and a simplex search where the test fails;
    * "lm": least squares alone (Levenberg-Marquardt, and a trust-region method where it meets limits);
    * "amoeba": Nelder-Mead; "newton": quasi-Newton; "de": differential evolution; "pt": parallel tempering;
    * "dream": sampling, as `Uncertainty` does.

    *options* are the options of the method, such as ``steps=2000``. *start* is a vector of shape (k,), a dict of some
    values by name, an earlier result, or a reference to one. With *starts* above 1 the method runs in parallel from
    that number of points: the start, and random points within the limits. The best result is kept. Fits with equal
    *seed* give equal numbers.

    Every *checkpoint* seconds (or a text such as "5m") the fit saves its state. If its process, its kernel or the
    broker dies, it continues from the last checkpoint. With several *starts* the checkpoint holds the starts that have
    ended.

    The other arguments are those of `park.Request`. At *max_time* (seconds, or a text) the fit stops and returns the best
    point so far, for which it has a *grace* of a tenth of that time, and two minutes at least. Evaluations are *pure*: a
    late evaluation may be started a second time beside the first. Pass ``pure=False`` for a model that writes files or
    starts a program. Raises `park.InvalidRequest` in the client for an assembly, a method or an option that cannot work;
    the message names the remedy.

    >>> import numpy as np
    >>> import park
    >>> from park.fit import Assembly, Fit, Model
    >>> x = np.linspace(0, 4, 20)
    >>> line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-5, 5))
    >>> with park.local_service:
    ...     result = Fit(Assembly((line, (x, 2 * x + 1, 0.1)))).wait()
    >>> print(f"{result['a'].value:.3f}")
    2.000
    """

    @takes_request_fields(NOT_IN_FITS, others=True, pure=True)
    def __init__(
        self,
        assembly: Any,
        method: str = DEFAULT_METHOD,
        start: Any = None,
        starts: int = 1,
        seed: int | None = None,
        after: Any = None,
        service: Any = None,
        *,
        monitor: Any = None,
        checkpoint: float | str = CHECKPOINT_SECONDS,
        **options: Any,
    ) -> None:
        fields, options = _split(options)
        request = fit_request(
            assembly, method, start, starts, seed, checkpoint, options, after=after, **fields
        )
        _submit(self, request, service, monitor)


class Uncertainty(Fitting):
    """Samples the posterior of an assembly with bumps' DREAM. The result of the job is a `FitResult` with draws.

    *start* is the best point: a result, a reference to one (``fit.result``), a vector of shape (k,) or a dict. Without
    *start* the job fits first, as `Fit` does.

    The chains run *burn* generations of burn-in, then draw *samples* points, one for each chain and generation. They
    continue until they have mixed, that is, until R-hat of each parameter is at most *rhat* and its effective sample size
    is at least *ess*. They draw *max_samples* at most; with ``max_samples=samples`` they never continue. The default, 0,
    means ten times *samples*, and fifty times (four million values at most) for chains that are about to mix: R-hat is at
    most 1.2, and that number of draws will have the effective sample size. If the chains have not mixed by then,
    ``result.converged`` is False and ``result.message`` gives the figures.

    *pop* is the number of chains for each parameter, or, if negative, the number of all chains. The default is ten for each
    parameter up to forty chains, and at least two for each parameter. With *thin* one generation of every *thin* is kept.
    Other *options* are DREAM's own; ``init="lhs"`` or "random" spreads the first chains between the limits.

    *resume* is the result of an earlier `Uncertainty` of the same assembly, or its job. Its chains continue for *samples*
    more points, and the draws of both runs count::

        err = Uncertainty(M1)
        more = Uncertainty(M1, resume=err, samples=50_000)

    For data without dy the size of the errors is unknown too, and is integrated out, so that intervals follow the scatter.

    Every *checkpoint* seconds (or a text such as "5m") the job saves its chains and draws, and continues from there if
    it has to run again. The other arguments are those of `Fit`. Raises `park.InvalidRequest` as `Fit` does.

    Source: Vrugt et al., Int. J. Nonlinear Sci. Numer. Simul. 10 (2009) 273 (DREAM); Vehtari et al., Bayesian Analysis 16
    (2021) 667 (R-hat and effective sample size).

    >>> import numpy as np
    >>> import park
    >>> from park.fit import Assembly, Model, Uncertainty
    >>> x = np.linspace(0, 4, 20)
    >>> line = Model(lambda x, a: a * x, a=(0, 4))
    >>> with park.local_service:
    ...     result = Uncertainty(Assembly((line, (x, 2 * x, 0.1))), samples=2000, seed=1).wait()
    >>> result.draws.shape[1], result.converged
    (1, True)
    """

    @takes_request_fields(NOT_IN_FITS, others=True, pure=True)
    def __init__(
        self,
        assembly: Any,
        start: Any = None,
        samples: int = 10_000,
        seed: int | None = None,
        after: Any = None,
        service: Any = None,
        *,
        burn: int = 100,
        pop: float | None = None,
        resume: Any = None,
        monitor: Any = None,
        checkpoint: float | str = CHECKPOINT_SECONDS,
        **options: Any,
    ) -> None:
        fields, options = _split(options)
        assembly = as_assembly(assembly)
        options |= {"samples": samples, "burn": burn} | ({} if pop is None else {"pop": pop})
        options, sent = _checked("dream", options, assembly)
        earlier = _earlier(assembly, resume)
        if earlier is not None and not (start is pop is None):
            raise InvalidRequest("resume= goes on with the chains of an earlier run: leave start and pop out")
        seed = _seed(seed)
        every = duration(checkpoint, "checkpoint")
        body = UncertaintyBody(sent, options, _start(assembly, start), seed, every, earlier)
        request = _request(body, "uncertainty", "uncertainty", seed, {**fields, "after": after})
        _submit(self, request, service, monitor)


def fit_request(
    assembly: Any,
    method: str = DEFAULT_METHOD,
    start: Any = None,
    starts: int = 1,
    seed: int | None = None,
    checkpoint: float | str = CHECKPOINT_SECONDS,
    options: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Request:
    """The request of a `Fit`, not submitted. *options* belong to the method, *fields* to `park.Request`."""
    assembly = as_assembly(assembly)
    checked, sent = _checked(method, dict(options or {}), assembly)
    if isinstance(starts, bool) or not isinstance(starts, int) or starts < 1:
        raise InvalidRequest(f"starts={starts!r} is not a whole number from 1")
    seed = _seed(seed)
    every = duration(checkpoint, "checkpoint")
    body = FitBody(sent, method, checked, _start(assembly, start), starts, seed, every)
    return _request(body, "fit", f"fit {method}", seed, fields)


def _request(body: Any, kind: str, name: str, seed: int, fields: Mapping[str, Any]) -> Request:
    """The request of a fit: evaluations are pure, and the job has the *name*, unless the *fields* say otherwise."""
    name = fields.get("name") or name
    limit = fields.get("max_time")
    if limit is not None and fields.get("grace") is None:
        fields = {**fields, "grace": max(MIN_GRACE_SECONDS, duration(limit, "max_time") / 10)}
    return make_request(body, None, {"pure": True, **fields, "name": name, "seed": seed, "kind": kind})


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the request among the *given* keywords, and the others, which are options of the method."""
    fields = {
        name: value for name, value in given.items() if name in REQUEST_FIELDS and name not in NOT_IN_FITS
    }
    return fields, {name: value for name, value in given.items() if name not in fields}


def _checked(method: str, options: dict[str, Any], assembly: Assembly) -> tuple[dict[str, Any], Assembly]:
    """The checked options, and the assembly with its values here."""
    with preserved_state(*assembly.foreign) as objects:
        return check_method(method, options, assembly.objective), with_values(assembly, objects)


def _seed(seed: Any) -> int:
    """The given seed, or a random one. The result carries it: ``Fit(..., seed=result.seed)`` repeats the fit."""
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidRequest(f"seed={seed!r} is not a whole number from 0")
    return seed


def _start(assembly: Assembly, start: Any) -> Any:
    """The checked start, as a vector; a reference to a result that does not exist yet stays as it is."""
    if isinstance(start, Job):
        start = start.result
    return start if start is None or isinstance(start, Reference) else assembly.vector(start)


def _earlier(assembly: Assembly, resume: Any) -> Any:
    """The checked earlier result; a reference to a result that does not exist yet stays as it is."""
    if isinstance(resume, Job):
        resume = resume.result
    if resume is not None and not isinstance(resume, Reference):
        check_earlier(assembly, resume)
    return resume


def _submit(job: Job, request: Request, service: Any, monitor: Any) -> None:
    service = default_service() if service is None else service
    Job.__init__(job, service, service.submit(request, monitor=monitor))

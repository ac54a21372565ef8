"""The certified problems of NIST StRD by each method: ``python -m benchmarks certified``.

Each is fitted from both of its starts, through the local service. Agreement is told in digits: the log relative error of
the value (or the standard error) that agrees least with the certified one, at most 11. A fit is right from 6 digits of all
values on. Lanczos1's standard errors have 3 digits in double precision (``tests/support/data/nist/README``) and are not
judged.

A fit passes for converged within 0.15 standard errors of the minimum. Counted apart are those that are further off and say
so, and those that are further off without a word.
"""

from __future__ import annotations

import argparse
import inspect
import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import park
from benchmarks.report import aligned, rst
from benchmarks.studies.counting import Counter
from park.fit import Assembly, Fit, Model, Parameter
from tests.support import nist

DEFAULT: str = inspect.signature(Fit).parameters["method"].default
#: The default method first. de, pt and dream need limits, and these problems have none.
METHODS = tuple(dict.fromkeys((DEFAULT, "lm", "amoeba", "newton")))
#: For ``--size small``: one of each level of difficulty.
FEW = ("Misra1a", "Kirby2", "Rat43")
#: start -> problems that the default method is to get right
MARKS = {1: 24, 2: 26}
ENOUGH = 6.0
#: Standard errors from the minimum at which a fit still passes for converged: 0.01 in the likelihood.
NEAR = 0.15


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fit: agreement of values and of errors in digits (nan: it failed), *off* in standard errors, verdict and cost."""

    problem: str
    start: int
    method: str
    values: float
    errors: float
    off: float
    converged: bool
    evaluations: int

    @property
    def right(self) -> bool:
        return self.values >= ENOUGH

    def __str__(self) -> str:
        if math.isnan(self.values):
            return "failed"
        mark = "" if self.converged else " n"
        return f"{max(self.values, 0):.1f} {max(self.errors, 0):.1f}{mark}"


def assembly(problem: nist.Problem, start: int, counter: Counter, place: int) -> Assembly:
    """The problem from its first or second start; no limits."""
    values = problem.start1 if start == 1 else problem.start2
    parameters = {f"b{n}": Parameter(value) for n, value in enumerate(values, 1)}
    return Assembly((Model(counter.model(problem.model, place), **parameters), (problem.x, problem.y)))


def outcome(problem: nist.Problem, start: int, method: str, job: Fit, evaluations: Any) -> Outcome:
    """The digits that the fit has right."""
    try:
        found = job.wait(timeout=600)
    except park.JobFailed:
        return Outcome(problem.name, start, method, math.nan, math.nan, math.inf, False, evaluations())
    values, errors = nist.digits(found.x, problem.certified), nist.digits(found.dx, problem.stderr)
    off = float(np.max(np.abs(found.x - problem.certified) / problem.stderr))
    return Outcome(problem.name, start, method, values, errors, off, found.converged, evaluations())


def measure(methods: Sequence[str], names: Iterable[str]) -> list[Outcome]:
    """All fits, as jobs of the local service."""
    asked = [(nist.load(name), start, method) for method in methods for name in names for start in (1, 2)]
    with tempfile.TemporaryDirectory(prefix="park-bench-") as folder, park.local_service:
        counter = Counter(Path(folder, "counts"), len(asked))
        jobs = [
            Fit(assembly(problem, start, counter, place), method=method, seed=1)
            for place, (problem, start, method) in enumerate(asked)
        ]
        return [
            outcome(*what, job, lambda place=place: counter[place])
            for place, (what, job) in enumerate(zip(asked, jobs, strict=True))
        ]


def table(found: Sequence[Outcome], methods: Sequence[str]) -> list[list[str]]:
    """One row a problem and start; each method's digits of values and of errors, "n" where it says it has not converged."""
    cells = {(o.problem, o.start, o.method): str(o) for o in found}
    rows = dict.fromkeys((o.problem, o.start) for o in found)
    lines = [[name, str(start), *(cells[name, start, method] for method in methods)] for name, start in rows]
    return [["problem", "start", *methods], *lines]


def summary(found: Sequence[Outcome], methods: Sequence[str]) -> list[list[str]]:
    """One row a method: how many were right, and how many were wrong without a word."""
    lines = [
        [
            "method",
            "start",
            "right",
            "errors right",
            "near",
            "wrong, and say so",
            "wrong without a word",
            "evaluations",
        ]
    ]
    for method in methods:
        for start in (1, 2):
            some = [o for o in found if o.method == method and o.start == start]
            away = [o for o in some if not o.off <= NEAR]
            silent = [o for o in away if o.converged]
            lines.append(
                [
                    method,
                    str(start),
                    f"{sum(o.right for o in some)} of {len(some)}",
                    str(sum(o.right and (o.errors >= 4 or o.problem == "Lanczos1") for o in some)),
                    str(len(some) - len(away)),
                    str(len(away) - len(silent)),
                    str(len(silent)),
                    f"{sum(o.evaluations for o in some):,}",
                ]
            )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Prints both tables. Exit code 1 where the default method misses its mark."""
    parser = argparse.ArgumentParser("python -m benchmarks certified", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("small", "full"), default="full", help="(default: %(default)s)")
    parser.add_argument("--methods", default=",".join(METHODS), help="(default: %(default)s)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the tables there, as reStructuredText"
    )
    options = parser.parse_args(arguments)
    methods = options.methods.split(",")
    began = time.monotonic()
    found = measure(methods, FEW if options.size == "small" else nist.MODELS)
    tables = [summary(found, methods), table(found, methods)]
    print(*(aligned(lines) for lines in tables), sep="\n\n")
    print(
        f"\n{time.monotonic() - began:.0f} s; digits of values and of errors; n: says that it has not converged"
    )
    if options.write:
        options.write.write_text("\n".join(rst(lines) for lines in tables), encoding="utf-8")
    return 0 if options.size == "small" or DEFAULT not in methods or marks_met(found) else 1


def marks_met(found: Sequence[Outcome]) -> bool:
    """Whether the default method gets enough of them right."""
    met = True
    for start, mark in MARKS.items():
        right = sum(o.right for o in found if o.method == DEFAULT and o.start == start)
        print(f"{DEFAULT} from start {start}: {right}, to reach: {mark}")
        met &= right >= mark
    return met

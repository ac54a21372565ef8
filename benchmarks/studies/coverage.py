"""The rate at which intervals hold the truth: ``python -m benchmarks coverage [--sets 200] [--limit 1h]``.

Data are simulated from three linear and two nonlinear models. Each data set is fitted by ``lm`` and sampled by DREAM, once
with its standard errors and once without, as jobs of the local service. Counted is how often the 68 % and the 95 %
interval of a parameter holds the value that the data were made from. Fits that say that they have not converged are
counted apart.

The rule: of n data sets the count of intervals that hold is binomial. *Single* counts: the study asks many questions, and
one answer in twenty studies may be outside by chance (exact two-sided test of each parameter's count, at 5 % over
the number of counts). *Pooled* over all models, the share that holds is within three standard deviations for each
method, level and kind of errors; parameters of one data set hang together, so that each data set counts as one.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import park
from benchmarks.report import aligned, rst
from park.fit import Assembly, Fit, FitResult, Model, Parameter, Uncertainty
from park.model import duration

LEVELS = (0.68, 0.95)
METHODS = ("lm", "dream")
POINTS = 25


def line(x: Any, a: float, b: float) -> Any:
    return a + b * x


def parabola(x: Any, a: float, b: float, c: float) -> Any:
    return a + x * (b + x * c)


def tide(x: Any, level: float, rise: float, lag: float) -> Any:
    return level + rise * np.cos(1.7 * x) + lag * np.sin(1.7 * x)


def decay(x: Any, height: float, time: float, floor: float) -> Any:
    return height * np.exp(-x / time) + floor


def peak(x: Any, height: float, centre: float, width: float, floor: float) -> Any:
    return height * np.exp(-0.5 * ((x - centre) / width) ** 2) + floor


@dataclass(frozen=True, slots=True)
class Truth:
    """A model, the values that data are made from, and the standard error of y."""

    function: Callable[..., Any]
    values: dict[str, float]
    sigma: float
    linear: bool
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)

    def assembly(self, number: int, known: bool) -> Assembly:
        """Data set *number*, from its own random numbers; the same for every method."""
        x = np.linspace(0, 5, POINTS)
        noise = np.random.default_rng([number, len(self.values), self.linear]).normal(size=POINTS)
        y = self.function(x, **self.values) + self.sigma * noise
        parameters = {
            # From beside the truth: whether it is found from afar is another question.
            name: Parameter(value * 1.1 + 0.05, limits=self.limits.get(name, (-math.inf, math.inf)))
            for name, value in self.values.items()
        }
        return Assembly((Model(self.function, **parameters), (x, y, self.sigma) if known else (x, y)))


TRUTHS = {
    "line": Truth(line, {"a": 1.0, "b": -0.5}, 0.3, True),
    "parabola": Truth(parabola, {"a": 0.5, "b": 2.0, "c": -0.3}, 0.5, True),
    "tide": Truth(tide, {"level": 4.0, "rise": 1.0, "lag": -0.6}, 0.4, True),
    "decay": Truth(decay, {"height": 5.0, "time": 1.2, "floor": 1.0}, 0.1, False, {"time": (0.01, 50)}),
    "peak": Truth(
        peak,
        {"height": 6.0, "centre": 2.4, "width": 0.7, "floor": 1.0},
        0.25,
        False,
        {"centre": (0, 5), "width": (0.05, 5)},
    ),
}


@dataclass(slots=True)
class Cell:
    """The outcome of one model, known or unknown errors, and one method."""

    sets: int = 0
    unconverged: int = 0
    failed: int = 0
    #: level -> parameter -> intervals that held
    held: dict[float, dict[str, int]] = field(default_factory=dict)

    def add(self, found: FitResult, values: dict[str, float]) -> None:
        """One more result."""
        if not found.converged:
            self.unconverged += 1
            return
        self.sets += 1
        for level in LEVELS:
            counts = self.held.setdefault(level, dict.fromkeys(values, 0))
            for name, (low, high) in found.intervals(level).items():
                counts[name] += low <= values[name] <= high

    def share(self, level: float) -> float:
        """Of all intervals of all parameters."""
        counts = self.held.get(level, {})
        return sum(counts.values()) / (len(counts) * self.sets) if self.sets else math.nan


Cells = dict[tuple[str, bool, str], Cell]


def measure(sets: int, limit: float, names: Sequence[str], samples: int) -> Cells:
    """Rounds of data sets through the local service, until there are *sets* or *limit* seconds have passed."""
    cells: Cells = {key: Cell() for key in product(names, (True, False), METHODS)}
    give_up = time.monotonic() + limit
    with park.local_service:
        for first in range(0, sets, 5):
            if time.monotonic() > give_up:
                break
            jobs = [
                (key, job)
                for number in range(first, min(first + 5, sets))
                for key, job in submitted(cells, number, samples)
            ]
            for key, job in jobs:
                try:
                    cells[key].add(job.wait(timeout=600), TRUTHS[key[0]].values)
                except park.JobFailed:
                    cells[key].failed += 1
    return cells


def submitted(cells: Cells, number: int, samples: int) -> Iterator[tuple[tuple[str, bool, str], Any]]:
    """The jobs of data set *number*; DREAM begins where ``lm`` has ended."""
    for name, known in dict.fromkeys((name, known) for name, known, _ in cells):
        assembly = TRUTHS[name].assembly(number, known)
        fit = Fit(assembly, method="lm", seed=number)
        yield (name, known, "lm"), fit
        yield (name, known, "dream"), Uncertainty(assembly, fit.result, samples, seed=number, after=fit)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the rule is kept, and where not."""

    single: list[str]
    pooled: list[str]

    @property
    def kept(self) -> bool:
        return not (self.single or self.pooled)


def judge(cells: Cells) -> Verdict:
    """The rule of this module's docstring."""
    from scipy.stats import binomtest

    single, pooled = [], []
    tests = sum(len(cell.held[level]) for cell in cells.values() for level in cell.held)
    for (name, known, method), cell in cells.items():
        for level, counts in cell.held.items():
            for parameter, count in counts.items():
                if binomtest(count, cell.sets, level).pvalue < 0.05 / tests:
                    single.append(
                        f"{name}.{parameter}, {told(known)}, {method}: {count} of {cell.sets} at {level:.0%}"
                    )
    for known, method, level in product((True, False), METHODS, LEVELS):
        some = [cell for (_, k, m), cell in cells.items() if k == known and m == method and cell.sets]
        if some:
            sets = sum(cell.sets for cell in some)
            share = sum(cell.share(level) * cell.sets for cell in some) / sets
            deviation = math.sqrt(level * (1 - level) / sets)
            if abs(share - level) > 3 * deviation:
                pooled.append(f"{told(known)}, {method}: {share:.1%} at {level:.0%}, of {sets} data sets")
    return Verdict(single, pooled)


def told(known: bool) -> str:
    return "dy known" if known else "dy unknown"


def table(cells: Cells) -> list[list[str]]:
    """A row a model and kind of errors: the share of intervals that hold, by method and level."""
    head = ["model", "errors", "data sets"]
    head += [f"{method} {level:.0%}" for method in METHODS for level in LEVELS]
    lines = [[*head, "not converged", "failed"]]
    for name, known in dict.fromkeys((name, known) for name, known, _ in cells):
        some = [cells[name, known, method] for method in METHODS]
        kind = "linear" if TRUTHS[name].linear else "nonlinear"
        shares = [f"{100 * cell.share(level):.1f} %" for cell in some for level in LEVELS]
        lines.append(
            [
                f"{name} ({kind})",
                told(known),
                str(max(cell.sets for cell in some)),
                *shares,
                " ".join(str(cell.unconverged) for cell in some),
                " ".join(str(cell.failed) for cell in some),
            ]
        )
    return lines


def main(arguments: Sequence[str]) -> int:
    """Prints the table and the verdict. Exit code 1 where the rule is broken."""
    parser = argparse.ArgumentParser("python -m benchmarks coverage", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", type=int, default=200, help="data sets of each model (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", default="1h", help="no data set begins after this time (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", type=int, default=3000, help="draws of DREAM at least (default: %(default)s)"
    )
    parser.add_argument(
        "--size", choices=("small", "full"), default="full", help="small: few data sets, two models"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the table there, as reStructuredText"
    )
    options = parser.parse_args(arguments)
    small = options.size == "small"
    sets, names = (2, ("line", "decay")) if small else (options.sets, tuple(TRUTHS))
    began = time.monotonic()
    cells = measure(sets, duration(options.limit, "--limit"), names, 300 if small else options.samples)
    lines, verdict = table(cells), judge(cells)
    print(aligned(lines))
    for what, where in (("single", verdict.single), ("pooled", verdict.pooled)):
        print(
            f"\n{what} counts:", "within binomial error" if not where else "\n  ".join(["OUTSIDE:", *where])
        )
    print(f"\n{time.monotonic() - began:.0f} s; not converged and failed: {', '.join(METHODS)}")
    if options.write:
        options.write.write_text(rst(lines), encoding="utf-8")
    return 0 if verdict.kept else 1

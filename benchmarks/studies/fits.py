"""Fits by each method, beside those of another checkout: ``python -m benchmarks fits [--against FOLDER]``.

A process of each checkout lives through the whole run, with a local service of its own, and they take turns: each fit is
made by one, then by the other, and again. So they meet the same machine. Reported are evaluations of the model, seconds
until the result is there, CPU seconds of the client and its slot processes (the figure to trust on a busy machine), and
the reduced chi-squared, which tells whether less work was worth as much.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import aligned, number, rst
from benchmarks.services import ROOT, environment
from benchmarks.studies.fitcases import CASES

#: Fits that may cost at most so much more than before.
MARK = 1.10
NEW = "this checkout"
FEW = ("decay", "bumps Curve")


class Fitter:
    """A process that fits cases with the park of a *checkout*."""

    def __init__(self, name: str, checkout: Path, folder: Path) -> None:
        self.name = name
        home = folder / name.replace(" ", "-")
        home.mkdir()
        # Its park, with the cases of this checkout: the current folder comes first.
        (home / "park").symlink_to(checkout.resolve() / "park")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.studies.fitter", str(home / "counts")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=home,
            env=environment() | {"PYTHONPATH": f"{home}:{ROOT}"},
        )
        found = self._answer()
        if found != str(home / "park"):
            raise RuntimeError(f"{name}: park was loaded from {found}, not from {home / 'park'}")

    def fit(self, case: str, method: str) -> dict[str, float]:
        """One fit: evaluations, seconds, cpu, chisq."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([case, method]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, float] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextlib.contextmanager
def fitters(against: Path | None) -> Iterator[list[Fitter]]:
    """The fitters, which end with the block."""
    with tempfile.TemporaryDirectory(prefix="park-bench-") as folder, contextlib.ExitStack() as open_ones:
        checkouts = {NEW: ROOT} if against is None else {"before": against, NEW: ROOT}
        made = []
        for name, checkout in checkouts.items():
            made.append(Fitter(name, checkout, Path(folder)))
            open_ones.callback(made[-1].close)
        yield made


Figures = dict[tuple[str, str], dict[str, list[dict[str, float]]]]


def measure(names: Sequence[str], methods: Sequence[str], rounds: int, against: Path | None) -> Figures:
    """(case, method) -> checkout -> what each round found."""
    found: Figures = {}
    with fitters(against) as made:
        for turn in range(rounds):
            for case in names:
                for method in [m for m in CASES[case].methods if m in methods]:
                    row = found.setdefault((case, method), {})
                    for fitter in made if turn % 2 else reversed(made):
                        row.setdefault(fitter.name, []).append(fitter.fit(case, method))
    return found


def table(found: Figures) -> list[list[str]]:
    """A row a case and method; with another checkout its figures first, and the ratio of CPU seconds."""
    names = list(next(iter(found.values())))
    compared = "before" in names
    order = ["before", NEW] if compared else [NEW]
    head = ["fit", "method"]
    head += [f"{what}{' ' + name if compared else ''}" for what in COLUMNS.values() for name in order]
    lines = [head + (["CPU ratio", ""] if compared else [])]
    for (case, method), row in found.items():
        cells = [number(median(row[name], what)) for what in COLUMNS for name in order]
        if compared:
            ratio = ratio_of(row)
            cells += [f"{ratio:.2f}", "" if ratio <= MARK else "SLOWER"]
        lines.append([case, method, *cells])
    return lines


COLUMNS = {"evaluations": "evaluations", "seconds": "s", "cpu": "CPU s", "chisq": "chisq"}


def median(rounds: Sequence[dict[str, float]], what: str) -> float:
    return statistics.median(found[what] for found in rounds)


def ratio_of(row: dict[str, list[dict[str, float]]]) -> float:
    """CPU seconds now over those before: the least of all rounds of each, which others disturbed least."""
    now, before = (min(found["cpu"] for found in row[name]) for name in (NEW, "before"))
    return now / before


def main(arguments: Sequence[str]) -> int:
    """Prints the table. Exit code 1 where a fit costs over 10 % more than in the other checkout."""
    parser = argparse.ArgumentParser("python -m benchmarks fits", description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, to take turns with")
    parser.add_argument("--methods", default="default,lm,amoeba,de,newton", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--size", choices=("small", "full"), default="full", help="(default: %(default)s)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the table there, as reStructuredText"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one is needed")
    if options.against is not None and not (options.against / "park" / "__init__.py").exists():
        parser.error(f"--against {options.against}: there is no park in it")
    began = time.monotonic()
    names = FEW if options.size == "small" else list(CASES)
    found = measure(names, options.methods.split(","), options.rounds, options.against)
    lines = table(found)
    print(aligned(lines))
    print(
        f"\n{time.monotonic() - began:.0f} s, medians of {options.rounds} rounds; ratio of the least CPU times"
    )
    if options.write:
        options.write.write_text(rst(lines), encoding="utf-8")
    slower = options.against is not None and any(ratio_of(row) > MARK for row in found.values())
    return 1 if slower else 0

"""One side of ``python -m benchmarks fits``: reads [case, method] a line, fits, and answers with a line of figures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import park
from benchmarks.studies.counting import Counter
from benchmarks.studies.fitcases import CASES
from park.fit import Fit

#: A turn repeats its fit for at least this many CPU seconds, or this many times.
ENOUGH, OFTEN = 0.3, 10


def cpu() -> float:
    """CPU seconds of this process and of its living children, in steps of nanoseconds."""
    tasks = Path("/proc/self/task").iterdir()
    children = {pid for task in tasks for pid in (task / "children").read_text().split()}
    return time.process_time() + sum(map(_used, children))


def _used(pid: str) -> float:
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            nanoseconds += int(task.read_text().split()[0])
        except OSError:  # a thread that has ended
            continue
    return nanoseconds * 1e-9


def turn(case: str, method: str, counter: Counter, place: int) -> dict[str, Any]:
    """The means of some fits, all equal."""
    made: list[dict[str, Any]] = []
    while len(made) < OFTEN and sum(figures["cpu"] for figures in made) < ENOUGH:
        made.append(one(case, method, counter, place))
    return {what: sum(figures[what] for figures in made) / len(made) for what in made[0]}


def one(case: str, method: str, counter: Counter, place: int) -> dict[str, Any]:
    """A fit, from submitting it to its result."""
    given = CASES[case]
    problem = given.make(lambda function: counter.model(function, place))
    options = given.options.get(method, {})
    named = {} if method == "default" else {"method": method}
    before, began, counted = cpu(), time.perf_counter(), counter[place]
    found = Fit(problem, seed=1, **named, **options).wait(timeout=300)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": cpu() - before,
        "evaluations": (counter[place] - counted) / given.parts,
        "chisq": float(found.chisq),
    }


def main(file: Path) -> None:
    """Answers until its input ends."""
    print(json.dumps(str(Path(park.__file__).parent)), flush=True)
    counter = Counter(file, 1)
    with park.local_service:
        for method in ("lm", "amoeba"):  # bumps and scipy are loaded, in every slot process
            for _ in range(4):
                one("decay", method, counter, 0)
        for line in sys.stdin:
            print(json.dumps(turn(*json.loads(line), counter, 0)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

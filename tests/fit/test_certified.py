"""Certified answers, through the fabric: one script, run against the local service and against a broker.

The script fits every problem of NIST StRD from both of its starts, and makes fits that use random numbers. It
runs as a process of its own, once for each service, and prints what it found; the tests look at that.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import nist
from tests.support.fabric import ENVIRONMENT, Fabric

pytest.importorskip("bumps")

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import cloudpickle
import park
from park.fit import Assembly, Fit, Model, Parameter, Uncertainty

sys.path.insert(0, sys.argv[2])
from tests.support import nist
cloudpickle.register_pickle_by_value(nist)  # kernels need not have the folder

def names(problem):
    return [f"b{n}" for n in range(1, len(problem.certified) + 1)]

def assembly(problem, **limits):
    parameters = {b: limits.get(b) or Parameter(v) for b, v in zip(names(problem), problem.start1)}
    return Assembly((Model(problem.model, **parameters), (problem.x, problem.y)))

def told(job):
    result = job.wait(timeout=100)
    draws = [] if result.draws is None else result.draws.ravel()
    return {
        "x": [float(v).hex() for v in result.x],
        "dx": [float(v).hex() for v in result.dx],
        "draws": [float(v).hex() for v in draws],
    }

service = park.local_service if sys.argv[1] == "local" else park.connect(sys.argv[1])
with service:
    jobs = {}
    for name in sys.argv[3:]:
        problem = nist.load(name)
        for number, start in ((1, problem.start1), (2, problem.start2)):
            given = dict(zip(names(problem), start))
            jobs[f"{name} {number}"] = Fit(assembly(problem), start=given)
    problem = nist.load("Chwirut2")
    limited = assembly(problem, b1=(0, 0.5), b2=(0.001, 0.02), b3=(0.001, 0.05))
    for seed in (7, 8):
        jobs[f"amoeba {seed}"] = Fit(limited, method="amoeba", starts=4, steps=300, seed=seed)
        jobs[f"dream {seed}"] = Uncertainty(
            limited, problem.certified, samples=600, burn=20, seed=seed, max_samples=1200
        )
    print(json.dumps({name: told(job) for name, job in jobs.items()}))
"""


#: Problems that are fitted over a broker, too: there problems and results travel in another way.
SOME = ("Misra1a", "MGH17", "Nelson", "Thurber")


def run(tmp_path: Path, address: str, names: Iterable[str]) -> dict[str, Any]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(script), address, str(ROOT), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {
        job: {what: list(map(float.fromhex, v)) for what, v in told.items()} for job, told in found.items()
    }


def once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """The answers of *make*, which runs in one worker of a test run; the other workers wait and read them."""
    folder = factory.mktemp(name)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make(folder)
    shared = factory.getbasetemp().parent / f"certified-{name}"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            answers = json.dumps(make(folder))
            shared.write_text(answers, encoding="utf-8")
        found: dict[str, Any] = json.loads(shared.read_text(encoding="utf-8"))
        return found


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return once(tmp_path_factory, "local", lambda folder: run(folder, "local", nist.MODELS))


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same with a `park-broker` and two `park-kernel` processes of one slot each, over ipc."""

    def over_ipc(folder: Path) -> dict[str, Any]:
        with Fabric(folder, lease=20.0, heartbeat=2.0) as fabric:
            fabric.start_kernels(2)
            return run(folder, fabric.address, SOME)

    return once(tmp_path_factory, "remote", over_ipc)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize(("service", "name"), [*product(["local"], nist.MODELS), *product(["remote"], SOME)])
def test_certified_values_to_four_digits(
    request: pytest.FixtureRequest, service: str, name: str, start: int
) -> None:
    found: dict[str, Any] = request.getfixturevalue(service)
    problem, fit = nist.load(name), found[f"{name} {start}"]
    assert nist.digits(fit["x"], problem.certified) >= 4
    if name != "Lanczos1":  # residuals of 9e-14 near values of 1 have three digits; see data/nist/README
        assert nist.digits(fit["dx"], problem.stderr) >= 4


@pytest.mark.parametrize("method", ["amoeba", "dream"])
def test_equal_seeds_give_equal_numbers_wherever_they_run(
    local: dict[str, Any], remote: dict[str, Any], method: str
) -> None:
    assert local[f"{method} 7"] == remote[f"{method} 7"]
    assert local[f"{method} 8"] == remote[f"{method} 8"]


def test_another_seed_gives_another_sample(local: dict[str, Any]) -> None:
    assert local["dream 7"]["draws"] != local["dream 8"]["draws"]
    assert len(local["dream 7"]["draws"]) >= 300

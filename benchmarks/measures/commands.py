"""The time until commands answer, with Python's start: ``python -m benchmarks commands``.

A broker over ipc with one kernel, and as many jobs as an owner may have, of which two run and the others wait: each line
of the table says why, and when its turn comes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import environment, fabric, remote, until

UNITS = {"wall": "ms", "bytes": ""}
#: Command lines, and the milliseconds that each may take.
COMMANDS = {"park --help": 150.0, "park jobs": 300.0, "park jobs --json": None, "park top": None}
SYSTEMS = ("commands",)
#: How often each is run, in turn; threads that submit.
TIMES, THREADS = 7, 8


def measure(system: str, scale: Scale) -> Rows:
    rows: Rows = {}
    with fabric("ipc") as address, remote(address, "bench") as service:
        jobs = max(3, min(scale.jobs, 9_990))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda n: service.start(time.sleep, [3600.0], name=f"job {n}"), range(jobs)))
        until(lambda: any(r.running for r in service.table.jobs.values()))
        took: dict[str, list[float]] = {command: [] for command in COMMANDS}
        size = {}
        for _ in range(TIMES if scale.starts > 1 else 1):
            for command in COMMANDS:
                milliseconds, size[command] = _once(command, address)
                took[command].append(milliseconds)
        for command, values in took.items():
            rows[command] = {"wall": statistics.median(values), "bytes": size[command]}
    return rows


def _once(command: str, address: str) -> tuple[float, int]:
    """Milliseconds that it took, and bytes that it wrote."""
    env = environment() | {"PARK_BROKER": address, "PARKTAG": "bench", "PATH": os.environ.get("PATH", "")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "park.cli.park", *command.split()[1:]],
        env=env,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return 1e3 * (time.perf_counter() - began), len(done.stdout)


def derive(rows: Rows) -> None:
    """Nothing is worked out from several."""


def marks() -> list[Mark]:
    return [Mark(command, "wall", bound) for command, bound in COMMANDS.items() if bound is not None]

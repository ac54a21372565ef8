"""One system in a process of its own: ``python -m benchmarks.probe BENCHMARK SYSTEM SCALE``, rows as JSON.

Nothing that one system leaves behind (threads, caches, forks of a large process) meets the next.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

from benchmarks.scale import Rows, Scale
from benchmarks.services import ROOT, environment

#: Seconds after which a system that has not ended is killed.
PROBE_TIMEOUT_SECONDS = 300.0


def probe(benchmark: str, system: str, scale: Scale) -> Rows:
    """Measure *system* in a new process. Raises RuntimeError with its last words if that fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.probe", benchmark, system, json.dumps(asdict(scale))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=PROBE_TIMEOUT_SECONDS)
        if process.returncode:
            raise RuntimeError("\n".join(err.strip().splitlines()[-30:]) or f"exit code {process.returncode}")
        rows: Rows = json.loads(out)
        return rows
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it had not ended after {PROBE_TIMEOUT_SECONDS:.0f} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


if __name__ == "__main__":
    name, which, how = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.measures.{name}")
    print(json.dumps(module.measure(which, Scale(**json.loads(how)))))

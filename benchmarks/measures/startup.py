"""From nothing to the first result: a fresh interpreter each time.

The floor is the least that could do it: start Python, import what a pipe needs, start two children of the same
Python, one message there and back.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.scale import Mark, Rows, Scale
from benchmarks.services import environment

UNITS = {"first result": "ms", "over floor": "ms"}

_FLOOR = """
import pickle, select, socket, subprocess, sys
child = '''
import pickle, socket, sys
line = socket.socket(fileno=int(sys.argv[1]))
line.sendall(pickle.dumps(pickle.loads(line.recv(4096))))
'''
lines, children = [], []
for _ in range(2):
    ours, theirs = socket.socketpair()
    children.append(subprocess.Popen([sys.executable, "-P", "-c", child, str(theirs.fileno())], pass_fds=[theirs.fileno()]))
    ours.sendall(pickle.dumps(42))
    lines.append(ours)
result = pickle.loads(select.select(lines, [], [])[0][0].recv(4096))
said(result)
for child in children:
    child.wait()
"""
_LOCAL = """
import park
with park.local_service as service:
    said(service.wait(service.start(lambda: 42)))
"""
_POOL = """
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    said(pool.apply(int, (42,)))
"""
_EXECUTOR = """
import concurrent.futures
with concurrent.futures.ProcessPoolExecutor(2) as pool:
    said(pool.submit(int, 42).result())
"""
#: The clock is the machine's, so that parent and child read the same.
_SAID = """
def said(result):
    import time
    assert result == 42
    print(time.monotonic(), flush=True)
"""
_SCRIPTS = {"floor": _FLOOR, "local": _LOCAL, "Pool": _POOL, "ProcessPoolExecutor": _EXECUTOR}
SYSTEMS = tuple(_SCRIPTS)


def measure(system: str, scale: Scale) -> Rows:
    took = [_once(_SAID + _SCRIPTS[system]) for _ in range(scale.starts)]
    return {system: {"first result": statistics.median(took)}}


def derive(rows: Rows) -> None:
    if "floor" in rows:
        for columns in rows.values():
            columns["over floor"] = columns["first result"] - rows["floor"]["first result"]


def marks() -> list[Mark]:
    return [Mark("local", "over floor", 300)]


def _once(script: str) -> float:
    """Milliseconds from the start of Python to the script's result."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment(), check=True, timeout=60
    )
    return (float(done.stdout) - began) * 1e3

"""Profiles of single requests: ``python -m benchmarks profile``.

First without a profiler: CPU seconds of each thread and process. Then with cProfile in the client's thread, in the
service's (locally a thread; else the processes of broker and kernel) and in the slot processes, where one unit
switches it on and another brings its figures home. cProfile makes calls look dearer than they are: it shows where
to look; the benchmarks show what it was worth.
"""

from __future__ import annotations

import cProfile
import marshal
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import services
from benchmarks.report import aligned
from benchmarks.scale import SLOTS, Scale
from park.core.server import ServerProxy

#: Entries of each profile that are printed.
ENTRIES = 20
#: One of cProfile's: (file, line, function) -> (primitive calls, calls, own seconds, seconds with callees, callers)
Figures = Mapping[tuple[str, int, str], tuple[int, int, float, float, Any]]


def profile(module: ModuleType, on: str, scale: Scale) -> str:
    """The report on *module*'s exercise of the service *on*."""
    if sys.version_info >= (3, 12):
        raise SystemExit("the profile needs Python 3.11: since 3.12 cProfile follows one thread at a time")
    with services.service(on) as service:
        module.exercise(service, scale)  # afterwards everything is started and shipped
        before, began = cpu_seconds(), time.perf_counter()
        module.exercise(service, scale)
        wall, after = time.perf_counter() - began, cpu_seconds()
    used = [(name, seconds - before.get(name, 0.0)) for name, seconds in after.items()]
    lines = [[f"CPU on {on} in {wall:.2f} s", "seconds", "of the time"]]
    lines += [[name, f"{seconds:.2f}", f"{seconds / wall:.0%}"] for name, seconds in used if seconds > 0]
    texts = [aligned(lines)]
    texts += [entries(name, figures) for name, figures in _profiled(module, on, scale)]
    return "\n\n".join(texts)


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of the threads of this process, and of its descendants."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {names.get(int(task.name), task.name)}": _seconds(task)
        for task in Path("/proc/self/task").iterdir()
    }
    for pid in _descendants(os.getpid()):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        name = next((word for word in words if word.startswith("park.")), words[0])
        found[f"process {pid} {name}"] = _seconds(Path(f"/proc/{pid}"))
    return found


def _seconds(task: Path) -> float:
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> Iterator[int]:
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            yield child
            yield from _descendants(child)


def _profiled(module: ModuleType, on: str, scale: Scale) -> list[tuple[str, Figures]]:
    client = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="park-profile-") as folder, _threads() as threads:
        with services.service(on, None if on == "local" else Path(folder)) as service:
            module.exercise(service, scale)
            _in_slots(service, begin_in_slot)
            client.runcall(module.exercise, service, scale)
            slots = _in_slots(service, end_in_slot)
        found = [("the client's thread", _figures(client))]
        found += [(f"thread {name}, all its life", _figures(p)) for name, p in threads.items()]
        for file in sorted(Path(folder).iterdir()):
            found.append((f"park-{file.name}, all its life", marshal.loads(file.read_bytes())))
    return found + [(f"slot process {pid}", figures) for pid, figures in slots.items()]


@contextmanager
def _threads() -> Iterator[dict[str, cProfile.Profile]]:
    """The profiles of the threads that are started meanwhile, by name."""
    profiles: dict[str, cProfile.Profile] = {}

    def begin(*_: Any) -> None:
        """The first event of a thread: cProfile takes the place of this function."""
        profiler = profiles[threading.current_thread().name] = cProfile.Profile()
        profiler.enable()

    threading.setprofile(begin)
    try:
        yield profiles
    finally:
        threading.setprofile(None)


def _figures(profiler: cProfile.Profile) -> Figures:
    profiler.create_stats()
    figures: Figures = profiler.stats
    return figures


# -- in the slot processes -----------------------------------------------------------------------

_mine: list[cProfile.Profile] = []


def begin_in_slot(_: int) -> tuple[int, Figures]:
    """A unit after which its process is profiled."""
    time.sleep(0.1)  # long enough for the other slot to take the next one
    if not _mine:
        _mine.append(cProfile.Profile())
        _mine[0].enable()
    return os.getpid(), {}


def end_in_slot(_: int) -> tuple[int, Figures]:
    """A unit that brings home what its process was profiled for."""
    if _mine:
        return os.getpid(), _figures(_mine.pop())
    time.sleep(0.1)
    return os.getpid(), {}


def _in_slots(service: ServerProxy, function: Callable[[int], tuple[int, Figures]]) -> dict[int, Figures]:
    """The results of *function* in each slot process."""
    found: dict[int, Figures] = {}
    mapper = service.mapper(function)
    for _ in range(10):
        for pid, figures in mapper(range(2 * SLOTS)):
            found[pid] = figures or found.get(pid, {})
        if len(found) == SLOTS:
            break
    return found


# -- text ----------------------------------------------------------------------------------------


def entries(name: str, figures: Figures) -> str:
    """The entries with the most seconds of their own."""
    lines = [[name, "own s", "with callees s", "calls", "us a call"]]
    largest = sorted(figures.items(), key=lambda item: item[1][2], reverse=True)[:ENTRIES]
    for (file, line, function), (_, calls, own, cumulated, _) in largest:
        where = function if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"
        lines.append(
            [where, f"{own:.3f}", f"{cumulated:.3f}", f"{calls:,}", f"{cumulated / calls * 1e6:.1f}"]
        )
    return aligned(lines)

"""The command: ``python -m benchmarks [latency|...]``, ``... profile WHICH``, and studies: ``... simulate`` and so on."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import report
from benchmarks.probe import probe
from benchmarks.scale import QUICK, SLOTS, Rows, Scale

NAMES = (
    "latency",
    "throughput",
    "generation",
    "startup",
    "decisions",
    "sharing",
    "mirror",
    "memory",
    "payloads",
    "durability",
    "recovery",
    "commands",
)
#: They need the disk, and are measured when they are asked for.
DISK = ("payloads", "durability", "recovery", "commands")
#: They have options of their own.
STUDIES = ("simulate", "chaos", "certified", "coverage", "fits")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 if something could not be measured; a missed mark is a finding, no error."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["profile"]:
        return _profile(given[1:])
    if given[:1] and given[0] in STUDIES:
        study: int = importlib.import_module(f"benchmarks.{given[0]}").main(given[1:])
        return study
    parser = argparse.ArgumentParser("python -m benchmarks", description="PARK beside pools and pipes.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="|".join(NAMES),
        help=f"which (default: all but {', '.join(DISK)}), or: profile WHICH, or one of {', '.join(STUDIES)}",
    )
    parser.add_argument("--repeat", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few of everything, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there")
    options = parser.parse_args(given)
    names = options.names or [name for name in NAMES if name not in DISK]
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no benchmark {sorted(unknown)[0]!r}: choose from {', '.join(NAMES)}")
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: at least one round is needed")
    found = run(names, options.repeat, options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["failed"] else 0


def run(names: list[str], repeat: int, quick: bool) -> dict[str, Any]:
    """Measure and print; everything that was measured."""
    scale = _calibrated(QUICK if quick else Scale())
    found: dict[str, Any] = {
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "scale": asdict(scale),
        "slots": SLOTS,
        "repeat": repeat,
        "load": [os.getloadavg()[0]],
        "benchmarks": {},
        "marks": [],
        "failed": [],
    }
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        values = report.collect([_round(module, name, scale, found["failed"]) for _ in range(repeat)])
        found["benchmarks"][name] = {"units": module.UNITS, "rows": values}
        found["marks"] += report.judge(name, module.marks(), module.UNITS, values)
        print(report.table(name, module.UNITS, values), end="\n\n", flush=True)
    found["load"].append(os.getloadavg()[0])
    print(report.marks_table(found["marks"]))
    print(
        f"\n{found['machine']}\n{SLOTS} slots, medians (lowest..highest) of {repeat} interleaved rounds, "
        f"load before and after: {found['load'][0]:.1f}, {found['load'][1]:.1f}"
    )
    for failure in found["failed"]:
        print(f"not measured: {failure}", file=sys.stderr)
    return found


def _round(module: ModuleType, name: str, scale: Scale, failed: list[str]) -> Rows:
    """Every system once."""
    rows: Rows = {}
    for system in module.SYSTEMS:
        try:
            rows |= probe(name, system, scale)
        except RuntimeError as error:
            failed.append(f"{name}, {system}: {error}")
    module.derive(rows)
    return rows


def _calibrated(scale: Scale) -> Scale:
    from benchmarks.work import calibrate

    return replace(scale, repeats=calibrate())


def _profile(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks profile", description="Where the time goes.")
    parser.add_argument("name", choices=NAMES[:3])
    parser.add_argument(
        "--on", choices=("local", "ipc", "tcp"), default="local", help="(default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a few of everything, to see that it runs")
    options = parser.parse_args(arguments)
    from benchmarks.profiles import profile
    from benchmarks.services import environment

    os.environ |= environment()
    module = importlib.import_module(f"benchmarks.{options.name}")
    print(profile(module, options.on, _calibrated(QUICK if options.quick else Scale())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

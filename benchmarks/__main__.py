"""The command ``python -m benchmarks``: measures by name, ``profile MEASURE``, and studies with options of their own."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import report
from benchmarks.probe import probe
from benchmarks.scale import QUICK, SLOTS, Rows, Scale

#: The measures, with the line that the help shows of each.
MEASURES = {
    "latency": "seconds that one unit, one call and one job take",
    "throughput": "units per second, from units of nothing to units of 10 ms",
    "generation": "time of one generation of a fit beside an ideal pool",
    "startup": "time from an import to the first result",
    "decisions": "messages that a dispatcher answers in a second, without sockets",
    "sharing": "how close each job comes to its share of the slots",
    "mirror": "how late mirrors of the table are, and how fast they catch up",
    "page": "what the web page costs the broker, how late its rows are, how its memory grows",
    "memory": "bytes that brokers, kernels and clients hold",
    "payloads": "megabytes per second of large inputs and results",
    "spread": "seconds until one long body is at eight kernels, beside bare copies",
    "durability": "price of a home on disk beside one in memory",
    "recovery": "time that a broker takes to open a home with many jobs",
    "commands": "time that park's commands take, Python's start included",
}
#: These measures write much to the disk, or start many processes or a browser. They run only when they are named.
ONLY_BY_NAME = ("page", "payloads", "spread", "durability", "recovery", "commands")
#: The studies, with the line that the help shows of each.
STUDIES = {
    "simulate": "a day of a facility in the simulator: shares, decisions per second, memory",
    "chaos": "real processes are killed, stopped and cut off; an audit looks for broken promises",
    "hostile": "honest people work while attackers of each role do to a broker what they can",
    "certified": "the certified problems of NIST StRD, fitted by each method",
    "coverage": "how often intervals hold the truth",
    "peers": "PARK beside other engines, with a picture; also: --peers",
    "fits": "evaluations and time of fits, beside those of another checkout",
}


def main(arguments: list[str] | None = None) -> int:
    """Run what *arguments* name. The exit status is 1 if a measure failed; a missed goal is a finding, not an error."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["profile"]:
        return _profile(given[1:])
    if given[:1] == ["--peers"]:
        given[0] = "peers"
    if given[:1] and given[0] in STUDIES:
        status: int = importlib.import_module(f"benchmarks.studies.{given[0]}").main(given[1:])
        return status
    parser = _parser()
    options = parser.parse_args(given)
    names = options.names or [name for name in MEASURES if name not in ONLY_BY_NAME]
    if unknown := set(names) - set(MEASURES):
        parser.error(f"there is no benchmark {sorted(unknown)[0]!r}: choose from {', '.join(MEASURES)}")
    if options.repeat < 1:
        parser.error(f"--repeat {options.repeat}: at least one round is needed")
    found = run(names, options.repeat, options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["failed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        usage="python -m benchmarks [MEASURE ...] [--repeat N] [--quick] [--json FILE]\n"
        "       python -m benchmarks profile MEASURE [--on local|ipc|tcp] [--quick]\n"
        "       python -m benchmarks STUDY [options of the study; -h lists them]",
        description="Measures PARK beside process pools and pipes, in rounds: each system once, then each again.",
        epilog=f"measures ({', '.join(ONLY_BY_NAME)} run only when named):\n{_lines(MEASURES)}\n\n"
        f"studies:\n{_lines(STUDIES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="MEASURE", help="a name from the list below")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that the measures run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured value to FILE")
    return parser


def _lines(described: dict[str, str]) -> str:
    return "\n".join(f"  {name:<11} {line}" for name, line in described.items())


def run(names: list[str], repeat: int, quick: bool) -> dict[str, Any]:
    """Run the measures *names* for *repeat* rounds, print their tables, and return every value."""
    from benchmarks.work import calibrated

    scale = calibrated(QUICK if quick else Scale())
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
        module = _measure(name)
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
    """Measure each system of the measure *name* once."""
    rows: Rows = {}
    for system in module.SYSTEMS:
        try:
            rows |= probe(name, system, scale)
        except RuntimeError as error:
            failed.append(f"{name}, {system}: {error}")
    module.derive(rows)
    return rows


def _measure(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.measures.{name}")


def _profile(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks profile",
        description="Shows where the time of one measure goes, process by process and thread by thread.",
    )
    parser.add_argument(
        "name", metavar="MEASURE", choices=list(MEASURES)[:3], help="latency, throughput or generation"
    )
    parser.add_argument(
        "--on", choices=("local", "ipc", "tcp"), default="local", help="service (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that the profile works")
    options = parser.parse_args(arguments)
    from benchmarks.profiles import profile
    from benchmarks.services import environment
    from benchmarks.work import calibrated

    os.environ |= environment()
    print(profile(_measure(options.name), options.on, calibrated(QUICK if options.quick else Scale())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""PARK beside other engines: ``python -m benchmarks --peers [--picture FILE]``.

Each engine that is installed does the same five things in a process of its own (`benchmarks.measures.engines`), one engine
after the other, and then each again. Reported are medians and ranges, how many times as good PARK is as each of the others,
and a picture with a bar for each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from benchmarks import engines, report
from benchmarks.measures.engines import LESS, UNITS
from benchmarks.probe import probe
from benchmarks.scale import QUICK, SLOTS, Rows, Scale, Values
from benchmarks.work import calibrated

#: The titles of the panels.
TITLES = {
    "map": "no-op tasks of one map",
    "submit": "no-op tasks, a submit each",
    "latency": "one no-op, there and back",
    "generation": "generation of 50 points of 1 ms",
    "1 MB": "1 MB there and back",
}
OURS = "PARK"


def main(arguments: list[str]) -> int:
    """Measure all engines that are installed. The exit status is 1 if one of them has failed."""
    parser = argparse.ArgumentParser("python -m benchmarks --peers", description="PARK beside other engines.")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=engines.NAMES, help="these engines alone"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured value to FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the bars to FILE (png, svg, pdf)")
    options = parser.parse_args(arguments)
    versions: dict[str, str] = {}
    for name in options.only or engines.NAMES:
        try:
            versions[name] = engines.version(name)
        except engines.Missing as error:
            print(f"{name} is skipped: {error}")
    scale = calibrated(QUICK if options.quick else Scale())
    rounds, failed = [], []
    for _ in range(options.repeat):
        rows: Rows = {}
        for name in versions:
            try:
                rows |= probe("engines", name, scale)
            except RuntimeError as error:
                failed.append(f"{name}: {str(error).splitlines()[-1]}")
        rounds.append(rows)
    values = report.collect(rounds)
    words = (
        f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors, {SLOTS} processes "
        f"each, load {os.getloadavg()[0]:.1f}, rounds: {options.repeat}; medians (lowest..highest)"
    )
    print(report.table("engine", UNITS, values), against(values), words, _said(versions), sep="\n\n")
    for failure in failed:
        print(f"not measured: {failure}")
    if options.json:
        options.json.write_text(json.dumps({"rows": values, "versions": versions, "words": words}, indent=1))
    if options.picture:
        draw(values, f"{words}\n{_said(versions)}", options.picture)
    return 1 if failed else 0


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}".strip() for name, version in versions.items())


def against(values: Values) -> str:
    """How many times as good each PARK is as each of the others, by medians."""
    ours = [name for name in values if name.startswith(OURS)]
    lines = [["times as good as", *UNITS]]
    for other in values:
        if other not in ours:
            lines += [
                [f"{name} / {other}", *(_ratio(values, name, other, c) for c in UNITS)] for name in ours
            ]
    return report.aligned(lines)


def _ratio(values: Values, name: str, other: str, column: str) -> str:
    mine, theirs = (statistics.median(values[each][column]) for each in (name, other))
    return report.number(theirs / mine if column in LESS else mine / theirs)


def draw(values: Values, words: str, file: Path) -> None:
    """Write the picture: a panel for each column, a bar for each engine, the best on top, on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    height = 0.32 * len(values) + 0.8
    figure, axes = plt.subplots(3, 2, figsize=(13, 3 * height + 1), layout="constrained")
    for axis, column in zip(axes.flat, UNITS, strict=False):
        _panel(axis, values, column)
    axes.flat[-1].axis("off")
    axes.flat[-1].text(
        0, 1, words.replace(", ", ",\n"), va="top", fontsize=8, transform=axes.flat[-1].transAxes
    )
    figure.suptitle("PARK beside other engines: medians, with lowest and highest", fontsize=12)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _panel(axis: Any, values: Values, column: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    medians = {name: statistics.median(columns[column]) for name, columns in values.items()}
    order = sorted(medians, key=medians.__getitem__, reverse=column in LESS)
    below = [medians[name] - min(values[name][column]) for name in order]
    above = [max(values[name][column]) - medians[name] for name in order]
    axis.barh(
        order,
        [medians[name] for name in order],
        xerr=[below, above],
        color=["#2a6fb0" if name.startswith(OURS) else "#b8b8b8" for name in order],
        error_kw={"elinewidth": 1, "ecolor": "#444444"},
    )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    lowest, highest = (
        min(min(v[column]) for v in values.values()),
        max(max(v[column]) for v in values.values()),
    )
    axis.set_xlim(lowest / 2, highest * 4)
    for place, name in enumerate(order):
        axis.text(
            max(values[name][column]) * 1.15, place, report.number(medians[name]), va="center", fontsize=8
        )
    axis.set_title(
        f"{TITLES[column]} [{UNITS[column]}], {'less' if column in LESS else 'more'} is better", fontsize=9
    )
    axis.tick_params(labelsize=8)

"""The benchmarks run, and write what they promise. No times are asserted: machines differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import engines, report
from benchmarks.measures.engines import UNITS
from benchmarks.scale import Mark
from benchmarks.studies import peers

ROOT = Path(__file__).resolve().parents[2]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220)


@pytest.mark.heavy
def test_what_the_disk_costs_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = benchmarks("durability", "recovery", "--quick", "--repeat", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["benchmarks"]
    assert found["durability"]["rows"]["disk"]["of memory"][0] > 0.0
    assert set(found["recovery"]["rows"]) == {"50 jobs, ended", "50 jobs, half done"}


@pytest.mark.parametrize(
    ("names", "marks"),
    [
        (("startup",), 1),
        pytest.param(("decisions",), 3, marks=pytest.mark.heavy),
        pytest.param(("latency", "throughput", "generation"), 15, marks=pytest.mark.heavy),
        pytest.param(("mirror", "memory", "sharing", "commands"), 8, marks=pytest.mark.heavy),
        pytest.param(("payloads", "spread"), 11, marks=pytest.mark.heavy),
        pytest.param(("page",), 1, marks=pytest.mark.heavy),
    ],
)
def test_a_quick_run_measures_everything(names: tuple[str, ...], marks: int, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    done = benchmarks(*names, "--quick", "--repeat", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["failed"] == []
    assert list(found["benchmarks"]) == list(names)
    for benchmark in found["benchmarks"].values():
        for columns in benchmark["rows"].values():
            assert set(columns) <= set(benchmark["units"])
            assert all(len(values) == 1 for values in columns.values())
    assert len(found["marks"]) == marks
    for mark in found["marks"]:
        assert mark["column"] in found["benchmarks"][mark["benchmark"]]["rows"][mark["row"]]
        assert isinstance(mark["measured"], float)
        assert isinstance(mark["met"], bool)
        assert f"{mark['benchmark']}: {mark['row']}" in done.stdout


@pytest.mark.heavy
def test_other_engines_are_measured_beside_park(tmp_path: Path) -> None:
    file = tmp_path / "bars.svg"
    done = benchmarks(
        "--peers", "--quick", "--repeat", "1", "--only", "PARK local", "Pool", "--picture", str(file)
    )
    assert done.returncode == 0, done.stderr
    assert "PARK local / Pool" in done.stdout
    assert file.stat().st_size > 10_000


def test_an_engine_that_is_not_installed_is_skipped_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.PACKAGES, "Ray", "no_such_package")
    with pytest.raises(engines.Missing, match="no_such_package is not installed"):
        engines.version("Ray")


def test_less_may_be_better() -> None:
    values = {"PARK local": {c: [2.0] for c in UNITS}, "Pool": {c: [1.0] for c in UNITS}}
    (*_, line) = peers.against(values).splitlines()
    assert line.split()[-5:] == ["2", "2", "0.5", "0.5", "2"]


@pytest.mark.heavy
def test_the_profile_shows_every_side() -> None:
    done = benchmarks("profile", "latency", "--quick")
    assert done.returncode == 0, done.stderr
    for part in ("CPU on local", "the client's thread", "thread park, ", "slot process"):
        assert part in done.stdout


@pytest.mark.heavy
def test_a_small_facility_is_simulated() -> None:
    done = benchmarks("simulate", "--quick")
    assert done.returncode == 0, done.stderr
    for part in ("share error of owners", "seconds between two units", "decisions per second", "peak memory"):
        assert part in done.stdout


@pytest.mark.heavy
def test_certified_problems_are_fitted(tmp_path: Path) -> None:
    file = tmp_path / "table.rst"
    done = benchmarks("certified", "--size", "small", "--methods", "lm", "--write", str(file))
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("lm")] == ["3", "3"]
    assert file.read_text().count("Kirby2") == 2


@pytest.mark.heavy
def test_coverage_is_counted() -> None:
    done = benchmarks("coverage", "--size", "small")
    assert "decay (nonlinear)" in done.stdout, done.stderr
    assert done.stdout.count("within binomial error") == 2
    assert done.returncode == 0


@pytest.mark.heavy
def test_fits_take_turns_with_those_of_another_checkout() -> None:
    done = benchmarks("fits", "--size", "small", "--rounds", "1", "--against", str(ROOT))
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("decay")]
    assert {row[1] for row in rows} >= {"default", "lm", "amoeba"}, done.stderr
    for row in rows:  # of the same code the same work
        assert row[2] == row[3]


def test_an_unknown_benchmark_is_refused() -> None:
    done = benchmarks("speed")
    assert done.returncode == 2
    assert "there is no benchmark 'speed'" in done.stderr


def test_marks_judge_medians() -> None:
    values = report.collect([{"a": {"x": 1.0}}, {"a": {"x": 3.0}}, {"a": {"x": 2.0}}])
    assert Mark("a", "x", 2.0).judge(values) == (2.0, True)
    assert Mark("a", "x", 2.5, at_least=True).judge(values) == (2.0, False)
    assert Mark("b", "x", 2.0).judge(values) == (None, False)
    assert report.spread([1.0, 3.0, 2.0]) == "2 (1..3)"
    assert report.spread([1234.0]) == "1,234"

"""``park submit``, as people type it: scripts, functions and files of inputs, with a broker and a kernel elsewhere."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from park.cli.commands.submit import moment, option
from park.cli.inputs import read_inputs
from park.cli.park import main
from park.core.server import ServerProxy
from park.errors import InvalidRequest
from park.fit.methods.options import DEFAULT_METHOD
from tests.support.fabric import Fabric, Process, until
from tests.support.terminal import Terminal

LINE = """
    import sys
    import numpy as np
    from bumps.names import Curve, FitProblem
    from helper import line

    print("loaded as", sys.argv)
    x, y, dy = np.loadtxt("line.dat").T
    curve = Curve(line, x, y, dy, m=2, b=2)
    curve.m.range(0, 4)
    curve.b.range(-5, 5)
    problem = FitProblem(curve)
"""
HELPER = """
    def line(x, m, b=0):
        return scaled(x, m) + b

    def scaled(x, m):
        return m * x
"""
DECAY = """
    import numpy as np
    from park.fit import Assembly, Data, Model

    def decay(x, scale, rate):
        return scale * np.exp(-rate * x)

    x = np.linspace(0, 5, 30)
    problem = Assembly((Model(decay, scale=(0, 10), rate=(0, 5)), Data(x, decay(x, 3.0, 1.2), dy=0.05)))
"""
WORK = """
    import sys
    import time
    from dataclasses import dataclass
    from park import environment
    import helper

    @dataclass
    class Times:
        factor: "float"

        def prepare(self, env):
            self.offset = helper.line(1, 0)

        def run(self, x):
            return self.factor * x + self.offset

    times = Times(10)

    def double(x):
        return helper.scaled(x, 2)

    def total(row):
        return float(row.sum())

    def inverse(x):
        return 1 / x

    def once():
        return __name__

    def told():
        return sys.argv[1:]

    class Twice:
        def run(self, x):
            return list(environment().map(told_with, [x, x]))

    def told_with(x):
        return [x, *sys.argv]

    twice = Twice()

    def endless():
        env = environment()
        while not env.should_stop:
            time.sleep(0.01)
"""


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


class World:
    """A fabric, and a folder in which somebody works; the kernel is in another."""

    def __init__(self, fabric: Fabric, service: ServerProxy, folder: Path) -> None:
        self.fabric = fabric
        self.service = service
        self.folder = folder

    def start(self, *arguments: object, **options: Any) -> Process:
        options.setdefault("cwd", self.folder)
        env = {"PARK_BROKER": self.fabric.address} | options.pop("env", {})
        return self.fabric.start("-m", "park.cli.park", *map(str, arguments), env=env, **options)

    def run(self, *arguments: object, code: int = 0, **options: Any) -> str:
        process = self.start(*arguments, **options)
        assert process.wait(50) == code, process.text
        return process.text

    def submit(self, *arguments: object, **options: Any) -> list[int]:
        """The numbers of the jobs."""
        lines = self.run("submit", *arguments, **options).splitlines()
        return [int(line) for line in lines if line.isdigit()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("submit")
    work = write(folder / "work", work=WORK, helper=HELPER)
    write(folder / "fits", line=LINE, helper=HELPER, decay=DECAY)
    (folder / "fits/line.dat").write_text("0 1.1 0.1\n1 3.05 0.1\n2 4.9 0.1\n3 7.1 0.1\n")
    write(folder / "config" / "park")
    (folder / "config/park/park.toml").write_text("[limits.owners.poor]\njobs = 1\n")
    with Fabric(folder) as fabric:
        fabric.start_kernels(1)
        yield World(fabric, fabric.connect(), work)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARK_BROKER", raising=False)
    return tmp_path


def refused(*arguments: str, code: int = 2) -> str:
    """The error of a command that finds no broker."""
    done = CliRunner().invoke(main, ["submit", "--broker", "/nowhere/connection.json", *arguments])
    assert done.exit_code == code, done.output
    return str(done.output)


# -- fits ----------------------------------------------------------------------------------------


def test_a_script_of_bumps_is_fitted(world: World) -> None:
    text = world.run("submit", "../fits/line.py", "--set", "steps=300", "-t", "demo", "-p", "high", "--wait")
    assert "loaded as" in text
    (job,) = (int(line) for line in text.splitlines() if line.isdigit())
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["parameter", "b", "m"]  # its result
    record = world.service.status(job)
    assert (record.name, record.kind, record.priority, record.tags) == ("line", "fit", 4, ("tester", "demo"))
    result = world.service.wait(job)
    assert dict(zip(result.names, result.x, strict=True)) == pytest.approx({"m": 1.985, "b": 1.06}, abs=1e-3)
    summary = json.loads(world.run("fetch", job, "--json"))
    assert summary["names"] == list(result.names)
    world.run("fetch", job, "--save", "found")
    assert (world.folder / "found" / "fit.par").read_text().startswith("b 1.0")


def test_a_result_is_shown_where_it_is_no_word_for_a_program(world: World) -> None:
    lines = world.run("submit", "../fits/decay.py", "--method", "lm", "--wait", "--parsable").splitlines()
    (job,) = (int(line) for line in lines)
    table = [line.split()[0] for line in world.run("wait", job).splitlines()]
    assert table == ["job", "<FitResult", "parameter", "scale", "rate"]
    with Terminal() as terminal:
        options = ("../fits/decay.py", "--method", "lm", "--wait")
        done = world.start("submit", *options, stdout=terminal.slave)
        assert done.wait(50) == 0, done.text
        assert [line.split()[0] for line in terminal.text.splitlines()] == ["job", *table]
    # nobody else's result is unpickled
    assert len(world.run("wait", job, env={"PARKTAG": "grace"}).splitlines()) == 1


def test_a_script_with_an_assembly_is_fitted_as_it_was_asked(world: World) -> None:
    options = ("--method", "de", "--seed", "7", "--set", "steps=20", "-N", "first")
    jobs = world.submit("../fits/decay.py", "../fits/decay.py", *options)
    first, second = (world.service.wait(job, 30) for job in jobs)
    assert first.x.tolist() == second.x.tolist()
    assert (first.method, first.seed, first.steps) == ("de", 7, 20)
    assert world.service.status(jobs[1]).name == "first"


def test_bumps_flags_are_taken_where_they_mean_the_same(world: World, tmp_path: Path) -> None:
    (tmp_path / "start.par").write_text("# of an earlier fit\nscale 2.5\nrate 1\n")
    flags = ("--fit=de", "--steps=3", "--pop", "4", "--CR=0.8", "--time=0.5", "--seed=7")
    told = world.run(
        "submit", "../fits/decay.py", *flags, "--pars", tmp_path / "start.par", "--export", tmp_path / "out"
    )
    job = int(told.split()[0])
    found = world.service.wait(job)
    same = world.submit(
        "../fits/decay.py",
        "--method",
        "de",
        "--seed",
        "7",
        "--set",
        "steps=3",
        "--set",
        "pop=4",
        "--set",
        "CR=0.8",
    )
    assert (found.method, found.seed, found.steps) == ("de", 7, 3)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"decay.par", "decay.err", "decay.json"}
    assert world.service.wait(same[0], 30).steps == 3
    said = world.run("submit", "../fits/decay.py", "--fit=lm", "--burn=3", code=2)
    assert "method 'lm' has no option 'burn'" in said
    (tmp_path / "bad.par").write_text("scale 2.5\nrate fast\n")
    said = world.run("submit", "../fits/decay.py", "--pars", tmp_path / "bad.par", code=2)
    assert "bad.par, line 2: 'rate fast' is not a name and a number" in said


# -- functions -----------------------------------------------------------------------------------


def test_a_function_runs_over_the_inputs_of_a_file(world: World) -> None:
    (world.folder / "points.jsonl").write_text("1\n2.5\n\n-3\n")
    (world.folder / "input").write_text("[1, 2]\n3\n")
    np.save(world.folder / "points.npy", np.arange(6.0).reshape(3, 2))
    jobs = world.submit("work.py:double", "work:times", "--inputs", "points.jsonl")
    jobs += world.submit("work:total", "--inputs", "points.npy")
    with (world.folder / "input").open() as stdin:
        jobs += world.submit("builtins:str", "--inputs", "-", stdin=stdin, code=2)  # a class
        stdin.seek(0)
        jobs += world.submit("json:dumps", "--inputs", "-", stdin=stdin)
    assert [world.service.wait(job, 60) for job in jobs] == [
        [2, 5.0, -6],
        [10, 25.0, -30],
        [1.0, 5.0, 9.0],
        ["[1, 2]", "3"],
    ]
    assert [world.service.status(job).name for job in jobs] == ["double", "times", "total", "dumps"]


def test_scripts_have_helpers_of_their_own(world: World, tmp_path: Path) -> None:
    body = "import helper\n\ndef f():\n    return helper.WHO, helper.who()\n"
    for name in ("one", "two"):
        who = f"WHO = {name!r}\n\ndef who():\n    return WHO\n"
        write(tmp_path / name, fit=body, helper=who)
    jobs = world.submit("one/fit.py:f", "two/fit.py:f", cwd=tmp_path)
    assert [world.service.wait(job, 60) for job in jobs] == [("one", "one"), ("two", "two")]


def test_a_package_of_the_working_folder_travels(world: World, tmp_path: Path) -> None:
    write(
        tmp_path / "mine",
        __init__="",
        helper=HELPER,
        work="from .helper import scaled\nimport mine.helper as h\n",
    )
    with (tmp_path / "mine/work.py").open("a") as file:
        file.write("def f():\n    return scaled(1, 2), h.scaled(2, 3)\n")
    (job,) = world.submit("mine.work:f", cwd=tmp_path)
    assert world.service.wait(job, 60) == (2, 6)


# -- arguments of scripts ------------------------------------------------------------------------

#: A model of a line through zero with any number of points; its only parameter is the slope.
SLOPE = """
    import argparse
    import numpy as np
    from bumps.names import Curve, FitProblem

    parser = argparse.ArgumentParser()
    parser.add_argument("slope", type=float)
    parser.add_argument("--points", type=int, default=5)
    given = parser.parse_args()
    x = np.arange(1.0, given.points + 1)
    curve = Curve(lambda x, k: k * x, x, given.slope * x, 0.1 * x, k=0)
    curve.k.range(-9, 9)
    problem = FitProblem(curve)
"""


def test_a_script_finds_its_arguments(world: World) -> None:
    write(world.folder, slope=SLOPE)
    jobs = world.submit("slope.py", "slope.py:problem", "--method", "lm", "--", "2.5", "--points", "7")
    jobs += world.submit("slope.py", "--args", "-3", "--method", "lm")
    results = [world.service.wait(job, 30) for job in jobs]
    assert [r.x[0] for r in results] == pytest.approx([2.5, 2.5, -3.0])
    assert [r.dof + 1 for r in results] == [7, 7, 5]
    assert world.service.status(jobs[1]).argv == ("slope.py:problem", "2.5", "--points", "7")
    text = world.run("show", jobs[1])
    assert "script      slope.py:problem 2.5 --points 7\n" in text


def test_what_runs_elsewhere_finds_them_too(world: World) -> None:
    (world.folder / "two.json").write_text("[1, 2]")
    (once,) = world.submit("work.py:told", "--", "a b", "-t")
    (job,) = world.submit("work:twice", "--inputs", "two.json", "--args=x")
    assert world.service.wait(once, 60) == ["a b", "-t"]
    assert world.service.wait(world.service.retry(once), 60) == ["a b", "-t"]
    assert world.service.wait(job, 60) == [[[n, "work:twice", "x"]] * 2 for n in (1, 2)]
    assert "returned ['a b', '-t']" in world.run("run", once)


def test_a_dry_run_shows_arguments(here: Path) -> None:
    write(here, slope=SLOPE)
    said = refused("slope.py", "--dry-run", "--", "3", "--points", "9", code=0)
    assert said.startswith("slope.py -- 3 --points 9 would be slope (fit with ")
    assert "), given 3 --points 9: " in said
    (row,) = json.loads(
        refused("slope.py", "--dry-run", "--json", "--args", "3 --points=9", code=0).split("park:")[0]
    )
    assert (row["target"], row["args"]) == ("slope.py", ["3", "--points=9"])


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("import sys\nn = int(sys.argv[1])\n", "IndexError"),
        ("import sys\n_, n, m = sys.argv\n", "ValueError"),
        ("from sys import argv, exit\nif len(argv) < 2:\n    exit('how many?')\n", "how many?"),
        (SLOPE, "SystemExit: 2"),
    ],
)
def test_a_script_that_lacks_arguments_is_told_where_they_go(here: Path, script: str, error: str) -> None:
    write(here, fit=script)
    last = refused("fit.py").splitlines()[-1]
    assert error in last
    assert last.endswith("; if it lacks arguments, give them behind two dashes: park submit fit.py -- ARGS")
    assert "two dashes" not in refused("fit.py", "--", "-x")


def test_a_script_that_reads_no_arguments_is_told_nothing_of_them(here: Path) -> None:
    write(here, fit="import json\n\njson.loads('{')\n", other="import sys\nprint(sys.argv[9])\n")
    assert "two dashes" not in refused("fit.py")
    assert "two dashes" in refused("other:f")


# -- how it is asked, and what is said -----------------------------------------------------------


def test_all_that_a_request_has(world: World) -> None:
    first = world.service.start(abs, [-1], name="first")
    (world.folder / "points.json").write_text("[1, 2, 3]")
    (job,) = world.submit(
        *("work:double", "--inputs", "points.json", "-N", "later", "-t", "a", "-t", "b=1", "-p", "-3"),
        *("--after", f"{first},{first}-{first}", "--when", "2h", "--cpus", "2", "--memory", "1.5GB"),
        *("--label", "gpu", "--max-time", "3h", "--seed", "5"),
    )
    record = world.service.status(job)
    assert (record.name, record.tags, record.priority, record.after) == (
        "later",
        ("tester", "a", "b=1"),
        -3,
        (first,),
    )
    assert record.when == pytest.approx(time.time() + 7200, abs=60)
    request = world.service.fetch(job).request
    assert (request.cpus, request.memory, request.labels, request.seed) == (2, 1_500_000_000, ("gpu",), 5)
    assert (request.max_time, list(request.inputs)) == (3 * 3600, [1, 2, 3])
    world.service.abort(job)


def test_a_terminal_is_told_in_a_sentence(world: World) -> None:
    with Terminal() as terminal:
        (world.folder / "points.json").write_text("[1, 2, 3]")
        done = world.start(
            "submit", "work:double", "--inputs", "points.json", "--wait", stdout=terminal.slave
        )
        assert done.wait(50) == 0, done.text
        submitted, ended = terminal.text.splitlines()
    job = int(submitted.split()[1])
    assert submitted == f"job {job} was submitted: double (3 units)"
    assert ended == f"job {job} is complete"


def test_json_with_wait_is_an_array_of_what_has_ended(world: World) -> None:
    (world.folder / "some.csv").write_text("1\n0\n")
    process = world.start("submit", "work:inverse", "work:double", "--inputs", "some.csv", "--json", "--wait")
    assert process.wait(50) == 1
    records = json.loads(process.text[process.text.index("[\n") :])
    assert [r["state"] for r in records] == ["failed", "complete"]
    assert f"park: job {records[0]['job']} failed: unit 1: ZeroDivisionError" in process.text


def test_ctrl_c_leaves_the_job_alone(world: World) -> None:
    process = world.start("submit", "work:endless", "--wait")
    until(lambda: process.text.strip().isdigit(), why=lambda: process.text)
    job = int(process.text)
    until(lambda: world.service.status(job).state == "running")
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert f"job {job} goes on; `park wait {job}` waits again" in process.text
    world.service.abort(job)


def test_nothing_is_sent_before_all_is_right(world: World) -> None:
    before = len(world.service.jobs(owner="*"))
    text = world.run("submit", "work:once", "work:nothing", code=2)
    assert "park: work:nothing: it defines no 'nothing'" in text
    assert "job 999999" in world.run("submit", "work:once", "--after", 999999, code=3)
    text = world.run("submit", "work:once", "../fits/decay.py", "--dry-run")
    once, fit, room = text.splitlines()
    assert once.startswith("work:once would be once: ")
    assert fit.startswith("../fits/decay.py would be decay (fit with auto): ")
    assert room.startswith("tester would have ")
    assert " of 10,000 jobs, " in room
    text = world.run("submit", "work:once", "work:once", "--dry-run", code=6, env={"PARKTAG": "poor"})
    assert "poor has 1 jobs that have not ended, and may have 1" in text
    assert len(world.service.jobs(owner="*")) == before


def test_what_the_broker_refuses_is_named(world: World) -> None:
    text = world.run("submit", "work:endless", "work:once", code=6, env={"PARKTAG": "poor"})
    job, said = text.splitlines()
    assert "park: work:once was not submitted: poor has 1 jobs that have not ended" in said
    world.service.abort(int(job))


def test_a_dry_run_needs_no_broker(here: Path) -> None:
    write(here, work="def f(x):\n    return x\n")
    (here / "points.dat").write_text("1 2\n3 4\n")
    options = ("work.py:f", "--inputs", "points.dat", "--dry-run", "--json")
    text = refused(*options, code=0)
    (row,) = json.loads(text[: text.index("\n]") + 2])
    assert row["target"] == "work.py:f"
    assert row["units"] == 2
    assert row["inputs"] > 32
    assert "park: " in text  # why nothing is known of the broker
    assert refused("work.py:f", code=4)


# -- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("x = 1\nproblem = undefined(x)\n", "fit.py, line 2: NameError: name 'undefined' is not defined"),
        ("def f():\n    return 1 / 0\n\nf()\n", "fit.py, line 2: ZeroDivisionError: division by zero"),
        ("import json\n\njson.loads('{')\n", "fit.py, line 3: json.decoder.JSONDecodeError"),
        ("import bad\n", "bad.py, line 1: RuntimeError: not today"),
        ("import nowhere_to_be_found\n", "fit.py, line 1: ModuleNotFoundError: No module named 'nowhere"),
        ("import sys\nsys.exit('usage: me')\n", "fit.py, line 2: SystemExit: usage: me"),
        ("problem = (\n", "fit.py, line 1: SyntaxError: '(' was never closed"),
        ("\x00", "source code string cannot contain null bytes"),
        (
            "model = 7\n",
            "fit.py: it defines no 'problem': give it one, a bumps FitProblem or a park.fit.Assembly",
        ),
        ("problem = 7\n", "fit.py: 7 is neither an Assembly nor a bumps FitProblem"),
    ],
)
def test_a_script_that_cannot_be_loaded(here: Path, script: str, words: str) -> None:
    write(here, fit=script, bad="raise RuntimeError('not today')\n")
    text = refused("fit.py")
    assert words in text.splitlines()[-1]
    assert str(Path(read_inputs.__code__.co_filename).parent) not in text  # the user's own lines alone
    assert ("Traceback" in text) == ("line" in words and "SyntaxError" not in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["work.py:Body"], "Body is a class: make an instance of it there, and name that"),
        (["work.py:NUMBER"], "the NUMBER 7 is neither callable nor an object with a run method"),
        (["work.py:f", "--inputs", "none.json"], "does not exist"),
        (["work.py:f", "--inputs", "work.py"], "no file of inputs ends so"),
        (["work.py:f", "--method", "lm"], "work.py:f: this is no problem to be fitted: --method is for fits"),
        (["work.py:f", "--set", "steps=1"], "--set is for fits"),
        (["work.py:locked"], "locked cannot be pickled: global 'lock' is a _thread.lock"),
        (["work.py:f", "--when", "soon"], "'soon' is neither a length of time"),
        (["work.py:f", "-p", "top"], "priority 'top' is neither"),
        (["work.py:f", "--memory", "much"], "memory='much'"),
        (["work.py:f", "--after", "before"], "'before' names no jobs"),
        (["decay.py", "--inputs", "points.json"], "decay.py: a fit has no inputs"),
        (["decay.py", "--set", "steps"], "--set 'steps' is no option of a method"),
        (["decay.py", "--set", "depth=3"], "method 'auto' has no option 'depth'"),
        (["decay.py", "--method", "magic"], "unknown method 'magic'; there are auto"),
        (["decay"], "'decay' names nothing to run"),
        (["decay.py", "5"], "a script's arguments go behind two dashes, as MODEL.py -- ARGS"),
        (["--", "decay.py"], "nothing to run is named: what follows -- or --args are the arguments"),
        (["decay.py", "--args", "5", "--", "6"], "follow -- or --args, not both"),
        (["decay.py", "--args", "'5"], "is no list of words: No closing quotation"),
        (["decay.py", "--args", "5", "--args", "6"], "--args is there twice"),
        (["work.py:f", "--", "x" * 3000], "the arguments have 3,009 characters, more than 2,000"),
        (["none.py"], "there is no file none.py"),
        (["no.such:thing"], "there is no module 'no.such' in"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], words: str) -> None:
    work = """
        import threading

        NUMBER = 7
        lock = threading.Lock()

        class Body:
            def run(self, x):
                return x

        def f(x):
            return x

        def locked():
            return lock
    """
    write(here, work=work, decay=DECAY)
    (here / "points.json").write_text("[1]")
    assert words in " ".join(refused(*arguments).replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", '[1, {"x": 2}]', [1, {"x": 2}]),
        ("a.jsonl", '1\n\n"b"\n', [1, "b"]),
        ("a.txt", "# x\n1\n2\n", [1.0, 2.0]),
        ("a.dat", "# x, y\n1 2\n3 4\n", [[1.0, 2.0], [3.0, 4.0]]),
        ("a.csv", "1,2\n\n3,4 # last\n", [[1.0, 2.0], [3.0, 4.0]]),
        ("a.json", '{"x": 2}', "a.json: it holds dict, where an array is needed"),
        ("a.json", "[1,\n2", "a.json, line 2, column 2: Expecting"),
        ("a.jsonl", "1\nx y\n", "a.jsonl, line 2: x y is no JSON"),
        ("a.jsonl", "\n", "a.jsonl holds no inputs"),
        ("a.json", "\udcff", "a.json: 'utf-8' codec can't decode"),
        ("a.csv", "x,y\n1,2\n", "could not convert string 'x'"),
        ("a.txt", "1\n2 3\n", "the number of columns changed"),
        ("a.dat", "# nothing\n", "a.dat holds no inputs"),
        ("a.npy", "1 2", "a.npy: "),
    ],
)
def test_inputs_of_a_file(here: Path, name: str, text: str, found: list[Any] | str) -> None:
    (here / name).write_bytes(text.encode(errors="surrogateescape"))
    if isinstance(found, str):
        with pytest.raises(InvalidRequest) as error:
            read_inputs(name)
        assert found in str(error.value)
    else:
        given = read_inputs(name)
        assert (given.tolist() if isinstance(given, np.ndarray) else given) == found


def test_times_and_options() -> None:
    assert moment("90") == 90
    assert moment("2h") == 7200
    assert str(moment("2030-01-31T18:00")) == "2030-01-31 18:00:00"
    assert [option(text) for text in ("steps=500", "xtol=1e-3", "init=lhs", "trim=True")] == [
        ("steps", 500),
        ("xtol", 1e-3),
        ("init", "lhs"),
        ("trim", True),
    ]


def test_what_is_completed() -> None:
    shell = ShellComplete(main, {}, "park", "_PARK_COMPLETE")
    assert [item.type for item in shell.get_completions(["submit"], "fi")] == ["file"]
    assert [item.type for item in shell.get_completions(["submit", "fit.py", "--", "5"], "da")] == ["file"]
    assert [item.type for item in shell.get_completions(["submit", "--args", "'5"], "da")] == ["file"]
    assert [item.value for item in shell.get_completions(["submit"], "--ar")] == ["--args"]
    assert [item.value for item in shell.get_completions(["submit", "--method"], "d")] == ["de", "dream"]
    assert [item.value for item in shell.get_completions(["submit", "-p"], "u")] == ["urgent"]


def test_help_names_the_default_of_fits() -> None:
    said = " ".join(CliRunner().invoke(main, ["submit", "--help"]).output.split())
    assert f"The method of a fit; default: {DEFAULT_METHOD}." in said
    assert "[-- ARG...]" in said


def test_a_command_that_was_renamed_says_its_new_name() -> None:
    done = CliRunner().invoke(main, ["allocate", "12"])
    assert done.exit_code == 2
    assert "`park allocate` is called `park alloc give` now" in done.output
    assert "name a batch system: --torque" in done.output
    assert "allocate" not in CliRunner().invoke(main, ["--help"]).output

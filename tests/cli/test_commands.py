"""``park`` as people type it, against a broker and a kernel in processes of their own."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import park
from park.cli.commands.top import Seen, picture
from park.cli.show import screen
from park.cli.show.tables import flat
from park.client.live_table import LiveTable
from park.core.broker_info import BrokerInfo
from park.core.server import TAGS, ServerProxy
from park.model import AccountRecord, Delta, KernelRecord
from park.table.mirror import Mirror
from park.table.query import Query
from park.table.table import Table
from park.wire import messages
from tests.support.fabric import Fabric, Process, until
from tests.support.terminal import Terminal

#: The reason of a job with a ``when``.
HELD = r"waits for its time, 20\d\d-\d\d-\d\d \d\d:\d\d UTC"

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def square(x: float) -> float:
    return x * x


def inverse(x: float) -> float:
    return 1 / x


def endless() -> str:
    env = park.environment()
    while not env.should_stop:
        time.sleep(0.01)
    return "best so far"


def nap(x: int) -> int:
    time.sleep(0.01)
    return x


def rude(x: float) -> None:
    raise ValueError("\x1b[31m")


class World:
    """A fabric with jobs in every state."""

    def __init__(self, fabric: Fabric, service: ServerProxy) -> None:
        self.fabric = fabric
        self.service = service
        self.done = service.start(
            square, range(10), name="squares", tags=["demo", "batch=7"], priority="high"
        )
        self.failed = service.start(inverse, [1, 0, 2, 0], name="inverses")
        self.aborted = service.start(square, [1], when=1000)
        self.held = service.start(square, [1], name="held", when=1000)
        self.later = service.start(square, [1], name="later", after=self.held, pure=True)
        self.hers = fabric.connect("ada").start(square, [5], name="hers")
        self.rude = service.start(rude, [1])
        service.abort(self.aborted)
        for job in (self.done, self.failed, self.hers, self.rude):
            with suppress(park.JobFailed):
                service.wait(job, timeout=60)

    def start(self, *arguments: object) -> Process:
        return self.fabric.park(*map(str, arguments))

    def run(self, *arguments: object, code: int = 0) -> str:
        """The output of the command."""
        process = self.start(*arguments)
        assert process.wait() == code, process.text
        return process.text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Fabric(tmp_path_factory.mktemp("world")) as fabric:
        fabric.start_kernels(1)
        yield World(fabric, fabric.connect())


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["abort", "delete"])
def test_all_jobs_are_never_meant_by_a_slip(tmp_path: Path, command: str) -> None:
    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        jobs = [service.start(square, [1], when=1000) for _ in range(3)]
        if command == "delete":
            for job in jobs:
                service.abort(job)
        before = len(service.records(Query(service.user)))
        refused = fabric.park(command, "all")
        assert refused.wait() == 2, refused.text
        assert f"this would {command} all your 3 jobs: say --yes if that is meant" in refused.text
        assert len(service.records(Query(service.user))) == before == 3
        done = fabric.park(command, "all", "--yes")
        assert done.wait() == 0, done.text
        assert len(done.text.splitlines()) == 3


# -- looking -------------------------------------------------------------------------------------


def test_jobs_lists_mine_that_have_not_ended(world: World) -> None:
    head, *rows = world.run("jobs").splitlines()
    assert head.split() == ["JOB", "OWNER", "NAME", "STATE", "DONE", "REASON"]
    mine = {int(row.split()[0]): row for row in rows}
    assert {world.held, world.later} <= mine.keys()
    assert not {world.done, world.failed, world.aborted, world.hers} & mine.keys()
    assert "tester" in mine[world.held]
    assert re.search(f"{HELD}$", mine[world.held])
    assert f"waits for job {world.held}, which is waiting" in mine[world.later]
    assert len({row.index("waiting") for row in mine.values() if "waiting  " in row}) == 1


def test_jobs_a_lists_all(world: World) -> None:
    text = world.run("jobs", "-a")
    rows = {int(row.split()[0]): row for row in text.splitlines()[1:]}
    assert "complete" in rows[world.done]
    assert "10/10" in rows[world.done]
    assert "unit 1: ZeroDivisionError: division by zero (2 of 4 units failed)" in rows[world.failed]
    assert "aborted by its owner" in rows[world.aborted]
    assert "ada" in rows[world.hers]
    assert "ValueError: \\x1b[31m" in rows[world.rude]  # it steers no terminal
    assert "hers" in rows[world.hers]


def test_jobs_as_json(world: World) -> None:
    records = {r["job"]: r for r in json.loads(world.run("jobs", "-a", "--json"))}
    assert records[world.done]["state"] == "complete"
    assert records[world.done]["tags"] == [*TAGS, "demo", "batch=7"]
    assert records[world.failed]["failed"] == 2
    shown = json.loads(world.run("show", world.done, "--json"))
    assert [r["job"] for r in shown] == [world.done]
    assert shown[0] == records[world.done]


def test_jobs_of_a_tag_or_a_state_in_chosen_columns(world: World) -> None:
    assert world.run("jobs", "-a", "-t", "demo", "-o", "job,tags,priority").split() == [
        *("JOB", "TAGS", "PRIORITY"),
        *(str(world.done), ",".join((*TAGS, "demo", "batch=7")), "high"),
    ]
    mine = {r["job"] for r in json.loads(world.run("jobs", "-s", "failed", "-s", "aborted", "--json"))}
    assert {world.failed, world.aborted} <= mine
    assert world.hers not in {r["job"] for r in json.loads(world.run("jobs", "-a", "--mine", "--json"))}
    assert "there is no state 'running?'" in world.run("jobs", "-s", "running?", code=2)
    assert "there is no column 'what'" in world.run("jobs", "-o", "what", code=2)


def test_watching_in_a_pipe_gives_a_line_a_change(world: World) -> None:
    watching = world.start("jobs", "-w")
    until(lambda: f'"job": {world.held},' in watching.text)
    job = world.service.start(square, [2], name="watched", when=1000)
    until(lambda: f'"job": {job},' in watching.text)
    world.service.abort(job)

    def records() -> list[dict[str, Any] | None]:
        lines = map(json.loads, watching.text.splitlines()[: watching.text.count("\n")])
        return [line["record"] for line in lines if line["job"] == job]

    until(
        lambda: [r["state"] for r in records()[-1:] if r] == ["aborted"]
    )  # and then it is not followed any more
    assert all(r["name"] == "watched" and r["state"] == "waiting" for r in records()[:-1] if r is not None)
    world.service.delete(job)
    everything = world.start("jobs", "-a", "-w")
    other = world.service.start(square, [2], when=1000)
    until(lambda: f'"job": {other},' in everything.text)
    world.service.abort(other)
    world.service.delete(other)
    until(lambda: f'{{"job": {other}, "record": null}}' in everything.text)
    assert records()[-1] is not None
    for process in (watching, everything):
        process.signal(signal.SIGINT)
        assert process.wait() == 130


def samples() -> None:
    for n in range(1, 301):
        time.sleep(0.1)
        park.environment().publish(park.Progress(10 * n, 3000, "samples", "chisq 1.02"))
        park.environment().ready()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["-m", "park.cli.park", "wait"], r"━─+ +[\d,]+/3,000 samples +\d\d:\d\d left, chisq 1.02"),
        (
            ["-c", "import park, sys; park.connect().wait(int(sys.argv[1]))"],
            r" [\d,]+/3,000 samples \[\d\d:\d\d<\d\d:\d\d, chisq 1.02",
        ),
    ],
)
def test_a_bar_shows_what_is_counted_how_good_it_is_and_the_time_left(
    world: World, command: list[str], shown: str
) -> None:
    job = world.service.start(samples)
    with Terminal() as terminal:
        env = {"PARK_BROKER": world.fabric.address, "TERM": "xterm", "COLUMNS": "120", "LINES": "20"}
        waiting = world.fabric.start(*command, str(job), env=env, stderr=terminal.slave)
        try:
            until(lambda: re.search(shown, terminal.text), why=lambda: terminal.text)
            record = world.service.status(job)
            assert (record.units, record.note) == ("samples", "chisq 1.02")
            world.service.abort(job)
            until(lambda: terminal.text and not waiting.running)
        finally:
            waiting.kill()


def test_watching_on_a_terminal_redraws(world: World) -> None:
    with Terminal() as terminal:
        env = {"PARK_BROKER": world.fabric.address, "TERM": "xterm"}
        watching = world.fabric.start(
            "-m", "park.cli.park", "jobs", "-a", "-w", env=env, stdout=terminal.slave
        )
        try:
            until(lambda: terminal.text.count("kernels: 1") > 1, why=lambda: terminal.text)
            assert "squares" in terminal.text
            assert "ValueError: \\x1b[31m" in terminal.text
            until(lambda: "waits for its time" in terminal.text, why=lambda: terminal.text)
        finally:
            watching.kill()


def test_a_terminal_on_which_one_cannot_draw_is_told_so(world: World) -> None:
    with Terminal() as terminal:
        env = {"PARK_BROKER": world.fabric.address, "TERM": "dumb"}
        watching = world.fabric.start("-m", "park.cli.park", "top", "-w", env=env, stdout=terminal.slave)
        assert watching.wait() == 2
        assert "this terminal (TERM=dumb): leave out -w" in watching.text
        watching = world.fabric.start(
            "-m", "park.cli.park", "jobs", "-w", "--json", env=env, stdout=terminal.slave
        )
        until(lambda: f'{{"job": {world.held}, "record": {{' in terminal.text, why=lambda: terminal.text)
        watching.kill()


@pytest.mark.parametrize("drawn", [False, True])
def test_watching_ends_with_the_connection(world: World, drawn: bool) -> None:
    script = """
        import threading
        from park.cli.commands import jobs
        from park.cli.park import main

        def opened(broker, connect=jobs.open_service):
            service = connect(broker)
            threading.Timer(0.3, service.close).start()
            return service

        jobs.open_service = opened
        main(["jobs", "-a", "-w"])
    """
    with Terminal() as terminal:
        options = {"stdout": terminal.slave, "env": {"TERM": "xterm"}} if drawn else {}
        watching = world.fabric.script(script, **options)
        try:
            assert watching.wait(50) == 4
        finally:
            watching.kill()
        assert watching.text.endswith("park: the connection to the broker was closed\n")


def test_watching_ends_when_its_reader_has_gone(world: World) -> None:
    watching = world.fabric.start(
        "-m", "park.cli.park", "jobs", "-a", "-w", env={"PARK_BROKER": world.fabric.address}, stdout=-1
    )
    assert watching.popen.stdout is not None
    assert json.loads(watching.popen.stdout.readline())["job"] == world.done
    watching.popen.stdout.close()
    assert watching.wait() == 141
    assert watching.text == ""


def test_a_reader_of_a_pipe_is_told_when_the_broker_is_away_and_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "MAX_REDRAW_SECONDS", 0.01)
    monkeypatch.setattr(screen, "STALE_NOTICE_SECONDS", 0.0)
    mirror = Mirror()
    table = LiveTable(mirror, lambda call: call())
    head = messages.Header("store", 1, 0, 0)

    def story() -> Iterator[str]:
        assert mirror.wants_snapshot(0.0)
        mirror.feed(head, Table().header(), 0.0)
        yield ""
        mirror.tick(100.0)
        yield "park: no sign of the broker: its changes come when it is back\n"
        yield ""
        mirror.feed(messages.Head("store", 1, 0), b"", 101.0)
        yield "park: the broker is back\n"
        table.close()
        yield ""

    steps = story()
    next(steps)
    expected = []

    def gone() -> bool:
        expected.append(next(steps))
        return False

    monkeypatch.setattr(screen, "reader_gone", gone)
    assert list(screen.changes(table)) == []
    assert capsys.readouterr().err == "".join(expected)
    assert len(expected) == 4


# -- the whole, and what is wrong --------------------------------------------------------------------


def test_top_shows_all_on_one_screen(world: World) -> None:
    job = world.service.start(time.sleep, [60], name="sleeper", priority="high")
    until(lambda: world.service.status(job).running)
    try:
        lines = world.run("top").splitlines()
        assert lines[0].startswith(f"{world.fabric.address}: PARK {park.__version__}, life 1, since ")
        assert lines[1].startswith("slots: 1 of 1 busy, on 1 kernel; jobs: 1 running, ")
        heads = [line.split() for line in lines if line and line.split()[0].isupper()]
        [head] = [head for head in heads if head[:1] == ["JOB"]]
        assert head[:7] == ["JOB", "OWNER", "NAME", "PRIORITY", "RUNNING", "DONE", "ELAPSED"]
        assert head[-2:] == ["USED", "(s)"]
        assert any(line.split()[:4] == [str(job), "tester", "sleeper", "high"] for line in lines)
        found = json.loads(world.run("top", "--json"))
        assert [k["busy"] for k in found["kernels"]] == [1]
        assert [r["job"] for r in found["running"]] == [job]
        (owner,) = found["owners"]
        assert owner["owner"] == "tester"
        assert owner["slots"] == owner["jobs"]["running"] == 1
        assert owner["share"] > 0
        assert found["jobs"]["complete"] >= 2
        with Terminal() as terminal:
            env = {"PARK_BROKER": world.fabric.address, "TERM": "xterm"}
            options = {"stdout": terminal.slave, "stdin": terminal.slave}
            watching = world.fabric.start("-m", "park.cli.park", "top", "-w", env=env, **options)
            until(lambda: "sleeper" in terminal.text, why=lambda: terminal.text)
            world.service.abort(job)
            until(lambda: "0 of 1 busy" in terminal.text, why=lambda: terminal.text)
            terminal.press("q")
            assert watching.wait() == 0
    finally:
        with suppress(park.ParkError):
            world.service.abort(job)


def test_a_narrow_screen_leaves_lines_out_and_says_so() -> None:
    kernels = {n: KernelRecord(n, f"node{n}", 1, slots=2) for n in range(1, 31)}
    table = Table()
    for n, record in kernels.items():
        table.apply(Delta("kernel", n, record.as_map()))
    for n in range(1, 31):
        fields = {"job": n, "owner": f"owner{n % 7}", "name": "a long name " * 9, "state": "queued"}
        table.apply(Delta("job", n, fields))
        table.apply(Delta("job", n, {"state": "running", "running": 2}))
    mirror = Mirror()
    mirror.table = table
    about = BrokerInfo("tcp://head:7275", "1.0", "store", 3, 0.0, 2.0, 20.0, None)
    accounts = [AccountRecord(f"owner{n}", share=n / 28) for n in range(8)]
    seen = Seen(about, LiveTable(mirror, lambda call: call()), accounts)
    for width, height in [(80, 24), (160, 24), (40, 12), (80, 60)]:
        lines = picture(seen, width, height, now=0.0)
        assert len(lines) <= height
        assert max(map(len, map(flat, lines[3:]))) <= max(width, 70)
        assert any(" more" in flat(line) for line in lines) is (height > 12)
    whole = "\n".join(map(flat, picture(seen, None)))
    assert whole.count("node") == 30
    assert "owner0" in whole
    assert "owner7" not in whole
    assert "more" not in whole
    assert whole.index("owner6") < whole.index("owner1")


def test_doctor_finds_nothing_where_all_is_well(world: World) -> None:
    lines = [line.split(None, 1) for line in world.run("doctor").splitlines()]
    assert lines[0] == ["CHECK", "OF               FOUND"]
    assert {how for how, _ in lines[1:]} <= {"ok", "note", "->"}
    found = "\n".join(text for _, text in lines)
    assert "kernels          1 with 1 slots" in found
    assert f"PARK {park.__version__}, life 1" in found
    assert str(world.fabric.home / "jobs.mdb") in found
    assert "of the file hold nothing" in found
    assert f"{world.fabric.address} (from PARK_BROKER)" in found
    assert f"its process {world.fabric.broker.pid} lives" in found


def test_doctor_says_what_is_wrong_and_what_to_do(world: World, tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    fields = json.loads(world.fabric.connection.read_text()) | {"pid": 4194400, "home": "/nowhere"}
    file.write_text(json.dumps(fields))
    file.chmod(0o644)
    bad, none = tmp_path / "bad.json", tmp_path / "none.json"
    bad.write_text("{}")
    (tmp_path / "park").mkdir()
    toml = tmp_path / "park" / "park.toml"
    toml.write_text("broker = [")

    def faults(broker: object, **env: str) -> Process:
        env = {"PARK_BROKER": str(broker)} | env
        return world.fabric.start("-m", "park.cli.park", "doctor", "--json", env=env)

    started = [
        faults(file, PARK_SLOTS="many", PARK_LIMIT_JOBS="3"),
        faults(bad),
        faults(none),
        faults("tcp://127.0.0.1:1"),
        faults("http://head"),
        faults("", XDG_CONFIG_HOME=str(tmp_path)),
    ]
    assert [p.wait() for p in started] == [1, 4, 4, 4, 4, 4], [p.text for p in started]
    found = [[c for c in json.loads(p.text) if c["how"] == "fault"] for p in started]
    assert [c["name"] for c in found[0]] == ["configuration", "configuration", *["connection file"] * 2]
    assert found[0][1]["found"] == (
        "nothing reads the variable PARK_LIMIT_JOBS (did you mean PARK_LIMITS_JOBS?)"
    )
    assert found[0][2]["remedy"] == f"chmod 600 {file}"
    assert found[0][3]["remedy"] == f"start it again: park-broker --home {tmp_path}"
    assert "it has no 'version'" in found[1][0]["found"]
    assert "does not exist" in found[2][0]["found"]
    assert [c["name"] for c in found[3]] == ["key"]
    assert "there is no key for the broker at tcp://127.0.0.1:1" in found[3][0]["found"]
    assert "is no address of a broker" in found[4][0]["found"]
    assert [c["name"] for c in found[5]] == ["configuration", "broker"]
    assert all(c["found"].startswith(f"{toml} is no TOML") for c in found[5])


def test_a_shell_completes_jobs_and_tags(world: World) -> None:
    def completed(*words: str, broker: str = world.fabric.address) -> list[str]:
        env = {
            "PARK_BROKER": broker,
            "_PARK_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["park", *words]),
            "COMP_CWORD": str(len(words)),
        }
        process = world.fabric.start("-m", "park.cli.park", env=env)
        assert process.wait() == 0
        return [line.removeprefix("plain,") for line in process.text.splitlines()]

    # where the machine has too much to do, nothing comes within the second that one waits after a Tab
    both = f"{world.held},{world.done}"
    until(lambda: both in completed("show", both))  # and 4,10 where there are so many
    until(lambda: {"tag:demo", "tag:batch=7"} <= set(completed("fetch", "tag:")))
    until(lambda: completed("credits", "grant", "ad") == ["ada"])
    until(lambda: {"ada", "grant"} <= set(completed("credits", "")))
    assert completed("kernels", "dr") == ["drain"]
    until(lambda: str(world.held) in (found := completed("run", "")) and "last" not in found)
    assert completed("jobs", "-o", "job,st") == ["job,state", "job,started"]
    assert completed("show", "1", broker="/nowhere") == [""]
    script = world.run("completion", "bash")
    assert "_PARK_COMPLETE=bash_complete" in script


def test_a_job_that_failed_is_run_again(world: World) -> None:
    new = int(world.run("retry", world.failed, "--failed"))
    assert world.run("wait", new, code=1).startswith(f"park: job {new} failed: unit 0: ZeroDivisionError")
    assert world.service.fetch(new).request.inputs == [0, 0]
    assert "has no units that failed" in world.run("retry", "--failed", world.done, code=2)
    again = int(world.run("retry", world.done))
    assert world.service.wait(again, 60) == world.service.wait(world.done)


def shout(x: int) -> int:
    print(f"begun\runit {x}\t\x1b[31m\r")
    return x


def drawn(x: int) -> float:
    import numpy

    return float(numpy.random.rand())


def test_a_unit_that_is_run_here_draws_the_same_numbers(world: World) -> None:
    job = world.service.start(drawn, [1, 2])
    values = world.service.wait(job, 60)
    assert world.run("run", job, "--unit", 1).endswith(f"unit 1 of job {job} returned {values[1]!r}\n")


def test_the_log_of_a_job(world: World) -> None:
    job = world.service.start(shout, [1], when=1.0)
    following = world.start("logs", "-f", job)
    assert following.wait() == 0, following.text
    text = world.run("logs", job)
    assert text == following.text
    assert text.endswith("  unit 1  \\x1b[31m\n"), "as a terminal shows it"
    (message,) = json.loads(world.run("logs", job, "--json"))
    assert message["text"] == "begun\runit 1\t\x1b[31m\r"
    assert world.run("logs", world.held) == ""
    assert "job 999 is unknown" in world.run("logs", 999, code=3)


class Tells:
    """Publishes the messages that are in files, one after the other, as soon as they are there."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.files = [folder / name for name in names]

    def run(self) -> None:
        for file in self.files:
            while not file.exists():
                time.sleep(0.01)
            for message in pickle.loads(file.read_bytes()):
                park.environment().publish(message)


def test_following_a_log_shows_each_line_once_whatever_the_clocks_say_and_over_a_broker_s_death(
    tmp_path: Path,
) -> None:
    lines = {"a": ["from tomorrow", "twice", "twice"], "b": ["from yesterday", "twice"], "c": ["the last"]}
    times = {"from tomorrow": time.time() + 86400, "from yesterday": time.time() - 86400}

    def go(name: str) -> None:
        (tmp_path / "new").write_bytes(
            pickle.dumps([park.Log(t, "info", times.get(t, 1.0)) for t in lines[name]])
        )
        (tmp_path / "new").rename(tmp_path / name)

    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        job = service.start(Tells(tmp_path, list(lines)))
        go("a")
        until(lambda: len(service.logs(job)) == 3)
        following = [fabric.park("logs", "-f", str(job), *more) for more in ([], ["--json"])]
        for command in following:
            until(lambda c=command: c.text.count("twice") == 2)  # type: ignore[misc]
        go("b")
        for command in following:
            until(lambda c=command: c.text.count("twice") == 3)  # type: ignore[misc]
        fabric.broker.kill()
        fabric.start_broker()
        until(lambda: service.status(job).running)
        go("c")
        assert [command.wait() for command in following] == [0, 0]
        said = [text for several in lines.values() for text in several]
        # a broker that is away for long on a busy machine is told on stderr
        shown = [[x for x in each.text.splitlines() if not x.startswith("park: ")] for each in following]
        assert [line.split("info: ")[1] for line in shown[0]] == said
        assert [json.loads(line)["text"] for line in shown[1]] == said


def test_a_unit_is_run_here(world: World) -> None:
    text = world.run("run", world.failed, code=1)
    assert f"unit 1 of job {world.failed} raised:" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")
    assert world.run("run", world.failed, "--unit", 2).endswith(
        f"unit 2 of job {world.failed} returned 0.5\n"
    )
    assert "the units 0 to 3: say which one" in world.run("run", world.failed, "--unit", 9, code=2)
    assert "name one with --unit" in world.run("run", world.done, code=2)
    raised = json.loads(world.run("run", world.failed, "--json", code=1).partition("\n")[2])
    assert (raised["job"], raised["unit"]) == (world.failed, 1)
    assert raised["error"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in raised["traceback"]
    returned = world.run("run", world.failed, "--unit", 2, "--json").partition("\n")[2]
    assert json.loads(returned) == {"job": world.failed, "unit": 2, "result": 0.5}


def test_nothing_to_list(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        first, second, third = (
            fabric.park(*args) for args in (("jobs",), ("jobs", "-a"), ("jobs", "--json"))
        )
        assert [p.wait() for p in (first, second, third)] == [0, 0, 0]
        assert first.text == "no jobs that have not ended (park jobs -a shows all)\n"
        assert second.text == "no jobs\n"
        assert json.loads(third.text) == []


def test_show_tells_the_story(world: World) -> None:
    lines = dict(line.split(None, 1) for line in world.run("show", world.failed).splitlines())
    assert lines["job"] == str(world.failed)
    assert lines["name"] == "inverses"
    assert lines["state"] == "failed"
    assert lines["reason"].startswith("unit 1: ZeroDivisionError")
    assert lines["units"] == "4 of 4 done, 2 failed"
    assert lines["priority"] == "free"
    assert "(took " in lines["ended"]
    assert lines["tags"] == ", ".join(TAGS)
    done = dict(line.split(None, 1) for line in world.run("show", world.done).splitlines())
    assert (done["tags"], done["priority"]) == (", ".join((*TAGS, "demo", "batch=7")), "high")
    later = dict(line.split(None, 1) for line in world.run("show", world.later).splitlines())
    assert later["after"] == f"job {world.held}"
    assert later["pure"] == "a late unit may be started a second time, beside the first (never yet)"
    assert "pure" not in done


# -- waiting, fetching, ending -------------------------------------------------------------------


def test_wait_says_how_it_ended(world: World) -> None:
    waits = [world.start("wait", job) for job in (world.done, world.failed, world.aborted)]
    late = world.start("wait", world.held, "--timeout", 0.1)
    told = world.start("wait", world.failed, "--json")
    reasons = world.start("why", world.done, world.held, "--json")
    assert told.wait() == 1
    assert json.loads(told.text) == world.service.status(world.failed).as_map() | {
        "tags": TAGS,
        "after": [],
        "argv": [],
        "hosts": [],
    }
    assert reasons.wait() == 0
    done, held = json.loads(reasons.text)
    assert done == {"job": world.done, "state": "complete", "reason": "", "remark": ""}
    assert re.fullmatch(HELD, held.pop("reason"))
    assert held == {"job": world.held, "state": "waiting", "remark": ""}
    assert [w.wait() for w in [*waits, late]] == [0, 1, 1, 5]
    done, failed, aborted = (w.text for w in waits)
    assert done == f"job {world.done} is complete\n"
    assert failed.startswith(f"park: job {world.failed} failed: unit 1: ZeroDivisionError: division by zero")
    assert f"park fetch {world.failed}: traceback" in failed
    assert aborted == f"park: job {world.aborted} was aborted by its owner\n"
    assert re.fullmatch(f"park: job {world.held} is waiting after 0.1 s: {HELD}\n", late.text)


def doubtful(x: float) -> float:
    """A unit that does not trust its result."""
    park.environment().remark(f"{x} is \n\x1b[31mdoubtful")
    return x


def test_what_a_body_says_of_its_result_is_shown_wherever_the_job_is(world: World) -> None:
    job = world.service.job(world.service.start(doubtful, [7], name="trial"))
    assert job.wait(50) == [7]
    shown = [
        world.start(*c, job.id) for c in (("wait",), ("show",), ("fetch",), ("why",), ("fetch", "--json"))
    ]
    listed = [world.start("jobs", "-a", *c) for c in ((), ("-o", "job,remark"), ("--json",))]
    assert [p.wait() for p in (*shown, *listed)] == [0] * 8
    waited, told, fetched, why, plain = (p.text for p in shown)
    said = r"7 is \x1b[31mdoubtful"
    assert waited == f"job {job.id} is complete\npark: job {job.id}: {said}\n"
    assert f"remark      {said}\n" in told
    assert set(fetched.splitlines()) == {f"park: job {job.id}: {said}", "[7]"}
    assert why == f"job {job.id} is complete: {said}\n"
    assert json.loads("\n".join(line for line in plain.splitlines() if "park:" not in line)) == [7]
    assert [p.text.count(said) for p in listed[:2]] == [1, 1]
    records = {r["job"]: r for r in json.loads(listed[2].text)}
    assert records[job.id]["remark"] == job.remark == "7 is \x1b[31mdoubtful"
    assert repr(job).endswith(r" 1 of 1: 7 is \x1b[31mdoubtful>")
    assert records[world.done]["remark"] == ""


def test_fetch_prints_plain_numbers(world: World) -> None:
    def found() -> dict[str, object]:
        return {"chisq": np.float64(1.5), "at": [(np.int64(3), {"b": np.float32(0.5)})]}

    job = world.service.start(found)
    world.service.wait(job, timeout=60)
    assert world.run("fetch", str(job)) == "{'chisq': 1.5, 'at': [(3, {'b': 0.5})]}\n"


def test_fetch_prints_or_writes_the_result(world: World, tmp_path: Path) -> None:
    file = tmp_path / "result.pickle"
    fetches = [
        world.start("fetch", world.done),
        world.start("fetch", world.done, "-o", file),
        world.start("fetch", world.failed),
        world.start("fetch", world.held),
        world.start("fetch", world.done, "-o", tmp_path / "none" / "result"),
        world.start("fetch", world.done, "--json"),
        world.start("fetch", world.done, "--json", "-o", tmp_path / "result.json"),
    ]
    assert [f.wait() for f in fetches] == [0, 0, 1, 5, 2, 0, 0]
    want = [x * x for x in range(10)]
    assert fetches[0].text == f"{want}\n"
    assert fetches[1].text == ""
    assert pickle.loads(file.read_bytes()) == want
    assert "<UnitError 1: ZeroDivisionError" in fetches[2].text.splitlines()[0], "the others are there"
    assert f"park: job {world.failed} failed: unit 1: ZeroDivisionError" in fetches[2].text
    assert "\n\nRemote traceback:\nTraceback (most recent call last):\n" in fetches[2].text
    assert "(park fetch" not in fetches[2].text
    assert (
        fetches[3].text
        == f"park: job {world.held} has not ended: wait for it with `park wait {world.held}`\n"
    )
    assert fetches[4].text == f"park: cannot write {tmp_path}/none/result: No such file or directory\n"
    assert json.loads(fetches[5].text) == want == json.loads((tmp_path / "result.json").read_text())
    assert "leave out -o and --json" in world.run("fetch", world.done, "--save", tmp_path, "--json", code=2)


def test_stop_keeps_the_best_so_far(world: World) -> None:
    job = world.service.start(endless)
    until(lambda: world.service.status(job).state == "running")
    assert world.run("stop", job) == f"job {job} was asked to stop\n"
    assert world.service.wait(job, timeout=60) == "best so far"
    assert world.run("fetch", job) == "best so far\n"


def test_abort_ends_it_now(world: World) -> None:
    job = world.service.start(time.sleep, [60])
    until(lambda: world.service.status(job).state == "running")
    waiting = world.start("wait", job)
    assert world.run("abort", job) == f"job {job} is being aborted\n"
    assert waiting.wait() == 1
    assert waiting.text == f"park: job {job} was aborted by its owner\n"


def test_ctrl_c_in_wait_leaves_the_jobs_alone(world: World) -> None:
    waiting = world.fabric.script(
        """
        import sys
        from park.core.server import ServerProxy
        from park.cli.park import main
        ends = ServerProxy.ends
        def told(*arguments):
            print("waiting", flush=True)
            return ends(*arguments)
        ServerProxy.ends = told
        main(["wait", *sys.argv[1:]])
        """,
        str(world.done),
        str(world.held),
        str(world.later),
    )
    until(lambda: f"job {world.done} is complete" in waiting.text, why=lambda: waiting.text)
    waiting.signal(signal.SIGINT)
    assert waiting.wait() == 130, waiting.text
    assert f"park: 2 jobs go on; `park wait {world.held},{world.later}` waits again" in waiting.text
    assert "Traceback" not in waiting.text
    assert world.service.status(world.held).state == "waiting"


def test_several_jobs_are_waited_for_with_a_bar_each(world: World) -> None:
    first, second = (world.service.start(square, [1], name=name, when=1000) for name in ("[b]one[/b]", "二"))
    with Terminal() as terminal:
        env = {"PARK_BROKER": world.fabric.address, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"}
        command = ("-m", "park.cli.park", "wait", str(first), str(second))
        waiting = world.fabric.start(*command, env=env, stderr=terminal.slave)
        try:
            shown = lambda: terminal.text.count("waits for its time") > 1  # noqa: E731
            until(shown, why=lambda: terminal.text)
            assert "[b]one[/b]" in terminal.text
            assert "二" in terminal.text
            assert "0/1" in terminal.text
            world.service.abort(second)
            until(lambda: f"job {second} was aborted by its owner" in terminal.text)
            assert waiting.running
            world.service.abort(first)
            until(lambda: terminal.text and not waiting.running)
            assert waiting.wait() == 1
        finally:
            waiting.kill()


# -- steering ------------------------------------------------------------------------------------


def test_pause_and_resume(world: World) -> None:
    job = world.service.job(world.service.start(nap, range(150), name="long"))
    until(lambda: job.progress.done > 3)
    assert world.run("pause", job.id) == f"job {job.id} is paused (park resume {job.id} lets it go on)\n"
    until(lambda: job.record.running == 0)
    done = job.progress.done
    row = next(row for row in world.run("jobs").splitlines() if row.startswith(str(job.id)))
    assert row.split()[2:5] == ["long", "paused", f"{done}/150"]
    why = world.run("why", job.id)
    assert why == f"job {job.id} is paused: `park resume {job.id}`, in Python job.resume(), lets it go on\n"
    assert done == job.progress.done < 150
    assert world.run("resume", job.id) == f"job {job.id} goes on\n"
    assert job.wait(50) == list(range(150))


def test_set_changes_priority_and_tags(world: World) -> None:
    job = world.service.job(world.service.start(square, [1], when=1000, tags="old"))
    text = world.run("set", job.id, "-p", "high", "-t", "new", "-t", "batch=8")
    assert text == f"job {job.id} has priority high and the tags new, batch=8\n"
    assert (job.priority, job.tags) == (4, ("new", "batch=8"))
    assert world.run("set", job.id, "-p", "-2").endswith("has priority -2 and the tags new, batch=8\n")
    assert world.run("set", job.id, "-t", "").endswith("has priority -2 and no tags\n")
    assert "say what to set" in world.run("set", job.id, code=2)
    assert "priority 'huge' is neither" in world.run("set", job.id, "-p", "huge", code=2)
    assert "priority 7 is neither" in world.run("set", job.id, "-p", "7", code=2)
    assert "is not a printable text" in world.run("set", job.id, "-t", "a\nb", code=2)
    job.abort()


def test_another_priority_counts_at_once(world: World) -> None:
    first, second = (world.service.job(world.service.start(nap, range(300))) for _ in range(2))
    until(lambda: first.progress.done > 3 and second.progress.done > 3)
    world.run("set", second.id, "-p", "urgent")
    second.wait(50)
    assert first.progress.done < 290  # they were as far as each other before
    first.abort()


def test_why_a_job_waits(world: World) -> None:
    def why(job: int) -> str:
        return world.run("why", job).removeprefix(f"job {job} is ").rstrip()

    assert re.fullmatch(f"waiting: {HELD}", why(world.held))
    assert why(world.done) == "complete"
    assert why(world.failed).startswith("failed: unit 1: ZeroDivisionError")
    gpu = world.service.start(square, [1], labels=["gpu"])
    assert why(gpu) == "queued: no kernel has the label 'gpu'"
    running, behind = (world.service.job(world.service.start(time.sleep, [60])) for _ in range(2))
    until(lambda: running.state == "running")
    assert why(running.id) == "running: 1 of its units runs now, and none waits"
    assert why(behind.id).startswith("queued: all slots are busy with work that is due before: its share is ")
    for job in (gpu, running.id, behind.id):
        world.service.abort(job)


def test_whoever_waits_at_a_terminal_sees_why(world: World) -> None:
    job = world.service.start(square, [1], labels=["gpu"])
    with Terminal() as terminal:
        env = {"PARK_BROKER": world.fabric.address, "TERM": "xterm"}
        waiting = world.fabric.start("-m", "park.cli.park", "wait", str(job), env=env, stderr=terminal.slave)
        try:
            until(lambda: "no kernel has the label 'gpu'" in terminal.text, why=lambda: terminal.text)
            world.service.abort(job)
            until(lambda: terminal.text and not waiting.running)
        finally:
            waiting.kill()


# -- credits -------------------------------------------------------------------------------------


def test_an_account_is_shown_with_what_jobs_have_cost(world: World) -> None:
    head, own, *_ = world.run("credits").splitlines()
    assert head.split() == ["OWNER", "BALANCE", "CAP", "PER", "HOUR", "USE", "SHARE"]
    assert own.split()[0] == "tester"
    assert own.split()[2:4] == ["36,000", "1,500"]
    (account,) = json.loads(world.run("credits", "--json"))
    assert account["owner"] == "tester"
    assert 0 < account["balance"] <= account["cap"] == 36_000
    assert account["jobs"][str(world.done)] > 0  # its priority was high
    assert str(world.failed) not in account["jobs"]  # it was free
    run = world.service.mapper(nap, priority="low", name="paid")
    run(range(5))
    run.close()
    (session,) = world.service.jobs("paid")
    until(lambda: session.state.ended)
    assert 0.04 < world.service.credits()[0].jobs[session.id] < 1  # one credit a slot-second, ended or not
    lines = [line.split() for line in world.run("credits", "tester").splitlines()]
    assert ["JOB", "COST", "STATE", "NAME"] in lines
    assert [str(world.done), "complete", "squares"] in [[*line[:1], *line[2:]] for line in lines]
    owners = [line.split()[0] for line in world.run("credits", "-a").splitlines()]
    assert owners == ["OWNER", "ada", "tester"]
    assert len(json.loads(world.run("credits", "-a", "--json"))) == 2
    (nobody,) = json.loads(world.run("credits", "nobody", "--json"))
    assert (nobody["balance"], nobody["jobs"]) == (36_000, {})


def test_credits_are_granted(world: World) -> None:
    text = world.run("credits", "grant", "bob", "200")
    assert text == "bob was granted 200 credits and has 36,200.00 now\n"
    assert json.loads(world.run("credits", "grant", "bob", "50.5", "--json"))["balance"] == 36_250.5
    assert json.loads(world.run("credits", "bob", "--json"))[0]["balance"] == 36_250.5
    for amount in ("-5", "0", "nan", "inf", "1e13"):
        assert "is no number of credits above 0" in world.run("credits", "grant", "bob", amount, code=2)
    world.run("credits", "grant", "bob", "much", code=2)
    world.run("credits", "grant", "bob", code=2)
    assert json.loads(world.run("credits", "bob", "--json"))[0]["balance"] == 36_250.5


def test_who_is_broke_is_served_as_free_until_there_is_credit_again(tmp_path: Path) -> None:
    """An urgent slot-second costs 63 credits: with half a credit, 8 ms of one."""
    with Fabric(tmp_path, settings={"PARK_CREDITS_CAP": "0.5", "PARK_CREDITS_RATE": "0"}) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        assert service.credits()[0].balance == 0.5
        urgent = service.job(service.start(nap, range(200), priority="urgent"))
        rival = service.job(fabric.connect("ada").start(nap, range(200)))
        # when it goes broke
        until(lambda: service.credits()[0].balance <= 0)
        until(lambda: urgent.progress.done > 10)
        # then it is said, and its units cost no more: it shares as a free job does
        assert "as for a free one because tester has no credit left" in urgent.reason
        shown = fabric.park("credits")
        assert shown.wait() == 0, shown.text
        assert "tester has no credit: jobs with a priority are served as free" in shown.text
        assert "nothing refills it" in shown.text
        spent = urgent.record.credits
        seen = urgent.progress.done, rival.progress.done
        until(lambda: urgent.progress.done > seen[0] + 30)
        assert urgent.record.credits == spent < 63 * urgent.record.seconds / 2
        assert rival.progress.done > seen[1] + 10
        # when it is granted some, then it is urgent again, and pays
        granted = fabric.park("credits", "grant", "tester", "1000")
        assert granted.wait() == 0, granted.text
        done = rival.progress.done
        urgent.wait(50)
        assert urgent.record.credits > spent + 10
        assert rival.progress.done < done + 100
        (account,) = service.credits()
        assert 0 < account.balance < 1000
        assert account.jobs == {urgent.id: pytest.approx(urgent.record.credits)}
        assert account.balance == pytest.approx(1000.5 - urgent.record.credits)
        # and a broker that is started again on the home remembers it
        fabric.broker.kill()
        fabric.start_broker()
        assert fabric.connect().credits()[0].balance == pytest.approx(account.balance)


def test_a_broker_that_is_configured_wrong_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config" / "park" / "park.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[credits]\ncap = -1\n")
    log, home = tmp_path / "log", tmp_path / "home"
    command = [sys.executable, "-m", "park.cli.broker", "--home", str(home)]
    broker = Process(command, log, env={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    try:
        assert broker.wait() == 2, broker.text
    finally:
        broker.end()
    assert broker.text.startswith(f"park-broker: {file}: credits.cap = -1 is no number of credits")
    assert not home.exists()


# -- kernels for somebody, and with something ----------------------------------------------------


def test_a_kernel_announces_what_it_has(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        job = service.job(service.start(square, [3], labels=["gpu"], memory="100 MB"))
        assert job.reason == "no kernel is connected"
        plain = fabric.start_kernel()
        until(lambda: len(service.kernels()) == 1)
        assert job.reason == "no kernel has the label 'gpu'"
        with pytest.raises(park.WaitTimeout, match=r"is queued after 0.05 s: no kernel has the label 'gpu'"):
            job.wait(0.05)
        fabric.start_kernel("--label", "gpu", "--label", "a100")
        assert job.wait(50) == [9]
        kernels = {k.pid: k for k in service.kernels()}
        assert kernels.pop(plain.pid).labels == ()
        (kernel,) = kernels.values()
        assert kernel.labels == ("a100", "gpu")
        assert kernel.memory > 10**8
        versions = {"numpy": ">=1", "park-fit": f"=={park.__version__}"}
        assert service.wait(service.start(square, [2], requires=versions), 60) == [4]


def test_a_kernel_for_one_owner(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        mine, hers = fabric.connect(), fabric.connect("ada")
        # one that serves only who started it
        own = fabric.start_kernel("--only-own")
        until(lambda: len(mine.kernels()) == 1)
        assert "for tester's jobs only" in own.text
        assert mine.wait(mine.start(square, [3]), 20) == [9]
        job = hers.job(hers.start(nap, range(20)))
        assert job.reason == "no kernel runs ada's jobs: all that are connected run only others'"
        # one that serves her first, and then others
        own.end()
        until(lambda: not mine.kernels())
        long = mine.job(mine.start(nap, range(2000)))
        first = fabric.start_kernel("--owner", "ada")
        until(lambda: len(mine.kernels()) == 1)
        assert "for ada's jobs first" in first.text
        job.wait(50)
        until(lambda: long.progress.done > 10)
        done = long.progress.done
        second = hers.job(hers.start(nap, range(100)))
        second.wait(50)
        assert long.progress.done < done + 50
        long.abort()
        assert [(k.owner, k.only) for k in mine.kernels()] == [("ada", False)]


# -- errors --------------------------------------------------------------------------------------


def test_unknown_jobs(world: World) -> None:
    names = ("show", "why", "wait", "pause", "resume", "stop", "abort", "fetch")
    commands = [*(world.start(name, 999) for name in names), world.start("set", 999, "-p", "low")]
    assert [c.wait() for c in commands] == [3] * 9
    assert {c.text for c in commands} == {"park: job 999 is unknown\n"}


def test_a_range_leaves_out_what_is_no_job(world: World) -> None:
    gone = world.service.start(square, [1])
    last = world.service.start(square, [2])
    for job in (gone, last):
        world.service.wait(job, 60)
    world.service.delete(gone)
    some, none = f"{gone}-{last}", f"{gone}-{gone}"
    commands = [world.start(name, which) for which in (some, none, gone) for name in ("show", "why", "wait")]
    assert [c.wait() for c in commands] == [0] * 3 + [3] * 6
    assert f"job         {last}\n" in commands[0].text
    assert [c.text for c in commands[1:3]] == [f"job {last} is complete\n"] * 2
    assert all(c.text.startswith(f"park: job {gone} is unknown") for c in commands[3:])


def test_an_output_that_takes_nothing_is_said(world: World) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    env = {"PARK_BROKER": world.fabric.address}
    with open("/dev/full", "w") as full:
        process = world.fabric.start("-m", "park.cli.park", "jobs", "-a", env=env, stdout=full)
        assert process.wait() == 1
    assert process.text == "park: what there is to say cannot be written: No space left on device\n"
    closed = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    process = world.fabric.start("-c", closed, "-m", "park.cli.park", "jobs", "-a", env=env)
    assert (process.wait(), process.text) == (0, "")


def test_ended_jobs_cannot_be_ended(world: World) -> None:
    for command in (["stop"], ["abort"], ["pause"], ["resume"], ["set", "-t", "late"]):
        text = world.run(*command, world.done, code=3)
        assert text == f"park: job {world.done} has ended: it is complete\n"
    said = json.loads(world.run("stop", world.done, "--json", code=3))
    assert said == {"job": world.done, "error": "UnknownJob", "text": text.removeprefix("park: ").rstrip()}
    none = world.held + 1000
    text = world.run("delete", f"{none}-{none + 9}", code=3)
    assert text == f"park: this can be done for none of these 10 jobs; the first: job {none} is unknown\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["wait"],
        ["wait", "x"],
        ["stop", "1-"],
        ["wait", "1", "--timeout", "-1"],
        ["nonsense"],
        ["jobs", "--what"],
    ],
)
def test_wrong_usage(world: World, arguments: list[str]) -> None:
    text = world.run(*arguments, code=2)
    assert text.startswith("Usage: ")
    assert "Error: " in text


def test_no_broker(tmp_path: Path) -> None:
    def none(*arguments: str, **env: str) -> Process:
        log = tmp_path / f"log{len(list(tmp_path.iterdir()))}"
        return Process([sys.executable, "-m", "park.cli.park", *arguments], log, env=env)

    missing, dead = str(tmp_path / "missing.json"), f"ipc://{tmp_path}/dead"
    commands = [
        none("jobs", "--broker", missing),
        none("jobs", PARK_BROKER=missing),
        none("jobs", PARK_HOME=str(tmp_path / "home")),
        none("show", "1", "--broker", dead),
    ]
    try:
        assert [c.wait(50) for c in commands] == [4] * 4
    finally:
        for command in commands:
            command.end()
    for command, name in zip(
        commands, (missing, missing, f"{tmp_path}/home/connection.json", dead), strict=True
    ):
        assert command.text.startswith("park: no broker")
        assert name in command.text
        assert "`park-broker`" in command.text
        assert len(command.text.splitlines()) == 1


def test_the_option_goes_before_the_environment(world: World) -> None:
    env = {"PARK_BROKER": "/nowhere/at/all.json"}
    found = world.fabric.start(
        "-m", "park.cli.park", "show", str(world.done), "--broker", str(world.fabric.home), env=env
    )
    assert found.wait() == 0, found.text
    assert "squares" in found.text


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--slots", "0"], 2, "park-kernel: --slots=0 is not a whole number from 1 to 4096"),
        (["--slots", "many"], 2, "park-kernel: --slots='many' is not a whole number"),
        (["--label", ""], 2, "park-kernel: label '' is not a printable text"),
        (["--owner", "a\nb"], 2, "park-kernel: owner 'a\\nb' is not a printable text"),
        (["--broker", "/nowhere/connection.json"], 4, "park-kernel: no broker: /nowhere/connection.json"),
        (["--broker", "tcp://:1"], 4, "park-kernel: 'tcp://:1' is no address of a broker"),
    ],
)
def test_a_kernel_that_cannot_start_says_why(world: World, options: list[str], code: int, words: str) -> None:
    kernel = world.fabric.start("-m", "park.cli.kernel", *options)
    assert kernel.wait() == code, kernel.text
    assert kernel.text.startswith(words)
    assert len(kernel.text.splitlines()) == 1


def test_a_broker_that_cannot_have_its_home_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log = tmp_path / "log"
    broker = Process([sys.executable, "-m", "park.cli.broker", "--home", str(tmp_path / "file")], log)
    try:
        assert broker.wait() == 1, broker.text
    finally:
        broker.end()
    assert broker.text.startswith("park-broker: ")
    assert str(tmp_path / "file") in broker.text
    assert len(broker.text.splitlines()) == 1


def test_a_kernel_says_when_it_finds_its_broker(world: World) -> None:
    kernel = world.fabric.start_kernel(slots=2)
    until(lambda: "park-kernel: connected" in kernel.text)
    assert kernel.text.startswith("park-kernel: 2 slots for the broker at ")
    kernel.end()


def test_only_the_owner_and_the_broker_s_user_steer_a_job(tmp_path: Path) -> None:
    with Fabric(tmp_path, keys=True) as fabric:
        job = fabric.connect("tester").start(square, [1], when=1000)
        other = fabric.new_key("ada")
        config = tmp_path / "ada" / "park" / "keys" / other.parent.name
        config.mkdir(parents=True)
        other.rename(config / other.name)
        env = {"PARK_BROKER": fabric.url, "XDG_CONFIG_HOME": str(tmp_path / "ada")}
        commands = [["pause"], ["resume"], ["set", "-p", "urgent"]]
        tried = [fabric.start("-m", "park.cli.park", *c, str(job), env=env) for c in commands]
        tried.append(fabric.start("-m", "park.cli.park", "credits", "grant", "ada", "5", env=env))
        assert [t.wait() for t in tried] == [6] * 4, [t.text for t in tried]
        assert tried[0].text.startswith(f"park: job {job} is tester's: only tester and the broker's own user")
        assert tried[3].text.startswith("park: only the broker's own user grants credits")
        # everybody may see why a job waits, and all accounts
        assert fabric.start("-m", "park.cli.park", "why", str(job), env=env).wait() == 0
        shown = fabric.start("-m", "park.cli.park", "credits", env=env)
        assert shown.wait() == 0
        assert shown.text.splitlines()[1].startswith("ada ")


@pytest.mark.parametrize("module", ["park", "park credits", "broker", "kernel"])
def test_help_fits_a_terminal(world: World, module: str) -> None:
    module, *command = module.split()
    shown = world.fabric.start("-m", f"park.cli.{module}", *command, "--help")
    version = world.fabric.start("-m", f"park.cli.{module}", "--version")
    assert shown.wait() == version.wait() == 0
    assert shown.text.startswith("Usage: ")
    assert max(map(len, shown.text.splitlines())) <= 80
    assert "..." not in shown.text.replace("[ARGS]...", "")  # no sentence is cut
    assert park.__version__ in version.text


# -- what fetch gives -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda s: s.start(lambda: 5), lambda s: s.start(square, [])])
def test_a_job_without_inputs_is_fetched_with_its_request(
    world: World, make: Callable[[ServerProxy], int]
) -> None:
    job = make(world.service)
    result = world.service.wait(job, timeout=60)
    copy = world.service.fetch(job)
    assert copy.result == result
    again = world.service.submit(copy.request)
    assert world.service.wait(again, timeout=60) == result


def test_a_session_s_request_is_not_kept(world: World) -> None:
    run = world.service.mapper(square, name="session")
    assert run([2]) == [4]
    (session,) = world.service.jobs("session")
    with pytest.raises(park.InvalidRequest, match="is a session"):
        world.service.fetch(session)
    run.close()


def test_some_fields_of_many_jobs(world: World) -> None:
    every = Query("*")
    records = world.service.records(every)
    fields = ["job", "state", "reason", "tags"]
    shown = [[r.job, r.state.value, r.reason, list(r.tags)] for r in records]
    assert world.service.rows(every, fields) == shown
    with pytest.raises(park.InvalidRequest, match=r"have no field 'what': they have job, owner"):
        world.service.rows(every, ["job", "what"])

"""``park`` as people type it, against a broker and a kernel in processes of their own."""

from __future__ import annotations

import json
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cloudpickle
import pytest
from fabric import Fabric, Process, until

import park
from park.core.server import ServerProxy

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
        self.later = service.start(square, [1], name="later", after=self.held)
        self.hers = fabric.connect("ada\x1b[31m").start(square, [5], name="hers")
        service.abort(self.aborted)
        for job in (self.done, self.failed, self.hers):
            with suppress(park.JobFailed):
                service.wait(job, timeout=20)

    def start(self, *arguments: object) -> Process:
        return self.fabric.park(*map(str, arguments))

    def run(self, *arguments: object, code: int = 0) -> str:
        """What the command says."""
        process = self.start(*arguments)
        assert process.wait() == code, process.text
        return process.text


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Fabric(tmp_path_factory.mktemp("world")) as fabric:
        fabric.start_kernels(1)
        yield World(fabric, fabric.connect())


# -- looking -------------------------------------------------------------------------------------


def test_jobs_lists_mine_that_have_not_ended(world: World) -> None:
    head, *rows = world.run("jobs").splitlines()
    assert head.split() == ["JOB", "OWNER", "NAME", "STATE", "DONE", "SUBMITTED", "REASON"]
    mine = {int(row.split()[0]): row for row in rows}
    assert {world.held, world.later} <= mine.keys()
    assert not {world.done, world.failed, world.aborted, world.hers} & mine.keys()
    assert "tester" in mine[world.held]
    assert mine[world.held].endswith("waits for its time")
    assert f"waits for job {world.held}, which is waiting" in mine[world.later]
    assert len({row.index("waiting") for row in mine.values() if "waiting  " in row}) == 1


def test_jobs_a_lists_all(world: World) -> None:
    text = world.run("jobs", "-a")
    rows = {int(row.split()[0]): row for row in text.splitlines()[1:]}
    assert "complete" in rows[world.done]
    assert "10/10" in rows[world.done]
    assert "unit 1: ZeroDivisionError: division by zero (2 of 4 units failed)" in rows[world.failed]
    assert "aborted by its owner" in rows[world.aborted]
    assert "ada?[31m" in rows[world.hers]  # it steers no terminal
    assert "hers" in rows[world.hers]


def test_jobs_as_json(world: World) -> None:
    records = {r["job"]: r for r in json.loads(world.run("jobs", "-a", "--json"))}
    assert records[world.done]["state"] == "complete"
    assert records[world.done]["tags"] == ["demo", "batch=7"]
    assert records[world.failed]["failed"] == 2
    shown = json.loads(world.run("show", world.done, "--json"))
    assert [r["job"] for r in shown] == [world.done]
    assert shown[0] == records[world.done]


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
    assert "tags" not in lines
    done = dict(line.split(None, 1) for line in world.run("show", world.done).splitlines())
    assert (done["tags"], done["priority"]) == ("demo, batch=7", "high")
    later = dict(line.split(None, 1) for line in world.run("show", world.later).splitlines())
    assert later["after"] == f"job {world.held}"


# -- waiting, fetching, ending -------------------------------------------------------------------


def test_wait_says_how_it_ended(world: World) -> None:
    waits = [world.start("wait", job) for job in (world.done, world.failed, world.aborted)]
    late = world.start("wait", world.held, "--timeout", 0.1)
    assert [w.wait() for w in [*waits, late]] == [0, 1, 1, 5]
    done, failed, aborted = (w.text for w in waits)
    assert done == f"job {world.done} is complete\n"
    assert failed.startswith(f"park: job {world.failed} failed: unit 1: ZeroDivisionError: division by zero")
    assert f"park fetch {world.failed}: traceback" in failed
    assert aborted == f"park: job {world.aborted} was aborted: aborted by its owner\n"
    assert late.text == f"park: job {world.held} is waiting after 0.1 s: waits for its time\n"


def test_fetch_prints_or_writes_the_result(world: World, tmp_path: Path) -> None:
    file = tmp_path / "result.pickle"
    fetches = [
        world.start("fetch", world.done),
        world.start("fetch", world.done, "-o", file),
        world.start("fetch", world.failed),
        world.start("fetch", world.held),
        world.start("fetch", world.done, "-o", tmp_path / "none" / "result"),
    ]
    assert [f.wait() for f in fetches] == [0, 0, 1, 5, 2]
    want = [x * x for x in range(10)]
    assert fetches[0].text == f"{want}\n"
    assert fetches[1].text == ""
    assert pickle.loads(file.read_bytes()) == want
    assert "ZeroDivisionError" in fetches[2].text
    assert (
        fetches[3].text
        == f"park: job {world.held} has not ended: wait for it with `park wait {world.held}`\n"
    )
    assert fetches[4].text == f"park: cannot write {tmp_path}/none/result: No such file or directory\n"


def test_stop_keeps_the_best_so_far(world: World) -> None:
    job = world.service.start(endless)
    until(lambda: world.service.status(job).state == "running")
    assert world.run("stop", job) == f"job {job} was asked to stop\n"
    assert world.service.wait(job, timeout=20) == "best so far"
    assert world.run("fetch", job) == "best so far\n"


def test_abort_ends_it_now(world: World) -> None:
    job = world.service.start(time.sleep, [60])
    until(lambda: world.service.status(job).state == "running")
    waiting = world.start("wait", job)
    assert world.run("abort", job) == f"job {job} is being aborted\n"
    assert waiting.wait() == 1
    assert waiting.text == f"park: job {job} was aborted: aborted by its owner\n"


def test_ctrl_c_in_wait_leaves_the_job_alone(world: World) -> None:
    waiting = world.fabric.script(
        """
        import sys
        from park.core.server import ServerProxy
        from park.cli.park import main
        attend = ServerProxy._attend
        def told(*arguments):
            print("waiting", flush=True)
            return attend(*arguments)
        ServerProxy._attend = told
        main(["wait", sys.argv[1]])
        """,
        str(world.held),
    )
    until(lambda: "waiting" in waiting.text, why=lambda: waiting.text)
    waiting.signal(signal.SIGINT)
    assert waiting.wait() == 130, waiting.text
    assert f"park: job {world.held} goes on; wait for it again with" in waiting.text
    assert "Traceback" not in waiting.text
    assert world.service.status(world.held).state == "waiting"


# -- errors --------------------------------------------------------------------------------------


def test_unknown_jobs(world: World) -> None:
    commands = [world.start(name, 999) for name in ("show", "wait", "stop", "abort", "fetch")]
    assert [c.wait() for c in commands] == [3] * 5
    assert {c.text for c in commands} == {"park: job 999 is unknown\n"}


def test_ended_jobs_cannot_be_ended(world: World) -> None:
    for command in ("stop", "abort"):
        text = world.run(command, world.done, code=3)
        assert text == f"park: job {world.done} has ended: it is complete\n"


@pytest.mark.parametrize(
    "arguments", [["wait"], ["wait", "x"], ["wait", "1", "--timeout", "-1"], ["nonsense"], ["jobs", "--what"]]
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
        assert [c.wait(10) for c in commands] == [4] * 4
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


@pytest.mark.parametrize("module", ["park", "broker", "kernel"])
def test_help_fits_a_terminal(world: World, module: str) -> None:
    shown = world.fabric.start("-m", f"park.cli.{module}", "--help")
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
    result = world.service.wait(job, timeout=20)
    copy = world.service.fetch(job)
    assert copy.result == result
    again = world.service.submit(copy.request)
    assert world.service.wait(again, timeout=20) == result


def test_a_session_s_request_is_not_kept(world: World) -> None:
    run = world.service.mapper(square, name="session")
    assert run([2]) == [4]
    (session,) = world.service.jobs("session")
    with pytest.raises(park.InvalidRequest, match="is a session"):
        world.service.fetch(session)
    run.close()

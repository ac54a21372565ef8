"""Allocations for one private job: what is asked for, how the keeper decides, and the whole with real processes."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cloudpickle
import pytest

import park
from park.batch.ask import ask_of
from park.batch.keeper import KERNELS_LEAVE_SECONDS, KeeperStep, next_step
from park.batch.left_over import ALLOCATION, LOCK, remember, take_up
from park.batch.left_over import ORDER as ORDER_FILE
from park.batch.private import KeeperOrder, allocate, check_owner, foreseen, unreachable
from park.batch.profiles import Ask, profile
from park.batch.systems import Allocation, cancel, look
from park.cli.carry import Carrier
from park.cli.kernel_nodes import kernel_arguments
from park.cli.kernel_private import hold
from park.core.server import ServerProxy
from park.errors import BatchError, InvalidRequest, NoBroker
from park.model import JobState
from park.net.addresses import ADDRESS_NAMES, tcp_addresses
from park.net.keys import KERNEL, POOL, Keyring, key_folder
from park.util.file_lock import locked
from tests.support.fabric import Fabric, Process, alive, until
from tests.support.steps_script import steps_script

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

LOCAL = profile("local", {})


# -- the ask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("nodes=2:ppn=8,walltime=4:00:00", Ask("", 2, 8, 14_400)),
        ("ppn=4, walltime=90m ,queue=long,account=beam", Ask("", 1, 4, 5400, "long", "beam")),
        ("walltime=1:00:00:00", Ask("", 1, 1, 86_400)),
    ],
)
def test_the_words_of_an_ask(text: str, ask: Ask) -> None:
    assert ask_of(text) == ask


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes=0", "nodes=0 is no whole number from 1 on"),
        ("nodes=2:ppm=8", "nodes=2:ppm=8 is no whole number"),
        ("wall=3", r"'wall=3' is no part of an allocation.*\(did you mean walltime=\?\)"),
        ("nodes", "'nodes' is no part of an allocation: write it like nodes=2:ppn=8,walltime=4:00:00"),
        ("walltime=soon", "walltime='soon' is no length of time"),
        ("walltime=30s", "leaves no time for work: a kernel needs up to 16 s to leave"),
    ],
)
def test_what_no_allocation_can_be(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        ask_of(text)


def test_the_script_and_the_command_for_people() -> None:
    text = foreseen("torque", ask_of("nodes=2:ppn=8,walltime=4:00:00"), "tcp://head:7275")
    assert "#PBS -l nodes=2:ppn=8\n" in text
    assert "-m park.cli.kernel --nodes --broker tcp://head:7275 --job JOB --away-timeout 600\n" in text
    assert text.endswith("qsub -N park-JOB -o park-JOB.out -e park-JOB.err park-JOB.sh\n")


def test_nodes_need_an_address_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "clients").touch()
    file = tmp_path / "connection.json"
    local = {name: f"ipc://{tmp_path / name}" for name in ADDRESS_NAMES}
    found = {"version": 1, "host": platform.node(), **local}
    file.write_text(json.dumps(found))
    assert "kernels on other nodes do not reach it" in unreachable("slurm", str(file))
    assert unreachable("local", str(file)) == ""
    tcp = dict(zip(ADDRESS_NAMES, tcp_addresses("tcp://head:7275"), strict=True))
    file.write_text(json.dumps(found | {"tcp": tcp}))
    with pytest.raises(NoBroker, match=r"there is no key for the broker at tcp://head:7275.*NAME --kernel"):
        unreachable("slurm", str(file))
    folder = key_folder(tcp["clients"])
    folder.mkdir(mode=0o700, parents=True)
    for role in (KERNEL, POOL):
        Keyring(tmp_path / "home").new("ada", role, folder / "ada.key")
        assert unreachable("slurm", str(file)) == ""
        check_owner("slurm", str(file), "ada")
        if role == KERNEL:
            with pytest.raises(BatchError, match=r"is ada's kernel key, .*`park keys new bob --kernel`"):
                check_owner("slurm", str(file), "bob")
            (folder / "ada.key").unlink()
        else:
            check_owner("slurm", str(file), "bob")


# -- the keeper's decisions ----------------------------------------------------------------------------

ORDER = KeeperOrder("tcp://head:7275", 3, "torque", Ask("", 2, 8), "4711.head")
QUEUED = Allocation("4711.head", "park-3", "queued", "Not enough nodes", 12)
RUNNING = Allocation("4711.head", "park-3", "running")
GONE = Allocation("4711.head", "park-3", "ended")
NEW = KeeperOrder("tcp://head:7275", 3, "torque", Ask("", 2, 8))
AGAIN = KeeperOrder("tcp://head:7275", 3, "torque", Ask("", 2, 8), "4711.head", more=2)
ENDED = "4711.head has ended before the job"


@pytest.mark.parametrize(
    ("order", "state", "seen", "over", "step"),
    [
        (
            ORDER,
            JobState.QUEUED,
            QUEUED,
            0,
            KeeperStep("wait", "4711.head is queued, place 12: Not enough nodes"),
        ),
        (
            ORDER,
            JobState.RUNNING,
            RUNNING,
            0,
            KeeperStep("wait", "4711.head runs; its kernels have not come yet"),
        ),
        (
            ORDER,
            JobState.PAUSED,
            RUNNING,
            0,
            KeeperStep("wait", "4711.head runs; its kernels have not come yet"),
        ),
        (ORDER, JobState.COMPLETE, RUNNING, 1, KeeperStep("wait")),
        (ORDER, JobState.COMPLETE, RUNNING, KERNELS_LEAVE_SECONDS, KeeperStep("cancel")),
        (ORDER, JobState.ABORTED, QUEUED, 0, KeeperStep("cancel")),
        (ORDER, None, QUEUED, 0, KeeperStep("cancel")),
        (ORDER, JobState.FAILED, GONE, 0, KeeperStep("leave")),
        (ORDER, JobState.FAILED, None, 0, KeeperStep("leave")),
        (NEW, JobState.WAITING, None, 0, KeeperStep("wait")),
        (NEW, JobState.QUEUED, None, 0, KeeperStep("submit")),
        (NEW, JobState.ABORTED, None, 0, KeeperStep("leave")),
        (AGAIN, JobState.RUNNING, GONE, 0, KeeperStep("submit", ENDED)),
        (
            ORDER,
            JobState.RUNNING,
            GONE,
            0,
            KeeperStep("leave", f"{ENDED}, with the words: no key; `park alloc give 3` asks for another"),
        ),
    ],
)
def test_the_keeper_s_next_step(
    order: KeeperOrder, state: JobState | None, seen: Allocation | None, over: float, step: KeeperStep
) -> None:
    assert next_step(order, state, seen, 60.0, over, "no key") == step


def test_an_allocation_that_is_not_listed_yet_is_waited_for() -> None:
    assert next_step(ORDER, JobState.QUEUED, None, 1.0, 0.0) == KeeperStep("wait")
    assert next_step(ORDER, JobState.QUEUED, None, 60.0, 0.0).do == "leave"


def test_an_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    order = KeeperOrder("tcp://h:1", 3, "slurm", Ask("", 2, 8, lines=("#SBATCH --mem=1G",)), "7", 2)
    order.write(tmp_path)
    assert KeeperOrder.read(tmp_path) == order


@pytest.mark.parametrize("text", ["", "[]", "null", '{"x": 1}', '{"host": 3}', "\xff"])
def test_a_damaged_file_of_an_allocation_stops_no_command(tmp_path: Path, text: str) -> None:
    files = [tmp_path / "job-3-x" / ORDER_FILE, tmp_path / "script-x" / ALLOCATION]
    for file in files:
        file.parent.mkdir()
        file.write_text(text, "latin-1")
    take_up(tmp_path)
    assert sorted(tmp_path.glob("*/*")) == files, "no process was started"


# -- with real processes -------------------------------------------------------------------------------


@pytest.fixture
def fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fabric]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("PARK_HOME", raising=False)
    with Fabric(tmp_path) as fabric:
        yield fabric


def job_folders(folder: Path) -> list[Path]:
    return list((folder / "state" / "park" / "allocations").glob("job-*"))


def over(fabric: Fabric) -> None:
    """Wait until the keepers have gone."""
    until(lambda: not job_folders(fabric.folder), 60)


def sleepy(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def submitted(fabric: Fabric, service: ServerProxy, seconds: float) -> tuple[int, str]:
    """A private job, and the allocation that it gets."""
    job = service.start(sleepy, [seconds], private=True)
    return job, allocate(service, job, "local", ask_of("ppn=1,walltime=10m"), fabric.address)


def test_an_allocation_serves_one_job_and_ends_with_it(fabric: Fabric) -> None:
    service = fabric.connect()
    fabric.start_kernel()
    other = service.start(abs, [-1])
    assert service.wait(other, 60) == [1]
    job, number = submitted(fabric, service, 0.1)
    assert service.wait(job, 30) == [0.1]
    until(lambda: number not in look(LOCAL))
    over(fabric)
    assert [kernel.job for kernel in service.kernels()] == [0], "its own kernels have left"


def test_a_batch_system_that_cannot_be_asked_leaves_the_job_waiting_and_says_why(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = fabric.connect()
    job = service.start(abs, [-1], private=True)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BatchError, match="the command qsub of torque is not on the path"):
            allocate(service, job, "torque", ask_of("ppn=1"), fabric.address)
    said = service.fetch(job).record.reason
    assert said.startswith("waiting: its allocation is not to be had (the command qsub of torque is not")
    assert said.endswith(f"`park alloc give {job}` asks again")
    shared = service.start(abs, [-1])
    with pytest.raises(InvalidRequest, match="is not private"):
        allocate(service, shared, "local", ask_of("ppn=1"), fabric.address)


@pytest.mark.heavy
def test_an_aborted_job_takes_its_allocation_along(fabric: Fabric) -> None:
    service = fabric.connect()
    job, number = submitted(fabric, service, 60.0)
    until(lambda: service.kernels(), 50)
    kernels = [kernel.pid for kernel in service.kernels()]
    service.abort(job)
    until(lambda: number not in look(LOCAL))
    assert not any(map(alive, kernels))
    over(fabric)


@pytest.mark.heavy
def test_kernels_leave_a_broker_that_is_away_for_long(fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(sleepy, [60.0], private=True)
    kernel = fabric.start_kernel("--job", str(job), "--away-timeout", "1s")
    until(lambda: service.kernels())
    fabric.broker.kill()
    assert kernel.wait(50) == 0
    assert "leaves, because no broker has answered for 1 s" in kernel.text


@pytest.mark.heavy
def test_an_allocation_that_ends_too_early_is_told_or_followed_by_another(fabric: Fabric) -> None:
    service = fabric.connect()
    job = service.start(sleepy, [3.0], private=True)
    first = allocate(service, job, "local", ask_of("ppn=1,walltime=10m"), fabric.address, more=1)
    until(lambda: service.kernels(), 50)
    cancel(LOCAL, first)
    until(lambda: service.status(job).allocation.startswith(f"{first} has ended") or look(LOCAL), 50)
    assert service.wait(job, 60) == [3.0]
    job, number = submitted(fabric, service, 60.0)
    until(lambda: job in [kernel.job for kernel in service.kernels()], 50)
    cancel(LOCAL, number)
    until(lambda: "`park alloc give" in service.status(job).allocation, 60)
    assert "have left" in service.status(job).allocation, "its last words"
    service.abort(job)
    over(fabric)
    (left,) = (fabric.folder / "state" / "park" / "allocations").glob("ended-job-*")
    assert (left / f"park-{job}.out").exists()


@pytest.mark.heavy
def test_an_allocation_is_asked_for_when_the_job_s_turn_comes(fabric: Fabric) -> None:
    service = fabric.connect()
    first = service.start(sleepy, [1.0])
    job = service.start(sleepy, [0.1], private=True, after=first)
    assert allocate(service, job, "local", ask_of("ppn=1,walltime=10m"), fabric.address) == ""
    assert service.status(job).allocation == "is asked for when the job's turn comes"
    fabric.start_kernel()
    assert service.wait(job, 60) == [0.1]
    over(fabric)


def keepers(fabric: Fabric) -> list[int]:
    """The processes that keep allocations of this fabric's user."""
    place = str(fabric.folder / "state").encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = file.read_bytes().split(b"\0")
            if b"park.batch.keeper" in words and any(word.startswith(place) for word in words):
                found.append(int(file.parent.name))
    return found


@pytest.mark.heavy
def test_the_next_command_revives_a_keeper_that_was_killed_with_its_broker(fabric: Fabric) -> None:
    service = fabric.connect()
    job, number = submitted(fabric, service, 60.0)
    lost, other = submitted(fabric, service, 60.0)
    until(lambda: len(service.kernels()) == 2, 60)
    for pid in [*keepers(fabric), fabric.broker.pid]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not keepers(fabric))
    cancel(LOCAL, other)
    fabric.start_broker()
    until(lambda: service.status(job).running, 60)
    settings = {"PARK_BROKER": fabric.address, "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    for _ in range(2):
        assert fabric.start("-m", "park.cli.park", "jobs", env=settings).wait() == 0
    until(lambda: len(keepers(fabric)) == 2)
    until(lambda: f"{other} has ended before the job" in service.status(lost).allocation, 60)
    service.abort(job)
    until(lambda: number not in look(LOCAL), 60)
    over(fabric)
    until(lambda: not keepers(fabric))
    service.abort(lost)


# -- fabrics without a broker elsewhere ----------------------------------------------------------------


def test_a_script_has_a_fabric_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("PARK_HOME", raising=False)
    with park.batch.local(ppn=2, walltime="10m") as service:
        assert park.default_service() is service
        assert list(service.map(abs, [-1, -2])) == [1, 2]
        (kernel,) = service.kernels()
        assert kernel.slots == 2
        number = kernel.batch.removeprefix("PBS ")
        assert look(LOCAL)[number].name == "park"
    until(lambda: number not in look(LOCAL))
    assert not alive(kernel.pid)
    assert not list((tmp_path / "park" / "allocations").iterdir())


SCRIPT = """
import time, park
fabric = park.batch.local(ppn=1, walltime="10m", broker="")
with fabric as service:
    print("allocation", fabric.id, flush=True)
    time.sleep(60)
"""


@pytest.mark.heavy
def test_jobs_of_a_script_stand_in_the_table_of_the_broker_that_it_names(fabric: Fabric) -> None:
    fabric.start_kernel()
    shared = fabric.connect()
    with park.batch.local(ppn=2, walltime="10m", broker=fabric.address) as service:
        assert park.default_service() is service
        (host,) = shared.jobs(owner="*")
        assert host.reason.startswith("waiting: its allocation ")
        assert service.wait(service.start(abs, [-1, -2])) == [1, 2]
        job, session = service.start(sleepy, [60.0]), service.mapper(abs)
        assert session([-3]) == [3]
        (kernel,) = service.kernels()
        assert (kernel.job, kernel.slots, service.slots) == (host.id, 2, 2)
        assert host.id not in [each.id for each in service.jobs()]
        fabric.broker.kill()
        fabric.start_broker()
        assert service.wait(service.start(abs, [-4])) == [4]
        assert session([-5]) == [5]
    assert shared.status(host.id).state is JobState.COMPLETE
    until(lambda: shared.status(job).state is JobState.ABORTED)
    assert shared.status(job).reason == f"job {host.id}, whose allocation it shares, has ended"
    until(lambda: not alive(kernel.pid))
    over(fabric)
    with pytest.raises(ValueError, match=r"^the script$"), park.batch.local(broker=fabric.address):
        raise ValueError("the script")
    assert shared.jobs(owner="*")[-1].state is JobState.ABORTED
    over(fabric)


SHARING_SCRIPT = """
import time, park
with park.batch.local(ppn=1, walltime="10m") as service:
    print("job", service.start(time.sleep, [60.0]), flush=True)
    time.sleep(60)
"""


@pytest.mark.heavy
def test_a_script_that_was_killed_takes_its_allocation_along(fabric: Fabric) -> None:
    settings = {"PARK_BROKER": fabric.address, "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    script = fabric.start("-c", SHARING_SCRIPT, env=settings)
    service = fabric.connect()
    until(lambda: "job 2" in script.text and service.status(2).running, 60, lambda: script.text)
    script.kill()
    until(lambda: service.status(2).state is JobState.ABORTED, 60)
    assert service.status(1).reason == "its client was lost before all inputs had come"
    over(fabric)


@pytest.mark.heavy
def test_a_broker_that_nodes_do_not_reach_is_told(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARK_BROKER", fabric.address)
    monkeypatch.setenv("PATH", str(fabric.folder))
    for broker, words in (
        (None, "a broker beside the script deals its jobs"),
        (fabric.address, "listens for them"),
    ):
        with (
            pytest.raises(BatchError, match="sbatch of slurm is not on the path"),
            park.batch.slurm(broker=broker, host=""),
        ):
            pass
        said = capfd.readouterr().err
        assert "the broker listens on this machine only" in said
        assert words in said
    (host,) = fabric.connect().jobs(owner="*")
    assert host.state is JobState.ABORTED


@pytest.mark.heavy
def test_the_next_command_gives_back_the_allocation_of_a_script_that_was_killed(fabric: Fabric) -> None:
    settings = {"PARK_BROKER": fabric.address, "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    script = fabric.start("-c", SCRIPT, env=settings)
    until(lambda: "allocation" in script.text, 60, lambda: script.text)
    jobs = ("-m", "park.cli.park", "jobs")
    assert fabric.start(*jobs, env=settings).wait() == 0
    number = script.text.split()[1]
    assert number in look(LOCAL)
    script.kill()
    assert fabric.start(*jobs, env=settings).wait() == 0
    until(lambda: number not in look(LOCAL))
    until(lambda: not list((fabric.folder / "state" / "park" / "allocations").iterdir()))


@pytest.mark.heavy
def test_no_command_waits_until_a_batch_system_has_taken_an_allocation_back(fabric: Fabric) -> None:
    left = fabric.folder / "state" / "park" / "allocations" / "script-x"
    left.mkdir(parents=True)
    remember(left, "slow", "4")
    asked, answers = fabric.folder / "asked", fabric.folder / "answers"
    cancels = ["sh", "-c", f"touch {asked}; until [ -e {answers} ]; do sleep 0.1; done"]
    own = fabric.folder / "own" / "park" / "park.toml"
    own.parent.mkdir(parents=True)
    own.write_text(f'[batch.slow]\nsystem = "slurm"\ncancel = {json.dumps(cancels)}\n')
    settings = {
        "PARK_BROKER": fabric.address,
        "XDG_STATE_HOME": os.environ["XDG_STATE_HOME"],
        "XDG_CONFIG_HOME": str(own.parent.parent),
    }
    assert fabric.start("-m", "park.cli.park", "jobs", env=settings).wait() == 0
    until(asked.exists)
    with locked(left / LOCK) as free:
        assert not free, "another process waits for the answer"
    answers.touch()
    until(lambda: not left.exists())


@pytest.mark.heavy
def test_a_fabric_that_cannot_be_had_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchError, match="the command sbatch of slurm is not on the path"):
        park.batch.slurm(host="").__enter__()
    assert not list((tmp_path / "state" / "park" / "allocations").iterdir())


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--private", "fit.py", "--slots", "4", "--nodes"], ["--slots", "4"]),
        (["--nodes", "--relay", "head", "--slots", "4"], ["--slots", "4"]),
        (["--grace=2", "--private=fit.py", "--private-host", "n1", "--", "--slots", "4"], ["--grace=2"]),
    ],
)
def test_kernels_get_their_own_arguments(arguments: list[str], kept: list[str]) -> None:
    assert kernel_arguments(arguments) == kept


@pytest.mark.heavy
def test_a_result_is_carried_when_its_job_ends(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARK_BROKER", fabric.address)
    monkeypatch.setenv("PARKTAG", "tester")
    service, folder = fabric.connect(), tmp_path / "fit.park"
    carrier = Carrier(service, fabric.home, folder)
    folder.mkdir()
    first, other = service.start(abs, [-1]), service.start(time.sleep, [60])
    carrier.turn(0.0)
    assert not carrier.copy.exists(), "no minute is over, and no job"
    fabric.start_kernel()
    service.wait(first, 60)
    carrier.turn(1e9)
    assert pickle.loads((folder / "job-1.pickle").read_bytes()) == [1]
    assert carrier.copy.exists()
    carrier.copy.unlink()
    carrier.copy.mkdir()
    service.abort(other)
    for _ in range(2):
        carrier.copy_store()
    assert not carrier.is_copied
    assert capfd.readouterr().err.count("was not copied") == 1


@pytest.mark.heavy
def test_a_private_job_goes_on_in_the_next_allocation(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(steps_script(60, 0.05))
    command = [sys.executable, "-m", "park.cli.kernel", "--private", "steps.py:steps", "--slots", "1"]

    def run(log: str, *more: str) -> Process:
        return Process([*command, "--grace", "5", *more], tmp_path / log, cwd=tmp_path)

    first = run("first")
    try:
        until(lambda: "begins at 0" in first.text, 60)
        time.sleep(0.5)
        first.signal(signal.SIGTERM)
        assert first.wait(60) == 1, first.text
    finally:
        first.end()
    assert "the allocation ended before the job" in first.text
    again = run("again")
    try:
        assert again.wait(90) == 0, again.text
    finally:
        again.end()
    assert "goes on with job 1" in again.text
    with (tmp_path / "steps.park" / "job-1.pickle").open("rb") as file:
        began, *rest = pickle.load(file)
    assert began == 0
    assert len(rest) == 1
    assert rest[0] > 0, "from its checkpoint"


@pytest.mark.heavy
def test_a_private_target_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "park.cli.kernel", "--private", "nothing.py:f", "--slots", "1"]
    process = Process(command, tmp_path / "log", cwd=tmp_path)
    try:
        assert process.wait(60) == 2
    finally:
        process.end()
    assert "nothing.py" in process.text


def test_one_private_fabric_at_a_time_has_the_folder(tmp_path: Path) -> None:
    carried = tmp_path / "fit.park"
    with (
        hold(carried) as log,
        pytest.raises(InvalidRequest, match="another park-kernel works with"),
        hold(carried),
    ):
        pass
    assert log.parent == carried
    (tmp_path / "file").touch()
    with (
        pytest.raises(InvalidRequest, match="file, for the results, cannot be made: File exists"),
        hold(tmp_path / "file"),
    ):
        pass

"""A broker, kernels and clients in processes of their own: lost ones, returning ones, strangers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
import zmq
from msgspec.structs import replace

import park
from park.body import payload
from park.broker.manager import JobManager
from park.core.connect import FIRST_ANSWER_SECONDS, connect
from park.core.server import ServerProxy
from park.kernel.loop import KernelLoop
from park.kernel.node.this_node import Node
from park.local import LocalService
from park.net.addresses import check_bind
from park.net.callers import Dealer
from park.net.keys import CLIENT
from park.net.reactor import Reactor
from park.service import ServiceManager
from park.wire import codec, messages
from tests.support.fabric import Fabric, Process, alive, slots_of, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def square(x: float) -> float:
    return x * x


class Gate:
    """A unit that says where it runs, and waits until it may go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, x: int) -> int:
        (self.folder / f"{x}-{os.getpid()}").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.01)
        return x * x

    def open(self) -> None:
        (self.folder / "open").touch()

    def runs(self, x: int) -> list[int]:
        """The processes that have begun the unit."""
        return [int(p.name.partition("-")[2]) for p in self.folder.glob(f"{x}-*")]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    (tmp_path / "gate").mkdir()
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="module", params=["ipc", "tcp"])
def fabric(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A broker and two kernels of one slot, which no test here harms."""
    with Fabric(tmp_path_factory.mktemp(request.param), keys=request.param == "tcp") as fabric:
        fabric.start_kernels(2)
        yield fabric


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Fabric]:
    """A broker of the test's own, without kernels."""
    with Fabric(tmp_path) as fabric:
        yield fabric


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Fabric]:
    """A broker of the test's own whose leases outlast the pauses of a busy machine."""
    with Fabric(tmp_path, lease=20.0) as fabric:
        yield fabric


# -- coming and going ----------------------------------------------------------------------------


def test_a_job_outlives_its_script_and_is_found_by_another(fabric: Fabric) -> None:
    submit = fabric.script(
        """
        import park
        def cube(x):
            return x ** 3
        with park.connect() as service:
            print(service.start(cube, range(2000), name="cubes", tags=["found"]))
        """
    )
    assert submit.wait() == 0, submit.text
    number = int(submit.text)
    find = fabric.script(
        """
        import park
        job, = park.connect().jobs("found")
        print(job.id, job.wait() == [x ** 3 for x in range(2000)], job.wait(), sep="\\n")
        """
    )
    assert find.wait() == 0, find.text
    assert find.text.splitlines()[:2] == [str(number), "True"]
    again = fabric.connect().job(number)
    assert again.wait() == [x**3 for x in range(2000)]
    assert (again.state, again.owner, again.record.name) == ("complete", "tester", "cubes")


def test_sessions_over_two_kernels(fabric: Fabric) -> None:
    with fabric.connect() as service:
        assert list(service.map(square, range(3000))) == [x * x for x in range(3000)]
        run = service.mapper(square)
        assert [run(range(n)) for n in (3, 1, 0, 50)] == [[x * x for x in range(n)] for n in (3, 1, 0, 50)]
        with service.executor() as pool:
            futures = [pool.submit(pow, 2, n) for n in range(30)]
            assert [f.result(50) for f in futures] == [2**n for n in range(30)]
            assert list(pool.map(pow, [2, 3], [3, 2])) == [8, 9]


def test_maps_nest_over_two_kernels(fabric: Fabric) -> None:
    def inner(x: int) -> int:
        return sum(park.environment().map(square, range(x)))

    def outer() -> list[int]:
        return list(park.environment().map(inner, range(20)))

    service = fabric.connect()
    want = [sum(i * i for i in range(x)) for x in range(20)]
    assert service.wait(service.start(outer), timeout=60) == want
    assert service.wait(service.start(inner, range(20)), timeout=60) == want


def test_both_kernels_work(fabric: Fabric, gate: Gate) -> None:
    service = fabric.connect()
    job = service.start(gate, range(2))
    until(lambda: gate.runs(0) and gate.runs(1), why=lambda: repr(service.job(job)))
    gate.open()
    assert service.wait(job, timeout=60) == [0, 1]


# -- kernels that are lost -----------------------------------------------------------------------


def test_a_killed_kernel_s_units_run_elsewhere_after_its_lease(own: Fabric, gate: Gate) -> None:
    service = own.connect()
    (victim,) = own.start_kernels(1)
    job = service.start(gate, range(3))
    until(lambda: gate.runs(0))
    slots = slots_of(victim.pid)
    victim.kill()
    until(lambda: not any(map(alive, slots)), 50)
    own.start_kernel(slots=3)  # room for the lost unit, though the others are there first
    until(lambda: len(gate.runs(0)) == 2, why=lambda: repr(service.job(job)))
    gate.open()
    assert service.wait(job, timeout=60) == [0, 1, 4]
    assert service.status(job).done == 3


def test_a_kernel_that_slept_past_its_lease_does_no_harm(own: Fabric, gate: Gate) -> None:
    service = own.connect()
    sleeper, _ = own.start_kernels(2)
    job = service.start(gate, range(2))
    driver = service.start(lambda: list(park.environment().map(gate.run, range(10, 14))))
    until(lambda: gate.runs(0) and gate.runs(1))
    sleeper.signal(signal.SIGSTOP)
    until(lambda: [k.pid for k in service.kernels()].count(sleeper.pid) == 0)
    gate.open()  # its slot process goes on, and answers a unit that is dealt anew
    assert service.wait(job, timeout=60) == [0, 1]
    sleeper.signal(signal.SIGCONT)
    until(lambda: sleeper.pid in [k.pid for k in service.kernels()])
    assert service.wait(driver, timeout=60) == [x * x for x in range(10, 14)]
    assert service.status(job).done == 2
    again = service.start(square, range(500))
    assert service.wait(again, timeout=60) == [x * x for x in range(500)]


def test_a_kernel_that_leaves_gives_its_units_back_at_once(tmp_path: Path, gate: Gate) -> None:
    with Fabric(tmp_path, lease=60.0, heartbeat=10.0) as fabric:
        service = fabric.connect()
        (leaver,) = fabric.start_kernels(1)
        job = service.start(gate, [7])
        until(lambda: gate.runs(7))
        fabric.start_kernels(1)
        leaver.signal(signal.SIGTERM)
        until(lambda: len(gate.runs(7)) == 2, 30.0)  # half a lease
        assert leaver.wait() == 0, leaver.text
        gate.open()
        assert service.wait(job, timeout=60) == [49]


def test_a_kernel_of_another_python_gets_nothing_and_the_job_says_so(own: Fabric) -> None:
    service = own.connect()
    own.start_kernels(1)
    blob = payload.dumps(square)
    submit = messages.Submit(
        id=0, key=os.urandom(16), body=payload.code_hash(blob), name="other", python="3.99", count=1
    )
    request = service._link.request(
        lambda n: replace(submit, id=n), payload.encode_units([3]), (submit.body, blob)
    )
    assert request.wait(50)
    accepted, _ = request.value()
    assert isinstance(accepted, messages.Accepted)
    mine = sys.version_info
    assert service.wait(service.start(square, [2]), timeout=60) == [4]
    record = service.status(accepted.job)
    assert (record.state, record.done) == ("queued", 0)
    assert record.reason.startswith(
        f"no kernel runs Python 3.99 (connected: {mine[0]}.{mine[1]}); `park-kernel"
    )


# -- a broker that is lost -----------------------------------------------------------------------


def test_a_killed_broker_comes_back_with_its_jobs(own: Fabric, gate: Gate) -> None:
    service = own.connect()
    kernels = own.start_kernels(2)
    ended = service.start(square, range(10))
    assert service.wait(ended, timeout=60) == [x * x for x in range(10)]
    job = service.start(gate, range(40))
    later = service.start(sum, [[1, 2], [3]], after=job)
    waiting = own.script(
        """
        import park, sys
        job = park.connect().job(int(sys.argv[1]))
        print("found", flush=True)
        print(job.wait()[-1])
        """,
        str(job),
    )
    until(lambda: gate.runs(0) and "found" in waiting.text)
    until(lambda: service.status(job).running == 2)
    own.broker.kill()
    own.start_broker()
    gate.open()
    assert service.wait(job, timeout=60) == [x * x for x in range(40)]
    assert service.wait(later, timeout=60) == [3, 3]
    assert waiting.wait() == 0, waiting.text
    assert waiting.text.split() == ["found", "1521"]
    assert service.wait(ended, timeout=60) == [x * x for x in range(10)]
    assert all(k.running for k in kernels)
    assert {k.pid for k in service.kernels()} == {k.pid for k in kernels}
    assert service.wait(service.start(square, [5]), timeout=60) == [25]


def test_what_runs_goes_on_while_its_broker_is_killed_and_started_again(patient: Fabric, gate: Gate) -> None:
    runs = gate.folder / "runs"

    def noted(x: int) -> int:
        with runs.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(0.02)
        return x

    def driver() -> int:
        maps = park.environment().map
        return sum(sum(maps(noted, range(100 * g, 100 * g + 6))) for g in range(1, 13))

    service = patient.connect()
    patient.start_kernels(2)
    until(lambda: len(service.kernels()) == 2)
    blocked, fit = service.start(gate, [1]), service.start(driver)
    for seen in (5, 30):
        until(lambda seen=seen: runs.exists() and len(runs.read_text().split()) >= seen)  # type: ignore[misc]
        patient.broker.kill()
        patient.start_broker()
    assert service.wait(fit, timeout=60) == sum(100 * g + i for g in range(1, 13) for i in range(6))
    units = runs.read_text().split()
    # a unit that was on its way when the broker died may run twice, one each time
    assert len(set(units)) == 72
    assert len(units) <= 74
    gate.open()
    assert service.wait(blocked, timeout=60) == [1]
    assert len(gate.runs(1)) == 1


def test_paused_jobs_stay_paused_when_their_broker_or_kernel_is_lost(own: Fabric, gate: Gate) -> None:
    service = own.connect()
    (kernel,) = own.start_kernels(1)
    job = service.job(service.start(gate, range(10)))
    held = service.job(service.start(square, [7], when=1000))
    until(lambda: gate.runs(0))
    job.pause()
    held.pause()
    own.broker.kill()
    own.start_broker()
    assert (job.state, held.state) == ("paused", "paused")
    kernel.kill()
    own.start_kernels(1)
    gate.open()
    # others run; what was lost of the paused job waits with the rest
    assert service.wait(service.start(square, [3]), timeout=60) == [9]
    assert job.state == "paused"
    job.resume()
    held.resume()
    assert held.state == "waiting"
    assert job.wait(50) == [x * x for x in range(10)]


def test_what_is_asked_while_the_broker_is_away_is_answered_later(own: Fabric) -> None:
    service = own.connect()
    own.start_kernels(1)
    service.wait(service.start(square, [1]), timeout=60)
    own.broker.kill()
    submit = own.script(
        """
        import park
        print(park.connect().wait(5))
        """
    )
    assert submit.wait() == 1
    assert "no broker answers" in submit.text
    reply = service._link.request(lambda n: messages.Status(n))
    with pytest.raises(park.InvalidRequest, match="the head of Submit has"):  # and is not tried again
        service.start(square, [1], tags=[f"{n:0200}" for n in range(400)])
    own.start_broker()
    assert reply.wait(50)
    assert service.wait(service.start(lambda x: x + 1, [1]), timeout=60) == [2]
    assert list(service.map(lambda x: x + 2, [1])) == [3]


def test_sessions_go_on_when_their_broker_is_killed(tmp_path: Path, gate: Gate) -> None:
    runs = tmp_path / "runs"

    def noted(x: int) -> int:
        with runs.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(0.01)
        return x * x

    with Fabric(tmp_path, lease=20.0) as own:  # however long a busy machine takes to start a broker
        service = own.connect()
        own.start_kernels(2)
        lazy = service.map(noted, iter(range(400)))
        mapper, pool = service.mapper(noted), service.executor()
        blocked = pool.submit(gate.run, 1)
        points = range(1000, 1150)
        mapped = ThreadPoolExecutor().submit(lambda: [mapper(points), mapper(range(2000, 2010))])
        futures = [pool.submit(noted, x) for x in range(3000, 3030)]
        for seen in (10, 150):
            until(lambda seen=seen: runs.exists() and len(runs.read_text().split()) >= seen)  # type: ignore[misc]
            own.broker.kill()
            own.start_broker()
        gate.open()
        assert list(lazy) == [x * x for x in range(400)]
        assert mapped.result(50) == [[x * x for x in points], [x * x for x in range(2000, 2010)]]
        assert [f.result(50) for f in futures] == [x * x for x in range(3000, 3030)]
        assert blocked.result(50) == 1
        # nothing that a kernel held, or had answered, runs again
        assert Counter(runs.read_text().split()) == Counter(
            map(str, [*range(400), *points, *range(2000, 2010), *range(3000, 3030)])
        )
        assert len(gate.runs(1)) == 1
        pool.shutdown()
        until(lambda: all(job.state.ended for job in service.jobs() if job.record.name == "executor"))


@pytest.mark.heavy
def test_whoever_waits_for_a_broker_that_is_away_is_told_and_let_go_in_the_end(
    own: Fabric, gate: Gate
) -> None:
    own.start_kernels(1)
    client = own.script(
        """
        import park, pathlib, sys, time
        folder = sys.argv[1]
        def hang(x):
            pathlib.Path(folder, f"{x}-1").touch()
            time.sleep(60)
        service = park.connect(patience=5)
        run, pool = service.mapper(hang), service.executor()
        waits = pool.submit(hang, 2)
        for use in (lambda: run([1]), waits.result, lambda: run([1]), service.jobs):
            try:
                use()
            except park.NoBroker as error:
                print(error, flush=True)
        input()
        print(len(service.jobs()), service.mapper(abs)([-3]))
        """,
        str(gate.folder),
        stdin=subprocess.PIPE,
    )
    until(lambda: gate.runs(1) or gate.runs(2), why=lambda: client.text)
    own.broker.kill()
    assert client.popen.stdin is not None
    until(lambda: client.text.count("has been away for 5 s") == 4, why=lambda: client.text)
    assert "waiting for it to come back, for 5 s at most" in client.text
    own.start_broker()
    until(lambda: "is back" in client.text, why=lambda: client.text)
    client.popen.stdin.write(b"\n")
    client.popen.stdin.close()
    assert client.wait() == 0, client.text
    assert client.text.splitlines()[-1] == "0 [3]"


def test_a_stopped_broker_leaves_no_connection_file(own: Fabric) -> None:
    assert stat.S_IMODE(own.connection.stat().st_mode) == 0o600
    own.broker.signal(signal.SIGTERM)
    assert own.broker.wait() == 0, own.broker.text
    assert not own.connection.exists()
    assert "Traceback" not in own.broker.text


# -- clients that are lost -----------------------------------------------------------------------


def test_a_session_ends_with_its_client(own: Fabric, gate: Gate) -> None:
    service = own.connect()
    own.start_kernels(1)
    client = own.script(
        """
        import park, pathlib, sys, time
        folder = sys.argv[1]
        def hang(x):
            pathlib.Path(folder, f"{x}-1").touch()
            time.sleep(60)
        for _ in park.connect().map(hang, range(5), name="lost"):
            pass
        """,
        str(gate.folder),
    )
    until(lambda: gate.runs(0), why=lambda: client.text)
    (session,) = service.jobs("lost")
    assert session.state == "running"
    client.kill()
    until(lambda: session.state.ended, 50)
    assert session.state == "aborted"
    assert "client" in session.reason
    assert service.wait(service.start(square, [4]), timeout=60) == [16]


# -- the same messages everywhere ----------------------------------------------------------------

#: Counted by time, not by what is done: a client that waits long asks why nothing runs.
APART = {"Heartbeat", "Deltas", "Head", "Status", "Records"}


def run_one_job(service: ServerProxy) -> None:
    assert service.wait(service.start(square, [3])) == [9]


def run_a_map(service: ServerProxy) -> None:
    run = service.mapper(square)
    assert run([1.0, 2.0]) == [1.0, 4.0]
    run.close()


def run_a_driver(service: ServerProxy) -> None:
    assert service.wait(service.start(lambda: list(park.environment().map(square, [3])))) == [9]


def apart(counts: Counter[str]) -> dict[str, int]:
    return {k: n for k, n in counts.items() if k.rpartition(" ")[2] not in APART}


def local_counts(work: Callable[[ServerProxy], None]) -> dict[str, int]:
    service = LocalService()
    service.configure(slots=1)
    try:
        work(service)
        service.jobs()
        assert service._manager is not None
        assert service._manager.loop is not None
        return apart(service._manager.loop.counts)
    finally:
        service.close()


def socket_counts(
    work: Callable[[ServerProxy], None], folder: Path, expected: dict[str, int]
) -> dict[str, int]:
    manager = ServiceManager(JobManager()).listen(home=folder)
    assert manager.loop is not None
    reactor = Reactor()
    line = Dealer(manager.endpoints["kernels"])
    kernel = KernelLoop(reactor, line, 1, "tester", Node())
    reactor.listen(line.fileno(), line.stir)
    reactor.add(kernel)
    service = None
    try:
        manager.reactor.start("broker")
        reactor.start("kernel")
        service = connect(manager.endpoints["clients"])
        work(service)
        service.jobs()
        counts = manager.loop.counts
        with contextlib.suppress(AssertionError):  # the caller shows what differs
            until(lambda: apart(counts.copy()) == expected, 50)
        return apart(counts)
    finally:
        if service is not None:
            service.close()
        reactor.stop()
        manager.close()


@pytest.mark.parametrize("work", [run_one_job, run_a_map, run_a_driver])
def test_a_job_is_the_same_messages_on_both_services(
    work: Callable[[ServerProxy], None], tmp_path: Path
) -> None:
    local = local_counts(work)
    remote = socket_counts(work, tmp_path, local)
    assert local == remote
    assert local["c > Hello"] == local["k > KernelHello"] == 1
    assert local["k < Run"] == local["k > Finished"] >= 1


# -- no broker ----------------------------------------------------------------------------------


def no_file(folder: Path) -> str:
    return str(folder / "connection.json")


def garbage_file(folder: Path) -> str:
    (folder / "garbage.json").write_bytes(b"\x80\x81\x00 no json")
    return str(folder / "garbage.json")


def other_file(folder: Path) -> str:
    (folder / "list.json").write_text("[1, 2]")
    return str(folder / "list.json")


def stale_file(folder: Path) -> str:
    (folder / "stale.json").write_text(
        '{"version": 1, "store": "", "pid": 1, "clients": "ipc:///nowhere/clients",'
        ' "kernels": "ipc:///nowhere/kernels", "table": "ipc:///nowhere/table"}'
    )
    return str(folder / "stale.json")


def newer_file(folder: Path) -> str:
    (folder / "newer.json").write_text('{"version": 2}')
    return str(folder / "newer.json")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (lambda f: f"ipc://{f}/none/clients", r"no broker answers at ipc://.*park-broker"),
        (lambda f: f"ipc://{f}/{'x' * 200}/clients", "no broker answers at ipc://.*too long"),
        (lambda f: "tcp://127.0.0.1:9", "no broker answers at tcp://127.0.0.1:9 .*park-broker"),
        (lambda f: "tcp://:7275", "'tcp://:7275' is no address of a broker"),
        (lambda f: "tcp://no.such.host.invalid:7275", "no broker answers at tcp://no.such.host.invalid:7275"),
        (lambda f: "tcp://127.0.0.1:port", "no address of a broker"),
        (lambda f: "http://127.0.0.1:7275", "no address of a broker"),
        (no_file, r"no broker: .*connection.json does not exist.*park-broker"),
        (lambda f: str(f), r"no broker: .*connection.json does not exist"),
        (garbage_file, "garbage.json is no connection file"),
        (other_file, "list.json is no connection file"),
        (stale_file, r"no broker answers at ipc:///nowhere/clients"),
        (newer_file, "another release of PARK"),
    ],
)
def test_no_broker_is_said_in_words(tmp_path: Path, address: Callable[[Path], str], words: str) -> None:
    began = time.monotonic()
    with pytest.raises(park.NoBroker, match=words) as raised:
        connect(address(tmp_path))
    assert time.monotonic() - began < 20
    assert "\n" not in str(raised.value)


def test_a_silent_listener_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FIRST_ANSWER_SECONDS < 5
    monkeypatch.setattr("park.core.connect.FIRST_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=address):
            connect(address)


def test_what_has_taken_the_connection_is_waited_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("park.core.connect.FIRST_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr("park.core.connect.BUSY_ANSWER_SECONDS", 1.5)
    began = time.monotonic()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as busy:
        busy.bind(f"ipc://{tmp_path / 'clients'}")
        with pytest.raises(park.NoBroker, match=r"within 1\.[5-9] s"):
            connect(f"ipc://{tmp_path}")
    assert time.monotonic() - began >= 1.5
    assert "does not answer yet: waiting for it" in capsys.readouterr().err


def run_broker(folder: Path, *options: str) -> Process:
    process = Process([sys.executable, "-m", "park.cli.broker", *options], folder / "log")
    try:
        process.wait(50)
    finally:
        process.end()
    return process


@pytest.mark.parametrize("address", ["7275", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "udp://127.0.0.1:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(park.InvalidRequest, match="is no address to listen at"):
        check_bind(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "192.168.1.1", "*", "[::]", "eth0"]
)
def test_any_address_of_this_machine_is_taken(host: str) -> None:
    assert check_bind(f"tcp://{host}:7275") == [f"tcp://{host}:{port}" for port in (7275, 7276, 7277)]


@pytest.mark.parametrize(
    ("address", "code", "words"),
    [
        ("tcp://127.0.0.1:99999", 2, "park-broker: 'tcp://127.0.0.1:99999' is no address to listen at"),
        ("7275", 2, "park-broker: '7275' is no address to listen at"),
    ],
)
def test_a_broker_refuses_in_one_line(tmp_path: Path, address: str, code: int, words: str) -> None:
    broker = run_broker(tmp_path, "--home", str(tmp_path / "home"), "--bind", address)
    assert broker.popen.returncode == code, broker.text
    assert broker.text.startswith(words)
    assert len(broker.text.splitlines()) == 1
    assert not (tmp_path / "home").exists()


def test_a_taken_port_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        broker = run_broker(tmp_path, "--home", str(tmp_path / "home"), "--bind", address)
    assert broker.popen.returncode == 4, broker.text
    assert f"cannot listen at {address}: Address already in use" in broker.text


def test_a_home_has_one_broker(own: Fabric) -> None:
    second = run_broker(own.folder, "--home", str(own.home))
    assert second.popen.returncode == 1
    assert str(own.home) in second.text
    assert "another" in second.text
    assert len(second.text.splitlines()) == 1
    assert own.connect().jobs() == []  # the first is as it was


def test_a_long_home_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with Fabric(tmp_path, home=home) as fabric:
        kernels = fabric.start_kernels(1)
        service = fabric.connect()
        folder = Path(fabric.endpoints["clients"].removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert service.wait(service.start(square, [3]), timeout=60) == [9]
        fabric.broker.kill()
        fabric.start_broker()  # clients and kernels know only the address
        assert service.wait(service.start(square, [4]), timeout=60) == [16]
        assert kernels[0].running
        fabric.broker.signal(signal.SIGTERM)
        fabric.broker.wait()
        assert not folder.exists()


# -- strangers -----------------------------------------------------------------------------------

#: Malformed messages; each list is the frames of one message.
GARBAGE: list[list[bytes]] = [
    [b""],
    [b"hello"],
    [b"", b"", b""],
    [b"\x00" * 1000, b""],
    [b"\xdf\xff\xff\xff\xff", b""],
    [b"\xdd\xff\xff\xff\xff", b"x"],
    [b"\x81" * 5000, b""],
    [b"\x91" * 60000, b""],
    [os.urandom(64), os.urandom(64)],
    [os.urandom(70_000), b""],
    [b"x" * 100, *[b"y"] * 50],
    [cloudpickle.dumps(os.getpid), cloudpickle.dumps(os.getpid)],
]

KEY = b"k" * 16
#: Messages that are well formed, and mean harm or nothing.
HOSTILE: list[tuple[messages.Message, bytes]] = [
    (messages.KernelHello(b"", "", "", -1, 0, ""), b""),
    (messages.KernelHello(b"i" * 16, "u", "h", 1, 1 << 40, "3.11", attempts=[1, -1]), b""),
    (messages.KernelHello(b"i" * 600, "u", "h", 1, 1, "3.11"), b""),
    (messages.KernelHello(b"i" * 16, "u" * 60_000, "h", 1, 1, "3.11"), b""),
    (messages.KernelHello(b"i" * 16, "u", "h" * 60_000, 1, 1, "3.11"), b""),
    (messages.KernelHello(b"i" * 16, "u", "h", 1, 1, "3.11", owner="o" * 600), b""),
    (messages.Hello(b"", "", ""), b""),
    (messages.Hello(b"i" * 600, "u", "3.11"), b""),
    (messages.Hello(b"i" * 16, "u" * 600, "3.11"), b""),
    (messages.Hello(b"i" * 16, "u", "3" * 60_000), b""),
    (messages.Grant(5, "o" * 600, 5.0), b""),
    (messages.Grant(6, "", 5.0), b""),
    (messages.Part(0, 1 << 60, 10), b"x"),
    (messages.Part(5, 10, 10), b"x" * 20),
    (messages.Part(0, 100, 60_000), b"x"),
    (messages.Submit(7, KEY, b"unknown"), b""),
    (messages.Submit(8, b"short", session=True), b""),
    (messages.Submit(9, KEY, session=True, priority=10**9), b""),
    (messages.Submit(10, KEY, session=True, when=float("nan")), b""),
    (messages.Submit(11, KEY, session=True, after=[99]), b""),
    (messages.Submit(12, KEY, session=True, count=-5), b""),
    (messages.Submit(13, b"j" * 16, once=True, session=True, cpus=-1), b""),
    (messages.Blob(b"h" * 16), b"code"),
    (messages.Submit(14, b"l" * 16, b"h" * 16, count=3), b"no pack"),
    (messages.Submit(15, b"m" * 16, b"h" * 16, count=1, closed=False), payload.encode_units([1])),
    (messages.Submit(15, b"n" * 16, b"h" * 16, once=True, when=1e300), b""),
    (messages.Submit(15, b"o" * 16, b"h" * 16, once=True, when=-1e300, seed=-(2**63)), b""),
    (messages.Units(10**12, 5, False, job=1, id=16), b"junk"),
    (messages.Units(-1, -5, True, job=2, id=16), b""),
    (messages.Units(1, 2**62, True, job=2, id=16), payload.encode_units([1])),
    (messages.Units(0, 1, False, map=KEY), b"junk"),
    (messages.Map(KEY, 1, b"h" * 16, 5, attempt=77), b"junk"),
    (messages.Map(b"", -1, b"", -5), b""),
    (messages.Cancel(b""), b""),
    (messages.Close(17, 1), b""),
    (messages.Fetch(18, -1, wait=True), b""),
    (messages.Fetch(19, 1, wait=True, request=True), b""),
    (messages.Forget(-3), b""),
    (messages.Status(20, 1 << 62), b""),
    (messages.Status(21, 0, "\x00"), b""),
    (messages.Watch(22, -1), b""),
    (messages.Snapshot(23), b""),
    (messages.Stop(24, 1), b""),
    (messages.Abort(25, 12345), b""),
    (messages.Finished(1, KEY, 0, 1, float("nan"), failed=-1), b"junk"),
    (messages.Finished(-1, b"", -1, -1, -1.0), b""),
    (messages.Crashed([], "", ""), b""),
    (messages.Crashed([1, 2, 3], "x", "y"), b""),
    (messages.Publish(1, 1, "progress", float("inf"), float("nan")), b""),
    (messages.Heartbeat(99, [1, 2]), b""),
    (messages.Welcome("x", 1, 0.0, 0.0), b""),
    (messages.Unwelcome(), b""),
    (messages.Run(1, 1, "o", KEY, b"f", 0, 1, 0), b""),
    (messages.Header("x", 1, 1), b""),
    (messages.Accepted(1, 1), b""),
    (messages.Failure(1, "SystemExit", "x"), b""),
    (messages.NeedBlob(b""), b""),
    (messages.Ready(1), b""),
]


def test_strangers_do_not_disturb_the_broker(tmp_path: Path) -> None:
    manager = ServiceManager(JobManager(heartbeat=0.2, lease=1.0)).listen(home=tmp_path)
    loop = manager.loop
    assert loop is not None
    manager.reactor.start("broker")
    context = zmq.Context()
    try:
        for door in ("clients", "kernels"):
            before = loop.malformed
            with context.socket(zmq.DEALER) as stranger:
                stranger.connect(manager.endpoints[door])
                for frames in GARBAGE:
                    stranger.send_multipart(frames)
                until(lambda b=before: loop.malformed == b + len(GARBAGE), 50)  # type: ignore[misc]
            # before a hello, as a client, as a kernel
            for hello in (
                None,
                messages.Hello(os.urandom(16), "stranger", "3.11"),
                messages.KernelHello(os.urandom(16), "stranger", "host", 1, 2, "3.11"),
            ):
                with context.socket(zmq.DEALER) as stranger:
                    stranger.connect(manager.endpoints[door])
                    for message, data in ([(hello, b"")] if hello else []) + HOSTILE:
                        stranger.send_multipart(codec.encode(message, data))
                    last = loop.counts["c > Ready"] + loop.counts["k > Ready"]
                    until(lambda n=last: loop.counts["c > Ready"] + loop.counts["k > Ready"] > n, 50)  # type: ignore[misc]
        with context.socket(zmq.REQ) as wrong_kind:  # no DEALER at all
            wrong_kind.connect(manager.endpoints["clients"])
        service = connect(manager.endpoints["clients"], "friend")
        job = service.start(square, [1])
        until(lambda: not service.kernels())  # the lease of the false kernels has run out
        assert service.status(job).state in ("queued", "running")
        assert service.status(job).reason == "no kernel is connected"
        service.close()
    finally:
        context.destroy(linger=0)
        manager.close()


def test_other_protocols_at_the_port_do_not_disturb_the_broker(tmp_path: Path) -> None:
    manager = ServiceManager(JobManager()).listen("tcp://127.0.0.1:0")
    assert manager.keyring is not None
    key = manager.keyring.new("friend", CLIENT, tmp_path / "friend.key")
    manager.reactor.start("broker")
    try:
        for address in manager.tcp.values():
            port = int(address.rpartition(":")[2])
            for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b""):
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(words)
        with zmq.Context() as context, context.socket(zmq.DEALER) as friend:
            friend.curve_publickey, friend.curve_secretkey = key.public.encode(), key.secret.encode()
            friend.curve_serverkey = key.broker.encode()
            friend.connect(manager.tcp["clients"])
            friend.send_multipart(codec.encode(messages.Hello(os.urandom(16), "friend", "3.11")))
            assert friend.poll(5000)
            answer, _ = codec.decode(friend.recv_multipart())
            assert isinstance(answer, messages.Welcome)
    finally:
        manager.close()

"""Files that bodies keep with their job."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.broker.accounts.quotas import LimitPolicy, Limits
from park.broker.effects import Effects
from park.broker.handlers.files import MAX_FILE_BYTES, MAX_FILE_NAME_CHARS, MAX_FILES, put_file
from park.errors import InvalidRequest
from park.local import LocalService
from park.model import Account
from park.wire import codec, messages
from tests.sim.desk import Desk, finished, of
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


# -- the dispatcher ----------------------------------------------------------------------------------


class Trial:
    """A job that runs."""

    def __init__(self, **options: Any) -> None:
        self.desk = Desk(**options)
        self.client, self.kernel = self.desk.client(), self.desk.kernel()
        (self.run,) = of(self.desk.submit(self.client, "driver", None), messages.Run)

    def file(self, how: str, name: str = "", data: bytes = b"") -> Any:
        """The answer, and what is written for it."""
        message = messages.File(next(self.desk.ids), self.run.attempt, name, how)
        out = self.desk.give(self.kernel, message, data)
        (send,) = [s for s in out.sends + out.sends_after_commit if s.peer == self.kernel]
        return send, [w for w in out.writes if w.namespace == "file"]

    def sizes(self) -> Any:
        """The files of a job, as they travel."""
        send, _ = self.file("list")
        frames = codec.encode(send.message, send.payload)
        return codec.unpack(codec.decode(frames)[1])


def test_a_file_is_acknowledged_when_it_is_on_disk() -> None:
    trial = Trial()
    out = trial.desk.give(trial.kernel, messages.File(9, trial.run.attempt, "chains", "put"), b"12345")
    (sent,) = out.sends_after_commit
    assert sent.message == messages.Filed(9, trial.run.attempt)
    assert trial.sizes() == {"chains": 5}
    assert [(w.key, w.value) for w in out.writes if w.namespace == "file"] == [((1, "chains"), b"12345")]
    assert trial.desk.dispatcher.state.job_list.tallies.of("ann").bytes > 5
    before = trial.desk.dispatcher.state.job_list.tallies.of("ann").bytes
    trial.file("put", "chains", b"1")
    assert trial.desk.dispatcher.state.job_list.tallies.of("ann").bytes == before - 4
    send, writes = trial.file("drop", "chains")
    assert send.message == messages.Filed(send.message.reply, trial.run.attempt)
    assert trial.sizes() == {}
    assert [(w.key, w.value) for w in writes] == [((1, "chains"), None)]
    assert trial.file("drop", "chains")[1] == []


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("", 1, "names no file"),
        ("x" * (MAX_FILE_NAME_CHARS + 1), 1, "names no file"),
        ("a\nb", 1, "names no file"),
        ("large", MAX_FILE_BYTES + 1, "more than the 536,870,912 that one may have"),
    ],
)
def test_what_is_no_file_is_refused(name: str, size: int, words: str) -> None:
    trial = Trial()
    state = trial.desk.dispatcher.state
    with pytest.raises(InvalidRequest, match=words):
        put_file(state, Effects(), state.jobs[1], name, memoryview(bytes(size)))


def test_there_are_so_many_files_and_bytes_and_no_more() -> None:
    trial = Trial(limits=LimitPolicy(Limits(bytes=100_000)))
    for n in range(MAX_FILES):
        assert isinstance(trial.file("put", f"f{n}", b"1")[0].message, messages.Filed)
    refused = trial.file("put", "another", b"1")[0].message
    assert (refused.error, refused.attempt) == ("InvalidRequest", trial.run.attempt)
    assert f"has {MAX_FILES} files" in refused.text
    assert trial.file("put", "f0", bytes(100_000))[0].message.error == "LimitReached"
    assert trial.sizes()["f0"] == 1


def test_as_many_names_as_there_may_be_of_the_longest_are_told() -> None:
    trial = Trial()
    names = [f"{n:03}" + "\N{GRINNING FACE}" * (MAX_FILE_NAME_CHARS - 3) for n in range(MAX_FILES)]
    for name in names:
        send, _ = trial.file("put", name, b"1")
        codec.encode(send.message, send.payload)
    assert trial.sizes() == dict.fromkeys(names, 1)
    send, _ = trial.file("get", names[0])
    assert send.message.there
    assert not trial.file("get", "none")[0].message.there


def test_a_lost_attempt_writes_nothing_and_a_stranger_reads_nothing() -> None:
    trial = Trial()
    trial.file("put", "a", b"1")
    other = trial.desk.client("c2", account=Account("bob"))
    out = trial.desk.give(other, messages.Files(5, 1, "a"))
    assert [type(m) for m in of(out, messages.Failure)] == [messages.Failure]
    mine = trial.desk.give(trial.client, messages.Files(6, 1, "a"))
    assert [m.there for m in of(mine, messages.Filed)] == [True]
    trial.desk.give(trial.kernel, *finished(trial.run, [1]))
    out = trial.desk.give(trial.kernel, messages.File(8, trial.run.attempt, "a", "put"), b"22")
    assert not [w for w in out.writes if w.namespace == "file"]


# -- as bodies use them ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    service = LocalService()
    service.configure(slots=2)
    yield service
    service.close()


def writes() -> list[str]:
    store = park.environment().store
    store["a"] = b"one"
    store["b"] = bytearray(300_000)
    store["a"] = b"two"
    assert store["a"] == b"two"
    assert "a" in store
    assert len(store) == 2
    del store["b"]
    assert list(store) == ["a"]
    with pytest.raises(KeyError):
        store["b"]
    with pytest.raises(KeyError):
        del store["b"]
    with pytest.raises(park.InvalidRequest, match="must be bytes, not str"):
        store["c"] = "text"
    with pytest.raises(park.InvalidRequest, match="names no file"):
        store[""] = b""
    return list(park.environment().map(unit, [1, 2, 3]))


def unit(x: int) -> str:
    store = park.environment().store
    store[f"unit {x}"] = store["a"] * x
    return store[f"unit {x}"].decode()


def test_a_body_keeps_files_and_everybody_who_may_reads_them(service: LocalService) -> None:
    job = service.job(service.start(writes))
    assert job.wait() == ["two", "twotwo", "twotwotwo"]
    files = job.files
    assert sorted(files) == ["a", "unit 1", "unit 2", "unit 3"]
    assert files["unit 3"] == b"twotwotwo"
    assert dict(files)["a"] == b"two"
    with pytest.raises(KeyError):
        files["b"]
    assert "a" in repr(files)
    assert dict(service.files(service.start(abs, [1]))) == {}


def test_a_session_has_no_files(service: LocalService) -> None:
    with pytest.raises(park.UnitError, match="only jobs have files"):
        list(service.map(unit, [1]))


def counted(folder: str) -> tuple[int, int]:
    """Dies after each of its first two runs."""
    store = park.environment().store
    run = int(store.get("run", b"0")) + 1
    store["run"] = b"%d" % run
    if run < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return run, os.getpid()


def test_what_is_written_is_there_when_the_body_runs_again(service: LocalService) -> None:
    assert service.wait(service.start(counted, ["x"]))[0][0] == 3


def slow(go: str) -> bytes:
    store = park.environment().store
    store["large"] = bytes(2_000_000)
    while not Path(go).exists():
        store["beat"] = b"x" * (len(store.get("beat", b"")) % 7 + 1)
    return store["large"][:3]


def test_files_outlive_the_broker_and_go_with_their_job(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        job = service.job(service.start(slow, [str(tmp_path / "go")]))
        until(lambda: "beat" in job.files)
        for _ in range(2):
            fabric.broker.kill()
            fabric.start_broker()
            until(lambda: service.kernels() and len(job.files["large"]) == 2_000_000)
        (tmp_path / "go").touch()
        assert job.wait(50) == [bytes(3)]
        fabric.broker.kill()
        fabric.start_broker()
        assert set(job.files) == {"large", "beat"}
        service.delete(job.id)
        with pytest.raises(park.UnknownJob):
            service.files(job.id)

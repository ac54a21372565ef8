"""A job's own stream and log: who follows when, what comes, in which order, and what is kept."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import lmdb
import pytest
from fabric import Fabric, until

import park
from park.core.logbook import AT_ONCE, MOST_BYTES, MOST_ENDED, LogBook
from park.core.outcome import Write
from park.core.snapshots import Snapshots
from park.core.store import MemoryStore
from park.kernel.printed import LONGEST, MOST, Printed
from park.local import LocalService
from park.model import Log
from park.service import connect
from park.stream import Abort, Complete, Error, Inbox, Join, Messages, Start
from park.util.msgstream import MAX_HEADER
from park.wire import codec

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def kinds(messages: Any) -> list[str]:
    return [m["kind"] if isinstance(m, dict) else type(m).__name__ for m in messages]


# -- parts -------------------------------------------------------------------------------------------


def test_lines_wait_until_they_have_ended() -> None:
    printed = Printed()
    printed.add("out", "one\ntw")
    printed.add("err", "oh")
    printed.add("out", "o\n")
    assert [(line.level, line.text) for line in printed.take(False)] == [("out", "one\ntwo")]
    assert printed.waiting
    assert [(line.level, line.text) for line in printed.take(True)] == [("err", "oh")]
    assert not printed.waiting


def test_who_prints_without_end_is_cut_and_the_rest_is_counted() -> None:
    printed = Printed()
    for n in range(100_000):
        printed.add("out", f"{n}\n")
    *kept, last = printed.take(True)
    lines = "\n".join(line.text for line in kept).split("\n")
    assert lines == [str(n) for n in range(len(lines))]
    assert sum(len(line.text) for line in kept) <= MOST + LONGEST
    assert last.text == f"({100_000 - len(lines):,} more lines are left out)"
    printed.add("out", "x" * 1_000_000)
    assert len(printed.take(True)[0].text) <= LONGEST + 3


def line(text: str) -> bytes:
    return codec.pack([text, "out", 0.0])


def test_the_last_lines_are_kept_and_written_at_most_once_a_second() -> None:
    store = MemoryStore()
    book = LogBook(store)
    book.add(1, line("a"), stored=True)
    book.add(2, line("of a session"), stored=False)
    assert book.deadline is not None
    store.commit(book.writes(10.0))
    assert store.count("log") == 1
    book.add(1, line("b"), stored=True)
    assert book.writes(10.5) == []
    book.end(1)
    last = book.writes(10.5)
    assert book.lines(1) == [line("a"), line("b")]  # while they are on their way to the disk, too
    store.commit(last)
    book.on_disk(last[-1].key)
    assert not book._leaving
    assert book.deadline is None
    assert book.lines(1) == [line("a"), line("b")]
    again = LogBook(store)
    again.add(1, line("c"), stored=True)
    assert again.lines(1) == [line("a"), line("b"), line("c")]
    for _ in range(100):
        again.add(1, line("x" * 10_000), stored=True)
    assert sum(map(len, again.lines(1))) <= MOST_BYTES
    again.forget(1)
    assert again.deadline is None


def test_each_writing_has_only_the_new_lines_and_records_that_are_spent_go() -> None:
    store = MemoryStore()
    store.commit([Write("log", (1,), codec.pack([line("of an older release")]))])
    book = LogBook(store)
    for second in range(1, 50):
        for n in range(20):
            book.add(1, line(f"{second} {n} " + "x" * 500), stored=True)
        writes = book.writes(float(second))
        assert sum(len(w.value) for w in writes if isinstance(w.value, bytes)) < 20 * 600
        store.commit(writes)
        assert LogBook(store).lines(1) == book.lines(1)
    assert (store.get("log", (1,)), book.lines(1)[-1]) == (None, line("49 19 " + "x" * 500))
    assert sum(len(value) for _, value in store.scan("log")) < MOST_BYTES + 20 * 600


def test_a_writing_is_bounded_and_all_get_their_turn() -> None:
    store = MemoryStore()
    book = LogBook(store)
    for job in range(1, 31):
        for _ in range(25):
            book.add(job, line("x" * 10_000), stored=True)
    now, lots = 10.0, 0
    while book.deadline is not None:
        now = max(now, book.deadline)
        writes = book.writes(now)
        assert sum(len(w.value) for w in writes if isinstance(w.value, bytes)) < AT_ONCE + MOST_BYTES
        store.commit(writes)
        lots += 1
    assert (lots, store.count("log")) == (6, 30)
    assert now < 11.0


def test_lines_wait_for_a_disk_that_is_full_in_bounded_memory() -> None:
    book = LogBook(MemoryStore())
    jobs = range(1, 2 * MOST_ENDED + 1)
    for job in jobs:
        book.add(job, line(f"of {job}"), stored=True)
        book.end(job)
    book.put_off(10.0)
    assert book.deadline == 11.0
    assert [w.key for w in book.writes(11.0)] == [(job, 1) for job in jobs[MOST_ENDED:]]
    assert book.deadline is None


def test_the_latest_messages_outlive_the_broker_and_go_with_their_job() -> None:
    store = MemoryStore()
    first = Snapshots(store)
    for n in range(5):
        first.put(1, "progress", b"%d" % n)
    first.put(2, "improvement", b"best")
    store.commit(first.writes(10.0))
    first.put(1, "progress", b"6")
    assert first.writes(10.5) == []
    second = Snapshots(store)
    assert second.restore() == [(1, "progress", b"4"), (2, "improvement", b"best")]
    second.put(2, "progress", b"1")
    second.end(2)
    store.commit(second.writes(11.0))
    assert second.deadline is None
    assert Snapshots(store).restore() == [(1, "progress", b"4")]


def test_as_many_kinds_of_a_job_are_kept_as_the_hub_has_and_the_oldest_go() -> None:
    store = MemoryStore()
    kept = Snapshots(store)
    for n in range(MAX_HEADER + 10):
        kept.put(1, f"kind{n}", b"x")
    store.commit(kept.writes(0.0))
    assert store.count("stream") == MAX_HEADER
    # also where they are on disk, in another life
    kept = Snapshots(store)
    kept.restore()
    for n in range(10):
        kept.put(1, f"more{n}", b"x")
    store.commit(kept.writes(5.0))
    assert store.count("stream") == MAX_HEADER
    assert {f"more{n}" for n in range(10)} < {kind for _, kind, _ in Snapshots(store).restore()}
    for n in range(10):
        kept.put(1, f"last{n}", b"x")
    kept.end(1)
    store.commit(kept.writes(10.0))
    assert store.count("stream") == 0


def test_an_iterator_that_nobody_empties_keeps_the_newest_and_says_so() -> None:
    inbox, closed = Inbox(), threading.Event()
    messages = Messages(inbox, 0.0, closed.set)
    for n in range(Inbox.MOST + 5):
        inbox.put("log", codec.pack([str(n), "out", 0.0]))
    assert next(messages) == Error("5 messages were left out: they came faster than they were taken")
    assert next(messages) == Log("5", "out", 0.0)
    inbox.put("log", codec.pack(["new", "out", 0.0]))
    assert next(messages) == Log("6", "out", 0.0)
    messages.close()
    assert closed.is_set()
    assert list(messages) == []


def test_closing_an_iterator_wakes_all_who_wait_in_it() -> None:
    messages = Messages(Inbox(), None, lambda: None)
    found: list[list[Any]] = []
    waiting = [threading.Thread(target=lambda: found.append(list(messages)), daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    messages.close()
    for thread in waiting:
        thread.join(10)
    assert found == [[], []]


# -- on the local service ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    service = LocalService()
    service.configure(slots=2)
    yield service
    service.close()


class Talks:
    """Says what it is told to; goes on when *go* is there."""

    def __init__(self, go: Path) -> None:
        self.go = go

    def run(self) -> int:
        env = park.environment()
        print("it begins")
        env.publish(park.Progress(1, 4))
        env.publish({"kind": "axes", "names": ["q", "I"]})
        while not self.go.exists():
            time.sleep(0.01)
            env.ready()
        for n in range(500):
            env.publish({"kind": "count", "n": n})
        print("a warning", file=sys.stderr)
        logging.getLogger("model").warning("negative %s", "width")
        env.publish(park.Log("nearly", "debug"))
        env.publish(park.Progress(4, 4))
        return 7


def test_who_follows_from_the_start_gets_everything_in_order(service: LocalService, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    job = service.job(service.start(Talks(tmp_path / "go"), when=1.0))
    messages = list(job.stream(timeout=20))
    assert isinstance(messages[0], Join)
    assert messages[0].record.state == "waiting"
    assert isinstance(messages[1], Start)
    assert isinstance(messages[-1], Complete)
    assert messages[-1].record.state == "complete"
    assert [m["n"] for m in messages if isinstance(m, dict) and m["kind"] == "count"] == list(range(500))
    logs = [(m.level, m.text) for m in messages if isinstance(m, Log)]
    assert logs == [
        ("out", "it begins"),
        ("err", "a warning"),
        ("warning", "negative width"),
        ("debug", "nearly"),
    ]
    assert [(log.level, log.text) for log in job.logs()] == logs
    assert all(time.time() - 60 < log.time <= time.time() for log in job.logs())


def test_who_comes_late_gets_the_state_first_and_then_all(service: LocalService, tmp_path: Path) -> None:
    job = service.job(service.start(Talks(tmp_path / "go")))
    until(lambda: job.progress.done == 1)
    first, second = job.stream(timeout=20), job.stream(timeout=20)
    for messages in (first, second):
        join, progress = next(messages), next(messages)
        assert join.record.state == "running"
        assert progress == park.Progress(1, 4)
    (tmp_path / "go").touch()
    for messages in (first, second):
        assert kinds(messages) == [*["count"] * 500, "Log", "Log", "Log", "Progress", "Complete"]


def test_who_comes_after_the_end_hears_how_it_was(service: LocalService) -> None:
    job = service.job(service.start(lambda: print("done")))
    job.wait()
    assert kinds(job.stream(timeout=20)) == ["Join", "Complete"]
    assert kinds(job.stream(timeout=20, logs=True)) == ["Join", "Log", "Complete"]
    assert [log.text for log in job.logs()] == ["done"]


def fails() -> None:
    raise ValueError("no such width")


def test_the_last_message_says_how_it_ended(service: LocalService) -> None:
    failed = service.job(service.start(fails, when=0.1))
    *_, last = failed.stream(timeout=20)
    assert isinstance(last, Error)
    assert last.text == "ValueError: no such width"
    assert last.record is not None
    aborted = service.job(service.start(abs, [1], when=1000))
    messages = aborted.stream(timeout=20)
    aborted.abort()
    *_, last = messages
    assert isinstance(last, Abort)


def test_a_monitor_hears_of_the_job_s_life(service: LocalService, tmp_path: Path) -> None:
    heard: list[str] = []

    class Monitor:
        def on_start(self, message: Start) -> None:
            heard.append("start")

        def on_count(self, message: dict[str, Any]) -> None:
            heard.append("count")

        def on_complete(self, message: Complete) -> None:
            heard.append("complete")

    (tmp_path / "go").touch()
    service.wait(service.start(Talks(tmp_path / "go"), when=0.1, monitor=Monitor()))
    until(lambda: "complete" in heard)
    assert heard == ["start", *["count"] * 500, "complete"]


def test_a_body_prints_from_threads_and_children_s_output_goes_where_it_went(service: LocalService) -> None:
    def body() -> None:
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()

    job = service.job(service.start(body))
    job.wait()
    assert [log.text for log in job.logs()] == ["from a thread"]


def test_the_streams_of_a_body_are_those_of_its_process(service: LocalService) -> None:
    def body() -> tuple[Any, ...]:
        sys.stdout.buffer.write(b"these bytes are for nobody\n")  # they pass by the log
        found = [
            (of.encoding, of.errors, of.newlines, of.name, of.mode) for of in (sys.__stdout__, sys.stdout)
        ]
        return (*found, sys.stderr.encoding, "é".encode(sys.stdout.encoding))

    job = service.job(service.start(body))
    plain, seen, *others = job.wait(20)
    assert seen == plain
    assert None not in plain[:2]
    assert len(others) == 2
    assert job.logs() == []


def test_what_is_logged_keeps_its_traceback(service: LocalService) -> None:
    def body() -> None:
        try:
            raise ValueError("no such width")
        except ValueError:
            logging.getLogger("model").exception("unit %d is skipped", 7)

    job = service.job(service.start(body))
    job.wait(20)
    (log,) = job.logs()
    first, second, *_, last = log.text.split("\n")
    assert (log.level, first) == ("error", "unit 7 is skipped")
    assert second.startswith("Traceback")
    assert last == "ValueError: no such width"


def test_units_print_to_the_log_of_their_job(service: LocalService) -> None:
    def driver() -> None:
        print("before")
        list(park.environment().map(lambda x: print("unit", x), [1, 2, 3]))
        print("after")

    job = service.job(service.start(driver))
    job.wait()
    lines = "\n".join(log.text for log in job.logs()).split("\n")
    assert (lines[0], lines[-1]) == ("before", "after")
    assert sorted(lines[1:-1]) == ["unit 1", "unit 2", "unit 3"]


@pytest.mark.parametrize("kind", ["start", "complete", "log"])
def test_kinds_of_park_s_own_are_refused(service: LocalService, kind: str) -> None:
    with pytest.raises(park.JobFailed, match="PARK's own: choose another name"):
        service.wait(service.start(lambda: park.environment().publish({"kind": kind})))


def test_following_what_is_not_there(service: LocalService) -> None:
    for ask in (service.stream, service.logs):
        with pytest.raises(park.UnknownJob, match="job 999 is unknown"):
            ask(999)
    held = service.start(abs, [1], when=1000)
    messages = service.stream(held, timeout=0.05)
    next(messages)
    with pytest.raises(park.WaitTimeout, match=r"no message came within 0.05 s"):
        next(messages)
    service.abort(held)


def test_nothing_is_held_for_who_has_heard_the_last_or_went_away(service: LocalService) -> None:
    held = service.start(abs, [1], when=1000)
    first, second = service.stream(held, timeout=20), service.stream(held, timeout=20)
    followers = service._link._followers
    assert [len(followers[held])] == [2]
    del first
    until(lambda: len(followers[held]) == 1)
    service.abort(held)
    assert kinds(second) == ["Join", "Abort"]
    assert not followers


def on_disk(home: Path, room: str) -> int:
    """Records in a room of a broker's store, seen from outside."""
    env = lmdb.open(str(home / "jobs.mdb"), subdir=False, readonly=True, lock=False, max_dbs=32)
    with env, env.begin() as txn:
        return int(txn.stat(env.open_db(room.encode(), txn, create=False))["entries"])


# -- over a broker -----------------------------------------------------------------------------------


def test_streams_and_logs_from_elsewhere_and_over_a_broker_s_death(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        number = service.start(Talks(tmp_path / "go"))
        job = fabric.connect().job(number)
        messages = job.stream(timeout=20)
        assert isinstance(next(messages), Join)
        until(lambda: job.logs())
        until(lambda: on_disk(fabric.home, "stream"))
        fabric.broker.kill()
        fabric.start_broker()
        again = next(m for m in messages if isinstance(m, Join))
        assert again.record.job == number
        assert next(messages) == park.Progress(1, 4)  # as it was kept
        until(
            lambda: service.status(number).running
        )  # its kernel is back; what it says meanwhile nobody hears
        (tmp_path / "go").touch()
        found = kinds(messages)
        assert found.count("count") == 500
        assert found[-1] == "Complete"
        # the first line may have been younger than the second that a broker's death costs
        assert [log.text for log in job.logs()][-3:] == ["a warning", "negative width", "nearly"]


class Hears:
    """A monitor that writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_join(self, message: Join) -> None:
        self.heard.append("join")

    def on_complete(self, message: Complete) -> None:
        self.heard.append("complete")

    def on_error(self, message: Error) -> None:
        self.heard.append(message.text)


def test_the_last_message_comes_once_and_one_who_waits_for_a_job_that_is_gone_is_told(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service, ended, lost = fabric.connect(), Hears(), Hears()
        service.start(abs, [1], monitor=ended)
        held = service.start(abs, [1], when=1000, monitor=lost)
        messages = service.stream(held)
        assert isinstance(next(messages), Join)
        until(lambda: ended.heard[-1:] == ["complete"])
        fabric.broker.kill()
        fabric.start_broker()
        assert isinstance(next(messages), Join)
        assert ended.heard == ["join", "complete"]
        fabric.broker.kill()
        (fabric.home / "jobs.mdb").unlink()
        fabric.start_broker()
        with pytest.raises(park.UnknownJob, match=f"job {held} is unknown"):
            next(messages)
        until(lambda: len(lost.heard) == 3)
        assert lost.heard[:2] == ["join", "join"]
        assert "is unknown" in lost.heard[2]


def test_who_follows_a_job_is_told_that_the_broker_is_away_and_let_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.link.NOTICE", 0.5)
    with Fabric(tmp_path) as fabric, connect(fabric.address, "tester", patience=2.5) as service:
        monitor = Hears()
        messages = service.stream(service.start(abs, [1], when=1000, monitor=monitor))
        assert isinstance(next(messages), Join)
        fabric.broker.kill()
        with pytest.raises(park.NoBroker, match=r"has been away for \d s"):
            next(messages)
        assert "no sign of" in capsys.readouterr().err
        until(lambda: len(monitor.heard) == 2)
        assert "has been away for" in monitor.heard[1]

"""A job's own stream and log: who follows when, what comes, in which order, and what is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import park
from park.broker.effects import Heard, Publication, Write
from park.broker.storage.job_messages import (
    KEEP_ENDED_SECONDS,
    MAX_LOG_BYTES,
    MAX_SAID_BYTES,
    MAX_WAITING_ENDED,
    MAX_WRITE_BYTES,
    URGENT_BYTES,
    URGENT_WRITE_SECONDS,
    WRITE_SECONDS,
    Batch,
    JobMessages,
)
from park.broker.storage.latest import LatestMessages
from park.broker.storage.memory import MemoryStore
from park.client.stream import Abort, Complete, Error, Inbox, Join, Messages, Start
from park.core.connect import connect
from park.kernel.machine.printed_lines import BURST_BYTES, MAX_LINE_BYTES, PrintedLines
from park.local import LocalService
from park.model import MAX_LATEST_BYTES, Log
from park.util.msgstream import MAX_HEADER_MESSAGES
from park.wire import codec
from park.wire.print_marks import Printed, mark, split
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


def kinds(messages: Any) -> list[str]:
    return [m["kind"] if isinstance(m, dict) else type(m).__name__ for m in messages]


# -- parts -------------------------------------------------------------------------------------------


def printed_of(*printed: tuple[str, bytes]) -> PrintedLines:
    lines = PrintedLines()
    for stream, data in printed:
        for piece in split(data)[0]:
            lines.add(stream, piece, 1.0)
    return lines


def test_lines_wait_until_they_have_ended() -> None:
    printed = printed_of(("out", b"one\ntw"), ("err", b"oh"), ("out", b"o\n"))
    assert [(line.level, line.text) for line in printed.take(False)] == [("out", "one\ntwo")]
    assert not printed.waiting
    assert printed.begun
    assert [(line.level, line.text) for line in printed.take(True)] == [("err", "oh")]
    assert not printed.begun


def test_who_prints_without_end_is_cut_and_the_rest_is_counted() -> None:
    printed = printed_of(*[("out", b"%d\n" % n) for n in range(100_000)])
    *kept, last = printed.take(True)
    lines = "\n".join(line.text for line in kept).split("\n")
    assert lines == [str(n) for n in range(len(lines))]
    assert sum(len(line.text) for line in kept) <= BURST_BYTES + MAX_LINE_BYTES
    assert last.text == f"({100_000 - len(lines):,} more lines are left out)"
    printed.add("out", Printed(b"x" * 1_000_000), 1.0)
    assert len(printed.take(True)[0].text) <= MAX_LINE_BYTES + 3
    # and a line that is cut says so, in however many parts it came
    for parts in ([b"y" * 3 * MAX_LINE_BYTES + b"\n"], [b"y" * (MAX_LINE_BYTES - 1)] * 3 + [b"\n"]):
        for part in parts:
            printed.add("out", Printed(part), 1.0)
        assert printed.take(False)[0].text == "y" * MAX_LINE_BYTES + "..."


@given(st.data(), st.booleans())
def test_marks_give_two_streams_one_order(data: st.DataObject, with_children: bool) -> None:
    """However the bytes of the streams are cut, each line comes once, with its level, in the order of its stream, and
    where nothing but Python prints, in the order of both.
    """
    wanted: list[tuple[str, str, str]] = []
    streams = {"out": b"", "err": b""}
    for number in range(1, data.draw(st.integers(1, 12)) + 1):
        stream = data.draw(st.sampled_from(sorted(streams)))
        level = data.draw(st.sampled_from(["", "warning"]))
        text = data.draw(st.text(st.characters(exclude_characters="\n\x1e\x1f", codec="utf-8"), max_size=5))
        streams[stream] += f"{mark(2 * number, level)}{stream} {text}\n{mark(2 * number + 1)}".encode()
        wanted.append((stream, level or stream, f"{stream} {text}"))
        if with_children:
            streams[stream] += f"{stream} after {number}\n".encode()
            wanted.append((stream, stream, f"{stream} after {number}"))
    printed, rest = PrintedLines(), dict.fromkeys(streams, b"")
    while any(streams.values()):
        stream = data.draw(st.sampled_from([stream for stream in streams if streams[stream]]))
        size = data.draw(st.integers(1, len(streams[stream])))
        pieces, rest[stream] = split(rest[stream] + streams[stream][:size])
        streams[stream] = streams[stream][size:]
        for piece in pieces:
            printed.add(stream, piece, 1.0)
    found = [(log.level, text) for log in printed.take(True) for text in log.text.split("\n")]
    if not with_children:
        assert found == [line[1:] for line in wanted]
    for stream in streams:
        own = [line[1:] for line in wanted if line[0] == stream]
        assert [line for line in found if line[1].startswith(stream)] == own


def line(text: str) -> bytes:
    return codec.pack([text, "out", 0.0])


class Desk:
    """Messages of jobs on a store, with what a broker does around them. Jobs are followed and the disk has time."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.job_messages = JobMessages(self.store)
        self.heard: list[Heard] = []
        self.now = 100.0

    def say(self, number: int, text: str = "", job: int = 1, kind: str = "log", **more: Any) -> bool:
        stored, followed = more.pop("stored", True), more.pop("followed", True)
        said = Publication(job, kind, line(text or f"{number}"), False, more.pop("attempt", 7), number, b"k")
        return self.job_messages.take(said, stored, followed)

    def write(self, seconds: float = 1.0, quiet: bool = True) -> list[Batch]:
        """Some seconds later: what is to be written is; it is on disk when the batches are `told`."""
        self.now += seconds
        writes, batches = self.job_messages.batches(self.now, quiet)
        self.written = writes
        self.store.commit(writes)
        return batches

    def tell(self, batches: list[Batch]) -> list[str]:
        """The messages of followers, each by its first word."""
        self.heard += [heard for batch in batches for heard in batch.heard]
        found = [e for batch in batches for e in self.job_messages.on_disk(batch, self.now)]
        return [codec.unpack(e.data)[0] for e in found]

    def texts(self, job: int = 1) -> list[str]:
        return [codec.unpack(data)[0] for data in self.job_messages.lines(job)]

    def since(self, place: int, job: int = 1) -> list[str]:
        return [codec.unpack(e.data)[0] for e in self.job_messages.since(job, place)[1]]


def test_a_message_is_passed_on_and_its_kernel_told_when_it_is_on_disk() -> None:
    desk = Desk()
    assert desk.say(1)
    assert desk.say(2, kind="count")
    batches = desk.write()
    assert (desk.job_messages.since(1, 0), desk.heard) == ((0, []), [])
    assert desk.tell(batches) == ["1", "2"]
    assert desk.heard == [(b"k", 7, 2)]
    assert (desk.since(0), desk.since(1), desk.texts()) == (["1", "2"], ["2"], ["1"])
    assert desk.job_messages.deadline == math.inf


def test_what_comes_again_is_dropped_and_its_kernel_told_again_in_this_life_and_the_next() -> None:
    desk = Desk()
    for number in (1, 2):
        desk.say(number)
    batches = desk.write()
    desk.say(2)  # the contact was lost before the disk had it
    desk.say(3)
    assert desk.tell(batches) == ["1", "2"]
    assert desk.tell(desk.write()) == ["3"]
    again = Desk(desk.store)
    for number in (2, 3, 4):
        again.say(number)
    assert again.tell(again.write()) == ["4"]
    assert again.heard == [(b"k", 7, 4)]
    assert again.say(3)
    assert (again.tell(again.write()), again.heard[-1]) == ([], (b"k", 7, 4))
    assert (again.texts(), again.since(3)) == (["1", "2", "3", "4"], ["4"])
    # another attempt has numbers of its own
    again.say(1, "other", attempt=8)
    assert again.tell(again.write()) == ["other"]


def test_what_is_not_numbered_keeps_its_place_among_the_others() -> None:
    desk = Desk()
    assert not desk.say(0, kind="progress")  # nothing is before it
    desk.say(1)
    assert desk.say(0, "half", kind="progress")
    desk.say(2)
    batches = desk.write()
    assert desk.say(0, "most", kind="progress")
    assert desk.tell(batches) == ["1", "half", "2"]
    assert desk.tell(desk.write()) == ["most"]
    assert not desk.say(0, kind="progress")
    assert desk.since(0) == ["1", "2"]


def test_who_follows_does_not_wait_and_others_are_written_once_a_second() -> None:
    desk = Desk()
    desk.tell(desk.write())
    desk.say(1, followed=False)
    assert desk.tell(desk.write(0.0)) == ["1"]
    desk.say(2, followed=False)
    assert desk.tell(desk.write(0.9)) == []
    desk.job_messages.hurry(1)
    assert desk.tell(desk.write(0.0)) == ["2"]
    desk.say(3, followed=False)
    desk.say(4, "x" * URGENT_BYTES, followed=False)
    assert len(desk.tell(desk.write(URGENT_WRITE_SECONDS))) == 2
    desk.say(5, followed=False)
    assert desk.tell(desk.write(WRITE_SECONDS, quiet=False)) == []
    assert desk.tell(desk.write(WRITE_SECONDS)) == ["5"]


def test_all_that_a_job_has_said_goes_to_the_disk_with_its_end_and_is_kept_for_a_while() -> None:
    desk = Desk()
    desk.say(1, followed=False)
    desk.tell(desk.write())
    desk.say(2, followed=False)
    desk.say(3, kind="count", followed=False)
    desk.job_messages.end(1)
    assert desk.job_messages.has_ends
    batches = desk.write(0.0, quiet=False)
    assert desk.texts() == ["1", "2"]
    assert desk.tell(batches) == ["2", "3"]
    assert not desk.job_messages._streams
    assert (desk.texts(), desk.since(1)) == (["1", "2"], ["2", "3"])
    assert desk.job_messages.deadline == desk.now + KEEP_ENDED_SECONDS
    later = Desk(desk.store)
    later.job_messages.begin(set(), later.now)
    later.write(KEEP_ENDED_SECONDS)
    assert (later.store.count("said"), later.job_messages.deadline) == (0, math.inf)
    assert later.texts() == ["1", "2"]


def test_sessions_are_not_written_and_who_is_deleted_leaves_nothing() -> None:
    desk = Desk()
    desk.say(1, stored=False)
    assert desk.tell(desk.write()) == ["1"]
    assert desk.written == []
    assert desk.texts() == ["1"]
    desk.say(1, job=2)
    desk.job_messages.forget(2)
    assert desk.tell(desk.write()) == []
    assert desk.written == []
    assert desk.heard == [(b"k", 7, 1)] * 2


def test_logs_and_messages_are_bounded_and_records_that_are_spent_go() -> None:
    desk = Desk()
    number = 0
    for second in range(1, 50):
        for n in range(20):
            number += 1
            desk.say(number, f"{second} {n} " + "x" * 500, kind="log" if n % 2 else "count")
        batches = desk.write()
        assert sum(len(w.value) for w in desk.written if isinstance(w.value, bytes)) < 20 * 600
        assert len(desk.tell(batches)) == 20
        assert Desk(desk.store).texts() == desk.texts()
    for n in range(100):
        desk.say(number + 1 + n, "x" * 10_000)
        desk.tell(desk.write())
    assert sum(map(len, desk.job_messages.lines(1))) <= MAX_LOG_BYTES
    assert sum(len(value) for _, value in desk.store.scan("log")) < MAX_LOG_BYTES + 20_000
    last, kept = desk.job_messages.since(1, 0)
    assert last == number + 100 > len(kept) > 20
    # what is longer than all that is kept is passed on, and not kept
    desk.say(number + 101, "y" * MAX_SAID_BYTES, kind="count")
    assert len(desk.tell(desk.write())) == 1
    assert Desk(desk.store).job_messages.since(1, last) == (last + 1, [])


def test_a_writing_is_bounded_and_all_get_their_turn() -> None:
    desk = Desk()
    for job in range(1, 31):
        for n in range(25):
            desk.say(n + 1, "x" * 10_000, job=job)
    lots = 0
    while desk.job_messages.deadline < math.inf:
        desk.tell(desk.write(URGENT_WRITE_SECONDS))
        assert (
            sum(len(w.value) for w in desk.written if isinstance(w.value, bytes))
            < MAX_WRITE_BYTES + MAX_LOG_BYTES
        )
        lots += 1
    assert (lots, desk.store.count("log")) == (6, 30)


def test_messages_wait_for_a_disk_that_is_full_in_bounded_memory() -> None:
    desk = Desk()
    jobs = range(1, 2 * MAX_WAITING_ENDED + 1)
    for job in jobs:
        desk.say(1, f"of {job}", job=job)
        desk.job_messages.end(job)
    desk.job_messages.put_off(desk.now)
    assert desk.job_messages.deadline == desk.now + WRITE_SECONDS
    # their ends are told all the same, after what they have said
    assert [codec.unpack(e.data)[0] for e in desk.job_messages.last_words(jobs[-1])] == [f"of {jobs[-1]}"]
    assert desk.tell(desk.write()) == [f"of {job}" for job in jobs[MAX_WAITING_ENDED:-1]]
    assert [w.key for w in desk.written] == [(job, 1) for job in jobs[MAX_WAITING_ENDED:]]
    assert desk.job_messages.deadline == math.inf
    assert len(desk.heard) == len(jobs)


@pytest.mark.parametrize("damage", [b"", b"\xc1", codec.pack({"at": [1]}), codec.pack([line("old")])])
def test_a_record_that_cannot_be_read_is_named_and_the_others_are_there(
    damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk()
    for number in (1, 2, 3):
        desk.say(number)
        desk.tell(desk.write())
    desk.store.commit([Write("log", (1, 2), damage)])
    assert Desk(desk.store).texts() == ["1", "3"]
    assert "the record (1, 2) in namespace 'log' cannot be read" in capsys.readouterr().err


def test_the_latest_messages_outlive_the_broker_and_go_with_their_job() -> None:
    store = MemoryStore()
    first = LatestMessages(store)
    for n in range(5):
        first.put(1, "progress", b"%d" % n)
    first.put(2, "improvement", b"best")
    store.commit(first.writes(10.0))
    first.put(1, "progress", b"6")
    assert first.writes(10.5) == []
    second = LatestMessages(store)
    assert second.restore() == [(1, "progress", b"4"), (2, "improvement", b"best")]
    second.put(2, "progress", b"1")
    second.end(2)
    store.commit(second.writes(11.0))
    assert second.deadline == math.inf
    assert LatestMessages(store).restore() == [(1, "progress", b"4")]


def test_as_many_kinds_of_a_job_are_kept_as_the_hub_has_and_the_oldest_go() -> None:
    store = MemoryStore()
    kept = LatestMessages(store)
    for n in range(MAX_HEADER_MESSAGES + 10):
        kept.put(1, f"kind{n}", b"x")
    store.commit(kept.writes(0.0))
    assert store.count("stream") == MAX_HEADER_MESSAGES
    # also where they are on disk, in another life
    kept = LatestMessages(store)
    kept.restore()
    for n in range(10):
        kept.put(1, f"more{n}", b"x")
    store.commit(kept.writes(5.0))
    assert store.count("stream") == MAX_HEADER_MESSAGES
    assert {f"more{n}" for n in range(10)} < {kind for _, kind, _ in LatestMessages(store).restore()}
    for n in range(10):
        kept.put(1, f"last{n}", b"x")
    kept.end(1)
    store.commit(kept.writes(10.0))
    assert store.count("stream") == 0


def test_an_iterator_that_nobody_empties_keeps_the_newest_and_says_so() -> None:
    inbox, closed = Inbox(), threading.Event()
    messages = Messages(inbox, 0.0, closed.set)
    for n in range(Inbox.MAX_WAITING + 5):
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
    messages = list(job.stream(timeout=60))
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


def test_progress_keeps_its_pace_whatever_is_said_between(service: LocalService) -> None:
    def body() -> None:
        env = park.environment()
        for n in range(1000):
            env.publish(park.Progress(n + 1, 1000))
            env.publish({"kind": "note", "n": n})

    messages = list(service.stream(service.start(body, when=0.5), timeout=60))
    assert [m["n"] for m in messages if isinstance(m, dict)] == list(range(1000))
    progress = [m.done for m in messages if isinstance(m, park.Progress)]
    assert progress == sorted(set(progress))
    assert progress[-1] == 1000, "the newest is not left out"
    assert len(progress) < 200, "some ten a second"


def test_who_comes_late_gets_the_state_first_and_then_all(service: LocalService, tmp_path: Path) -> None:
    job = service.job(service.start(Talks(tmp_path / "go")))
    until(lambda: job.progress.done == 1)
    first, second = job.stream(timeout=60), job.stream(timeout=20)
    for messages in (first, second):
        assert next(messages).record.state == "running"
        # a line of the log may have been on its way to the disk
        assert next(m for m in messages if not isinstance(m, Log)) == park.Progress(1, 4)
    (tmp_path / "go").touch()
    for messages in (first, second):
        found = kinds(messages)[-505:]  # what was said before may have been on its way to the disk
        assert found == [*["count"] * 500, "Log", "Log", "Log", "Progress", "Complete"]


def test_who_comes_after_the_end_hears_how_it_was(service: LocalService) -> None:
    job = service.job(service.start(lambda: print("done")))
    job.wait()
    assert kinds(job.stream(timeout=60)) == ["Join", "Complete"]
    assert kinds(job.stream(timeout=20, logs=True)) == ["Join", "Log", "Complete"]
    assert [log.text for log in job.logs()] == ["done"]


def fails() -> None:
    raise ValueError("no such width")


def test_the_last_message_says_how_it_ended(service: LocalService) -> None:
    failed = service.job(service.start(fails, when=0.1))
    *_, last = failed.stream(timeout=60)
    assert isinstance(last, Error)
    assert last.text == "ValueError: no such width"
    assert last.record is not None
    aborted = service.job(service.start(abs, [1], when=1000))
    messages = aborted.stream(timeout=60)
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


def lines_of(job: park.Job) -> list[tuple[str, str]]:
    return [(log.level, text) for log in job.logs() for text in log.text.split("\n")]


def prints_in_all_ways(x: int) -> int:
    print("python", x)
    os.system(f"echo shell {x}")
    thread = threading.Thread(target=print, args=("a thread",))
    thread.start()
    thread.join()
    os.write(1, b"a descriptor\n")
    library = ctypes.CDLL(None)
    library.puts(b"a library in C")
    library.fflush(None)
    child = multiprocessing.get_context("fork").Process(target=print, args=("a forked child",))
    child.start()
    child.join()
    sys.stdout.buffer.write(b"bytes \xff\n")
    os.write(2, b"an error\n")
    logging.getLogger("model").warning("negative %s", "width")
    os.system("echo after the warning >&2")
    print("a line without end", end="")
    return x


IN_ALL_WAYS = [
    ("out", "shell"),
    ("out", "a thread"),
    ("out", "a descriptor"),
    ("out", "a library in C"),
    ("out", "a forked child"),
    ("out", "bytes \\xff"),
    ("err", "an error"),
    ("warning", "negative width"),
    ("err", "after the warning"),
    ("out", "a line without end"),
]


def check_all_ways(service: Any) -> None:
    for inputs in (range(2), range(5, 6)):
        job = service.job(service.start(prints_in_all_ways, inputs))
        assert job.wait(50) == list(inputs)
        found = lines_of(job)
        for x in inputs:
            assert found.index(("out", f"python {x}")) < found.index(("out", f"shell {x}"))
        found = [(level, "shell" if text.startswith("shell") else text) for level, text in found]
        found = [line for line in found if not line[1].startswith("python")]
        assert sorted(found) == sorted(IN_ALL_WAYS * len(inputs))
    for stream in ("out", "err"):  # of one unit, within one stream
        own = [line for line in IN_ALL_WAYS if (line[0] == "out") == (stream == "out")]
        assert [line for line in found if (line[0] == "out") == (stream == "out")] == own


def test_whatever_prints_prints_to_the_log(service: LocalService, capfd: pytest.CaptureFixture[str]) -> None:
    check_all_ways(service)
    assert "a line without end" in capfd.readouterr().out


def test_lines_of_bodies_and_children_come_in_their_order(service: LocalService) -> None:
    def body() -> None:
        for n in range(301):
            print(n, file=(sys.stdout, sys.stderr)[n % 2])
        os.system("echo 301")
        os.kill(os.getpid(), signal.SIGKILL)

    job = service.job(service.start(body))
    with pytest.raises(park.JobFailed):
        job.wait(50)
    texts = [text for _, text in lines_of(job)]
    for begin in [at for at, text in enumerate(texts) if text == "0"]:  # each attempt
        assert texts[begin : begin + 302] == [str(n) for n in range(302)]


def test_a_child_that_outlives_its_unit_holds_nothing_and_prints_to_no_other_job(
    service: LocalService, tmp_path: Path
) -> None:
    def body() -> None:
        script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo late"
        subprocess.Popen(["sh", "-c", script], start_new_session=True)
        print("the unit ends")

    def another_body() -> None:
        (tmp_path / "go").touch()
        time.sleep(0.1)
        print("another job")

    job = service.job(service.start(body))
    job.wait(50)
    other = service.job(service.start(another_body))
    other.wait(50)
    assert lines_of(job) == [("out", "the unit ends")]
    assert lines_of(other) == [("out", "another job")]


def test_a_file_behind_a_stream_gets_what_is_printed_and_no_marks(
    service: LocalService, tmp_path: Path
) -> None:
    def body() -> None:
        kept = os.dup(1), os.dup(2)
        with (tmp_path / "file").open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            print("for the file")
            logging.getLogger("model").warning("a warning")
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
        with contextlib.redirect_stderr(io.StringIO()) as text:
            logging.getLogger("model").warning("into a text")
        print("for the log", text.getvalue().strip())

    job = service.job(service.start(body))
    job.wait(50)
    assert (tmp_path / "file").read_text() == "for the file\na warning\n"
    assert lines_of(job) == [("out", "for the log into a text")]


def test_the_streams_of_a_body_are_those_of_its_process(service: LocalService) -> None:
    def body() -> tuple[Any, ...]:
        found = [
            (of.encoding, of.errors, of.newlines, of.name, of.mode) for of in (sys.__stdout__, sys.stdout)
        ]
        return (*found, sys.stderr.encoding, "é".encode(sys.stdout.encoding))

    job = service.job(service.start(body))
    plain, seen, *others = job.wait(50)
    assert seen == plain
    assert None not in plain[:2]
    assert len(others) == 2


def test_what_is_logged_keeps_its_traceback(service: LocalService) -> None:
    def body() -> None:
        try:
            raise ValueError("no such width")
        except ValueError:
            logging.getLogger("model").exception("unit %d is skipped", 7)

    job = service.job(service.start(body))
    job.wait(50)
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
    first, second = service.stream(held, timeout=60), service.stream(held, timeout=20)
    followers = service._link.followers.by_job
    assert [len(followers[held])] == [2]
    del first
    until(lambda: len(followers[held]) == 1)
    service.abort(held)
    assert kinds(second) == ["Join", "Abort"]
    assert not followers


def test_a_monitor_that_is_broken_breaks_nothing_else(
    service: LocalService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        @property
        def on_count(self) -> Any:
            raise RuntimeError("no such display")

    (tmp_path / "go").touch()
    other = Counted()
    job = service.job(service.start(Talks(tmp_path / "go"), when=0.2, monitor=Broken()))
    service.follow(job.id, other)
    assert job.wait(50) == 7
    until(lambda: other.others)
    assert other.numbers == list(range(500))
    assert capsys.readouterr().err.count("follows it no longer") == 1
    assert service.wait(service.start(abs, [-1])) == [1]


def test_progress_that_is_too_long_to_be_kept_is_refused(service: LocalService) -> None:
    def body() -> None:
        park.environment().publish(park.Improvement(1.0, {"x": b"x" * MAX_LATEST_BYTES}))
        park.environment().ready()

    with pytest.raises(
        park.JobFailed, match=r"the improvement takes 1,048,[0-9]* bytes; 1,048,576 at most are kept"
    ):
        service.wait(service.start(body))


def on_disk(home: Path, room: str) -> int:
    """Records in a room of a broker's store, seen from outside."""
    env = lmdb.open(str(home / "jobs.mdb"), subdir=False, readonly=True, lock=False, max_dbs=32)
    with env, env.begin() as txn:
        return int(txn.stat(env.open_db(room.encode(), txn, create=False))["entries"])


# -- over a broker -----------------------------------------------------------------------------------


def test_whatever_prints_under_a_kernel_prints_to_the_log(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(2)
        check_all_ways(fabric.connect())


def test_streams_and_logs_from_elsewhere_and_over_a_broker_s_death(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        number = service.start(Talks(tmp_path / "go"))
        job = fabric.connect().job(number)
        messages = job.stream(timeout=60)
        assert isinstance(next(messages), Join)
        until(lambda: job.logs())
        until(lambda: on_disk(fabric.home, "stream"))
        fabric.broker.kill()
        (tmp_path / "go").touch()  # so it says the rest while nobody hears it
        time.sleep(0.2)
        fabric.start_broker()
        again = next(m for m in messages if isinstance(m, Join))
        assert again.record.job == number
        found = list(messages)
        assert [m["n"] for m in found if isinstance(m, dict) and m["kind"] == "count"] == list(range(500))
        assert kinds(found)[-1] == "Complete"
        assert [log.text for log in job.logs()] == ["it begins", "a warning", "negative width", "nearly"]


class Counts:
    """Says and prints *steps* numbers, one each *pause* seconds."""

    def __init__(self, steps: int, pause: float) -> None:
        self.steps, self.pause = steps, pause

    def run(self) -> int:
        env = park.environment()
        for n in range(self.steps):
            env.publish({"kind": "count", "n": n})
            print(f"line {n}")
            time.sleep(self.pause)
        return self.steps


class Counted:
    """A monitor that writes down what `Counts` has said."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.lines: list[str] = []
        self.others: list[str] = []

    def on_count(self, message: dict[str, Any]) -> None:
        self.numbers.append(message["n"])

    def on_log(self, message: Log) -> None:
        self.lines += message.text.split("\n")

    def on_complete(self, message: Complete) -> None:
        self.others.append("complete")

    def on_error(self, message: Error) -> None:
        self.others.append(message.text)


def test_every_message_comes_once_and_in_order_however_often_the_broker_dies(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service, monitor = fabric.connect(), Counted()
        job = service.job(service.start(Counts(2000, 0.001), monitor=monitor))
        for part in (400, 800, 1200):
            until(lambda: len(monitor.numbers) >= part)  # noqa: B023
            fabric.broker.kill()
            fabric.start_broker()
        assert job.wait(60) == 2000
        until(lambda: monitor.others)
        assert (monitor.others, monitor.numbers) == (["complete"], list(range(2000)))
        lines = [f"line {n}" for n in range(2000)]
        assert monitor.lines == lines
        assert "\n".join(log.text for log in job.logs()).split("\n") == lines


@pytest.mark.heavy
def test_who_was_away_for_too_long_is_told_how_much_is_missing(tmp_path: Path) -> None:
    def much(begin: Path, go: Path) -> None:
        env = park.environment()
        while not begin.exists():
            time.sleep(0.01)
        env.publish({"kind": "count", "n": 0})
        while not go.exists():
            time.sleep(0.01)
        for n in range(1, 41):
            env.publish({"kind": "count", "n": n, "data": bytes(100_000)})

    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        job = service.job(service.start(functools.partial(much, tmp_path / "begin", tmp_path / "go")))
        reader = fabric.script(
            """
            import park, sys
            with park.connect() as service:
                for message in service.stream(1, timeout=60):
                    print(message["n"] if isinstance(message, dict) else message, flush=True)
            """,
        )
        until(lambda: "Join" in reader.text, why=lambda: reader.text)
        (tmp_path / "begin").touch()
        until(lambda: "\n0\n" in reader.text, why=lambda: reader.text)
        reader.signal(signal.SIGSTOP)
        fabric.broker.kill()
        fabric.start_broker()
        (tmp_path / "go").touch()
        job.wait(50)
        reader.signal(signal.SIGCONT)
        reader.wait()
        told = reader.text.rstrip().split("\n")[-13:]
        assert told[0].startswith("Join")
        assert "30 messages of job 1 were left out: the broker does not keep them any more" in told[1]
        assert told[2:-1] == [str(n) for n in range(31, 41)]
        assert told[-1].startswith("Complete")


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
    monkeypatch.setattr("park.client.broker_notices.AWAY_NOTICE_SECONDS", 0.5)
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

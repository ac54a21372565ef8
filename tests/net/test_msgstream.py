"""The hub of jobs' messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from park.util.msgstream import MAX_HEADER_MESSAGES, message_stream
from park.wire.messages import Stream


def test_everybody_who_watches_gets_what_is_published() -> None:
    hub = message_stream()
    assert hub.subscribe(1, "a") == []
    hub.subscribe(1, "b")
    hub.subscribe(2, "c")

    assert hub.publish(1, "log", b"line") == [
        ("a", Stream(job=1, kind="log"), b"line"),
        ("b", Stream(job=1, kind="log"), b"line"),
    ]
    assert hub.publish(3, "log", b"nobody") == []


def test_who_comes_late_gets_the_header_first() -> None:
    hub = message_stream()
    hub.publish(1, "improvement", b"chisq 9")
    hub.publish(1, "progress", b"1 of 3")
    hub.publish(1, "log", b"not kept")
    hub.publish(1, "axes", b"q, I", header=True)
    hub.publish(1, "progress", b"2 of 3")

    assert hub.subscribe(1, "late") == [
        (Stream(job=1, kind="improvement", header=True), b"chisq 9"),
        (Stream(job=1, kind="axes", header=True), b"q, I"),
        (Stream(job=1, kind="progress", header=True), b"2 of 3"),
    ]
    assert hub.publish(1, "progress", b"3 of 3") == [("late", Stream(job=1, kind="progress"), b"3 of 3")]


def test_a_header_that_is_set_is_sent_to_nobody_who_watches() -> None:
    hub = message_stream()
    hub.subscribe(1, "a")

    hub.set_header(1, "axes", memoryview(b"q, I"))

    assert hub.subscribe(1, "b") == [(Stream(job=1, kind="axes", header=True), b"q, I")]


def test_watching_twice_is_watching_once() -> None:
    hub = message_stream()
    hub.subscribe(1, "a")
    hub.subscribe(1, "a")

    assert len(hub.publish(1, "log", b"")) == 1
    hub.unsubscribe(1, "a")
    hub.unsubscribe(1, "a")
    assert hub.publish(1, "log", b"") == []


def test_a_peer_that_is_gone_watches_nothing() -> None:
    hub = message_stream()
    for job in (1, 2):
        hub.subscribe(job, "gone")
        hub.subscribe(job, "here")

    hub.drop_peer("gone")

    assert [peer for job in (1, 2) for peer, *_ in hub.publish(job, "log", b"")] == ["here", "here"]


def test_a_job_that_ended_is_forgotten() -> None:
    hub = message_stream()
    hub.subscribe(1, "a")
    hub.publish(1, "progress", b"half")

    hub.close(1)
    hub.close(1)

    assert repr(hub) == "<message_stream 0 headers, 0 watchers>"
    assert hub.publish(1, "log", b"") == []
    assert hub.subscribe(1, "b") == []


def test_a_header_is_bounded() -> None:
    hub = message_stream()
    for n in range(3 * MAX_HEADER_MESSAGES):
        hub.publish(1, f"kind {n}", b"", header=True)

    kinds = [message.kind for message, _ in hub.subscribe(1, "a")]
    assert kinds == [f"kind {n}" for n in range(2 * MAX_HEADER_MESSAGES, 3 * MAX_HEADER_MESSAGES)]


published = st.tuples(st.sampled_from(["progress", "improvement", "log"]), st.binary(max_size=2))


@given(st.lists(published, max_size=20), st.integers(0, 20))
def test_a_watcher_misses_nothing_from_when_it_joins(messages: list[tuple[str, bytes]], joins: int) -> None:
    hub = message_stream()
    before, after = messages[:joins], messages[joins:]
    for kind, payload in before:
        hub.publish(1, kind, payload)

    got = [(message.kind, payload) for message, payload in hub.subscribe(1, "a")]
    for kind, payload in after:
        got += [(message.kind, bytes(sent)) for _, message, sent in hub.publish(1, kind, payload)]

    kept = {kind: payload for kind, payload in before if kind != "log"}
    assert dict(got[: len(kept)]) == kept
    assert got[len(kept) :] == after

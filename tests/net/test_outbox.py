"""Messages that wait for a slow peer: in order, counted, made late, cut off in words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

import park
from park.broker.effects import Flow
from park.broker.manager import JobManager
from park.model import PYTHON
from park.net.addresses import find_broker
from park.net.callers import Dealer
from park.net.outbox import (
    MAX_UNTAKEN_BYTES,
    MESSAGE_OVERHEAD_BYTES,
    STALLED_BYTES,
    STALLED_SECONDS,
    Outbox,
    StalledPeers,
)
from park.net.polled import HIGH_WATER_MESSAGES
from park.net.sockets import Router
from park.service import ServiceManager
from park.wire import codec, fragments, messages
from park.wire.fragments import PIECE_BYTES, Reassembly, is_part, split
from park.wire.subjects import about
from tests.sim.desk import Desk, of
from tests.sim.functions import blob, code, units
from tests.support.fabric import Fabric, until


class Peer:
    """Takes a given number of messages."""

    def __init__(self) -> None:
        self.room = 0
        self.took: list[Any] = []

    def offer(self, frames: list[Any]) -> bool:
        if self.room:
            self.room -= 1
            self.took.append(frames)
        return len(self.took) > 0 and self.took[-1] is frames


def test_what_waits_goes_in_order_and_is_counted() -> None:
    peer, made = Peer(), []
    outbox = Outbox(peer.offer)

    def late() -> list[Any]:
        made.append(1)
        return [b"late"]

    outbox.put([b"one"])
    outbox.put(late)
    outbox.put([b"three", b"x" * 1000])
    assert outbox.size == 3 * MESSAGE_OVERHEAD_BYTES + 3 + 5 + 1000
    assert not outbox.flush()
    assert not made
    peer.room = 2
    assert not outbox.flush()
    assert peer.took == [[b"one"], [b"late"]]
    peer.room = 1
    assert outbox.flush()
    assert (outbox.size, len(peer.took), made) == (0, 3, [1])


def test_a_long_message_waits_in_pieces_that_share_its_bytes() -> None:
    peer = Peer()
    outbox = Outbox(peer.offer)
    frames = codec.encode(messages.Blob(b"h"), bytes(5 * PIECE_BYTES))
    outbox.put(frames)
    assert outbox.size < 5 * PIECE_BYTES + 20 * MESSAGE_OVERHEAD_BYTES
    peer.room = 100
    assert outbox.flush()
    joiner = Reassembly()
    assert [joiner.feed(piece) for piece in peer.took[:-1]] == [None] * (len(peer.took) - 1)
    assert joiner.feed(peer.took[-1]) == frames


def said(*names: Any) -> frozenset[Any]:
    return frozenset(names)


def test_a_short_message_passes_a_long_one_that_it_has_nothing_to_do_with() -> None:
    peer = Peer()
    outbox = Outbox(peer.offer)
    long = [b"long", bytes(3 * PIECE_BYTES)]
    outbox.put(long, said("a"))
    outbox.put([b"of a"], said("a", "x"))
    outbox.put([b"of x"], said("x"))
    outbox.put([b"one"], said("b"))
    outbox.put([b"two"], said("b", "c"))
    outbox.put([b"whoever"])
    outbox.put([b"late"], said("d"))
    peer.room = 3
    assert not outbox.flush()
    assert peer.took[:2] == [[b"one"], [b"two"]]
    assert is_part(peer.took[2])
    peer.room = 100
    assert outbox.flush()
    assert [bytes(frames[0]) for frames in peer.took if not is_part(frames)] == [
        *(b"one", b"two", b"of a", b"of x", b"whoever", b"late")
    ]
    assert outbox.size == 0


def test_nobody_passes_where_nothing_long_waits() -> None:
    peer = Peer()
    outbox = Outbox(peer.offer)
    for n in range(5):
        outbox.put([b"%d" % n], said(n))
    peer.room = 9
    assert outbox.flush()
    assert [frames[0] for frames in peer.took] == [b"0", b"1", b"2", b"3", b"4"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.data())
def test_what_is_of_one_thing_keeps_its_order(sent: list[tuple[str, bool]], data: st.DataObject) -> None:
    peer = Peer()
    outbox = Outbox(peer.offer)
    for n, (name, long) in enumerate(sent):
        outbox.put([b"%s%d" % (name.encode(), n), bytes(2 * PIECE_BYTES if long else 9)], said(name))
        peer.room = data.draw(st.integers(0, 2))
        outbox.flush()
    peer.room = 1000
    assert outbox.flush()
    joiner = Reassembly()
    got = [bytes(whole[0]) for frames in peer.took if (whole := joiner.feed(frames)) is not None]
    for name in "abc":
        mine = [b"%s%d" % (name.encode(), n) for n, (of, _) in enumerate(sent) if of == name]
        assert [head for head in got if head.startswith(name.encode())] == mine
    assert outbox.size == 0


def test_messages_of_one_job_request_or_code_are_about_one_thing() -> None:
    blob, run = messages.Blob(b"h" * 16), messages.Units(0, 1, True, map=b"m" * 16)
    assert about(blob) == {("code", b"h" * 16)}
    assert about(run) == {("map", b"m" * 16)}
    assert about(messages.Abort(attempt=3)) == {("attempt", 3)}
    assert about(messages.Committed([3, 4])) == {("attempt", 3), ("attempt", 4)}
    assert about(messages.Fetched(5, {}, True)) == about(messages.Results(0, 1, reply=5)) == {("request", 5)}
    assert about(messages.Goodbye()) is None


def test_whoever_takes_something_is_never_given_up() -> None:
    peer, patience = Peer(), StalledPeers()
    outbox = Outbox(peer.offer)
    outbox.put([b"long", bytes(STALLED_BYTES + 1000 * PIECE_BYTES)])
    now = 0.0
    while outbox.size > STALLED_BYTES:
        now += STALLED_SECONDS - 0.1
        peer.room = 1
        outbox.flush()
        assert not patience.over({b"peer": outbox}, now)
        if now > 200 * STALLED_SECONDS:
            break
    assert not patience.over({b"peer": outbox}, now + STALLED_SECONDS - 0.1)
    assert patience.over({b"peer": outbox}, now + STALLED_SECONDS) == [b"peer"]


def test_whoever_takes_nothing_is_given_up_after_some_time_or_when_all_too_much_comes() -> None:
    peer, patience = Peer(), StalledPeers()
    outbox = Outbox(peer.offer)
    outbox.put([b"x", bytes(STALLED_BYTES // 2)])
    for now in (0.0, 1.0, 10 * STALLED_SECONDS):
        assert not patience.over({b"p": outbox}, now), "little may wait as long as it likes"
    block = bytes(STALLED_BYTES)
    while outbox.untaken <= MAX_UNTAKEN_BYTES:
        assert not patience.over({b"q": outbox}, 0.0)
        outbox.put([b"y", block])
    assert patience.over({b"q": outbox}, 0.0) == [b"q"]
    assert not patience.over({}, 1.0)


def test_what_fails_while_it_is_sent_is_told_instead() -> None:
    class Torn:
        def __len__(self) -> int:
            return 3 * PIECE_BYTES

        def __getitem__(self, part: slice) -> bytes:
            if part.start > PIECE_BYTES:
                raise park.StoreError("torn")
            return bytes(min(part.stop, len(self)) - part.start)

    def make(failed: Exception | None = None) -> list[Any]:
        return [b"head", Torn()] if failed is None else [str(failed).encode()]

    peer = Peer()
    outbox = Outbox(peer.offer)
    outbox.put(make)
    peer.room = 9
    assert outbox.flush()
    assert [is_part(frames) for frames in peer.took] == [True, True, False]
    assert peer.took[-1] == [b"torn"]
    assert outbox.size == 0


def test_what_is_too_long_to_travel_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "MAX_PAYLOAD_BYTES", 3 * PIECE_BYTES)
    with pytest.raises(
        park.InvalidRequest, match=r"1,048,576 bytes at once are more than the .* write them to a file"
    ):
        split(codec.encode(messages.Blob(b"h"), bytes(4 * PIECE_BYTES)))


# -- sockets -----------------------------------------------------------------------------------------


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Router, Dealer, bytes]]:
    """A ROUTER, a DEALER, and the name of this at that."""
    router = Router()
    dealer = Dealer(router.bind(f"ipc://{tmp_path}/door"))
    assert dealer.wait(5.0)
    dealer.send([b"here"])
    name, _ = until(lambda: stirred(router) and router.receive())
    yield router, dealer, name
    dealer.close()
    router.close()


def stirred(end: Any) -> bool:
    end.stir()
    return True


def test_a_router_keeps_what_its_peer_does_not_read_and_loses_nothing(
    ends: tuple[Router, Dealer, bytes],
) -> None:
    router, dealer, name = ends
    sent = [[b"%d" % n, bytes(PIECE_BYTES // 2)] for n in range(8 * HIGH_WATER_MESSAGES)]
    # ZeroMQ of the peer reads ahead: it must not, to show what is kept here
    dealer._socket.setsockopt(zmq.RCVHWM, 1)
    for frames in sent:
        router.send(name, frames)
    behind = {peer: outbox.size for peer, outbox in router.behind().items()}
    got: list[Any] = []
    while len(got) < len(sent):
        frames = until(lambda: stirred(dealer) and (dealer.receive() or router.flush()))
        got.append(bytes(frames[0]))
    assert got == [frames[0] for frames in sent]
    assert not router.behind()
    assert all(size > 0 for size in behind.values())


def test_pieces_of_long_messages_show_that_something_moves(ends: tuple[Router, Dealer, bytes]) -> None:
    router, dealer, name = ends
    payload = bytes(8 * PIECE_BYTES)
    numbers = [dealer.moved]
    dealer.send(codec.encode(messages.Heartbeat()), messages.Heartbeat())
    assert dealer.moved == numbers[-1]
    dealer.send(codec.encode(messages.Blob(b"h"), payload))
    until(
        lambda: (
            stirred(dealer)
            and (dealer.waiting() or True)
            and stirred(router)
            and router.receive()
            and not dealer._waits
        )
    )
    numbers.append(dealer.moved)
    router.send(name, codec.encode(messages.Blob(b"h"), payload))
    until(lambda: stirred(router) and (router.flush() or True) and stirred(dealer) and dealer.receive())
    numbers.append(dealer.moved)
    assert len(set(numbers)) == 3


def test_a_long_message_arrives_both_ways_and_short_ones_pass_it(ends: tuple[Router, Dealer, bytes]) -> None:
    router, dealer, name = ends
    long, short = messages.Blob(b"h" * 16), messages.Resume(7)
    payload = os.urandom(40 << 20)
    dealer.send(codec.encode(long, payload), long)
    dealer.send(codec.encode(short), short)
    dealer.send(codec.encode(messages.Heartbeat()), messages.Heartbeat())
    got: list[Any] = []
    while len(got) < 2:
        got.append(
            until(
                lambda: (
                    stirred(router)
                    and stirred(dealer)
                    and (dealer.waiting(), dealer.receive(), router.receive())[2]
                )
            )
        )
    assert router.lively() == {name}
    assert [codec.decode(frames)[0] for _, frames in got] == [short, long]
    assert got[1][1][1] == payload
    router.send(name, codec.encode(long, payload), long)
    router.send(name, codec.encode(short), short)
    back: list[Any] = []
    while len(back) < 2:
        back.append(
            until(lambda: stirred(dealer) and stirred(router) and (router.waiting(), dealer.receive())[1])
        )
    assert dealer.lively()
    assert [codec.decode(frames)[0] for frames in back] == [short, long]
    assert back[1][1] == payload
    assert not router.behind()


def test_what_waits_for_a_peer_that_has_gone_is_dropped(ends: tuple[Router, Dealer, bytes]) -> None:
    router, _, _ = ends
    router.send(b"nobody", [b"x"])
    assert router.behind() == {}


# -- who is slow, and who is cut off -------------------------------------------------------------------

KEY = b"m" * 16


def test_a_slow_client_s_sessions_wait_until_it_has_read() -> None:
    desk = Desk()
    client, _ = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    desk.flow(Flow(client, "slow"))
    assert not of(
        desk.give(client, messages.Map(KEY, number, code("square"), 3), units([1, 2, 3])), messages.Run
    )
    assert desk.dispatcher.explain(number) == "waits until its client takes the results that are there"
    assert of(desk.flow(Flow(client, "clear")), messages.Run)


def test_who_is_cut_off_says_hello_again_and_loses_nothing() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    made = messages.Map(KEY, number, code("square"), 2)
    (run,) = of(desk.give(client, made, units([1, 2])), messages.Run)
    desk.flow(Flow(client, "cut"))
    desk.flow(Flow(kernel, "cut"))
    desk.flow(Flow(b"stranger", "cut"))
    assert of(desk.give(client, messages.Heartbeat()), messages.Unwelcome)
    (welcome,) = of(desk.give(client, messages.Hello(b"c1" * 8, "ann", PYTHON)), messages.Welcome)
    assert not welcome.fresh
    desk.give(client, made, units([1, 2]))
    hello = messages.KernelHello(b"k1" * 8, "kay", "node", 1, 1, PYTHON, attempts=[run.attempt])
    assert of(desk.give(kernel, messages.Heartbeat()), messages.Unwelcome)
    assert not of(desk.give(kernel, hello), messages.Abort)
    assert desk.dispatcher.state.maps[KEY].remaining == 2


def test_more_units_than_memory_has_room_for_are_refused_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.handlers.maps.MAX_SPOOL_BYTES", 300)
    desk = Desk()
    client = desk.client()
    number = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    first, more = units([0] * 10), units([1] * 30)
    assert len(first) < 300 < len(first) + len(more)
    desk.give(client, messages.Map(KEY, number, code("square"), 10, closed=False), first)
    (busy,) = of(desk.give(client, messages.Units(10, 30, True, map=KEY), more), messages.MapFailed)
    assert busy.error == "Busy"
    assert busy.text.endswith("retry after 2 s")
    assert not of(desk.give(client, messages.Units(40, 1, True, map=KEY), units([1])), messages.MapFailed)
    assert desk.dispatcher.state.maps[KEY].total == 10
    # the messages on the map that follow the earlier answers begin with these
    kernel = desk.kernel()
    for _ in range(10):
        for run in list(desk.dispatcher.state.attempts.values()):
            done = messages.Finished(run.number, KEY, run.span.start, len(run.span), 0.001)
            desk.give(kernel, done, units([0] * len(run.span)))
    assert desk.dispatcher.state.maps[KEY].remaining == 0
    assert desk.dispatcher.state.jobs[number].spooled == 0, "they are answered"
    again = messages.Map(KEY, number, code("square"), 20, closed=True, start=10)
    assert not of(desk.give(client, again, units([1] * 20)), messages.MapFailed)
    assert (desk.dispatcher.state.maps[KEY].total, desk.dispatcher.state.maps[KEY].closed) == (30, True)
    # alone it may be as long as it likes
    desk.give(client, messages.Cancel(KEY))
    desk.give(client, messages.Map(b"n" * 16, number, code("square"), 30), more)
    assert desk.dispatcher.state.maps[b"n" * 16].total == 30


# -- real processes ------------------------------------------------------------------------------------


def test_a_client_tries_again_where_it_was_told_that_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.broker.handlers.maps.MAX_SPOOL_BYTES", 100_000)
    monkeypatch.setattr("park.client.remote_maps.BUSY_RETRY_SECONDS", 0.2)
    manager = ServiceManager(JobManager()).listen(home=tmp_path)
    manager.write_connection(tmp_path / "connection.json")
    manager.reactor.start("broker")
    try:
        with park.connect(tmp_path / "connection.json") as service:
            pool = service.executor()
            # calls of one function would travel in one map
            futures = [pool.submit(lambda text, n=n: len(text), b"x" * 30_000) for n in range(20)]
            until(lambda: manager.loop is not None and manager.loop.counts["c < MapFailed"] > 3)
            assert not any(future.done() for future in futures)
            for future in futures[:18]:
                future.cancel()
            until(lambda: len(manager.manager.dispatcher.state.maps) == 2)
    finally:
        service.close()  # type: ignore[attr-defined]
        manager.close()


def test_a_frame_that_cannot_be_understood_is_answered_in_words(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        line = Dealer(find_broker(fabric.address).clients)
        try:
            assert line.wait(5.0)
            line.send(codec.encode(messages.Hello(os.urandom(16), "eve", PYTHON)))
            values = codec.unpack(codec.encode(messages.Watch(7, 1))[0])
            values[1][2] = "no number"
            line.send([codec.pack(values)])
            found: list[Any] = []

            def answered() -> bool:
                line.stir()
                if frames := line.receive():
                    found.append(codec.decode(frames)[0])
                return bool(found) and isinstance(found[-1], messages.Failure)

            until(answered)
            assert (found[-1].reply, found[-1].error) == (7, "ProtocolError")
            assert "Watch.job is int" in found[-1].text
        finally:
            line.close()


def test_long_results_pass_and_too_long_ones_fail_alone(tmp_path: Path) -> None:
    def long(x: int) -> bytes:
        from park.wire import fragments

        if x == 1:
            fragments.MAX_PAYLOAD_BYTES = 1 << 20
        time.sleep(0.05)
        return bytes(3 << 20)

    with Fabric(tmp_path) as fabric:
        service = fabric.connect()
        fabric.start_kernels(1)
        assert len(service.wait(service.start(long, [0]), timeout=60)[0]) == 3 << 20
        with pytest.raises(park.JobFailed, match=r"its result cannot travel: 3,1.* write them to a file"):
            service.wait(service.start(long, [1]), timeout=60)

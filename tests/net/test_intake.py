"""Long messages count from their first piece until they are decided; a sender without room waits, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from park.net import intake
from park.net.callers import Dealer
from park.net.intake import Intake, ReceiveBudgets
from park.net.sockets import Router
from park.wire import codec, messages
from park.wire.fragments import PIECE_BYTES, split
from tests.support.fabric import until

ROOM = ReceiveBudgets(all=100, payer=50, peer=20)


class Bench:
    """An `Intake`, and the messages that have got room, by their peers."""

    def __init__(self) -> None:
        self.intake = Intake(ROOM)
        self.told: list[str] = []

    def begin(self, peer: str, size: int, now: float = 0.0) -> Any:
        """A message of a peer begins; the first letter of the peer is its payer."""
        return self.intake.begin(peer, peer[0], size, lambda: self.told.append(peer), now)

    def whole(self, peer: str, size: int) -> None:
        self.intake.complete(self.begin(peer, size), 0.0)

    def release(self, peer: str, size: int, now: float = 0.0) -> list[str]:
        """A whole message is decided. Returns who has got room then."""
        before = len(self.told)
        self.intake.release(peer, peer[0], size, now)
        return self.told[before:]


@pytest.mark.parametrize(
    ("before", "more"),
    [
        ([("a1", 20)], ("a1", 1)),
        ([("a1", 20), ("a2", 20)], ("a3", 11)),
        ([("a1", 20), ("a2", 20), ("b1", 20), ("b2", 20), ("c1", 20)], ("d1", 1)),
    ],
    ids=["peer", "payer", "all"],
)
def test_a_message_over_a_budget_waits_until_another_is_decided(
    before: list[tuple[str, int]], more: tuple[str, int]
) -> None:
    bench = Bench()
    for peer, size in before:
        bench.whole(peer, size)
    told = [peer for peer, _ in before]
    assert bench.told == told
    bench.begin(*more)
    assert bench.told == told
    assert bench.intake.used == sum(size for _, size in before)
    assert bench.release(*before[-1]) == [more[0]]


def test_a_message_longer_than_a_budget_goes_alone() -> None:
    bench = Bench()
    bench.whole("a1", 10)
    bench.begin("a2", 500)
    assert bench.told == ["a1"]
    assert bench.release("a1", 10) == ["a2"]


def test_a_short_message_does_not_pass_a_long_one_that_waits_for_all() -> None:
    bench = Bench()
    for peer in ("a1", "a2", "b1", "b2", "c1"):
        bench.whole(peer, 18)
    bench.begin("d1", 20)
    bench.begin("e1", 10)
    assert bench.release("a1", 18) == ["d1"]
    # one that waits only for its own payer keeps nobody waiting
    bench.begin("b1", 20)
    assert bench.release("a2", 18) == ["e1"]


def test_bytes_that_come_without_room_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_EARLY_BYTES", 30)
    bench = Bench()
    for peer in ("a1", "a2", "a3"):
        bench.whole(peer, 15)
    waits = [bench.begin(peer, 40) for peer in ("a4", "a5")]
    assert bench.intake.came(waits[0], 30, 0.0)
    assert not bench.intake.came(waits[0], 31, 0.0)
    assert bench.intake.came(waits[1], 19, 0.0)
    assert not bench.intake.came(waits[1], 20, 0.0), "more than its payer may have"
    for incoming in waits:
        bench.intake.drop(incoming, 0.0)
    assert bench.intake.used == 45


def test_whoever_keeps_others_waiting_must_go_on() -> None:
    bench = Bench()
    slow = [bench.begin(peer, 50) for peer in ("a1", "b1")]
    assert not bench.intake.slow(1000.0)
    bench.begin("c1", 20)
    slow[0].have, slow[0].at = 10**9, 1000.0
    assert bench.intake.slow(1000.0) == [slow[1]]
    bench.intake.drop(slow[1], 1000.0)
    assert bench.told[-1] == "c1"


def test_what_is_gone_with_its_broker_counts_no_more() -> None:
    bench = Bench()
    bench.whole("a1", 20)
    bench.begin("a2", 20)
    bench.intake.release_all(0.0)
    assert bench.intake.used == 20


# -- sockets -----------------------------------------------------------------------------------------


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Router, Dealer]]:
    """A ROUTER that has room for one message, and a DEALER at it."""
    router = Router(None, Intake(ReceiveBudgets(peer=1 << 20)))
    dealer = Dealer(router.bind(f"ipc://{tmp_path}/door"))
    assert dealer.wait(5.0)
    yield router, dealer
    dealer.close()
    router.close()


def test_a_sender_without_room_waits_and_is_alive(
    ends: tuple[Router, Dealer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a peer with three long messages, when the broker has not decided the first, then the third does not come."""
    monkeypatch.setattr("park.net.callers.WINDOW_BYTES", 4 * PIECE_BYTES)
    monkeypatch.setattr("park.net.sockets.TELL_BYTES", 1)
    router, dealer = ends
    dealer._probe = None  # its messages go in pieces, as over tcp
    dealer.clear()
    code = [messages.Blob(b"%d" % number * 16) for number in range(3)]
    for blob in code:
        dealer.send(codec.encode(blob, bytes(4 << 20)), blob)
    got: list[Any] = []

    def work() -> int:
        for end in (dealer, router):
            end.stir()
        dealer.waiting()
        assert dealer.receive() is None
        if (came := router.receive()) is not None:
            got.append((came[0], codec.decode(came[1])[0]))
        return len(got)

    until(lambda: work() and dealer._window <= 0)
    assert [message for _, message in got] == code[:1]
    beat = messages.Heartbeat()
    dealer.send(codec.encode(beat), beat)
    until(lambda: work() == 2)
    assert [message for _, message in got] == [code[0], beat]
    assert router._intake.used == 4 << 20
    name = got[0][0]
    router.release(name, 4 << 20)
    until(lambda: work() == 3)
    router.release(name, 4 << 20)
    until(lambda: work() == 4)
    router.release(name, 4 << 20)
    assert [message for _, message in got if message != beat] == code
    assert router._intake.used == 0


def test_a_peer_that_does_not_wait_for_room_loses_its_message(
    ends: tuple[Router, Dealer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_EARLY_BYTES", 1 << 20)
    router, dealer = ends
    dealer._window = 1 << 30
    beat = messages.Heartbeat()
    waiting = [list(codec.encode(beat))]
    for number in range(2):
        waiting[-1:-1] = split(codec.encode(messages.Blob(b"%d" % number * 16), bytes(4 << 20)))
    got: list[Any] = []

    def work() -> bool:
        while waiting and dealer._offer(waiting[0]):
            del waiting[0]
        router.stir()
        if (came := router.receive()) is not None:
            got.append(codec.decode(came[1])[0])
        return beat in got

    until(work)
    assert got == [messages.Blob(b"0" * 16), beat]
    assert not router._joiners
    assert router._intake.used == 4 << 20

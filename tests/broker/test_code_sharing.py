"""Long code goes to few kernels, and from these to the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from park.broker.entities import spread as entity
from park.broker.entities.spread import CodeLocation, Spread, SpreadStep
from park.model import Account
from park.wire import messages
from tests.sim.desk import Desk, finished, of
from tests.sim.functions import code

SQUARE = code("square")


@pytest.fixture(autouse=True)
def all_code_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.handlers.code_sharing.MIN_SPREAD_BYTES", 1)


def to(out: Any, peer: bytes) -> list[messages.Message]:
    """The messages about code that a kernel gets."""
    kinds = (messages.Blob, messages.Offer, messages.Share)
    sends = [*out.sends, *out.sends_after_commit]
    return [s.message for s in sends if s.peer == peer and isinstance(s.message, kinds)]


class Fabric(Desk):
    """Kernels of one slot on machines, and a job with a unit for each. *abroad*: machines exchange code, too."""

    def __init__(self, abroad: bool = False, **machines: str) -> None:
        super().__init__()
        self.kernels = [name.encode() for name in machines]
        for name, machine in machines.items():
            self.give(
                name.encode(),
                messages.KernelHello(
                    (name.encode() * 16)[:16],
                    "kay",
                    machine,
                    1,
                    1,
                    "3.11",
                    machine=machine,
                    peers="10.0.0.1" if abroad else "",
                ),
            )
        self.out = self.submit(self.client(python="3.11"), inputs=range(len(machines)), python="3.11")
        self.runs = {
            s.peer: s.message for s in self.out.sends_after_commit if type(s.message) is messages.Run
        }

    def lack(self, peer: bytes) -> Any:
        """The kernel says that it lacks the code, and gives its unit back."""
        first = self.give(peer, messages.NeedBlob(SQUARE))
        second = self.give(peer, *finished(self.runs[peer], None, ended="lost", count=0))
        first.sends += [*first.sends_after_commit, *second.sends, *second.sends_after_commit]
        self.runs |= {s.peer: s.message for s in first.sends if type(s.message) is messages.Run}
        return first


def test_one_kernel_of_a_machine_gets_the_code_and_the_others_take_it_from_there() -> None:
    desk = Fabric(k1="m", k2="m", k3="other", k4="", k5="m")
    desk.dispatcher.state.roster.kernels[b"k5"].account = Account("bob")
    blob, offer = messages.Blob(SQUARE), messages.Offer(SQUARE, desk.dispatcher.state.code_cache.size(SQUARE))
    senders = [k for k in desk.kernels if blob in to(desk.out, k)]
    assert senders == [b"k1", b"k3", b"k4"]
    assert to(desk.out, b"k1") == [blob, messages.Share(SQUARE)]
    assert to(desk.out, b"k2") == to(desk.out, b"k5") == [offer]
    out = desk.give(b"k1", messages.Shared(SQUARE, 11, 5))
    assert to(out, b"k2") == [messages.Offer(SQUARE, offer.size, 11, 5, trusted=True)]
    assert to(out, b"k5") == [messages.Offer(SQUARE, offer.size, 11, 5)], "it has another key"
    assert of(desk.give(b"k2", messages.Shared(SQUARE, 22, 6)), messages.Offer) == []


def test_a_kernel_that_cannot_take_the_code_is_led_to_another_one_and_then_gets_it() -> None:
    desk = Fabric(k1="m", k2="m", k3="m")
    desk.give(b"k1", messages.Shared(SQUARE, 11, 5))
    desk.give(b"k2", messages.Shared(SQUARE, 22, 6))
    assert [(o.process, o.file) for o in of(desk.lack(b"k3"), messages.Offer)] == [(22, 6)]
    assert to(desk.lack(b"k3"), b"k3") == [messages.Blob(SQUARE)]


HERE = messages.Shared(SQUARE, 11, 5, 4321, b"c" * 16, b"k" * 32, b"s" * 32)


def test_the_first_kernel_of_each_machine_fetches_the_code_and_the_others_share_it() -> None:
    desk = Fabric(True, k1="m", k2="m", k3="n", k4="n", k5="o", k6="p")
    assert to(desk.out, b"k1") == [messages.Blob(SQUARE), messages.Share(SQUARE)]
    assert sum(type(m) is messages.Blob for k in desk.kernels for m in to(desk.out, k)) == 1
    out = desk.give(b"k1", messages.Shared(SQUARE, 11, 5))  # it was asked for its own machine first
    assert to(out, b"k2")[0].process == 11
    assert to(out, b"k1") == [messages.Share(SQUARE, True)]
    out = desk.give(b"k1", HERE)
    takers = [k for k in desk.kernels if to(out, k)]
    assert takers == [b"k3", b"k5"], "two at a time"
    tickets = of(out, messages.Serve)
    offers = [to(out, k)[0] for k in takers]
    assert [o.ticket for o in offers] == [t.ticket for t in tickets]
    assert tickets[0].ticket != tickets[1].ticket
    assert {(o.address, o.cipher, o.key, o.process) for o in offers} == {
        ("10.0.0.1:4321", HERE.cipher, HERE.key, 0)
    }
    out = desk.give(b"k3", replace(HERE, process=33))
    assert to(out, b"k4")[0].process == 33  # a file of its machine
    assert to(out, b"k6")[0].address == "10.0.0.1:4321"


def test_a_machine_that_nobody_reaches_is_asked_once() -> None:
    desk = Fabric(True, k1="m", k2="n", k3="o")
    out = desk.give(b"k1", messages.Shared(SQUARE, 11, 5))  # no port: it cannot serve
    assert to(out, b"k2") == [messages.Blob(SQUARE), messages.Share(SQUARE, True)]
    out = desk.give(b"k2", HERE)
    assert to(out, b"k3")[0].address == "10.0.0.1:4321"


@pytest.mark.parametrize(
    "wrong",
    [{"port": 80}, {"port": 70_000}, {"key": b""}, {"secret": b"s"}, {"process": 0}, {"file": 1 << 40}],
)
def test_a_place_where_nobody_finds_code_is_refused(wrong: dict[str, Any]) -> None:
    desk = Fabric(True, k1="m", k2="m", k3="n")
    out = desk.give(b"k1", replace(HERE, **wrong))
    assert of(out, messages.Offer) == of(out, messages.Serve) == []


def test_a_kernel_s_address_is_an_address() -> None:
    desk = Desk()
    desk.give(b"k1", messages.KernelHello(b"k" * 16, "kay", "node", 1, 1, "3.11", peers="example.org"))
    assert not desk.dispatcher.state.roster.kernels


def test_who_waits_in_vain_gets_the_code() -> None:
    desk = Fabric(k1="m", k2="m")
    assert to(desk.lack(b"k2"), b"k2") == [messages.Blob(SQUARE)]


def test_a_kernel_that_is_lost_with_the_code_is_replaced() -> None:
    desk = Fabric(k1="m", k2="m", k3="m")
    out = desk.give(b"k1", messages.Goodbye())
    assert to(out, b"k2") == [messages.Blob(SQUARE), messages.Share(SQUARE)]
    assert to(out, b"k3") == []  # it waits already


def test_code_that_nobody_was_sent_is_not_offered() -> None:
    desk = Fabric(k1="m", k2="m")
    desk.kernel("k9")
    for stranger in (b"k9", b"c1"):
        assert of(desk.give(stranger, messages.Shared(SQUARE, 66, 6)), messages.Offer) == []
    assert of(desk.give(b"k1", messages.Shared(b"x" * 16, 66, 6)), messages.Offer) == []


def test_the_holders_of_few_codes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.handlers.code_sharing.MAX_SPREADS", 3)
    desk = Fabric(k1="m")
    client = desk.client("c2", python="3.11")
    for i in range(6):
        desk.give(b"k1", *finished(desk.runs[b"k1"], None))
        out = desk.submit(client, f"square {i}", python="3.11")
        (desk.runs[b"k1"],) = of(out, messages.Run)
    assert len(desk.dispatcher.state.sharing.spreads) == 3


class Node:
    """The part of a kernel that counts here."""

    def __init__(self, number: int) -> None:
        self.number, self.machine, self.host = number, "ab"[number % 2], "ab"[number % 2]
        self.peers = "10.0.0.1" if number < 4 else "127.0.0.1" if number == 4 else ""


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["want", "hold", "lack", "forget"]), st.integers(0, 5)), max_size=40)
)
def test_nobody_waits_for_code_that_does_not_come(story: list[tuple[str, int]]) -> None:
    nodes: Any = [Node(n) for n in range(6)]
    spread = Spread(1)
    for what, n in story:
        if what == "want":
            spread.want(nodes[n])
        elif what == "hold":
            spread.hold(nodes[n], CodeLocation(1, n, "10.0.0.1:4321" if n in (0, 1) else ""))
        else:
            getattr(spread, what)(n)
        for step, kernel, holder in list(spread.steps()):
            if step is SpreadStep.TAKE:
                assert nodes[holder].machine == kernel.machine or spread.holders[holder][1].address
                assert holder in spread.holders
        spread.check()
        for number, (_, told) in spread.waiting.items():
            assert told
            mine = nodes[number]
            others = [nodes[n] for n in (*spread.sent, *spread.taking)]
            coming = [k for k in others if spread.may_take(mine, k)]
            near = [k for k in coming if k.machine == mine.machine]
            far = [k for k in coming if spread.may_fetch(mine, k)]
            assert near or far
            # some of them will say more without being told to
            known, uploads = {*spread.taking, *spread.asked}, spread.uploads()
            assert any(k.number in known or uploads[k.number] for k in near + far)
        assert all(len(failed) <= entity.MAX_FAILURES for failed in spread.failed.values())

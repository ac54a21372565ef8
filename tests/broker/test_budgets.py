"""Budgets of one connection: each row at its limit, and that a refusal names the figures and touches nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from park.broker.accounts import budgets
from park.broker.effects import Flow
from park.broker.entities import requirements
from park.broker.handlers import fetches, validate
from park.model import Account
from park.wire import messages
from tests.sim.desk import Desk, accepted, of
from tests.sim.functions import blob, code, units
from tests.sim.wire import PYTHON

HELLO = messages.KernelHello(b"k" * 16, "kay", "node", 1, 2, PYTHON)


def open_map(desk: Desk, client: bytes, session: int, key: int, function: str = "square") -> Any:
    message = messages.Map(key.to_bytes(16, "big"), session, code(function), 0, closed=False)
    return desk.give(client, message, units([]))


def test_open_maps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MAX_OPEN_MAPS", 3)
    desk = Desk()
    client, other = desk.client(), desk.client("c2")
    sessions = desk.session(client), desk.session(other)
    desk.submit(client, inputs=[])
    for key in range(100, 103):
        assert not of(open_map(desk, client, sessions[0], key), messages.MapFailed)
    (failed,) = of(open_map(desk, client, sessions[0], 103), messages.MapFailed)
    assert failed.error == "LimitReached"
    assert "3 open maps" in failed.text
    assert not of(open_map(desk, other, sessions[1], 104), messages.MapFailed)


def test_code_of_open_maps_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "SMALL_CODE_BYTES", 0)
    monkeypatch.setattr(budgets, "MAX_SESSION_CODE_BYTES", 1)
    desk = Desk()
    client = desk.client()
    session = desk.session(client)
    desk.submit(client, inputs=[])
    (failed,) = of(open_map(desk, client, session, 100), messages.MapFailed)
    assert "bytes of code in open maps" in failed.text


def test_units_of_sessions_are_counted_over_all_connections_of_an_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    clients = [desk.client(), desk.client("c2"), desk.client("c3", user="eve")]
    sessions = [desk.session(client) for client in clients]
    desk.give(clients[0], messages.Blob(code("square")), blob("square"))
    size = len(units([b"u" * 1000]))

    def send(which: int, key: int) -> list[Any]:
        message = messages.Map(key.to_bytes(16, "big"), sessions[which], code("square"), 1)
        return of(desk.give(clients[which], message, units([b"u" * 1000])), messages.MapFailed)

    monkeypatch.setattr(budgets, "MAX_OWNER_UNIT_BYTES", 2 * size)
    assert not send(0, 100)
    assert not send(1, 101)
    (failed,) = send(1, 102)
    assert failed.error == "Busy"
    assert not send(2, 103)
    # and over all owners; one who has little is not kept waiting for others
    monkeypatch.setattr(budgets, "MAX_ALL_UNIT_BYTES", 3 * size)
    assert "all owners" in send(2, 104)[0].text
    monkeypatch.setattr(budgets, "MAX_ALL_UNIT_BYTES", 16 * size)
    assert not send(2, 104)
    # what has ended counts no more
    for key in (100, 101):
        desk.give(clients[key - 100], messages.Cancel(key.to_bytes(16, "big")))
    assert not send(1, 105)


def test_a_small_machine_has_small_budgets() -> None:
    assert budgets.at_most(1 << 30, 1 / 8, memory=64 << 30) == 1 << 30
    assert budgets.at_most(4 << 30, 1 / 4, memory=4 << 30) == 1 << 30
    assert budgets.MAX_SESSION_CODE_BYTES <= budgets.MAX_ALL_CODE_BYTES <= 4 << 30


def test_code_of_all_owners_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "SMALL_CODE_BYTES", 0)
    monkeypatch.setattr(budgets, "MAX_ALL_CODE_BYTES", 1)
    desk = Desk()
    client, other = desk.client(), desk.client("c2", user="eve")
    session, foreign = desk.session(client), desk.session(other)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    assert not of(open_map(desk, client, session, 100), messages.MapFailed)
    (failed,) = of(open_map(desk, other, foreign, 101), messages.MapFailed)
    assert failed.error == "LimitReached"
    assert "all owners" in failed.text


def test_fetches_that_wait_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MAX_WAITING_FETCHES", 2)
    desk = Desk()
    client, other = desk.client(), desk.client("c2")
    job = accepted(desk.submit(client))
    for number in (50, 51):
        assert not of(desk.give(client, messages.Fetch(number, job, wait=True)), messages.Failure)
    (failed,) = of(desk.give(client, messages.Fetch(52, job, wait=True)), messages.Failure)
    assert (failed.reply, failed.error) == (52, "LimitReached")
    assert not of(desk.give(other, messages.Fetch(52, job, wait=True)), messages.Failure)
    desk.kernel()


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"slots": validate.MAX_SLOTS + 1},
        {"memory": 1 << 62},
        {"host": "h" * 201},
        {"node": "h" * 201},
        {"labels": ["x"] * 101},
        {"labels": ["x" * 201]},
        {"packages": {"numpy": "9" * 5000}},
        {"packages": {"n" * 201: "1"}},
        {"packages": {f"p{n}": "1" for n in range(11)}},
        {"attempts": list(range(11))},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_announcement_that_no_node_makes_is_refused(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "MAX_PACKAGES", 10)
    monkeypatch.setattr(budgets, "MAX_CLAIMS", 10)
    desk = Desk()
    desk.give(b"k1", replace(HELLO, **wrong))
    assert not desk.dispatcher.state.roster.kernels


def test_a_version_that_nobody_can_read_suits_no_requirement() -> None:
    assert not requirements.suits(">=1", "9" * 5000)
    desk = Desk()
    client = desk.client()
    accepted(desk.submit(client, requires={"numpy": ">=1"}))
    desk.give(b"k2", replace(HELLO, incarnation=b"l" * 16, packages={"numpy": "no version"}))
    out = desk.give(b"k3", replace(HELLO, incarnation=b"m" * 16, packages={"numpy": "1.26"}))
    assert of(out, messages.Run)


def test_the_slots_that_a_private_kernel_claims_count_for_its_owner_only() -> None:
    desk = Desk()
    desk.give(b"k1", HELLO)
    before = desk.dispatcher.state.clock.quantum
    desk.give(b"k2", replace(HELLO, incarnation=b"l" * 16, slots=validate.MAX_SLOTS), account=Account("eve"))
    roster = desk.dispatcher.state.roster
    assert (roster.slots_for("ada"), roster.slots_for("eve")) == (2, 2 + validate.MAX_SLOTS)
    assert desk.dispatcher.state.clock.quantum == before
    desk.give(b"k2", messages.Goodbye("gone"))
    assert roster.slots_for("eve") == 2


@pytest.mark.parametrize("when", [1e300, -1e300, -1.0, 253402300800.0])
def test_a_time_that_no_calendar_knows_is_refused(when: float) -> None:
    desk = Desk()
    (failed,) = of(desk.submit(desk.client(), when=when), messages.Failure)
    assert "is not a time" in failed.text


def test_a_map_key_of_another_map_is_refused() -> None:
    desk = Desk()
    client, other = desk.client(), desk.client("c2", user="eve")
    session = desk.session(client)
    desk.submit(client, inputs=[])
    open_map(desk, client, session, 100)
    (failed,) = of(desk.submit(other, key=(100).to_bytes(16, "big")), messages.Failure)
    assert "another map has this key" in failed.text
    foreign = desk.session(other)
    (failed,) = of(open_map(desk, other, foreign, 100), messages.MapFailed)
    assert "another map has this key" in failed.text


def test_units_that_overlap_with_others_are_not_taken_again() -> None:
    desk = Desk()
    client = desk.client()
    session = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    desk.give(client, messages.Map(bytes(16), session, code("square"), 4), units([1, 2, 3, 4]))
    waiting = desk.dispatcher.state.maps[bytes(16)].waiting
    desk.give(client, messages.Units(1, 2, False, map=bytes(16)), units([7, 8]))
    map_ = desk.dispatcher.state.maps[bytes(16)]
    assert (map_.segments, map_.waiting) == ({0: 4}, waiting)


class Reader:
    """A client that asks for a job of five packs of inputs, in slices of two messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetches, "MAX_ANSWER_SLICE", 2)
        self.desk = Desk()
        self.client = self.desk.client()
        self.job = accepted(self.desk.submit(self.client, inputs=[], closed=False))
        for start in range(5):
            last = start == 4
            self.desk.give(self.client, messages.Units(start, 1, last, job=self.job, id=9), units([start]))
        self.first = self.fetch(50)

    def fetch(self, number: int) -> list[Any]:
        return self.said(self.desk.give(self.client, messages.Fetch(number, self.job, request=True)))

    def said(self, out: Any) -> list[Any]:
        return [send.message for send in out.sends + out.sends_after_commit if send.peer == self.client]

    def slices(self) -> list[list[Any]]:
        """The further slices, as long as there are any at this time."""
        found = []
        while self.desk.dispatcher.next_deadline() <= self.desk.now:
            found.append(self.said(self.desk.tick()))
        return found


def test_a_long_answer_comes_a_slice_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(monkeypatch)
    assert not reader.first
    slices = reader.slices()
    assert [len(part) for part in slices] == [2, 2, 2, 1]
    blob_, *inputs, fetched = [message for part in slices for message in part]
    assert isinstance(blob_, messages.Blob)
    assert [message.start for message in inputs] == [0, 1, 2, 3, 4]
    assert isinstance(fetched, messages.Fetched)
    assert fetched.record["total"] == 5


def test_long_answers_take_turns_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "MAX_WAITING_FETCHES", 2)
    reader = Reader(monkeypatch)
    assert not reader.fetch(51)
    (failed,) = reader.fetch(52)
    assert failed.error == "LimitReached"
    ids = [getattr(part[-1], "id", 0) or part[-1].reply for part in reader.slices()]
    assert ids == [50, 51] * 4
    assert not reader.fetch(53)


@pytest.mark.parametrize(
    "how", ["forgotten", "asked again", "its reader leaves", "its reader is slow", "deleted"]
)
def test_a_long_answer_that_is_of_no_use_any_more_ends(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    reader = Reader(monkeypatch)
    desk, client = reader.desk, reader.client
    desk.tick()
    if how == "forgotten":
        desk.give(client, messages.Forget(50))
    elif how == "asked again":
        reader.fetch(50)
        assert sum(map(len, reader.slices())) == 7
    elif how == "its reader leaves":
        desk.give(client, messages.Goodbye("gone"))
    elif how == "its reader is slow":
        desk.flow(Flow(client, "slow"))
        assert not reader.slices()
        reader.said(desk.flow(Flow(client, "clear")))
        assert sum(map(len, reader.slices())) == 5
    else:
        desk.give(client, messages.Abort(8, reader.job))
        out = desk.give(client, messages.Delete(9, reader.job))
        assert messages.Failure(50, "UnknownJob", "job 1 was deleted while it was read") in reader.said(out)
    assert not reader.slices()
    assert not desk.dispatcher.state.deferred.long_answers


def test_a_heartbeat_that_names_many_unknown_attempts_is_answered_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "MAX_ABORTS", 2)
    desk = Desk()
    kernel = desk.kernel()
    epoch = desk.dispatcher.state.epoch
    out = desk.give(kernel, messages.Heartbeat(epoch, [1, 2, 3]))
    assert of(out, messages.Abort) == [messages.Abort(attempt=1), messages.Abort(attempt=2)]

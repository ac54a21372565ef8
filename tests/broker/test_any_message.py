"""Any message of the protocol, in any order, from any peer: the dispatcher takes it or refuses it, and its books hold.

The messages have fields of the right types, with numbers and keys that exist, or nearly. `Desk` looks at all invariants
after each.
"""

from __future__ import annotations

import random
from typing import Any, ClassVar

import msgspec
import pytest

from park.broker import dispatcher
from park.errors import ParkError, ProtocolError
from park.wire import codec, messages, pack
from tests.sim.desk import Desk, of
from tests.sim.functions import blob, code, entry, units
from tests.sim.wire import PYTHON
from tests.support.any_value import any_of

KINDS = sorted(dispatcher.HANDLERS, key=lambda kind: kind.__name__)
BODIES = ["square", "driver", "fails"]
#: Messages whose count is that of the units in their payload.
COUNTED = (messages.Finished, messages.Map, messages.Submit, messages.Units)


class Stranger:
    """Gives messages that fit the protocol's types to a dispatcher that is in the middle of work."""

    #: how often a kind is sent, where it is not 1
    WEIGHTS: ClassVar[dict[str, int]] = {
        "Submit": 8, "Map": 10, "Units": 3, "Finished": 10, "Crashed": 2, "Cancel": 3,
    }  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.desk = Desk()
        self.peers = [self.desk.client(f"c{n}") for n in range(2)]
        self.peers += [self.desk.kernel(f"k{n}", slots=2) for n in range(2)]
        for name in BODIES:
            self.desk.give(self.peers[0], messages.Blob(code(name)), blob(name))
        self.desk.submit(self.peers[0], "square", [1, 2, 3])
        self.desk.submit(self.peers[1], "driver", None)
        self.desk.session(self.peers[0])
        self.incarnations: dict[int, bytes] = {}
        self.weights = [self.WEIGHTS.get(kind.__name__, 1) for kind in KINDS]

    def live(self, count: int) -> int:
        """Give *count* messages; the number of those that were taken. Raises what a handler or an invariant raises."""
        taken = 0
        for _ in range(count):
            if self.chance.random() < 0.1:
                self.desk.tick(self.chance.choice([0.0, 0.01, 1.0, 1.0, 30.0]))
            for at, peer in enumerate(self.peers):
                roster = self.desk.dispatcher.state.roster
                known = peer in roster.clients or (
                    peer in roster.kernels and not roster.kernels[peer].draining
                )
                if not known or self.chance.random() < 0.01:
                    self.connect_again(at)
            message, payload = self.message()
            out = self.desk.give(self.sender(message), message, payload)
            taken += not of(out, messages.Failure) and not of(out, messages.MapFailed)
        return taken

    def connect_again(self, at: int) -> None:
        """A peer comes over a new connection; or another in its place, where it was lost or is draining."""
        state, old = self.desk.dispatcher.state, self.peers[at]
        new = old[:2] + self.chance.randbytes(4)
        kernel = state.roster.kernels.get(old)
        draining = kernel is not None and kernel.draining
        incarnation = (new + new)[:8] * 2 if draining else self.incarnations.get(at, old[:2] * 8)
        self.incarnations[at] = incarnation
        if old.startswith(b"c"):
            self.desk.give(new, messages.Hello(incarnation, "ann", PYTHON))
        else:
            held = [n for n, a in self.desk.dispatcher.state.attempts.items() if a.kernel.peer == old]
            hello = messages.KernelHello(incarnation, "kay", "node", 1, 2, PYTHON, attempts=held)
            self.desk.give(new, hello)
        self.peers[at] = new

    def sender(self, message: messages.Message) -> bytes:
        """A peer of the role that sends such a message, or any; for an attempt mostly the kernel that holds it."""
        chance, text = self.chance, type(message).__doc__ or ""
        held = self.desk.dispatcher.state.attempts.get(getattr(message, "attempt", 0))
        if held is not None and chance.random() < 0.9:
            return held.kernel.peer
        clients, kernels = self.peers[:2], self.peers[2:]
        return chance.choice(clients if text.startswith("client") and chance.random() < 0.95 else kernels)

    def message(self) -> tuple[messages.Message, bytes]:
        """A message that decodes, and its payload."""
        while True:
            kind = self.chance.choices(KINDS, self.weights)[0]
            fields = {
                field.name: self.value(field.name, field.type)
                for field in msgspec.inspect.type_info(kind).fields  # type: ignore[union-attr]
                if field.required or self.chance.random() < 0.4
            }
            self.fit(kind, fields)
            payload = self.payload(fields) if kind.carries else b""
            if kind in COUNTED and self.chance.random() < 0.9:
                fields["count"] = _count(payload)
            try:
                message, payload = codec.decode(codec.encode(kind(**fields), payload))
                return message, payload
            except ParkError:
                continue

    def fit(self, kind: type[messages.Message], fields: dict[str, Any]) -> None:
        """Make some fields fit to what is there: mostly to units that run, or are awaited, and to sessions."""
        state, chance = self.desk.dispatcher.state, self.chance
        if chance.random() < 0.15:
            return
        if kind is messages.Finished and state.attempts:
            attempt = chance.choice(list(state.attempts.values()))
            fields |= {"attempt": attempt.number, "map": attempt.map.key, "start": attempt.span.start}
            fields |= {"failed": 0, "epoch": state.epoch}
            fields["start"] += chance.random() < 0.1  # units that it was not asked for
        elif kind is messages.Cancel and state.maps:
            fields["map"] = chance.choice(list(state.maps))
        elif kind is messages.Units and state.maps:
            map_ = chance.choice(list(state.maps.values()))
            fields |= {"map": map_.key, "job": map_.job if map_.root else 0, "start": map_.total}
        elif kind is messages.Map:
            sessions = [job for job in state.jobs.values() if job.session]
            job = chance.choice(sessions) if sessions else None
            fields |= {"job": job.number if job else 0, "attempt": 0}
            if job and job.maps and chance.random() < 0.5:
                fields |= {"map": chance.choice(list(job.maps)), "start": 0}
        elif kind is messages.Submit:
            fields |= {"python": PYTHON, "on_error": chance.choice(["continue", "stop"])}
            fields |= {"after": fields.get("after", [])[:1], "cpus": chance.choice([1, 1, 2])}
            for name in (
                "priority",
                "when",
                "max_time",
                "max_unit_time",
                "notify",
                "memory",
                "labels",
                "requires",
            ):
                fields.pop(name, None)

    def payload(self, fields: dict[str, Any]) -> bytes:
        """Units, results, a body, nothing, or bytes that are no pack."""
        count = self.chance.choice([0, 0, 1, 1, 2, 3, 7])
        start = fields.get("start", 0)
        kinds = [
            lambda: units(list(range(count))),
            lambda: pack.pack_entries([entry(0, start + n) for n in range(count)]),
            lambda: blob(self.chance.choice(BODIES)),
            lambda: codec.pack([1, "a"]),
            lambda: b"",
            lambda: self.chance.randbytes(9),
        ]
        return bytes(self.chance.choices(kinds, [8, 8, 2, 2, 4, 1])[0]())

    def value(self, name: str, kind: Any) -> Any:
        """A value of the type *kind*: one that is known under this *name*, or nearly, or any."""
        state, chance = self.desk.dispatcher.state, self.chance
        known: dict[str, list[Any]] = {
            "job": list(state.jobs),
            "attempt": list(state.attempts),
            "map": list(state.maps),
            "body": [code(name) for name in BODIES],
            "function": [code(name) for name in BODIES],
            "code": [code(name) for name in BODIES],
            "hash": [code(name) for name in BODIES],
            "epoch": [0, 1, state.epoch],
            "id": [1],
            "python": [PYTHON, ""],
            "ended": ["", "abort", "stop"],
            "incarnation": [b"c0" * 8, b"k0" * 8, b"k1" * 8],
        }
        lists = {"attempts": "attempt", "after": "job", "jobs": "job", "codes": "body"}
        if name in lists:
            pool = known[lists[name]]
            return [chance.choice(pool) for _ in range(chance.choice([0, 1, 2])) if pool]
        if known.get(name) and chance.random() < 0.9:
            return chance.choice(known[name])
        return any_of(chance, kind)


def _count(payload: bytes) -> int:
    try:
        return pack.count(payload)
    except ProtocolError:
        return 0


def _breaks(seed: int) -> bool:
    try:
        Stranger(seed).live(400)
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    "tens", [*range(2), *(pytest.param(tens, marks=pytest.mark.heavy) for tens in range(2, 300))]
)
def test_any_messages_in_any_order_leave_the_books_right(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        try:
            taken = Stranger(seed).live(400)
        except Exception as error:
            raise AssertionError(f"the life of seed {seed} breaks") from error
        assert taken > 100  # most messages reach their handlers


def test_a_handler_that_breaks_the_books_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.broker.handlers.results._answers", lambda message, span, payload: True)
    assert any(_breaks(seed) for seed in range(10))


@pytest.mark.parametrize(
    "fields",
    [{"count": 2}, {"once": True, "closed": False}, {"once": True, "session": True}],
    ids=["units of a session", "once, with more to come", "once, and a session"],
)
def test_a_request_that_runs_once_or_opens_a_session_brings_no_units(fields: dict[str, Any]) -> None:
    desk = Desk()
    client = desk.client()
    desk.give(client, messages.Blob(code("square")), blob("square"))
    submit = messages.Submit(
        id=1, key=bytes(16), body=code("square"), python=PYTHON, **({"session": "count" in fields} | fields)
    )
    assert of(desk.give(client, submit, units([1, 2]) if "count" in fields else b""), messages.Failure)
    assert not desk.dispatcher.state.jobs


@pytest.mark.parametrize("answered", [[3, 1], [1, 3, 2, 4], [1, 2, 3]])
def test_answered_units_that_are_no_ascending_pairs_are_refused(answered: list[int]) -> None:
    desk = Desk()
    client = desk.client()
    session = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    message = messages.Map(bytes(16), session, code("square"), 4, start=1, answered=answered)
    assert of(desk.give(client, message, units([1, 2, 3, 4])), messages.MapFailed)
    assert not desk.dispatcher.state.maps


def test_wrong_answers_to_a_cancelled_map_end_its_job() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    session = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    message = messages.Map(bytes([1]) * 16, session, code("square"), 2)
    (run, *_) = of(desk.give(client, message, units([1, 2])), messages.Run)
    desk.give(client, messages.Cancel(message.map, 0))
    desk.give(kernel, messages.Finished(run.attempt, run.map, run.start + 7, 1, 0.0), units([1]))
    desk.give(client, messages.Close(0, session))
    desk.tick(60.0)
    assert session not in desk.dispatcher.state.jobs or desk.job(session).state.ended

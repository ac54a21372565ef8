"""One dispatcher alone, and a hand that gives it messages: for tests that look at single outcomes."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec.structs import replace

from park.broker.dispatcher import Dispatcher
from park.broker.effects import Effects, Event, Flow, Tick
from park.model import Account, JobRecord
from park.wire import messages, pack
from park.wire.messages import Message
from tests.sim.functions import ERROR, blob, code, entry, units
from tests.sim.wire import PYTHON, WALL, carried


class Desk:
    """A dispatcher on a table; time moves by `tick`. What one call leads to is on disk when the next begins."""

    def __init__(self, **options: Any) -> None:
        self.dispatcher = Dispatcher("store", **options)
        self.now = 0.0
        self.ids, self.turns = itertools.count(1), itertools.count(1)
        self.tick()

    def tick(self, seconds: float = 0.0) -> Effects:
        self.now += seconds
        return self._handle(Tick(WALL + self.now))

    def flow(self, event: Flow) -> Effects:
        return self._handle(event)

    def give(
        self, peer: bytes, message: Message, payload: Any = b"", account: Account | None = None
    ) -> Effects:
        event = Event(peer, *carried(message, payload), account)
        return self._handle(event)

    def _handle(self, event: Event | Tick | Flow) -> Effects:
        turn = next(self.turns)
        self.dispatcher.begin_turn(turn)
        out = self.dispatcher.handle(event, self.now)
        self.dispatcher.check()
        self.dispatcher.saved(turn)
        return out

    def client(
        self, name: str = "c1", user: str = "ann", python: str = PYTHON, account: Account | None = None
    ) -> bytes:
        self.give(name.encode(), messages.Hello((name.encode() * 16)[:16], user, python), account=account)
        return name.encode()

    def kernel(
        self, name: str = "k1", slots: int = 1, python: str = PYTHON, account: Account | None = None
    ) -> bytes:
        hello = messages.KernelHello((name.encode() * 16)[:16], "kay", "node", 1, slots, python)
        self.give(name.encode(), hello, account=account)
        return name.encode()

    def submit(self, peer: bytes, name: str = "square", inputs: Any = (1,), **fields: Any) -> Effects:
        """inputs None: once."""
        self.give(peer, messages.Blob(code(name)), blob(name))
        number = next(self.ids)
        submit = messages.Submit(
            id=number,
            key=number.to_bytes(16, "big"),
            body=code(name),
            python=PYTHON,
            once=inputs is None,
            count=len(inputs or ()),
        )
        return self.give(peer, replace(submit, **fields), units(list(inputs or ())))

    def session(self, peer: bytes, **fields: Any) -> int:
        number = next(self.ids)
        submit = messages.Submit(id=number, key=number.to_bytes(16, "big"), session=True, python=PYTHON)
        return accepted(self.give(peer, replace(submit, **fields)))

    def job(self, number: int) -> JobRecord:
        return self.dispatcher.state.jobs[number].record


def of(out: Effects, kind: type[Any]) -> list[Any]:
    """The messages of one kind that *out* sends."""
    return [s.message for s in out.sends + out.sends_after_commit if isinstance(s.message, kind)]


def accepted(out: Effects) -> int:
    (message,) = of(out, messages.Accepted)
    return int(message.job)


def finished(run: messages.Run, results: list[Any] | None = None, **fields: Any) -> tuple[Message, bytes]:
    """The answer of a kernel to *run*; by default all its units gave 0."""
    got = [0] * run.count if results is None else results
    message = messages.Finished(
        run.attempt, run.map, run.start, len(got), 0.0, failed=got.count(ERROR), epoch=run.epoch
    )
    return replace(message, **fields), pack.pack_entries([entry(v, run.start + i) for i, v in enumerate(got)])

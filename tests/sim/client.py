"""A made-up link: it sends requests until they are answered, and the maps of sessions again after a cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from park.model import JobRecord
from park.wire import messages
from park.wire.contact import Contact
from park.wire.messages import Message
from tests.sim.functions import blob, code, units, values
from tests.sim.peer import Peer
from tests.sim.wire import PYTHON

if TYPE_CHECKING:
    from tests.sim.world import World


@dataclass(eq=False)
class Request:
    """A request of a client, and what came back."""

    message: Any
    payload: Any
    code: str = ""
    answers: list[tuple[Any, Any]] = field(default_factory=list)
    done: bool = False

    @property
    def answer(self) -> Any:
        assert self.done
        return self.answers[-1][0]

    @property
    def job(self) -> int:
        assert isinstance(self.answer, messages.Accepted), self.answer
        return int(self.answer.job)

    @property
    def record(self) -> JobRecord:
        return JobRecord.from_map(self.answer.record)

    @property
    def results(self) -> list[Any]:
        """Of a Fetch: the results by unit; none is there twice."""
        record = self.record
        got: dict[int, Any] = {}
        for message, data in self.answers[:-1]:
            if isinstance(message, messages.Results):
                for unit, value in enumerate(values(data), message.start):
                    assert unit not in got, f"unit {unit} was answered twice"
                    got[unit] = value
        return [got.get(u) for u in range(record.total if record.total is not None else 1)]


@dataclass(eq=False)
class SessionMap:
    """A map of a session, and what came of it."""

    message: messages.Map
    payload: Any
    name: str
    results: dict[int, Any] = field(default_factory=dict)
    failure: messages.MapFailed | None = None

    @property
    def done(self) -> bool:
        return self.failure is not None or len(self.results) == self.message.count


class Client(Peer):
    """See the module."""

    side = b"c"

    def __init__(self, world: World, name: str, user: str = "ann") -> None:
        self.user = user
        self._ids = itertools.count(1)
        self._known: set[str] = set()
        #: the functions that it has sent, by their hash
        self._names: dict[bytes, str] = {}
        self.requests: dict[int, Request] = {}
        self.maps: dict[bytes, SessionMap] = {}
        self.streams: list[tuple[str, Any]] = []
        super().__init__(world, name)

    def hello(self) -> Message:
        return messages.Hello(self.incarnation, self.user, PYTHON)

    def take(self, message: Message, payload: Any) -> None:
        match message:
            case messages.Welcome():
                if message.fresh:
                    self._known.clear()
                    for call in self.maps.values():
                        call.failure = call.failure or messages.MapFailed(b"", "ServiceClosed", "gone")
                for request in list(self.requests.values()):
                    self._say(request)
                for call in self.maps.values():
                    if not call.done:
                        self._say_map(call)
            case messages.NeedBlob():
                name = self._names[message.hash]
                self._known.discard(name)
                for request in [r for r in self.requests.values() if r.code == name]:
                    self._say(request)
                for call in self.maps.values():
                    if call.name == name and not call.done:
                        self._say_map(call)
            case messages.MapFailed():
                self.maps[message.map].failure = message
            case messages.Stream():
                self.streams.append((message.kind, payload))
            case messages.Results() if not message.reply:
                for unit, value in enumerate(values(payload), message.start):
                    self.maps[message.map].results[unit] = value
        reply = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        asked = self.requests.get(reply)
        if asked is not None and not isinstance(message, messages.Welcome):
            asked.answers.append((message, payload))
            if not isinstance(message, messages.Results | messages.Blob | messages.Units):
                asked.done = True
                del self.requests[reply]

    def ask(self, message: Any, payload: Any = b"", name: str = "") -> Request:
        request = Request(replace(message, id=next(self._ids)), payload, name)
        self.requests[request.message.id] = request
        if self.presence.state is Contact.LIVE:
            self._say(request)
        return request

    def _say(self, request: Request) -> None:
        request.answers.clear()
        self._ship(request.code)
        self.send(request.message, request.payload)

    def _ship(self, name: str) -> None:
        if name and name not in self._known:
            self._known.add(name)
            self._names[code(name)] = name
            self.send(messages.Blob(code(name)), blob(name))

    def _say_map(self, call: SessionMap) -> None:
        self._ship(call.name)
        self.send(call.message, call.payload)

    def submit(self, name: str, inputs: list[Any] | None = None, **fields: Any) -> Request:
        return self.submit_packed(
            name, len(inputs or ()), units(inputs or []), **({"once": inputs is None} | fields)
        )

    def submit_packed(self, name: str, count: int, payload: bytes, **fields: Any) -> Request:
        key = self.world.random.randbytes(16)
        submit = messages.Submit(id=0, key=key, body=code(name), name=name, python=PYTHON, count=count)
        return self.ask(replace(submit, **fields), payload, name)

    def session(self) -> Request:
        key = self.world.random.randbytes(16)
        return self.ask(messages.Submit(id=0, key=key, session=True, python=PYTHON))

    def map(self, session: int, name: str, inputs: list[Any]) -> SessionMap:
        key = self.world.random.randbytes(16)
        call = SessionMap(messages.Map(key, session, code(name), len(inputs)), units(inputs), name)
        self.maps[key] = call
        self._say_map(call)
        return call

    def fetch(self, job: int, wait: bool = True) -> Request:
        return self.ask(messages.Fetch(0, job, wait=wait))

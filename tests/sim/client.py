"""A made-up link: it sends requests until they are answered, and the maps of sessions again after a cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from park.model import JobRecord
from park.wire import messages
from park.wire.calls import Call, ClientSession, lost_sessions
from park.wire.cursor import Cursor
from park.wire.messages import Message
from park.wire.presence import Contact
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
    #: its place among all that its client has said
    order: int = 0
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

    session: ClientSession
    call: Call
    name: str
    #: inputs that are still to come, pack by pack
    rest: list[list[Any]] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    failure: messages.MapFailed | None = None

    @property
    def message(self) -> messages.Map:
        return self.call.map

    @property
    def done(self) -> bool:
        return self.failure is not None or self.call.complete


class Client(Peer):
    """See the module."""

    side = b"c"

    def __init__(self, world: World, name: str, user: str = "ann") -> None:
        self.user = user
        self._ids = itertools.count(1)
        self._orders = itertools.count(1)
        self._known: set[str] = set()
        #: the functions that it has sent, by their hash
        self._names: dict[bytes, str] = {}
        #: requests without an answer, in the order in which they are said
        self.requests: dict[int, Request] = {}
        #: the requests that were refused on a full disk, until the user sends them again
        self._refused: set[int] = set()
        #: its sessions, by the request that opened each first, and the requests that open them
        self.sessions: dict[Request, ClientSession] = {}
        self._opening: dict[Request, ClientSession] = {}
        #: requests for sessions that were made anew: what they have opened is closed
        self._forgone: set[int] = set()
        self.maps: dict[bytes, SessionMap] = {}
        self.streams: list[tuple[str, Any]] = []
        #: the jobs that it follows
        self.places: dict[int, Cursor] = {}
        #: the number of the last request to follow each of them
        self.watches: dict[int, int] = {}
        #: it had no contact before the last message
        self._calling = True
        super().__init__(world, name)

    def hello(self) -> Message:
        return messages.Hello(self.incarnation, self.user, PYTHON)

    def arrive(self, message: Message, payload: Any) -> None:
        """Only a Welcome that makes contact counts, as for the real client: a hello may be answered twice."""
        self._calling = self.presence.state is Contact.CALLING
        super().arrive(message, payload)

    def take(self, message: Message, payload: Any) -> None:
        match message:
            case messages.Welcome() if self._calling:
                opening = dict(self._opening)
                fresh = self.presence.fresh
                if fresh:
                    self._known.clear()
                    for request in opening:
                        del self.requests[request.message.id]
                        self._forgone.add(request.message.id)
                        key, number = self.world.random.randbytes(16), next(self._ids)
                        request.message = replace(request.message, id=number, key=key)
                        self.requests[number] = request
                for request in [r for n, r in self.requests.items() if n not in self._refused]:
                    self._say(request)
                for job in self.places:
                    self._watch(job)
                for session in self.sessions.values():
                    if session.number and not fresh:
                        self._say_maps(session)
                for session in lost_sessions(self.sessions.values()) if fresh else ():
                    self._open(session)
            case messages.NeedBlob():
                name = self._names[message.hash]
                self._known.discard(name)
                for request in [r for r in self.requests.values() if r.code == name]:
                    self._say(request)
                for call in self.maps.values():
                    if call.name == name and not call.done and not call.call.begun:
                        self._say_map(call, call.call.again(call.session.number, self.presence.epoch))
            case messages.MapFailed():
                made = self.maps[message.map]
                if made.session.concerns(message):
                    self.fail(made, message)
            case messages.Stream():
                # a Watch that was sent again has a later number: only its answer counts, as for the real client
                late = message.reply and message.reply != self.watches.get(message.job, message.reply)
                if message.job not in self.places or (not late and self.places[message.job].passes(message)):
                    self.streams.append((message.kind, payload))
                    self.world.told(self, message, payload)
            case messages.Results() if not message.reply:
                mine = self.maps[message.map]
                for start, _, data in mine.call.fresh(message.start, payload, message.count):
                    for unit, value in enumerate(values(data), start):
                        assert unit not in mine.results, f"unit {unit} was passed on twice"
                        mine.results[unit] = value
                if mine.rest and not mine.done:
                    self._feed(mine)
        reply = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        if isinstance(message, messages.Accepted) and reply in self._forgone:
            self._forgone.discard(reply)
            self.ask(messages.Close(0, message.job))
        asked = self.requests.get(reply)
        if asked is not None and isinstance(message, messages.Failure) and "disk is full" in message.text:
            self._refused.add(reply)
            asked.order = next(self._orders)
            self.world.at(self.world.now + 1.0, self._say_again, asked)
        elif asked is not None and not isinstance(message, messages.Welcome):
            asked.answers.append((message, payload))
            if not isinstance(message, messages.Results | messages.Blob | messages.Units):
                asked.done = True
                del self.requests[reply]
                self._refused.discard(reply)
                if asked in self._opening:
                    self._opened(self._opening.pop(asked), asked)

    def ask(self, message: Any, payload: Any = b"", name: str = "") -> Request:
        request = Request(replace(message, id=next(self._ids)), payload, name, next(self._orders))
        self.requests[request.message.id] = request
        if self.presence.state is Contact.LIVE:
            self._say(request)
        return request

    def _say_again(self, request: Request) -> None:
        """Send a refused request again, as a user does after a while.

        It comes after all requests that the user has sent meanwhile.
        """
        number = request.message.id
        if self.alive and number in self._refused:
            self._refused.discard(number)
            self.requests[number] = self.requests.pop(number)
            request.order = next(self._orders)
            if self.presence.state is Contact.LIVE:
                self._say(request)

    def _say(self, request: Request) -> None:
        request.answers.clear()
        self._ship(request.code)
        self.send(request.message, request.payload)

    def _ship(self, name: str) -> None:
        if name and name not in self._known:
            self._known.add(name)
            self._names[code(name)] = name
            self.send(messages.Blob(code(name)), blob(name))

    def _say_map(self, call: SessionMap, said: Iterable[tuple[Any, Any]]) -> None:
        if self.presence.state is Contact.LIVE and call.session.number:
            self._ship(call.name)
            for message, payload in said:
                self.send(message, payload)

    def _say_maps(self, session: ClientSession) -> None:
        for call, message, payload in session.again(self.presence.epoch):
            self._say_map(self.maps[call.map.map], [(message, payload)])

    def submit(self, name: str, inputs: list[Any] | None = None, **fields: Any) -> Request:
        return self.submit_packed(
            name, len(inputs or ()), units(inputs or []), **({"once": inputs is None} | fields)
        )

    def submit_packed(self, name: str, count: int, payload: bytes, **fields: Any) -> Request:
        key = self.world.random.randbytes(16)
        submit = messages.Submit(id=0, key=key, body=code(name), name=name, python=PYTHON, count=count)
        return self.ask(replace(submit, **fields), payload, name)

    def session(self) -> Request:
        session = ClientSession(messages.Submit(id=0, key=b"", session=True, python=PYTHON))
        request = self._open(session)
        self.sessions[request] = session
        return request

    def _open(self, session: ClientSession) -> Request:
        request = self.ask(replace(session.submit, key=self.world.random.randbytes(16)))
        self._opening[request] = session
        return request

    def _opened(self, session: ClientSession, request: Request) -> None:
        session.number = request.job
        if session in self.sessions.values():
            self._say_maps(session)
        else:
            self.ask(messages.Close(0, session.number))

    def close_session(self, request: Request, reason: str = "") -> None:
        session = self.sessions.pop(request)
        for key in session.calls.copy():
            self.fail(self.maps[key], messages.MapFailed(key, "", "closed"))
        if session.number:
            self.ask(messages.Close(0, session.number, reason))

    def map(self, request: Request, name: str, inputs: list[Any], *rest: list[Any]) -> SessionMap:
        """A map of the session that *request* has opened; the *rest* of its inputs comes as its results do."""
        session, key = self.sessions[request], self.world.random.randbytes(16)
        message = messages.Map(key, 0, code(name), len(inputs), closed=not rest)
        made = SessionMap(session, Call(message, units(inputs)), name, list(rest))
        self.maps[key], session.calls[key] = made, made.call
        self._names[code(name)] = name
        self._say_map(made, made.call.again(session.number, self.presence.epoch))
        return made

    def _feed(self, made: SessionMap) -> None:
        given = made.rest.pop(0)
        message = messages.Units(made.call.total, len(given), not made.rest, map=made.message.map)
        made.call.add(message, units(given))
        self._say_map(made, [(message, units(given))])

    def fail(self, made: SessionMap, failure: messages.MapFailed) -> None:
        made.failure = made.failure or failure
        made.session.calls.pop(made.message.map, None)

    def cancel(self, made: SessionMap) -> None:
        self.fail(made, messages.MapFailed(made.message.map, "", "cancelled"))
        self.ask(messages.Cancel(made.message.map))

    def follow(self, job: int) -> None:
        """From now on, over whatever happens to the connection and the broker."""
        if job not in self.places:
            self.places[job] = Cursor()
            self.places[job].passes(messages.Stream(job, "join"))  # from the first message on
            if self.presence.state is Contact.LIVE:
                self._watch(job)

    def _watch(self, job: int) -> None:
        self.watches[job] = next(self._ids)
        self.send(messages.Watch(self.watches[job], job, since=self.places[job].ask()))

    def fetch(self, job: int, wait: bool = True) -> Request:
        return self.ask(messages.Fetch(0, job, wait=wait))

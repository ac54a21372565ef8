"""The client's end: requests and their answers, maps of sessions, streams of jobs, and the mirror of the table.

A link is a part of a reactor. Threads that call it run the reactor's cycle themselves; those that wait for an
answer wait on a plain lock. Requests are kept until they are answered, and said again when the broker comes
back; each carries a key or means the same when it is said twice. So are sessions and what has not been answered of
their maps (`park.wire.calls`): they go on over a cut connection, and over the death of a broker.

While the broker is away and somebody waits for it, a line on stderr says so, as it does when nothing runs of what somebody
waits for (`park.unserved`). If the broker stays away for longer than *patience* seconds, whoever waits for an answer, for
results or for a job's messages gets NoBroker; sessions end, and their maps have to be made again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from park.errors import REFUSALS, Busy, NoBroker, ParkError, ProtocolError, ServiceClosed, WaitTimeout
from park.live import LiveTable
from park.mirror import SPREAD, Mirror, State
from park.model import PYTHON
from park.unserved import Unserved
from park.util.outlet import tell
from park.util.reactor import Reactor
from park.wire import codec, messages
from park.wire.calls import Call, Session, lost
from park.wire.contact import Contact, Line, Presence
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.parts import check_size
from park.wire.place import Place

#: After so many seconds without a broker whoever waits for it is told, and after so many more its waiting ends.
NOTICE = 3.0
PATIENCE = 600.0

#: Seconds after which a map is said again for which the broker had no room.
BUSY = 2.0

#: Answers that are the last of their request.
_LAST = (
    messages.Accepted,
    messages.Done,
    messages.Dropped,
    messages.Failure,
    messages.Fetched,
    messages.Records,
    messages.Filed,
    messages.Header,
    messages.Welcome,
)


class Listener(Protocol):
    """Where the table's changes come from."""

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class Follower(Protocol):
    """Who follows the stream of a job."""

    #: it gets the last lines of the job's log first
    logs: bool
    place: Place

    def put(self, kind: str, data: Buffer) -> None:
        """A message has come."""

    def fail(self, error: ParkError) -> None:
        """No more will come."""


class Reply:
    """The answer to a request, once it is there: all messages of it, the last one last."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._lock = threading.Lock()
        self._lock.acquire()
        self._finished = False
        self.messages: list[tuple[Message, Buffer]] = []
        self.error: BaseException | None = None
        #: called once, in the loop
        self.on_finish: Callable[[], None] | None = None

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._lock.release()
            if self.on_finish is not None:
                self.on_finish()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the answer came within *timeout* seconds (None: no limit)."""
        if not self._finished:
            if not self._reactor.attend(self._lock, timeout):
                return False
            self._lock.release()  # for others who wait; those who come later do not
        return True

    def value(self) -> tuple[Message, Buffer]:
        """The last message and its payload. Raises what the broker refused with."""
        if self.error is not None:
            raise self.error
        message, data = self.messages[-1]
        if isinstance(message, messages.Failure):
            raise REFUSALS.get(message.error, ParkError)(message.text)
        return message, data


class MapCall:
    """One map of a *session*: its results as they come, by first unit. *code* is that of its function."""

    def __init__(
        self,
        reactor: Reactor,
        session: Session,
        call: Call,
        code: Buffer,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> None:
        self.session = session
        self.call = call
        self.key = call.map.map
        self.code = code
        self._reactor = reactor
        #: taken while there is nothing to get
        self._empty = threading.Lock()
        self._empty.acquire()
        self._results: deque[tuple[int, int, Buffer]] = deque()
        self.error: ParkError | None = None
        self._on_result = on_result
        #: units whose results have come
        self.came = 0
        #: whoever waits is to look again
        self._stirred = False
        #: units were dropped that had not begun
        self.dropped = False

    def put(self, start: int, count: int, data: Buffer) -> None:
        """Results have come; what came before is dropped."""
        news = self.call.fresh(start, data, count)
        if news:
            self._results.extend(news)
            for _, part, _ in news:
                self.came += part
            if self.dropped and self.call.complete:
                self.error = self.error or ServiceClosed("the map was cancelled")
            self._arrived()

    def drop(self, units: Sequence[int]) -> None:
        """These units, [first, behind the last, ...], had not begun, and never will. No more come."""
        self.call.closed = True
        self.dropped = self.dropped or bool(units)
        for start, stop in zip(units[::2], units[1::2], strict=True):
            self.call.news(start, stop)
        if self.call.complete:
            self.error = self.error or ServiceClosed("the map was cancelled")
            self._arrived()

    @property
    def ready(self) -> bool:
        """Whether there is something to get."""
        return bool(self._results) or self.error is not None

    def stir(self) -> None:
        """End the wait of whoever waits."""
        self._stirred = True
        if self._empty.locked():
            self._empty.release()

    def fail(self, error: ParkError) -> None:
        self.error = error
        self._arrived()

    def _arrived(self) -> None:
        if self._empty.locked():
            self._empty.release()
        hook = self._on_result
        if self.call.complete or self.error is not None:
            self._on_result = None  # a cycle less
        if hook is not None:
            hook(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether there is something to get within *timeout* seconds (None: no limit), or to look at (`stir`)."""
        while not self._results and self.error is None and not self._stirred:
            if not self._reactor.attend(self._empty, timeout):
                return False
        return True

    def get(self, timeout: float | None = None) -> tuple[int, int, Buffer] | None:
        """The next results that have come: first unit, count, pack; None after *timeout* seconds, or when it is stirred."""
        if not self.wait(timeout):
            return None
        if self._results:
            return self._results.popleft()
        if self.error is not None:
            raise self.error
        self._stirred = False
        return None


class Link:
    """See the module. *name* says in errors whom it talks to."""

    def __init__(
        self,
        reactor: Reactor,
        line: Line,
        listen: Callable[[], Listener],
        user: str,
        name: str,
        patience: float = float("inf"),
    ) -> None:
        self._reactor = reactor
        self._line = line
        self._listen = listen
        #: None until somebody asks for the table
        self._listener: Listener | None = None
        self.user = user
        self.name = name
        self.patience = patience
        #: somebody else says that the broker is away
        self._hushed = 0
        self._noticed = False
        self._unserved = Unserved()
        #: results of maps that have come
        self._came = 0
        self._incarnation = os.urandom(16)
        self.presence = Presence()
        #: the broker's last welcome, and by how many seconds its clock is ahead of ours (None: it has not said so)
        self.welcome: messages.Welcome | None = None
        self.ahead: float | None = None
        self.mirror = Mirror(lambda: random.uniform(0.0, SPREAD))
        self.table = LiveTable(self.mirror, self.call_back)
        self._ids = itertools.count(1)
        #: what was asked and not answered: the message, its payload, the code that it needs, and who waits
        self._replies: dict[int, tuple[Message, Buffer, tuple[bytes, Buffer] | None, Reply]] = {}
        #: open sessions, the requests that open them, and all their maps by key
        self._sessions: list[Session] = []
        self._opening: dict[int, Session] = {}
        #: requests for sessions that were made anew: what they have opened is closed
        self._forgone: set[int] = set()
        self._maps: dict[bytes, MapCall] = {}
        #: maps for which the broker has no room now, and when they are said again
        self._say_later: dict[bytes, float] = {}
        #: who follows the streams of jobs: by job, and by the number of the Watch
        self._followers: dict[int, dict[int, Follower]] = {}
        #: those who leave, from any thread, also out of a collection of garbage that the loop itself has set off
        self._leaving: deque[tuple[int, Follower]] = deque()
        self._known: set[bytes] = set()
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None
        self._live = Reply(reactor)
        self._synced = Reply(reactor)
        self._has_table = False

    def __repr__(self) -> str:
        return f"<Link to {self.name}: {self.presence.state.value}, {len(self._replies)} requests open>"

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        listener = self._listener
        return self._line.waiting() or bool(self._leaving) or (listener is not None and listener.waiting())

    def turn(self, now: float) -> None:
        while (frames := self._line.receive()) is not None:
            try:
                message, data = codec.decode(frames)
            except ProtocolError as error:
                self._fail_all(error)
                continue
            calling = self.presence.state is Contact.CALLING
            if self.presence.hear(message, now) and calling:
                self._welcomed(message)
            self._receive(message, data, now)
        if self._line.lively():
            self.presence.feel(now)
        if self._listener is not None:
            self._follow(self._listener, now)
        if self._say_later:
            self._say_now(now)
        while self._leaving:
            self._part(*self._leaving.popleft())
        due = self.presence.due(now)
        away = self.presence.away(now)
        if away or self._noticed:
            self._mind(away)
        if now >= self._unserved.due:
            self._mind_waiting(now)
        if due == "hello":
            self._line.clear()
            self._send(messages.Hello(self._incarnation, self.user, PYTHON), now=now)
        elif due == "heartbeat":
            self._send(messages.Heartbeat(self.presence.epoch), now=now)
        if self._listener is not None:
            self._sync(now)

    def _sync(self, now: float) -> None:
        """Ask for the whole table, if it is time to."""
        if self.presence.state is Contact.LIVE and self.mirror.wants_snapshot(now):
            self._send(messages.Snapshot(next(self._ids)), now=now)

    def _say_now(self, now: float) -> None:
        """Say maps again for which there may be room by now."""
        for key in [key for key, at in self._say_later.items() if now >= at]:
            del self._say_later[key]
            call = self._maps.get(key)
            if call is not None:
                self._say(call, call.call.again(call.session.number, self.presence.epoch))

    def _follow(self, listener: Listener, now: float) -> None:
        """Feed the mirror what was published."""
        while (frames := listener.receive()) is not None:
            with contextlib.suppress(ProtocolError):  # a gap: the mirror will see it, and ask for the whole
                message, data = codec.decode(frames)
                self.mirror.feed(message, data, now)
                if isinstance(message, messages.Head):
                    self.ahead = message.wall - time.time()
        self.mirror.tick(now)
        if not self._has_table and self.mirror.state is State.LIVE:
            self._has_table = True
            self._synced.finish()

    def deadline(self) -> float | None:
        follows = self._listener is not None and self.presence.state is Contact.LIVE
        table = [self.mirror.deadline()] if follows else []
        return min([self.presence.deadline(), self._unserved.due, *table, *self._say_later.values()])

    def close(self) -> None:
        if self.presence.state is Contact.LIVE:
            self._send(messages.Goodbye("its client has left"))
        self._line.close()
        if self._listener is not None:
            self._listener.close()
        self._fail_all(ServiceClosed(f"the connection to {self.name} was closed"))
        self.table.close()
        self._callbacks.put(None)

    def _welcomed(self, message: Message) -> None:
        assert isinstance(message, messages.Welcome)
        last, self.welcome = self.welcome, message
        self._live.finish()
        self.mirror.lost()
        fresh = self.presence.fresh
        if (
            last is not None and last.store != message.store
        ):  # places in streams are those of another broker's jobs
            for followers in self._followers.values():
                for follower in followers.values():
                    follower.place.forget()
        if fresh:
            self._known.clear()
            # what was opened under the old keys, if it was, has ended with the old client, whose answers may still come
            for old in list(self._opening):
                submit, data, code, reply = self._replies.pop(old)
                assert isinstance(submit, messages.Submit)
                number = next(self._ids)
                self._forgone.add(old)
                self._opening[number] = self._opening.pop(old)
                submit = replace(submit, id=number, key=os.urandom(16))
                self._replies[number] = (submit, data, code, reply)
        for job, followers in self._followers.items():
            for old in list(followers):
                number = next(self._ids)
                followers[number] = follower = followers.pop(old)
                self._send(messages.Watch(number, job, follower.logs, follower.place.ask()))
        for request, data, code, _ in list(self._replies.values()):
            if code is not None:
                self._ship(*code)
            self._send(request, data)
        for session in lost(self._sessions) if fresh else ():
            self._open(session)
        for session in self._sessions:
            if session.number:
                self._say_maps(session)

    def _open(self, session: Session) -> Reply:
        """Ask for the session, for the first time or anew."""
        number, reply = next(self._ids), Reply(self._reactor)
        submit = replace(session.submit, id=number, key=os.urandom(16))
        if self.presence.state is Contact.LIVE:
            self._send(submit)
        else:
            codec.encode(submit)  # what cannot travel is refused now
        self._replies[number] = (submit, b"", None, reply)
        self._opening[number] = session
        return reply

    def _opened(self, session: Session, message: Message) -> None:
        """The broker has answered that."""
        if isinstance(message, messages.Failure):
            self._end_session(session, REFUSALS.get(message.error, ParkError)(message.text))
        elif isinstance(message, messages.Accepted):
            session.number = message.job
            if session in self._sessions:
                self._say_maps(session)
            else:
                self._close(session)

    def _say_maps(self, session: Session) -> None:
        for call, message, data in session.again(self.presence.epoch):
            self._ship(call.map.function, self._maps[call.map.map].code)
            self._send(message, data)

    def _ship_again(self, code: bytes) -> None:
        """The broker has dropped this code: send it, and whatever refers to it, again."""
        self._known.discard(code)
        for entry in list(self._maps.values()):
            call, session = entry.call, entry.session
            if call.map.function == code and session.number and not call.begun:
                self._ship(code, entry.code)
                for message, data in call.again(session.number, self.presence.epoch):
                    self._send(message, data)
        for request, data, needed, _ in list(self._replies.values()):
            if needed is not None and needed[0] == code:
                self._ship(*needed)
                self._send(request, data)

    def _mind(self, away: float) -> None:
        """The broker has been away for so many seconds: tell those who wait, and in the end let them go."""
        if not away:
            if self._noticed:
                self._noticed = False
                self._tell(f"{self.name} is back")
            return
        if not (self._replies or self._maps or self._followers):
            return
        if away >= self.patience:
            self._fail_all(self._gone())
        elif away >= NOTICE and not self._noticed:
            self._noticed = True
            self._tell(
                f"no sign of {self.name}: waiting for it to come back, for {_span(self.patience)} at most"
            )

    def _mind_waiting(self, now: float) -> None:
        """Ask why nothing runs of what is waited for, if it is time to."""
        if not self._unserved.look(self._awaited(), self._came, now) or self._hushed:
            return
        if self.presence.state is Contact.LIVE:
            number, reply = next(self._ids), Reply(self._reactor)
            status = messages.Status(number, self._awaited())
            reply.on_finish = lambda: self._explain(reply)
            self._replies[number] = (status, b"", None, reply)
            self._unserved.asked = True
            self._send(status)

    def _awaited(self) -> int:
        """The job whose results, or whose end, have been waited for longest; 0: none."""
        for session in self._sessions:
            if session.number and session.calls:
                return session.number
        for message, *_ in self._replies.values():
            if isinstance(message, messages.Fetch) and message.wait:
                return message.job
        return 0

    def _explain(self, reply: Reply) -> None:
        """Tell those who wait what the service has answered."""
        self._unserved.asked = False
        with contextlib.suppress(ParkError):  # the job may be gone: whoever waits for it is told so
            if text := self._unserved.heard(codec.unpack(reply.value()[1])[0], time.monotonic()):
                self._tell(text)

    def _tell(self, text: str) -> None:
        if not self._hushed:
            tell(f"park: {text}")

    @contextlib.contextmanager
    def hush(self) -> Iterator[None]:
        """Meanwhile the caller shows by itself that the broker is away."""
        self._hushed += 1
        try:
            yield
        finally:
            self._hushed -= 1

    def _gone(self) -> NoBroker:
        return NoBroker(
            f"{self.name} has been away for {_span(self.patience)}: is it running (`park-broker`)? Jobs that it has "
            "accepted are on its disk; maps, mappers and executors have to be run again"
        )

    def _receive(self, message: Message, data: Buffer, now: float) -> None:
        match message:
            case messages.Results() if not message.reply:
                call = self._maps.get(message.map)
                self._came += 1
                if call is not None:
                    call.put(message.start, message.count, data)
                    if call.call.complete:
                        self._drop(call)
                return
            case messages.MapFailed() if message.error == Busy.__name__:
                self._say_later[message.map] = now + BUSY
            case messages.MapFailed():
                call = self._maps.get(message.map)
                if call is not None:
                    self._drop(call)
                    call.fail(REFUSALS.get(message.error, ServiceClosed)(message.text))
            case messages.Stream():
                self._pass_on(message, data)
            case messages.Dropped():
                call = self._maps.get(message.map)
                if call is not None:
                    if call.key in self._say_later:  # the broker had no room for it
                        message = replace(message, units=[0, call.call.total])
                    self._forgo(call, message.units)
            case messages.Failure():
                self._turn_away(message)
            case messages.Header():
                self.mirror.feed(message, data, now)
            case messages.NeedBlob():
                self._ship_again(message.hash)
        reply = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        if isinstance(message, messages.Accepted) and reply in self._forgone:
            self._forgone.discard(reply)
            self.request(lambda number: messages.Close(number, message.job))
        if reply in self._opening:
            self._opened(self._opening.pop(reply), message)
        if reply in self._replies:
            entry = self._replies[reply][3]
            entry.messages.append((message, data))
            if isinstance(message, _LAST):
                del self._replies[reply]
                entry.finish()

    def _send(self, message: Message, data: Buffer = b"", now: float | None = None) -> None:
        self.presence.say(time.monotonic() if now is None else now)
        self._line.send(codec.encode(message, data), message)

    def _fail_all(self, error: ParkError) -> None:
        for *_, reply in self._replies.values():
            reply.error = error
            reply.finish()
        self._replies.clear()
        self._opening.clear()
        for session in list(self._sessions):
            self._end_session(session, error)
        followers, self._followers = self._followers, {}
        for job, several in followers.items():
            for follower in several.values():
                self._give(job, follower, lambda f: f.fail(error))

    def _end_session(self, session: Session, error: ParkError) -> None:
        """It and its maps end with this *error*."""
        session.error = error
        if session in self._sessions:
            self._sessions.remove(session)
        for key in list(session.calls):
            call = self._maps[key]
            self._drop(call)
            call.fail(error)

    def _drop(self, call: MapCall) -> None:
        """Nothing more is to be said of this map."""
        self._maps.pop(call.key, None)
        call.session.calls.pop(call.key, None)

    # -- what callers use ----------------------------------------------------------------------

    def wait_live(self, timeout: float) -> bool:
        """Whether the broker welcomed us within *timeout* seconds."""
        return self._live.wait(timeout)

    def wait_synced(self, timeout: float) -> bool:
        """Whether the mirror has ever had the table, or gets it within *timeout* seconds; it follows from now on."""

        def follow() -> None:
            if self._listener is None:
                self._listener = self._listen()
                # at once: what changes before its subscription is there shows as a gap
                self._sync(time.monotonic())

        if self._listener is None:
            self._reactor.call(follow)
        return self._has_table or self._synced.wait(timeout)

    def request(
        self,
        make: Callable[[int], Message],
        data: Buffer = b"",
        code: tuple[bytes, Buffer] | None = None,
        on_finish: Callable[[], None] | None = None,
    ) -> Reply:
        """Send what *make* makes of a new id; *code*: a hash and a blob that must be there before.

        *on_finish* is called in the callbacks' thread when the answer is there.
        """

        check_size(len(data))

        def ask() -> Reply:
            self._check_there()
            number = next(self._ids)
            message = make(number)
            reply = Reply(self._reactor)
            if on_finish is not None:
                reply.on_finish = lambda: self.call_back(on_finish)
            if code is not None:
                self._ship(*code)
            if self.presence.state is Contact.LIVE:
                self._send(message, data)
            else:
                codec.encode(message, data)  # what cannot travel is refused now, not when the broker is back
            self._replies[number] = (message, data, code, reply)
            if isinstance(message, messages.Fetch) and message.wait:
                self._unserved.begin(time.monotonic())
            return reply

        return self._reactor.call(ask)

    def ask(
        self, make: Callable[[int], Message], data: Buffer = b"", timeout: float | None = None
    ) -> tuple[Message, Buffer]:
        """The answer to a request. Raises WaitTimeout after *timeout* seconds, or what the broker refused with."""
        reply = self.request(make, data)
        if not reply.wait(timeout):
            self.forget(reply)
            raise WaitTimeout(f"{self.name} did not answer within {timeout} s")
        return reply.value()

    def forget(self, reply: Reply) -> None:
        """The answer is not wanted any more."""

        def drop() -> None:
            for number, entry in list(self._replies.items()):
                if entry[3] is reply:
                    del self._replies[number]
                    self._send(messages.Forget(number))

        self._reactor.call(drop)

    def _ship(self, code: bytes, blob: Buffer) -> None:
        if code not in self._known:
            self._known.add(code)
            self._send(messages.Blob(code), blob)

    def _check_there(self) -> None:
        if self.presence.away(time.monotonic()) >= self.patience:
            raise self._gone()

    def open_session(self, submit: messages.Submit) -> tuple[Session, Reply]:
        """Ask for a session; *submit* is what opens it, now and whenever the broker has lost it."""
        session = Session(submit)

        def start() -> Reply:
            self._check_there()
            reply = self._open(session)
            self._sessions.append(session)
            return reply

        return session, self._reactor.call(start)

    def close_session(self, session: Session) -> None:
        """End it; its maps end too."""

        def end() -> None:
            if session in self._sessions:
                self._end_session(session, ServiceClosed("the session was closed"))
                if session.number:
                    self._close(session)

        self._reactor.call(end)

    def _close(self, session: Session) -> None:
        self.request(lambda number: messages.Close(number, session.number))

    def open_map(
        self,
        session: Session,
        message: messages.Map,
        data: Buffer,
        blob: Buffer,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of a session; *blob* is the code of its function."""
        check_size(len(data))
        call = MapCall(self._reactor, session, Call(message, data), blob, on_result)

        def start() -> MapCall:
            self._check_there()
            if session.error is not None:
                raise session.error
            self._maps[call.key], session.calls[call.key] = call, call.call
            self._unserved.begin(time.monotonic())
            self._say(call, call.call.again(session.number, self.presence.epoch))
            return call

        return self._reactor.call(start)

    def feed_map(self, call: MapCall, units: messages.Units, data: Buffer) -> None:
        """More units for the map."""
        check_size(len(data))

        def feed() -> None:
            if call.error is None and not call.call.closed:
                call.call.add(units, data)
                self._say(call, [(units, data)])
                if call.call.complete:
                    self._drop(call)

        self._reactor.call(feed)

    def _say(self, call: MapCall, said: Iterable[tuple[Message, Buffer]]) -> None:
        """Say this of the map now, if the broker is there; else it is said when it is back."""
        if self.presence.state is Contact.LIVE and call.session.number:
            self._ship(call.call.map.function, call.code)
            for message, data in said:
                self._send(message, data)

    def end_map(self, call: MapCall, cancel: bool) -> None:
        """The map has ended, or is to end."""

        def end() -> None:
            self._drop(call)
            if cancel:
                call.fail(ServiceClosed("the map was cancelled"))
                self.request(lambda number: messages.Cancel(call.key, number))

        if call.key in self._maps:
            self._reactor.call(end)

    def spare_map(self, call: MapCall) -> Reply | None:
        """Nothing more of the map is to begin, what runs goes on. The answer; None where nobody can give it now."""

        def ask() -> Reply | None:
            if call.key not in self._maps:
                return None
            if not call.call.epoch or call.key in self._say_later:  # the broker does not know it
                reply, units = Reply(self._reactor), [0, call.call.total]
                reply.messages.append((messages.Dropped(0, call.key, units), b""))
                self._forgo(call, units)
                reply.finish()
                return reply
            if self.presence.state is not Contact.LIVE or not call.session.number:
                return None
            call.call.closed = True  # whatever is fed to it from now on is too late
            return self.request(lambda number: messages.Cancel(call.key, number, spare=True))

        return self._reactor.call(ask)

    def _forgo(self, call: MapCall, units: Sequence[int]) -> None:
        """These units of it will never begin, and no more come."""
        call.drop(units)
        if call.call.complete:
            self._drop(call)

    def stir(self, call: MapCall) -> None:
        """End the wait of whoever waits for results of the map."""
        self._reactor.call(call.stir)

    def watch(self, job: int, follower: Follower) -> Reply:
        """Give *follower* each message of the job's stream, in the loop; the answer says whether it may."""

        def make(number: int) -> Message:
            self._followers.setdefault(job, {})[number] = follower
            return messages.Watch(number, job, follower.logs, follower.place.ask())

        return self.request(make)

    def unwatch(self, job: int, follower: Follower) -> None:
        """It follows the job no longer, from the loop's next turn on."""
        self._leaving.append((job, follower))
        self._reactor.wake()

    def _part(self, job: int, follower: Follower) -> None:
        if self._let_go(job, follower) and job not in self._followers:
            self._send(messages.Unwatch(job))

    def _let_go(self, job: int, follower: Follower) -> bool:
        """Nothing more of the job is for this follower. Whether it followed."""
        followers = self._followers.get(job, {})
        numbers = [n for n, f in followers.items() if f is follower]
        for number in numbers:
            del followers[number]
        if not followers:
            self._followers.pop(job, None)
        return bool(numbers)

    def _pass_on(self, message: messages.Stream, data: Buffer) -> None:
        """A message of a job's stream: to all who follow it, or, as part of an answer, to the one who asked."""
        followers = self._followers.get(message.job, {})
        if message.reply:
            followers = {n: f for n, f in followers.items() if n == message.reply}
        for follower in list(followers.values()):
            if follower.place.passes(message):
                self._give(message.job, follower, lambda f: f.put(message.kind, data))
                if _is_last(message.kind, data):
                    self._let_go(message.job, follower)

    def _give(self, job: int, follower: Follower, what: Callable[[Follower], None]) -> None:
        """A follower that fails follows no longer; nobody else has to suffer."""
        try:
            what(follower)
        except Exception:
            tell(f"park: who follows job {job} failed, and follows it no longer:\n{traceback.format_exc()}")
            self._part(job, follower)

    def _turn_away(self, message: messages.Failure) -> None:
        """The broker does not let follow a job, as one that was deleted while it was away."""
        for job, followers in self._followers.items():
            if message.reply in followers:
                follower = followers[message.reply]
                self._let_go(job, follower)
                self._give(
                    job, follower, lambda f: f.fail(REFUSALS.get(message.error, ParkError)(message.text))
                )
                return

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run user code in the callbacks' thread, where it can hold up nothing but other callbacks."""
        if self._caller is None:
            self._caller = threading.Thread(target=self._call_backs, name="park-callbacks", daemon=True)
            self._caller.start()
        self._callbacks.put(callback)

    def _call_backs(self) -> None:
        while (callback := self._callbacks.get()) is not None:
            try:
                callback()
            except BaseException:  # also SystemExit: futures and monitors depend on this thread
                tell(f"park: a callback failed:\n{traceback.format_exc()}")
            del callback  # with what it holds, while nothing is to be done


def _is_last(kind: str, data: Buffer) -> bool:
    """Whether nothing comes after this message of a job's stream; after an error that names no record more does."""
    return kind in ("complete", "abort") or (kind == "error" and codec.unpack(data)["record"] is not None)


def _span(seconds: float) -> str:
    """A time as people say it.

    >>> [_span(seconds) for seconds in (2.0, 600.0)]
    ['2 s', '10 min']
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""The maps of a client's sessions, as they run at the broker.

Sessions, and units of their maps without an answer, are kept here (`park.wire.calls`). So they survive a cut connection
and the death of a broker: the units are sent again, and each result is passed on once.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from park.client.outgoing import Outgoing
from park.client.pending import Pending, Reply, refusal
from park.errors import Busy, ParkError, ServiceClosed
from park.net.reactor import Reactor
from park.wire import messages
from park.wire.calls import Call, ClientSession, lost_sessions
from park.wire.fragments import check_size
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Seconds after which a map goes again for which the broker had no memory.
BUSY_RETRY_SECONDS = 2.0


class MapCall:
    """One map of a *session*: its results as they come, by first unit. *code* is that of its function."""

    def __init__(
        self,
        reactor: Reactor,
        session: ClientSession,
        call: Call,
        code: Buffer,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> None:
        self.session = session
        self.call = call
        self.key = call.map.map
        self.code = code
        self._reactor = reactor
        #: locked while there is nothing to get
        self._empty = threading.Lock()
        self._empty.acquire()
        self._results: deque[tuple[int, int, Buffer]] = deque()
        #: ranges of units that will never run, until `take_dropped` takes them
        self._dropped: list[tuple[int, int]] = []
        self.error: ParkError | None = None
        self._on_result = on_result
        #: units whose results have come
        self.came = 0
        #: the thread that waits is to return from `get` without a result
        self._stirred = False
        #: units were dropped that had not begun
        self.dropped = False

    def put(self, start: int, count: int, data: Buffer) -> None:
        """Results have come; those that came before are left out."""
        news = self.call.fresh(start, data, count)
        if news:
            self._results.extend(news)
            for _, part, _ in news:
                self.came += part
            if self.dropped and self.call.complete:
                self.error = self.error or ServiceClosed("the map was cancelled")
            self._arrived()

    def drop(self, units: Sequence[int]) -> None:
        """Drop units, [first, behind the last, ...], that will never run. No further units come."""
        self.call.closed = True
        self.dropped = self.dropped or bool(units)
        for start, stop in zip(units[::2], units[1::2], strict=True):
            self._dropped += self.call.news(start, stop)
        if self.call.complete:
            self.error = self.error or ServiceClosed("the map was cancelled")
        if units or self.call.complete:
            self._arrived()

    def take_results(self) -> list[tuple[int, int, Buffer]]:
        """All results that have come and were not taken, as `get` returns them."""
        results = list(self._results)
        self._results.clear()
        return results

    def take_dropped(self) -> list[tuple[int, int]]:
        """The ranges of units that were dropped since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    @property
    def ready(self) -> bool:
        """Whether there is something to get."""
        return bool(self._results) or self.error is not None

    def stir(self) -> None:
        """Let the thread that waits in `get` return without a result."""
        self._stirred = True
        if self._empty.locked():
            self._empty.release()

    def fail(self, error: ParkError) -> None:
        """The map ends with this *error*, after the results that have come."""
        self.error = error
        self._arrived()

    def _arrived(self) -> None:
        if self._empty.locked():
            self._empty.release()
        hook = self._on_result
        if self.call.complete or self.error is not None:
            self._on_result = None  # breaks a reference cycle
        if hook is not None:
            hook(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether there is something to get within *timeout* seconds (None: no limit), or `stir` was called."""
        while not self._results and self.error is None and not self._stirred:
            if not self._reactor.attend(self._empty, timeout):
                return False
        return True

    def get(self, timeout: float | None = None) -> tuple[int, int, Buffer] | None:
        """The next results that have come: first unit, count, pack; None after *timeout* seconds, or after `stir`."""
        if not self.wait(timeout):
            return None
        if self._results:
            return self._results.popleft()
        if self.error is not None:
            raise self.error
        self._stirred = False
        return None


class RemoteMaps:
    """The sessions of a link, and their maps that have not ended."""

    def __init__(
        self, reactor: Reactor, out: Outgoing, pending: Pending, on_open: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._out = out
        self._pending = pending
        self._on_open = on_open
        self._sessions: list[ClientSession] = []
        #: sessions that are being opened, by the number of the request
        self._opening: dict[int, ClientSession] = {}
        #: numbers of requests for sessions that were replaced by others: the session that one opens is closed
        self._replaced: set[int] = set()
        self._maps: dict[bytes, MapCall] = {}
        #: maps that the broker has no memory for now, and when they are sent again
        self._retries: dict[bytes, float] = {}
        #: messages with results that have come
        self.came = 0

    def __len__(self) -> int:
        """The number of maps that have not ended."""
        return len(self._maps)

    # -- called by any thread ------------------------------------------------------------------

    def open_session(self, submit: messages.Submit) -> tuple[ClientSession, Reply]:
        """Open a session with *submit*, now and whenever the broker has lost it."""
        session = ClientSession(submit)

        def start() -> Reply:
            self._out.check_there()
            reply = self._open(session)
            self._sessions.append(session)
            return reply

        return session, self._reactor.call(start)

    def close_session(self, session: ClientSession) -> None:
        """End the session and its maps."""

        def end() -> None:
            if session in self._sessions:
                self._end_session(session, ServiceClosed("the session was closed"))
                if session.number:
                    self._close(session.number)

        self._reactor.call(end)

    def open(
        self,
        session: ClientSession,
        message: messages.Map,
        data: Buffer,
        blob: Buffer,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of a session; *blob* is the code of its function."""
        check_size(len(data))
        call = MapCall(self._reactor, session, Call(message, data), blob, on_result)

        def start() -> MapCall:
            self._out.check_there()
            if session.error is not None:
                raise session.error
            self._maps[call.key], session.calls[call.key] = call, call.call
            self._on_open()
            self._send(call, call.call.again(session.number, self._out.presence.epoch))
            return call

        return self._reactor.call(start)

    def feed(self, call: MapCall, units: messages.Units, data: Buffer) -> None:
        """Add units to the map."""
        check_size(len(data))

        def add() -> None:
            if call.error is None and not call.call.closed:
                call.call.add(units, data)
                self._send(call, [(units, data)])
                if call.call.complete:
                    self._remove(call)

        self._reactor.call(add)

    def end(self, call: MapCall, cancel: bool) -> None:
        """The map has ended, or, with *cancel*, it is to end now."""

        def stop() -> None:
            self._remove(call)
            if cancel:
                call.fail(ServiceClosed("the map was cancelled"))
                self._ask(lambda number: messages.Cancel(call.key, number))

        if call.key in self._maps:
            self._reactor.call(stop)

    def spare(self, call: MapCall, units: Sequence[int] = ()) -> Reply | None:
        """Begin none of these *units*, [first, behind the last, ...], of a closed map, or no more units of any map; those
        that run go on. The answer; None where the broker cannot give one now.
        """
        wanted = list(units)

        def ask() -> Reply | None:
            if call.key not in self._maps:
                return None
            if not call.call.epoch or call.key in self._retries:  # the broker does not know it
                reply, dropped = Reply(self._reactor), wanted or [0, call.call.total]
                reply.messages.append((messages.Dropped(0, call.key, dropped), b""))
                self._forgo(call, dropped)
                reply.finish()
                return reply
            if not self._out.live or not call.session.number:
                return None
            call.call.closed = True  # units that are fed from now on are too late
            return self._ask(lambda number: messages.Cancel(call.key, number, spare=True, units=wanted))

        return self._reactor.call(ask)

    def stir(self, call: MapCall) -> None:
        """Wake the thread that waits for results of the map, so that it looks at its inputs."""
        self._reactor.call(call.stir)

    # -- in the reactor's loop -----------------------------------------------------------------

    def receive_results(self, message: messages.Results, data: Buffer) -> None:
        """Results of a map have come."""
        call = self._maps.get(message.map)
        self.came += 1
        if call is not None:
            call.put(message.start, message.count, data)
            if call.call.complete:
                self._remove(call)

    def map_failed(self, message: messages.MapFailed, now: float) -> None:
        """The broker refuses a map, or has no memory for it now."""
        if message.error == Busy.__name__:
            self._retries[message.map] = now + BUSY_RETRY_SECONDS
            return
        call = self._maps.get(message.map)
        if call is not None and call.session.concerns(message):
            self._remove(call)
            call.fail(refusal(message, ServiceClosed))

    def units_dropped(self, message: messages.Dropped) -> messages.Dropped:
        """Units of a map will never run; the message, with all units asked about of a map that was never taken."""
        call = self._maps.get(message.map)
        if call is not None:
            if call.key in self._retries and message.reply in self._pending:
                question = self._pending.message(message.reply)
                assert isinstance(question, messages.Cancel)
                message = replace(message, units=question.units or [0, call.call.total])
            self._forgo(call, message.units)
        return message

    def answered(self, number: int, message: Message) -> None:
        """A request was answered: perhaps one for a session."""
        if isinstance(message, messages.Accepted) and number in self._replaced:
            self._replaced.discard(number)
            self._close(message.job)
        session = self._opening.pop(number, None)
        if session is None:
            return
        if isinstance(message, messages.Failure):
            self._end_session(session, refusal(message))
        elif isinstance(message, messages.Accepted):
            session.number = message.job
            if session in self._sessions:
                self._send_maps(session)
            else:
                self._close(session.number)

    def send_due(self, now: float) -> None:
        """Send maps again that the broker may have memory for by now."""
        for key in [key for key, at in self._retries.items() if now >= at] if self._retries else ():
            del self._retries[key]
            call = self._maps.get(key)
            if call is not None:
                self._send(call, call.call.again(call.session.number, self._out.presence.epoch))

    def due_times(self) -> Iterable[float]:
        """The time at which `send_due` has something to do."""
        return self._retries.values()

    def forgo_openings(self) -> None:
        """The broker does not know this client: sessions that were being opened are asked for under new keys.

        A session that was opened under an old key has ended with the old client; the answer may still come.
        """
        for old in list(self._opening):
            submit = self._pending.message(old)
            assert isinstance(submit, messages.Submit)
            number = self._pending.next_number()
            self._replaced.add(old)
            self._opening[number] = self._opening.pop(old)
            self._pending.renumber(old, number, replace(submit, id=number, key=os.urandom(16)))

    def send_again(self, fresh: bool) -> None:
        """The broker is back: send all maps again; if it does not know this client (*fresh*), open the sessions anew."""
        for session in lost_sessions(self._sessions) if fresh else ():
            self._open(session)
        for session in self._sessions:
            if session.number:
                self._send_maps(session)

    def send_code_again(self, code: bytes) -> None:
        """The broker has dropped this code: send it with the maps that need it and have no results yet."""
        for entry in list(self._maps.values()):
            call, session = entry.call, entry.session
            if call.map.function == code and session.number and not call.begun:
                self._out.ship(code, entry.code, brief=True)
                for message, data in call.again(session.number, self._out.presence.epoch):
                    self._out.send(message, data)

    def fail(self, error: ParkError) -> None:
        """All sessions and maps end with this *error*."""
        self._opening.clear()
        for session in list(self._sessions):
            self._end_session(session, error)

    def awaited_job(self) -> int:
        """The session whose results have been waited for longest; 0: none."""
        for session in self._sessions:
            if session.number and session.calls:
                return session.number
        return 0

    def _ask(self, make: Callable[[int], Message]) -> Reply:
        self._out.check_there()
        number = self._pending.next_number()
        return self._pending.ask(number, make(number))

    def _open(self, session: ClientSession) -> Reply:
        """Ask for the session, for the first time or anew."""
        number = self._pending.next_number()
        reply = self._pending.ask(number, replace(session.submit, id=number, key=os.urandom(16)))
        self._opening[number] = session
        return reply

    def _close(self, job: int) -> None:
        self._ask(lambda number: messages.Close(number, job))

    def _send_maps(self, session: ClientSession) -> None:
        for call, message, data in session.again(self._out.presence.epoch):
            self._out.ship(call.map.function, self._maps[call.map.map].code, brief=True)
            self._out.send(message, data)

    def _send(self, call: MapCall, said: Iterable[tuple[Message, Buffer]]) -> None:
        """Send messages of the map now, if the broker is there; else they are sent when it is back."""
        if self._out.live and call.session.number:
            self._out.ship(call.call.map.function, call.code, brief=True)
            for message, data in said:
                self._out.send(message, data)

    def _end_session(self, session: ClientSession, error: ParkError) -> None:
        """The session and its maps end with this *error*."""
        session.error = error
        if session in self._sessions:
            self._sessions.remove(session)
        for key in list(session.calls):
            call = self._maps[key]
            self._remove(call)
            call.fail(error)

    def _forgo(self, call: MapCall, units: Sequence[int]) -> None:
        """Give up units of the map that will never begin; no more come."""
        call.drop(units)
        if call.call.complete:
            self._remove(call)

    def _remove(self, call: MapCall) -> None:
        """Send nothing more of this map."""
        self._maps.pop(call.key, None)
        call.session.calls.pop(call.key, None)

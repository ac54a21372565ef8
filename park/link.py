"""The client's end: requests and their answers, maps of sessions, streams of jobs, and the mirror of the table.

A link is a part of a reactor. Threads that call it run the reactor's cycle themselves; those that wait for an
answer wait on a plain lock. Requests are kept until they are answered, and said again when the broker comes
back; each carries a key or means the same when it is said twice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from park.errors import REFUSALS, NoBroker, ParkError, ProtocolError, ServiceClosed, WaitTimeout
from park.live import LiveTable
from park.mirror import Mirror, State
from park.model import PYTHON
from park.util.reactor import Reactor
from park.wire import codec, messages
from park.wire.contact import Contact, Presence
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Answers that are the last of their request.
_LAST = (
    messages.Accepted,
    messages.Done,
    messages.Failure,
    messages.Fetched,
    messages.Records,
    messages.Header,
    messages.Welcome,
)


class Line(Protocol):
    """The way to the broker: a lane or a socket."""

    def send(self, frames: list[Any]) -> None: ...

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class Listener(Protocol):
    """Where the table's changes come from."""

    def waiting(self) -> bool: ...

    def receive(self) -> list[Any] | None: ...

    def close(self) -> None: ...


class Reply:
    """The answer to a request, once it is there: all messages of it, the last one last."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._lock = threading.Lock()
        self._lock.acquire()
        self.messages: list[tuple[Message, Buffer]] = []
        self.error: BaseException | None = None
        #: called once, in the loop
        self.on_finish: Callable[[], None] | None = None

    def finish(self) -> None:
        if self._lock.locked():
            self._lock.release()
            if self.on_finish is not None:
                self.on_finish()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the answer came within *timeout* seconds (None: no limit)."""
        if not self._reactor.attend(self._lock, timeout):
            return False
        self._lock.release()
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
    """One map of a session: its results as they come, by first unit."""

    def __init__(
        self,
        reactor: Reactor,
        key: bytes,
        code: tuple[bytes, Buffer],
        on_result: Callable[[MapCall], None] | None = None,
    ) -> None:
        self.key = key
        #: hash and blob of its function
        self.code = code
        #: what was said of it before the first result came: the broker may ask for the code again until then
        self.said: list[tuple[Message, Buffer]] = []
        self._begun = False
        self._reactor = reactor
        #: taken while there is nothing to get
        self._empty = threading.Lock()
        self._empty.acquire()
        self._results: deque[tuple[int, int, Buffer]] = deque()
        self.error: ParkError | None = None
        self._on_result = on_result

    def say(self, message: Message, data: Buffer) -> None:
        """This is said of the map now."""
        if not self._begun:
            self.said.append((message, data))

    def put(self, start: int, count: int, data: Buffer) -> None:
        self._begun = True
        self.said.clear()
        self._results.append((start, count, data))
        self._arrived()

    def fail(self, error: ParkError) -> None:
        self.error = error
        self._arrived()

    def _arrived(self) -> None:
        if self._empty.locked():
            self._empty.release()
        if self._on_result is not None:
            self._on_result(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether there is something to get within *timeout* seconds (None: no limit)."""
        while not self._results and self.error is None:
            if not self._reactor.attend(self._empty, timeout):
                return False
        return True

    def get(self, timeout: float | None = None) -> tuple[int, int, Buffer] | None:
        """The next results that have come: first unit, count, pack; None after *timeout* seconds."""
        if not self.wait(timeout):
            return None
        if self._results:
            return self._results.popleft()
        assert self.error is not None
        raise self.error


class Link:
    """See the module. *name* says in errors whom it talks to."""

    def __init__(self, reactor: Reactor, line: Line, table: Listener, user: str, name: str) -> None:
        self._reactor = reactor
        self._line = line
        self._listener = table
        self.user = user
        self.name = name
        self._incarnation = os.urandom(16)
        self.presence = Presence()
        self.mirror = Mirror()
        self.table = LiveTable(self.mirror, self.call_back)
        self._ids = itertools.count(1)
        #: what was asked and not answered: the message, its payload, the code that it needs, and who waits
        self._replies: dict[int, tuple[Message, Buffer, tuple[bytes, Buffer] | None, Reply]] = {}
        self._maps: dict[bytes, MapCall] = {}
        self._monitors: dict[int, list[Callable[[str, Buffer], None]]] = {}
        self._known: set[bytes] = set()
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None
        self._live = Reply(reactor)
        self._synced = Reply(reactor)
        self._has_table = False
        #: messages seen, by name and direction
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Link to {self.name}: {self.presence.state.value}, {len(self._replies)} requests open>"

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        return self._line.waiting() or self._listener.waiting()

    def turn(self, now: float) -> None:
        while (frames := self._line.receive()) is not None:
            try:
                message, data = codec.decode(frames)
            except ProtocolError as error:
                self._fail_all(error)
                continue
            self.counts[f"< {type(message).__name__}"] += 1
            calling = self.presence.state is Contact.CALLING
            if self.presence.hear(message, now) and calling:
                self._welcomed(message)
            self._receive(message, data, now)
        while (frames := self._listener.receive()) is not None:
            with contextlib.suppress(ProtocolError):  # a gap: the mirror will see it, and ask for the whole
                message, data = codec.decode(frames)
                self.mirror.feed(message, data, now)
        self.mirror.tick(now)
        if not self._has_table and self.mirror.state is State.LIVE:
            self._has_table = True
            self._synced.finish()
        was = self.presence.state
        due = self.presence.due(now)
        if was is Contact.LIVE and self.presence.state is Contact.CALLING:
            self._fail_maps(
                NoBroker(f"{self.name} said nothing for {self.presence.lease:.0f} s: the session has ended")
            )
        if due == "hello":
            self._send(messages.Hello(self._incarnation, self.user, PYTHON), now=now)
        elif due == "heartbeat":
            self._send(messages.Heartbeat(self.presence.epoch), now=now)
        if self.presence.state is Contact.LIVE and self.mirror.wants_snapshot(now):
            self._send(messages.Snapshot(next(self._ids)), now=now)

    def deadline(self) -> float | None:
        return self.presence.deadline()

    def close(self) -> None:
        if self.presence.state is Contact.LIVE:
            self._send(messages.Goodbye("its client has left"))
        self._line.close()
        self._listener.close()
        self._fail_all(ServiceClosed(f"the connection to {self.name} was closed"))
        self.table.close()
        self._callbacks.put(None)

    def _welcomed(self, message: Message) -> None:
        assert isinstance(message, messages.Welcome)
        self._live.finish()
        if message.fresh:
            self._known.clear()
        happened = (
            "was restarted, or lost sight of this client" if message.fresh else "was out of reach for a while"
        )
        self._fail_maps(ServiceClosed(f"{self.name} {happened}, and results may be lost: run the map again"))
        for job in self._monitors:
            self._send(messages.Watch(next(self._ids), job))
        for request, data, code, _ in list(self._replies.values()):
            if code is not None:
                self._ship(*code)
            self._send(request, data)

    def _ship_again(self, code: bytes) -> None:
        """The broker has dropped this code: send it, and whatever refers to it, again."""
        self._known.discard(code)
        for call in self._maps.values():
            if call.code[0] == code and call.said:
                self._ship(*call.code)
                for message, data in call.said:
                    self._send(message, data)
        for request, data, needed, _ in list(self._replies.values()):
            if needed is not None and needed[0] == code:
                self._ship(*needed)
                self._send(request, data)

    def _receive(self, message: Message, data: Buffer, now: float) -> None:
        match message:
            case messages.Results() if not message.reply:
                call = self._maps.get(message.map)
                if call is not None:
                    call.put(message.start, message.count, data)
            case messages.MapFailed():
                call = self._maps.get(message.map)
                if call is not None:
                    call.fail(REFUSALS.get(message.error, ServiceClosed)(message.text))
            case messages.Stream():
                for monitor in self._monitors.get(message.job, ()):
                    self.call_back(lambda m=monitor, k=message.kind: m(k, data))  # type: ignore[misc]
            case messages.Header():
                self.mirror.feed(message, data, now)
            case messages.NeedBlob():
                self._ship_again(message.hash)
        reply = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        if reply in self._replies:
            entry = self._replies[reply][3]
            entry.messages.append((message, data))
            if isinstance(message, _LAST):
                del self._replies[reply]
                entry.finish()

    def _send(self, message: Message, data: Buffer = b"", now: float | None = None) -> None:
        self.counts[f"> {type(message).__name__}"] += 1
        self.presence.say(time.monotonic() if now is None else now)
        self._line.send(codec.encode(message, data))

    def _fail_all(self, error: ParkError) -> None:
        for *_, reply in self._replies.values():
            reply.error = error
            reply.finish()
        self._replies.clear()
        self._fail_maps(error)

    def _fail_maps(self, error: ParkError) -> None:
        for call in self._maps.values():
            call.fail(error)
        self._maps.clear()

    # -- what callers use ----------------------------------------------------------------------

    def wait_live(self, timeout: float) -> bool:
        """Whether the broker welcomed us within *timeout* seconds."""
        return self._live.wait(timeout)

    def wait_synced(self, timeout: float) -> bool:
        """Whether the mirror has ever had the table, or gets it within *timeout* seconds."""
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

        def ask() -> Reply:
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

    def open_map(
        self,
        message: messages.Map,
        data: Buffer,
        blob: Buffer,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of a session; *blob* is the code of its function."""
        call = MapCall(self._reactor, message.map, (message.function, blob), on_result)

        def start() -> MapCall:
            if self.presence.state is not Contact.LIVE:
                raise NoBroker(f"{self.name} does not answer: the session has ended")
            self._maps[call.key] = call
            self._ship(message.function, blob)
            call.say(message, data)
            self._send(message, data)
            return call

        return self._reactor.call(start)

    def feed_map(self, call: MapCall, units: messages.Units, data: Buffer) -> None:
        """More units for the map."""

        def feed() -> None:
            if call.error is None:
                call.say(units, data)
                self._send(units, data)

        self._reactor.call(feed)

    def end_map(self, call: MapCall, cancel: bool) -> None:
        """The map has ended, or is to end."""

        def end() -> None:
            self._send(messages.Cancel(call.key))
            call.fail(ServiceClosed("the map was cancelled"))

        if self._maps.pop(call.key, None) is not None and cancel:
            self._reactor.call(end)

    def watch(self, job: int, monitor: Callable[[str, Buffer], None]) -> None:
        """Call *monitor* with the kind and the payload of each message of the job's stream, in a thread of its own."""
        self._reactor.call(lambda: self._monitors.setdefault(job, []).append(monitor))
        self.request(lambda number: messages.Watch(number, job))

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
                print(f"park: a callback failed:\n{traceback.format_exc()}", file=sys.stderr)

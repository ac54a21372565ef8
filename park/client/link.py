"""The client's connection to a broker: `Link` joins the modules of this folder and runs as one part of a reactor.

`pending` keeps requests until they are answered, `remote_maps` the maps of sessions, `followers` the streams of jobs,
`table_feed` the copy of the public table; `outgoing` sends, and `broker_notices` tells a waiting user why no result
comes.

A thread that calls a link runs the reactor's cycle itself; a thread that waits for an answer waits on a plain lock.
Requests, sessions and maps survive a cut connection and the death of a broker: the link sends them again when the
broker is back. If the broker stays away for longer than *patience* seconds, or does not accept the client's key any
more, each wait for an answer, for results or for messages of a job raises NoBroker. Sessions end then, and their maps
must be made again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from park.client.broker_notices import WaitNotices
from park.client.callbacks import Callbacks
from park.client.followers import Followers
from park.client.outgoing import Outgoing
from park.client.pending import Pending, Reply
from park.client.remote_maps import RemoteMaps
from park.client.table_feed import Listener, TableFeed
from park.errors import ParkError, ProtocolError, ServiceClosed, WaitTimeout
from park.model import PYTHON
from park.net.reactor import Lock, Reactor
from park.wire import codec, messages
from park.wire.fragments import check_size
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.presence import BrokerConnection, Contact

#: Seconds within which a broker answers a request that need not wait. They count from the last piece of a long message
#: in either direction, because over a slow network a long request takes minutes.
ANSWER_SECONDS = 30.0


class Link:
    """The client's end of the connection to a broker. *line* leads to the broker, *listen* opens the way of its table;
    errors call it *name*. *refusal*: see `park.client.outgoing`.
    """

    def __init__(
        self,
        reactor: Reactor,
        line: BrokerConnection,
        listen: Callable[[], Listener],
        user: str,
        name: str,
        patience: float = float("inf"),
        refusal: Callable[[], str] = str,
    ) -> None:
        self._reactor = reactor
        self._connection = line
        self.user = user
        self.name = name
        #: names this client to brokers, for the life of the link
        self._incarnation = os.urandom(16)
        #: the broker's last welcome
        self.welcome: messages.Welcome | None = None
        self._welcomed = Reply(reactor)
        self._out = Outgoing(line, name, patience, refusal)
        self.presence = self._out.presence
        self._pending = Pending(reactor, self._out)
        self._notices = WaitNotices(self._out, self._pending)
        self._callbacks = Callbacks()
        #: work of other threads for the next turn
        self._deferred: deque[Callable[[], object]] = deque()
        self.maps = RemoteMaps(reactor, self._out, self._pending, self._notices.begin)
        self.followers = Followers(reactor, self._out, self._pending, self.request)
        self.feed = TableFeed(reactor, self._out, self._pending, listen, self.call_back)

    def __repr__(self) -> str:
        return f"<Link to {self.name}: {self.presence.state.value}, {len(self._pending)} requests open>"

    # -- called by any thread ------------------------------------------------------------------

    def wait_live(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for the broker's welcome. Returns whether this client is in contact."""
        return self._welcomed.wait(timeout)

    def request(
        self,
        make: Callable[[int], Message],
        data: Buffer = b"",
        code: tuple[bytes, Buffer] | None = None,
        on_finish: Callable[[], None] | None = None,
    ) -> Reply:
        """Send the message that *make* makes of a new number; *code*: a hash and a blob that must be there before.

        *on_finish* is called in the callbacks' thread when the answer is there.
        """
        check_size(len(data))

        def ask() -> Reply:
            self._out.check_there()
            number = self._pending.next_number()
            message = make(number)
            reply = self._pending.ask(number, message, data, code)
            if on_finish is not None:
                reply.on_finish = lambda: self.call_back(on_finish)
            if isinstance(message, messages.Fetch) and message.wait:
                self._notices.begin()
            return reply

        return self._reactor.call(ask)

    def ask(self, make: Callable[[int], Message], data: Buffer = b"") -> tuple[Message, Buffer]:
        """The answer to a request that the broker answers at once."""
        return self.answer(self.request(make, data))

    def answer(self, reply: Reply) -> tuple[Message, Buffer]:
        """The last message of the answer. Raises the error of a refusal, and WaitTimeout if no answer comes in time."""
        if not self.is_answered(reply):
            self.forget(reply)
            raise WaitTimeout(
                f"{self.name} did not answer within {ANSWER_SECONDS:.0f} s: is the broker still there?"
            )
        return reply.value()

    def is_answered(self, reply: Reply) -> bool:
        """Whether the answer comes while the broker is there."""
        moved = None
        while moved != self._connection.moved:
            moved = self._connection.moved
            if reply.wait(ANSWER_SECONDS):
                return True
        return False

    def forget(self, reply: Reply) -> None:
        """The answer is not wanted any more."""
        self._reactor.call(lambda: self._pending.forget(reply))

    def call_back(self, callback: Callable[[], None]) -> None:
        """Run code of the user in the callbacks' thread, where it delays other callbacks only."""
        self._callbacks.add(callback)

    def defer(self, work: Callable[[], object]) -> None:
        """Run *work*, which raises nothing, in the loop's next turn: at once if this thread lets others run."""
        self._deferred.append(work)
        self._reactor.wake()

    def attend(self, lock: Lock, timeout: float | None) -> bool:
        """Whether *lock* is acquired within *timeout* seconds (None: no limit); this thread runs the loop meanwhile."""
        return self._reactor.attend(lock, timeout)

    def hush(self) -> AbstractContextManager[None]:
        """Write no line about waiting in this block: the caller shows by itself that the broker is away."""
        return self._notices.hush()

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        """Whether a message or a change of the table has come, a follower wants to leave, or work was deferred."""
        came = self._connection.waiting() or self.feed.waiting()
        return came or bool(self._deferred) or self.followers.waiting()

    def turn(self, now: float) -> None:
        """Handle all that has come, and send all that is due."""
        while self._deferred:
            self._deferred.popleft()()
        while (frames := self._connection.receive()) is not None:
            try:
                message, data = codec.decode(frames)
            except ProtocolError as error:
                self._fail(error)
                continue
            calling = self.presence.state is Contact.CALLING
            if self.presence.hear(message, now) and calling:
                assert isinstance(message, messages.Welcome)
                self._welcome(message)
            self._receive(message, data, now)
        if self._connection.lively():
            self.presence.feel(now)
        self.feed.receive(now)
        self.maps.send_due(now)
        self.followers.turn()
        self._keep_contact(now)
        self.feed.ask(now)

    def deadline(self) -> float:
        """The time at which `turn` has something to do even if nothing comes."""
        times = [self.presence.deadline(), self._notices.due(), *self.maps.due_times()]
        table = self.feed.deadline()
        return min(times if table is None else (*times, table))

    def close(self) -> None:
        """Say goodbye; all that waits raises ServiceClosed."""
        if self._out.live:
            self._out.send(messages.Goodbye("its client has left"))
        self._connection.close()
        self.feed.close()
        self._fail(ServiceClosed(f"the connection to {self.name} was closed"))
        self.feed.table.close()
        self._callbacks.close()

    def _keep_contact(self, now: float) -> None:
        """Say hello or send a heartbeat when it is due, and mind a broker that is away."""
        due = self.presence.due(now)
        away = self.presence.away(now)
        if away or self._notices.says_away:
            waiting = bool(self._pending) or bool(self.maps) or bool(self.followers)
            if waiting and (error := self._out.gone(away)) is not None:
                self._fail(error)
            else:
                self._notices.broker_away(away, waiting)
        if now >= self._notices.due():
            self._notices.look(self.maps, now)
        if due == "hello":
            self._connection.clear()
            self._out.send(messages.Hello(self._incarnation, self.user, PYTHON), now=now)
        elif due == "heartbeat":
            self._out.send(messages.Heartbeat(self.presence.epoch), now=now)

    def _welcome(self, message: messages.Welcome) -> None:
        """The broker is there (again): send everything again that was not answered."""
        last, self.welcome = self.welcome, message
        self._welcomed.finish()
        self.feed.mirror.lost()
        if last is not None and last.store != message.store:
            self.followers.forget_places()
        if self.presence.fresh:
            self._out.lose_all_code()
            self.maps.forgo_openings()
        self.followers.watch_again()
        self._pending.send_again()
        self.maps.send_again(self.presence.fresh)

    def _receive(self, message: Message, data: Buffer, now: float) -> None:
        """Give the message to the module that waits for it."""
        match message:
            case messages.Results() if not message.reply:
                self.maps.receive_results(message, data)
                return
            case messages.MapFailed():
                self.maps.map_failed(message, now)
            case messages.Stream():
                self.followers.receive(message, data)
            case messages.Dropped():
                message = self.maps.units_dropped(message)
            case messages.Failure():
                self.followers.refused(message)
            case messages.Header():
                self.feed.receive_header(message, data, now)
            case messages.NeedBlob():
                self._out.lose_code(message.hash)
                self.maps.send_code_again(message.hash)
                self._pending.send_again(message.hash)
        number = getattr(message, "reply", 0) or (message.id if isinstance(message, messages.Units) else 0)
        self.maps.answered(number, message)
        self._pending.answer(number, message, data)

    def _fail(self, error: ParkError) -> None:
        """All that waits ends with this *error*."""
        self._pending.fail(error)
        self.maps.fail(error)
        self.followers.fail(error)

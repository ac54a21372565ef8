"""The broker's sockets for clients, kernels and mirrors, with the same methods as the ends of `park.net.inproc`.

Memory. The bytes that are kept for one peer are bounded. ZeroMQ counts messages, so long ones travel in pieces of 256
KiB: it holds `HIGH_WATER_MESSAGES` of them to a peer (8 MiB) and from a peer (16 MiB, in frames of `MAX_FRAME_BYTES`).
Long messages that come are kept where there is room for them (`park.net.intake`), until the broker has decided them.
Messages that ZeroMQ does not take wait in an `Outbox`, at both ends; there a short message may pass a long one that is
partly out. A mirror that reads too slowly loses changes, sees the gap, and asks for the whole table. At most
`MAX_PAYLOAD_BYTES` bytes of an unfinished message are kept, for `STALE_PIECES_SECONDS` after its last piece, or as long as
it waits for room.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter, OrderedDict, deque
from typing import Any

import zmq

from park.errors import NoBroker, ProtocolError
from park.model import Account
from park.net.authenticator import TABLE, Authenticator
from park.net.connections import Connection, Connections, descriptor_of
from park.net.descriptors import DescriptorReserve
from park.net.intake import MAX_EARLY_BYTES, TELL_BYTES, IncomingMessage, Intake
from park.net.keys import OBSERVER, POOL
from park.net.outbox import Frames, Message, Outbox
from park.net.payload_files import ABOUT_FILES, FilePeers
from park.net.polled import HIGH_WATER_MESSAGES, SYSTEM_SECONDS, TURN_BYTES, Socket
from park.wire import codec, messages
from park.wire.fragments import MAX_PAYLOAD_BYTES, PIECE_BYTES, Reassembly, is_part
from park.wire.subjects import about

#: Messages that ZeroMQ holds for each mirror.
HIGH_WATER_TABLE_MESSAGES = 256
#: Outboxes that are flushed when one of the peers may accept messages again.
FLUSHED_PEERS = 16
#: Seconds without a further piece after which an unfinished message is dropped.
STALE_PIECES_SECONDS = 60.0
#: Seconds between two looks for such messages, at most.
STALE_LOOK_SECONDS = 2.0
#: Bytes of a message of a peer that has not said hello, and bytes of a hello, which lists a kernel's work.
MAX_STRANGER_BYTES, MAX_HELLO_BYTES = 64 << 10, 64 << 20
#: Seconds within which a peer that sends messages must say hello.
HELLO_SECONDS = 10.0
#: Bytes of a frame that the table's socket takes from a peer with a key (handshakes have the longest), subscriptions that
#: ZeroMQ holds from one such peer, bytes that the system holds, and subscriptions that are looked at between two changes of
#: the table.
MAX_SUBSCRIPTION_BYTES, READ_AHEAD_SUBSCRIPTIONS, READ_AHEAD_BYTES, MAX_SUBSCRIPTIONS = 512, 8, 4096, 100
#: Seconds for which a key may not read the table, after a peer with this key has subscribed to more than the table.
SHUT_OUT_SECONDS = 10.0
#: The number of connections that a socket remembers. A connection without an entry is cut only after the broker refuses
#: a message of it.
MAX_CONNECTIONS = 1 << 14
#: Letters of the id of a key, at the end of a User-Id.
ID_LETTERS = 10
#: Messages that an observer's client may send: about itself, and questions about the table.
_OBSERVED_KINDS: tuple[type[messages.Message], ...] = (
    *(messages.Hello, messages.Heartbeat, messages.Goodbye),
    *(messages.Snapshot, messages.Status, messages.Credits),
)
_OBSERVED = tuple(codec.start_of(kind) for kind in _OBSERVED_KINDS)
_HELLOS = (codec.start_of(messages.Hello), codec.start_of(messages.KernelHello))
#: A subscription to all, and its end.
_SUBSCRIPTIONS = (b"\x01", b"\x00")
_OBSERVER = f"{OBSERVER} ".encode()


def long_size(frames: Frames) -> int:
    """The bytes of the payload of a message that is too long for one piece; 0: it is shorter."""
    return size if len(frames) > 1 and (size := len(frames[-1])) > PIECE_BYTES else 0


class _ListeningSocket(Socket):
    """A socket of the broker to which peers connect."""

    _reserve: DescriptorReserve | None = None
    #: the connections to all sockets of the keeper; only a guarded socket has them
    _connections: Connections

    def _guard(self, keeper: Authenticator, domain: str) -> None:
        """Let only peers connect that *keeper* accepts for the domain *domain*."""
        self._socket.curve_secretkey = keeper.pair.secret.encode()
        self._socket.curve_server = True
        self._socket.zap_domain = domain.encode()
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # refuse all peers if the keeper is gone
        self._reserve = keeper.reserve
        self._connections = keeper.connections
        if keeper.watches:
            self._socket.setsockopt(zmq.TCP_MAXRT, 1000 * SYSTEM_SECONDS)

    def bind(self, address: str) -> str:
        """Listen. Returns the actual address (port 0 becomes a free port)."""
        if address.startswith("ipc://"):
            path = address.removeprefix("ipc://")
            # a dead broker's socket: this process holds the lock on the home
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        monitor = None
        if self._reserve is not None:
            monitor = self._socket.get_monitor_socket(zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            if monitor is not None:
                self._socket.disable_monitor()
                monitor.close(0)
            raise NoBroker(f"cannot listen at {address}: {os.strerror(error.errno or 0)}") from error
        if self._reserve is not None and monitor is not None:
            # the first event is that the socket listens; its value is the descriptor
            self._reserve.watch(monitor, int.from_bytes(monitor.recv_multipart()[0][2:6], sys.byteorder))
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))


class Router(_ListeningSocket):
    """The broker's socket for clients, or for kernels, of the same Unix user: over ipc."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]] | None = None, intake: Intake | None = None
    ) -> None:
        super().__init__(zmq.ROUTER, context, HIGH_WATER_MESSAGES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._end_silence()
        #: the long messages that come, to all sockets of the broker
        self._intake = intake or Intake()
        #: by peer: its unfinished message
        self._joiners: dict[bytes, tuple[Reassembly, IncomingMessage]] = {}
        self._look_at = 0.0
        #: by peer: bytes for which there is room, and which the peer was not told of
        self._untold: OrderedDict[bytes, int] = OrderedDict()
        #: the peers that open files of this process, and it theirs; None: over tcp there are none
        self._files: FilePeers | None = FilePeers(
            self._intake, lambda name: (self._peer(name), self._payer(name)), self._reply
        )
        #: by peer: the messages that it has not accepted yet
        self._outboxes: dict[bytes, Outbox] = {}
        #: peers whose pieces have arrived since `lively` was last called
        self._lively: set[bytes] = set()

    def account(self, name: bytes) -> Account | None:
        """The account of the key that the peer has shown."""
        return None

    def send(self, name: bytes, message: Message, said: messages.Message | None = None) -> bool:
        """Send the message as soon as the peer accepts it. Returns whether it waits. A message to a peer that has gone is
        dropped.

        *said* is the decoded message, which tells the messages that it may pass.
        """
        outbox = self._outboxes.get(name)
        if outbox is None:
            frames = message() if callable(message) else message
            if len(frames) == 1 or len(frames[1]) <= PIECE_BYTES:
                if self._offer(name, frames) is not False:
                    return False
            elif not callable(message):
                message = frames
            outbox = self._open_outbox(name)
        elif isinstance(said, messages.Heartbeat) and not outbox.waits_for_answer:
            return True  # a waiting message does the work of a heartbeat
        outbox.put(message, None if said is None else about(said))
        return not self._flush(name, outbox)

    def _open_outbox(self, name: bytes) -> Outbox:
        outbox = self._outboxes[name] = Outbox(
            lambda piece: self._offer(name, piece),
            lambda: self._files is not None and self._files.opens(name),
        )
        return outbox

    def _reply(self, name: bytes, frames: Frames) -> None:
        """Send a short message before all that wait."""
        if self._offer(name, frames) is False:
            outbox = self._outboxes.get(name) or self._open_outbox(name)
            outbox.pass_all(frames)

    def _offer(self, name: bytes, frames: Frames) -> bool | None:
        """Whether ZeroMQ has accepted the message; None: the peer has gone."""
        try:
            self._put([name, *frames])
        except zmq.ZMQError as error:
            return False if error.errno == zmq.EAGAIN else None
        return True

    def waiting(self) -> bool:
        found = super().waiting() or (self._files is not None and self._files.ready)
        # check afterwards: ZeroMQ may have seen free space in a queue only now, and signals that once
        return (bool(self._outboxes) and self._flush_some()) or found

    def flush(self) -> None:
        """Send the waiting messages that peers accept now."""
        for name, outbox in list(self._outboxes.items()):
            self._flush(name, outbox)

    def _flush_some(self) -> bool:
        """Flush some of the outboxes; the next call flushes others. Returns whether a peer would accept more."""
        more = False
        for name in list(self._outboxes)[:FLUSHED_PEERS]:
            outbox = self._outboxes.pop(name)
            if not outbox.flush(TURN_BYTES):
                self._outboxes[name] = outbox
                more |= outbox.more
        return more

    def _flush(self, name: bytes, outbox: Outbox) -> bool:
        """Flush one outbox. Returns whether it is empty now."""
        done = outbox.flush(TURN_BYTES)
        if done:
            del self._outboxes[name]
        return done

    def behind(self) -> dict[bytes, Outbox]:
        """The outboxes of peers that have not accepted all messages."""
        return self._outboxes

    def lively(self) -> set[bytes]:
        """The peers of which part of an unfinished message has arrived since the last call."""
        found, self._lively = self._lively, set()
        if self._joiners:
            self._drop_stale()
        return found

    def without_room(self) -> list[bytes]:
        """The peers whose long messages wait for room."""
        in_files = self._files.without_room if self._files is not None else []
        return [*in_files, *(name for name, (_, incoming) in self._joiners.items() if not incoming.has_room)]

    def cut(self, name: bytes) -> None:
        """Drop all messages that wait for the peer."""
        self._outboxes.pop(name, None)

    def receive(self) -> tuple[bytes, Frames] | None:
        # whole messages pass between the parts of a longer one
        if self._files is not None and (opened := self._files.next(time.monotonic())) is not None:
            return opened
        left = TURN_BYTES
        while left > 0 and self.waiting() and (taken := self._take()):
            name, *frames = taken
            if self._files is not None and frames[0].startswith(ABOUT_FILES):
                if (got := self._hear_of_file(self._files, name, frames)) is not None:
                    return got
                continue
            if not is_part(frames):
                if size := long_size(frames):
                    self._intake.keep(self._peer(name), self._payer(name), size)
                return name, frames
            left -= sum(map(len, frames))
            self._lively.add(name)
            if (whole := self._join(name, frames)) is not None:
                return name, whole
        return None

    def _hear_of_file(self, files: FilePeers, name: bytes, frames: Frames) -> tuple[bytes, Frames] | None:
        """Take in a Mapped or an Opened. Returns a whole message, or these frames where they break the rules."""
        now = time.monotonic()
        self._lively.add(name)
        try:
            message, _ = codec.decode(frames)
            if isinstance(message, messages.Mapped):
                files.take(name, frames, now)
                return files.next(now)
        except ProtocolError:
            return name, frames
        assert isinstance(message, messages.Opened)
        if not message.number:
            files.answered(name, message)
        elif (outbox := self._outboxes.get(name)) is not None:
            outbox.answered(message.number, message.opened)
            self._flush(name, outbox)
        return None

    def _join(self, name: bytes, frames: Frames) -> Frames | None:
        """Take in a piece. With the last piece it returns the whole message. It also returns a piece that breaks the
        rules, so that the loop decodes and counts it.
        """
        now = self._drop_stale()
        joiner, incoming = self._joiners.pop(name, None) or (Reassembly(), None)
        before, joiner.limit = joiner.begun, self._limit_of(name)
        try:
            whole = joiner.feed(frames)
        except ProtocolError:
            if incoming is not None:
                self._intake.drop(incoming, now)
            if size := long_size(frames):
                self._intake.keep(self._peer(name), self._payer(name), size)
            return frames
        if incoming is not None and (joiner.begun != before or (whole is None and not joiner.have)):
            self._intake.drop(incoming, now)
            incoming = None
        if joiner.begun != before:
            total = joiner.size + joiner.head
            incoming = self._intake.begin(
                self._peer(name), self._payer(name), joiner.size, lambda: self._has_room(name, total), now
            )
        if incoming is None:
            return None  # the rest of a message whose beginning was lost
        if whole is not None:
            self._intake.complete(incoming, now)
            if not long_size(whole):
                self.release(name, joiner.size)
            return whole
        self._joiners[name] = joiner, incoming
        if not self._intake.came(incoming, joiner.have, now):
            self._drop_unfinished(name)
            self._too_early(name)
        return None

    def _has_room(self, name: bytes, size: int) -> None:
        """Note that there is room for *size* bytes of the peer. The peer is told when many have come together."""
        untold = self._untold.pop(name, 0) + size
        if untold >= TELL_BYTES:
            self.send(name, codec.encode(messages.Proceed(untold)))
            return
        self._untold[name] = untold
        if len(self._untold) > MAX_CONNECTIONS:
            other, untold = self._untold.popitem(last=False)
            self.send(other, codec.encode(messages.Proceed(untold)))

    def release(self, name: bytes, size: int) -> None:
        """Note that a long message of the peer, with a payload of *size* bytes, was decided."""
        self._intake.release(self._peer(name), self._payer(name), size, time.monotonic())

    def release_all(self) -> None:
        """Note that all long messages that have come whole were decided or dropped."""
        self._intake.release_all(time.monotonic())

    def _peer(self, name: bytes) -> tuple[int, bytes]:
        """The peer, among those of all sockets."""
        return id(self), name

    def _payer(self, name: bytes) -> bytes:
        """The peers to whose budget the long messages of the peer count."""
        return b"ipc"

    def _limit_of(self, name: bytes) -> int:
        """The longest payload that the peer may begin now, bytes."""
        return MAX_PAYLOAD_BYTES

    def _too_early(self, name: bytes) -> None:
        """The peer has sent much more of a message than there was room for; it was dropped."""

    def _drop_unfinished(self, name: bytes) -> None:
        """Keep the unfinished message of the peer no longer."""
        if (kept := self._joiners.pop(name, None)) is not None:
            self._intake.drop(kept[1], time.monotonic())

    def _drop_stale(self) -> float:
        """Drop unfinished messages whose senders do not go on. Returns the time."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + min(STALE_LOOK_SECONDS, STALE_PIECES_SECONDS / 4)
            slow = set(self._intake.slow(now))
            for name, (_, incoming) in list(self._joiners.items()):
                if incoming in slow or (incoming.has_room and now >= incoming.at + STALE_PIECES_SECONDS):
                    self._drop_unfinished(name)
                    if incoming in slow:
                        self._give_up(name)
        return now

    def _give_up(self, name: bytes) -> None:
        """The unfinished message of the peer was dropped, because the peer is slow and others wait."""

    def _take(self) -> list[bytes]:
        """The next message, after the name of its peer; [] if there is none."""
        return self._get(named=True)


class KeyedRouter(Router):
    """The broker's socket for peers with a key, over tcp.

    A peer's name is its routing id and its User-Id, as they come with each message. A routing id belongs to a connection;
    a later connection with the same id and another key is another peer.
    """

    def __init__(self, keeper: Authenticator, domain: str, intake: Intake | None = None) -> None:
        super().__init__(keeper.context, intake)
        self._files = None
        self._guard(keeper, domain)
        keeper.guarded_sockets.append(self)
        self._audit = keeper.keyring.audit if keeper.keyring is not None else None
        #: by routing id: the name of the peer, and its connection; the peer that was silent longest comes first
        self._holders: OrderedDict[bytes, tuple[bytes, Connection]] = OrderedDict()
        #: peers that have not said hello, until when they may do so, and their connections; the oldest first
        self._strangers: dict[bytes, tuple[float, Connection]] = {}
        #: peers whose key was revoked: the broker hears that they have left
        self._leaving: deque[bytes] = deque()

    def account(self, name: bytes) -> Account:
        role, who, _ = name[1 + name[0] :].decode().split(" ")
        return Account(who, pool=role == POOL)

    def waiting(self) -> bool:
        return bool(self._leaving) or super().waiting()

    def receive(self) -> tuple[bytes, Frames] | None:
        if self._leaving:
            return self._leaving.popleft(), codec.encode(
                messages.Goodbye("its key was revoked, or has expired")
            )
        while (got := super().receive()) is not None:
            name, frames = got
            if name.startswith(_OBSERVER, 1 + name[0]) and not frames[0].startswith(_OBSERVED):
                self._refuse(name, frames)
            elif name[-ID_LETTERS:] not in self._connections.revoked:
                return got
            if size := long_size(frames):
                self.release(name, size)
        return None

    def _refuse(self, name: bytes, frames: Frames) -> None:
        """Answer an observer that asks for more than the table."""
        words = "the key that you showed is an observer's: it sees the table, and sends no jobs and reads no results"
        if number := codec.id_of(frames):
            self.send(name, codec.encode(messages.Failure(number, "Refused", words)))
        self._note(name, "it asks for more than the table")

    def send(self, name: bytes, message: Message, said: messages.Message | None = None) -> bool:
        if isinstance(said, messages.Failure) and said.error == "Refused":
            self._note(name, said.text)
        return super().send(name, message, said)

    def _note(self, name: bytes, text: str) -> None:
        """Write a refused request to the audit log."""
        if self._audit is not None:
            self._audit.refused(f"a request of {name[1 + name[0] :].decode()}: {text}", time.monotonic())

    def revoke(self, key: bytes) -> None:
        """Tell the broker that peers have left, because the connections of the key with this id were cut."""
        for name in [name for name, _ in self._holders.values() if name.endswith(key)]:
            del self._holders[name[1 : 1 + name[0]]]
            self.cut(name)
            self._drop_unfinished(name)
            self._strangers.pop(name, None)
            self._leaving.append(name)

    def _offer(self, name: bytes, frames: Frames) -> bool | None:
        routing = name[1 : 1 + name[0]]
        if self._holders.get(routing, (name,))[0] != name or name[-ID_LETTERS:] in self._connections.revoked:
            return True  # the peer has gone, and another key may have its routing id
        return super()._offer(routing, frames)

    def _take(self) -> list[bytes]:
        frames = self._get(copy=False, named=True)
        if frames:
            first = frames[1]
            routing, who = frames[0].bytes, str(first.get("User-Id")).encode()
            frames[1] = first.bytes
            frames[0] = name = bytes((len(routing),)) + routing + who
            holder = self._holders.get(routing)
            if holder is not None and holder[0] == name:
                self._holders.move_to_end(routing)
                self._connections.heard.add(holder[1].descriptor)
            else:
                self._begin(routing, name, self._connections.add(who[-ID_LETTERS:], first))
            if self._strangers and name in self._strangers:
                frames[1:] = self._of_stranger(name, frames[1:])
        return frames

    def _begin(self, routing: bytes, name: bytes, connection: Connection) -> None:
        """Note the first message of a peer. If there are too many peers, those that were silent longest are forgotten."""
        if len(self._holders) >= MAX_CONNECTIONS:
            self._holders.popitem(last=False)
        self._holders[routing] = name, connection
        if len(self._strangers) >= MAX_CONNECTIONS:
            self._cut_stranger(next(iter(self._strangers)))
        self._strangers[name] = time.monotonic() + HELLO_SECONDS, connection

    def lively(self) -> set[bytes]:
        now = time.monotonic()
        while self._strangers:
            name, (until, _) = next(iter(self._strangers.items()))
            if now < until:
                break
            self._cut_stranger(name)
        return super().lively()

    def _cut_stranger(self, name: bytes) -> None:
        _, connection = self._strangers.pop(name)
        self._holders.pop(name[1 : 1 + name[0]], None)
        self._drop_unfinished(name)
        connection.hang_up()

    def _of_stranger(self, name: bytes, frames: list[Any]) -> list[Any]:
        """The message of a peer that has not said hello: its hello, or a short one. A heartbeat takes the place of others,
        to which the broker answers that the peer is to say hello.
        """
        if frames[0].startswith(_HELLOS):
            del self._strangers[name]
        elif is_part(frames):
            if name not in self._joiners and not frames[-1].startswith(_HELLOS):
                return list(codec.encode(messages.Heartbeat()))
        elif sum(map(len, frames)) > MAX_STRANGER_BYTES:
            return list(codec.encode(messages.Heartbeat()))
        return frames

    def _payer(self, name: bytes) -> bytes:
        return name[-ID_LETTERS:]

    def _limit_of(self, name: bytes) -> int:
        return MAX_HELLO_BYTES if name in self._strangers else MAX_PAYLOAD_BYTES

    def _too_early(self, name: bytes) -> None:
        self._note(
            name, f"it sent {MAX_EARLY_BYTES >> 20} MB of a long message, and there was no room for it"
        )

    def _give_up(self, name: bytes) -> None:
        """The peer sends all that was not answered when it is back."""
        self._note(name, "it was slow with a long message, and others waited for room")
        if (holder := self._holders.get(name[1 : 1 + name[0]])) is not None and holder[0] == name:
            holder[1].hang_up()


class Publisher(_ListeningSocket):
    """The broker's socket towards mirrors; with a *keeper*, towards mirrors with a key."""

    def __init__(self, keeper: Authenticator | None = None) -> None:
        super().__init__(zmq.XPUB, keeper.context if keeper is not None else None, HIGH_WATER_TABLE_MESSAGES)
        self._end_silence()
        self._keyed = keeper is not None
        self._keeper = keeper
        if keeper is not None:
            self._guard(keeper, TABLE)
            # the subscription of each mirror names its connection
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
            self._socket.setsockopt(zmq.RCVHWM, READ_AHEAD_SUBSCRIPTIONS)
            self._socket.setsockopt(zmq.RCVBUF, READ_AHEAD_BYTES)

    def publish(self, frames: Frames) -> None:
        """Send to all mirrors. A message longer than a piece is not sent: mirrors see the gap and ask for the table."""
        self._used = True
        self._hear()
        if sum(map(len, frames)) <= PIECE_BYTES:
            with contextlib.suppress(zmq.Again):
                self._put(frames)

    def _hear(self) -> None:
        """Take in subscriptions. A mirror subscribes once, to all. ZeroMQ keeps each topic of a peer, at some 50 bytes
        for each letter, so a peer that sends anything else is cut.
        """
        counts: Counter[int] = Counter()
        cut: set[int] = set()
        while counts.total() < MAX_SUBSCRIPTIONS and self.waiting():
            if not (frames := self._get(copy=not self._keyed)):
                break
            descriptor = descriptor_of(frames[0]) if self._keyed else -1
            counts[descriptor] += 1
            # without a descriptor ZeroMQ says that the last subscriber of a topic has gone
            if descriptor < 0 or descriptor in cut:
                continue
            who = str(frames[0].get("User-Id"))
            key = who[-ID_LETTERS:].encode()
            connection = self._connections.add(key, frames[0])
            if key in self._connections.revoked:  # before this subscription was seen
                cut.add(descriptor)
                connection.hang_up()
            elif frames[0].bytes not in _SUBSCRIPTIONS or counts[descriptor] > READ_AHEAD_SUBSCRIPTIONS:
                cut.add(descriptor)
                self._cut(connection, who)

    def _cut(self, connection: Connection, who: str) -> None:
        """Cut a peer that subscribes to more than the table. Its key opens no table for a while."""
        connection.hang_up()
        now = time.monotonic()
        if self._keeper is not None:
            self._keeper.shut_out[who[-ID_LETTERS:]] = now + SHUT_OUT_SECONDS
            if self._keeper.keyring is not None:
                self._keeper.keyring.audit.refused(
                    f"a request of {who}: it subscribes to more than the table", now
                )

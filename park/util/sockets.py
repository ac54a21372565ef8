"""ZeroMQ sockets, opened the one way that PARK uses them, with the face of `park.util.lanes`.

A socket's descriptor only says that something may have happened, and says it once: it is quiet again when the
socket was next used, for whatever. So when it speaks a message is looked for, and when the socket was used it is asked
until it has nothing: a reactor may wait for descriptors alone, and a question, which costs some 5 us, is put only
where the answer may be yes.

What is kept for one peer is bounded in bytes. ZeroMQ counts messages, so long ones travel in pieces of 256 KiB: it holds
`HIGH_WATER` of them to a peer (8 MiB) and from it (16 MiB, should it send frames of `MAX_FRAME`). What it does not take
waits in an `Outbox`, at both ends: there a short message passes a long one of which a part is out. A mirror that reads too
slowly misses changes, sees so, and asks for the whole. Of a message in pieces at most `MAX_PAYLOAD` bytes are kept, for
`STALE` seconds after the last piece. A peer that is stopped is cut off after `SILENCE` seconds; what ZeroMQ holds for it
goes too. The pieces of a message are signs of life, although it is not whole: heartbeats need not pass them.
"""

from __future__ import annotations

import contextlib
import os
import socket as plain
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from park.core.outcome import Account
from park.errors import NoBroker, ProtocolError, Refused
from park.util import zap
from park.util.keys import POOL, Entry, Key, Pair
from park.util.outbox import Frames, Message, Outbox
from park.wire import messages
from park.wire.about import about
from park.wire.parts import PIECE, Joiner, is_part

#: The largest frame that a socket takes, twice the largest piece it is given, bytes.
MAX_FRAME = 2 * PIECE
#: Messages that ZeroMQ holds for a peer, and from a peer of a broker; and for a mirror.
HIGH_WATER = 32
HIGH_WATER_OF_TABLE = 256
#: Messages that ZeroMQ holds for a client or a kernel to read.
READ_AHEAD = 1000
#: Bytes of pieces that are taken, or sent to one peer, before others have their turn.
AT_ONCE = 4 << 20
#: Peers with something that waits which are looked at when one of them may have taken some.
LOOKED_AT = 16
#: Seconds between a broker's questions to ZeroMQ at the other end, and after which it is cut off if it does not answer.
ASK, SILENCE = 5, 20
#: Seconds after which the pieces of a message are dropped if no more have come.
STALE = 60.0
#: Milliseconds between two attempts to reach a broker that is away, at most: when it is back, kernels that hold work of
#: its last life have one lease to say so.
RECONNECT = 2_000
#: Milliseconds that last words have to get out.
LINGER = 300

# plain numbers: enums take longer to combine than ZeroMQ to send
_EVENTS, _POLLIN, _RCVMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.RCVMORE)
_DONTWAIT, _MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
#: Frames from this size on are not copied into ZeroMQ.
_LARGE = 65536
_TROUBLES: dict[int, str] = {zmq.EVENT_HANDSHAKE_SUCCEEDED: "", zmq.EVENT_HANDSHAKE_FAILED_AUTH: "key"}


def _open(context: zmq.Context[zmq.Socket[bytes]], kind: int, hwm: int = READ_AHEAD) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 4_000)
    return socket


def zeromq() -> str:
    """The version of ZeroMQ."""
    return zmq.zmq_version()


def has_curve() -> bool:
    """Whether this ZeroMQ can encrypt."""
    return bool(zmq.has("curve"))


def new_pair() -> tuple[str, str]:
    """A new CURVE pair: the public key and the secret one. Raises Refused where this ZeroMQ has none."""
    _check_curve()
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _check_curve() -> None:
    if not has_curve():
        raise Refused(
            "this ZeroMQ was built without CURVE, and over tcp PARK needs it: install pyzmq from its wheel "
            "(`pip install --force-reinstall --only-binary :all: pyzmq`), or stay on one machine, over ipc"
        )


def check_listener(address: str, seconds: float) -> None:
    """Whether anybody listens there: raises NoBroker with the system's reason, within *seconds* where it can."""
    try:
        if address.startswith("ipc://"):
            with plain.socket(plain.AF_UNIX) as probe:
                probe.settimeout(seconds)
                probe.connect(address.removeprefix("ipc://"))
        else:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            plain.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise NoBroker(
            f"no broker answers at {address} ({reason[:1].lower()}{reason[1:]}): is it running (`park-broker`), "
            "and is the address right?"
        ) from None


class _Stirring:
    """A socket that a reactor listens to."""

    _socket: zmq.Socket[bytes]
    #: it was used, and must be asked whether it has a message; else whether it may have one
    _used, _full = True, False

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def stir(self, ready: int = 0) -> None:
        """The descriptor speaks: nearly always because there is a message."""
        self._used, self._full = False, True

    def waiting(self) -> bool:
        """Whether there may be something to receive."""
        if self._used:
            self._used = False
            self._full = bool(self._socket.get(_EVENTS) & _POLLIN)  # type: ignore[operator]
        return self._full

    def _put(self, frames: Frames) -> None:
        """Send one message; raises what ZeroMQ raises."""
        self._used = True
        send = self._socket.send
        for frame in frames[:-1]:
            send(frame, _MORE)
        last = frames[-1]
        send(last, _DONTWAIT, copy=len(last) < _LARGE)

    def _get(self, copy: bool = True, named: bool = False) -> list[Any]:
        """The frames of the next message, the first as ZeroMQ has it unless *copy*; [] if there is none.

        *named*: the first is the name of a peer, which is never alone: ZeroMQ need not be asked whether more follows.
        (ZeroMQ's own recv_multipart takes twice as long.)
        """
        socket = self._socket
        try:
            frames: list[Any] = [socket.recv(_DONTWAIT, copy)]
        except zmq.Again:  # the descriptor spoke of something else
            self._used = self._full = False
            return []
        self._used = True
        if named:
            frames.append(socket.recv(_DONTWAIT))
        while socket.get(_RCVMORE):
            frames.append(socket.recv(_DONTWAIT))
        return frames


class Doorkeeper(_Stirring):
    """A part of the broker's reactor that answers ZeroMQ's question who may come in, for all sockets of its context.

    ZeroMQ asks at one address of the context, so it is the doorkeeper's own. *pair* is the broker's.
    """

    def __init__(self, pair: Pair, find: Callable[[str, float], Entry | None]) -> None:
        self.pair = pair
        self._find = find
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = _open(self.context, zmq.REP)
        self._socket.bind("inproc://zeromq.zap.01")

    def turn(self, now: float) -> None:
        while self.waiting() and (frames := self._get()):
            reply = zap.answer(frames, lambda raw: self._find(z85.encode(raw).decode(), now))
            self._put(reply)

    def deadline(self) -> float | None:
        return None

    def close(self) -> None:
        """Close all sockets of the context."""
        self.context.destroy(linger=0)


class _Socket(_Stirring):
    def __init__(
        self, kind: int, context: zmq.Context[zmq.Socket[bytes]] | None = None, hwm: int = READ_AHEAD
    ) -> None:
        self._socket = _open(context if context is not None else zmq.Context.instance(), kind, hwm)

    def _ask_often(self) -> None:
        """Peers that are stopped, or do not read, are cut off."""
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 1000 * ASK)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1000 * SILENCE)

    def _guard(self, keeper: Doorkeeper, domain: str) -> None:
        """Only whom *keeper* lets in at the door *domain* may connect."""
        self._socket.curve_secretkey = keeper.pair.secret.encode()
        self._socket.curve_server = True
        self._socket.zap_domain = domain.encode()
        self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody, should the keeper be gone

    def bind(self, address: str) -> str:
        """Listen; the address as it is now (a port 0 is a free one)."""
        if address.startswith("ipc://"):
            path = address.removeprefix("ipc://")
            with contextlib.suppress(
                FileNotFoundError
            ):  # the lock on the home is held: it is a dead broker's
                os.unlink(path)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise NoBroker(f"cannot listen at {address}: {os.strerror(error.errno or 0)}") from error
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def close(self) -> None:
        self._socket.close()


class Router(_Socket):
    """The broker's end towards clients, or towards kernels, of this Unix user: over ipc."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        super().__init__(zmq.ROUTER, context, HIGH_WATER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._ask_often()
        #: messages of which a part is missing, by peer, and when its last part came
        self._joiners: dict[bytes, tuple[Joiner, float]] = {}
        self._look_at = 0.0
        #: what peers have not taken yet
        self._outboxes: dict[bytes, Outbox] = {}
        #: peers of whose messages pieces have come, since that was asked
        self._lively: set[bytes] = set()

    def account(self, name: bytes) -> Account | None:
        """Whose key the peer showed."""
        return None

    def send(self, name: bytes, message: Message, said: messages.Message | None = None) -> bool:
        """Send it as soon as the peer takes it; whether it waits for that. To one that has gone: dropped.

        *said*: the same, from which it is told what it may pass.
        """
        outbox = self._outboxes.get(name)
        if outbox is None:
            frames = message() if callable(message) else message
            if len(frames) == 1 or len(frames[1]) <= PIECE:
                if self._offer(name, frames):
                    return False
            elif not callable(message):
                message = frames
            outbox = self._outboxes[name] = Outbox(lambda piece: self._offer(name, piece))
        elif isinstance(said, messages.Heartbeat):
            return True  # it is not behind what waits, but the same
        outbox.put(message, None if said is None else about(said))
        return not self._flush(name, outbox)

    def _offer(self, name: bytes, frames: Frames) -> bool:
        """Whether ZeroMQ takes the message, or its peer has gone."""
        try:
            self._put([name, *frames])
        except zmq.ZMQError as error:
            return error.errno != zmq.EAGAIN
        return True

    def waiting(self) -> bool:
        found = super().waiting()
        # afterwards: ZMQ may just now have seen that there is room, and says it once
        return (bool(self._outboxes) and self._flush_some()) or found

    def flush(self) -> None:
        """Send what peers take now of what they did not take before."""
        for name, outbox in list(self._outboxes.items()):
            self._flush(name, outbox)

    def _flush_some(self) -> bool:
        """The same for some of them, others the next time; whether one would take more."""
        more = False
        for name in list(self._outboxes)[:LOOKED_AT]:
            outbox = self._outboxes.pop(name)
            if not outbox.flush(AT_ONCE):
                self._outboxes[name] = outbox
                more |= outbox.more
        return more

    def _flush(self, name: bytes, outbox: Outbox) -> bool:
        """Whether nothing waits any more."""
        done = outbox.flush(AT_ONCE)
        if done:
            del self._outboxes[name]
        return done

    def behind(self) -> dict[bytes, Outbox]:
        """The messages that wait, by peer; of those that have not taken everything."""
        return self._outboxes

    def lively(self) -> set[bytes]:
        """Peers of whose messages pieces have come since this was asked last."""
        found, self._lively = self._lively, set()
        return found

    def cut(self, name: bytes) -> None:
        """What waits for the peer is dropped."""
        self._outboxes.pop(name, None)

    def receive(self) -> tuple[bytes, Frames] | None:
        # what is whole passes between the parts of a longer one
        left = AT_ONCE
        while left > 0 and self.waiting() and (taken := self._take()):
            name, *frames = taken
            if not is_part(frames):
                return name, frames
            left -= sum(map(len, frames))
            self._lively.add(name)
            kept = self._joiners.pop(name, None)
            joiner = kept[0] if kept is not None else Joiner()
            try:
                whole = joiner.feed(frames)
            except ProtocolError:
                return name, frames  # the loop decodes it again, and counts it
            if whole is not None:
                return name, whole
            self._joiners[name] = joiner, self._drop_stale()
        return None

    def _drop_stale(self) -> float:
        """Whoever has begun a message and not gone on is gone. The time."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + STALE / 4
            for name, (_, at) in list(self._joiners.items()):
                if now >= at + STALE:
                    del self._joiners[name]
        return now

    def _take(self) -> list[bytes]:
        """The next message, after the name of its peer; [] if there is none."""
        return self._get(named=True)


class KeyedRouter(Router):
    """The same, over tcp, towards those who have a key.

    A peer's name is its routing id and its User-Id, as they come with each message: a routing id is the
    connection's, and whoever gets it after another is another peer.
    """

    def __init__(self, keeper: Doorkeeper, domain: str) -> None:
        super().__init__(keeper.context)
        self._guard(keeper, domain)

    def account(self, name: bytes) -> Account:
        role, _, who = name[1 + name[0] :].decode().partition(" ")
        return Account(who, pool=role == POOL)

    def _offer(self, name: bytes, frames: Frames) -> bool:
        return super()._offer(name[1 : 1 + name[0]], frames)

    def _take(self) -> list[bytes]:
        frames = self._get(copy=False, named=True)
        if frames:
            routing, who = frames[0].bytes, str(frames[0].get("User-Id"))
            frames[0] = bytes((len(routing),)) + routing + who.encode()
        return frames


class Caller(_Socket):
    """A socket that connects. With a *key* it shows it, and knows why it is not let in."""

    def __init__(
        self,
        kind: int,
        address: str,
        key: Key | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        super().__init__(kind, context)
        self._address = address
        self._monitor: zmq.Socket[bytes] | None = None
        #: why the last handshake failed: "key" (the broker refused ours), "handshake" (there was none), or ""
        self._trouble = ""
        self._look_at = 0.0
        if key is not None:
            self._socket.curve_publickey = key.public.encode()
            self._socket.curve_secretkey = key.secret.encode()
            self._socket.curve_serverkey = key.broker.encode()
            self._monitor = self._socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED
                | zmq.EVENT_HANDSHAKE_FAILED_AUTH
                | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            )

    def trouble(self) -> str:
        """Why the broker does not let us in: "key" (it refused ours), "handshake" (there was none), "" (not known)."""
        self._look()
        return self._trouble

    def _look(self) -> None:
        """See what became of the handshakes. After some failures ZeroMQ rests: call again, at most once a second."""
        if self._monitor is None or (now := time.monotonic()) < self._look_at:
            return
        self._look_at = now + 1.0
        rests = False
        while int(self._monitor.get(zmq.EVENTS)) & _POLLIN:
            # a number of 16 bits and one of 32; zmq.utils.monitor would read it too, and load asyncio and ssl
            event = int.from_bytes(self._monitor.recv_multipart(_DONTWAIT)[0][:2], sys.byteorder)
            rests = event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            self._trouble = _TROUBLES.get(event, "handshake")
        if rests:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self._address)
            self._socket.connect(self._address)
            self._used = True

    def _connect(self) -> None:
        self._socket.setsockopt(zmq.IPV6, int("[" in self._address))
        try:
            self._socket.connect(self._address)
        except zmq.ZMQError as error:
            self.close()
            raise NoBroker(
                f"{self._address!r} is no address of a broker ({os.strerror(error.errno or 0).lower()}): "
                "give tcp://HOST:PORT, ipc://FOLDER, or the path of a connection file"
            ) from error

    def close(self) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
        super().close()


class Dealer(Caller):
    """A client's or a kernel's end. Its context is its own, so that `close` can wait until the last words are out.

    What waits here is what the caller has asked for: nothing of it is dropped while there is contact.
    """

    def __init__(self, address: str, key: Key | None = None) -> None:
        if key is not None:
            _check_curve()  # before there is anything to close
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        super().__init__(zmq.DEALER, address, key, self._context)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self._connect()
        self._joiner = Joiner()
        self._outbox = Outbox(self._offer)
        self._lively = self._waits = False

    def wait(self, seconds: float) -> bool:
        """Whether there is a connection within so many seconds."""
        self._used = True
        return bool(self._socket.poll(int(1000 * seconds), zmq.POLLOUT))

    def send(self, frames: Frames, said: messages.Message | None = None) -> None:
        """Send it, now or as soon as the broker takes it; *said*: the same, from which it is told what it may pass.

        Raises InvalidRequest for a payload of more than `MAX_PAYLOAD` bytes.
        """
        if not self._waits:
            if (len(frames) == 1 or len(frames[1]) <= PIECE) and self._offer(frames):
                return
        elif isinstance(said, messages.Heartbeat):
            return  # what waits is a sign of life itself
        self._outbox.put(frames, None if said is None else about(said))
        self._flush()

    def clear(self) -> None:
        """Drop all that waits: contact was lost, and its senders say it again when there is contact."""
        self._outbox = Outbox(self._offer)
        self._waits = False

    def lively(self) -> bool:
        """Whether a piece of a message has come since this was asked last."""
        found, self._lively = self._lively, False
        return found

    def waiting(self) -> bool:
        found = super().waiting()
        return (self._waits and self._flush()) or found

    def _offer(self, frames: Frames) -> bool:
        try:
            self._put(frames)
        except zmq.Again:
            self._look()
            return False
        return True

    def _flush(self) -> bool:
        """Send what the broker takes now; whether it would take more."""
        self._waits = not self._outbox.flush(AT_ONCE)
        return self._outbox.more

    def receive(self) -> Frames | None:
        left = AT_ONCE
        while left > 0 and super().waiting() and (frames := self._get()):
            if not is_part(frames):
                return frames
            left -= sum(map(len, frames))
            self._lively = True
            try:
                whole = self._joiner.feed(frames)
            except ProtocolError:
                return frames  # the loop decodes it again, and says so
            if whole is not None:
                return whole
        return None

    def close(self) -> None:
        self._outbox.flush()
        self._socket.linger = LINGER
        super().close()
        self._context.term()


class Publisher(_Socket):
    """The broker's end towards mirrors; with a *keeper*, towards those who have a key."""

    def __init__(self, keeper: Doorkeeper | None = None) -> None:
        super().__init__(zmq.XPUB, keeper.context if keeper is not None else None, HIGH_WATER_OF_TABLE)
        self._ask_often()
        if keeper is not None:
            self._guard(keeper, "table")

    def publish(self, frames: Frames) -> None:
        """To all mirrors. What is longer than a piece is not sent: they see the gap, and ask for the whole."""
        self._used = True
        while self.waiting() and self._get():
            pass  # subscriptions; nobody needs to know
        if sum(map(len, frames)) <= PIECE:
            with contextlib.suppress(zmq.Again):
                self._put(frames)


class Subscriber(Caller):
    """A mirror's end."""

    def __init__(self, address: str, key: Key | None = None) -> None:
        super().__init__(zmq.SUB, address, key)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._connect()

    def receive(self) -> Frames | None:
        if self.waiting() and (frames := self._get()):
            return frames
        self._look()
        return None

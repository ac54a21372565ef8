"""The sockets of clients, kernels and mirrors: they connect to a broker."""

from __future__ import annotations

import contextlib
import os
import socket as plain
import sys
import time

import zmq

from park.errors import NoBroker, ProtocolError
from park.net.curve import check_curve
from park.net.intake import WINDOW_BYTES
from park.net.keys import Key
from park.net.outbox import Frames, Outbox
from park.net.payload_files import ABOUT_FILES, Probe, answer, answer_to_probe, open_payload
from park.net.polled import HIGH_WATER_MESSAGES, TURN_BYTES, Socket
from park.util.sealed import SealedBuffer
from park.wire import messages
from park.wire.codec import decode, start_of
from park.wire.fragments import PIECE_BYTES, MemoryBuffer, PayloadBuffer, Reassembly, is_part
from park.wire.subjects import about

#: Milliseconds in which a closed socket may still send its last messages.
LINGER_MILLISECONDS = 300
#: Milliseconds after which an attempt to connect that nobody answers is given up for the next one.
CONNECT_MILLISECONDS = 5_000
_PROCEED = start_of(messages.Proceed)
_TROUBLES: dict[int, str] = {zmq.EVENT_HANDSHAKE_SUCCEEDED: "", zmq.EVENT_HANDSHAKE_FAILED_AUTH: "key"}


def check_listener(address: str, seconds: float) -> None:
    """Raise NoBroker, with the system's reason, if no process listens at *address*. It takes *seconds* at most where
    the system allows that.
    """
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


class Caller(Socket):
    """A socket that connects. With a *key* it authenticates, and knows the reason of a refusal."""

    def __init__(
        self,
        kind: int,
        address: str,
        key: Key | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        super().__init__(kind, context)
        # the system would try a connection that a cut link has broken for minutes, with growing pauses
        self._end_silence()
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MILLISECONDS)
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
        """Look at the outcome of handshakes. After some failures ZeroMQ rests: call again, at most once a second."""
        if self._monitor is None or (now := time.monotonic()) < self._look_at:
            return
        self._look_at = now + 1.0
        rests = False
        while int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            # a number of 16 bits and one of 32; zmq.utils.monitor would read it too, and load asyncio and ssl
            event = int.from_bytes(self._monitor.recv_multipart(zmq.DONTWAIT)[0][:2], sys.byteorder)
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


def _buffer_to_share(size: int) -> PayloadBuffer:
    """Memory for a payload of *size* bytes. If possible, other processes can take the payload from there without a
    copy.
    """
    try:
        return SealedBuffer(size)
    except OSError:
        return MemoryBuffer(size)


class Dealer(Caller):
    """The socket of a client or a kernel. It has a context of its own, so that `close` can wait until the last messages
    have gone.

    Messages of the caller wait here, and are not dropped while there is contact.
    """

    def __init__(self, address: str, key: Key | None = None) -> None:
        if key is not None:
            check_curve()  # before there is anything to close
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        super().__init__(zmq.DEALER, address, key, self._context)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
        self._connect()
        self._joiner = Reassembly(new_buffer=_buffer_to_share)
        #: by it the broker finds out whether it can open files of this process; None: over tcp it cannot
        self._probe = Probe() if address.startswith("ipc://") else None
        #: whether it can, and the last message that it sent as a file
        self._opens, self._taken = False, 0
        self._outbox = self._new_outbox()
        self._lively = self._waits = False
        #: pieces that have come, and signs of the broker that it moves
        self._signs = 0
        #: bytes of long messages that may go before the broker says that there is room for more
        self._window = WINDOW_BYTES

    def wait(self, seconds: float) -> bool:
        """Whether there is a connection within *seconds*."""
        self._used = True
        return bool(self._socket.poll(int(1000 * seconds), zmq.POLLOUT))

    def send(self, frames: Frames, said: messages.Message | None = None) -> None:
        """Send *frames* now or as soon as the broker takes them. *said*: the message, which decides what it may
        overtake.

        Raises InvalidRequest for a payload of more than `MAX_PAYLOAD_BYTES`.
        """
        if not self._waits:
            if (len(frames) == 1 or len(frames[1]) <= PIECE_BYTES) and self._offer(frames):
                return
        elif isinstance(said, messages.Heartbeat) and self._window > 0 and not self._outbox.waits_for_answer:
            return  # a waiting message is a sign of life itself
        self._outbox.put(frames, None if said is None else about(said))
        self._flush()

    def clear(self) -> None:
        """Drop all messages that wait: contact was lost, and their senders repeat them when there is contact."""
        self._outbox = self._new_outbox()
        self._waits, self._window = False, WINDOW_BYTES
        self._opens, self._taken = False, 0
        if self._probe is not None and (probe := self._probe.message()) is not None:
            self._reply(probe)

    def _new_outbox(self) -> Outbox:
        return Outbox(self._offer, lambda: self._opens)

    def _reply(self, frames: Frames) -> None:
        """Send a short message before all that wait."""
        if not self._offer(frames):
            self._outbox.pass_all(frames)
            self._waits = True

    def lively(self) -> bool:
        """Whether a piece of a message has come since the last call."""
        found, self._lively = self._lively, False
        return found

    @property
    def moved(self) -> int:
        """A number that changes whenever a piece of a long message has gone or come, or was stored by the broker."""
        return self._outbox.taken + self._signs

    def waiting(self) -> bool:
        found = super().waiting()
        return (self._waits and self._flush()) or found

    def _offer(self, frames: Frames) -> bool:
        piece = is_part(frames)
        if piece and self._window <= 0:
            return False
        try:
            self._put(frames)
        except zmq.Again:
            self._look()
            return False
        if piece:
            self._window -= len(frames[-1])
        return True

    def _flush(self) -> bool:
        """Send the messages that the broker takes now. Returns whether it would take more."""
        self._waits = not self._outbox.flush(TURN_BYTES)
        return self._outbox.more

    def receive(self) -> Frames | None:
        left = TURN_BYTES
        while left > 0 and super().waiting() and (frames := self._get()):
            if frames[0].startswith(_PROCEED):
                self._proceed(frames)
                continue
            if self._probe is not None and frames[0].startswith(ABOUT_FILES):
                if (found := self._hear_of_file(frames)) is not None:
                    return found
                continue
            if not is_part(frames):
                return frames
            left -= sum(map(len, frames))
            self._lively = True
            self._signs += 1
            try:
                whole = self._joiner.feed(frames)
            except ProtocolError:
                return frames  # the loop decodes it again, and says so
            if whole is not None:
                return whole
        return None

    def _hear_of_file(self, frames: Frames) -> Frames | None:
        """Take in a Mapped or an Opened. Returns a whole message, or these frames where they break the rules."""
        self._lively = True
        self._signs += 1
        try:
            message, head = decode(frames)
        except ProtocolError:
            return frames
        if isinstance(message, messages.Opened):
            if message.number:
                self._outbox.answered(message.number, message.opened)
                self._flush()
            else:
                self._opens = message.opened
            return None
        assert isinstance(message, messages.Mapped)
        if not message.number:
            self._reply(answer_to_probe(message, head))
            return None
        if message.number == self._taken:
            self._reply(answer(message, True))
            return None
        payload = open_payload(message)
        self._reply(answer(message, payload is not None))
        if payload is None:
            return None
        self._taken = message.number
        return [bytes(head), payload]

    def _proceed(self, frames: Frames) -> None:
        """The broker has room for more of our long messages, or stores those that it has."""
        self._signs += 1
        with contextlib.suppress(ProtocolError):
            message, _ = decode(frames)
            assert isinstance(message, messages.Proceed)
            self._window += message.size
        self._flush()

    def close(self) -> None:
        self._outbox.flush()
        if self._probe is not None:
            self._probe.close()
        self._socket.linger = LINGER_MILLISECONDS
        super().close()
        self._context.term()


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

"""Long payloads between processes of one machine: the receiver maps a sealed file of the sender, and nothing is copied.

Both ends of an ipc connection ask first whether they can open each other's files (the *probe*). Where they cannot, as in
another container or under another Unix user, long messages go in parts, as over tcp (`park.wire.fragments`).

The sender keeps the file until the receiver has answered, and meanwhile sends no other long message. A cut connection may
lose the message or the answer, so the sender repeats the message every `REPEAT_SECONDS`; the receiver answers each time,
and takes each message once.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from park.net.intake import IncomingMessage, Intake
from park.util import sealed
from park.wire import codec, messages
from park.wire.codec import start_of
from park.wire.fragments import MAX_PAYLOAD_BYTES, PIECE_BYTES
from park.wire.pack import Buffer

Frames = list[Any]
#: Seconds between two copies of a message that is not answered.
REPEAT_SECONDS = 1.0
#: The beginnings of the messages about files.
ABOUT_FILES = (start_of(messages.Mapped), start_of(messages.Opened))
#: Peers that are remembered as openers of files.
MAX_PEERS = 1 << 14
_PROBE_BYTES = 16

T = TypeVar("T")


class PayloadFile:
    """A long message whose receiver maps the payload."""

    def __init__(self, frames: Frames) -> None:
        self._head = frames[0]
        self._payload = sealed.SealedPayload(frames[1])
        self.number = int.from_bytes(os.urandom(7)) + 1
        #: the receiver has it
        self.opened = False
        self._sent_at = -REPEAT_SECONDS

    @property
    def whole(self) -> bool:
        """Whether the file has the whole payload."""
        return not self._payload.left

    def fill(self, most: int) -> int:
        """Write about *most* bytes more to the file. Returns their number. Raises OSError, StoreError."""
        return self._payload.fill(most)

    def due(self) -> Frames | None:
        """The message, where it has to be sent now."""
        if time.monotonic() < self._sent_at + REPEAT_SECONDS:
            return None
        return _mapped(self.number, self._payload.descriptor, len(self._payload), self._head)

    def sent(self) -> None:
        """The message is on its way."""
        self._sent_at = time.monotonic()

    def close(self) -> None:
        """The receiver needs the file no more."""
        self._payload.close()


class Probe:
    """A small file by which a peer finds out whether it can open files of this process."""

    def __init__(self) -> None:
        self._content = os.urandom(_PROBE_BYTES)
        self._file = sealed.SealedPayload(self._content) if sealed.HAS_FILES else None

    def message(self) -> Frames | None:
        """The question to the peer; None: this process has no such files."""
        if self._file is None:
            return None
        try:
            self._file.fill(_PROBE_BYTES)
        except OSError:
            return None
        return _mapped(0, self._file.descriptor, _PROBE_BYTES, self._content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def asked(frames: Frames) -> tuple[messages.Mapped, Buffer]:
    """A Mapped, with the head of the message for which it stands. Raises ProtocolError."""
    message, head = codec.decode(frames)
    assert isinstance(message, messages.Mapped)
    return message, head


def is_proper(message: messages.Mapped) -> bool:
    """Whether the payload is as long as one that travels in a file."""
    return PIECE_BYTES < message.size <= MAX_PAYLOAD_BYTES


def open_payload(message: messages.Mapped) -> Buffer | None:
    """The payload; None: it cannot be opened."""
    try:
        return sealed.open_of(message.process, message.file, message.size, message.inode)
    except (OSError, ValueError, OverflowError, MemoryError):
        return None


def answer(message: messages.Mapped, opened: bool) -> Frames:
    """The answer to a message, or to a probe."""
    return codec.encode(messages.Opened(message.number, opened))


def answer_to_probe(message: messages.Mapped, content: Buffer) -> Frames:
    """Whether the peer's probe can be opened, and is the file that the peer means."""
    found = open_payload(message) if message.size == _PROBE_BYTES else None
    return answer(message, found is not None and bytes(found) == bytes(content))


def _mapped(number: int, descriptor: int, size: int, head: Buffer) -> Frames:
    inode = os.fstat(descriptor).st_ino
    return codec.encode(messages.Mapped(number, os.getpid(), descriptor, size, inode), head)


class FilePeers:
    """The peers of one ROUTER that open files, and the long messages that come from them as files.

    A message waits for room like one that comes in pieces (`park.net.intake`), and is opened once there is room. *keys*
    gives the peer and the payer of its budgets; *reply* sends a short message.
    """

    def __init__(
        self,
        intake: Intake,
        keys: Callable[[bytes], tuple[Hashable, Hashable]],
        reply: Callable[[bytes, Frames], None],
    ) -> None:
        self._intake = intake
        self._keys = keys
        self._reply = reply
        self._probe = Probe()
        #: the peers that open files of this process, and the last message that each sent as a file
        self._openers: OrderedDict[bytes, None] = OrderedDict()
        self._taken: OrderedDict[bytes, int] = OrderedDict()
        #: by peer: the message that waits for room, and its head
        self._waiting: dict[bytes, tuple[messages.Mapped, bytes, IncomingMessage]] = {}
        #: peers whose message has room
        self._admitted: deque[bytes] = deque()

    @property
    def ready(self) -> bool:
        """Whether a message can be opened."""
        return bool(self._admitted)

    @property
    def without_room(self) -> list[bytes]:
        """The peers whose messages wait for room."""
        return list(self._waiting)

    def opens(self, name: bytes) -> bool:
        """Whether the peer opens files of this process."""
        return name in self._openers

    def take(self, name: bytes, frames: Frames, now: float) -> None:
        """A Mapped has come from the peer. Raises ProtocolError."""
        message, head = asked(frames)
        if not message.number:
            self._reply(name, answer_to_probe(message, head))
            if (probe := self._probe.message()) is not None:
                self._reply(name, probe)
            return
        waiting = self._waiting.get(name)
        if waiting is not None and waiting[0].number == message.number:
            return  # it still waits for room
        if self._taken.get(name) == message.number or not is_proper(message):
            self._reply(name, answer(message, is_proper(message)))
            return
        if waiting is not None:
            self._intake.drop(waiting[2], now)
        incoming = self._intake.begin(
            *self._keys(name), message.size, lambda: self._admitted.append(name), now
        )
        self._waiting[name] = message, bytes(head), incoming

    def next(self, now: float) -> tuple[bytes, Frames] | None:
        """Open the next message that has room; None: there is none."""
        while self._admitted:
            name = self._admitted.popleft()
            message, head, incoming = self._waiting.get(name, (None, b"", None))
            if message is None or incoming is None or not incoming.has_room:
                continue  # the room was that of an earlier message, which the peer has given up
            del self._waiting[name]
            payload = open_payload(message)
            self._reply(name, answer(message, payload is not None))
            if payload is None:
                self._intake.drop(incoming, now)
                continue
            self._intake.complete(incoming, now)
            _note(self._taken, name, message.number)
            return name, [head, payload]
        return None

    def answered(self, name: bytes, message: messages.Opened) -> None:
        """The peer has answered the probe."""
        if message.opened:
            _note(self._openers, name, None)
        else:
            self._openers.pop(name, None)

    def close(self) -> None:
        self._probe.close()


def _note(names: OrderedDict[bytes, T], name: bytes, value: T) -> None:
    """Note *value*; of too many peers the oldest are forgotten: they get their messages in pieces."""
    names[name] = value
    names.move_to_end(name)
    if len(names) > MAX_PEERS:
        names.popitem(last=False)

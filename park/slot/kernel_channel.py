"""The connection of a slot process to its kernel, and messages that wait until the frame that they concern can take
them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from park.net.channel import Channel
from park.wire import codec
from park.wire.messages import Message
from park.wire.pack import Buffer


class KernelChannel:
    """The slot process's end of the channel to its kernel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        #: descriptors for a file and its copy, where a body has left none for the long message that tells its result
        self._reserve = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
        #: held while a message is sent, which a thread may do (`park.slot.early_results`)
        self._sending = threading.Lock()
        #: messages that wait until nothing runs
        self._deferred: deque[Message] = deque()
        #: answers for drivers further out on the stack, which came while a chunk ran inside
        self._answers: list[tuple[Message, Buffer]] = []

    def send(self, message: Message, data: Buffer = b"") -> None:
        frames = codec.encode(message, data)
        with self._sending:
            try:
                self._channel.send(frames)
            except OSError as error:
                if error.errno != errno.EMFILE or not self._reserve:
                    raise
                while self._reserve:
                    os.close(self._reserve.pop())
                self._channel.flush()  # the message waits there
                with contextlib.suppress(OSError):
                    self._reserve += [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]

    def next(self) -> tuple[Message, Buffer]:
        """The next message, while nothing runs. Raises EOFError when the kernel is gone."""
        if self._deferred:
            return self._deferred.popleft(), b""
        self._answers.clear()
        return codec.decode(self._channel.recv())

    def next_for(
        self, is_answer: Callable[[Any], bool], timeout: float | None = None
    ) -> tuple[Message, Buffer]:
        """The next message for a driver that waits; first an answer to it that came while a chunk ran inside.

        Raises TimeoutError after *timeout* seconds; None: it waits for ever.
        """
        for i, (message, _) in enumerate(self._answers):
            if is_answer(message):
                return self._answers.pop(i)
        return codec.decode(self._channel.recv(timeout))

    def arrived(self) -> Iterator[tuple[Message, Buffer]]:
        """The messages that have come. Does not wait; raises EOFError when the kernel is gone."""
        return map(codec.decode, self._channel.receive())

    def defer(self, message: Message) -> None:
        """Keep the message until nothing runs."""
        self._deferred.append(message)

    def keep_answer(self, message: Message, data: Buffer) -> None:
        """Keep an answer for a driver further out on the stack."""
        self._answers.append((message, data))

    def close(self) -> None:
        self._channel.close()

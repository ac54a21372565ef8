"""The code of functions and bodies: the code that this process has, and the code that its kernel got from it."""

from __future__ import annotations

from park.slot.frame import Frame
from park.slot.kernel_channel import KernelChannel
from park.wire import messages
from park.wire.pack import Buffer


class ProcessCode:
    """The code of this process. *stack*: the frames of the process."""

    def __init__(self, channel: KernelChannel, stack: list[Frame]) -> None:
        self._channel = channel
        self._stack = stack
        #: code by hash
        self.blobs: dict[bytes, Buffer] = {}
        #: code that was sent to the kernel
        self._sent: set[bytes] = set()

    def send(self, code: bytes, blob: bytes) -> None:
        """Send the code to the kernel, unless the kernel has it."""
        if code not in self._sent:
            self._sent.add(code)
            self.blobs[code] = blob
            self._channel.send(messages.Blob(code), blob)

    def drop(self, code: bytes) -> bool:
        """Drop the code at the wish of the kernel, unless it is still needed. Returns whether it was dropped."""
        self._sent.discard(code)
        for frame in self._stack:
            if frame.code is not None and frame.code[0] == code:  # a map of the code was on its way
                self.send(*frame.code)
                return False
        self.blobs.pop(code, None)
        return True

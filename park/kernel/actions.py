"""What the kernel's machine tells the supervisor's loop to do."""

from __future__ import annotations

from msgspec import Struct

from park.wire.messages import Message
from park.wire.pack import Buffer


class ToBroker(Struct, frozen=True, gc=False):
    """Send a message to the broker."""

    message: Message
    payload: Buffer = b""


class ToSlot(Struct, frozen=True, gc=False):
    """Send a message to a slot process."""

    process: int
    message: Message
    payload: Buffer = b""


class Start(Struct, frozen=True, gc=False):
    """Start process *process* with this many CPU threads."""

    process: int
    cpus: int


class Interrupt(Struct, frozen=True, gc=False):
    """Raise park.Abort in what the process runs."""

    process: int


class Let(Struct, frozen=True, gc=False):
    """Let the process end: close its channel; it cleans up and exits."""

    process: int


class Kill(Struct, frozen=True, gc=False):
    """End the process, and what it started, now."""

    process: int


Action = ToBroker | ToSlot | Start | Interrupt | Let | Kill

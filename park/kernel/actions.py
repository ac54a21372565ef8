"""What the kernel's machine tells the supervisor's loop to do."""

from __future__ import annotations

from dataclasses import dataclass

from park.wire.messages import Message
from park.wire.pack import Buffer


@dataclass(frozen=True, slots=True)
class ToBroker:
    """Send a message to the broker."""

    message: Message
    payload: Buffer = b""


@dataclass(frozen=True, slots=True)
class ToSlot:
    """Send a message to a slot process."""

    process: int
    message: Message
    payload: Buffer = b""


@dataclass(frozen=True, slots=True)
class Start:
    """Start process *process* with this many CPU threads."""

    process: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Raise park.Abort in what the process runs."""

    process: int


@dataclass(frozen=True, slots=True)
class Let:
    """Let the process end: close its channel; it cleans up and exits."""

    process: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process, and what it started, now."""

    process: int


Action = ToBroker | ToSlot | Start | Interrupt | Let | Kill

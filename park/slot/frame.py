"""An attempt that runs in a slot process.

A process holds a stack of frames, the outermost first. Each frame runs a chunk of the map for which the frame before it
waits.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from park.errors import Abort
from park.wire import messages


class SlotGone(BaseException):
    """The kernel is gone, or has told this process to end."""


class Frame(Struct, eq=False):
    """One attempt on the stack.

    It has more than 20 attributes: everything that a process knows of an attempt, which ends with the frame.
    """

    run: messages.Run
    #: the unit that runs, and its seed
    unit: int = 0
    seed: int = 0
    #: maps that the unit has made
    maps: int = 0
    #: the broker has asked for the best result so far; with *soft* all units still run
    stopped: bool = False
    soft: bool = False
    #: the broker wants no result
    aborted: bool = False
    #: the abort was raised in user code
    interrupted: bool = False
    #: the kernel leaves, and the unit has made no checkpoint since it was asked for one
    save_requested: bool = False
    #: the attempt was asked to lend its slot at its next safe point
    lend: bool = False
    #: since when the body goes on without the slot that it has lent, to stop or to make a checkpoint; None: it has its slot
    without_slot_since: float | None = None
    #: when the body last looked at its messages at a safe point
    looked_at: float = 0.0
    #: the safe points that the body has passed, and whether it looks at should_stop
    safe_points: int = 0
    asks_should_stop: bool = False
    #: checkpoints that were made, and the last one that is known to be on disk
    checkpoints: int = 0
    durable: int = 0
    #: restored checkpoints, by unit
    restored: dict[int, Any] = field(default_factory=dict)
    #: the latest message of each kind that waits because the last one was sent a moment ago
    coalesced: dict[str, Any] = field(default_factory=dict)
    #: when a message of each of these kinds was last sent
    sent_at: dict[str, float] = field(default_factory=dict)
    #: a unit's remark on the job's result
    remark: str = ""
    #: hash and blob of the code whose map the body waits for
    code: tuple[bytes, bytes] | None = None
    #: the body, once it is prepared
    body: Any = None
    #: the body is being given its controls
    in_control: bool = False

    def raise_abort(self) -> None:
        """Raise Abort if the attempt is aborted."""
        if self.aborted:
            raise Abort

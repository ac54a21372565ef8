"""An attempt that a slot process holds, and the states of its life.

Two things change independently. `SlotUse` says whether the attempt takes a slot: it does while it runs, and takes none
while its body waits for a map or has lent the slot to another job. `EarlyEnd` says whether the attempt was told to end
before its time. `MOVES` holds the legal changes, and `HeldAttempt.move` makes them.

A body that was told to stop goes on without the slot that it has lent, and may make a map then, or lend again. A signal
handler of a body may raise inside a wait. Then the body goes on, and may begin another wait before any message has
ended the first one.
"""

from __future__ import annotations

import enum

from msgspec import Struct

from park.wire import messages
from park.wire.calls import Call
from park.wire.pack import Buffer


class SlotUse(enum.StrEnum):
    """Whether an attempt takes a slot."""

    RUNNING = "running"
    IN_MAP = "in a map"
    LENT = "lent"


class EarlyEnd(enum.StrEnum):
    """Whether an attempt was told to end before its time: by the broker, or because the kernel leaves."""

    NONE = "none"
    ABORTED = "aborted"
    HANDED_BACK = "handed back"


MOVES: dict[SlotUse | EarlyEnd, frozenset[SlotUse | EarlyEnd]] = {
    SlotUse.RUNNING: frozenset((SlotUse.IN_MAP, SlotUse.LENT)),
    SlotUse.IN_MAP: frozenset(SlotUse),
    SlotUse.LENT: frozenset(SlotUse),
    EarlyEnd.NONE: frozenset((EarlyEnd.ABORTED, EarlyEnd.HANDED_BACK)),
    EarlyEnd.ABORTED: frozenset(),
    EarlyEnd.HANDED_BACK: frozenset(),
}


class HeldAttempt(Struct):
    """An attempt that a process holds. Times are seconds of the kernel's clock."""

    run: messages.Run
    slot_use: SlotUse = SlotUse.RUNNING
    early_end: EarlyEnd = EarlyEnd.NONE
    #: when the attempt last got its slot
    running_since: float = 0.0
    #: when the units that have not begun are given back; None: there are none, or they are already
    late_at: float | None = None
    #: units were given back
    is_shortened: bool = False
    #: the map that the body waits for; there is one exactly while the attempt is in a map
    call: Call | None = None
    #: the request for another job's result, for a checkpoint or for a file that the body waits for
    fetch: tuple[messages.Fetch | messages.Restore | messages.File, Buffer] | None = None
    #: the newest checkpoint that is not known to be on disk
    checkpoint: tuple[messages.Checkpoint, Buffer] | None = None
    #: since when a checkpoint is on its way to the disk
    saving_since: float | None = None
    #: the unit has made a map or a checkpoint
    has_driven: bool = False
    #: the number of the last message that it has published
    published: int = 0

    @property
    def is_worth_checkpoint(self) -> bool:
        """Whether a kernel that leaves waits for a checkpoint of the body: it is a driver, or it has made one."""
        return self.run.once or self.has_driven

    def move(self, to: SlotUse | EarlyEnd) -> None:
        """Change one of the two states. Raises AssertionError where `MOVES` has no such change."""
        before = self.slot_use if isinstance(to, SlotUse) else self.early_end
        if to not in MOVES[before]:
            raise AssertionError(f"attempt {self.run.attempt} cannot change from {before!r} to {to!r}")
        if isinstance(to, SlotUse):
            self.slot_use = to
        else:
            self.early_end = to

    def enter_map(self, call: Call) -> None:
        """The body waits for this map."""
        self.move(SlotUse.IN_MAP)
        self.call, self.has_driven = call, True

    def lend_slot(self) -> None:
        """The body waits at its safe point, and others may use its slot."""
        self.move(SlotUse.LENT)
        self.call = None

    def resume(self, now: float) -> None:
        """The body has its slot again."""
        self.move(SlotUse.RUNNING)
        self.call, self.running_since = None, now

"""Everything that the kernel's machine knows, and the actions that an event leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from park.kernel.machine.actions import Action, ToSlot
from park.kernel.machine.answer_log import AnswerLog
from park.kernel.machine.code_cache import KernelCodeCache
from park.kernel.machine.held_attempt import HeldAttempt
from park.kernel.machine.process import Process
from park.kernel.machine.process_pool import ProcessPool
from park.kernel.machine.publish_log import PublishLog
from park.kernel.machine.shutdown import DriverCheckpoints, Shutdown, ShutdownNotice
from park.kernel.machine.unit_timers import UnitTimers
from park.model import Serves
from park.wire import messages
from park.wire.control_queue import ControlQueue
from park.wire.pack import Buffer


class KernelState:
    """All that the machine knows. *spare*: one process that no owner has used stays ready for the next new owner.

    *spill* takes the bytes of answers that do not fit into memory, and returns the same bytes elsewhere; None: there is
    no room for them, and they are not kept. It has more than 20 attributes because all modules of the machine share it.
    """

    def __init__(self, slots: int, spare: bool, spill: Callable[[Buffer], Buffer | None]) -> None:
        self.slots = slots
        self.pool = ProcessPool(slots, spare, self.do)
        self.codes = KernelCodeCache()
        #: the processes that hold attempts, by attempt
        self.attempts: dict[int, Process] = {}
        #: attempts that wait for a slot, with their units
        self.queued: dict[int, tuple[messages.Run, Buffer]] = {}
        #: when an attempt last began or ended, or the first one began to wait for a slot
        self.moved_at = 0.0
        #: answers that the broker has not confirmed, or that it got only a short time ago
        self.answers = AnswerLog(spill)
        #: answers that came while there was no contact; they go after the messages that their bodies published before
        self.delayed_answers: list[int] = []
        #: controls for the bodies of its jobs
        self.controls = ControlQueue()
        #: messages that bodies have published and the broker has not confirmed
        self.published = PublishLog()
        #: the owners whose new work the kernel takes, and why it takes less than it might
        self.serves = Serves.ALL
        self.pause = ""
        #: the owner whose work is the kernel's own
        self.own = ""
        #: how the kernel leaves; None: it stays
        self.shutdown: Shutdown | None = None
        #: the kernel leaves when its drivers have made checkpoints; None: it was not told to, or leaves already
        self.notice: ShutdownNotice | None = None
        #: checkpoints that drivers were asked for because the kernel leaves
        self.driver_checkpoints = DriverCheckpoints()
        #: the broker's store and its present life
        self.store = ""
        self.epoch = 0
        self.now = 0.0
        #: code that this life of the broker was given
        self.codes_given: set[bytes] = set()
        #: code that the broker has asked for and that is not here
        self.codes_missing: set[bytes] = set()
        #: code that other kernels may take from this one
        self.codes_shared: set[bytes] = set()
        #: code that comes from another kernel, and until when it is waited for
        self.codes_awaited: dict[bytes, float] = {}
        self.timers = UnitTimers()
        self._actions: list[Action] = []

    @property
    def processes(self) -> dict[int, Process]:
        return self.pool.processes

    @property
    def holds(self) -> list[int]:
        """The attempts that the kernel was given, and has not answered for good."""
        return sorted({*self.attempts, *self.queued, *self.answers})

    @property
    def unanswered(self) -> list[int]:
        """The attempts that the kernel was given and has not answered."""
        return sorted([*self.attempts, *self.queued])

    def do(self, action: Action) -> None:
        """Add to the actions of this event."""
        self._actions.append(action)

    def take_actions(self) -> list[Action]:
        """The actions of this event, in their order."""
        actions, self._actions = self._actions, []
        return actions

    def send_to_attempt(self, message: Any, payload: Buffer = b"") -> None:
        """Send a message to the process that holds its attempt, if one does."""
        process = self.attempts.get(message.attempt)
        if process is not None:
            self.do(ToSlot(process.number, message, payload))

    def ended(self, run: messages.Run, how: str) -> messages.Finished:
        """The answer to an attempt none of whose units has a result."""
        return messages.Finished(run.attempt, run.map, run.start, 0, 0.0, ended=how, epoch=self.epoch)

    def release(self, held: HeldAttempt) -> None:
        """Note that no process holds the attempt any more."""
        del self.attempts[held.run.attempt]
        self.published.end(held.run.attempt)
        self.timers.end(held.run.attempt)

"""A kernel: the real `Lifecycle`, with made-up processes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from park.kernel.actions import Action, Interrupt, Kill, Let, Start, ToBroker, ToSlot
from park.kernel.lifecycle import Lifecycle
from park.wire import codec, messages
from park.wire.contact import Contact
from park.wire.messages import Message
from tests.sim.peer import Peer
from tests.sim.process import Process
from tests.sim.wire import PYTHON, carried

if TYPE_CHECKING:
    from tests.sim.world import World

#: Answers that it remembers.
ANSWERS = 5
KILLED = "its process was killed by signal 9 (SIGKILL)"


class Kernel(Peer):
    """See the module."""

    side = b"k"

    def __init__(self, world: World, name: str, slots: int = 1, python: str = PYTHON) -> None:
        self.python = python
        self.life = Lifecycle(slots)
        self.processes: dict[int, Process] = {}
        #: frames of its last answers
        self.answers: deque[list[Any]] = deque(maxlen=ANSWERS)
        super().__init__(world, name)
        self.carry(self.life.begin())

    def hello(self) -> Message:
        return messages.KernelHello(
            incarnation=self.incarnation,
            user="kay",
            host=self.name,
            pid=1,
            slots=self.life.slots,
            python=self.python,
            attempts=self.life.holds,
            epoch=self.presence.epoch,
            draining=self.life.leave is not None,
        )

    def credentials(self) -> bytes:
        return codec.pack(self.life.held())

    def heartbeat(self) -> Message:
        return messages.Heartbeat(self.presence.epoch, self.life.unanswered)

    def take(self, message: Message, payload: Any) -> None:
        self.carry(self.life.broker(message, payload, self.world.now))

    def drain(self, grace: float) -> None:
        """It is to leave."""
        self.carry(self.life.drain("it was told to", grace, self.world.now))
        self.attend()

    def told(self, number: int, message: Message, payload: Any) -> None:
        """A process says something."""
        self.carry(self.life.slot(number, message, payload, self.presence.state is Contact.LIVE))
        self._arm()

    def attend(self) -> None:
        if not self.alive:
            return
        self.carry(self.life.tick(self.world.now))
        if self.life.left(self.world.now):
            self.world.leave(self)
        else:
            super().attend()

    def deadline(self) -> float:
        kill_at = self.life.deadline()
        contact = super().deadline()
        return contact if kill_at is None else min(contact, kill_at)

    def carry(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case ToBroker(message, payload):
                    self.send(message, payload)
                    if isinstance(message, messages.Finished):
                        self.answers.append(self.wire.up[-1])
                case ToSlot(number, message, payload):
                    if number in self.processes:  # else it was killed a moment ago
                        self.processes[number].take(*carried(message, payload))
                case Start(number, _):
                    self.processes[number] = Process(self, number)
                case Interrupt(number):
                    if number in self.processes:
                        self.processes[number].interrupt()
                case Let(number):
                    self.die(self.processes[number], "its process exited with code 0")
                case Kill(number):
                    self.die(self.processes[number], KILLED)
        if self.world.checked:
            self.life.check()

    def has(self, process: Process) -> bool:
        return self.alive and self.processes.get(process.number) is process

    def die(self, process: Process, cause: str = KILLED) -> None:
        if self.processes.pop(process.number, None) is not None:
            self.world.deaths += 1
            self.carry(self.life.exited(process.number, cause, "last words"))

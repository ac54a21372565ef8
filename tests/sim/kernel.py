"""A kernel: the real `KernelMachine`, with made-up processes."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

from park.kernel.machine.actions import (
    Action,
    CloseProcess,
    InterruptProcess,
    KillProcess,
    ServeCode,
    ShareCode,
    StartProcess,
    TakeCode,
    ToBroker,
    ToSlot,
    Withdraw,
)
from park.kernel.machine.state_machine import KernelMachine
from park.model import Serves
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.presence import Contact
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
        self.machine = KernelMachine(slots)
        #: the owner whose jobs come first
        self.owner = ""
        self.gpus = 0
        #: the private job that it serves alone; 0: none
        self.job = 0
        self.processes: dict[int, Process] = {}
        #: how many were started
        self.starts = 0
        #: frames of its last answers
        self.answers: deque[list[Any]] = deque(maxlen=ANSWERS)
        #: others find its code under this number; two machines have all kernels with even, or with odd numbers
        self.number = int(name.split()[-1])
        #: tickets for its code that were not used
        self.tickets: set[bytes] = set()
        # its own: what the world draws does not depend on code
        self._luck = random.Random(f"{name} of {world.seed}")
        super().__init__(world, name)
        self.carry(self.machine.begin())

    def hello(self) -> Message:
        return messages.KernelHello(
            incarnation=self.incarnation,
            user="kay",
            host=self.name,
            pid=1,
            slots=self.machine.state.slots,
            python=self.python,
            attempts=self.machine.state.holds,
            epoch=self.presence.epoch,
            draining=self.machine.state.shutdown is not None,
            owner=self.owner,
            serves=self.machine.state.serves,
            pause=self.machine.state.pause,
            gpus=self.gpus,
            job=self.job,
            machine=f"machine {self.number % 2}",
            peers=f"10.0.0.{self.number % 250}",
        )

    def credentials(self) -> bytes:
        return codec.pack(self.machine.describe_attempts())

    def heartbeat(self) -> Message:
        return messages.Heartbeat(self.presence.epoch, self.machine.state.unanswered)

    def take(self, message: Message, payload: Any) -> None:
        self.carry(self.machine.broker(message, payload, self.world.now))

    def drain(self, grace: float) -> None:
        """Tell the kernel to leave."""
        self.carry(self.machine.drain("it was told to", grace, self.world.now))
        self.attend()

    def serve(self, serves: Serves) -> None:
        """Tell the kernel whose new work it takes."""
        why = "" if serves is Serves.ALL else "its user is at the keyboard"
        self.carry(self.machine.serve(serves, why, self.owner, self.world.now))
        self.attend()

    def told(self, number: int, message: Message, payload: Any) -> None:
        """A process says something."""
        self.carry(self.machine.slot(number, message, payload, self.presence.state is Contact.LIVE))
        self._arm()

    def attend(self) -> None:
        if not self.alive:
            return
        self.carry(self.machine.tick(self.world.now))
        if self.machine.left(self.world.now):
            self.world.leave(self)
        else:
            super().attend()

    def deadline(self) -> float:
        kill_at = self.machine.deadline()
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
                    self._tell(number, *carried(message, payload))
                case StartProcess(number, _):
                    self.processes[number] = Process(self, number)
                    self.starts += 1
                case InterruptProcess(number):
                    if number in self.processes:
                        self.processes[number].interrupt()
                case Withdraw(number, attempt):
                    count = self.processes[number].withdraw() if number in self.processes else 0
                    self.carry(self.machine.withdrawn(number, attempt, count))
                    if number in self.processes:
                        self.processes[number].send_early()
                case CloseProcess(number):
                    self.die(self.processes[number], "its process exited with code 0")
                case ShareCode(code, data, abroad):
                    self.world.at(self.world.now + self._luck.random(), self._share, code, data, abroad)
                case TakeCode(offer):
                    self.world.at(self.world.now + self._luck.random(), self._take, offer)
                case ServeCode(serve):
                    self.tickets.add(serve.ticket)
                case KillProcess(number):
                    self.die(self.processes[number], KILLED)
        if self.world.checked:
            self.machine.check()

    def _tell(self, number: int, message: Message, payload: Any) -> None:
        process = self.processes.get(number)  # none: it was killed a moment ago
        if process is not None and self.world.now < process.ready:
            self.world.at(process.ready, self._tell, number, message, payload)
        elif process is not None:
            process.take(message, payload)

    def _share(self, code: bytes, data: Any, abroad: bool) -> None:
        """Say where others find code; now and then there is no place for it."""
        if self.alive:
            place = messages.Shared(code, self.number, 3)
            if abroad and self._luck.random() < 0.8:
                place = messages.Shared(code, self.number, 3, 4321, *(b"c" * 16, b"k" * 32, code * 2))
            where = place if self._luck.random() < 0.9 else None
            self.carry(self.machine.shared(code, data, where))
            self._arm()

    def _take(self, offer: messages.Offer) -> None:
        """Take code from another kernel, which may be gone, or give something else."""
        found = None
        for other in self.world.kernels:
            codes, near = other.machine.state.codes, other.number == offer.process
            if offer.hash in codes and (near or offer.ticket in other.tickets) and self._luck.random() < 0.8:
                assert not near or other.number % 2 == self.number % 2
                other.tickets.discard(offer.ticket)
                found = codes[offer.hash]
        if self.alive:
            self.carry(self.machine.taken(offer.hash, found, self.world.now))
            self._arm()

    def has(self, process: Process) -> bool:
        return self.alive and self.processes.get(process.number) is process

    def die(self, process: Process, cause: str = KILLED) -> None:
        if self.processes.pop(process.number, None) is not None:
            self.world.deaths += 1
            self.carry(self.machine.exited(process.number, cause, "last words"))

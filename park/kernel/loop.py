"""The supervisor's loop: carries messages between the broker and the slot processes, and does what the lifecycle says.

It runs no user code, so no body can hold up its heartbeats.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from park.errors import ProtocolError
from park.kernel import guard
from park.kernel.actions import Action, Interrupt, Let, Start, ToBroker, ToSlot
from park.kernel.child import Child
from park.kernel.death import Death
from park.kernel.lifecycle import Lifecycle
from park.kernel.lines import Lines
from park.kernel.memory import oom_kills
from park.kernel.node import Node
from park.kernel.runner import SlotProcess
from park.kernel.shelf import Shelf
from park.kernel.term import LEAVE, Term
from park.model import PYTHON
from park.util.outlet import tell
from park.util.reactor import Reactor
from park.wire import codec, messages
from park.wire.contact import Contact, Line, Presence
from park.wire.messages import Message
from park.wire.pack import Buffer

#: Seconds that all processes together may take when the kernel itself is stopped.
PATIENCE = 0.5
READ, WRITE = 1, 2
#: Seconds between two looks at what the system has killed.
KILLS = 2.0
#: Seconds between two looks whether standard output and error take something again.
HEARD = 0.05
#: What is said of a process that went on without its channel.
CUT = "its process closed its connection to the kernel: descriptors that a body did not open are not its own"


class KernelLoop:
    """One kernel on *node*. *place* tells the sys.path and the folder for its slot processes (None: as they start).

    *term*: when it leaves by itself. Then, or when it was told to, it calls *on_left*: there is nothing that holds it.
    """

    def __init__(
        self,
        reactor: Reactor,
        line: Line,
        slots: int,
        user: str,
        node: Node,
        place: Callable[[], messages.Setup] | None = None,
        on_refusal: Callable[[str], None] | None = None,
        term: Term | None = None,
        on_left: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._line = line
        self._user = user
        self._node = node
        self._place = place
        #: what each process was told last of the place
        self._placed: dict[int, messages.Setup] = {}
        self._incarnation = os.urandom(16)
        self._processes: dict[int, SlotProcess] = {}
        self._leaving: dict[int, float] = {}
        self._exited: list[SlotProcess] = []
        #: those that could not be made, and why
        self._stillborn: list[tuple[int, str]] = []
        #: what each process was given last
        self._runs: dict[int, messages.Run] = {}
        #: processes that are not read, because what they have published waits
        self._unread: set[int] = set()
        #: streams of processes that are not read, because what they have written waits, by descriptor
        self._muted: dict[int, Lines] = {}
        #: streams whose last line has not ended
        self._unfinished: set[Lines] = set()
        #: it was said that they wait for a broker that is away
        self._told_waits = False
        self._guard: Child | None = None
        #: how many processes the system has killed for want of memory, when it did, as far as that was seen, and when
        #: that was looked at
        self._oom_kills, self._killed_at, self._looked_at = oom_kills(), -1e9, 0.0
        self._starved = False
        self._on_refusal = on_refusal
        self._term = term or Term(time.monotonic())
        self._on_left = on_left
        #: why it shall leave
        self._told = ""
        #: when it last had work
        self._worked = time.monotonic()
        # the local service has one owner only
        self.life = Lifecycle(slots, spare=place is None, shelve=Shelf().put)
        self.presence = Presence()
        self._do(self.life.begin())

    def __repr__(self) -> str:
        return f"<KernelLoop {self.life.slots} slots, {len(self._processes)} processes, {self.presence!r}>"

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        return (
            bool(self._exited or self._stillborn)
            or self._line.waiting()
            or (bool(self._told) and self.life.leave is None)
        )

    def turn(self, now: float) -> None:
        while (frames := self._line.receive()) is not None:
            try:
                message, payload = codec.decode(frames)
            except ProtocolError as error:
                self._refused(str(error))
                continue
            self.presence.hear(message, now)
            self._do(self.life.broker(message, payload, now), message, frames)
        if self._line.lively():
            self.presence.feel(now)
        if self._unread or self._told_waits:
            self._look_at_unread()
        if self._unfinished or self._muted:
            self._look_at_lines(now)
        while self._exited:
            self._gone(self._exited.pop())
        while self._stillborn:
            self._do(self.life.exited(*self._stillborn.pop(), ""))
        self._do(self.life.tick(now))
        if self._leaving:
            self._look_at_leaving(now)
        self._look_at_term(now)
        if now >= self._looked_at + KILLS:
            self._look_for_kills(now)
        self._speak(now)

    def deadline(self) -> float | None:
        times = [self.presence.deadline(), *self._leaving.values()]
        if self._muted:
            times.append(time.monotonic() + HEARD)
        times += [lines.due for lines in self._unfinished if lines.due is not None]
        if (due := self.life.deadline()) is not None:
            times.append(due)
        if self.life.leave is None and (due := self._term.deadline(self._worked)) is not None:
            times.append(due)
        return min(times)

    def _look_at_unread(self) -> None:
        """Read again those of whom not so much waits any more."""
        for number in [n for n in self._unread if not self.life.unheard.full(n)]:
            self._unread.discard(number)
            self._await(self._processes[number])
        waits = bool(self._unread) and not self._live
        if waits and not self._told_waits:
            text = "a body says more than is kept while the broker is away: it waits until that is back"
            tell(f"park-kernel: {text}", "warning")
        self._told_waits = waits

    def _look_at_leaving(self, now: float) -> None:
        """End those that went on when they were to leave."""
        for number, at in list(self._leaving.items()):
            if now >= at:
                del self._leaving[number]
                process = self._processes[number]
                process.fault = process.fault or CUT
                process.kill()

    def drain(self, reason: str) -> None:
        """Leave in good order. May be called by a signal's handler; wake the reactor then."""
        self._told = self._told or reason

    def _look_at_term(self, now: float) -> None:
        """Leave when its time is over, or it was told to."""
        life = self.life
        if life.attempts or life.ahead:
            self._worked = now
        if life.leave is None:
            reason = self._told or self._term.due(now, self._worked)
            if reason:
                self._do(life.drain(reason, self._term.grace, now))
        if life.leave is not None and life.left(now) and self._on_left is not None:
            self._on_left()

    def close(self) -> None:
        """Say goodbye, let the processes go, and kill those that stay."""
        self.life.abandon()
        self._line.send(codec.encode(messages.Goodbye("the kernel was stopped")))
        for process in self._processes.values():
            process.interrupt()
            process.channel.finish()
        patience = time.monotonic() + PATIENCE
        for process in self._processes.values():
            self._ignore(process)
            process.end(patience - time.monotonic())
        for process in self._processes.values():
            process.wait(2.0)
            process.close()
        self._processes.clear()
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            guard.end(self._incarnation.hex(), PATIENCE)
        self._line.close()

    # -- towards the broker --------------------------------------------------------------------

    def _speak(self, now: float) -> None:
        due = self.presence.due(now)
        if due == "hello":
            self._line.clear()
            hello = messages.KernelHello(
                incarnation=self._incarnation,
                user=self._user,
                host=platform.node(),
                pid=os.getpid(),
                slots=self.life.slots,
                python=PYTHON,
                attempts=self.life.holds,
                epoch=self.presence.epoch,
                memory=self._node.memory,
                labels=list(self._node.labels),
                packages=self._node.packages,
                owner=self._node.owner,
                only=self._node.only,
                draining=self.life.leave is not None,
            )
            self._send(hello, codec.pack(self.life.held()))
        elif due == "heartbeat":
            self._send(messages.Heartbeat(self.presence.epoch, self.life.unanswered))

    def _send(self, message: Message, payload: Buffer = b"", frames: list[Any] | None = None) -> None:
        self._line.send(codec.encode(message, payload) if frames is None else frames, message)

    def _refused(self, text: str) -> None:
        if self._on_refusal is not None:
            self._on_refusal(text)
        else:
            tell(f"park-kernel: a frame of the broker was dropped: {text}", "warning")

    @property
    def _live(self) -> bool:
        return self.presence.state is Contact.LIVE

    # -- towards the slot processes ------------------------------------------------------------

    def _do(
        self, actions: list[Action], given: Message | None = None, frames: list[Any] | None = None
    ) -> None:
        """Carry out *actions*. What is *given* came in *frames*, and goes on as it came if it is passed on."""
        for action in actions:
            if isinstance(action, ToBroker):
                self._send(action.message, action.payload, frames if action.message is given else None)
            elif isinstance(action, Start):
                self._start(action.process, action.cpus)
            elif action.process not in self._processes:  # it could not be started
                continue
            elif isinstance(action, ToSlot):
                same = frames if action.message is given else None
                self._to_slot(self._processes[action.process], action.message, action.payload, same)
            elif isinstance(action, Interrupt):
                self._processes[action.process].interrupt()
            elif isinstance(action, Let):
                self._let(self._processes[action.process])
            else:
                self._processes[action.process].kill()

    def _to_slot(
        self, process: SlotProcess, message: Message, payload: Buffer, frames: list[Any] | None
    ) -> None:
        if self._place is None and isinstance(message, messages.Run):
            self._runs[process.number] = message
        elif self._place is not None and isinstance(message, messages.Run):
            place = self._place()
            if place is not self._placed.get(process.number):
                self._placed[process.number] = place
                process.channel.send(codec.encode(place))
        if not process.channel.send(codec.encode(message, payload) if frames is None else frames):
            self._await(process)

    def _await(self, process: SlotProcess) -> None:
        """Listen, and for room to write too while something waits to go out; not to one that has said too much."""
        events = WRITE if process.channel.pending else 0
        if not self.life.unheard.full(process.number):
            events |= READ
        else:
            self._unread.add(process.number)
        if not events:
            self._reactor.ignore(process.channel)
            return
        self._reactor.listen(process.channel, partial(self._ready, process), events)

    def _start(self, number: int, cpus: int) -> None:
        alike = self._place is not None  # it is of a script, whose lines are its own
        whose = str if alike else partial(self._whose, number)
        try:
            process = SlotProcess(number, cpus, self._incarnation.hex(), alike, whose)
        except OSError as error:
            self._stillborn.append((number, f"no process could be started: {error}"))
            return
        self._processes[number] = process
        self._await(process)
        self._reactor.in_thread(lambda: self._spawn(process))

    def _whose(self, number: int) -> str:
        """The beginning of a line of a process: the job that it runs, or has run last."""
        process = self.life.processes.get(number)
        run = process.stack[-1].run if process is not None and process.stack else self._runs.get(number)
        return "" if run is None else f"job {run.job} ({run.owner}): "

    def _spawn(self, process: SlotProcess) -> None:
        if process.number not in self._processes:
            return
        try:
            if self._guard is None:
                self._guard = guard.start(self._incarnation.hex())
            process.start()
        except OSError as error:
            process.channel.close()
            self._finish(process, f"no process could be started: {error}")
            return
        for descriptor, lines in process.streams:
            self._hear(descriptor, lines)
        if process.pidfd is not None:
            self._reactor.listen(process.pidfd, lambda ready: self._see_exit(process))

    def _ready(self, process: SlotProcess, ready: int) -> None:
        if ready & WRITE:
            process.channel.flush()
            self._await(process)
        if ready & READ:
            self._read(process)

    def _read(self, process: SlotProcess) -> None:
        try:
            for frames in process.channel.receive():
                message, payload = codec.decode(frames)
                if type(message) is messages.Publish:  # what was printed shows before what follows from it
                    for descriptor, lines in process.streams:
                        self._read_lines(descriptor, lines)
                self._do(self.life.slot(process.number, message, payload, self._live), message, frames)
            if self.life.unheard.full(process.number):
                self._await(process)
        except EOFError:
            self._reactor.ignore(process.channel)
            if process.pidfd is None:
                self._see_exit(process)
            else:  # its end is on its way, unless the body closed our socket
                self._leaving.setdefault(process.number, time.monotonic() + 1.0)
        except ProtocolError as error:  # the body wrote into our socket
            process.fault = f"a body wrote into its connection to the kernel: {error}"
            self._reactor.ignore(process.channel)
            process.kill()

    def _hear(self, descriptor: int, lines: Lines) -> None:
        self._reactor.listen(descriptor, lambda ready: self._read_lines(descriptor, lines))

    def _read_lines(self, descriptor: int, lines: Lines) -> None:
        """Pass on what a process writes; it waits while nothing more can be."""
        if lines.outlet.full:
            self._reactor.ignore(descriptor)
            self._muted[descriptor] = lines
        elif not lines.read(descriptor, time.monotonic()):
            self._reactor.ignore(descriptor)
        if lines.due is not None:
            self._unfinished.add(lines)

    def _look_at_lines(self, now: float) -> None:
        for lines in [lines for lines in self._unfinished if lines.due is None or now >= lines.due]:
            self._unfinished.discard(lines)
            lines.settle()
        for descriptor, lines in list(self._muted.items()):
            if not lines.outlet.full:
                del self._muted[descriptor]
                self._hear(descriptor, lines)

    def _let(self, process: SlotProcess) -> None:
        process.channel.finish()
        self._leaving[process.number] = time.monotonic() + LEAVE

    def _see_exit(self, process: SlotProcess) -> None:
        if process.number in self._processes and process not in self._exited:
            self._exited.append(process)

    def _gone(self, process: SlotProcess) -> None:
        """The process has ended, or its channel has: read what is left, then say so."""
        process.end(0.25)
        process.wait(5.0)
        with contextlib.suppress(EOFError, ProtocolError, OSError):
            while True:
                for frames in process.channel.receive():
                    message, payload = codec.decode(frames)
                    self._do(self.life.slot(process.number, message, payload, self._live))
        for descriptor, lines in process.streams:
            if not lines.outlet.full:
                lines.read(descriptor, 0.0)
            lines.settle()
        self._finish(process, process.fault or str(self._death(process)))

    def _death(self, process: SlotProcess) -> Death:
        self._look_for_kills(time.monotonic())
        return Death(process.exit_code(), process.peak, process.floor, self._node.memory, self._starved)

    def _look_for_kills(self, now: float) -> None:
        """Whether the system has killed for want of memory within the last seconds: nobody says whom."""
        kills = oom_kills()
        if kills > self._oom_kills:
            self._oom_kills, self._killed_at = kills, now
        self._looked_at = now
        self._starved = now < self._killed_at + KILLS

    def _finish(self, process: SlotProcess, cause: str) -> None:
        del self._processes[process.number]
        self._leaving.pop(process.number, None)
        self._unread.discard(process.number)
        self._placed.pop(process.number, None)
        self._runs.pop(process.number, None)
        self._ignore(process)
        self._do(self.life.exited(process.number, cause, process.last_lines()))
        process.close()

    def _ignore(self, process: SlotProcess) -> None:
        for descriptor, lines in process.streams:
            self._reactor.ignore(descriptor)
            self._muted.pop(descriptor, None)
            self._unfinished.discard(lines)
        for other in (process.channel, process.pidfd):
            if other is not None:
                self._reactor.ignore(other)

"""The kernel's loop: it carries messages between the broker and the slot processes, and does what the machine decides.

It runs no user code, so no body can hold up its heartbeats.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from typing import Any

from park.errors import ProtocolError
from park.kernel.exchange import CodeExchange
from park.kernel.machine.actions import (
    Action,
    CloseProcess,
    InterruptProcess,
    ServeCode,
    ShareCode,
    StartProcess,
    TakeCode,
    ToBroker,
    ToSlot,
    Withdraw,
)
from park.kernel.machine.shutdown import ShutdownPolicy
from park.kernel.machine.state_machine import KernelMachine
from park.kernel.memory_watch import MemoryWatch
from park.kernel.node.suspend import SleepWatch, clock_with_sleep
from park.kernel.node.this_node import Node
from park.kernel.spill import Spill
from park.kernel.supervisor import Supervisor
from park.model import Serves
from park.net.reactor import Reactor
from park.util.stdio import tell
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer
from park.wire.presence import BrokerConnection, Contact, Presence
from park.wire.print_marks import Printed


class KernelLoop:
    """One kernel on *node*. *place* gives the sys.path and the folder of its slot processes; None: they keep their own.

    *policy*: when the kernel leaves by itself. When nothing holds it any more, it calls *on_left*. *clock_with_sleep*
    goes on while the machine is suspended, unlike the reactor's. *exchange* takes code from other kernels; None: it all
    comes from the broker.
    """

    def __init__(
        self,
        reactor: Reactor,
        line: BrokerConnection,
        slots: int,
        user: str,
        node: Node,
        place: Callable[[], messages.Setup] | None = None,
        on_refusal: Callable[[str], None] | None = None,
        policy: ShutdownPolicy | None = None,
        on_left: Callable[[], None] | None = None,
        clock_with_sleep: Callable[[], float] = clock_with_sleep,
        exchange: CodeExchange | None = None,
    ) -> None:
        self._line = line
        self._user = user
        self._node = node
        self._on_refusal = on_refusal
        self._policy = policy or ShutdownPolicy(time.monotonic())
        self._on_left = on_left
        self._exchange = exchange
        self._incarnation = os.urandom(16)
        #: the last chunk that each process was given
        self._last_runs: dict[int, messages.Run] = {}
        #: a warning said that bodies wait for a broker that is away
        self._warned_of_waits = False
        #: why the kernel was told to leave; "": it was not
        self._drain_reason = ""
        #: seconds after which the kernel may be killed, from when it is told to leave
        self._killed_in = math.inf
        #: that time has become shorter since the machine was told
        self._is_hurried = False
        self._worked_at = time.monotonic()
        self._clock_with_sleep = clock_with_sleep
        self._sleep = SleepWatch(self._worked_at, clock_with_sleep())
        # the local service, which has a place, has one owner only
        self.machine = KernelMachine(slots, spare=place is None, spill=Spill().put)
        self.presence = Presence()
        self._supervisor = Supervisor(
            reactor,
            os.urandom(16).hex(),  # no mark is the incarnation, which bodies must not know
            node.memory,
            place,
            is_full=self.machine.state.published.full,
            line_prefix=self._line_prefix,
            on_printed=self._on_printed,
            on_message=self._on_message,
            on_exit=self._on_exit,
            programs={"": node.interpreter.program}
            | {name: each.program for name, each in node.environments.items()},
            gpus=node.gpus,
        )
        self._memory = MemoryWatch(self._supervisor.pid)
        self._do(self.machine.begin())

    def __repr__(self) -> str:
        processes = len(self._supervisor)
        return f"<KernelLoop {self.machine.state.slots} slots, {processes} processes, {self.presence!r}>"

    # -- the reactor's part --------------------------------------------------------------------

    def waiting(self) -> bool:
        return (
            self._supervisor.waiting()
            or self._line.waiting()
            or (bool(self._drain_reason) and not self._drains)
            or self._is_hurried
        )

    def turn(self, now: float) -> None:
        if slept := self._sleep.look(time.monotonic(), self._clock_with_sleep()):
            # the broker may count this kernel as lost, and takes back work that still waits for it
            tell(f"park-kernel: the machine was suspended for {slept:.0f} s; it says hello again")
            self.presence.call_again()
        while (frames := self._line.receive()) is not None:
            try:
                message, payload = codec.decode(frames)
            except ProtocolError as error:
                self._refused(str(error))
                continue
            self.presence.hear(message, now)
            self._do(self.machine.broker(message, payload, now), message, frames)
        if self._line.lively():
            self.presence.feel(now)
        self._supervisor.turn(now)
        if now >= self._memory.due:
            for number, size in self._memory.look(self.machine.memory_limits(), now):
                self._do(self.machine.exceeded(number, size))
        self._warn_of_waits()
        self._do(self.machine.tick(now, self._live))
        self._leave_if_due(now)
        self._speak(now)

    def deadline(self) -> float | None:
        times = [self.presence.deadline(), *self._supervisor.deadlines(), self._memory.due]
        if (due := self.machine.deadline()) is not None:
            times.append(due)
        if not self._drains and (due := self._policy.deadline(self._worked_at)) is not None:
            times.append(due)
        return min(times)

    def drain(self, reason: str, left: float = math.inf) -> None:
        """Leave in good order; the kernel may be killed in *left* seconds.

        May be called by a signal's handler; wake the reactor then.
        """
        self._drain_reason = self._drain_reason or reason
        if left < self._killed_in:
            self._killed_in, self._is_hurried = left, True

    def process_above(self, pid: int) -> int | None:
        """The slot process that is *pid*, or that has started it; None: there is none. Any thread may call it."""
        return self._supervisor.process_above(pid)

    def end_process(self, number: int, cause: str) -> None:
        """End a slot process, for this *cause* in words."""
        self._supervisor.fail(number, cause)

    def serve(self, serves: Serves, why: str) -> None:
        """Take new work of these owners only; *why* it is less than the kernel might take, in words for people."""
        self._do(self.machine.serve(serves, why, self._node.owner, time.monotonic()))

    def _leave_if_due(self, now: float) -> None:
        """Leave when the kernel was told to, or its policy says so."""
        machine, state = self.machine, self.machine.state
        if state.attempts or state.queued:
            self._worked_at = now
        if not self._drains or self._is_hurried:
            reason = self._drain_reason or self._policy.due(now, self._worked_at, self.presence.away(now))
            if reason:
                left = min(self._killed_in, self._policy.left(now))
                self._is_hurried = False
                self._do(machine.drain(reason, self._policy.grace, now, left))
        if state.shutdown is not None and machine.left(now) and self._on_left is not None:
            self._on_left()

    def close(self) -> None:
        """Say goodbye, let the processes go, and kill those that stay."""
        self.machine.abandon()
        self._line.send(codec.encode(messages.Goodbye("the kernel was stopped")))
        self._supervisor.stop()
        if self._exchange is not None:
            self._exchange.close()
        self._line.close()

    # -- the broker ----------------------------------------------------------------------------

    def _speak(self, now: float) -> None:
        due = self.presence.due(now)
        if due == "hello":
            self._line.clear()
            self._send(self._hello(), codec.pack(self.machine.describe_attempts()))
        elif due == "heartbeat":
            self._send(messages.Heartbeat(self.presence.epoch, self.machine.state.unanswered))

    def _hello(self) -> messages.KernelHello:
        state, node = self.machine.state, self._node
        return messages.KernelHello(
            incarnation=self._incarnation,
            user=self._user,
            host=platform.node(),
            pid=os.getpid(),
            slots=state.slots,
            python=node.interpreter.python,
            attempts=state.holds,
            epoch=self.presence.epoch,
            memory=node.memory,
            labels=list(node.labels),
            packages=node.packages,
            owner=node.owner,
            only=node.only,
            draining=state.shutdown is not None,
            batch=node.batch,
            node=node.name,
            serves=state.serves,
            pause=state.pause,
            job=node.job,
            gpus=len(node.gpus.names),
            environments={name: each.python for name, each in node.environments.items()},
            machine="" if self._exchange is None else self._exchange.machine,
            peers="" if self._exchange is None else self._exchange.host,
        )

    def _send(self, message: Message, payload: Buffer = b"", frames: list[Any] | None = None) -> None:
        self._line.send(codec.encode(message, payload) if frames is None else frames, message)

    def _refused(self, text: str) -> None:
        if self._on_refusal is not None:
            self._on_refusal(text)
        else:
            tell(f"park-kernel: a frame of the broker was dropped: {text}", "warning")

    @property
    def _drains(self) -> bool:
        """Whether the machine knows that the kernel leaves."""
        return self.machine.state.shutdown is not None or self.machine.state.notice is not None

    @property
    def _live(self) -> bool:
        return self.presence.state is Contact.LIVE

    # -- the slot processes --------------------------------------------------------------------

    def _do(
        self, actions: list[Action], received: Message | None = None, frames: list[Any] | None = None
    ) -> None:
        """Carry out *actions*. A message that was *received* in *frames* is passed on in the same frames."""
        for action in actions:
            if isinstance(action, ToBroker):
                self._send(action.message, action.payload, frames if action.message is received else None)
            elif isinstance(action, ToSlot):
                if isinstance(action.message, messages.Run):
                    self._last_runs[action.process] = action.message
                    if action.message.memory:
                        self._memory.begin(action.process, action.message.job, time.monotonic())
                same = frames if action.message is received else None
                self._supervisor.send(action.process, action.message, action.payload, same)
            elif isinstance(action, StartProcess):
                self._supervisor.start(action.process, action.cpus, action.devices, action.environment)
            elif isinstance(action, InterruptProcess):
                self._supervisor.interrupt(action.process)
            elif isinstance(action, Withdraw):
                count = self._supervisor.withdraw(action.process)
                self._do(self.machine.withdrawn(action.process, action.attempt, count))
            elif isinstance(action, CloseProcess):
                self._supervisor.close(action.process)
            elif isinstance(action, ShareCode):
                self._share(action)
            elif isinstance(action, TakeCode):
                self._take(action)
            elif isinstance(action, ServeCode):
                if self._exchange is not None:
                    self._exchange.serve(action.serve)
            else:
                self._supervisor.kill(action.process)

    def _share(self, action: ShareCode) -> None:
        def done(data: Buffer, where: messages.Shared | None) -> None:
            self._do(self.machine.shared(action.code, data, where))

        if self._exchange is not None:
            self._exchange.share(action.code, action.data, action.abroad, done)

    def _take(self, action: TakeCode) -> None:
        def done(data: Buffer | None) -> None:
            self._do(self.machine.taken(action.offer.hash, data, time.monotonic()))

        if self._exchange is None:
            done(None)
        else:
            self._exchange.take(action.offer, done)

    def _on_message(self, number: int, message: Message, payload: Buffer, frames: list[Any] | None) -> None:
        self._do(self.machine.slot(number, message, payload, self._live), message, frames)

    def _on_printed(self, number: int, stream: str, pieces: list[Printed]) -> None:
        self.machine.printed(number, stream, pieces, time.monotonic(), time.time())

    def _on_exit(self, number: int, cause: str, last_lines: str, stopped: bool) -> None:
        self._last_runs.pop(number, None)
        self._memory.end(number)
        # a batch system ends this kernel and its processes together
        foreign = stopped and (bool(self._drain_reason) or self._drains)
        self._do(self.machine.exited(number, cause, last_lines, foreign, self._live))

    def _line_prefix(self, number: int) -> str:
        """The beginning of a line of a process: the job that it runs, or has run last."""
        process = self.machine.state.processes.get(number)
        run = process.stack[-1].run if process is not None and process.stack else self._last_runs.get(number)
        return "" if run is None else f"job {run.job} ({run.owner}): "

    def _warn_of_waits(self) -> None:
        """Say once that bodies wait because too much that they have published waits for the broker."""
        waits = self._supervisor.any_unread and not self._live
        if waits and not self._warned_of_waits:
            text = "a body says more than is kept while the broker is away: it waits until that is back"
            tell(f"park-kernel: {text}", "warning")
        self._warned_of_waits = waits

"""A made-up slot process: it does what `park.slot.slot` does with messages, and "runs" `functions`.

A unit takes its time: the process works out its result at once, and lets that come when the time has
passed, unless something else happens before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from park.wire import codec, messages
from park.wire.messages import Message
from tests.sim.desk import finished
from tests.sim.functions import (
    ERROR,
    HEAR,
    RESTORE,
    Abort,
    Crash,
    Failed,
    Save,
    blob,
    code,
    drives,
    function,
    inputs,
    name_in,
    remark_on,
    units,
    values,
)
from tests.sim.wire import carried

if TYPE_CHECKING:
    from tests.sim.kernel import Kernel

SEGFAULT = "its process was killed by signal 11 (SIGSEGV)"


@dataclass(eq=False, slots=True)
class Frame:
    """An attempt on a process's stack."""

    run: messages.Run
    name: str
    inputs: list[Any]
    results: list[Any] = field(default_factory=list)
    #: seconds that it has computed
    seconds: float = 0.0
    maker: Any = None
    #: the map or fetch that it waits for
    map: bytes = b""
    #: the code of that map, by name
    maps: str = ""
    got: list[Any] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)
    resumed: bool = False
    #: asked for its slot, and waiting at a safe point without one
    asked: bool = False
    lent: bool = False
    #: waiting for its checkpoint; how many it has made, and what they say
    restoring: bool = False
    saved: list[int] = field(default_factory=list)
    stopped: bool = False
    aborted: bool = False


@dataclass(slots=True)
class Chunk:
    """Plain units that run one after the other: when each will have ended, with what, and then perhaps a disaster."""

    ends: list[float]
    values: list[Any]
    disaster: str = ""


class Process:
    """See the module."""

    __slots__ = (
        "_chunk",
        "_effect",
        "_ticket",
        "_until",
        "codes",
        "controls",
        "deaf",
        "heard",
        "kernel",
        "number",
        "over",
        "ready",
        "served",
        "shipped",
        "since",
        "stack",
    )

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel = kernel
        self.number = number
        #: when it has started, and takes messages
        self.ready = kernel.world.now + kernel.world.process_start
        self.codes: dict[bytes, Any] = {}
        self.shipped: set[bytes] = set()
        self.stack: list[Frame] = []
        #: by job: controls that it was given, those that its bodies have had, and the number of the last of these
        self.controls: dict[int, dict[int, int]] = {}
        self.heard: dict[int, list[int]] = {}
        self.served: dict[int, int] = {}
        #: jobs that have ended while something ran
        self.over: list[int] = []
        self.deaf = False
        #: the next step of the running code; None: nothing runs
        self._effect: Callable[[], None] | None = None
        self._chunk: Chunk | None = None
        self._ticket = 0
        #: when what runs began
        self.since = self._until = 0.0

    def tell(self, message: Message, payload: Any = b"") -> None:
        self.kernel.told(self.number, *carried(message, payload))

    def take(self, message: Message, payload: Any) -> None:
        match message:
            case messages.Blob():
                self.codes[message.hash] = payload
            case messages.Drop():
                for dropped in message.hashes:
                    self._drop(dropped)
            case messages.Run():
                self._begin(message, payload)
            case messages.Stop() | messages.Abort():
                for frame in self.stack:
                    if frame.run.attempt == message.attempt:
                        frame.stopped |= isinstance(message, messages.Stop) and not message.soft
                        frame.aborted |= isinstance(message, messages.Abort)
                if self.stack and self.stack[-1].stopped:
                    self._cut_short()
            case messages.Results():
                frame = self._frame(message.attempt)
                assert frame.map == message.map
                for unit, value in enumerate(values(payload), message.start):
                    frame.missing.remove(unit)  # KeyError: it came twice
                    frame.got[unit] = value
                frame.resumed |= message.resume
            case messages.Control():
                given = self.controls.setdefault(message.job, {})
                assert message.seq not in given, "a control came twice"
                given[message.seq] = codec.unpack(payload)
            case messages.Release():
                self.over.append(message.job)
                self._forget_jobs()
            case messages.Checkpointed():
                frame = self._frame(message.attempt)
                self.kernel.world.durable(frame.run.job, self._unit(frame), frame.saved[message.number - 1])
            case messages.Checkpoint():
                frame = self._frame(message.attempt)
                state = codec.unpack(payload) if len(payload) else None
                steps = state[0] if state else 0
                self.kernel.world.restored(frame.run.job, message.unit, steps, message.attempt)
                frame.restoring = False
                if frame.run.once and state is not None:
                    self.heard[frame.run.job] = heard = state[1:] if frame.name == "heeds" else []
                    assert frame.name != "heeds" or len(heard) == message.served
                    self.served[frame.run.job] = message.served
                self._drive(frame, state)
            case messages.Lend():
                self._frame(message.attempt).asked = True
            case messages.Resume():
                frame = self._frame(message.attempt)
                assert not frame.missing
                frame.resumed = not frame.lent
                frame.lent = False
        self._go()

    def _forget_jobs(self) -> None:
        if not self.stack:
            for of_job in (self.controls, self.heard, self.served):
                for job in self.over:
                    of_job.pop(job, None)
            self.over.clear()

    def interrupt(self) -> None:
        """The signal: it means something only while a unit's code runs."""
        if self._effect is not None:
            self._computed()
            self._after(0.0, lambda: self._finish("abort"))

    def _frame(self, attempt: int) -> Frame:
        return next(f for f in self.stack if f.run.attempt == attempt)

    def _begin(self, run: messages.Run, payload: Any) -> None:
        assert not self.stack or self.stack[-1].map == run.map, "only inside a driver that waits for it"
        assert not (self.stack and run.apart), "it has killed a process"
        given = [None] if run.once else inputs(payload)
        assert len(given) == run.count
        self.stack.append(Frame(run, name_in(bytes(self.codes[run.function])), given))
        if run.limit:
            self.tell(messages.Began(run.attempt))
        if run.stored and (run.once or run.job not in self.heard):  # its body is made now
            self.heard[run.job], self.served[run.job] = [], run.served
        self.kernel.world.began(run.job)

    # -- what runs -----------------------------------------------------------------------------

    def _after(self, seconds: float, effect: Callable[[], None]) -> None:
        self._ticket += 1
        self._effect = effect
        world = self.kernel.world
        self.since, self._until = world.now, world.now + seconds
        world.at(self._until, self._happen, self._ticket)

    def _happen(self, ticket: int) -> None:
        if ticket == self._ticket and self._effect is not None and not self.deaf and self.kernel.has(self):
            effect, self._effect, self._chunk = self._effect, None, None
            self._computed()
            effect()
            self._go()

    def _computed(self) -> None:
        """Count the time that running units have had until now."""
        world, frame = self.kernel.world, self.stack[-1]
        seconds = max(
            0.0, min(world.now, self._until) - self.since
        )  # the world may have stood still meanwhile
        frame.seconds += seconds
        world.computed(frame.run.job, seconds)
        self.since = world.now

    def _go(self) -> None:
        """Begin with what comes next, if nothing runs."""
        if self._effect is not None or not self.stack:
            return
        frame = self.stack[-1]
        if frame.aborted:
            self._after(0.0, lambda: self._finish("abort"))
        elif frame.map:
            if not frame.missing and frame.resumed:
                got, frame.map, frame.resumed = frame.got, b"", False
                self._serve(frame)
                self._drive(frame, got)
        elif frame.lent or frame.restoring:
            return
        elif frame.maker is not None:
            self._drive(frame, None)
        elif frame.stopped or len(frame.results) == len(frame.inputs):
            self._after(0.0, lambda: self._finish(""))
        elif drives(frame.name):
            if not frame.run.once:
                self._serve(frame)
            frame.maker = function(frame.name)(frame.inputs[len(frame.results)])
            self._drive(frame, None)
        else:
            self._compute(frame)

    def _seconds(self, frame: Frame, x: Any) -> float:
        world = self.kernel.world
        return world.pace(frame.name, x, world.random)

    def _compute(self, frame: Frame) -> None:
        """All units of a plain function."""
        run, at = function(frame.name), self.kernel.world.now
        chunk = self._chunk = Chunk([], [])
        for x in frame.inputs[len(frame.results) :]:
            at += self._seconds(frame, x)
            chunk.ends.append(at)
            try:
                chunk.values.append(run(x))
            except Failed:
                chunk.values.append(ERROR)
            except Crash:
                chunk.disaster = "crash"
                break
            except Abort:
                chunk.disaster = "abort"
                break
        self._await(frame, chunk)

    def _await(self, frame: Frame, chunk: Chunk) -> None:
        def end() -> None:
            frame.results += chunk.values
            if chunk.disaster == "crash":
                self.kernel.die(self, SEGFAULT)
            else:
                self._finish(chunk.disaster)

        self._after(max(0.0, chunk.ends[-1] - self.kernel.world.now), end)
        for at in chunk.ends[:-1] if frame.run.limit else ():
            self.kernel.world.at(at, self._begin_unit, frame.run.attempt, self._ticket)

    def _begin_unit(self, attempt: int, ticket: int) -> None:
        if ticket == self._ticket and self._effect is not None and not self.deaf and self.kernel.has(self):
            self.tell(messages.Began(attempt))

    def withdraw(self) -> int:
        """Give up the units that have not begun; how many those are."""
        if not self.stack:
            return 0
        frame, chunk = self.stack[-1], self._chunk
        begun = len(frame.results) + 1
        if chunk is not None and self._effect is not None:
            ended = bisect_right(chunk.ends, self.kernel.world.now)
            begun = len(frame.results) + min(len(chunk.ends), ended + 1)
            self._cut_short()
        count = max(0, len(frame.inputs) - begun)
        del frame.inputs[begun:]
        return count

    def send_early(self) -> None:
        """Send the results that are there, while a unit is late."""
        if not self.stack or self.stack[-1].run.stored:
            return
        frame, chunk = self.stack[-1], self._chunk
        ended = bisect_right(chunk.ends, self.kernel.world.now) if chunk is not None else 0
        results = frame.results + (chunk.values[:ended] if chunk is not None else [])
        if 0 < len(results) < len(frame.inputs):
            run = frame.run
            early = messages.Early(
                run.attempt, run.start, len(results), results.count(ERROR), epoch=run.epoch
            )
            self.tell(early, finished(run, results)[1])

    def _cut_short(self) -> None:
        """A chunk ends with the unit that runs now."""
        chunk, frame = self._chunk, self.stack[-1]
        if chunk is not None and self._effect is not None:
            now = self.kernel.world.now
            keep = bisect_right(chunk.ends, now) + 1
            if keep < len(chunk.ends):
                self._computed()
                del chunk.ends[keep:], chunk.values[keep:]
                chunk.disaster = ""
                self._await(frame, chunk)

    def _drive(self, frame: Frame, got: list[Any] | None) -> None:
        """A driver goes on to its next map, its next step or its end."""
        try:
            if got is not None and ERROR in got:
                made = frame.maker.throw(Failed("a unit failed"))
            else:
                made = frame.maker.send(got)
        except StopIteration as end:
            self._drives_until(frame, 0.0, end.value)
        except Failed:
            self._drives_until(frame, 0.0, ERROR)
        else:
            if made == RESTORE:
                self._restore(frame)
            elif made == HEAR:
                self._drive(frame, list(self.heard.get(frame.run.job, ())))
            elif isinstance(made, Save):
                self._save(frame, made.state)
            elif isinstance(made, float):
                self._after(made, lambda: self._ready(frame))
            else:
                self._after(self._seconds(frame, None), lambda: self._map(frame, *made))

    def _drives_until(self, frame: Frame, seconds: float, value: Any) -> None:
        def end() -> None:
            frame.maker = None
            frame.results.append(value)

        self._after(seconds + self._seconds(frame, None), end)

    def _ready(self, frame: Frame) -> None:
        """A step of the driver's own has ended: its safe point."""
        if frame.asked and not frame.aborted:
            frame.asked, frame.lent = False, True
            self.tell(messages.Lent(frame.run.attempt, frame.run.epoch))
        else:
            self._serve(frame)

    def _serve(self, frame: Frame) -> None:
        """A safe point: the body gets what was said to it, in order and with nothing left out."""
        job = frame.run.job
        for seq, said in self.controls.get(job, {}).items() if frame.run.stored else ():
            if seq > self.served[job]:
                assert seq == self.served[job] + 1, "a control was left out"
                self.served[job] = seq
                self.heard[job].append(said)

    def _unit(self, frame: Frame) -> int:
        return frame.run.start + len(frame.results)

    def _restore(self, frame: Frame) -> None:
        if frame.run.restored:
            frame.restoring = True
            self.tell(messages.Restore(1, frame.run.attempt, self._unit(frame)))
        else:
            self._drive(frame, None)

    def _save(self, frame: Frame, state: list[int]) -> None:
        run = frame.run
        frame.saved.append(state[0])
        said = messages.Publish(run.job, run.attempt, "log", number=len(frame.saved))
        self.tell(said, codec.pack([run.attempt, len(frame.saved)]))
        checkpoint = messages.Checkpoint(
            run.attempt, run.job, self._unit(frame), len(frame.saved), served=self.served.get(run.job, 0)
        )
        self.tell(checkpoint, codec.pack(state))
        self._drive(frame, None)

    def _drop(self, dropped: bytes) -> None:
        for frame in self.stack:
            if frame.map and code(frame.maps) == dropped:
                self.tell(messages.Blob(dropped), blob(frame.maps))
                return
        self.shipped.discard(dropped)
        self.codes.pop(dropped, None)

    def _map(self, frame: Frame, name: str, given: list[Any]) -> None:
        frame.maps, frame.map = name, self.kernel.world.random.randbytes(16)
        frame.got, frame.missing = [None] * len(given), set(range(len(given)))
        if code(name) not in self.shipped:
            self.shipped.add(code(name))
            self.codes[code(name)] = blob(name)
            self.tell(messages.Blob(code(name)), blob(name))
        run = frame.run
        message = messages.Map(frame.map, run.job, code(name), len(given), attempt=run.attempt)
        self.tell(message, units(given))

    def _finish(self, ended: str) -> None:
        """End the running units: with "abort", or with the results that are there."""
        frame = self.stack.pop()
        results = [] if ended == "abort" else frame.results
        if not ended and len(results) < len(frame.inputs):
            ended = "stop"
        cause = "it failed" if ERROR in results else ""
        said = {"ended": ended, "seconds": frame.seconds, "cause": cause}
        if frame.run.once and frame.run.stored and results:
            said["remark"] = remark_on(results[0])
        self.tell(*finished(frame.run, results, **said))
        self._forget_jobs()

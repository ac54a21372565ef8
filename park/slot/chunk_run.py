"""One chunk in a slot process: its units run one after the other, and their results go to the kernel together."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from park.body import environment, payload, seeds
from park.body.causes import MAX_CAUSE_CHARACTERS
from park.body.generators import Generators
from park.body.own_generators import OwnGenerators
from park.errors import Abort, Stop, UnitError
from park.model import NOT_RUN
from park.slot import descendants
from park.slot.frame import Frame
from park.slot.line_stream import LastResort
from park.slot.unit_results import (
    EncodedResult,
    FailingBody,
    decode,
    entry_of,
    is_fixed,
    too_long_errors,
    unit_error,
)
from park.util.permits import take, take_all
from park.util.sealed import SealedBuffer
from park.wire import messages
from park.wire.pack import Buffer, Pack, pack_entries

if TYPE_CHECKING:
    from park.slot.slot import Slot

#: Seconds between two looks at the channel while a chunk runs.
CHANNEL_POLL_SECONDS = 0.05
#: Seconds after which results of a chunk are sent before its end, a little more than those after which its kernel gives
#: units back (`park.kernel.machine.late_chunks`).
LATE_SECONDS = 0.2


def run_chunk(slot: Slot, run: messages.Run, data: Buffer) -> None:
    """Run a chunk and send its results; *data*: the pack of its inputs."""
    ChunkRun(slot, run, data).run()


class ChunkRun:
    """One run of a chunk; see the module."""

    def __init__(self, slot: Slot, run: messages.Run, data: Buffer) -> None:
        self._slot = slot
        self._run = run
        self._data = data
        self._frame = Frame(run, run.start)
        self._generators = Generators(keep=bool(slot.stack))
        self._began = self._looked = 0.0
        #: results and errors of the units so far
        self._entries: list[Any] = []
        self._errors: list[UnitError] = []
        #: the generators of the function, or None: a body that runs once keeps those of the script
        self._own_generators: OwnGenerators | None = None
        #: true while no result can change any more, so that all are encoded together at the end
        self._all_fixed = True
        #: held while results are sent early; the number of results that were sent early; whether early sends have ended
        self._early, self._sent_early, self._is_over = threading.Lock(), 0, False
        #: how the chunk was ended before its last unit: "abort" or "stop"; "": it was not
        self._ended = ""

    def run(self) -> None:
        """Run the chunk and send its results."""
        slot, run = self._slot, self._run
        if run.job not in slot.started_before:
            slot.started_before[run.job] = descendants.started()
        argv = self._enter()
        try:
            self._run_units()
        except Stop:
            self._ended = "stop"
            if run.once:  # the body has begun, and leaves no result
                self._all_fixed, self._entries = False, [EncodedResult(payload.encode_result(NOT_RUN))]
        except Abort:
            self._ended = "abort"
            self._frame.coalesced.clear()
        finally:
            self._leave(argv)
        if self._ended == "abort":
            self._entries, self._errors, self._all_fixed = [], [], True
            if not slot.stack:
                slot.bodies.clean_up_all()
        slot.publisher.flush(self._frame, everything=True)
        self._send_results()

    def _enter(self) -> list[str]:
        """Push the frame. Returns the arguments of the process, which `_leave` restores."""
        slot = self._slot
        if slot.stack:  # lines that were printed before belong to the frame that waits
            slot.publisher.flush(slot.stack[-1], everything=True)
        slot.stack.append(self._frame)
        environment.enter(slot.host)
        argv, sys.argv = sys.argv, list(self._run.argv or slot.argv)
        self._began = self._looked = time.perf_counter()
        if self._may_be_early:
            slot.early.begin(self)
        return argv

    @property
    def _may_be_early(self) -> bool:
        """Whether a driver or client may wait for single results. Results of a stored job are stored together."""
        return self._run.count > 1 and not (self._run.stored or self._run.once)

    def send_early(self) -> None:
        """If the chunk is late, send the results that have not been sent yet (called in a thread)."""
        run = self._run
        with self._early:
            begin, end = self._sent_early, len(self._entries)
            late = time.perf_counter() > self._began + LATE_SECONDS
            if self._is_over or not (late and begin < end < run.count):
                return
            self._sent_early, entries = end, self._entries[begin:end]
            failed = sum(isinstance(entry, UnitError) for entry in entries)
            results = pack_entries([entry_of(entry) for entry in entries])
            start, count = run.start + begin, end - begin
            if not too_long_errors(len(results), start, count):
                early = messages.Early(run.attempt, start, count, failed, run.epoch)
                self._slot.channel.send(early, results)

    def _leave(self, argv: list[str]) -> None:
        slot = self._slot
        slot.user_code.interruptible = False
        with self._early:
            self._is_over = True
        if self._may_be_early:
            slot.early.end()
        if len(self._entries) < self._run.count:
            take_all(slot.permits)
        self._generators.restore()
        slot.stack.pop()
        environment.enter(slot.host if slot.stack else None)
        sys.argv = argv

    def _run_units(self) -> None:
        """Run the units until all are done, or the chunk is to end."""
        slot, run, frame = self._slot, self._run, self._frame
        body = frame.body = slot.bodies.get(run, self._generators)
        _catch_logging()
        if run.stored:
            slot.controls.begin(run)
        function = body.run if hasattr(body, "run") else body
        if not run.once:
            self._own_generators = slot.bodies.generators_of(run, body)
        if run.limit:
            slot.channel.send(messages.Began(run.attempt))
        for index, value in self._units():
            if index > run.start and not take(slot.permits):  # the kernel has taken the rest back
                break
            frame.unit, frame.seed = index, seeds.mix(run.seed, index)
            # a body that runs once says itself when it is ready
            if slot.controls.pending and run.stored and not run.once:
                slot.controls.deliver()
            frame.maps = 0
            self._entries.append(self._run_unit(function, value))
            now = time.perf_counter()
            if now - self._looked > CHANNEL_POLL_SECONDS and not run.once:
                self._looked = now
                if self._is_to_end():
                    break
        if run.once and hasattr(body, "run"):
            slot.bodies.clean_up(run)

    def _units(self) -> Iterator[tuple[int, Any]]:
        """The number and the input of each unit."""
        run = self._run
        if run.once:
            return iter([(0, None)])
        try:
            return enumerate(payload.decode_units(self._data), run.start)
        except (
            Exception
        ):  # decode inputs one at a time, so that only units fail whose inputs cannot be read here
            return enumerate(map(decode, Pack(self._data).entries()), run.start)

    def _run_unit(self, function: Any, value: Any) -> Any:
        """The result of a unit, an `EncodedResult` if it may change later, or a UnitError."""
        slot, run = self._slot, self._run
        try:
            self._generators.seed(self._frame.seed)
            if self._own_generators:
                self._own_generators.seed(self._frame.seed)
            run_unit = value if isinstance(value, FailingBody) else function
            with slot.user_code.running:
                result = run_unit() if run.once else run_unit(value)
            if not is_fixed(type(result)):
                self._all_fixed, result = False, EncodedResult(payload.encode_result(result))
        except BaseException as error:
            slot.user_code.raise_own(error)
            self._all_fixed, result = False, unit_error(error, None if run.once else self._frame.unit)
            self._errors.append(result)
        slot.user_code.end_forked_child()
        return result

    def _is_to_end(self) -> bool:
        """Look at the channel between two units. Raises Abort."""
        frame, run = self._frame, self._run
        self._slot.look()
        if run.limit:
            self._slot.channel.send(messages.Began(run.attempt))
        frame.raise_abort()
        if frame.stopped and not frame.soft:
            self._ended = "stop"
        return bool(self._ended)

    def _send_results(self) -> None:
        run, entries, errors = self._run, self._entries, self._errors
        if self._all_fixed:
            results = payload.encode_units(entries, place=SealedBuffer)
        else:
            results = pack_entries([entry_of(result) for result in entries], SealedBuffer)
        if too_long := too_long_errors(len(results), run.start, len(entries)):
            errors, results = too_long, pack_entries([entry_of(error) for error in too_long])
        first = errors[0] if errors else None
        finished = messages.Finished(
            attempt=run.attempt,
            map=run.map,
            start=run.start,
            count=len(entries),
            seconds=time.perf_counter() - self._began,
            failed=len(errors),
            unit=(first.unit or 0) if first else 0,
            cause=first.cause[:MAX_CAUSE_CHARACTERS] if first else "",
            ended=self._ended,
            epoch=run.epoch,
            remark=self._frame.remark,
        )
        self._slot.channel.send(finished, results)


def _catch_logging() -> None:
    """Give the records of code that has set up no logging their level in the job's log."""
    logging: Any = sys.modules.get("logging")
    if logging is not None and not isinstance(logging.lastResort, LastResort):
        logging.lastResort = LastResort()

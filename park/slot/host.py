"""The fabric as a body sees it from inside its slot process: maps, results of other jobs, messages, safe points.

A body that waits for an answer waits in the process's own loop, where chunks of its map may run meanwhile, to any depth.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from park.body import environment, payload, seeds
from park.body.inputs import windows_of
from park.body.results import decode_results, job_result
from park.errors import REFUSALS, InvalidRequest, ParkError, Stop, UnitError
from park.slot.frame import Frame
from park.util.sealed import SealedBuffer
from park.wire import messages
from park.wire.fragments import check_size
from park.wire.pack import Buffer, Pack

if TYPE_CHECKING:
    from park.slot.slot import Slot

_MAIN_THREAD = threading.main_thread().ident
#: Safe points of a stopped body after which it ends, unless it looks at should_stop.
SAFE_POINTS_WITHOUT_CHECK = 2
#: Safe points closer together than this (seconds) count as one: a look for messages takes some 15 us, and a fit may
#: have three safe points in a short iteration.
SAFE_POINT_SECONDS = 0.001
#: Seconds that a body that stops or makes a checkpoint may go on without the slot that it has lent.
STOP_WITHOUT_SLOT_SECONDS = 10.0
#: The longest wait for a checkpoint (seconds).
MAX_WAIT_SECONDS = 1e6


class BodyHost:
    """The `environment.Host` of the bodies of one slot process."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        #: the number of the last Fetch, Restore or File
        self._fetches = 0

    @property
    def job(self) -> int:
        return self._slot.stack[-1].run.job

    @property
    def seed(self) -> int:
        return self._slot.stack[-1].seed

    @property
    def should_stop(self) -> bool:
        self._slot.stack[-1].asks_should_stop = True
        self.ready()
        return any(frame.stopped for frame in self._slot.stack)

    @property
    def should_checkpoint(self) -> bool:
        self.ready()
        return self._slot.stack[-1].save_requested

    def _caller(self) -> Frame:
        """The frame of the calling body. Raises InvalidRequest in other threads, because their waits would take each
        other's messages.
        """
        if threading.get_ident() != _MAIN_THREAD:
            raise InvalidRequest(
                "this thread cannot use the fabric: call the methods of park.environment() in the thread that runs the body"
            )
        return self._slot.stack[-1]

    # -- maps ----------------------------------------------------------------------------------

    def code(self, function: Any) -> tuple[bytes, bytes]:
        """The function as `map` takes it: its hash, and its pickle."""
        if not callable(function) and not hasattr(function, "run"):
            raise InvalidRequest(f"{function!r} is neither callable nor a body")
        blob = payload.dump_code(function, "the function")
        return payload.code_hash(blob), blob

    def map(self, code: tuple[bytes, bytes], units: Iterable[Any]) -> list[Any]:
        """Run a map on the fabric. Chunks of it, or of another map of the job, may run here meanwhile."""
        slot, frame = self._slot, self._caller()
        with slot.user_code.paused:
            try:
                frame.raise_abort()
                results: list[Any] = []
                for data in windows_of(units, SealedBuffer):
                    results += self._map(frame, code, data, len(results))
            finally:
                frame.code = None
        if results:
            slot.controls.deliver()
        return results

    def _map(self, frame: Frame, code: tuple[bytes, bytes], data: Buffer, before: int) -> list[Any]:
        """The results of one message of inputs; *before*: units of the map in earlier messages."""
        slot, run = self._slot, frame.run
        seed = seeds.mix(frame.seed, frame.maps)
        frame.maps += 1
        key, count = os.urandom(16), Pack(data).count
        slot.publisher.flush(frame)
        frame.code = code
        slot.codes.send(*code)
        message = messages.Map(key, run.job, code[0], count, seed=seed, attempt=run.attempt, epoch=run.epoch)
        slot.channel.send(message, data)
        results = self._collect(frame, key, count)
        for i, result in enumerate(results):
            if isinstance(result, UnitError):
                result.unit = before + (i if result.unit is None else result.unit)
        return results

    def _collect(self, frame: Frame, key: bytes, count: int) -> list[Any]:
        """Wait until the results of a map have come, and the frame has its slot again."""
        slot = self._slot
        results: list[Any] = [None] * count
        missing, resumed = count, False

        def is_answer(message: Any) -> bool:
            of_map = isinstance(message, messages.Results | messages.MapFailed) and message.map == key
            return of_map or _resumes(message, frame)

        while missing or not resumed:
            message, data = slot.channel.next_for(is_answer)
            if isinstance(message, messages.Results) and message.map == key:
                results[message.start : message.start + message.count] = decode_results(data, message.start)
                missing -= message.count
                resumed |= message.resume
            elif isinstance(message, messages.MapFailed) and message.map == key:
                raise REFUSALS.get(message.error, ParkError)(message.text)
            elif _resumes(message, frame):
                resumed = True
            else:
                slot.handle(message, data)
                environment.enter(self)
            frame.raise_abort()
        return results

    # -- fetches -------------------------------------------------------------------------------

    def fetch(self, job: int) -> Any:
        """The result of another job; raises the errors of its ``wait``."""
        slot, frame = self._slot, self._caller()
        with slot.user_code.paused:
            self._fetches += 1
            slot.channel.send(messages.Fetch(self._fetches, job, attempt=frame.run.attempt))
            return self._fetched(frame)

    def file(self, how: str, name: str, data: Buffer = b"") -> tuple[bool, Buffer]:
        """Put, get or drop a file of the job, or list them. Returns whether it is there, and its bytes."""
        slot, frame = self._slot, self._caller()
        with slot.user_code.paused:
            check_size(len(data))
            self._fetches += 1
            slot.channel.send(messages.File(self._fetches, frame.run.attempt, name, how), data)
            found: tuple[bool, Buffer] = self._fetched(frame)
            return found

    def _fetched(self, frame: Frame) -> Any:
        """Wait for the answer to the last Fetch, Restore or File."""
        slot, number = self._slot, self._fetches
        pieces: list[tuple[int, Buffer]] = []
        while True:
            message, data = slot.channel.next_for(lambda message: getattr(message, "reply", 0) == number)
            match message:
                case messages.Results() if message.reply == number:
                    pieces.append((message.start, data))
                case messages.Fetched() if message.reply == number:
                    return job_result(message.record, message.once, pieces)
                case messages.Checkpoint() if message.reply == number:
                    return data, message.served
                case messages.Filed() if message.reply == number:
                    return message.there, data
                case messages.Failure() if message.reply == number:
                    raise REFUSALS.get(message.error, ParkError)(message.text)
                case _:
                    slot.handle(message, data)
            frame.raise_abort()

    # -- checkpoints ---------------------------------------------------------------------------

    def checkpoint(self, state: Any, wait: float) -> bool:
        """Hand in the state of the unit that runs. Returns whether it was on disk within *wait* seconds."""
        slot, frame = self._slot, self._caller()
        run = frame.run
        if not run.stored:
            raise InvalidRequest(
                "only units of a job have checkpoints, not those of a map inside or a session"
            )
        with slot.user_code.paused:
            data = payload.dumps(state, "the state")
            check_size(len(data))
            frame.checkpoints += 1
            frame.save_requested = False
            number, served = frame.checkpoints, slot.controls.served(run.job)
            message = messages.Checkpoint(run.attempt, run.job, frame.unit, number, served=served)
            slot.channel.send(message, data)
            return self._wait_durable(frame, number, time.monotonic() + min(wait, MAX_WAIT_SECONDS))

    def _wait_durable(self, frame: Frame, number: int, deadline: float) -> bool:
        """Whether checkpoint *number* is on disk before the *deadline*."""
        slot = self._slot
        while frame.durable < number:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                slot.handle(*slot.channel.next_for(lambda message: False, left))
            except TimeoutError:
                return False
            frame.raise_abort()
        return True

    def restore(self) -> Any:
        """The newest checkpoint that an earlier run of this unit has made; None if there is none."""
        slot, frame = self._slot, self._caller()
        if frame.run.restored and frame.unit not in frame.restored:
            with slot.user_code.paused:
                self._fetches += 1
                slot.channel.send(messages.Restore(self._fetches, frame.run.attempt, frame.unit))
                data, served = self._fetched(frame)
                if frame.run.once and len(data):
                    slot.controls.restored(frame.run.job, served)
                try:
                    frame.restored[frame.unit] = payload.loads(data) if len(data) else None
                except Exception as error:
                    raise InvalidRequest(
                        f"the checkpoint of job {frame.run.job} cannot be read here: {error!r}"
                    ) from error
        return frame.restored.get(frame.unit)

    # -- messages ------------------------------------------------------------------------------

    def publish(self, kind: str, message: Any) -> None:
        """Send a message to the followers of the job."""
        slot = self._slot
        with slot.user_code.paused:  # a message goes whole, or not at all
            slot.publisher.publish(slot.stack[-1], kind, message)

    def remark(self, text: str) -> None:
        self._slot.stack[-1].remark = text

    # -- safe points ---------------------------------------------------------------------------

    def ready(self) -> None:
        """The safe point of a body: messages go out and come in, and the body may have to wait here, or to end."""
        slot = self._slot
        now = time.monotonic()
        if slot.stack:
            if now - slot.stack[-1].looked_at < SAFE_POINT_SECONDS:
                return
            slot.stack[-1].looked_at = now
        with slot.user_code.paused:
            for frame in slot.stack:
                slot.publisher.flush(frame)
            slot.look()
            for frame in slot.stack:
                frame.raise_abort()
            if slot.stack:
                self._pass_safe_point(slot.stack[-1])
        slot.controls.deliver()

    def _pass_safe_point(self, frame: Frame) -> None:
        frame.safe_points += 1
        stops = frame.stopped and not frame.soft and not frame.asks_should_stop
        if stops and frame.safe_points > SAFE_POINTS_WITHOUT_CHECK:
            raise Stop("the job was asked to stop")
        since = frame.without_slot_since
        if frame.lend or (since is not None and time.monotonic() - since > STOP_WITHOUT_SLOT_SECONDS):
            self._lend_slot(frame)

    def _lend_slot(self, frame: Frame) -> None:
        """Wait here without a slot, because another job is due or this one is paused.

        A body that is told to stop, or to make a checkpoint, goes on without a slot, because that takes little time. At
        the next safe point it waits.
        """
        slot = self._slot
        may_go_on, frame.lend, frame.without_slot_since = frame.without_slot_since is None, False, None
        slot.publisher.flush(frame, everything=True)
        slot.channel.send(messages.Lent(frame.run.attempt, frame.run.epoch))
        while True:
            message, data = slot.channel.next_for(lambda message: _resumes(message, frame))
            if _resumes(message, frame):
                return
            slot.handle(message, data)
            frame.raise_abort()
            if may_go_on and (frame.save_requested or (frame.stopped and not frame.soft)):
                frame.without_slot_since = time.monotonic()
                return


def _resumes(message: Any, frame: Frame) -> bool:
    """Whether the message gives the frame its slot again."""
    return isinstance(message, messages.Resume) and message.attempt == frame.run.attempt

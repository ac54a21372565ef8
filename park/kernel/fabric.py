"""What a body asks of the fabric from inside its slot process: maps, results of other jobs, messages, safe points.

A body that waits for an answer waits in the process's own loop, where chunks of its map may run meanwhile, to any depth.
"""

from __future__ import annotations

import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct, field

from park import payload
from park.batches import windows_of
from park.errors import REFUSALS, Abort, InvalidRequest, ParkError, Stop, UnitError
from park.kernel import env
from park.kernel.printed import Printed, Tee
from park.model import MAX_LATEST, Progress
from park.results import decode_results, job_result
from park.util.channel import Channel
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer, Pack
from park.wire.parts import check_size

#: Seconds between two messages of one kind that may be coalesced.
RATE = 0.1
_MAIN = threading.main_thread().ident
COALESCED = ("progress", "improvement")
#: Safe points after which a body that never asks whether it should stop is known for one that will not.
UNASKED = 2
#: Seconds that a body may take for its end without a slot, when it was told to stop while it waited for one.
PARTING = 10.0


class Gone(BaseException):
    """The supervisor is gone, or wants us gone."""


class Frame(Struct, eq=False):
    """One attempt on the stack."""

    run: messages.Run
    #: the unit that runs, and its seed
    unit: int = 0
    seed: int = 0
    #: maps that the unit has made
    maps: int = 0
    stopped: bool = False
    #: told to stop, but its units all run
    soft: bool = False
    aborted: bool = False
    #: its abort was raised in user code
    interrupted: bool = False
    #: its kernel leaves: others run the units that have not begun
    back: bool = False
    #: asked for its slot
    lend: bool = False
    #: since when it goes on without one
    parting: float | None = None
    #: its safe points so far, and whether it looks at should_stop
    safe_points: int = 0
    asks: bool = False
    #: checkpoints that were made, and how many of them are known to be on disk
    checkpoints: int = 0
    durable: int = 0
    #: what was restored, by unit
    restored: dict[int, Any] = field(default_factory=dict)
    #: messages that wait for their turn: kind -> (message, done, total)
    held: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)
    #: how many others it has published
    published: int = 0
    #: what a unit has to say of the job's result
    remark: str = ""
    #: hash and blob of the code whose map it waits for
    code: tuple[bytes, bytes] | None = None
    #: the body once it is prepared, and whether it is being given its controls
    body: Any = None
    serving: bool = False


class Fabric(ABC):
    """The `env.Host` of the bodies of one slot process. Who inherits handles what comes meanwhile."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._codes: dict[bytes, Buffer] = {}
        self._stack: list[Frame] = []
        #: releases that wait until nothing runs
        self._later: deque[Message] = deque()
        #: answers for drivers that wait further out on the stack, which came while a chunk ran inside
        self._inbox: list[tuple[Message, Buffer]] = []
        self._fetches = 0
        #: the last control that each job's body has had
        self._served: dict[int, int] = {}
        #: something has come, or begun, since controls were last looked at
        self._look_at_controls = False
        self._known: set[bytes] = set()
        #: user code runs, and may be interrupted
        self._open = False
        #: lines that bodies print, and when they were sent last
        self.printed = Printed()
        #: its standard streams
        self.tees: list[Tee] = []
        self._told = 0.0

    @abstractmethod
    def _handle(self, message: Message, data: Buffer) -> None:
        """What may come at any time."""

    @abstractmethod
    def _pass_on(self, error: BaseException) -> None:
        """Raise *error* if it is the fabric's own, which no body may keep."""

    @abstractmethod
    def _serve(self) -> None:
        """The body that runs is at a safe point: give it the controls that have come."""

    # -- the channel ---------------------------------------------------------------------------

    def _send(self, message: Message, data: Buffer = b"") -> None:
        self._channel.send(codec.encode(message, data))

    def _next(self) -> tuple[Message, Buffer]:
        if self._later:
            return self._later.popleft(), b""
        self._inbox.clear()
        return codec.decode(self._channel.recv())

    def _answer(self, mine: Callable[[Any], bool], timeout: float | None = None) -> tuple[Message, Buffer]:
        """The next message for a driver that waits: what came for it while a chunk ran inside is first."""
        for i, (message, _) in enumerate(self._inbox):
            if mine(message):
                return self._inbox.pop(i)
        return codec.decode(self._channel.recv(timeout))

    def _look(self) -> None:
        """Handle what has come, without waiting."""
        try:
            for frames in self._channel.receive():
                message, data = codec.decode(frames)
                self._handle(message, data)
        except EOFError:
            raise Gone from None

    # -- what bodies ask -----------------------------------------------------------------------

    @property
    def job(self) -> int:
        return self._stack[-1].run.job

    @property
    def seed(self) -> int:
        return self._stack[-1].seed

    @property
    def should_stop(self) -> bool:
        self._stack[-1].asks = True
        self.ready()
        return any(frame.stopped for frame in self._stack)

    def code(self, function: Any) -> tuple[bytes, bytes]:
        """The function as `map` takes it: its hash, and how it travels."""
        if not callable(function) and not hasattr(function, "run"):
            raise InvalidRequest(f"{function!r} is neither callable nor a body")
        blob = payload.dump_code(function, "the function")
        return payload.code_hash(blob), blob

    def _ship(self, code: bytes, blob: bytes) -> None:
        """Send the code to the kernel, unless that was done before."""
        if code not in self._known:
            self._known.add(code)
            self._codes[code] = blob
            self._send(messages.Blob(code), blob)

    def _drop(self, code: bytes) -> None:
        """The kernel thinks that it is not needed here."""
        for frame in self._stack:
            if frame.code is not None and frame.code[0] == code:  # the map was on its way
                self._known.discard(code)
                self._ship(*frame.code)
                return
        self._known.discard(code)
        self._codes.pop(code, None)

    def map(self, code: tuple[bytes, bytes], units: Iterable[Any]) -> list[Any]:
        """Run a map on the fabric; meanwhile serve what comes, also chunks of this map."""
        frame = self._stack[-1]
        was_open, self._open = self._open, False
        try:
            if frame.aborted:
                raise Abort
            results: list[Any] = []
            for data in windows_of(units):
                results += self._map(frame, code, data, len(results))
        finally:
            frame.code = None
            self._open = was_open
        if results:
            self._serve()
        return results

    def _map(self, frame: Frame, code: tuple[bytes, bytes], data: bytes, before: int) -> list[Any]:
        """The results of one message of inputs; *before*: units of its map that were in others."""
        seed = env.mix(frame.seed, frame.maps)
        frame.maps += 1
        key, count = os.urandom(16), Pack(data).count
        self._flush(frame)
        self._print(frame)  # before what the units print
        frame.code = code
        self._ship(*code)
        run = frame.run
        self._send(
            messages.Map(key, run.job, code[0], count, seed=seed, attempt=run.attempt, epoch=run.epoch), data
        )
        results = self._collect(frame, key, count)
        for i, result in enumerate(results):
            if isinstance(result, UnitError):
                result.unit = before + (i if result.unit is None else result.unit)
        return results

    def _collect(self, frame: Frame, key: bytes, count: int) -> list[Any]:
        results: list[Any] = [None] * count
        missing, resumed = count, False

        def mine(m: Any) -> bool:
            of_map = isinstance(m, messages.Results) and m.map == key
            return of_map or (isinstance(m, messages.Resume) and m.attempt == frame.run.attempt)

        while missing or not resumed:
            message, data = self._answer(mine)
            match message:
                case messages.Results() if message.map == key:
                    results[message.start : message.start + message.count] = decode_results(
                        data, message.start
                    )
                    missing -= message.count
                    resumed |= message.resume
                case messages.Resume() if message.attempt == frame.run.attempt:
                    resumed = True
                case _:
                    self._handle(message, data)
                    env.enter(self)
            if frame.aborted:
                raise Abort
        return results

    def fetch(self, job: int) -> Any:
        """The result of another job; raises what its ``wait`` would."""
        frame = self._stack[-1]
        was_open, self._open = self._open, False
        try:
            self._fetches += 1
            self._send(messages.Fetch(self._fetches, job, attempt=frame.run.attempt))
            return self._fetched(frame)
        finally:
            self._open = was_open

    def checkpoint(self, state: Any, wait: float) -> bool:
        """Hand in the state of the unit that runs; whether it was on disk within *wait* seconds."""
        frame = self._stack[-1]
        if not frame.run.stored:
            raise InvalidRequest(
                "only units of a job have checkpoints, not those of a map inside or a session"
            )
        was_open, self._open = self._open, False
        try:
            data = payload.dumps(state, "the state")
            check_size(len(data))
            frame.checkpoints += 1
            number, attempt = frame.checkpoints, frame.run.attempt
            served = self._served.get(frame.run.job, 0)
            self._send(messages.Checkpoint(attempt, frame.run.job, frame.unit, number, served=served), data)
            deadline = time.monotonic() + min(wait, 1e6)
            while frame.durable < number:
                left = deadline - time.monotonic()
                try:
                    if left <= 0:
                        return False
                    self._handle(*self._answer(lambda m: False, left))
                except TimeoutError:
                    return False
                if frame.aborted:
                    raise Abort
            return True
        finally:
            self._open = was_open

    def restore(self) -> Any:
        """What an earlier run of this unit has left as its newest checkpoint; None if there is none."""
        frame = self._stack[-1]
        if frame.run.restored and frame.unit not in frame.restored:
            was_open, self._open = self._open, False
            try:
                self._fetches += 1
                self._send(messages.Restore(self._fetches, frame.run.attempt, frame.unit))
                data, served = self._fetched(frame)
                if frame.run.once and len(data):
                    self._served[frame.run.job] = served
                    self._look_at_controls = True
                try:
                    frame.restored[frame.unit] = payload.loads(data) if len(data) else None
                except Exception as error:
                    raise InvalidRequest(
                        f"the checkpoint of job {frame.run.job} cannot be read here: {error!r}"
                    ) from error
            finally:
                self._open = was_open
        return frame.restored.get(frame.unit)

    def file(self, how: str, name: str, data: Buffer = b"") -> tuple[bool, Buffer]:
        """Keep, get or drop a file of the job: what `Filed` says, and its payload."""
        frame = self._stack[-1]
        was_open, self._open = self._open, False
        try:
            check_size(len(data))
            self._fetches += 1
            self._send(messages.File(self._fetches, frame.run.attempt, name, how), data)
            found: tuple[bool, Buffer] = self._fetched(frame)
            return found
        finally:
            self._open = was_open

    def _fetched(self, frame: Frame) -> Any:
        """The answer to the last Fetch, Restore or File."""
        number = self._fetches
        pieces: list[tuple[int, Buffer]] = []
        while True:
            message, data = self._answer(lambda m: getattr(m, "reply", 0) == number)
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
                    self._handle(message, data)
            if frame.aborted:
                raise Abort

    def publish(self, kind: str, message: Any) -> None:
        frame = self._stack[-1]
        was_open, self._open = self._open, False  # a message goes whole, or not at all
        try:
            if kind in COALESCED:
                frame.held[kind] = message
                self._flush(frame)
            else:
                self._flush(frame, printed=True)  # in order; what is thinned out keeps its pace
                self._publish(frame, kind, message)
        finally:
            self._open = was_open

    def remark(self, text: str) -> None:
        self._stack[-1].remark = text

    def said(self) -> None:
        """A body has printed something."""
        if self._open and self._stack and threading.get_ident() == _MAIN:
            self._open = False
            try:
                self._flush(self._stack[-1])
            finally:
                self._open = True

    def ready(self) -> None:
        was_open, self._open = self._open, False
        try:
            for frame in self._stack:
                self._flush(frame)
            self._look()
            if any(frame.aborted for frame in self._stack):
                raise Abort
            if self._stack:
                self._yield_to(self._stack[-1])
        finally:
            self._open = was_open
        self._serve()

    def _yield_to(self, frame: Frame) -> None:
        """The body is at a safe point: it may have to wait here, or to end."""
        frame.safe_points += 1
        if frame.stopped and not frame.soft and not frame.asks and frame.safe_points > UNASKED:
            raise Stop("the job was asked to stop")
        if frame.lend or (frame.parting is not None and time.monotonic() - frame.parting > PARTING):
            self._lend(frame)

    def _lend(self, frame: Frame) -> None:
        """Another job is due, or this one is paused: wait here without a slot.

        A body that is told to stop meanwhile goes on at once: its end takes no long time.
        """
        first, frame.lend, frame.parting = frame.parting is None, False, None
        self._flush(frame, everything=True)
        attempt = frame.run.attempt
        self._send(messages.Lent(attempt, frame.run.epoch))
        while True:
            message, data = self._answer(lambda m: isinstance(m, messages.Resume) and m.attempt == attempt)
            if isinstance(message, messages.Resume) and message.attempt == attempt:
                return
            self._handle(message, data)
            if frame.aborted:
                raise Abort
            if first and frame.stopped and not frame.soft:
                frame.parting = time.monotonic()
                return

    def _flush(self, frame: Frame, everything: bool = False, printed: bool = False) -> None:
        """Send the messages that were held back long enough, and what was printed: with *printed* all of that."""
        now = time.monotonic()
        printed |= everything
        if everything:
            for tee in self.tees:
                if tee.begun:
                    tee.settle()
        if self.printed.waiting and (printed or now - self._told >= RATE):
            self._told = now
            self._print(frame, printed)
        for kind in list(frame.held):
            if everything or now - frame.sent.get(kind, -RATE) >= RATE:
                frame.sent[kind] = now
                self._publish(frame, kind, frame.held.pop(kind))

    def _print(self, frame: Frame, everything: bool = False) -> None:
        """Send what was printed."""
        for line in self.printed.take(everything):
            self._publish(frame, "log", line)

    def _publish(self, frame: Frame, kind: str, message: Any) -> None:
        if kind == "log":  # nobody needs to unpickle to read it
            data = codec.pack([message.text, message.level, message.time or time.time()])
        else:
            data = payload.dumps(message, "the message")
        check_size(len(data))
        number = 0
        if kind not in COALESCED:
            frame.published = number = frame.published + 1
        elif len(data) > MAX_LATEST:
            raise InvalidRequest(
                f"the {kind} takes {len(data):,} bytes, more than the {MAX_LATEST:,} that are kept for who joins late: "
                "publish what is long as a dict with a kind of its own"
            )
        shown: dict[str, Any] = {}
        if isinstance(message, Progress) and math.isfinite(message.done) and math.isfinite(message.total):
            shown = {name: getattr(message, name) for name in ("done", "total", "units", "note")}
        self._send(messages.Publish(frame.run.job, frame.run.attempt, kind, number=number, **shown), data)

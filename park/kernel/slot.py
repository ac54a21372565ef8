"""A slot process from inside: ``python -m park.kernel.slot DESCRIPTOR PARENT`` runs user code.

It reads messages from the socket that it inherited. `Run` makes it run a chunk; a body that calls
``env.map`` waits in the same loop, where it may be given chunks of that very map, to any depth. It dies with
its supervisor: the kernel's parent-death signal, and the end of file on the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import io
import math
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from park import payload
from park.errors import REFUSALS, Abort, InvalidRequest, ParkError, UnitError
from park.kernel import env
from park.util.channel import Channel
from park.wire import codec, messages
from park.wire.messages import Message
from park.wire.pack import Buffer, Pack, pack_entries

#: Seconds between two looks for a Stop while a chunk runs.
LOOK = 0.05
#: Seconds between two messages of one kind that may be coalesced.
RATE = 0.1
COALESCED = ("progress", "improvement")
#: Seconds that a cleanup may take after its job has ended; then its process ends, or its slot would be lost to all.
CLEANUP = 30.0
#: Functions that are kept unpickled.
FUNCTIONS = 128
#: Types whose values cannot change after they were returned, so that they are encoded together.
_FIXED: dict[type, bool] = dict.fromkeys((float, int, bool, str, bytes, type(None)), True)


class _Gone(BaseException):
    """The supervisor is gone, or wants us gone."""


@dataclass(slots=True)
class Frame:
    """One attempt on the stack."""

    run: messages.Run
    #: the seed of the unit that runs
    seed: int = 0
    #: maps that the unit has made
    maps: int = 0
    stopped: bool = False
    #: told to stop, but its units all run
    soft: bool = False
    aborted: bool = False
    #: asked for its slot
    lend: bool = False
    #: messages that wait for their turn: kind -> (message, done, total)
    held: dict[str, tuple[Any, float | None, float | None]] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)


class Slot:
    """The process. It is the `env.Host` of the bodies that it runs."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._codes: dict[bytes, Buffer] = {}
        self._functions: dict[bytes, Callable[[Any], Any]] = {}
        #: bodies that were prepared, by job and code
        self._bodies: dict[tuple[int, bytes], Any] = {}
        self._stack: list[Frame] = []
        #: releases that wait until nothing runs
        self._later: deque[Message] = deque()
        #: answers for drivers that wait further out on the stack, which came while a chunk ran inside
        self._inbox: list[tuple[Message, Buffer]] = []
        self._fetches = 0
        self._known: set[bytes] = set()
        #: numpy.random for code that uses numpy
        self._numpy: dict[bytes, Any] = {}
        #: user code runs, and may be interrupted
        self._open = False
        #: this is a child that a body has forked
        self._forked = False

    # -- the loop ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until the supervisor closes the socket."""
        self._send(messages.Ready(os.getpid()))
        try:
            while True:
                self._handle(*self._next())
        except (_Gone, EOFError):
            self._cleanup(list(self._bodies))

    def interrupt(self, *_: Any) -> None:
        """The signal of an abort: raise it in user code, nowhere else."""
        if self._open:
            self._open = False
            raise Abort("the job was aborted")

    def fork(self) -> None:
        """In a child that a body has forked: it has no part in the fabric."""
        self._forked = True
        self._channel.close()

    def _next(self) -> tuple[Message, Buffer]:
        if self._later:
            return self._later.popleft(), b""
        self._inbox.clear()
        return codec.decode(self._channel.recv())

    def _answer(self, mine: Callable[[Any], bool]) -> tuple[Message, Buffer]:
        """The next message for a driver that waits: what came for it while a chunk ran inside is first."""
        for i, (message, _) in enumerate(self._inbox):
            if mine(message):
                return self._inbox.pop(i)
        return codec.decode(self._channel.recv())

    def _send(self, message: Message, data: Buffer = b"") -> None:
        self._channel.send(codec.encode(message, data))

    def _handle(self, message: Message, data: Buffer) -> None:
        """What may come at any time."""
        match message:
            case messages.Blob():
                self._codes[message.hash] = data
            case messages.Run():
                self._run(message, data)
            case messages.Setup():
                self._set_up(message)
            case messages.Release():
                if self._stack:
                    self._later.append(message)
                else:
                    faulthandler.dump_traceback_later(CLEANUP, exit=True)
                    self._cleanup([key for key in self._bodies if key[0] == message.job])
                    faulthandler.cancel_dump_traceback_later()
            case messages.Stop() | messages.Abort():
                for frame in self._stack:
                    if frame.run.attempt == message.attempt:
                        frame.stopped = True
                        frame.soft = isinstance(message, messages.Stop) and message.soft
                        frame.aborted |= isinstance(message, messages.Abort)
            case messages.Lend():
                for frame in self._stack:
                    frame.lend |= frame.run.attempt == message.attempt
            case messages.Results() | messages.Resume() | messages.Fetched() | messages.Failure():
                self._inbox.append((message, data))

    def _set_up(self, setup: messages.Setup) -> None:
        if setup.path is not None:
            sys.path[:] = setup.path
        if setup.folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(setup.folder)

    def _look(self) -> None:
        """Handle what has come, without waiting."""
        try:
            for frames in self._channel.receive():
                message, data = codec.decode(frames)
                self._handle(message, data)
        except EOFError:
            raise _Gone from None

    # -- running -------------------------------------------------------------------------------

    def _run(self, run: messages.Run, data: Buffer) -> None:
        frame = Frame(run)
        self._stack.append(frame)
        env.enter(self)
        began = time.perf_counter()
        generators: env.Generators | None = None
        entries: list[Any] = []
        fixed = True
        errors: list[UnitError] = []
        ended = ""
        try:
            body = self._body(run)
            generators = self._generators(run)  # now, because the body may have loaded numpy
            function = body if not hasattr(body, "run") else body.run
            looked = began
            for index, value in self._units(run, data):
                frame.seed = env.mix(run.seed, index)
                frame.maps = 0
                generators.seed(frame.seed)
                try:
                    self._open = True
                    run_unit = value if isinstance(value, _Broken) else function
                    result = run_unit() if run.once else run_unit(value)
                    self._open = False
                    if not _fixed(type(result)):
                        fixed, result = False, _Encoded(payload.encode_input(result, "the result"))
                except Exception as error:
                    self._open = False
                    fixed, result = False, self._error(run, index, error)
                    errors.append(result)
                except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
                    self._open = False
                    fixed, result = False, self._error(run, index, error)
                    errors.append(result)
                if self._forked:  # the body's child came back instead of ending: nothing here is its own
                    os._exit(0)
                entries.append(result)
                now = time.perf_counter()
                if now - looked > LOOK and not run.once:
                    looked = now
                    self._look()
                    if frame.aborted:
                        raise Abort
                    if frame.stopped and not frame.soft:
                        ended = "stop"
                        break
            if run.once and hasattr(body, "run"):
                self._cleanup([(run.job, run.function)])
        except Abort:
            self._open = False
            ended = "abort"
            frame.held.clear()
        finally:
            self._open = False
            if generators is not None:
                generators.restore()
            self._stack.pop()
            env.enter(self if self._stack else None)
        if ended == "abort":
            entries, errors, fixed = [], [], True
            if not self._stack:
                self._cleanup(list(self._bodies))
        self._flush(frame, everything=True)
        results = payload.encode_units(entries) if fixed else pack_entries([_entry(r) for r in entries])
        first = errors[0] if errors else None
        done = messages.Finished(
            attempt=run.attempt,
            map=run.map,
            start=run.start,
            count=len(entries),
            seconds=time.perf_counter() - began,
            failed=len(errors),
            unit=(first.unit or 0) if first else 0,
            cause=first.cause[:500] if first else "",
            ended=ended,
            epoch=run.epoch,
        )
        self._send(done, results)

    def _generators(self, run: messages.Run) -> env.Generators:
        if run.function not in self._numpy:
            self._numpy[run.function] = _numpy_random(self._codes[run.function])
        numpy = self._numpy[run.function] or sys.modules.get("numpy.random")
        return env.Generators(numpy, keep=len(self._stack) > 1)

    def _units(self, run: messages.Run, data: Buffer) -> Iterator[tuple[int, Any]]:
        if run.once:
            return iter([(0, None)])
        try:
            return enumerate(payload.decode_units(data), run.start)
        except Exception:  # one at a time, so that only those fail that cannot be read here
            return enumerate(map(_decode, Pack(data).entries()), run.start)

    def _body(self, run: messages.Run) -> Any:
        """The function, or the body prepared for this job. What fails here fails every unit of the chunk."""
        try:
            function = self._functions.get(run.function)
            if function is not None and not run.once:
                return function
            key = (run.job, run.function)
            if key in self._bodies:
                return self._bodies[key]
            self._open = True
            body = payload.loads(self._codes[run.function])
            if hasattr(body, "prepare"):
                body.prepare(env.environment())
            self._open = False
            if hasattr(body, "run"):
                self._bodies[key] = body
            elif not run.once:
                if len(self._functions) >= FUNCTIONS:
                    del self._functions[next(iter(self._functions))]
                self._functions[run.function] = body
            return body
        except Exception as error:
            self._open = False
            return _Broken(error)

    def _error(self, run: messages.Run, index: int, error: BaseException) -> UnitError:
        unit = None if run.once else index
        if isinstance(error, _Failed):
            error = error.error
        if isinstance(error, UnitError):  # of a map inside: its own traceback says more
            inner = error.traceback or error.cause
            return UnitError(_one_line(error), f"{_trace(error)}\n{inner}", unit)
        return UnitError(_one_line(error), _trace(error), unit)

    def _cleanup(self, keys: list[tuple[int, bytes]]) -> None:
        for key in keys:
            body = self._bodies.pop(key, None)
            if hasattr(body, "cleanup"):
                env.enter(self if self._stack else _Ended(key[0]))
                try:
                    body.cleanup(env.environment())
                except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit):
                    print(f"cleanup of job {key[0]} failed:\n{traceback.format_exc()}", file=sys.stderr)
                finally:
                    env.enter(self if self._stack else None)

    # -- the environment's host ----------------------------------------------------------------

    @property
    def job(self) -> int:
        return self._stack[-1].run.job

    @property
    def seed(self) -> int:
        return self._stack[-1].seed

    @property
    def should_stop(self) -> bool:
        self.ready()
        return any(frame.stopped for frame in self._stack)

    def code(self, function: Any) -> bytes:
        """Ship the function, unless that was done before; its hash."""
        if not callable(function) and not hasattr(function, "run"):
            raise InvalidRequest(f"{function!r} is neither callable nor a body")
        blob = payload.dumps(function, "the function")
        code = payload.code_hash(blob)
        if code not in self._known:
            self._known.add(code)
            self._codes[code] = blob
            self._send(messages.Blob(code), blob)
        return code

    def map(self, function: bytes, units: Iterable[Any]) -> list[Any]:
        """Run a map on the fabric; meanwhile serve what comes, also chunks of this map."""
        frame = self._stack[-1]
        was_open, self._open = self._open, False
        try:
            if frame.aborted:
                raise Abort
            data, count = _pack_units(units)
            if count == 0:
                return []
            seed = env.mix(frame.seed, frame.maps)
            frame.maps += 1
            key = os.urandom(16)
            self._flush(frame)
            self._send(
                messages.Map(
                    key,
                    frame.run.job,
                    function,
                    count,
                    seed=seed,
                    attempt=frame.run.attempt,
                    epoch=frame.run.epoch,
                ),
                data,
            )
            return self._collect(frame, key, count)
        finally:
            self._open = was_open

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
                    results[message.start : message.start + message.count] = payload.decode_units(data)
                    missing -= message.count
                    resumed |= message.resume
                case messages.Resume() if message.attempt == frame.run.attempt:
                    resumed = True
                case _:
                    self._handle(message, data)
                    env.enter(self)
            if frame.aborted:
                raise Abort
        for i, result in enumerate(results):
            if isinstance(result, UnitError) and result.unit is None:
                result.unit = i
        return results

    def fetch(self, job: int) -> Any:
        """The result of another job; raises what its ``wait`` would."""
        frame = self._stack[-1]
        was_open, self._open = self._open, False
        try:
            self._fetches += 1
            self._send(messages.Fetch(self._fetches, job, attempt=frame.run.attempt))
            pieces: list[tuple[int, Buffer]] = []
            while True:
                message, data = self._answer(lambda m: getattr(m, "reply", 0) == self._fetches)
                match message:
                    case messages.Results() if message.reply == self._fetches:
                        pieces.append((message.start, data))
                    case messages.Fetched() if message.reply == self._fetches:
                        return payload.job_result(message.record, message.once, pieces)
                    case messages.Failure() if message.reply == self._fetches:
                        raise REFUSALS.get(message.error, ParkError)(message.text)
                    case _:
                        self._handle(message, data)
                if frame.aborted:
                    raise Abort
        finally:
            self._open = was_open

    def publish(self, kind: str, message: Any, done: float | None, total: float | None) -> None:
        frame = self._stack[-1]
        if kind in COALESCED:
            frame.held[kind] = (message, done, total)
            self._flush(frame)
        else:
            self._flush(frame, everything=True)  # in order
            self._publish(frame, kind, message, done, total)

    def ready(self) -> None:
        was_open, self._open = self._open, False
        try:
            for frame in self._stack:
                self._flush(frame)
            self._look()
            if any(frame.aborted for frame in self._stack):
                raise Abort
            if self._stack and self._stack[-1].lend:
                self._lend(self._stack[-1])
        finally:
            self._open = was_open

    def _lend(self, frame: Frame) -> None:
        """Another job is due, or this one is paused: wait here without a slot."""
        frame.lend = False
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

    def _flush(self, frame: Frame, everything: bool = False) -> None:
        """Send the messages that were held back long enough."""
        now = time.monotonic()
        for kind in list(frame.held):
            if everything or now - frame.sent.get(kind, -RATE) >= RATE:
                frame.sent[kind] = now
                self._publish(frame, kind, *frame.held.pop(kind))

    def _publish(
        self, frame: Frame, kind: str, message: Any, done: float | None, total: float | None
    ) -> None:
        data = payload.dumps(message, "the message")
        if done is None or total is None or not (math.isfinite(done) and math.isfinite(total)):
            done = total = None
        self._send(messages.Publish(frame.run.job, frame.run.attempt, kind, done, total), data)


@dataclass(slots=True)
class _Encoded:
    """A result that was encoded at once, because it may change."""

    entry: bytes


class _Failed(Exception):
    """Carries what went wrong before the units."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Broken:
    """Stands for a body that could not be made or prepared: every unit fails with the reason."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_: Any) -> Any:
        raise _Failed(self._error)


class _Ended:
    """The host of a cleanup after the job: it knows the job, and nothing can be sent."""

    should_stop = True
    seed = 0

    def __init__(self, job: int) -> None:
        self.job = job

    def _no(self, *_: Any) -> Any:
        raise ParkError(f"job {self.job} has ended: its cleanup cannot use the fabric")

    map = code = publish = fetch = _no

    def ready(self) -> None:
        """Nothing waits."""


def _fixed(kind: type) -> bool:
    found = _FIXED.get(kind)
    if found is None:
        numpy = sys.modules.get("numpy")
        found = _FIXED[kind] = numpy is not None and issubclass(kind, numpy.number)
    return found


def _decode(entry: Buffer) -> Any:
    try:
        return payload.decode_entry(entry)
    except Exception as error:
        return _Broken(error)


def _entry(result: Any) -> bytes:
    if isinstance(result, _Encoded):
        return result.entry
    if isinstance(result, UnitError):
        return payload.encode_error(result)
    return payload.encode_input(result)


def _pack_units(units: Any) -> tuple[bytes, int]:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(units, numpy.ndarray) and units.ndim:
        data = payload.encode_array(units)
    else:
        data = payload.encode_units(list(units))
    return data, Pack(data).count


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnitError):
        return error.cause
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, ModuleNotFoundError):
        text += f" on {platform.node()}: install it there, or define what it holds in the script itself"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trace(error: BaseException) -> str:
    """The traceback without PARK's own frames in front."""
    own = os.path.dirname(os.path.abspath(__file__))
    first = error.__traceback__
    trace = first
    while trace is not None and os.path.dirname(trace.tb_frame.f_code.co_filename) == own:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace or first))


def _numpy_random(code: Buffer) -> Any:
    """numpy's global generators, if numpy is loaded, or will be by a function that names it."""
    if "numpy" in sys.modules or b"numpy" in bytes(code):
        with contextlib.suppress(ImportError):
            return importlib.import_module("numpy.random")
    return None


def _die_with(parent: int) -> None:
    """Ask the system for a signal when the supervisor dies; go at once if it already has."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def main(arguments: list[str]) -> None:
    """The process."""
    descriptor, parent = map(int, arguments)
    _die_with(parent)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slot = Slot(Channel(socket.socket(fileno=descriptor)))
    signal.signal(getattr(signal, "SIGUSR1", signal.SIGINT), slot.interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=slot.fork)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a body prints shows now, and is not lost with it
    slot.serve()
    sys.stdout.flush()


if __name__ == "__main__":
    sys.modules["park.kernel.slot"] = sys.modules["__main__"]
    main(sys.argv[1:])

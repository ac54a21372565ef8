"""A slot process from inside: ``python -m park.kernel.slot DESCRIPTOR PARENT`` runs user code.

It reads messages from the socket that it inherited. `Run` makes it run a chunk; a body that calls
``env.map`` waits in the same loop (`park.kernel.fabric`), where it may be given chunks of that very map, to any
depth. It dies with its supervisor: the kernel's parent-death signal, and the end of file on the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from park import payload, stale
from park.errors import Abort, ParkError, Stop, UnitError
from park.kernel import env, offspring
from park.kernel.answers import (
    MAX_CAUSE,
    Broken,
    Encoded,
    decode,
    entry_of,
    is_fixed,
    too_long_errors,
    unit_error,
)
from park.kernel.child import close_inherited
from park.kernel.fabric import Frame, Gone
from park.kernel.generators import Generators, watch
from park.kernel.printed import Logged, Tee
from park.kernel.serving import Serving
from park.kernel.settings import Settings
from park.model import NOT_RUN, Log
from park.util.channel import Channel
from park.wire import messages
from park.wire.messages import Message
from park.wire.pack import Buffer, Pack, pack_entries

#: Seconds between two looks for a Stop while a chunk runs.
LOOK = 0.05
#: Seconds that a cleanup may take; then its process ends.
CLEANUP = 30.0
#: Thousandths of all memory by which the system takes a slot process for larger when it has to kill.
FIRST = 300
#: Functions that are kept unpickled.
FUNCTIONS = 128


class Slot(Serving):
    """The process: it runs what comes, and is the fabric of the bodies that it runs."""

    _settings: Settings

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._functions: dict[bytes, Callable[[Any], Any]] = {}
        #: bodies that were prepared, by job and code
        self._bodies: dict[tuple[int, bytes], Any] = {}
        #: the children of this process when a job came to it, by job
        self._children: dict[int, set[int]] = {}
        #: this is a child that a body has forked
        self._forked = False
        #: the job in whose context variables this process is
        self._within = 0
        #: what jobs find in sys.argv that have none of their own
        self._argv = list(env.ARGV)

    # -- the loop ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until the supervisor closes the socket."""
        self._send(messages.Ready(os.getpid()))
        try:
            while True:
                self._handle(*self._next())
        except (Gone, EOFError):
            self._cleanup(list(self._bodies))

    def settle(self) -> None:
        """The process is as each job is to find it."""
        self._settings = Settings()
        #: the job of the last chunk
        self._last_job = 0

    def interrupt(self, *_: Any) -> None:
        """The signal of an abort: raise it in user code, nowhere else."""
        if self._open:
            self._open = False
            self._stack[-1].interrupted = True
            raise Abort("the job was aborted")

    def _pass_on(self, error: BaseException) -> None:
        """Raise what user code did not raise of its own accord, whatever it has made of it; all else is its result."""
        self._end_fork(error)
        if isinstance(error, Gone):
            raise error
        frame = self._stack[-1]
        if isinstance(error, Stop) and frame.stopped:
            raise error
        if frame.interrupted or (isinstance(error, Abort) and any(f.aborted for f in self._stack)):
            raise Abort from None

    def _catch_logging(self) -> None:
        logging: Any = sys.modules.get("logging")
        if logging is not None and sys.__stderr__ is not None and not isinstance(logging.lastResort, Logged):
            logging.lastResort = Logged(sys.__stderr__, self.printed)

    def fork(self) -> None:
        """In a child that a body has forked: it has no part in the fabric."""
        self._forked = True
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        self._channel.close()

    def _end_fork(self, error: BaseException | None = None) -> None:
        """A body's child that came back to us ends here, as a child of a script does: nothing here is its own."""
        if not self._forked:
            return
        code: Any = int(error is not None)
        if isinstance(error, SystemExit):
            code = 0 if error.code is None else error.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        elif error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os._exit(code & 0xFF)

    def _handle(self, message: Message, data: Buffer) -> None:
        match message:
            case messages.Blob():
                self._codes[message.hash] = data
            case messages.Drop():
                for code in message.hashes:
                    self._drop(code)
            case messages.Run() if self._stack:  # a chunk of the same job
                self._run(message, data)
            case messages.Run():
                self._begin(message, data)
            case messages.Setup():
                self._set_up(message)
            case messages.Control():
                self._keep_control(message, data)
            case messages.Release():
                if self._stack:
                    self._later.append(message)
                else:
                    self._forget_controls(message.job)
                    keys = [key for key in self._bodies if key[0] == message.job]
                    cleans = any(hasattr(self._bodies[key], "cleanup") for key in keys)
                    self._cleanup(keys)
                    self._settings.forget(message.job)
                    before = self._children.pop(message.job, None)
                    spent = before is not None and bool(offspring.left(before))
                    if cleans or spent:
                        self._send(messages.Cleans(message.job, done=cleans, spent=spent))
            case messages.Stop() | messages.Abort():
                for frame in self._stack:
                    if frame.run.attempt == message.attempt:
                        frame.stopped = True
                        frame.soft = isinstance(message, messages.Stop) and message.soft
                        frame.aborted |= isinstance(message, messages.Abort)
            case messages.HandBack():
                for frame in self._stack:
                    if frame.run.attempt == message.attempt:
                        frame.back = True
            case messages.Lend():
                for frame in self._stack:
                    frame.lend |= frame.run.attempt == message.attempt
            case messages.Checkpointed():
                for frame in self._stack:
                    if frame.run.attempt == message.attempt:
                        frame.durable = max(frame.durable, message.number)
                        self._controls.drop(frame.run.job, message.served)
            case (
                messages.Results()
                | messages.Resume()
                | messages.Fetched()
                | messages.Checkpoint()
                | messages.Filed()
                | messages.Failure()
            ):
                self._inbox.append((message, data))

    def _set_up(self, setup: messages.Setup) -> None:
        if setup.path is not None:
            sys.path[:] = setup.path
            self._settings.note("path")
        if setup.folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(setup.folder)
            self._settings.note("folder")
        if setup.argv is not None:
            self._argv = setup.argv

    def _begin(self, run: messages.Run, data: Buffer) -> None:
        """Run a chunk, of another job perhaps."""
        if run.job != self._last_job:
            self._last_job = run.job
            stale.forget_edited()
        if self._settings.enter(
            run.job
        ):  # not all can be as this job left it, or as on a fresh process: it needs one
            self._send(messages.Cleans(run.job, spent=True))
            nothing = pack_entries([])
            lost = messages.Finished(run.attempt, run.map, run.start, 0, 0.0, ended="lost", epoch=run.epoch)
            self._send(lost, nothing)
            return
        self._within = run.job
        try:
            self._settings.context(run.job).run(self._run, run, data)
        finally:
            self._within = 0
            stale.note()  # as long as their files are what was loaded

    # -- running -------------------------------------------------------------------------------

    def _run(self, run: messages.Run, data: Buffer) -> None:
        if run.job not in self._children:
            self._children[run.job] = offspring.children()
        frame = Frame(run, run.start)
        if self._stack:  # what was printed before is of what waits
            self._flush(self._stack[-1], everything=True)
        self._stack.append(frame)
        env.enter(self)
        argv, sys.argv = sys.argv, list(run.argv or self._argv)
        began = time.perf_counter()
        generators = Generators(keep=len(self._stack) > 1)
        entries: list[Any] = []
        fixed = True
        errors: list[UnitError] = []
        ended = ""
        try:
            body = frame.body = self._body(run, generators)
            self._catch_logging()
            if run.stored:
                self._served.setdefault(run.job, run.served)
                self._look_at_controls = True  # the body may not have had all that came before
            function = body if not hasattr(body, "run") else body.run
            looked = began
            if run.limit:
                self._send(messages.Began(run.attempt))
            for index, value in self._units(run, data):
                unit = None if run.once else index
                frame.unit, frame.seed = index, env.mix(run.seed, index)
                # a body that runs once says itself where it is ready
                if self._look_at_controls and run.stored and not run.once:
                    self._serve()
                frame.maps = 0
                try:
                    generators.seed(frame.seed)
                    self._open = True
                    run_unit = value if isinstance(value, Broken) else function
                    result = run_unit() if run.once else run_unit(value)
                    self._open = False
                    if not is_fixed(type(result)):
                        fixed, result = False, Encoded(payload.encode_result(result))
                except BaseException as error:
                    self._open = False
                    self._pass_on(error)
                    fixed, result = False, unit_error(error, unit)
                    errors.append(result)
                self._end_fork()
                entries.append(result)
                now = time.perf_counter()
                if now - looked > LOOK and not run.once:
                    looked = now
                    self._look()
                    if run.limit:
                        self._send(messages.Began(run.attempt))
                    if frame.aborted:
                        raise Abort
                    if frame.stopped and not frame.soft:
                        ended = "stop"
                        break
                    if frame.back and len(entries) < run.count:
                        ended = "lost"
                        break
            if run.once and hasattr(body, "run"):
                self._cleanup([(run.job, run.function)])
        except Stop:
            ended = "stop"
            if run.once:  # it has begun, and leaves nothing
                fixed, entries = False, [Encoded(payload.encode_result(NOT_RUN))]
        except Abort:
            self._open = False
            ended = "abort"
            frame.held.clear()
        finally:
            self._open = False
            generators.restore()
            self._stack.pop()
            env.enter(self if self._stack else None)
            sys.argv = argv
        if ended == "abort":
            entries, errors, fixed = [], [], True
            if not self._stack:
                self._cleanup(list(self._bodies))
        self._flush(frame, everything=True)
        results = payload.encode_units(entries) if fixed else pack_entries([entry_of(r) for r in entries])
        if too_long := too_long_errors(len(results), run.start, len(entries)):
            errors, results = too_long, pack_entries([entry_of(e) for e in too_long])
        first = errors[0] if errors else None
        done = messages.Finished(
            attempt=run.attempt,
            map=run.map,
            start=run.start,
            count=len(entries),
            seconds=time.perf_counter() - began,
            failed=len(errors),
            unit=(first.unit or 0) if first else 0,
            cause=first.cause[:MAX_CAUSE] if first else "",
            ended=ended,
            epoch=run.epoch,
            remark=frame.remark,
        )
        self._send(done, results)

    def _drop(self, code: bytes) -> None:
        super()._drop(code)
        if code not in self._codes:
            self._functions.pop(code, None)

    def _units(self, run: messages.Run, data: Buffer) -> Iterator[tuple[int, Any]]:
        if run.once:
            return iter([(0, None)])
        try:
            return enumerate(payload.decode_units(data), run.start)
        except Exception:  # one at a time, so that only those fail that cannot be read here
            return enumerate(map(decode, Pack(data).entries()), run.start)

    def _body(self, run: messages.Run, generators: Generators) -> Any:
        """The function, or the body prepared for this job. What fails here fails every unit of the chunk."""
        try:
            function = self._functions.get(run.function)
            if function is not None and not run.once:
                return function
            key = (run.job, run.function)
            if key in self._bodies:
                return self._bodies[key]
            if run.stored:
                self._served[run.job] = run.served
            seed = self._stack[-1].seed = env.preparing(run.seed if run.stored else None, run.function)
            generators.seed(seed)
            self._open = True
            stale.held = len(self._stack) > 1
            body = payload.loads(self._codes[run.function])
            self._tell_differences()
            if hasattr(body, "prepare"):
                body.prepare(env.environment())
            self._open = False
            self._end_fork()
            if hasattr(body, "run"):
                self._bodies[key] = body
                if hasattr(body, "cleanup"):
                    self._send(messages.Cleans(run.job))
            elif not run.once:
                if len(self._functions) >= FUNCTIONS:
                    del self._functions[next(iter(self._functions))]
                self._functions[run.function] = body
            return body
        except BaseException as error:
            self._open = False
            self._pass_on(error)
            return Broken(error)

    def _tell_differences(self) -> None:
        """Say so where modules here are not those of the client."""
        if found := stale.differences():
            are = "is another version" if len(found) == 1 else "are other versions"
            text = f"{', '.join(sorted(found))} {are} on {platform.node()} than in the client"
            env.environment().publish(Log(f"{text}: it computes with what it finds here", "warning"))
            env.environment().remark(text)

    def _cleanup(self, keys: list[tuple[int, bytes]]) -> None:
        for key in keys:
            body = self._bodies.pop(key, None)
            if hasattr(body, "cleanup"):
                env.enter(self if self._stack else _Ended(key[0]))
                faulthandler.dump_traceback_later(CLEANUP, exit=True)
                try:
                    if key[0] == self._within:
                        body.cleanup(env.environment())
                    else:
                        self._settings.enter(key[0])
                        self._settings.context(key[0]).run(body.cleanup, env.environment())
                except BaseException:
                    self.tees[1].write(f"cleanup of job {key[0]} failed:\n{traceback.format_exc()}")
                finally:
                    faulthandler.cancel_dump_traceback_later()
                    env.enter(self if self._stack else None)


class _Ended:
    """The host of a cleanup after the job: it knows the job, and nothing can be sent."""

    should_stop = True
    seed = 0

    def __init__(self, job: int) -> None:
        self.job = job

    def _no(self, *_: Any) -> Any:
        raise ParkError(f"job {self.job} has ended: its cleanup cannot use the fabric")

    map = code = publish = fetch = checkpoint = restore = file = remark = _no

    def ready(self) -> None:
        """Nothing waits."""


def _die_with(parent: int) -> None:
    """Ask the system for a signal when the supervisor dies; go at once if it already has."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    with contextlib.suppress(
        OSError
    ):  # where memory is short, the system is to kill a unit and not its kernel
        at = Path("/proc/self/oom_score_adj")
        at.write_text(str(min(1000, int(at.read_text()) + FIRST)))


def main(arguments: list[str]) -> None:
    """The process."""
    descriptor, parent = map(int, arguments)
    _die_with(parent)
    close_inherited(descriptor)
    offspring.adopt()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.argv = list(env.ARGV)
    slot = Slot(Channel(socket.socket(fileno=descriptor)))
    signal.signal(getattr(signal, "SIGUSR1", signal.SIGINT), slot.interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=slot.fork)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whole lines, as soon as they are, of whatever letters
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
    watch()
    sys.stdout, sys.stderr = slot.tees = [
        Tee(stream, slot.printed, level, slot.said)
        for stream, level in ((sys.stdout, "out"), (sys.stderr, "err"))
    ]
    slot.settle()
    slot.serve()
    for tee in slot.tees:
        tee.settle()
    offspring.end()


if __name__ == "__main__":
    sys.modules["park.kernel.slot"] = sys.modules["__main__"]
    main(sys.argv[1:])

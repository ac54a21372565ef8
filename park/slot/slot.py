"""A slot process from inside: ``python -m park.slot.slot CHANNEL PERMITS PARENT`` runs user code.

The process reads messages from the socket that it has inherited. `Run` makes it run a chunk (`park.slot.chunk_run`). A
body that calls ``env.map`` waits in the same loop (`park.slot.host`), where it may be given chunks of that very map, to
any depth. The process dies with its kernel: by the parent-death signal, and at the end of file on the socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from park.body import edited_modules, environment
from park.body.generators import watch
from park.net.channel import Channel
from park.slot import descendants
from park.slot.bodies import BodyCache
from park.slot.body_publisher import BodyPublisher
from park.slot.chunk_run import run_chunk
from park.slot.code_exchange import ProcessCode
from park.slot.control_delivery import ControlDelivery
from park.slot.early_results import EarlyResults
from park.slot.frame import Frame, SlotGone
from park.slot.host import BodyHost
from park.slot.kernel_channel import KernelChannel
from park.slot.line_stream import LineStream
from park.slot.process_settings import ProcessSettings, report_crashes
from park.slot.user_code import UserCode
from park.util.spawn import close_inherited
from park.wire import messages
from park.wire.messages import Message
from park.wire.pack import Buffer, pack_entries

#: The score that Linux adds to a slot process when memory runs out, so that it is killed before its kernel (1000: all
#: memory).
OOM_SCORE = 300


class Slot:
    """The process: its parts, and which of them handles each message."""

    #: the settings that each job finds as on a fresh process; they are noted when the process is set up
    settings: ProcessSettings

    def __init__(self, channel: Channel, permits: int) -> None:
        #: the attempts that run, the outermost first
        self.stack: list[Frame] = []
        self.channel = KernelChannel(channel)
        #: the descriptor from which it takes a permit before each further unit of a chunk
        self.permits = permits
        self.user_code = UserCode(self.stack)
        self.codes = ProcessCode(self.channel, self.stack)
        self.publisher = BodyPublisher(self.channel)
        self.controls = ControlDelivery(self.stack, self.user_code, self.publisher)
        self.early = EarlyResults()
        self.bodies = BodyCache(self)
        self.host = BodyHost(self)
        #: the children and threads of this process when a job came to it, by job
        self.started_before: dict[int, descendants.ChildrenAndThreads] = {}
        #: a job that has ended has left something here that others must not meet
        self._spent = False
        #: signals that threads had blocked before they began to fork, by thread
        self._masks: dict[int, set[int | signal.Signals]] = {}
        #: sys.argv for jobs that have none of their own
        self.argv = list(environment.DEFAULT_ARGV)
        #: the job in whose context variables this process is; 0: none
        self._job_context = 0
        #: the job of the last chunk
        self._last_job = 0

    # -- the loop ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until the kernel closes the socket."""
        self.channel.send(messages.Ready(os.getpid()))
        try:
            while True:
                self.handle(*self.channel.next())
        except (SlotGone, EOFError):
            self.bodies.clean_up_all()

    def look(self) -> None:
        """Handle the messages that have come, without waiting. Raises SlotGone."""
        try:
            for message, data in self.channel.arrived():
                self.handle(message, data)
        except EOFError:
            self.user_code.gone = True
            raise SlotGone from None

    def handle(self, message: Message, data: Buffer) -> None:
        """Handle a message of the kernel, whatever runs here."""
        match message:
            case messages.Run():
                self._run(message, data)
            case messages.Blob():
                self.codes.blobs[message.hash] = data
            case messages.Drop():
                for code in message.hashes:
                    if self.codes.drop(code):
                        self.bodies.drop_function(code)
            case messages.Setup():
                self._set_up(message)
            case messages.Control():
                self.controls.keep(message, data)
            case messages.Release() if self.stack:
                self.channel.defer(message)
            case messages.Release():
                self._release(message.job)
            case (
                messages.Stop()
                | messages.Abort()
                | messages.Save()
                | messages.Lend()
                | messages.Checkpointed()
            ):
                for frame in self.stack:
                    if frame.run.attempt == message.attempt:
                        self._tell_frame(frame, message)
            case (
                messages.Results()
                | messages.Resume()
                | messages.Fetched()
                | messages.Checkpoint()
                | messages.Filed()
                | messages.Failure()
                | messages.MapFailed()
            ):
                self.channel.keep_answer(message, data)

    def _tell_frame(self, frame: Frame, message: Message) -> None:
        """Note a message to one attempt, which acts on it at its next safe point."""
        match message:
            case messages.Stop():
                frame.stopped, frame.soft = True, message.soft
            case messages.Abort():
                frame.stopped, frame.soft, frame.aborted = True, False, True
            case messages.Save():
                frame.save_requested = True
            case messages.Lend():
                frame.lend = True
            case messages.Checkpointed():
                frame.durable = max(frame.durable, message.number)
                self.controls.drop(frame.run.job, message.served)

    # -- jobs ----------------------------------------------------------------------------------

    def _run(self, run: messages.Run, data: Buffer) -> None:
        """Run a chunk: of the job that runs already, or of any job while nothing runs."""
        if self.stack:
            self._run_inside(run, data)
            return
        if run.job != self._last_job:
            self._last_job = run.job
            edited_modules.forget_edited()
        if self._spent or self.settings.enter(run.job):  # this job needs a fresh process
            self.channel.send(messages.Cleans(run.job, spent=True))
            lost = messages.Finished(run.attempt, run.map, run.start, 0, 0.0, ended="lost", epoch=run.epoch)
            self.channel.send(lost, pack_entries([]))
            return
        self._job_context = run.job
        try:
            self.settings.context(run.job).run(run_chunk, self, run, data)
        finally:
            self._job_context = 0
            edited_modules.note()  # while the files are still those that were loaded

    def _run_inside(self, run: messages.Run, data: Buffer) -> None:
        """Run a chunk while a body waits.

        The body may catch every exception. If it caught one of the slot itself and went on, the chunk would never be
        answered. So the process ends then, and the kernel reports why.
        """
        try:
            run_chunk(self, run, data)
        except SlotGone:
            raise
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)

    def call_in_job(self, job: int, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function with the settings and the context variables of a job."""
        if job == self._job_context:
            return function(*given)
        self.settings.enter(job)
        return self.settings.context(job).run(function, *given)

    def _release(self, job: int) -> None:
        """The job has ended: clean up, and tell the kernel if the job has left processes or threads behind."""
        self.controls.forget(job)
        cleans = self.bodies.release(job)
        self.settings.forget(job)
        before = self.started_before.pop(job, None)
        self._spent = self._spent or (before is not None and descendants.left(before))
        if cleans or self._spent:
            self.channel.send(messages.Cleans(job, done=cleans, spent=self._spent))

    def _set_up(self, setup: messages.Setup) -> None:
        """Take the sys.path, the folder and the arguments of the script whose service this is."""
        if setup.path is not None:
            sys.path[:] = setup.path
            self.settings.note("path")
        if setup.folder is not None:
            with contextlib.suppress(OSError):
                os.chdir(setup.folder)
            self.settings.note("folder")
        if setup.argv is not None:
            self.argv = setup.argv

    def before_fork(self) -> None:
        """Hold SIGTERM back until the child is ready for it: the handler that the child has at first would lose it."""
        self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def after_fork(self) -> None:
        """The body has forked, or could not."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(threading.get_ident()))

    def leave_fork(self) -> None:
        """Cut a child that a body has forked off from the fabric."""
        self.user_code.forked = True
        if signal.getsignal(signal.SIGTERM) is _disregard:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.after_fork()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        self.channel.close()


# -- the process -----------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """Ask the system for a signal when the kernel dies; go at once if the kernel has died already."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _offer_to_oom_killer() -> None:
    """Let the system kill a slot process rather than its kernel when memory is short."""
    with contextlib.suppress(OSError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text()) + OOM_SCORE)))


def _disregard(*_: object) -> None:
    """A handler of SIGTERM: the kernel decides when this process ends.

    Batch systems send the signal to every process of a job. Programs that a body starts have the default action again,
    which they would not have if the signal were ignored.
    """


def _disregard_termination() -> None:
    """Ignore SIGTERM with an empty handler; the signal was blocked when this process was started."""
    signal.signal(signal.SIGTERM, _disregard)
    if hasattr(signal, "pthread_sigmask"):
        signal.siginterrupt(signal.SIGTERM, False)  # system calls of libraries go on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _mark_lines(slot: Slot) -> None:
    """Lines go to the kernel whole, as soon as they end, in any encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
    watch()
    sys.stdout, sys.stderr = slot.publisher.streams = [
        LineStream(stream, slot.publisher.numbers) for stream in (sys.stdout, sys.stderr)
    ]


def main(arguments: list[str]) -> None:
    """The process."""
    descriptor, permits, parent = map(int, arguments)
    _die_with(parent)
    _offer_to_oom_killer()
    close_inherited((descriptor, permits))
    descendants.adopt()
    report_crashes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _disregard_termination()
    sys.argv = list(environment.DEFAULT_ARGV)
    for number in (descriptor, permits):  # a program in place of this process ends the connection
        os.set_inheritable(number, False)
    slot = Slot(Channel(socket.socket(fileno=descriptor)), permits)
    signal.signal(getattr(signal, "SIGUSR1", signal.SIGINT), slot.user_code.interrupt)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=slot.before_fork, after_in_parent=slot.after_fork, after_in_child=slot.leave_fork
        )
    _mark_lines(slot)
    slot.settings = ProcessSettings()
    slot.serve()
    for stream in slot.publisher.streams:
        stream.settle()
    descendants.end()


if __name__ == "__main__":
    sys.modules["park.slot.slot"] = sys.modules["__main__"]
    main(sys.argv[1:])

"""The functions and bodies of a slot process: loaded and prepared once, and cleaned up when their job has ended."""

from __future__ import annotations

import faulthandler
import platform
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from park.body import edited_modules, environment, payload, seeds
from park.body.generators import Generators
from park.body.own_generators import OwnGenerators
from park.errors import ParkError
from park.model import Log
from park.slot.unit_results import FailingBody
from park.util.sealed import private_copy
from park.wire import messages

if TYPE_CHECKING:
    from park.slot.slot import Slot

#: Seconds that a cleanup may take; then its process ends.
CLEANUP_LIMIT_SECONDS = 30.0
#: Functions that are kept unpickled.
MAX_FUNCTIONS = 128


class BodyCache:
    """The functions and prepared bodies of the process."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._functions: dict[bytes, Callable[[Any], Any]] = {}
        #: the generators of functions and bodies that are kept, by code
        self._generators: dict[bytes, OwnGenerators] = {}
        #: prepared bodies, by job and code
        self._bodies: dict[tuple[int, bytes], Any] = {}

    def get(self, run: messages.Run, generators: Generators) -> Any:
        """The function, or the body prepared for this job. If it cannot be made, a body that fails in every unit."""
        slot = self._slot
        try:
            function = self._functions.get(run.function)
            if function is not None and not run.once:
                return function
            key = (run.job, run.function)
            if key in self._bodies:
                return self._bodies[key]
            if run.stored:
                slot.controls.restart(run.job, run.served)
            seed = seeds.preparation_seed(run.seed if run.stored else None, run.function)
            slot.stack[-1].seed = seed
            generators.seed(seed)
            with slot.user_code.running:
                body = self._prepare(run)
            slot.user_code.end_forked_child()
            self._keep(run, body)
            return body
        except BaseException as error:
            slot.user_code.raise_own(error)
            return FailingBody(error)

    def generators_of(self, run: messages.Run, body: Any) -> OwnGenerators:
        """The generators that units of the *body* draw from and that are seeded before each unit."""
        found = self._generators.get(run.function)
        if found is None or not found.are_of(body):
            found = OwnGenerators(body)
            if len(self._generators) >= MAX_FUNCTIONS:
                del self._generators[next(iter(self._generators))]
            self._generators[run.function] = found
        return found

    def _prepare(self, run: messages.Run) -> Any:
        edited_modules.held = len(self._slot.stack) > 1
        body = payload.loads(self._slot.codes.blobs[run.function], private_copy)
        _report_other_versions()
        if hasattr(body, "prepare"):
            body.prepare(environment.environment())
        return body

    def _keep(self, run: messages.Run, body: Any) -> None:
        if hasattr(body, "run"):
            self._bodies[run.job, run.function] = body
            if hasattr(body, "cleanup"):
                self._slot.channel.send(messages.Cleans(run.job))
        elif not run.once:
            if len(self._functions) >= MAX_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            self._functions[run.function] = body

    def drop_function(self, code: bytes) -> None:
        """The function is not needed here any more."""
        self._functions.pop(code, None)
        self._generators.pop(code, None)

    def release(self, job: int) -> bool:
        """Clean up the bodies of a job that has ended. Returns whether there was anything to clean up."""
        keys = [key for key in self._bodies if key[0] == job]
        cleans = any(hasattr(self._bodies[key], "cleanup") for key in keys)
        for key in keys:
            self._clean_up(key)
        return cleans

    def clean_up(self, run: messages.Run) -> None:
        """Clean up the body of this attempt."""
        self._clean_up((run.job, run.function))

    def clean_up_all(self) -> None:
        """Clean up all bodies."""
        for key in list(self._bodies):
            self._clean_up(key)

    def _clean_up(self, key: tuple[int, bytes]) -> None:
        slot, job = self._slot, key[0]
        body = self._bodies.pop(key, None)
        self._generators.pop(key[1], None)
        if not hasattr(body, "cleanup"):
            return
        environment.enter(slot.host if slot.stack else _EndedJob(job))
        faulthandler.dump_traceback_later(CLEANUP_LIMIT_SECONDS, exit=True)
        try:
            slot.call_in_job(job, body.cleanup, environment.environment())
        except BaseException:
            slot.publisher.streams[1].write(f"cleanup of job {job} failed:\n{traceback.format_exc()}")
        finally:
            faulthandler.cancel_dump_traceback_later()
            environment.enter(slot.host if slot.stack else None)


def _report_other_versions() -> None:
    """Publish a warning if modules here differ from those of the client."""
    if found := edited_modules.differences():
        are = "is another version" if len(found) == 1 else "are other versions"
        text = f"{', '.join(sorted(found))} {are} on {platform.node()} than in the client"
        environment.environment().publish(Log(f"{text}: it computes with what it finds here", "warning"))
        environment.environment().remark(text)


class _EndedJob:
    """The host of a cleanup after the job: it knows the job, and nothing can be sent."""

    should_stop = True
    should_checkpoint = False
    seed = 0

    def __init__(self, job: int) -> None:
        self.job = job

    def _refuse(self, *_: Any) -> Any:
        raise ParkError(f"job {self.job} has ended: its cleanup cannot use the fabric")

    map = code = publish = fetch = checkpoint = restore = file = remark = _refuse

    def ready(self) -> None:
        """Nothing waits."""

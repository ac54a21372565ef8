"""The keeper of one private job's allocation: a process beside the batch system, from the submission to the job's end.

It tells the broker how the allocation stands, cancels it when the job has ended, and asks for it when the job's turn has
come. `next_step` decides; `keep` does. Keepers that a restart of their machine has ended are started again by the next
command of `park` there. Without a keeper an allocation ends all the same: its kernels leave at once where the job has
ended, or when they have missed the broker for ten minutes.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from park.batch.left_over import LOCK
from park.batch.private import BROKER_AWAY_SECONDS, KeeperOrder, refused
from park.batch.profiles import ENDED, QUEUED, RUNNING, Profile, profile
from park.batch.systems import Allocation, cancel, find, look, submit
from park.core.connect import connect
from park.core.server import ServerProxy
from park.errors import BatchError, NoBroker, Refused, UnknownJob
from park.model import JobState
from park.util.file_lock import locked

#: Seconds between two looks at the batch system: the first ones, doubled each time, and the most.
FIRST_LOOK_SECONDS, MAX_LOOK_SECONDS = 1.0, 30.0
#: Seconds that kernels have to leave a running allocation when their job has ended.
KERNELS_LEAVE_SECONDS = 30.0
#: The most folders that are kept of allocations that went wrong.
MAX_ENDED_FOLDERS = 20
#: Seconds after a submission in which the batch system need not list the job yet.
UNLISTED_JOB_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class KeeperStep:
    """The next thing to do: "submit", "cancel", "wait", or "leave". *say*: how the allocation stands, for the table."""

    do: str
    say: str = ""


def next_step(
    order: KeeperOrder,
    state: JobState | None,
    seen: Allocation | None,
    known: float,
    over: float,
    last_words: str = "",
) -> KeeperStep:
    """The next step for an order. Pure.

    *state*: the job's; None: it is gone. *seen*: the allocation as the batch system has it; None: it has none. *known*:
    seconds since it was submitted, *over*: since the job has ended. *last_words*: of the allocation's output.
    """
    there = seen is not None and seen.state != ENDED
    if state is None or state.ended:
        if not order.id or not there:
            return KeeperStep("leave")
        leaving = seen is not None and seen.state == RUNNING and over < KERNELS_LEAVE_SECONDS
        return KeeperStep("wait" if leaving else "cancel")
    if not order.id:
        return KeeperStep("wait" if state is JobState.WAITING else "submit")
    if seen is not None and there:
        return KeeperStep("wait", in_words(seen))
    if seen is None and known < UNLISTED_JOB_SECONDS:
        return KeeperStep("wait")
    if order.more:
        return KeeperStep("submit", f"{order.id} has ended before the job")
    words = f", with the words: {last_words}" if last_words else ""
    return KeeperStep(
        "leave", f"{order.id} has ended before the job{words}; `park alloc give {order.job}` asks for another"
    )


def in_words(seen: Allocation) -> str:
    """The standing of an allocation, in words.

    >>> in_words(Allocation("4711.head", "park-3", "queued", "Not enough nodes", 12))
    '4711.head is queued, place 12: Not enough nodes'
    """
    place = f", place {seen.place}" if seen.place else ""
    why = f": {seen.reason}" if seen.reason and seen.state == QUEUED else ""
    how = "runs; its kernels have not come yet" if seen.state == RUNNING else f"is {seen.state}"
    return f"{seen.id} {how}{place}{why}"[:400]


class Keeper:
    """The keeper that works in *folder*, where its order is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._order = KeeperOrder.read(folder)
        self._profile: Profile = profile(self._order.system)
        self._submitted = time.monotonic()
        self._ended: float | None = None
        self._said = ""
        self._seen: Allocation | None = None

    def keep(self) -> None:
        """Stay until the allocation is over, or nothing is left to do about it."""
        pause, heard = FIRST_LOOK_SECONDS, time.monotonic()
        while True:
            try:
                with ExitStack() as stack:
                    service = connect(self._order.broker, patience=BROKER_AWAY_SECONDS)
                    stack.callback(service.close)
                    ends = service.ends([self._order.job])
                    while self._one_step(service):
                        heard = time.monotonic()
                        if self._ended is None:
                            ends.next(pause)
                        else:
                            time.sleep(FIRST_LOOK_SECONDS)
                        pause = min(2 * pause, MAX_LOOK_SECONDS)
                    return
            except (NoBroker, Refused) as error:
                print(error, flush=True)
                if time.monotonic() - heard > BROKER_AWAY_SECONDS:
                    self._cancel()
                    self._tidy(amiss=True)
                    return
                time.sleep(pause)

    def _one_step(self, service: ServerProxy) -> bool:
        """Look, decide, do; whether there is more to do."""
        now = time.monotonic()
        try:
            state: JobState | None = service.status(self._order.job).state
        except UnknownJob:
            state = None
        if (state is None or state.ended) and self._ended is None:
            self._ended = now
        try:
            if self._order.id:
                self._seen = find(look(self._profile), self._order.id)
        except BatchError as error:  # the answer is unknown, so nothing is concluded from it
            print(error, flush=True)
            return self._ended is None or now - self._ended < BROKER_AWAY_SECONDS
        step = next_step(
            self._order,
            state,
            self._seen,
            now - self._submitted,
            now - (self._ended or now),
            self._last_words(),
        )
        self._say(service, step.say)
        if step.do == "submit":
            return self._submit(service)
        if step.do == "cancel":
            self._cancel()
        if step.do == "leave":
            self._tidy(amiss=state is JobState.FAILED or not (state is None or state.ended))
            return False
        return True

    def _submit(self, service: ServerProxy) -> bool:
        """Ask for the allocation; whether the batch system has taken it."""
        order = self._order
        script = order.script(self._profile)
        try:
            number = submit(self._profile, script, self._folder, order.name)
        except BatchError as error:
            self._say(service, refused(order.job, error))
            return False
        self._order = replace(order, id=number, more=order.more - bool(order.id))
        self._order.write(self._folder)
        self._submitted = time.monotonic()
        self._say(service, f"{number} was submitted to {self._profile.name}")
        return True

    def _cancel(self) -> None:
        try:
            if self._order.id:
                cancel(self._profile, self._order.id)
        except BatchError as error:
            print(error, flush=True)

    def _say(self, service: ServerProxy, text: str) -> None:
        """Tell the broker how the allocation stands, if that is new."""
        if text and text != self._said:
            with suppress(UnknownJob):  # it has just ended
                service.set(self._order.job, allocation=text)
            self._said = text

    def _tidy(self, amiss: bool) -> None:
        """Remove the folder, unless something was *amiss*: of such folders the newest stay."""
        if not amiss:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        self._folder.rename(self._folder.with_name(f"ended-{self._folder.name}"))
        ended = sorted(self._folder.parent.glob("ended-*"), key=lambda folder: folder.stat().st_mtime)
        for old in ended[:-MAX_ENDED_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)

    def _last_words(self) -> str:
        """The last line that the allocation has written."""
        for suffix in (".err", ".out"):
            with suppress(OSError):
                text = (self._folder / f"{self._order.name}{suffix}").read_text(errors="replace")
                if lines := [line.strip() for line in text.splitlines() if line.strip()]:
                    return "".join(letter if letter.isprintable() else " " for letter in lines[-1])[:200]
        return ""


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with locked(place / LOCK) as free:
        if free:
            Keeper(place).keep()

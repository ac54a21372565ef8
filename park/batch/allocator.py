"""The decisions of one allocator: when an allocation is submitted, given back, taken for lost, and why nothing is done.

An allocator keeps a broker's kernels in step with its work: it submits allocations to a batch system while units wait, and
the kernels in them leave when they have had no work for a time. Three dangers are known from other allocators, and each has
a rule here.

*Storms.* Submissions are spaced, and the space doubles with each failure and with each allocation that came up and found no
work. The first allocation is a probe: until a kernel has come up in one, there is no second. Work counts when it was there
at two looks in a row, so that a short burst asks for nothing. Three failed starts or ten failed submissions in a row pause
the allocator, with the words of the batch system, until the admin resumes it.

*Orphans.* The intent to submit is on disk before the batch system is asked, under a name that is never used again, and that
carries the broker's id. After a crash the allocation is found again by its name. One with this broker's id that is in no
record is cancelled.

*Stalls.* No record is trusted for ever: each look compares the record with what the batch system lists and with the kernels
that are connected. An allocation that is not listed is lost after a time of grace, which is short where its kernels have
left, and it counts until then.

All here is pure: the time is an argument, in seconds of a clock that stands still while no allocator runs.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from base64 import b32encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from msgspec import Struct, field

from park.batch.profiles import ENDED, QUEUED, UNKNOWN
from park.batch.systems import Allocation, find
from park.model import WaitingWork
from park.text import visible

#: Failures in a row after which an allocator pauses.
MAX_FAILED_STARTS, MAX_FAILED_SUBMISSIONS = 3, 10
#: The space between submissions doubles this many times at most.
MAX_DOUBLINGS = 6
#: An allocation that is not listed, and whose kernels have left, counts for this many seconds at most.
UNLISTED_ALLOCATION_SECONDS = 20.0
#: Seconds after the first kernel of an allocation within which the kernels of its other nodes may come.
OTHER_NODES_SECONDS = 60.0
#: Seconds after which an allocation that does not end is cancelled again.
CANCEL_AGAIN_SECONDS = 60.0
#: Characters of an event of an allocator that are logged.
MAX_LOG_CHARS = 500


class Stage(enum.StrEnum):
    """The stage of an allocation. `MOVES` says which may follow which; in the end it is forgotten."""

    #: the batch system is asked for it, and has not answered
    ASKED = "submitted"
    QUEUED = "queued"
    #: the batch system says that it runs; no kernel has connected
    STARTED = "started"
    #: a kernel in it has connected
    UP = "up"
    #: it is to end: it is cancelled until it does
    ENDING = "ending"


MOVES = {
    Stage.ASKED: (Stage.QUEUED, Stage.STARTED, Stage.UP, Stage.ENDING),
    Stage.QUEUED: (Stage.STARTED, Stage.UP, Stage.ENDING),
    Stage.STARTED: (Stage.QUEUED, Stage.UP, Stage.ENDING),  # queued again: the batch system has requeued it
    Stage.UP: (Stage.QUEUED, Stage.ENDING),
    Stage.ENDING: (),
}


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The definition of an allocator, as its admin gave it. Times are in seconds.

    It has more than 20 fields: one for each option of ``park alloc add``.
    """

    name: str
    #: the profile of the batch system
    system: str
    nodes: int = 1
    #: slots on each node
    ppn: int = 1
    #: GPUs on each node, as far as no kernel has said it
    gpus: int = 0
    walltime: float = 3600.0
    queue: str = ""
    account: str = ""
    #: further lines in the head of the script
    lines: tuple[str, ...] = ()
    #: further options of park-kernel
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    #: the owner whose jobs come first, or are the only ones
    owner: str = ""
    only: bool = False
    #: jobs of a lower priority do not count
    priority: int = -3
    #: allocations at once, and those among them that have not come up
    most: int = 1
    most_queued: int = 2
    #: between two submissions
    spacing: float = 30.0
    #: the least time before one is given back for want of work
    min_life: float = 120.0
    #: the time without work after which a kernel leaves
    idle: float = 300.0
    #: the time within which a kernel connects once the allocation has started
    start: float = 300.0
    #: the time for which an allocation that the batch system does not list counts nevertheless
    grace: float = 120.0
    #: the admin has paused it
    paused: bool = False
    #: how often it was resumed
    resumes: int = 0
    #: it ends its allocations, and is forgotten then
    removing: bool = False

    @property
    def slots(self) -> int:
        """The slots of one allocation."""
        return self.nodes * self.ppn

    @property
    def idle_timeout(self) -> float:
        """The time without work after which a kernel leaves: it counts from the start of the kernel, too."""
        return max(self.idle, self.min_life)


class TrackedAllocation(Struct, kw_only=True):
    """An allocation that has not ended."""

    name: str
    #: the batch system's; "": not known yet
    id: str = ""
    stage: Stage = Stage.ASKED
    #: when the batch system was asked for it
    asked: float
    #: since when it runs without a kernel, and since when the batch system does not list it
    alone: float | None = None
    missing: float | None = None
    #: when it was last cancelled
    cancelled: float | None = None
    #: a kernel of it came up, and one had work
    came_up: bool = False
    #: when the first kernel came up, and how many there were at the last look
    up: float = 0.0
    kernels: int = 0
    worked: bool = False
    #: the batch system's words for it, or the reason of its end
    words: str = ""


class AllocatorState(Struct, kw_only=True):
    """The memory of an allocator."""

    allocations: list[TrackedAllocation] = field(default_factory=list)
    #: when it last submitted
    submitted: float | None = None
    #: numbers in a row: of refused submissions, of allocations in which no kernel came up, and of those that found no
    #: work
    failed_submissions: int = 0
    failed_starts: int = 0
    futile: int = 0
    #: a kernel has come up in an allocation: more than one may be asked for
    proved: bool = False
    #: the last of these failures, in words
    trouble: str = ""
    #: why it has paused itself, in words
    pause: str = ""
    #: the resumes of its admin that it has followed
    resumes: int = 0
    #: slots for which work waited at the last look; and since when there was none
    backlog: int = 0
    empty: float | None = None
    #: events since they were last taken
    news: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Remember an event."""
        self.news.append(visible(text)[:MAX_LOG_CHARS])

    def named(self, name: str) -> TrackedAllocation | None:
        """The allocation of that name."""
        return next((a for a in self.allocations if a.name == name), None)

    def move(self, a: TrackedAllocation, stage: Stage) -> None:
        """Bring an allocation to another stage."""
        if stage is not a.stage:
            assert stage in MOVES[a.stage], (a.stage, stage)
            a.stage = stage


# -- names -----------------------------------------------------------------------------------------


def broker_id(store: str) -> str:
    """The four letters that stand for a broker in the names of its allocations.

    >>> broker_id("3f0a"), broker_id("3f0b")
    ('opia', '37su')
    """
    return b32encode(hashlib.sha256(store.encode()).digest()).decode()[:4].lower()


def name_of(broker: str, number: int) -> str:
    """The name of an allocation. Torque takes 15 characters.

    >>> name_of("opia", 12)
    'park-opia-12'
    """
    return f"park-{broker}-{number}"


def number_in(broker: str, name: str) -> int | None:
    """The number in the name of an allocation of this broker; None: it is another's."""
    found = re.fullmatch(rf"park-{re.escape(broker)}-(\d+)", name)
    return int(found[1]) if found else None


def orphans(broker: str, found: Iterable[Allocation], known: Iterable[str]) -> list[Allocation]:
    """The allocations of this broker that hold something, and that no record knows by name."""
    names = set(known)
    return [
        a for a in found if a.state != ENDED and number_in(broker, a.name) is not None and a.name not in names
    ]


# -- a look ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a look: the jobs of the batch system, by name and by id, and the number of *kernels* by the names of
    their allocations.

    *busy*: the allocations of which a kernel has work, or had some since the last look.
    """

    listed: Mapping[str, Allocation]
    kernels: Mapping[str, int]
    busy: frozenset[str] = frozenset()
    by_id: Mapping[str, Allocation] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls, found: Iterable[Allocation], kernels: Mapping[str, int], busy: Iterable[str] = ()
    ) -> Findings:
        """The allocations in the answer of a batch system. Of two with one name the one that has not ended counts."""
        jobs = sorted(found, key=lambda a: a.state == ENDED, reverse=True)
        return cls({a.name: a for a in jobs}, kernels, frozenset(busy), {a.id: a for a in jobs})

    def job_of(self, a: TrackedAllocation) -> Allocation | None:
        """The job of an allocation, even if a user has renamed it."""
        return self.listed.get(a.name) or (find(self.by_id, a.id) if a.id else None)


@dataclass(frozen=True, slots=True)
class Look:
    """Compares the record with what is there. *last_words*: the end of the output of an allocation, by its name."""

    policy: Policy
    state: AllocatorState
    sight: Findings
    now: float
    last_words: Callable[[str], str] = lambda _: ""

    def compare(self) -> None:
        """Bring the record up to date."""
        state, policy = self.state, self.policy
        for a in list(state.allocations):
            self._see(a)
        if policy.resumes > state.resumes:
            state.resumes = policy.resumes
            state.failed_starts = state.failed_submissions = state.futile = 0
            # the cause of a pause is perhaps still there: one allocation finds out
            state.proved = state.proved and not state.pause
            state.pause = ""
            state.say("resumed")

    def _see(self, a: TrackedAllocation) -> None:
        state, listed = self.state, self.sight.job_of(a)
        has_kernels = a.name in self.sight.kernels
        if has_kernels and not a.came_up:
            a.came_up = state.proved = True
            a.up = self.now
            state.failed_starts = 0
            state.say(f"{a.name} is up")
        if a.name in self.sight.busy:
            a.worked = True
            state.futile = 0
        if listed is not None and listed.state == ENDED:
            self._forget(a, self.last_words(a.name) or listed.reason)
            return
        if listed is not None and not a.id:
            a.id = listed.id
            state.say(f"{a.name} was found again: it is job {a.id} of {self.policy.system}")
        if has_kernels and a.stage is not Stage.ENDING:
            a.kernels, nodes = self.sight.kernels[a.name], self.policy.nodes
            a.words = "" if a.kernels >= nodes else f"{a.kernels} of {nodes} nodes have a kernel"
            state.move(a, Stage.UP)
        if has_kernels:
            a.missing = a.alone = None
        elif listed is None or listed.state == UNKNOWN:
            self._miss(a)
        else:
            a.missing = None
            if a.stage is not Stage.ENDING:
                self._follow(a, listed)

    def _miss(self, a: TrackedAllocation) -> None:
        """The batch system does not list the allocation, or does not know how it is."""
        if a.missing is None:
            a.missing = self.now
        if a.id and a.stage is not Stage.ENDING:
            a.words = f"{self.policy.system} does not list it"
        # if its kernels have left, too, it has most likely ended
        grace = min(self.policy.grace, UNLISTED_ALLOCATION_SECONDS) if a.came_up else self.policy.grace
        if self.now - a.missing >= grace:
            self._forget(a, self.last_words(a.name) or f"{self.policy.system} does not list it any more")

    def _follow(self, a: TrackedAllocation, listed: Allocation) -> None:
        """The allocation waits, or runs without a kernel. End it where that takes too long."""
        a.words = listed.reason if listed.state == QUEUED else ""
        if listed.state == QUEUED:
            a.alone = None
            self.state.move(a, Stage.QUEUED)
        elif a.alone is None:
            a.alone = self.now
            self.state.move(a, Stage.UP if a.stage is Stage.UP else Stage.STARTED)
        elif self.now - a.alone >= self.policy.start:
            if not a.came_up:
                words = self.last_words(a.name) or "it has said nothing"
                text = f"no kernel of {a.name} connected within {self.policy.start:g} s: {words}"
                _fail_start(self.state, text)
            _end(self.state, a, "its kernels have left" if a.came_up else "no kernel has come up in time")

    def _forget(self, a: TrackedAllocation, words: str) -> None:
        """The allocation has ended."""
        state = self.state
        state.allocations.remove(a)
        said = f": {words}" if words else ""
        if a.stage is Stage.ASKED:
            _fail_submission(self.policy, state, a.name, a.words or f"{self.policy.system} does not list it")
        elif a.stage is Stage.ENDING:
            state.say(f"{a.name} has ended")
        elif not a.came_up:
            _fail_start(state, f"{a.name} has ended, and no kernel came up{said}")
        elif a.worked:
            state.say(f"{a.name} has ended{said}")
        else:
            state.futile += 1
            state.say(f"{a.name} has ended, and had no work{said}")


def _fail_start(state: AllocatorState, text: str) -> None:
    state.failed_starts += 1
    state.trouble = text
    state.say(text)
    if state.failed_starts >= MAX_FAILED_STARTS and not state.pause:
        state.pause = f"{state.failed_starts} starts in a row have failed; the last one: {text}"
        state.say(f"paused: {state.pause}")


def _fail_submission(policy: Policy, state: AllocatorState, name: str, words: str) -> None:
    state.failed_submissions += 1
    state.trouble = words
    state.say(f"{name} was not submitted: {words}")
    if state.failed_submissions >= MAX_FAILED_SUBMISSIONS and not state.pause:
        state.pause = f"{policy.system} has refused {state.failed_submissions} submissions in a row: {words}"
        state.say(f"paused: {state.pause}")


# -- what to do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubmitAllocation:
    """Ask the batch system for one more allocation."""


@dataclass(frozen=True, slots=True)
class CancelAllocation:
    """End an allocation."""

    name: str
    id: str
    why: str


Action = SubmitAllocation | CancelAllocation
#: No other allocator has work in common.
NOTHING_CLAIMED: Mapping[str, int] = {}


def decide(
    policy: Policy,
    state: AllocatorState,
    backlog: WaitingWork | None,
    now: float,
    claimed: Mapping[str, int] = NOTHING_CLAIMED,
) -> tuple[list[Action], str]:
    """The actions that are due, and why no more is done, in a sentence. *backlog* None: the broker does not answer.

    *claimed*: slots of the work that allocations on their way of other allocators will take, by the allocator.
    """
    lasting = 0
    if backlog is not None:
        lasting, state.backlog = min(state.backlog, backlog.slots), backlog.slots
        state.empty = None if backlog.slots else now if state.empty is None else state.empty
    if policy.removing:
        for a in state.allocations:
            _end(state, a, "its allocator is removed")
        left = len(state.allocations)
        return list(_cancels(state, now)), f"it is being removed: {_count(left, 'allocation')} must end first"
    if state.empty is not None:
        for a in state.allocations:
            waits = a.stage in (Stage.ASKED, Stage.QUEUED) and a.id
            if waits and now - max(a.asked, state.empty) >= policy.min_life:
                _end(state, a, "no work is left for it")
    actions: list[Action] = list(_cancels(state, now))
    why = _why_not(policy, state, backlog, lasting, now, claimed)
    if not why:
        actions.append(SubmitAllocation())
        why = "one more allocation is submitted"
    return actions, why


def _end(state: AllocatorState, a: TrackedAllocation, why: str) -> None:
    if a.stage is not Stage.ENDING:
        a.words = why
        state.move(a, Stage.ENDING)


def _cancels(state: AllocatorState, now: float) -> Iterator[CancelAllocation]:
    """The allocations to cancel now. One whose id is not known yet has to be found first."""
    for a in state.allocations:
        due = a.cancelled is None or now - a.cancelled >= CANCEL_AGAIN_SECONDS
        if a.stage is Stage.ENDING and a.id and due:
            yield CancelAllocation(a.name, a.id, a.words)


def _why_not(
    policy: Policy,
    state: AllocatorState,
    backlog: WaitingWork | None,
    lasting: int,
    now: float,
    claimed: Mapping[str, int],
) -> str:
    """Why no allocation is submitted now; "": one is."""
    if policy.paused:
        return f"it is paused: `park alloc resume {policy.name}` lets it go on"
    if state.pause:
        return f"it has paused itself, as {state.pause}; `park alloc resume {policy.name}` tries again"
    if backlog is None:
        return "the broker does not answer"
    if not backlog.slots:
        return f"no unit waits that could run here{_others(backlog)}"
    pending = [a for a in state.allocations if a.stage in (Stage.ASKED, Stage.QUEUED, Stage.STARTED)]
    if not state.proved and state.allocations:
        probe = state.allocations[0]
        return f"{probe.name} is a probe, and {_status(probe)}: there is no other until a kernel in it has come up"
    if len(state.allocations) >= policy.most:
        return f"it has as many allocations as it may: {policy.most}"
    coming = policy.slots * len(pending) + policy.ppn * sum(
        max(0, policy.nodes - a.kernels)
        for a in state.allocations
        if a.stage is Stage.UP and now < a.up + OTHER_NODES_SECONDS
    )
    if coming >= backlog.slots:
        way = f"{_count(len(pending), 'allocation')} on the way" if pending else "the nodes still to come"
        return f"{way} will do for the work that waits"
    coming += sum(claimed.values())
    if coming >= backlog.slots:
        return f"allocations on the way of {', '.join(claimed)} will do for the work that waits"
    if len(pending) >= policy.most_queued:
        return f"{_count(len(pending), 'allocation')} on the way are as many as may wait at once" + _reason(
            pending
        )
    delay = policy.spacing * 2.0 ** min(
        MAX_DOUBLINGS, state.failed_submissions + state.failed_starts + state.futile
    )
    if state.submitted is not None and now < state.submitted + delay:
        return f"the next submission is due in {state.submitted + delay - now:.0f} s{_because(state)}"
    if lasting <= coming:
        return "it looks once more whether the work still waits"
    return ""


def _others(backlog: WaitingWork) -> str:
    """Why jobs that wait do not count, in words."""
    if not backlog.others:
        return ""
    words = sorted(backlog.others.items(), key=lambda each: -each[1])[:3]
    return ": " + ", ".join(f"{_count(n, 'job')} {text}" for text, n in words)


def _because(state: AllocatorState) -> str:
    """The cause of a longer space between submissions."""
    causes = (
        (state.failed_submissions, "refused submission"),
        (state.failed_starts, "failed start"),
        (state.futile, "idle allocation"),
    )
    words = [_count(n, text) for n, text in causes if n]
    trouble = f": {state.trouble}" if state.failed_submissions or state.failed_starts else ""
    return f", after {' and '.join(words)} in a row{trouble}" if words else ""


def _reason(pending: list[TrackedAllocation]) -> str:
    words = next((a.words for a in pending if a.words), "")
    return f" ({words})" if words else ""


def _status(a: TrackedAllocation) -> str:
    return f"{a.stage}: {a.words}" if a.words else str(a.stage)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s'[: n != 1]}"


# -- what was done ---------------------------------------------------------------------------------


def submitting(state: AllocatorState, name: str, now: float) -> None:
    """The batch system will be asked for this allocation: to be on disk before."""
    state.allocations.append(TrackedAllocation(name=name, asked=now))
    state.submitted = now


def submitted(policy: Policy, state: AllocatorState, name: str, id: str) -> None:
    """The batch system has taken the allocation."""
    a = state.named(name)
    assert a is not None
    a.id = id
    state.failed_submissions = 0
    state.move(a, Stage.QUEUED)
    state.say(f"{name} is submitted: job {id} of {policy.system}, {_count(policy.slots, 'slot')}")


def refused(policy: Policy, state: AllocatorState, name: str, words: str, unsure: bool = False) -> None:
    """The batch system has refused the allocation, in these *words*. *unsure*: perhaps it has taken it nevertheless."""
    a = state.named(name)
    assert a is not None
    if unsure:  # a look finds it by its name, or it is lost after the time of grace
        a.words = words
        state.say(f"{name} was perhaps submitted: {words}")
    else:
        state.allocations.remove(a)
        _fail_submission(policy, state, name, words)


def cancelled(state: AllocatorState, name: str, now: float, trouble: str = "") -> None:
    """The allocation was cancelled, or could not be: *trouble* says why."""
    a = state.named(name)
    if a is not None:
        a.cancelled = now
        state.say(f"{name} cannot be cancelled: {trouble}" if trouble else f"{name} is cancelled: {a.words}")

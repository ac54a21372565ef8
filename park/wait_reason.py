"""Why a job waits: the cause with its numbers and names as a record, and the one function that puts it into words.

The broker decides the reason (`park.broker.handlers.explain`) and sends the words and the record. People read the
words; programs read the fields, and never the words.
"""

from __future__ import annotations

import enum
from typing import Any, Self

from msgspec import structs

from park.model import Record


class Cause(enum.StrEnum):
    """The causes for which a job waits, ends, or has ended."""

    #: it does not wait
    NONE = "none"
    #: the sentence of its record says the reason
    STATED = "stated"
    #: it has ended, or ends as soon as its units have; *name*: why, in words
    ENDING = "ending"
    #: its owner has paused it
    PAUSED = "paused"
    #: *job*, after which it comes, has not ended and is in *state*
    OTHER_JOB = "other job"
    #: it has a `when` that is not over; *name*: that time, as "2027-03-01 07:00 UTC"
    TIME = "time"
    #: its client has sent no further inputs; *job*: it has none, and stands for the allocation of a script
    INPUTS = "inputs"
    #: its client has not taken the results that are there
    RESULTS = "results"
    #: the broker's disk has no space for its results; *name*: the disk in words
    DISK = "disk"
    #: kernels of the broker's last life may still run some of it
    RECOVERY = "recovery"
    #: no kernel is connected
    NO_KERNEL = "no kernel"
    #: all kernels are draining
    DRAINING = "draining"
    #: the *count* kernels that could run it pause; *name*: the node of one, which gives the words *pause* for it
    PAUSES = "pauses"
    #: all kernels serve other owners than *name* alone
    OTHER_OWNERS = "other owners"
    #: no kernel has what it requires; *name*: the requirement, as words after "no kernel"
    REQUIREMENT = "requirement"
    #: every kernel has as many waiting drivers as it may
    DRIVERS = "drivers"
    #: it is private (*job*), and its allocation is not there yet; *name*: how that stands
    ALLOCATION = "allocation"
    #: it is private (*job*), and no allocation was asked for
    NO_ALLOCATION = "no allocation"
    #: slots are kept for it on *name*: *count* slots that it needs at once, or with 0 its memory
    FREE_AT_ONCE = "free at once"
    #: it runs on *running* slots, and has more to do
    MORE = "more"
    #: other work is due before it; *name*: the slots, or the GPUs, that are busy
    TURN = "turn"


#: Causes that lie with the client itself: its inputs come slowly, or it takes results slowly.
OF_CLIENT = frozenset({Cause.INPUTS, Cause.RESULTS})
#: Causes whose words begin with the verb, as "waits for job 3"; the others go on after "waits:".
_WITH_VERB = frozenset(
    {Cause.OTHER_JOB, Cause.TIME, Cause.INPUTS, Cause.RESULTS, Cause.RECOVERY, Cause.FREE_AT_ONCE}
)


class WaitReason(Record, frozen=True):
    """Why a job waits. A field that the *cause* does not use has its default."""

    cause: Cause = Cause.NONE
    name: str = ""
    job: int = 0
    state: str = ""
    count: int = 0
    pause: str = ""
    #: of a requirement: the Python versions that are connected, and the slots of the largest kernel
    pythons: tuple[str, ...] = ()
    largest: int = 0
    #: units that run now
    running: int = 0
    #: its share of the *slots* that may run it, from 0 to 1; *broke*: its owner, whose credit does not pay for more
    share: float = 0.0
    slots: int = 0
    broke: str = ""
    #: seconds until its next unit, by the forecast of the service clock; None: no forecast
    seconds: float | None = None
    #: the trouble of the broker's disk, which makes kernels keep results and their slots
    disk: str = ""
    #: a job that was asked for its slot *holder_seconds* ago and keeps it; 0: none
    holder: int = 0
    holder_seconds: float = 0.0

    def __post_init__(self) -> None:
        if type(self.cause) is not Cause:
            structs.force_setattr(self, "cause", Cause(self.cause))

    @classmethod
    def beside(cls, record: dict[str, Any]) -> Self:
        """The reason beside the *record* of a job, as the answer to a Status has it.

        A broker of another release may send none, or a cause that this release does not know: then the sentence counts.
        """
        try:
            return cls.from_map(record["wait"])
        except (KeyError, ValueError):
            text = record.get("reason", "")
            return cls(Cause.STATED if text else Cause.NONE, text)

    def is_like(self, other: WaitReason | None) -> bool:
        """Whether the two have the same cause and names, so that a user who knows the one need not be told the other.

        Numbers may differ, and a kernel's words for its pause. A sentence without a cause is like any other.
        """
        return other is not None and self._names == other._names

    @property
    def _names(self) -> tuple[Any, ...]:
        name = "" if self.cause is Cause.STATED else self.name
        return self.cause, name, self.broke, self.disk, self.holder > 0


def words(reason: WaitReason) -> str:
    """The reason in one sentence; empty while the job does not wait."""
    text = _clause(reason)
    return f"waiting: {text}" if reason.cause in (Cause.ALLOCATION, Cause.NO_ALLOCATION) else text


def announcement(job: int, reason: WaitReason) -> str:
    """The reason as a sentence about *job*, which waits or ends.

    >>> announcement(7, WaitReason(Cause.NO_KERNEL))
    'job 7 waits: no kernel is connected'
    """
    verb = "ends: " if reason.cause is Cause.ENDING else "" if reason.cause in _WITH_VERB else "waits: "
    return f"job {job} {verb}{_clause(reason)}"


def _clause(r: WaitReason) -> str:
    match r.cause:
        case Cause.NONE:
            return ""
        case Cause.STATED | Cause.ENDING:
            return r.name
        case Cause.PAUSED:
            return f"`park resume {r.job}`, in Python job.resume(), lets it go on"
        case Cause.OTHER_JOB:
            return f"waits for job {r.job}, which is {r.state}"
        case Cause.TIME:
            return f"waits for its time, {r.name}" if r.name else "waits for its time"
        case Cause.INPUTS if r.job:
            return "waits for the end of the script whose allocation it stands for"
        case Cause.INPUTS:
            return "waits for more inputs from its client"
        case Cause.RESULTS:
            return "waits until its client takes the results that are there"
        case Cause.DISK:
            return f"{r.name}: kernels keep results until there is room"
        case Cause.RECOVERY:
            return "waits, a lease at most, for kernels of the broker's last life, which may still run some of it"
        case Cause.FREE_AT_ONCE:
            wide = f"{r.count} slots" if r.count else "memory"
            return f"waits until {wide} are free at once on {r.name}; {_share(r)}"
        case Cause.MORE:
            return f"runs on {r.running} slot{'s'[: r.running != 1]}, with more to do: {_share(r)}"
        case Cause.TURN:
            return _turn(r)
        case _:
            return _kernels(r)


def _kernels(r: WaitReason) -> str:
    """The causes that lie with the kernels."""
    match r.cause:
        case Cause.NO_KERNEL:
            return "no kernel is connected"
        case Cause.DRAINING:
            return "all kernels that are connected are draining: they take no new work"
        case Cause.PAUSES if r.count == 1:
            return f"the kernel that could run it pauses, on {r.name}: {r.pause}"
        case Cause.PAUSES:
            return f"all {r.count} kernels that could run it pause, one on {r.name}: {r.pause}"
        case Cause.OTHER_OWNERS:
            return f"no kernel runs {r.name}'s jobs: all that are connected run only others'"
        case Cause.REQUIREMENT:
            text = f"no kernel {r.name}"
            if r.pythons:
                text += f" (connected: {', '.join(r.pythons)}); `park-kernel --python PATH` adds one"
            elif r.largest:
                text += f" (the largest has {r.largest})"
            return text
        case Cause.DRIVERS:
            return "every kernel holds as many waiting drivers as it may, and starts one more when one of them has ended"
        case Cause.ALLOCATION:
            return f"its allocation {r.name}"
        case _:
            return f"no kernel serves it alone, and `park alloc give {r.job}` asks a batch system for some"


def _turn(r: WaitReason) -> str:
    """The words for `Cause.TURN`: the share, when the turn comes, and what may delay it."""
    text = f"{r.name} are busy with work that is due before: {_share(r)}, its next unit in about {_time(r.seconds or 0.0)}"
    if r.disk:
        text += f"; {r.disk}: kernels keep results, and their slots, until there is room"
    elif r.holder:
        text += (
            f"; job {r.holder} was asked for its slot {_time(r.holder_seconds)} ago "
            "and has not called env.ready() since"
        )
    return text


def _share(r: WaitReason) -> str:
    """The job's share of the slots in words."""
    text = f"its share is {100 * r.share:.3g} % of {r.slots} slot{'s'[: r.slots != 1]}"
    return text + (f", as for a free one because {r.broke} has no credit left" if r.broke else "")


def _time(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"

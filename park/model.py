"""The values that all parts of PARK exchange: requests, records of jobs and kernels, changes of the public table.

Everything here is frozen; a change is a new value. Records travel and persist as plain maps
(`as_map`, `from_map`), so that a reader of any language can show them.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Self, TypeVar

from msgspec import Struct, field, structs

from park.errors import InvalidRequest, did_you_mean

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: More bytes, and more threads, than any unit can need.
MAX_MEMORY_BYTES, MAX_UNIT_CPUS = 10**18, 1 << 16
#: More GPUs than any node has.
MAX_NODE_GPUS = 64
#: No account holds more credits than this.
MAX_CREDITS = 1e12

#: The names of priorities. A priority p weighs 2**p.
PRIORITIES = {"background": -3, "free": 0, "low": 1, "normal": 2, "high": 4, "urgent": 6}


class JobState(enum.StrEnum):
    """The state of a job. `park.table.table.TRANSITIONS` says which may follow which."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        return self in ENDED


class Serves(enum.StrEnum):
    """The owners whose new work a kernel takes now: a desktop pauses for others, or for all, while its user needs it."""

    ALL = "all"
    OWN = "own"
    NONE = "none"


ENDED = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.ABORTED})


class NotRun:
    """Stands in the list of results where a unit did not run. There is one: `NOT_RUN`."""

    _one: ClassVar[NotRun | None] = None

    def __new__(cls) -> NotRun:
        if cls._one is None:
            cls._one = super().__new__(cls)
        return cls._one

    def __repr__(self) -> str:
        return "park.NotRun"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> tuple[type[NotRun], tuple[()]]:
        return (NotRun, ())


NOT_RUN = NotRun()


class Record(Struct, frozen=True, gc=False):
    """The base of records: they become maps and come back from them."""

    def as_map(self) -> dict[str, Any]:
        """All fields, in the order of their definition, as msgpack and JSON take them."""
        return structs.asdict(self)

    @classmethod
    def from_map(cls, fields: dict[str, Any]) -> Self:
        """The record of a map; unknown fields (of a newer release) are left out."""
        values = {name: tuple(v) if type(v) is list else v for name, v in fields.items()}
        try:
            return cls(**values)
        except TypeError:
            return cls(**{name: values[name] for name in cls.__struct_fields__ if name in values})


class JobRecord(Record, frozen=True):
    """One row of the public table: what everybody may know of a job.

    It has more than 20 fields: tables, JSON and programs in other languages read them as one flat map.
    """

    job: int
    owner: str
    name: str = ""
    #: the kind of its `Job`: "job", "session", or the entry point of a `Job` subclass
    kind: str = "job"
    tags: tuple[str, ...] = ()
    priority: int = 0
    state: JobState = JobState.QUEUED
    #: one sentence: why it waits, or what ended it
    reason: str = ""
    #: units answered, of how many (None: unknown, or the job runs once)
    done: int = 0
    total: int | None = None
    #: units that failed, among those done
    failed: int = 0
    #: the progress that the body has published: done of total, the units that it counts, and the quality by now in words
    progress: tuple[float, float] | None = None
    units: str = ""
    note: str = ""
    #: units (or the driver) running now
    running: int = 0
    #: slot-seconds used, and credits paid for them
    seconds: float = 0.0
    credits: float = 0.0
    after: tuple[int, ...] = ()
    when: float | None = None
    #: wall-clock seconds since 1970, UTC, for people; decisions never read them
    submitted: float = 0.0
    started: float | None = None
    ended: float | None = None
    #: ended by `stop`: the result is the best so far
    stopped: bool = False
    #: late chunks that were started a second time, beside the first; None: its units are not `pure`, and none is
    doubled: int | None = None
    #: Python minor version of the client: its units run only there
    python: str = PYTHON
    #: which life of the broker accepted it
    epoch: int = 0
    #: ``sys.argv`` of its bodies: a script or what else was submitted, then its arguments
    argv: tuple[str, ...] = ()
    #: the remark of the body on its result, in a sentence or two
    remark: str = ""
    #: the state of the allocation of a private job, as "4711.head is queued, place 12"
    allocation: str = ""

    def __post_init__(self) -> None:
        if type(self.state) is not JobState:
            structs.force_setattr(self, "state", JobState(self.state))

    #: the hosts on which it runs now, in a record that was asked for; the live table has none
    hosts: tuple[str, ...] = ()

    @property
    def how_far(self) -> Progress:
        """The body's own report, else the number of units that are done."""
        if self.progress is not None:
            return Progress(*self.progress, self.units, self.note)
        return Progress(self.done, self.total or 0, "units")


class KernelRecord(Record, frozen=True):
    """One kernel that is connected now."""

    kernel: int
    host: str
    pid: int
    slots: int
    busy: int = 0
    #: drivers that stay resident while they wait in a map
    drivers: int = 0
    python: str = PYTHON
    #: bytes; 0: unknown
    memory: int = 0
    labels: tuple[str, ...] = ()
    #: the owner whose jobs come first here, or are the only ones; "": all owners are equal
    owner: str = ""
    only: bool = False
    #: it takes no new work, and will leave
    draining: bool = False
    #: the batch job in whose allocation it runs, and its node's name there; "": none
    batch: str = ""
    node: str = ""
    #: the owners whose new work it takes now (`Serves`), and why it takes less than it might; "": no pause
    serves: str = "all"
    pause: str = ""
    #: its GPUs, and those of them that are given out, parts counted as parts
    gpus: int = 0
    gpus_busy: float = 0.0
    #: its named environments, each with its minor version of Python: "refl1d 3.12"
    environments: tuple[str, ...] = ()

    #: the private job that it serves alone; 0: none
    job: int = 0

    @property
    def standing(self) -> str:
        """The state of the kernel in one word."""
        if self.draining:
            return "draining"
        if self.serves == Serves.NONE:
            return "paused"
        return "busy" if self.busy or self.drivers else "idle"


class OwnerRecord(Record, frozen=True):
    """One owner with jobs that have not ended."""

    owner: str
    jobs: int = 0
    #: credits left; None where there is no limit
    credits: float | None = None


class AccountRecord(Record, frozen=True):
    """One owner's account, as `service.credits` tells it."""

    owner: str
    #: credits left, the most that refills lead to, and credits an hour; None where there is no limit
    balance: float | None = None
    cap: float | None = None
    rate: float | None = None
    #: weight x slot-seconds used, halved each day
    use: float = 0.0
    #: the share of all slots that is due now to the owner's jobs that run or could run
    share: float = 0.0
    #: credits that each job has cost, by its number
    jobs: Mapping[int, float] = field(default_factory=dict)
    #: jobs, units and bytes: how many there are, and may be; empty where there is no limit
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:  # keys of maps travel as texts, tuples as lists
        structs.force_setattr(self, "jobs", {int(number): cost for number, cost in self.jobs.items()})
        structs.force_setattr(self, "limits", {what: (n, most) for what, (n, most) in self.limits.items()})

    def __hash__(self) -> int:
        return hash((self.owner, self.balance, self.use))


class WaitingWork(Record, frozen=True):
    """The work that waits, for kernels of a kind: the *slots* that it could use at once, and its *jobs*.

    *others*: the number of jobs that wait and do not count, by the reason. *parts*: the slots of each job that counts, by
    its number as a text, of as many jobs as one answer tells.
    """

    slots: int = 0
    jobs: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.slots, self.jobs))


class Delta(Struct, frozen=True, gc=False):
    """One change of the public table.

    *table* is "job", "kernel" or "owner", *key* the number or name in it, *change* the fields that
    are new (all of them for a new row), or None: the row is gone.
    """

    table: str
    key: int | str
    change: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a body: *done* of *total*, counted in *units* (a word for people). *note*: its quality by now
    in a few words, such as "chisq 1.02". Both are cut after 40 characters.

    *done* and *total* are from 0 to 1e15. A number that is not finite counts as unknown, and is not shown.
    """

    done: float
    total: float
    units: str = ""
    note: str = ""

    @property
    def fraction(self) -> float:
        """Between 0 and 1; 0 when the total is unknown."""
        try:
            part = self.done / self.total if self.total else 0.0
        except OverflowError:
            return 0.0
        return min(1.0, max(0.0, part)) if part == part else 0.0


@dataclass(frozen=True, slots=True)
class Improvement:
    """A better point: its *value* (smaller is better), the *point* by name, and the iteration *step*."""

    value: float
    point: dict[str, float]
    step: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """A line, or several, for the job's log. *time*: when it was printed, seconds since 1970; 0: not known."""

    text: str
    level: str = "info"
    time: float = 0.0


def priority_number(priority: int | str) -> int:
    """The integer behind a priority: -3 to 6, or one of the names in `PRIORITIES`.

    >>> priority_number("high")
    4
    """
    if isinstance(priority, str) and priority in PRIORITIES:
        return PRIORITIES[priority]
    if isinstance(priority, str) and priority.lstrip("-").isdigit():
        priority = int(priority)
    if isinstance(priority, int) and not isinstance(priority, bool) and -3 <= priority <= 6:
        return priority
    raise InvalidRequest(
        f"priority {priority!r} is neither an integer from -3 to 6 nor one of {', '.join(PRIORITIES)}"
    )


def texts(given: Any, what: str) -> tuple[str, ...]:
    """One text or several, each printable and of 1 to 200 characters. *what* they are is said in the error."""
    given = (given,) if isinstance(given, str) else given
    if not isinstance(given, Iterable):
        raise InvalidRequest(f"{what}s={given!r} is neither a text nor a list of texts")
    found: tuple[str, ...] = tuple(given)
    for text in found:
        if not isinstance(text, str) or not text or len(text) > 200 or not text.isprintable():
            raise InvalidRequest(f"{what} {text!r} is not a printable text of 1 to 200 characters")
    return found


#: The largest number of a progress.
MAX_PROGRESS = 1e15
#: Characters of a remark, and of each of the words beside a progress.
MAX_REMARK_CHARS, MAX_NOTE_CHARS = 200, 40


def remark_of(text: str, most: int = MAX_REMARK_CHARS) -> str:
    """*text* as a remark: in one line, and cut where it is too long.

    >>> remark_of("not converged:\\n  no steps left")
    'not converged: no steps left'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


#: Characters of the words of a command, all together: they are in the public table.
MAX_ARGV_CHARS = 2000


def command_words(given: Any) -> tuple[str, ...]:
    """The words of a command, as ``sys.argv`` has them: texts of any kind. Raises InvalidRequest.

    >>> command_words(["peak.py", "200", "two words"])
    ('peak.py', '200', 'two words')
    """
    words = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    if not all(isinstance(word, str) for word in words):
        raise InvalidRequest(f"argv={given!r:.200} is no list of texts, such as ['fit.py', '200']")
    size = sum(map(len, words))
    if size > MAX_ARGV_CHARS:
        raise InvalidRequest(
            f"the arguments have {size:,} characters, more than {MAX_ARGV_CHARS:,}: put them into a file, and give its name"
        )
    return words


#: Bytes of the kind of a message of a job's stream.
MAX_KIND_BYTES = 100
#: Bytes of a message that is kept for late followers, because only the latest of its kind matters.
MAX_LATEST_BYTES = 1 << 20


#: Bytes of a control, pickled.
MAX_CONTROL_BYTES = 1 << 20


def control_too_large(size: int) -> str:
    """The error text for a control of *size* bytes."""
    return (
        f"the control takes {size:,} bytes, more than {MAX_CONTROL_BYTES:,}: put what is long into the "
        "request, or into a file that the body can read"
    )


def is_kind(kind: str) -> bool:
    """Whether a message of a job's stream may be of this kind: it can follow ``on_`` in a method's name, and is short."""
    return kind.isidentifier() and len(kind.encode()) <= MAX_KIND_BYTES


def owner_name(name: str) -> str:
    """*name*, if it can be charged: of 1 to 200 bytes, for it is the key of an account. Raises InvalidRequest.

    >>> owner_name("Ada Lovelace")
    'Ada Lovelace'
    """
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= 200:
        raise InvalidRequest(f"{name!r:.80} is no name of an owner: a text of 1 to 200 bytes is")
    return name


def check_grant(credits: float) -> None:
    """Raises InvalidRequest for what no account can be given."""
    if isinstance(credits, bool) or not isinstance(credits, int | float) or not 0 < credits <= MAX_CREDITS:
        raise InvalidRequest(
            f"a grant of {credits!r} is no number of credits above 0 and up to {MAX_CREDITS:.0e}"
        )


def memory_bytes(memory: float | str) -> int:
    """Bytes behind a number of them, or a text with a unit (powers of 1000).

    >>> memory_bytes("1.5 GB"), memory_bytes(4e9)
    (1500000000, 4000000000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", memory) if isinstance(memory, str) else None
    number = memory
    if found:
        number = float(found[1]) * 1000.0 ** " kMGT".index(found[2] or " ")
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= MAX_MEMORY_BYTES:
        return round(number)
    raise InvalidRequest(f"memory={memory!r} is neither a number of bytes nor a text such as '4 GB'")


_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def environment_name(name: Any) -> str:
    """*name*, if an environment of kernels can be called so, or "" for none. Raises InvalidRequest."""
    if isinstance(name, str) and (not name or _ENVIRONMENT.fullmatch(name)):
        return name
    raise InvalidRequest(
        f"environment={name!r:.80} is no name of an environment: it has up to 40 letters, digits, '.', '_' and '-'"
    )


def gpu_count(gpus: Any) -> float:
    """*gpus*, if a unit can need them: a part of one, from a thousandth on, or whole ones. Raises InvalidRequest.

    >>> gpu_count(0.5), gpu_count(2)
    (0.5, 2.0)
    """
    number = isinstance(gpus, int | float) and not isinstance(gpus, bool)
    if number and (gpus == 0 or 0.001 <= gpus <= 1 or (gpus == gpus // 1 and 1 < gpus <= MAX_NODE_GPUS)):
        return float(gpus)
    raise InvalidRequest(
        f"gpus={gpus!r} is neither a part of a GPU, such as 0.5, nor a whole number up to {MAX_NODE_GPUS}"
    )


#: Idle processes for each slot that a kernel keeps while several owners, or jobs with other needs, take turns.
IDLE_PROCESSES_PER_SLOT = 4
#: The parts of a GPU: sums of whole numbers are exact.
WHOLE_GPU = 1000


def gpu_part(gpus: float) -> int:
    """The parts of each of its GPUs that a unit takes which needs *gpus*.

    >>> gpu_part(0.5), gpu_part(2.0)
    (500, 1000)
    """
    return WHOLE_GPU if gpus >= 1 else max(1, round(gpus * WHOLE_GPU))


_LENGTH = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")


def duration(given: float | str, what: str) -> float:
    """Seconds behind a number of them, or a text such as 90s, 10m, 3h55m or 2d. *what* it is is said in the error.

    >>> duration("1h30m", "max_time")
    5400.0
    """
    found = _LENGTH.fullmatch(given.strip()) if isinstance(given, str) and given.strip() else None
    number: float | str = given
    if found:
        number = sum(
            float(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True)
        )
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf:
        return float(number)
    raise InvalidRequest(
        f"{what}={given!r} is no length of time: write seconds, or a text such as '90s', '10m' or '3h55m'"
    )


def packages(given: Any) -> tuple[tuple[str, str], ...]:
    """The pairs of a package and its versions. Raises InvalidRequest where they are none."""
    if isinstance(given, dict):
        given = given.items()
    try:
        pairs = tuple((name, versions) for name, versions in given)
    except (TypeError, ValueError):
        pairs = ((None, None),)
    for pair in pairs:
        if not all(isinstance(text, str) for text in pair) or not pair[0]:
            raise InvalidRequest(
                f"requires={given!r} is no list of (package, versions), such as [('bumps', '>=1.0')]"
            )
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise InvalidRequest(
                f"requires names {name} {number} times: say it once, as in ('{name}', '>=1.0,<2')"
            )
    return pairs


def wall_time(when: datetime | float | None, now: float) -> float | None:
    """UTC seconds since 1970 for a *when*: a datetime (naive: local time) or seconds from *now*."""
    if when is None:
        return None
    if isinstance(when, datetime):
        return when.astimezone(UTC).timestamp()
    if isinstance(when, int | float) and not isinstance(when, bool) and math.isfinite(when):
        return now + max(0.0, float(when))
    raise InvalidRequest(f"when={when!r} is neither a datetime nor a number of seconds from now")


#: When a request may ask for mail, with the address before it: failures at once and the rest in a daily digest; all at
#: once; failures only.
NOTIFY_TIMES = ("daily", "now", "fail", "never")
#: Characters of an address of mail.
MAX_ADDRESS_CHARS = 254
_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~][A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
)


#: The beginning of an address that names a channel of the service.
CHANNEL = "channel:"
_CHANNEL = re.compile(r"channel:[A-Za-z0-9_-]{1,40}")


def is_channel(address: str) -> bool:
    """Whether an address names a channel, as in "channel:team"."""
    return bool(_CHANNEL.fullmatch(address))


def notify_address(given: Any, what: str) -> str:
    """*given*, if it is an address of mail or of a channel. Raises InvalidRequest, which names *what*."""
    return given if isinstance(given, str) and is_channel(given) else mail_address(given, what)


def mail_address(given: Any, what: str) -> str:
    """*given*, if it is one plain address of mail, such as ada@example.org. Raises InvalidRequest, which names *what*."""
    if isinstance(given, str) and len(given) <= MAX_ADDRESS_CHARS and _ADDRESS.fullmatch(given):
        return given
    raise InvalidRequest(
        f"{what} {given!r:.80} is no address of mail: write one address in ASCII, such as ada@example.org"
    )


def notify_words(given: Any) -> str:
    """The *notify* of a request as it travels: "", "never", or an address and when. Raises InvalidRequest.

    >>> notify_words("ada@example.org"), notify_words(("ada@example.org", "now"))
    ('ada@example.org daily', 'ada@example.org now')
    """
    words = given.split(" ") if isinstance(given, str) else given
    words = list(words) if isinstance(words, list | tuple) else [given]
    if words in ([""], ["never"]):
        return str(words[0])
    if len(words) == 1:
        words.append("daily")
    if len(words) != 2 or words[1] not in NOTIFY_TIMES:
        raise InvalidRequest(
            f"notify={given!r:.200} is no address of mail with one of {', '.join(NOTIFY_TIMES)} behind it: "
            "write it like 'ada@example.org now'"
        )
    address = notify_address(words[0], "notify")
    return "never" if words[1] == "never" else f"{address} {words[1]}"


def split_notify(words: str) -> tuple[str, str]:
    """The address and the time behind `notify_words`; of no mail ("", "never")."""
    address, _, when = words.partition(" ")
    return (address, when) if when else ("", "never")


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a job. It has more than 20 fields: they are the flat words of ``start``, ``park submit`` and the wire.

    *body* is a callable, or an object with ``run`` and, if it likes, ``prepare``, ``cleanup`` and, for what the job is told
    (`park.Job.control`), ``on_<kind>(message)``.
    *inputs* None: it runs once. Otherwise each input is one unit: a sequence, a lazy iterable, or a
    numpy array whose rows are the inputs.

    *after*: jobs (numbers or `Job` objects) that must be complete first. *when*: a datetime, or seconds
    from now, before which nothing runs. *seed* makes random numbers repeat. *on_error* "stop" ends the
    job at the first unit that fails; "continue" runs the rest.

    Each unit runs once, and again if its process or its node is lost. With ``idempotent=False`` it never runs again:
    the job fails instead. ``pure=True`` says that a unit only computes its result. Then a unit that takes far longer
    than others may be started a second time, beside the first, on a free slot; the first answer counts.

    Needs of each unit: *cpus*, the threads that it may use, and the slots that it gets; *gpus*, whole GPUs or a part of
    one, such as 0.5; *memory*, in bytes or as ``"4 GB"``; *labels* that a kernel must have (``park-kernel --label gpu``);
    *requires*, pairs of a package and the versions of it that will do: ``[("bumps", ">=1.0"), ("refl1d", "")]``; or
    *environment*, the name of an environment of kernels (``park-kernel --environment refl1d=PATH``). The client's Python
    minor is always required.

    How long it may take, in seconds or as "90s", "10m", "3h55m": a unit that runs longer than *max_unit_time* is ended, and
    is a `UnitError`; that holds for inputs of the job and of maps inside, without the time that these wait, not for a body
    that runs once. A job that has been running for *max_time* is asked to stop, and aborted if it goes on for *grace*
    after that: by default a tenth of *max_time*, and 10 seconds at least. Neither counts while the job waits, is queued or
    paused.

    *argv*: ``sys.argv`` for the code of the job, a script's name and its arguments. All users who see the job see them.

    *private*: only kernels that serve this job alone run it (``park-kernel --job``), and they leave when it has ended. The
    number of another private job: this job shares its kernels, and ends with it.

    *notify*: the address for mail about the job's end, and when it goes: ``"ada@example.org"`` gets failures at once
    and the rest in a daily digest; ``"ada@example.org now"`` all news at once, ``"ada@example.org fail"`` failures
    alone. "" stands for the address of the service (`park.ServerProxy.set_email`), and "never" for no mail.
    """

    body: Any
    inputs: Any = None
    name: str = ""
    tags: tuple[str, ...] = ()
    priority: int | str = "free"
    after: Any = ()
    when: datetime | float | None = None
    seed: int | None = None
    on_error: str = "continue"
    idempotent: bool = True
    pure: bool = False
    cpus: int = 1
    memory: float | str = 0
    labels: tuple[str, ...] = ()
    requires: Any = ()
    kind: str = "job"
    max_time: float | str | None = None
    max_unit_time: float | str | None = None
    argv: tuple[str, ...] = ()
    notify: Any = ""
    private: bool | int = False
    gpus: float = 0
    environment: str = ""
    grace: float | str | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("continue", "stop"):
            raise InvalidRequest(f"on_error={self.on_error!r} is neither 'continue' nor 'stop'")
        if (
            isinstance(self.cpus, bool)
            or not isinstance(self.cpus, int)
            or not 1 <= self.cpus <= MAX_UNIT_CPUS
        ):
            raise InvalidRequest(f"cpus={self.cpus!r} is not a whole number from 1 to {MAX_UNIT_CPUS:,}")
        object.__setattr__(self, "memory", memory_bytes(self.memory))
        object.__setattr__(self, "gpus", gpu_count(self.gpus))
        environment_name(self.environment)
        if self.environment and self.requires:
            raise InvalidRequest(
                f"environment={self.environment!r} stands for its packages: leave out requires={self.requires!r}"
            )
        for what in ("max_time", "max_unit_time", "grace"):
            given = getattr(self, what)
            if given is not None:
                object.__setattr__(self, what, duration(given, what))
                if not getattr(self, what):
                    default = "the default" if what == "grace" else "no limit"
                    raise InvalidRequest(f"{what}={given!r} leaves no time; None is {default}")
        object.__setattr__(self, "labels", texts(self.labels, "label"))
        object.__setattr__(self, "argv", command_words(self.argv))
        object.__setattr__(self, "requires", packages(self.requires))
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise InvalidRequest(f"seed={self.seed!r} is not a whole number")
        object.__setattr__(self, "tags", texts(self.tags, "tag"))
        if not isinstance(self.name, str) or len(self.name) > 200 or not self.name.isprintable():
            raise InvalidRequest(f"name {self.name!r} is not a printable text of at most 200 characters")
        for what, kind in (("idempotent", bool), ("pure", bool), ("private", int), ("kind", str)):
            if not isinstance(getattr(self, what), kind):
                raise InvalidRequest(f"{what}={getattr(self, what)!r} is no {kind.__name__}")
        if self.private < 0:
            raise InvalidRequest(f"private={self.private!r} is neither True nor the number of a job")
        if self.pure and not self.idempotent:
            raise InvalidRequest(
                "pure=True lets a late unit run a second time, and idempotent=False forbids it: say one of them"
            )
        object.__setattr__(self, "priority", priority_number(self.priority))
        object.__setattr__(self, "notify", notify_words(self.notify))


#: The names of a request's fields besides its body and its inputs, in their order.
REQUEST_FIELDS = tuple(f.name for f in dataclasses.fields(Request) if f.name not in ("body", "inputs"))
#: Fields that a session does not have: it runs at once, and its results go to the caller.
NOT_IN_SESSIONS = ("when", "after", "on_error", "kind", "notify", "grace")

Function = TypeVar("Function", bound=Callable[..., Any])


def takes_request_fields(
    without: Iterable[str] = (), others: bool = False, **defaults: Any
) -> Callable[[Function], Function]:
    """A decorator: `help` and notebooks show the fields of a request in place of the function's ``**fields``.

    *without*: fields that the function does not take; *others*: it takes more names than those; *defaults*: its own.
    """

    def mark(function: Function) -> Function:
        signature = inspect.signature(function)
        *own, rest = signature.parameters.values()
        left_out = {"body", "inputs", *without, *signature.parameters}
        shown = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(f.name, f.default),
                annotation=f.type,
            )
            for f in dataclasses.fields(Request)
            if f.name not in left_out
        ]
        parameters = [*own, *shown, *([rest] if others else [])]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return function

    return mark


def make_request(body: Any, inputs: Any, fields: Mapping[str, Any]) -> Request:
    """A `Request` with these *fields*. Raises InvalidRequest, also for a name that it does not have.

    >>> make_request(abs, [-1], {"cpu": 2})
    Traceback (most recent call last):
    ...
    park.errors.InvalidRequest: a request has no cpu=; it has name=, tags=, priority=, after=, when=, seed=, ...
    """
    for name in fields:
        if name not in REQUEST_FIELDS:
            raise InvalidRequest(
                f"a request has no {name}=; it has {', '.join(f'{known}=' for known in REQUEST_FIELDS)}"
                + did_you_mean(name, REQUEST_FIELDS, "=")
            )
    return Request(body, inputs, **fields)


class Account(Struct, frozen=True, gc=False):
    """The account behind the key that a peer showed. *pool*: an admin lets this kernel serve all owners."""

    name: str
    pool: bool = False


#: Seconds that units and drivers may go on while their kernel drains.
DRAIN_SECONDS = 6.0

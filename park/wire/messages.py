"""Every message of the protocol, grouped by direction. The docstrings are the protocol.

A message travels as a head (a msgpack list of at most 64 KiB: the version, the name of the message, the
values of its fields in the order in which they stand here) and an opaque payload that only the two ends open,
in one frame or in two (`park.wire.codec`). Fields are plain: integers, texts, bytes, floats, booleans, None,
lists and maps of them.

*id* counts a peer's own requests (0: no answer expected); an answer carries it in *reply*.
*epoch* is the life of the broker in which a lease was given; an answer of another life is recognised by it.
*attempt* numbers one dispatch of a chunk. *map* is the key (16 bytes) of one map, *key* a request key (16 bytes).
*incarnation* is 16 random bytes that a peer keeps for its life; a *user* or *owner* has at most 200 bytes.

The same messages cross every border: client and broker, broker and kernel, and, over a Unix
socket pair, kernel and slot process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """The root. `carries` says whether the payload means something."""

    carries: ClassVar[bool] = False


# -- any peer ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """client -> broker, first of all, and again after a reconnect. Answered by Welcome."""

    incarnation: bytes
    user: str
    python: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class KernelHello(Message):
    """kernel -> broker, first of all, and again after a reconnect. Answered by Welcome.

    *attempts*: those that it holds, or has answered without knowing that the answer counts. The payload is a packed list
    of what a broker of another life has to know of each, in their order: [map, start, count, cpus, memory, how, seconds,
    told], *how* it stands there: "runs" (for so many *seconds*), "ahead" (of a free slot), "waits" (for a map, or at a safe
    point), or "done" (it took so many, and the answer follows); *told*: the last control that it was given.

    What it has: *memory* (bytes; 0: unknown), *labels*, and *packages* by name with their versions. It serves
    *owner* ("": nobody in particular) first, or *only* that owner. *draining*: as after Draining.
    """

    carries = True
    incarnation: bytes
    user: str
    host: str
    pid: int
    slots: int
    python: str
    attempts: list[int] = field(default_factory=list)
    epoch: int = 0
    memory: int = 0
    labels: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    owner: str = ""
    only: bool = False
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """broker -> peer. Seconds between heartbeats and until a lease ends; *fresh*: the broker did not know the peer.

    *lost*: what was on its way may be lost; not where a peer says hello twice over one connection. *number*: that of a
    client in this life of the broker; another one means that what it had open has ended, though a Welcome that said so
    was lost. For people: the *release* of the broker, and *since* when it lives, seconds since 1970.
    """

    store: str
    epoch: int
    heartbeat: float
    lease: float
    fresh: bool = True
    reply: int = 0
    lost: bool = True
    number: int = 0
    release: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """Both ways, when nothing else was said for a while. A kernel names the attempts it holds and renews their leases."""

    epoch: int = 0
    attempts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Unwelcome(Message):
    """broker -> peer it does not know (it restarted, or the lease ran out): say hello again."""

    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Goodbye(Message):
    """A peer leaves on purpose."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Part(Message):
    """A piece of a message that is too long for one: bytes *start* on of *size*.

    The first *head* bytes of all are the head of that message, the others its payload (`park.wire.parts`).
    """

    carries = True
    start: int
    size: int
    head: int


@dataclass(frozen=True, slots=True)
class Blob(Message):
    """Code (a function or a body), known by the hash of its content ever after. The payload is the code."""

    carries = True
    hash: bytes
    reply: int = 0


@dataclass(frozen=True, slots=True)
class NeedBlob(Message):
    """broker -> client, kernel -> broker, slot -> kernel: this code is missing here; send it, then go on."""

    hash: bytes


# -- client -> broker --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit(Message):
    """A request. Answered by Accepted once it is on disk; a *key* seen before is answered with the same job.

    *body* is the hash of a Blob sent before. *total* None: more units follow in Units until *closed*.
    The payload is a pack of the first *count* units. ``once``: the body runs once, there are no units.
    ``session``: nothing is stored, the job's driver is the client itself, which sends Map messages.
    Each unit needs *cpus* slots at once, *memory* bytes, and a kernel with all *labels* and, for each package
    that it *requires*, one of its versions. The job may run for *max_time* seconds, each unit for *max_unit_time*
    (0: as long as it likes).
    """

    carries = True
    id: int
    key: bytes
    body: bytes = b""
    kind: str = "job"
    name: str = ""
    tags: list[str] = field(default_factory=list)
    priority: int = 0
    after: list[int] = field(default_factory=list)
    when: float | None = None
    seed: int = 0
    on_error: str = "continue"
    idempotent: bool = True
    cpus: int = 1
    memory: int = 0
    labels: list[str] = field(default_factory=list)
    requires: dict[str, str] = field(default_factory=dict)
    python: str = ""
    once: bool = False
    session: bool = False
    count: int = 0
    closed: bool = True
    max_time: float = 0.0
    max_unit_time: float = 0.0


@dataclass(frozen=True, slots=True)
class Map(Message):
    """One call of a map, from a session's client or, through its kernel, from a driver (*attempt*).

    The payload is a pack of the first *count* units. A driver that sends it waits for all results
    and gives its slot back at once. *seed* is the map's own. Where it is sent again, because the connection was
    cut or the broker restarted, the results of all units before *start*, the first that comes, are there, and those of
    *answered*: [first, behind the last, ...]. *epoch* is the broker's life in which the map was sent first.
    """

    carries = True
    map: bytes
    job: int
    function: bytes
    count: int
    closed: bool = True
    seed: int = 0
    attempt: int = 0
    epoch: int = 0
    start: int = 0
    answered: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Units(Message):
    """More units of a job (*job*, answered by Done once on disk) or of a session's map (*map*, no answer)."""

    carries = True
    start: int
    count: int
    closed: bool
    map: bytes = b""
    job: int = 0
    id: int = 0


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """No more results of this map are wanted: what has not started is dropped, what runs is ended. Answered by Done."""

    map: bytes
    id: int = 0


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """End the job at its next safe point, with its best so far. broker -> kernel -> slot: the same for one *attempt*.

    *soft*: the attempt is told, and may end its units early, but runs each of them: its driver waits for them.
    """

    id: int = 0
    job: int = 0
    attempt: int = 0
    soft: bool = False


@dataclass(frozen=True, slots=True)
class Abort(Message):
    """End the job now. broker -> kernel -> slot: the same for one *attempt*; the kernel kills what does not obey."""

    id: int = 0
    job: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Change(Message):
    """New values of what may change while a job lives (None: as it is). *paused*: no new units; drivers wait."""

    id: int
    job: int
    priority: int | None = None
    tags: list[str] | None = None
    paused: bool | None = None


@dataclass(frozen=True, slots=True)
class Control(Message):
    """A message for the body of a job, pickled: the payload. Answered by Done once it is on disk.

    It is kept until the job has ended, or a checkpoint has what it has led to. One whose *key* (16 bytes) is known is not
    kept twice. broker -> kernel -> slot: the same, by *seq*, for all processes that run the job's own units.
    """

    carries = True
    job: int
    id: int = 0
    key: bytes = b""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Delete(Message):
    """Forget a job that has ended, with its request, inputs and results. Answered by Done once nobody can find it."""

    id: int
    job: int


@dataclass(frozen=True, slots=True)
class Credits(Message):
    """The account of an *owner*, or of all ("*"). Answered by Records: a map an account, with its jobs' costs."""

    id: int
    owner: str = "*"


@dataclass(frozen=True, slots=True)
class Grant(Message):
    """An admin gives an *owner* more credits. Answered by Done once it is on disk."""

    id: int
    owner: str
    credits: float


@dataclass(frozen=True, slots=True)
class Drain(Message):
    """A kernel shall leave: it takes no new work, and hands back what has not ended within *grace* seconds.

    client -> broker, for the *kernel* that has this number in this *epoch*; answered by Done when that kernel knows, or
    is gone. broker -> kernel: the same.
    """

    id: int = 0
    kernel: int = 0
    grace: float = 0.0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Close(Message):
    """A session is over; with *reason* it ends aborted, else complete."""

    id: int
    job: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fetch(Message):
    """The result (and with *request* the request) of a job; with *wait* when it has ended.

    Answered by any number of Results (none without *results*: how it ended is all that is asked) and, with *request*, a
    Blob and Units, then by Fetched. Slot processes send it too (*attempt*), to resolve references.
    """

    id: int
    job: int
    wait: bool = False
    request: bool = False
    attempt: int = 0
    results: bool = True


@dataclass(frozen=True, slots=True)
class Forget(Message):
    """The answer to request *id* is not wanted any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Status(Message):
    """The record of one job (*job*), or, where that is 0, of all that `park.search.Query` finds. Answered by Records.

    *fields*: of all that are found only these, as lists of their values; none are all fields, as maps. *below*: of archived
    jobs with numbers below that, the newest first, some at a time; none is left when none comes.
    """

    id: int
    job: int = 0
    owner: str = "*"
    states: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    word: str = ""
    since: float = 0.0
    newest: int = 0
    fields: list[str] = field(default_factory=list)
    below: int = 0


@dataclass(frozen=True, slots=True)
class Watch(Message):
    """Join a job's stream. Answered by Done, then Stream messages: "join" with the job's record, packed, with *logs* the
    last lines of its log, its header, then every later message; of a job that has ended the last one.

    *since*: who has followed before has had all messages up to that place. After "join" he gets those after it that are
    kept, and if some are not, before them an "error" without a record, which says so.
    """

    id: int
    job: int
    logs: bool = False
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Unwatch(Message):
    """Leave a job's stream."""

    job: int


@dataclass(frozen=True, slots=True)
class Files(Message):
    """The file of a job called *name*, or ("") what files it has. Answered by Filed."""

    id: int
    job: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Logs(Message):
    """The last lines that a job has printed and logged. Answered by Records: packed lists of text, level and time."""

    id: int
    job: int


@dataclass(frozen=True, slots=True)
class Snapshot(Message):
    """The whole public table at one number of its sequence. Answered by Header."""

    id: int


# -- broker -> client --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted(Message):
    """The job is on disk. *existed*: its key had been submitted before. *received*: units stored so far."""

    reply: int
    job: int
    existed: bool = False
    received: int = 0


@dataclass(frozen=True, slots=True)
class Done(Message):
    """The request was carried out (and is on disk where that applies). *ignored*: a Control, of a job that has ended."""

    reply: int
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class Failure(Message):
    """The request was refused: *error* names a class of `park.errors.REFUSALS`, *text* says why and what to do."""

    reply: int
    error: str
    text: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Results(Message):
    """Results of units *start* to start + count of a map, or of a job (*reply*: of that Fetch). The payload is their pack.

    To a driver (through its kernel, *attempt*); *resume*: the map has ended and the driver has a slot again.
    """

    carries = True
    start: int
    count: int
    map: bytes = b""
    job: int = 0
    attempt: int = 0
    resume: bool = False
    reply: int = 0


@dataclass(frozen=True, slots=True)
class Fetched(Message):
    """The end of the answer to a Fetch: the record of the job, and what was asked at submission."""

    reply: int
    record: dict[str, Any]
    submit: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    once: bool = False


@dataclass(frozen=True, slots=True)
class Filed(Message):
    """The answer to File and to Files. The payload is the file that was asked for (*there*: there is one), or, where it
    was asked what there is, the sizes of all files of the job by name, packed.
    """

    carries = True
    reply: int
    attempt: int = 0
    there: bool = False


@dataclass(frozen=True, slots=True)
class Records(Message):
    """The payload is a packed list of maps, one a job; or of lists, for a Status that names fields."""

    carries = True
    reply: int


@dataclass(frozen=True, slots=True)
class Stream(Message):
    """One message of a job's stream. *header*: the state so far, in answer to the Watch *reply*.

    *at*: its place among the messages of the job, the same in every life of the broker; 0: it has none. That of "join" is
    the last place before what follows. The payload is the message, pickled by the body; of the kinds that the broker makes
    (start, join, complete, error, abort) and of a log it is packed.
    """

    carries = True
    job: int
    kind: str
    header: bool = False
    reply: int = 0
    at: int = 0


@dataclass(frozen=True, slots=True)
class MapFailed(Message):
    """The map cannot go on (its job ended, its code is missing); no more results come.

    With the error "Busy" its last units were not taken, because there is no room for them: say the map again in 2 s.
    """

    map: bytes
    error: str
    text: str


# -- broker -> mirrors -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header(Message):
    """The whole table at *seq*. The payload is a packed list of [table, key, fields]."""

    carries = True
    store: str
    epoch: int
    seq: int
    reply: int = 0


@dataclass(frozen=True, slots=True)
class Deltas(Message):
    """One turn's changes; the first has number *seq*. The payload is a packed list of [table, key, fields or None]."""

    carries = True
    store: str
    epoch: int
    seq: int
    count: int


@dataclass(frozen=True, slots=True)
class Head(Message):
    """Every second: the number of the last change, so that a lost tail shows; and, for people, what the broker's clock
    shows (*wall*), seconds since 1970.
    """

    store: str
    epoch: int
    seq: int
    wall: float = 0.0


# -- broker -> kernel (-> slot) ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run(Message):
    """Run units *start* to start + count of a map. The payload is their pack. ``once``: the body of a job, no units.

    *seed* is the seed of the map. *apart*: this code has killed a process, never run it inside a driver's.
    *ahead*: all slots are busy; begin with it as soon as one is free, those that came first before it.
    *stored*: the answer goes to the disk; keep it until Committed says that it is there.
    *restored*: of some of the units there is a checkpoint, which Restore asks for.
    *limit*: seconds that each unit may run; the process of one that runs longer is ended.
    *served*: the checkpoint has what the controls up to this one have led to.
    """

    carries = True
    attempt: int
    job: int
    owner: str
    map: bytes
    function: bytes
    start: int
    count: int
    seed: int
    epoch: int = 0
    lease: float = 20.0
    once: bool = False
    apart: bool = False
    cpus: int = 1
    memory: int = 0
    ahead: bool = False
    stored: bool = False
    restored: bool = False
    limit: float = 0.0
    served: int = 0


@dataclass(frozen=True, slots=True)
class Committed(Message):
    """The answers of these *attempts* are on disk: nobody will ask for them again.

    *heard*: attempt, number, attempt, number ...: of what that attempt has published, all up to that number is on disk, or
    nobody wants it.
    """

    attempts: list[int]
    heard: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Again(Message):
    """There is room for the answer of *attempt*, which the broker has not kept: give it again."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Checkpointed(Message):
    """Checkpoint *number* of the attempt is on disk, and has what the controls up to *served* have led to."""

    attempt: int
    number: int
    served: int = 0


@dataclass(frozen=True, slots=True)
class Resume(Message):
    """The driver *attempt*, whose map has ended, or that has lent its slot, has a slot again."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Lend(Message):
    """Another job is due, or this one is paused: the *attempt* shall lend its slot at its next safe point."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Release(Message):
    """The job has ended: processes that prepared it clean up."""

    job: int


# -- (slot ->) kernel -> broker ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished(Message):
    """Units *start* to start + count of an attempt are answered. The payload is the pack of their results.

    *seconds*: time spent computing. *failed* of them raised, *unit* first, for *cause* (one line). *ended*: why it
    ended early ("abort", "stop": units that did not run have no result, *count* is smaller; "lost":
    the process could not go on for a reason that is not the units', run the rest again; "broken": the same, and the first
    of the rest had begun).
    """

    carries = True
    attempt: int
    map: bytes
    start: int
    count: int
    seconds: float
    failed: int = 0
    unit: int = 0
    cause: str = ""
    ended: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Draining(Message):
    """The kernel takes no new work any more. It goes on with what it holds for a while, then says Goodbye."""

    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Lent(Message):
    """The *attempt* waits at its safe point and holds no slot; it goes on with Resume."""

    attempt: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint(Message):
    """The state of *unit*, from which another attempt may go on; the payload is the state, pickled.

    *number* counts those of the attempt. Answered by Checkpointed once it is on disk; until then the kernel keeps the
    newest one of each attempt. *served*: the last control that its body has had, and so the state has what it has led to.
    broker -> kernel -> slot, with *reply*: the answer to Restore; empty: there is none.
    """

    carries = True
    attempt: int
    job: int
    unit: int
    number: int
    reply: int = 0
    served: int = 0


@dataclass(frozen=True, slots=True)
class Restore(Message):
    """Asks for the newest checkpoint of *unit*, which an earlier attempt has made. Answered by Checkpoint."""

    id: int
    attempt: int
    unit: int


@dataclass(frozen=True, slots=True)
class File(Message):
    """A job's file *name*, from inside a body: *how* "put" keeps the payload under that name, "get" asks for it, "drop"
    forgets it, "list" asks what there is. Answered by Filed, of a change once it is on disk.
    """

    carries = True
    id: int
    attempt: int
    name: str
    how: str


@dataclass(frozen=True, slots=True)
class Crashed(Message):
    """A slot process died. *attempts* it held, outermost first: the last was running, the others waited in it.

    *late*: its kernel has ended it, because a unit of the last one ran longer than its limit.
    """

    attempts: list[int]
    cause: str
    stderr: str = ""
    epoch: int = 0
    late: bool = False


@dataclass(frozen=True, slots=True)
class Publish(Message):
    """A message of a running body for the job's stream. The payload is the message, pickled.

    *kind* is an identifier of at most 100 bytes. *done* and *total* are read for the kind "progress". *header*: what a late
    subscriber gets first, of at most 1 MiB. *control*: the one with which something went wrong, which several processes may
    find; it is told once. *number*: its place among those of the attempt, from 1 on; the kernel keeps it, and gives it
    again after contact was lost, until Committed says that the broker has heard it. 0: only the latest of its kind matters.
    """

    carries = True
    job: int
    attempt: int
    kind: str
    done: float | None = None
    total: float | None = None
    header: bool = False
    control: int = 0
    number: int = 0


# -- kernel <-> slot ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup(Message):
    """kernel -> slot, before a Run when it has changed: where user modules and files are. None: as the process has it."""

    path: list[str] | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class HandBack(Message):
    """kernel -> slot: end the *attempt* when its present unit ends; others run the rest."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Drop(Message):
    """kernel -> slot: it has too much code; forget these, which come again before they are needed again.

    Code of a map that it waits for it sends to the kernel once more.
    """

    hashes: list[bytes]


@dataclass(frozen=True, slots=True)
class Cleans(Message):
    """slot -> kernel: the process holds a body of the *job* that has to clean up; *done*: it has."""

    job: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class Began(Message):
    """slot -> kernel, where units have a limit: the first unit of the *attempt* has begun, or, once in a while, another."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """slot -> kernel: the process is up and wants work."""

    pid: int


MESSAGES: dict[str, type[Message]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}

"""Every message of the protocol, grouped by direction. The docstrings are the protocol.

A message travels as a head (a msgpack list of at most 64 KiB: the version, the message, the payload if it is
short) and an opaque payload that only the two ends open, in one frame or in two (`park.wire.codec`). The message is
a list of its name and the values of its fields in the order in which they stand here, all of them. The types below
say what a field may hold, and `park.wire.codec.decode` holds every peer to it.

Version 2: the message is a list in the head; in version 1 its name and values stood there themselves.

*id* counts a peer's own requests (0: no answer expected); an answer carries it in *reply*.
*epoch* is the life of the broker in which a lease was given; an answer of another life is recognised by it.
*attempt* numbers one dispatch of a chunk. *map* is the key (16 bytes) of one map, *key* a request key (16 bytes).
*incarnation* is 16 random bytes that a peer keeps for its life; a *user* or *owner* has at most 200 bytes.

The same messages cross every border: client and broker, broker and kernel, and, over a Unix
socket pair, kernel and slot process.
"""

import sys
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct, field

# Annotations are evaluated here, once; as texts they would be again for each class, when the codec reads them.

VERSION = 2

MAX_INT = 2**63 - 1
MAX_ITEMS = 4096
_ITEMS = Meta(max_length=MAX_ITEMS)
#: Counts or names something. What is declared `int` may be negative, or fill 64 bits.
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
#: No infinity, and no NaN; a whole number will do.
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Counts = Annotated[list[Count], _ITEMS]
Texts = Annotated[list[str], _ITEMS]
Hashes = Annotated[list[bytes], _ITEMS]
Names = Annotated[dict[str, str], _ITEMS]
#: Anything plain, which nests at most 8 deep.
Record = Annotated[dict[str, Any], _ITEMS]


class Message(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """The root. `carries` says whether the payload means something."""

    carries: ClassVar[bool] = False


# -- any peer ----------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """client -> broker, first of all, and again after a reconnect. Answered by Welcome."""

    incarnation: bytes
    user: str
    python: str
    id: Count = 0


class KernelHello(Message, frozen=True):
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
    pid: Count
    slots: Count
    python: str
    attempts: Counts = field(default_factory=list)
    epoch: Count = 0
    memory: Count = 0
    labels: Texts = field(default_factory=list)
    packages: Names = field(default_factory=dict)
    owner: str = ""
    only: bool = False
    draining: bool = False


class Welcome(Message, frozen=True):
    """broker -> peer. Seconds between heartbeats and until a lease ends; *fresh*: the broker did not know the peer.

    *lost*: what was on its way may be lost; not where a peer says hello twice over one connection. *number*: that of a
    client in this life of the broker; another one means that what it had open has ended, though a Welcome that said so
    was lost. For people: the *release* of the broker, and *since* when it lives, seconds since 1970.
    """

    store: str
    epoch: Count
    heartbeat: Finite
    lease: Finite
    fresh: bool = True
    reply: Count = 0
    lost: bool = True
    number: Count = 0
    release: str = ""
    since: Finite = 0.0


class Heartbeat(Message, frozen=True):
    """Both ways, when nothing else was said for a while. A kernel names the attempts it holds and renews their leases."""

    epoch: Count = 0
    attempts: Counts = field(default_factory=list)


class Unwelcome(Message, frozen=True):
    """broker -> peer it does not know (it restarted, or the lease ran out): say hello again."""

    epoch: Count = 0


class Goodbye(Message, frozen=True):
    """A peer leaves on purpose."""

    reason: str = ""


class Part(Message, frozen=True):
    """A piece of a message that is too long for one: bytes *start* on of *size*.

    The first *head* bytes of all are the head of that message, the others its payload (`park.wire.parts`).
    """

    carries = True
    start: Count
    size: Count
    head: Count


class Blob(Message, frozen=True):
    """Code (a function or a body), known by the hash of its content ever after. The payload is the code."""

    carries = True
    hash: bytes
    reply: Count = 0


class NeedBlob(Message, frozen=True):
    """broker -> client, kernel -> broker, slot -> kernel: this code is missing here; send it, then go on."""

    hash: bytes


# -- client -> broker --------------------------------------------------------------------------


class Submit(Message, frozen=True):
    """A request. Answered by Accepted once it is on disk; a *key* seen before is answered with the same job.

    *body* is the hash of a Blob sent before. *total* None: more units follow in Units until *closed*.
    The payload is a pack of the first *count* units. ``once``: the body runs once, there are no units.
    ``session``: nothing is stored, the job's driver is the client itself, which sends Map messages.
    Each unit needs *cpus* slots at once, *memory* bytes, and a kernel with all *labels* and, for each package
    that it *requires*, one of its versions. ``pure``: a late unit may be started a second time, beside the first.
    The job may run for *max_time* seconds, each unit for *max_unit_time* (0: as long as it likes). *argv*: what its code
    finds in ``sys.argv``; empty: nothing of its own.
    """

    carries = True
    id: Count
    key: bytes
    body: bytes = b""
    kind: str = "job"
    name: str = ""
    tags: Texts = field(default_factory=list)
    priority: int = 0
    after: Counts = field(default_factory=list)
    when: Finite | None = None
    seed: int = 0
    on_error: str = "continue"
    idempotent: bool = True
    pure: bool = False
    cpus: Count = 1
    memory: Count = 0
    labels: Texts = field(default_factory=list)
    requires: Names = field(default_factory=dict)
    python: str = ""
    once: bool = False
    session: bool = False
    count: Count = 0
    closed: bool = True
    max_time: Finite = 0.0
    max_unit_time: Finite = 0.0
    argv: Texts = field(default_factory=list)


class Map(Message, frozen=True):
    """One call of a map, from a session's client or, through its kernel, from a driver (*attempt*).

    The payload is a pack of the first *count* units. A driver that sends it waits for all results
    and gives its slot back at once. *seed* is the map's own. Where it is sent again, because the connection was
    cut or the broker restarted, the results of all units before *start*, the first that comes, are there, and those of
    *answered*: [first, behind the last, ...]. *epoch* is the broker's life in which the map was sent first.
    """

    carries = True
    map: bytes
    job: Count
    function: bytes
    count: Count
    closed: bool = True
    seed: int = 0
    attempt: Count = 0
    epoch: Count = 0
    start: Count = 0
    answered: Counts = field(default_factory=list)


class Units(Message, frozen=True):
    """More units of a job (*job*, answered by Done once on disk) or of a session's map (*map*, no answer)."""

    carries = True
    start: Count
    count: Count
    closed: bool
    map: bytes = b""
    job: Count = 0
    id: Count = 0


class Cancel(Message, frozen=True):
    """No more results of this map are wanted: what has not begun is dropped, what runs is ended. Answered by Done.

    ``spare``: what runs goes on, and its results come. Answered by Dropped.
    """

    map: bytes
    id: Count = 0
    spare: bool = False


class Stop(Message, frozen=True):
    """End the job at its next safe point, with its best so far. broker -> kernel -> slot: the same for one *attempt*.

    *soft*: the attempt is told, and may end its units early, but runs each of them: its driver waits for them.
    """

    id: Count = 0
    job: Count = 0
    attempt: Count = 0
    soft: bool = False


class Abort(Message, frozen=True):
    """End the job now. broker -> kernel -> slot: the same for one *attempt*; the kernel kills what does not obey."""

    id: Count = 0
    job: Count = 0
    attempt: Count = 0


class Change(Message, frozen=True):
    """New values of what may change while a job lives (None: as it is). *paused*: no new units; drivers wait."""

    id: Count
    job: Count
    priority: int | None = None
    tags: Texts | None = None
    paused: bool | None = None


class Control(Message, frozen=True):
    """A message for the body of a job, pickled: the payload. Answered by Done once it is on disk.

    It is kept until the job has ended, or a checkpoint has what it has led to. One whose *key* (16 bytes) is known is not
    kept twice. broker -> kernel -> slot: the same, by *seq*, for all processes that run the job's own units.
    """

    carries = True
    job: Count
    id: Count = 0
    key: bytes = b""
    seq: Count = 0


class Delete(Message, frozen=True):
    """Forget a job that has ended, with its request, inputs and results. Answered by Done once nobody can find it."""

    id: Count
    job: Count


class Credits(Message, frozen=True):
    """The account of an *owner*, or of all ("*"). Answered by Records: a map an account, with its jobs' costs."""

    id: Count
    owner: str = "*"


class Grant(Message, frozen=True):
    """An admin gives an *owner* more credits. Answered by Done once it is on disk."""

    id: Count
    owner: str
    credits: Finite


class Drain(Message, frozen=True):
    """A kernel shall leave: it takes no new work, and hands back what has not ended within *grace* seconds.

    client -> broker, for the *kernel* that has this number in this *epoch*; answered by Done when that kernel knows, or
    is gone. broker -> kernel: the same.
    """

    id: Count = 0
    kernel: Count = 0
    grace: Finite = 0.0
    epoch: Count = 0


class Close(Message, frozen=True):
    """A session is over; with *reason* it ends aborted, else complete."""

    id: Count
    job: Count
    reason: str = ""


class Fetch(Message, frozen=True):
    """The result (and with *request* the request) of a job; with *wait* when it has ended.

    Answered by any number of Results (none without *results*: how it ended is all that is asked) and, with *request*, a
    Blob and Units, then by Fetched. Slot processes send it too (*attempt*), to resolve references.
    """

    id: Count
    job: Count
    wait: bool = False
    request: bool = False
    attempt: Count = 0
    results: bool = True


class Forget(Message, frozen=True):
    """The answer to request *id* is not wanted any more."""

    id: Count


class Status(Message, frozen=True):
    """The record of one job (*job*), or, where that is 0, of all that `park.search.Query` finds. Answered by Records.

    *fields*: of all that are found only these, as lists of their values; none are all fields, as maps. *below*: of archived
    jobs with numbers below that, the newest first, some at a time; none is left when none comes.
    """

    id: Count
    job: Count = 0
    owner: str = "*"
    states: Texts = field(default_factory=list)
    tags: Texts = field(default_factory=list)
    word: str = ""
    since: Finite = 0.0
    newest: Count = 0
    fields: Texts = field(default_factory=list)
    below: Count = 0


class Watch(Message, frozen=True):
    """Join a job's stream. Answered by Done, then Stream messages: "join" with the job's record, packed, with *logs* the
    last lines of its log, its header, then every later message; of a job that has ended the last one.

    *since*: who has followed before has had all messages up to that place. After "join" he gets those after it that are
    kept, and if some are not, before them an "error" without a record, which says so.
    """

    id: Count
    job: Count
    logs: bool = False
    since: Count | None = None


class Unwatch(Message, frozen=True):
    """Leave a job's stream."""

    job: Count


class Files(Message, frozen=True):
    """The file of a job called *name*, or ("") what files it has. Answered by Filed."""

    id: Count
    job: Count
    name: str = ""


class Logs(Message, frozen=True):
    """The last lines that a job has printed and logged. Answered by Records: packed lists of text, level and time."""

    id: Count
    job: Count


class Snapshot(Message, frozen=True):
    """The whole public table at one number of its sequence. Answered by Header."""

    id: Count


# -- broker -> client --------------------------------------------------------------------------


class Accepted(Message, frozen=True):
    """The job is on disk. *existed*: its key had been submitted before. *received*: units stored so far."""

    reply: Count
    job: Count
    existed: bool = False
    received: Count = 0


class Done(Message, frozen=True):
    """The request was carried out (and is on disk where that applies). *ignored*: a Control, of a job that has ended."""

    reply: Count
    ignored: bool = False


class Dropped(Message, frozen=True):
    """No more units of this map begin: *units*, [first, behind the last, ...], had not, and never will."""

    reply: Count
    map: bytes
    units: Counts


class Failure(Message, frozen=True):
    """The request was refused: *error* names a class of `park.errors.REFUSALS`, *text* says why and what to do."""

    reply: Count
    error: str
    text: str
    attempt: Count = 0


class Results(Message, frozen=True):
    """Results of units *start* to start + count of a map, or of a job (*reply*: of that Fetch). The payload is their pack.

    To a driver (through its kernel, *attempt*); *resume*: the map has ended and the driver has a slot again.
    """

    carries = True
    start: Count
    count: Count
    map: bytes = b""
    job: Count = 0
    attempt: Count = 0
    resume: bool = False
    reply: Count = 0


class Fetched(Message, frozen=True):
    """The end of the answer to a Fetch: the record of the job, and what was asked at submission."""

    reply: Count
    record: Record
    submit: Record = field(default_factory=dict)
    attempt: Count = 0
    once: bool = False


class Filed(Message, frozen=True):
    """The answer to File and to Files. The payload is the file that was asked for (*there*: there is one), or, where it
    was asked what there is, the sizes of all files of the job by name, packed.
    """

    carries = True
    reply: Count
    attempt: Count = 0
    there: bool = False


class Records(Message, frozen=True):
    """The payload is a packed list of maps, one a job; or of lists, for a Status that names fields."""

    carries = True
    reply: Count


class Stream(Message, frozen=True):
    """One message of a job's stream. *header*: the state so far, in answer to the Watch *reply*.

    *at*: its place among the messages of the job, the same in every life of the broker; 0: it has none. That of "join" is
    the last place before what follows. The payload is the message, pickled by the body; of the kinds that the broker makes
    (start, join, complete, error, abort) and of a log it is packed.
    """

    carries = True
    job: Count
    kind: str
    header: bool = False
    reply: Count = 0
    at: Count = 0


class MapFailed(Message, frozen=True):
    """The map cannot go on (its job ended, its code is missing); no more results come.

    With the error "Busy" its last units were not taken, because there is no room for them: say the map again in 2 s.
    """

    map: bytes
    error: str
    text: str


# -- broker -> mirrors -------------------------------------------------------------------------


class Header(Message, frozen=True):
    """The whole table at *seq*. The payload is a packed list of [table, key, fields]."""

    carries = True
    store: str
    epoch: Count
    seq: Count
    reply: Count = 0


class Deltas(Message, frozen=True):
    """One turn's changes; the first has number *seq*. The payload is a packed list of [table, key, fields or None]."""

    carries = True
    store: str
    epoch: Count
    seq: Count
    count: Count


class Head(Message, frozen=True):
    """Every second: the number of the last change, so that a lost tail shows; and, for people, what the broker's clock
    shows (*wall*), seconds since 1970.
    """

    store: str
    epoch: Count
    seq: Count
    wall: Finite = 0.0


# -- broker -> kernel (-> slot) ----------------------------------------------------------------


class Run(Message, frozen=True):
    """Run units *start* to start + count of a map. The payload is their pack. ``once``: the body of a job, no units.

    *seed* is the seed of the map. *apart*: this code has killed a process, never run it inside a driver's.
    *ahead*: all slots are busy; begin with it as soon as one is free, those that came first before it.
    *stored*: the answer goes to the disk; keep it until Committed says that it is there.
    *restored*: of some of the units there is a checkpoint, which Restore asks for.
    *limit*: seconds that each unit may run; the process of one that runs longer is ended.
    *served*: the checkpoint has what the controls up to this one have led to. *argv*: as in the Submit of its job.
    """

    carries = True
    attempt: Count
    job: Count
    owner: str
    map: bytes
    function: bytes
    start: Count
    count: Count
    seed: int
    epoch: Count = 0
    lease: Finite = 20.0
    once: bool = False
    apart: bool = False
    cpus: Count = 1
    memory: Count = 0
    ahead: bool = False
    stored: bool = False
    restored: bool = False
    limit: Finite = 0.0
    served: Count = 0
    argv: Texts = field(default_factory=list)


class Committed(Message, frozen=True):
    """The answers of these *attempts* are on disk: nobody will ask for them again.

    *heard*: attempt, number, attempt, number ...: of what that attempt has published, all up to that number is on disk, or
    nobody wants it.
    """

    attempts: Counts
    heard: Counts = field(default_factory=list)


class Again(Message, frozen=True):
    """There is room for the answer of *attempt*, which the broker has not kept: give it again."""

    attempt: Count


class Checkpointed(Message, frozen=True):
    """Checkpoint *number* of the attempt is on disk, and has what the controls up to *served* have led to."""

    attempt: Count
    number: Count
    served: Count = 0


class Resume(Message, frozen=True):
    """The driver *attempt*, whose map has ended, or that has lent its slot, has a slot again."""

    attempt: Count


class Lend(Message, frozen=True):
    """Another job is due, or this one is paused: the *attempt* shall lend its slot at its next safe point."""

    attempt: Count


class Release(Message, frozen=True):
    """The job has ended: processes that prepared it clean up."""

    job: Count


# -- (slot ->) kernel -> broker ----------------------------------------------------------------


class Finished(Message, frozen=True):
    """Units *start* to start + count of an attempt are answered. The payload is the pack of their results.

    *seconds*: time spent computing. *failed* of them raised, *unit* first, for *cause* (one line). *ended*: why it
    ended early ("abort", "stop": units that did not run have no result, *count* is smaller; "lost":
    the process could not go on for a reason that is not the units', run the rest again; "broken": the same, and the first
    of the rest had begun). *remark*: what the last of them to say something has to say of the job's result, for people.
    """

    carries = True
    attempt: Count
    map: bytes
    start: Count
    count: Count
    seconds: Finite
    failed: Count = 0
    unit: Count = 0
    cause: str = ""
    ended: str = ""
    epoch: Count = 0
    remark: str = ""


class Draining(Message, frozen=True):
    """The kernel takes no new work any more. It goes on with what it holds for a while, then says Goodbye."""

    epoch: Count = 0


class Lent(Message, frozen=True):
    """The *attempt* waits at its safe point and holds no slot; it goes on with Resume."""

    attempt: Count
    epoch: Count = 0


class Checkpoint(Message, frozen=True):
    """The state of *unit*, from which another attempt may go on; the payload is the state, pickled.

    *number* counts those of the attempt. Answered by Checkpointed once it is on disk; until then the kernel keeps the
    newest one of each attempt. *served*: the last control that its body has had, and so the state has what it has led to.
    broker -> kernel -> slot, with *reply*: the answer to Restore; empty: there is none.
    """

    carries = True
    attempt: Count
    job: Count
    unit: Count
    number: Count
    reply: Count = 0
    served: Count = 0


class Restore(Message, frozen=True):
    """Asks for the newest checkpoint of *unit*, which an earlier attempt has made. Answered by Checkpoint."""

    id: Count
    attempt: Count
    unit: Count


class File(Message, frozen=True):
    """A job's file *name*, from inside a body: *how* "put" keeps the payload under that name, "get" asks for it, "drop"
    forgets it, "list" asks what there is. Answered by Filed, of a change once it is on disk.
    """

    carries = True
    id: Count
    attempt: Count
    name: str
    how: str


class Crashed(Message, frozen=True):
    """A slot process died. *attempts* it held, outermost first: the last was running, the others waited in it.

    *late*: its kernel has ended it, because a unit of the last one ran longer than its limit.
    """

    attempts: Counts
    cause: str
    stderr: str = ""
    epoch: Count = 0
    late: bool = False


class Publish(Message, frozen=True):
    """A message of a running body for the job's stream. The payload is the message, pickled.

    *kind* is an identifier of at most 100 bytes. For the kind "progress" *done*, *total*, *units* and *note* are read,
    and shown to everybody. *header*: what a late subscriber gets first, of at most 1 MiB. *control*: the one with which
    something went wrong, which several processes may find; it is told once. *number*: its place among those of the attempt,
    from 1 on; the kernel keeps it, and gives it again after contact was lost, until Committed says that the broker has
    heard it. 0: only the latest of its kind matters.
    """

    carries = True
    job: Count
    attempt: Count
    kind: str
    done: Finite | None = None
    total: Finite | None = None
    units: str = ""
    note: str = ""
    header: bool = False
    control: Count = 0
    number: Count = 0


# -- kernel <-> slot ---------------------------------------------------------------------------


class Setup(Message, frozen=True):
    """kernel -> slot, before a Run when it has changed: where user modules and files are, and what jobs that have no
    ``sys.argv`` of their own find there. None: as the process has it.
    """

    path: Texts | None = None
    folder: str | None = None
    argv: Texts | None = None


class HandBack(Message, frozen=True):
    """kernel -> slot: end the *attempt* when its present unit ends; others run the rest."""

    attempt: Count


class Drop(Message, frozen=True):
    """kernel -> slot: it has too much code; forget these, which come again before they are needed again.

    Code of a map that it waits for it sends to the kernel once more.
    """

    hashes: Hashes


class Cleans(Message, frozen=True):
    """slot -> kernel: the process holds a body of the *job* that has to clean up; *done*: it has. *spent*: the job has left
    something in its process, which is to be replaced.
    """

    job: Count
    done: bool = False
    spent: bool = False


class Began(Message, frozen=True):
    """slot -> kernel, where units have a limit: the first unit of the *attempt* has begun, or, once in a while, another."""

    attempt: Count


class Ready(Message, frozen=True):
    """slot -> kernel: the process is up and wants work."""

    pid: Count


MESSAGES: dict[str, type[Message]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}

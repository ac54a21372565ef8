"""Every message of the protocol, grouped by direction. The docstrings are the protocol.

A message travels as a head and an opaque payload, in one frame or in two (`park.wire.codec`). The head is a msgpack list
of at most 64 KiB: the version, the message, and the payload if it is short. Only the two ends open a payload. The message
is a list of its name and the values of all its fields, in the order in which the fields stand here. The types below say
which values a field may hold, and `park.wire.codec.decode` holds every peer to them. A payload is empty where its message
does not set `carries`. A message may have more than 20 fields, because the list is flat.

Version 2: the message is a list in the head. In version 1 its name and values stood in the head itself.

*id* numbers a peer's own requests (0: no answer is expected); the answer repeats it in *reply*. *epoch* is the life of
the broker in which a lease was given; it identifies answers that belong to another life. *attempt* is the number of one
dispatch of a chunk. *map* is the key (16 bytes) of one map, *key* a request key (16 bytes). *incarnation* is 16 random
bytes that a peer keeps for its life. A *user* or *owner* has at most 200 bytes. A list of ranges holds the first unit of
each range and the unit behind its last: [first, stop, first, stop ...].

The same messages cross every border: client and broker, broker and kernel, and, over a Unix socket pair, kernel and slot
process.
"""

import sys
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct, field

# Without `from __future__ import annotations`: the codec would evaluate annotations that are texts again for each class.

VERSION = 2

#: In place of the fields of a Status: the number of jobs instead of their records.
COUNT = "count"
MAX_INT = 2**63 - 1
MAX_ITEMS = 4096
_ITEMS = Meta(max_length=MAX_ITEMS)
#: A count, or a number that names something. A plain `int` may also be negative, and fill 64 bits.
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
#: A number that is neither infinite nor NaN; whole numbers are accepted.
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Counts = Annotated[list[Count], _ITEMS]
Texts = Annotated[list[str], _ITEMS]
Hashes = Annotated[list[bytes], _ITEMS]
Names = Annotated[dict[str, str], _ITEMS]
#: Any plain value that nests at most 8 deep.
Record = Annotated[dict[str, Any], _ITEMS]


class Message(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """The base of all messages. `carries` says whether the payload has a meaning."""

    carries: ClassVar[bool] = False


# -- any peer ----------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """client -> broker: the first message, sent again after each reconnect. The broker answers with Welcome."""

    incarnation: bytes
    user: str
    python: str
    id: Count = 0


class KernelHello(Message, frozen=True):
    """kernel -> broker: the first message, sent again after each reconnect. The broker answers with Welcome.

    *attempts* are the attempts that the kernel holds, and those that it has answered without a confirmation that the
    answer counts. The payload is a packed list with one entry for each of them, in the same order, for a broker of
    another life: [map, start, count, cpus, memory, how, seconds, told, gpus, devices]. *how* is "runs" (for *seconds* so
    far), "ahead" (of a free slot), "waits" (for a map, or at a safe point) or "done" (it ran for *seconds*, and its answer
    follows). *told* is the number of the last control that the attempt received. *gpus* and *devices*: as in its Run.

    Its resources: *memory* (bytes; 0: unknown), *gpus* (their number), *labels*, *packages* by name with their versions,
    and named *environments* with their minor versions of Python.
    It serves *owner* ("": no owner in particular) first, or *only* that owner. With a *job* it serves that private job
    alone, and the broker sends it away when the job has ended. *draining*: as after Draining; *serves* and *pause*: as
    after Serving. Kernels with the same *machine* can open each other's files in memory; "": it takes no code from
    others. *peers*: the IP address at which kernels of other machines fetch code from it, as it does from them; "": they
    do not. For people: the *batch* job in whose allocation it runs, and the name of its *node* there; "" where there is
    none.
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
    batch: str = ""
    node: str = ""
    serves: str = "all"
    pause: str = ""
    job: Count = 0
    gpus: Count = 0
    environments: Names = field(default_factory=dict)
    machine: str = ""
    peers: str = ""


class Welcome(Message, frozen=True):
    """broker -> peer: contact is made.

    *heartbeat* is the number of seconds between heartbeats, *lease* the number of seconds without news after which a
    lease ends. *fresh*: the broker did not know the peer. *lost*: messages that were under way may be lost; false where a
    peer says hello twice over one connection. *number* is the client's number in this life of the broker. Another number
    than before means that the client's sessions have ended, even though a Welcome that said so was lost. *release* (of
    the broker) and *since* (when this life began, seconds since 1970) are for people. *mails*: "all" where it sends news of
    ended jobs, "channels" where none to addresses, "" where none at all.
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
    mails: str = ""


class Heartbeat(Message, frozen=True):
    """Both ways: sent when a peer has sent nothing else for a heartbeat. A kernel lists the attempts that it holds, which
    renews their leases.
    """

    epoch: Count = 0
    attempts: Counts = field(default_factory=list)


class Unwelcome(Message, frozen=True):
    """broker -> peer: the broker restarted or the lease ran out, so the peer is unknown; it says hello again."""

    epoch: Count = 0


class Goodbye(Message, frozen=True):
    """Both ways: the peer leaves on purpose."""

    reason: str = ""


class Part(Message, frozen=True):
    """A part of a message that is too long for one frame: bytes from *start* on, of *size* in all.

    The first *head* of those bytes are the head of the long message, the others its payload (`park.wire.fragments`).
    """

    carries = True
    start: Count
    size: Count
    head: Count


class Proceed(Message, frozen=True):
    """broker -> peer: there is room for *size* more bytes of the long messages that the peer sends in parts.

    A peer sends some megabytes of them before it is told (`park.net.intake`).
    """

    size: Count


class Blob(Message, frozen=True):
    """The code of a function or a body: the payload. From then on both ends name it by the *hash* of its content.

    *brief*: it is for maps of a session, which are not stored.
    """

    carries = True
    hash: bytes
    reply: Count = 0
    brief: bool = False


class NeedBlob(Message, frozen=True):
    """broker -> client, kernel -> broker, slot -> kernel: the sender lacks the code *hash*. The receiver sends it as a
    Blob, and the work that needs it goes on. A kernel gives back the work that needs it, and offers it to others no longer.
    """

    hash: bytes


class Share(Message, frozen=True):
    """broker -> kernel: other kernels need the code *hash*, which this one was sent. It answers with Shared. *abroad*:
    some are on other machines.
    """

    hash: bytes
    abroad: bool = False


class Shared(Message, frozen=True):
    """kernel -> broker: the code *hash* is here. Kernels of the same machine find it as the descriptor *file* of *process*,
    a sealed file in memory. Kernels of other machines fetch it at *port*, encrypted: *cipher* is the name of the
    ciphertext and *key* its key (`park.net.ciphertext`). The broker makes tickets from *secret*. Port 0: they cannot
    fetch it here.
    """

    hash: bytes
    process: Count
    file: Count
    port: Count = 0
    cipher: bytes = b""
    key: bytes = b""
    secret: bytes = b""


class Offer(Message, frozen=True):
    """broker -> kernel: work needs the code *hash*, of *size* bytes, and another kernel has it. This one takes it there,
    and answers with Shared, or with NeedBlob. The bytes count only if their hash is right. *trusted*: both kernels have
    shown the same key, so that nobody else can have changed them, and the hash need not be looked at.

    *process* and *file*, or *address*, *cipher* and *key*: as in Shared. *ticket* is good for one fetch at the address.
    With neither a process nor an address, that kernel is about to have the code, and a further Offer comes.
    """

    hash: bytes
    size: Count
    process: Count = 0
    file: Count = 0
    address: str = ""
    cipher: bytes = b""
    key: bytes = b""
    ticket: bytes = b""
    trusted: bool = False


class Serve(Message, frozen=True):
    """broker -> kernel: another kernel will fetch the ciphertext *cipher*, with this *ticket*, within some *seconds*."""

    cipher: bytes
    ticket: bytes
    seconds: Finite


# -- client -> broker --------------------------------------------------------------------------


class Submit(Message, frozen=True):
    """client -> broker: a request. The broker answers with Accepted once it is on disk; a *key* that it has seen before
    names the same job.

    *body* is the hash of a Blob that was sent before. The payload is a pack of the first *count* units; unless *closed*,
    more follow in Units. *once*: the body runs once and there are no units. *session*: the job is not stored, and its
    driver is the client itself, which sends Map messages.

    The job is held until the jobs of *after* have completed, and until *when* (seconds since 1970; None: no time). Each
    unit needs *cpus* slots at once, *gpus* (whole ones, or a part of one), *memory* bytes, and a kernel with all *labels*
    and, for each package in *requires*, one of the versions given there. *on_error*: "continue" runs the other units when
    one fails, "stop" ends the job. *idempotent*: a unit may run a second time after a lost lease. *pure*: a second copy of
    a late unit may start beside the first. The job may run for *max_time* seconds and each unit for *max_unit_time*
    seconds (0: no limit); after *max_time* it has *grace* seconds to end (0: the broker's default). *argv* is ``sys.argv``
    for its code; empty: the process's own. *notify*: an address of mail and
    when it gets news of the job's end, as ``park.Request`` has it; "" and "never": no mail. *private*: only kernels that
    serve this job alone run it. *environment*: the kernel has an environment of this name, in which its units run.
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
    notify: str = ""
    private: bool = False
    gpus: Finite = 0.0
    environment: str = ""
    grace: Finite = 0.0


class Map(Message, frozen=True):
    """client -> broker, or driver -> kernel -> broker (*attempt*): one call of a map in the session or job *job*.

    The payload is a pack of the first *count* units; unless *closed*, more follow in Units. A driver that sends a map
    waits for all its results and gives its slot back at once. *seed* is the seed of the map. *epoch* is the life of the
    broker in which the map was sent first.

    The sender repeats the message after the connection was cut or the broker restarted. It then has the results of all
    units before *start*, the first unit of the payload, and those of the ranges in *answered*.

    *calls*: the units are calls that do not know each other. They travel in short chunks, so that a slow one holds up few
    others.
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
    calls: bool = False


class Units(Message, frozen=True):
    """client -> broker: further units of a job (*job*; the broker answers with Done once they are on disk) or of a
    session's map (*map*; no answer). The payload is their pack; *start* is the number of the first.
    """

    carries = True
    start: Count
    count: Count
    closed: bool
    map: bytes = b""
    job: Count = 0
    id: Count = 0


class Cancel(Message, frozen=True):
    """client -> broker: no more results of this map are wanted. Units that have not begun are dropped, and running ones
    are ended. The broker answers with Done.

    *spare*: running units go on, and their results come. The broker answers with Dropped. With *units*, ranges of units
    [first, behind the last, ...], only those are dropped, and the others still run.
    """

    map: bytes
    id: Count = 0
    spare: bool = False
    units: Counts = field(default_factory=list)


class Stop(Message, frozen=True):
    """client -> broker: end the job at its next safe point, with its best result so far. broker -> kernel -> slot: the
    same for one *attempt*.

    *soft*: the attempt learns of the stop and may shorten each unit, but runs all of them, because its driver waits for
    them.
    """

    id: Count = 0
    job: Count = 0
    attempt: Count = 0
    soft: bool = False


class Abort(Message, frozen=True):
    """client -> broker: end the job now. broker -> kernel -> slot: the same for one *attempt*; the kernel kills a process
    that does not obey.
    """

    id: Count = 0
    job: Count = 0
    attempt: Count = 0


class Change(Message, frozen=True):
    """client -> broker: new values (None: unchanged). *paused*: no new units start, and drivers wait at a safe point.
    *allocation*: of a private job, how it stands with the allocation that its kernels come from, in words.
    """

    id: Count
    job: Count
    priority: int | None = None
    tags: Texts | None = None
    paused: bool | None = None
    allocation: str | None = None


class Control(Message, frozen=True):
    """client -> broker: a message to the body of a job. The payload is the message, pickled. The broker answers with Done
    once it is on disk.

    The broker keeps it until the job has ended, or until a checkpoint contains its effects. It keeps a *key* (16 bytes)
    once. broker -> kernel -> slot: the same, under the number *seq*, for all processes that run the job's own units.
    """

    carries = True
    job: Count
    id: Count = 0
    key: bytes = b""
    seq: Count = 0


class Delete(Message, frozen=True):
    """client -> broker: forget a job that has ended, with its request, inputs and results. The broker answers with Done
    once the job can no longer be found.
    """

    id: Count
    job: Count


class Credits(Message, frozen=True):
    """client -> broker: asks for the account of *owner*, or for all accounts ("*"). The broker answers with Records: one
    map for each account, with the costs of its jobs.
    """

    id: Count
    owner: str = "*"


class Backlog(Message, frozen=True):
    """client -> broker: asks how many slots the work that waits could use in kernels of a kind. The broker answers with
    Records: one map, as `park.model.WaitingWork` has it.

    *like*: a label; once a kernel with it has connected, its resources count, else *python*, *slots*, *memory* (0: enough),
    *gpus* and *labels*, and whatever packages are asked for. *owner* and *only* are as in a KernelHello. Units that take
    longer than *seconds* do not count (0: all do), nor do jobs below *priority*.
    """

    id: Count
    like: str = ""
    python: str = ""
    slots: Count = 1
    memory: Count = 0
    labels: Texts = field(default_factory=list)
    owner: str = ""
    only: bool = False
    seconds: Finite = 0.0
    priority: int = -3
    gpus: Count = 0


class Grant(Message, frozen=True):
    """client -> broker: an admin adds *credits* to the account of *owner*. Answered by Done once it is on disk."""

    id: Count
    owner: str
    credits: Finite


class Drain(Message, frozen=True):
    """A kernel is to leave: it takes no new work, and hands back the work that has not ended within *grace* seconds.

    client -> broker, for the *kernel* that has this number in this *epoch*; the broker answers with Done when that kernel
    knows, or is gone. broker -> kernel: the same, with a *reason* in words.
    """

    id: Count = 0
    kernel: Count = 0
    grace: Finite = 0.0
    epoch: Count = 0
    reason: str = ""


class Close(Message, frozen=True):
    """client -> broker: the session *job* is over. With a *reason* it ends aborted, else complete."""

    id: Count
    job: Count
    reason: str = ""


class Fetch(Message, frozen=True):
    """client -> broker: asks for the result of a job, and with *request* for its request; with *wait*, once the job has
    ended.

    The answer is any number of Results, then, with *request*, a Blob and Units, then Fetched. Without *results* no
    Results come: the sender only asks how the job ended. Slot processes send it too (*attempt*), to resolve references.
    """

    id: Count
    job: Count
    wait: bool = False
    request: bool = False
    attempt: Count = 0
    results: bool = True


class Forget(Message, frozen=True):
    """client -> broker: the answer to request *id* is no longer wanted."""

    id: Count


class Status(Message, frozen=True):
    """client -> broker: asks for the record of one job (*job*), or, where that is 0, for the records of all jobs that
    match the other fields (`park.table.query.Query`). The broker answers with Records.

    The map of one job has the entry "wait" besides: why it waits, the fields of `park.wait_reason.WaitReason`.

    *fields*: only these fields, as a list of values for each job; empty: all fields, as a map for each job. *below*:
    archived jobs with smaller numbers, newest first, a page at a time; an empty page is the last. With *below* and `COUNT`
    as the only field the answer is one list, whose one item is the number of all these archived jobs.
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
    """client -> broker: follow a job's stream. The broker answers with Done, then with Stream messages: "join" with the
    job's record, packed; with *logs* the last lines of its log; the header; then each later message. Of a job that has
    ended only the last message follows.

    *since*: the follower has had all messages up to that place. After "join" it gets the kept messages behind that place.
    Where some are no longer kept, an "error" without a record comes first and says so.
    """

    id: Count
    job: Count
    logs: bool = False
    since: Count | None = None


class Unwatch(Message, frozen=True):
    """client -> broker: stop following a job's stream."""

    job: Count


class Files(Message, frozen=True):
    """client -> broker: asks for the file *name* of a job, or (name "") for the names and sizes of all its files. The
    broker answers with Filed.
    """

    id: Count
    job: Count
    name: str = ""


class Logs(Message, frozen=True):
    """client -> broker: asks for the last lines that a job has printed and logged. The broker answers with Records: packed
    lists of text, level and time.
    """

    id: Count
    job: Count


class Snapshot(Message, frozen=True):
    """mirror -> broker: asks for the whole public table at one number of its sequence. Answered by Header."""

    id: Count


# -- broker -> client --------------------------------------------------------------------------


class Accepted(Message, frozen=True):
    """broker -> client: the job is on disk. *existed*: a request with this key had been submitted before. *received*:
    units stored so far.
    """

    reply: Count
    job: Count
    existed: bool = False
    received: Count = 0


class Done(Message, frozen=True):
    """broker -> client: the request was carried out, and is on disk where it changes stored state. *ignored*: the request
    was a Control of a job that has ended.
    """

    reply: Count
    ignored: bool = False


class Dropped(Message, frozen=True):
    """broker -> client: the answer to a Cancel that spares what runs. *units* are the ranges that had not begun and never
    will.
    """

    reply: Count
    map: bytes
    units: Counts


class Failure(Message, frozen=True):
    """broker -> client: the request was refused. *error* names a class of `park.errors.REFUSALS`; *text* says why, and
    what to do.
    """

    reply: Count
    error: str
    text: str
    attempt: Count = 0


class Results(Message, frozen=True):
    """broker -> client: the results of units *start* to start + count of a map, or of a job (*reply*: of that Fetch). The
    payload is their pack.

    broker -> kernel -> slot (*attempt*): the same for a driver. *resume*: the map has ended, and the driver has a slot
    again.
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
    """broker -> client: the end of the answer to a Fetch, with the job's *record* and the fields of its *submit*."""

    reply: Count
    record: Record
    submit: Record = field(default_factory=dict)
    attempt: Count = 0
    once: bool = False


class Filed(Message, frozen=True):
    """broker -> client, or broker -> kernel -> slot: the answer to Files and to File. The payload is the file (*there*: it
    exists), or, where the request asked for names, a packed map from the name of each of the job's files to its size.
    """

    carries = True
    reply: Count
    attempt: Count = 0
    there: bool = False


class Records(Message, frozen=True):
    """broker -> client: the payload is a packed list with one map for each job, or, for a Status that names fields, one
    list.
    """

    carries = True
    reply: Count


class Stream(Message, frozen=True):
    """broker -> client: one message of a job's stream. *header*: the state so far, in answer to the Watch *reply*.

    *at* is the place of the message in the job's stream, the same in every life of the broker (0: it has no place). The
    place of "join" is the last one before the messages that follow. The payload is the message: packed where it is plain,
    pickled by the body where it is not. Messages of the broker's own kinds (start, join, complete, error, abort) and of a
    log are packed.
    """

    carries = True
    job: Count
    kind: str
    header: bool = False
    reply: Count = 0
    at: Count = 0


class MapFailed(Message, frozen=True):
    """broker -> client: the map cannot go on (its session has ended, or its code is missing), and no more results come.

    broker -> kernel -> slot (*attempt*): the map of a driver was refused, and the driver has its slot again.

    With the error "Busy" the broker had no space for the map's last units: the sender repeats the map after 2 s.

    *job*: the session; 0: whichever the map has now. A client that the broker did not know any more opens its sessions
    anew, with their maps under the same keys: what is said of the old session comes too late.
    """

    map: bytes
    error: str
    text: str
    job: int = 0
    attempt: Count = 0


# -- broker -> mirrors -------------------------------------------------------------------------


class Header(Message, frozen=True):
    """broker -> mirror: the whole table at *seq*. The payload is a packed list of [table, key, fields]."""

    carries = True
    store: str
    epoch: Count
    seq: Count
    reply: Count = 0


class Deltas(Message, frozen=True):
    """broker -> mirrors: the changes of one turn of the broker. The first has number *seq*, and there are *count*. The
    payload is a packed list of [table, key, fields]; fields None removes the row.
    """

    carries = True
    store: str
    epoch: Count
    seq: Count
    count: Count


class Head(Message, frozen=True):
    """broker -> mirrors, every second: the number of the last change, so that a mirror notices lost changes. *wall* is the
    broker's clock, seconds since 1970, for people.
    """

    store: str
    epoch: Count
    seq: Count
    wall: Finite = 0.0
    #: messages at which the broker itself has failed since its process began
    faults: Count = 0
    #: the time of its last write to the disk (seconds), and its clients
    commit: Finite = 0.0
    clients: Count = 0
    #: bytes of its store's file in pages that hold nothing
    unused: Count = 0


# -- broker -> kernel (-> slot) ----------------------------------------------------------------


class Run(Message, frozen=True):
    """broker -> kernel -> slot: run units *start* to start + count of a map. The payload is their pack. *once*: run the
    body of a job, which has no units.

    *seed* is the seed of the map. *apart*: this code has killed a process, and must not run inside the process of a
    driver. *ahead*: all slots are busy; the kernel begins with it when one is free, after those that came earlier.
    *stored*: the answer goes to the disk, and the kernel keeps the answer until Committed. *restored*: some units have a
    checkpoint, which Restore asks for. *limit*: seconds that each unit may run (0: no limit); the kernel ends the process
    of a unit that runs longer. *served*: the checkpoint contains the effects of the controls up to this number. *argv*:
    as in the job's Submit. *devices*: the GPUs of the kernel, numbered from 0, that the units see; of each they have a
    part, or with *gpus* from 1 on the whole. *environment*: as in the job's Submit.
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
    gpus: Finite = 0.0
    devices: Counts = field(default_factory=list)
    environment: str = ""


class Committed(Message, frozen=True):
    """broker -> kernel: the answers of these *attempts* are on disk, and will not be asked for again.

    *heard*: [attempt, number, attempt, number ...]. All messages up to that number that the attempt has published are on
    disk, or are no longer wanted.
    """

    attempts: Counts
    heard: Counts = field(default_factory=list)


class Again(Message, frozen=True):
    """broker -> kernel: there is space now for the answer of *attempt*, which the broker had not kept; send it again."""

    attempt: Count


class Checkpointed(Message, frozen=True):
    """broker -> kernel -> slot: checkpoint *number* of the attempt is on disk. It contains the effects of the controls up
    to *served*.
    """

    attempt: Count
    number: Count
    served: Count = 0


class Resume(Message, frozen=True):
    """broker -> kernel -> slot: the driver *attempt*, whose map has ended or that has lent its slot, has a slot again."""

    attempt: Count


class Lend(Message, frozen=True):
    """broker -> kernel -> slot: another job is due, or this one is paused. The *attempt* is to lend its slot at its next
    safe point.
    """

    attempt: Count


class Aside(Message, frozen=True):
    """broker -> kernel: the *attempt*, which has handed back units, goes on without its slot: earlier units get that."""

    attempt: Count


class Release(Message, frozen=True):
    """broker -> kernel -> slot: the job has ended. Processes that prepared it clean up."""

    job: Count


# -- (slot ->) kernel -> broker ----------------------------------------------------------------


class Finished(Message, frozen=True):
    """slot -> kernel -> broker: units *start* to start + count of an attempt are answered. The payload is the pack of
    their results.

    *seconds*: time spent computing. *failed* of them raised; *unit* was the first, for *cause* (one line). *ended* says
    why the attempt ended early: "abort" or "stop" (units that did not run have no result, and *count* is smaller), "lost"
    (the process could not go on for a reason that lies outside the units: the rest runs again) or "broken" (the same, and
    the first unit of the rest had begun). *remark*: the last remark of a unit on the job's result, for people.
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


class HandBack(Message, frozen=True):
    """kernel -> broker: the *attempt* keeps its units before *stop*. The others have not begun, and run elsewhere."""

    attempt: Count
    stop: Count
    epoch: Count = 0


class Early(Message, frozen=True):
    """slot -> kernel -> broker: units *start* to start + count of an attempt are answered, and a later one is late. The
    payload is the pack of their results, of which *failed* are errors. Finished brings them once more.
    """

    carries = True
    attempt: Count
    start: Count
    count: Count
    failed: Count = 0
    epoch: Count = 0


class Draining(Message, frozen=True):
    """kernel -> broker: the kernel takes no new work. It goes on with the work that it holds, then says Goodbye."""

    epoch: Count = 0


class Serving(Message, frozen=True):
    """kernel -> broker: the kernel takes new work of "all" whom it serves, of its "own" owner, or of "none".

    The *pause* says why it takes less than it might, in words for people. Work that it holds goes on; it hands back
    the work that has not begun.
    """

    serves: str
    pause: str = ""
    epoch: Count = 0


class Lent(Message, frozen=True):
    """slot -> kernel -> broker: the *attempt* waits at its safe point without a slot. It goes on with Resume."""

    attempt: Count
    epoch: Count = 0


class Checkpoint(Message, frozen=True):
    """slot -> kernel -> broker: the state of *unit*, from which another attempt may go on. The payload is the state,
    pickled.

    *number* counts the checkpoints of the attempt. The broker answers with Checkpointed once the state is on disk; until
    then the kernel keeps the newest checkpoint of each attempt. *served* is the last control that the body has received,
    so the state contains the effects of all controls up to it. broker -> kernel -> slot, with *reply*: the answer to
    Restore; empty: there is no checkpoint.
    """

    carries = True
    attempt: Count
    job: Count
    unit: Count
    number: Count
    reply: Count = 0
    served: Count = 0


class Restore(Message, frozen=True):
    """slot -> kernel -> broker: asks for the newest checkpoint of *unit*, made by an earlier attempt. Answered by
    Checkpoint.
    """

    id: Count
    attempt: Count
    unit: Count


class File(Message, frozen=True):
    """slot -> kernel -> broker: a body uses the job's file *name*. *how* is "put" (the payload becomes the file), "get"
    (asks for the file), "drop" (removes the file) or "list" (asks for all names and sizes). The broker answers with
    Filed, after a change once it is on disk.
    """

    carries = True
    id: Count
    attempt: Count
    name: str
    how: str


class Crashed(Message, frozen=True):
    """kernel -> broker: a slot process died. *attempts* are those that it held, outermost first: the last one was running,
    and the others waited in it.

    *late*: the kernel has ended the process, because a unit of the last attempt ran longer than its limit. *proven*: the
    units of the last attempt are to blame beyond doubt, because they held too much memory in a process that has run nothing
    else.
    """

    attempts: Counts
    cause: str
    stderr: str = ""
    epoch: Count = 0
    late: bool = False
    proven: bool = False


class Publish(Message, frozen=True):
    """slot -> kernel -> broker: a message of a running body for the job's stream. The payload is the message, packed where
    it is plain, else pickled.

    *kind* is an identifier of at most 100 bytes. For the kind "progress" the broker reads *done*, *total*, *units* and
    *note*, and shows them in the table. *header*: later followers get this message first; it has at most 1 MiB. *control*
    is the number of a control whose handler failed; several processes may report it, and the stream shows it once.
    *number* is the place among the messages of the attempt, from 1 on: the kernel keeps the message, and sends it again
    after contact was lost, until Committed says that the broker has it. Number 0: only the latest message of its kind
    matters.
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
    """kernel -> slot, before a Run whose settings differ: the search *path* of modules, the working *folder*, and the
    ``sys.argv`` of jobs that bring none of their own. None: as the process has it.
    """

    path: Texts | None = None
    folder: str | None = None
    argv: Texts | None = None


class Save(Message, frozen=True):
    """kernel -> slot: the kernel leaves soon, so the body of the *attempt* makes a checkpoint."""

    attempt: Count


class Drop(Message, frozen=True):
    """kernel -> slot: the process holds too much code. It forgets these blobs, and gets each again before it is needed.
    Code of a map that a driver in it waits for it first sends back to the kernel.
    """

    hashes: Hashes


class Cleans(Message, frozen=True):
    """slot -> kernel: the process holds a body of the *job* that has a cleanup to run; *done*: the cleanup has ended.
    *spent*: the job has left its process in a state that no other job may meet, and the kernel replaces the process.
    """

    job: Count
    done: bool = False
    spent: bool = False


class Began(Message, frozen=True):
    """slot -> kernel, where units have a time limit: the first unit of the *attempt* has begun, or, once in a while, a
    later one.
    """

    attempt: Count


class Ready(Message, frozen=True):
    """slot -> kernel: the process has started and can take work."""

    pid: Count


MESSAGES: dict[str, type[Message]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
}

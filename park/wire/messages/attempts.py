"""Attempts: units on their way to a kernel and its slot processes, and everything that comes back from them.

A message may have more than 20 fields: it travels as a flat list.
"""

from msgspec import field

from park.wire.messages.base import Count, Counts, Finite, Message, Texts


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


class Finished(Message, frozen=True):
    """slot -> kernel -> broker: units *start* to start + count of an attempt are answered. The payload is the pack of
    their results.

    *seconds*: time spent computing. *failed* of them raised; *unit* was the first, for *cause* (one line). *ended* says
    why the attempt ended early. With "abort" or "stop", units that did not run have no result, and *count* is smaller.
    With "lost" the process could not go on for a reason outside the units, and the other units run again. "broken"
    means the same, but the first of those units had begun. *remark*: the last remark of a unit on the job's result, for
    people.
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


class HandBack(Message, frozen=True):
    """kernel -> broker: the *attempt* keeps its units before *stop*. The others have not begun, and run elsewhere."""

    attempt: Count
    stop: Count
    epoch: Count = 0


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


class Resume(Message, frozen=True):
    """broker -> kernel -> slot: the driver *attempt*, whose map has ended or that has lent its slot, has a slot again."""

    attempt: Count


class Lend(Message, frozen=True):
    """broker -> kernel -> slot: another job is due, or this one is paused. The *attempt* is to lend its slot at its next
    safe point.
    """

    attempt: Count


class Lent(Message, frozen=True):
    """slot -> kernel -> broker: the *attempt* waits at its safe point without a slot. It goes on with Resume."""

    attempt: Count
    epoch: Count = 0


class Aside(Message, frozen=True):
    """broker -> kernel: the *attempt*, which has handed back units, goes on without its slot: earlier units get that."""

    attempt: Count


class Release(Message, frozen=True):
    """broker -> kernel -> slot: the job has ended. Processes that prepared it clean up."""

    job: Count


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


class Checkpointed(Message, frozen=True):
    """broker -> kernel -> slot: checkpoint *number* of the attempt is on disk. It contains the effects of the controls up
    to *served*.
    """

    attempt: Count
    number: Count
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


class Publish(Message, frozen=True):
    """slot -> kernel -> broker: a message of a running body for the job's stream. The payload is the message, packed where
    it is plain, else pickled.

    *kind* is an identifier of at most 100 bytes. For the kind "progress" the broker reads *done*, *total*, *units* and
    *note*, and shows them in the table. *header*: later followers get this message first; it has at most 1 MiB.
    *control* is the number of a control whose handler failed; several processes may report it, and the stream shows it
    once. *number* counts the messages of the attempt from 1: a slot process gives them numbers among the marks of its
    printed lines, and the kernel counts anew, with the lines between them. It keeps the message until Committed says
    that the broker has it, and sends it again after contact was lost. Number 0: only the latest message of its kind
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


class Began(Message, frozen=True):
    """slot -> kernel, where units have a time limit: the first unit of the *attempt* has begun, or, once in a while, a
    later one.
    """

    attempt: Count


class Cleans(Message, frozen=True):
    """slot -> kernel: the process holds a body of the *job* that has a cleanup to run; *done*: the cleanup has ended.
    *spent*: the job has left its process in a state that no other job may meet, and the kernel replaces the process.
    """

    job: Count
    done: bool = False
    spent: bool = False


class Ready(Message, frozen=True):
    """slot -> kernel: the process has started and can take work."""

    pid: Count

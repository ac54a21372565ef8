"""Requests of clients that make, change, end or fetch jobs, and the answers.

A message may have more than 20 fields: it travels as a flat list.
"""

from msgspec import field

from park.wire.messages.base import Count, Counts, Finite, Message, Names, Record, Texts


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
    serve this job alone run it. *shares*: the private job whose kernels run it (0: none). *environment*: the kernel has an
    environment of this name, in which its units run.
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
    shares: Count = 0


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


class Failure(Message, frozen=True):
    """broker -> client: the request was refused. *error* names a class of `park.errors.REFUSALS`; *text* says why, and
    what to do.
    """

    reply: Count
    error: str
    text: str
    attempt: Count = 0


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


class Close(Message, frozen=True):
    """client -> broker: the session *job* is over. With a *reason* it ends aborted, else complete."""

    id: Count
    job: Count
    reason: str = ""


class Delete(Message, frozen=True):
    """client -> broker: forget a job that has ended, with its request, inputs and results. The broker answers with Done
    once the job can no longer be found.
    """

    id: Count
    job: Count


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


class Fetched(Message, frozen=True):
    """broker -> client: the end of the answer to a Fetch, with the job's *record* and the fields of its *submit*."""

    reply: Count
    record: Record
    submit: Record = field(default_factory=dict)
    attempt: Count = 0
    once: bool = False


class Forget(Message, frozen=True):
    """client -> broker: the answer to request *id* is no longer wanted."""

    id: Count

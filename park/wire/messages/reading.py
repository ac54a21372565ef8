"""Questions of clients: records, streams, logs and files of jobs, accounts, and the public table."""

from msgspec import field

from park.wire.messages.base import Count, Finite, Message, Texts


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


class Records(Message, frozen=True):
    """broker -> client: the payload is a packed list with one map for each job, or, for a Status that names fields, one
    list.
    """

    carries = True
    reply: Count


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


class Logs(Message, frozen=True):
    """client -> broker: asks for the last lines that a job has printed and logged. The broker answers with Records: packed
    lists of text, level and time.
    """

    id: Count
    job: Count


class Files(Message, frozen=True):
    """client -> broker: asks for the file *name* of a job, or (name "") for the names and sizes of all its files. The
    broker answers with Filed.
    """

    id: Count
    job: Count
    name: str = ""


class Filed(Message, frozen=True):
    """broker -> client, or broker -> kernel -> slot: the answer to Files and to File. The payload is the file (*there*: it
    exists), or, where the request asked for names, a packed map from the name of each of the job's files to its size.
    """

    carries = True
    reply: Count
    attempt: Count = 0
    there: bool = False


class Credits(Message, frozen=True):
    """client -> broker: asks for the account of *owner*, or for all accounts ("*"). The broker answers with Records: one
    map for each account, with the costs of its jobs.
    """

    id: Count
    owner: str = "*"


class Grant(Message, frozen=True):
    """client -> broker: an admin adds *credits* to the account of *owner*. Answered by Done once it is on disk."""

    id: Count
    owner: str
    credits: Finite


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


class Snapshot(Message, frozen=True):
    """mirror -> broker: asks for the whole public table at one number of its sequence. Answered by Header."""

    id: Count


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
    #: the sentence that its disk is full; "": it has room
    full: str = ""

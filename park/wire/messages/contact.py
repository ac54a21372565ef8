"""Contact of the broker and its peers: welcome, signs of life, parts of long messages, and kernels that take less work.

A message may have more than 20 fields: it travels as a flat list.
"""

from msgspec import field

from park.wire.messages.base import Count, Counts, Finite, Message, Names, Texts


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
    lease ends. *fresh*: the broker did not know the peer. *lost*: messages that were under way may be lost; false where
    a peer says hello twice over one connection. *number* is the client's number in this life of the broker. Another
    number than before means that the client's sessions have ended, even though a Welcome that said so was lost.
    *release* (of the broker) and *since* (when this life began, seconds since 1970) are for people. *mails*: "all": it
    sends news of ended jobs to addresses and channels; "channels": to channels only; "": it sends none.
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

    A peer sends some megabytes of them before it is told (`park.net.intake`). *size* 0, once a second: long messages that
    have come go on to the disk, so the sender of one that was not decided waits on.
    """

    size: Count


class Mapped(Message, frozen=True):
    """broker <-> peer, over ipc: a message that is too long for one frame. Its head is the payload of this one; its
    payload lies in a sealed file of *size* bytes, the descriptor *file* of *process*, where *inode* is its number.

    *number* is random and names the message; the sender repeats the message until Opened answers it. Number 0 asks
    whether the receiver can open files of the sender; the payload is the content (`park.net.payload_files`).
    """

    carries = True
    number: Count
    process: Count
    file: Count
    size: Count
    inode: Count


class Opened(Message, frozen=True):
    """The answer to Mapped: whether the receiver has the payload. If it has not, the message comes in parts."""

    number: Count
    opened: bool


class Serving(Message, frozen=True):
    """kernel -> broker: the kernel takes new work of "all" whom it serves, of its "own" owner, or of "none".

    The *pause* says why it takes less than it might, in words for people. Work that it holds goes on; it hands back
    the work that has not begun.
    """

    serves: str
    pause: str = ""
    epoch: Count = 0


class Draining(Message, frozen=True):
    """kernel -> broker: the kernel takes no new work. It goes on with the work that it holds, then says Goodbye."""

    epoch: Count = 0


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

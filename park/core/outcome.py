"""What the dispatcher says should happen. The loop does it; tests compare it with ``==``."""

from __future__ import annotations

from msgspec import Struct, field

from park.model import Delta
from park.wire.messages import Message

#: A peer: the letter of the door through which it came, and its name there. Only the loop reads it.
Peer = bytes
Key = tuple[int | bytes | str, ...]
#: A kernel, an attempt and the number of a message: that one, and all before it, need not be kept there.
Heard = tuple[Peer, int, int]


class Account(Struct, frozen=True, gc=False):
    """Whose key a peer showed. *pool*: an admin lets this kernel serve all owners."""

    name: str
    pool: bool = False


class Event(Struct, frozen=True, gc=False):
    """A decoded message and who sent it.

    *account*: whose key the sender of a hello showed; None: it came over ipc or a lane, where only the
    broker's own Unix user can connect. All later messages of the peer act as the member that said hello.
    """

    peer: Peer
    message: Message
    payload: bytes | memoryview = b""
    account: Account | None = None


class Tick(Struct, frozen=True, gc=False):
    """Time has passed. *wall* is UTC seconds since 1970, for `when` and for people."""

    wall: float


class Flow(Struct, frozen=True, gc=False):
    """How a peer takes what is sent to it: "slow" (much waits), "clear" (not any more), "cut" (what waited was dropped);
    or that it is "alive": pieces of a long message of its have come.
    """

    peer: Peer
    how: str


class Ref(Struct, frozen=True, gc=False):
    """Bytes that lie in the store or the spool: the value of a key, or units lo to hi of the pack there."""

    room: str
    key: Key
    lo: int = 0
    hi: int | None = None


class Write(Struct, frozen=True, gc=False):
    """One record: a new value, a copy of what lies elsewhere (`Ref`), or None: it goes.

    In place of long bytes, here and in an `Event`, may stand a value that lies in the store already (`park.core.pieces`).
    """

    room: str
    key: Key
    value: bytes | memoryview | Ref | None


class Send(Struct, frozen=True, gc=False):
    """A message for a peer; a `Ref` is loaded when it is sent."""

    peer: Peer
    message: Message
    payload: bytes | memoryview | Ref = b""


class Publication(Struct, frozen=True, gc=False):
    """A message of a job for its stream. *kind* "": it is for nobody, and only counts."""

    job: int
    kind: str
    payload: bytes | memoryview
    header: bool = False
    #: the attempt that has said it, its number among what that attempt has said (0: it has none), and through which kernel
    attempt: int = 0
    number: int = 0
    peer: Peer = b""


class Outcome(Struct):
    """What one event, or one turn of events, leads to."""

    #: durable records, one transaction
    writes: list[Write] = field(default_factory=list)
    #: records in memory: units of sessions and drivers, code that no stored job needs
    spool: list[Write] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    #: only once the writes are on disk
    sends_after_commit: list[Send] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    #: clients that have left: they watch nothing any more
    gone: list[Peer] = field(default_factory=list)
    #: jobs that have ended: their streams close
    ended: list[int] = field(default_factory=list)
    #: jobs that go to the archive: when that is on disk, the dispatcher is told
    archived: list[int] = field(default_factory=list)
    #: jobs that were deleted: when that is on disk, what they leave is swept out
    deleted: list[int] = field(default_factory=list)

"""Effects: what one event leads to. The loop carries them out; tests compare them.

A handler changes the state and writes down here what must reach the disk, the public table and other processes.
`Effects.send` alone decides whether a message goes at once or waits for the disk.
"""

from __future__ import annotations

from msgspec import Struct, field

from park.mail.notices import Letter
from park.model import Account, Delta
from park.wire.messages import Message

#: A peer: the letter of the socket through which it came, and its name there. Only the loop reads it.
Peer = bytes
Key = tuple[int | bytes | str, ...]
#: A kernel, an attempt, and the number of a message of the attempt's stream. The kernel may forget the messages up to
#: it.
Heard = tuple[Peer, int, int]


class Event(Struct, frozen=True, gc=False):
    """A decoded message and its sender.

    *account*: the account of the key that the sender of a hello showed; None: the sender came over ipc or in this
    process, where only the broker's own Unix user can connect. All later messages of the peer act as the member that
    said hello.
    """

    peer: Peer
    message: Message
    payload: bytes | memoryview = b""
    account: Account | None = None


class Tick(Struct, frozen=True, gc=False):
    """Time has passed. *wall* is UTC seconds since 1970, for `when` and for people."""

    wall: float


class Flow(Struct, frozen=True, gc=False):
    """News of a connection: "slow" (many bytes wait for the peer), "clear" (few bytes wait again), "cut" (the waiting
    bytes were dropped) or "alive" (fragments of a long message of the peer have come).
    """

    peer: Peer
    how: str


class Unsent(Struct, frozen=True, gc=False):
    """A message could not be sent, because the record with its payload is damaged. *why* names the record."""

    message: Message
    why: str


class Ref(Struct, frozen=True, gc=False):
    """Bytes in the store or the spool: the value of a key, or units lo to hi of the pack there."""

    namespace: str
    key: Key
    lo: int = 0
    hi: int | None = None


class Write(Struct, frozen=True, gc=False):
    """One record: a new value, a copy of a value elsewhere (`Ref`), or None to delete it.

    A value that is in the store already may stand in place of long bytes, here and in an `Event`
    (`park.broker.storage.pieces`).
    """

    namespace: str
    key: Key
    value: bytes | memoryview | Ref | None


class Send(Struct, frozen=True, gc=False):
    """A message for a peer; a `Ref` is loaded when it is sent."""

    peer: Peer
    message: Message
    payload: bytes | memoryview | Ref = b""


class Publication(Struct, frozen=True, gc=False):
    """A message of a job for its stream. *kind* "": no follower gets it, and it is only counted."""

    job: int
    kind: str
    payload: bytes | memoryview
    header: bool = False
    #: the attempt that published it, its number among the messages of that attempt (0: without a number), and its
    #: kernel
    attempt: int = 0
    number: int = 0
    peer: Peer = b""


class Effects(Struct):
    """The consequences of one event, or of one turn of events."""

    #: monotonic and wall clock of the event, seconds
    now: float = 0.0
    wall: float = 0.0
    #: the turn of the loop that handles the event, and the last turn that is on disk; `turn` > `saved`
    turn: int = 1
    saved: int = 0
    #: durable records, one transaction
    writes: list[Write] = field(default_factory=list)
    #: records in memory: units of sessions and drivers, code that no stored job needs
    spool: list[Write] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    #: acknowledgements and other messages that go once `writes` are on disk
    sends_after_commit: list[Send] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    #: clients that have left: their streams end
    gone: list[Peer] = field(default_factory=list)
    #: jobs that have ended: their streams close
    ended: list[int] = field(default_factory=list)
    #: jobs that go to the archive: the dispatcher is told when that is on disk
    archived: list[int] = field(default_factory=list)
    #: mails that are due: they go once `writes` are on disk
    letters: list[Letter] = field(default_factory=list)
    #: deleted jobs: their records are swept out once the deletion is on disk
    deleted: list[int] = field(default_factory=list)
    #: driver attempt -> index in `sends` of the last results for it: the order to go on may travel in the same message
    last_results: dict[int, int] = field(default_factory=dict)

    def send(
        self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"", after: int = 0
    ) -> None:
        """Send the message at once if the turn *after* is on disk, else when the writes of this turn are."""
        queue = self.sends if after <= self.saved else self.sends_after_commit
        queue.append(Send(peer, message, payload))

    def answer(self, peer: Peer, message: Message, payload: bytes | memoryview | Ref = b"") -> None:
        """Acknowledge the event: the message goes when the writes of this turn are on disk."""
        self.send(peer, message, payload, self.turn)

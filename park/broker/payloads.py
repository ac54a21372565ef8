"""The bytes behind a message: where a payload lies, and how a message leaves with it.

A payload lies in one of three places. The *spool* is memory: units of sessions and of drivers, and code that no stored
job needs. A value that is decided and not yet on disk is *pending*. All other values lie in the store.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from park.broker.effects import Ref, Send, Unsent, Write
from park.broker.state import MAX_REASON_CHARS
from park.broker.storage.pieces import LONG_VALUE_BYTES
from park.broker.storage.store import Store
from park.errors import InvalidRequest, ParkError, ProtocolError, StoreError
from park.wire import codec, messages
from park.wire.fragments import check_size
from park.wire.messages import Message
from park.wire.pack import Buffer, Pack, cut

#: Packs of units that stay parsed, because chunks are cut from them one after the other.
MAX_OPEN_PACKS = 64
#: A longer pack is parsed again for each chunk (bytes).
MAX_OPEN_PACK_BYTES = 1 << 20
#: Namespaces with records that clients see of a job; their keys begin with the job's number.
_SHOWN_OF_JOBS = frozenset(("job", "submit", "units", "results"))

_Where = tuple[str, tuple[int | bytes | str, ...]]


class Payloads:
    """The payloads of one broker, found by the `Ref` that stands for them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: payloads that are never written to disk
        self.spooled: dict[_Where, Buffer] = {}
        #: records that are not on disk yet, with the last turn that writes them; value None: that turn deletes them
        self.pending: dict[_Where, tuple[int, Buffer | None]] = {}
        #: number of pending writes to what clients see of a job, by job; only jobs with at least one
        self.unsaved: Counter[int] = Counter()
        #: parsed packs, the oldest first; None: the pack was cut once and is parsed at the next cut
        self._packs: OrderedDict[_Where, Pack | None] = OrderedDict()
        #: messages that could not be sent and are no answers: `JobManager.decide` looks at them
        self.unsent: list[Unsent] = []

    def spool(self, writes: Iterable[Write]) -> None:
        """Keep these values in memory. `unspool` removes the deleted ones, once the turn's messages have their payloads."""
        for w in writes:
            if w.value is not None:
                try:
                    value = self.load(w.value) if isinstance(w.value, Ref) else w.value
                except StoreError as error:
                    if error.errno is not None:
                        raise
                    continue  # it is damaged, and is named when a message needs it
                # a long value is not copied: it lies on the disk, or cannot change any more
                self.spooled[w.namespace, w.key] = value if len(value) > LONG_VALUE_BYTES else bytes(value)

    def unspool(self, writes: Iterable[Write]) -> None:
        """Remove the values whose last write is a deletion."""
        for where in _deleted(writes):
            self.spooled.pop(where, None)
            self._packs.pop(where, None)

    def pend(self, turn: int, write: Write) -> Buffer | None:
        """The bytes that the write stores, which can be loaded while they are on their way to the disk; None: a
        deletion.

        The bytes are loaded now, because they may have left the spool or the store by the time of the commit. `unpend`
        removes the deleted ones.
        """
        value = self.load(write.value) if isinstance(write.value, Ref) else write.value
        if value is not None:
            self.pending[write.namespace, write.key] = (turn, value)
        if write.namespace in _SHOWN_OF_JOBS:
            self.unsaved[_job(write)] += 1
        return value

    def unpend(self, turn: int, writes: Iterable[Write]) -> None:
        """Remove the values whose last write is a deletion, once the messages of the event have their payloads.

        An event may send a control to a kernel that comes back, and end its job because of what that kernel says.
        """
        for where in _deleted(writes):
            self.pending[where] = (turn, None)
            self._packs.pop(where, None)

    def saved(self, turn: int, writes: list[Write]) -> None:
        """Forget the pending values of a turn that is on disk."""
        for w in writes:
            where = (w.namespace, w.key)
            if where in self.pending and self.pending[where][0] <= turn:
                del self.pending[where]
        self.replaced(writes)

    def replaced(self, writes: Iterable[Write]) -> None:
        """Forget these writes: they are on disk, or later ones have replaced them."""
        for w in writes:
            if w.namespace in _SHOWN_OF_JOBS:
                job = _job(w)
                self.unsaved[job] -= 1
                if not self.unsaved[job]:
                    del self.unsaved[job]

    def check(self, writes: Iterable[Write]) -> None:
        """Assert that exactly these writes are pending."""
        writes = list(writes)
        assert {(w.namespace, w.key) for w in writes} == self.pending.keys()
        assert Counter(_job(w) for w in writes if w.namespace in _SHOWN_OF_JOBS) == self.unsaved

    def load(self, ref: Ref) -> Buffer:
        """The bytes that *ref* stands for; long ones of the store as they lie there (`park.broker.storage.pieces`).

        Raises StoreError if there are none, or if they are damaged.
        """
        where = (ref.namespace, ref.key)
        pack = self._packs.get(where)
        if pack is None:
            value: Buffer | None = self.spooled.get(where)
            if value is None and where in self.pending:
                _, value = self.pending[where]
            elif value is None:
                value = self._store.find(ref.namespace, ref.key)
            if value is None:
                raise StoreError(f"the store has no {ref.namespace} {ref.key}")
            if ref.hi is None:
                return value
            if len(value) > MAX_OPEN_PACK_BYTES:
                return cut(value, ref.lo, ref.hi)
            if where not in self._packs:  # if ten thousand jobs take turns, none comes again soon
                self._packs[where] = None
                if len(self._packs) > MAX_OPEN_PACKS:
                    self._packs.popitem(last=False)
                return cut(value, ref.lo, ref.hi)
            pack = self._packs[where] = Pack(value)
        return pack.slice(ref.lo, pack.count if ref.hi is None else ref.hi)

    def loaded(self, sends: Iterable[Send]) -> Iterator[Send]:
        """The messages with the bytes of their payloads in place of each `Ref`.

        An answer whose payload is damaged becomes a Failure; other such messages are left out. Raises StoreError for an
        error of the disk.
        """
        for send in sends:
            if not isinstance(send.payload, Ref):
                yield send
                continue
            try:
                yield Send(send.peer, send.message, self.load(send.payload))
            except StoreError as error:
                if error.errno is not None:
                    raise
                failure = self._failure(send.message, error)
                if failure.reply:
                    yield Send(send.peer, failure)

    def _failure(self, message: Message, error: ParkError) -> messages.Failure:
        """The failure that is sent in place of a message that cannot be sent; a message that is no answer is noted."""
        text = str(error)[:MAX_REASON_CHARS]
        reply = getattr(message, "reply", 0) or getattr(message, "id", 0)
        if not reply:
            self.unsent.append(Unsent(message, text))
        attempt = getattr(message, "attempt", 0) if reply else 0
        return messages.Failure(reply, type(error).__name__, text, attempt)

    def frames(self, send: Send, failed: ParkError | None = None) -> list[Any]:
        """The frames of the message; a payload of the store is read now, or piece by piece while it is sent.

        If a message cannot be sent, or has *failed* on its way, a Failure with the reason takes its place, so that a
        damaged payload does not end the broker.
        """
        message, payload = send.message, send.payload
        try:
            if failed is not None:
                raise failed
            data = self.load(payload) if isinstance(payload, Ref) else payload
            check_size(len(data))
            return codec.encode(message, data)
        except (StoreError, InvalidRequest, ProtocolError) as error:
            return codec.encode(self._failure(message, error))


def _deleted(writes: Iterable[Write]) -> list[_Where]:
    """The records whose last write is a deletion."""
    found: dict[_Where, None] = {}
    for w in writes:
        if w.value is None:
            found[w.namespace, w.key] = None
        else:
            found.pop((w.namespace, w.key), None)
    return list(found)


def _job(write: Write) -> int:
    number = write.key[0]
    assert isinstance(number, int)
    return number

"""`JobManager`: the dispatcher, the public table and the store together; the persistent list of jobs.

A *turn* takes the events that have arrived and does, in this order: decide, keep in memory what needs no
disk, send what may go at once; commit the rest in one transaction, fold the changes into the table,
publish them, and acknowledge.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from park.core.dispatcher import Dispatcher
from park.core.ledger import Policy
from park.core.outcome import Event, Outcome, Ref, Send, Tick, Write
from park.core.store import MemoryStore, Store
from park.errors import ParkError, Refused, StoreError, UnknownJob
from park.model import Delta
from park.table import Table, pack_deltas
from park.util.msgstream import message_stream
from park.wire import codec, messages
from park.wire.messages import Submit
from park.wire.pack import ERROR, Buffer, Pack, count

#: Packs that are kept open because chunks are cut from them, one after the other.
PACKS = 64


@dataclass(slots=True)
class Turn:
    """What the loop has to do for a turn: send, `JobManager.commit`, publish, acknowledge."""

    sends: list[Send] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    sends_after_commit: list[Send] = field(default_factory=list)
    #: requests for the table or a stream: answered with what stands after the turn
    observers: list[Event] = field(default_factory=list)
    #: after the commit: the Deltas message with its payload, if anything changed
    publish: tuple[messages.Deltas, bytes] | None = None


class JobManager:
    """The jobs of one broker. *store* None: they live as long as this object. Times in seconds.

    *policy*: the terms of credit; None: nothing is charged. *outlived*: kernels may live longer than the broker, and
    come back to its next life.
    """

    def __init__(
        self,
        store: Store | None = None,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        checked: bool = False,
        policy: Policy | None = None,
        outlived: bool = True,
    ) -> None:
        self.store: Store = store if store is not None else MemoryStore()
        self._spool = MemoryStore()
        self._packs: OrderedDict[tuple[str, tuple[int | bytes | str, ...]], Pack] = OrderedDict()
        #: assert all invariants after each event (tests do)
        self.checked = checked
        self.outlived = outlived
        self._checks = 0
        self.stream = message_stream()
        epoch = self.store.open_epoch()
        reserved = self.store.get("meta", ("next_job",))
        self.dispatcher = Dispatcher(
            self.store.id,
            epoch,
            heartbeat,
            lease,
            next_job=codec.unpack(reserved) if reserved else 1,
            policy=policy,
        )
        self.table = Table()

    def __repr__(self) -> str:
        jobs = self.dispatcher.list.jobs.values()
        active = sum(not j.ended for j in jobs)
        return f"<JobManager {len(jobs)} jobs, {active} active, epoch {self.store.epoch}>"

    # -- a broker's life -----------------------------------------------------------------------

    def restore(self, now: float, wall: float) -> None:
        """Take up the stored jobs: what was not answered waits again."""
        dispatcher = self.dispatcher
        ledger = dispatcher.ledger
        if self.outlived:
            kernels = {key for (key,), _ in self.store.scan("kernel") if isinstance(key, bytes)}
            dispatcher.expect(kernels)
        for (owner,), value in self.store.scan("account"):
            ledger.restore_account(str(owner), codec.unpack(value), now)
        for (job, epoch), value in self.store.scan("charge"):
            ledger.restore_charge(_number(job), _number(epoch), codec.unpack(value))
        for (number,), value in self.store.scan("job"):
            try:
                stored = codec.unpack(value)
                submit = codec.build(Submit, codec.unpack(self.store.get("submit", (number,)) or b""))
                units = {_start(key): count(v) for key, v in self.store.scan("units", (number,))}
                results = [(_start(key), Pack(v)) for key, v in self.store.scan("results", (number,))]
                risky = [(_start(key), codec.unpack(v)) for key, v in self.store.scan("attempt", (number,))]
                stored["failed"] = sum(_failed(pack) for _, pack in results)
                answered = [(start, pack.count) for start, pack in results]
                dispatcher.restore(stored, submit, units, answered, risky)
            except (ParkError, TypeError, ValueError, KeyError) as error:
                raise StoreError(f"job {number!r} cannot be read from the store: {error}") from error
        self._commit([self._resolved(w) for w in dispatcher.settle(now, wall).writes])
        rows: list[Delta] = [Delta("job", j.number, j.record.as_map()) for j in dispatcher.list.jobs.values()]
        rows += [Delta("owner", o.owner, o.as_map()) for o in dispatcher.owners()]
        self.table = Table.from_header(pack_deltas(rows), 0)

    def decide(self, events: Iterable[Event | Tick], now: float) -> Turn:
        """Handle *events* at monotonic time *now*: what may be sent at once, and what must be committed."""
        turn = Turn()
        for event in events:
            if (
                isinstance(event, Event)
                and isinstance(event.message, messages.Snapshot | messages.Watch)
                and self.dispatcher.roster.member(event.peer) is not None
            ):
                turn.observers.append(event)
                continue
            self._keep(self.dispatcher.handle(event, now), turn)
            if self.checked:
                self.dispatcher.check(everything=self._checks % 64 == 0)
                self._checks += 1
        return turn

    def commit(self, turn: Turn) -> None:
        """Make the turn durable, then fold it into the table and complete what is to be published and sent."""
        self._commit(turn.writes)
        if turn.deltas:
            message = messages.Deltas(self.store.id, self.store.epoch, self.table.seq + 1, len(turn.deltas))
            for delta in turn.deltas:
                self.table.apply(delta)
            turn.publish = (message, pack_deltas(turn.deltas))
        turn.sends_after_commit = [self._load(s) for s in turn.sends_after_commit]
        for event in turn.observers:
            turn.sends_after_commit += self._observe(event)

    @property
    def head(self) -> messages.Head:
        """What is published every second."""
        return messages.Head(self.store.id, self.store.epoch, self.table.seq)

    def close(self) -> None:
        self.store.close()

    # -- inside a turn -------------------------------------------------------------------------

    def _keep(self, out: Outcome, turn: Turn) -> None:
        """What needs no disk: the spool, messages that go at once, and the streams."""
        puts = [w for w in out.spool if w.value is not None]
        if puts:
            self._spool.commit(puts)
        turn.sends += [self._load(s) for s in out.sends]
        # what lies in the spool may have left it by then
        turn.sends_after_commit += [self._load(s) if _spooled(s) else s for s in out.sends_after_commit]
        # what was dropped, and has come again since, stays
        last = {(w.room, w.key): w for w in out.spool}
        drops = [w for w in last.values() if w.value is None]
        if drops:
            self._spool.commit(drops)
            for w in drops:
                self._packs.pop((w.room, w.key), None)
        for p in out.publications:
            for peer, message, payload in self.stream.publish(p.job, p.kind, p.payload, p.header):
                turn.sends.append(Send(peer, message, payload))
        # now, because code that nobody needs may leave the spool later in this turn
        turn.writes += [self._resolved(w) for w in out.writes]
        turn.deltas += out.deltas
        for peer in out.gone:
            self.stream.drop_peer(peer)
        for job in out.ended:
            self.stream.close(job)

    def _commit(self, writes: list[Write]) -> None:
        if writes:
            self.store.commit(writes)

    def _resolved(self, write: Write) -> Write:
        return replace(write, value=self.load(write.value)) if isinstance(write.value, Ref) else write

    def _load(self, send: Send) -> Send:
        if isinstance(send.payload, Ref):
            return Send(send.peer, send.message, self.load(send.payload))
        return send

    def load(self, ref: Ref) -> Buffer:
        """The bytes that *ref* stands for."""
        where = (ref.room, ref.key)
        pack = self._packs.get(where)
        if pack is None:
            value = self._spool.get(ref.room, ref.key)
            if value is None:
                value = self.store.get(ref.room, ref.key)
            if value is None and ref.room == "checkpoint":
                return b""  # its unit was answered in this very turn
            if value is None:
                raise StoreError(f"the store has no {ref.room} {ref.key}")
            if ref.hi is None:
                return value
            pack = Pack(value)
            self._packs[where] = pack
            if len(self._packs) > PACKS:
                self._packs.popitem(last=False)
        return pack.slice(ref.lo, pack.count if ref.hi is None else ref.hi)

    def _observe(self, event: Event) -> Iterator[Send]:
        """Whoever wants the table, or a job's stream, gets what stands after this turn."""
        message, peer = event.message, event.peer
        if isinstance(message, messages.Snapshot):
            header = messages.Header(self.store.id, self.store.epoch, self.table.seq, message.id)
            yield Send(peer, header, self.table.header())
        elif isinstance(message, messages.Watch):
            job = self.dispatcher.list.jobs.get(message.job)
            if job is None:
                error = UnknownJob(f"job {message.job} is unknown")
                yield Send(peer, messages.Failure(message.id, "UnknownJob", str(error)))
                return
            try:
                self.dispatcher.check_right(event, job)
            except Refused as error:
                yield Send(peer, messages.Failure(message.id, "Refused", str(error)))
                return
            yield Send(peer, messages.Done(message.id))
            if not job.ended:
                for stream, payload in self.stream.subscribe(message.job, peer):
                    yield Send(peer, stream, payload)


def _spooled(send: Send) -> bool:
    """Whether the payload is units of a session's or a driver's map."""
    ref = send.payload
    return isinstance(ref, Ref) and ref.room == "units" and isinstance(ref.key[0], bytes)


def _failed(pack: Pack) -> int:
    return 0 if pack.rows is not None else sum(bytes(entry[:1]) == ERROR for entry in pack.entries())


def _number(part: int | bytes | str) -> int:
    assert isinstance(part, int)
    return part


def _start(key: tuple[int | bytes | str, ...]) -> int:
    start = key[1]
    assert isinstance(start, int)
    return start

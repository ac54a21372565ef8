"""`JobManager`: the dispatcher, the public table and the store together; the persistent list of jobs.

A *turn* takes the events that have arrived: it decides, keeps in memory what needs no disk, and says what may be
sent at once. Its writes are handed in, and the next turns are decided while they are on their way to the disk (see
`park.core.writer`). When they are there the turn is completed: its changes are folded into the table and published,
and what was asked is acknowledged, in the order of the turns.

So the dispatcher is ahead of the disk. Nobody but the broker itself sees that: what it reads for its own messages
are the records as decided, but what it shows to others are those that are on disk.
"""

from __future__ import annotations

import struct
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct, field

from park.core.dispatcher import Dispatcher
from park.core.journal import Batch
from park.core.keeping import LISTED, Keep
from park.core.laying import Laying
from park.core.ledger import Policy
from park.core.limits import RECORD, LimitPolicy
from park.core.outcome import Event, Flow, Key, Outcome, Ref, Send, Tick, Write
from park.core.pieces import LONG, Laid
from park.core.public import READS, Public
from park.core.requests import MAX_REQUEST
from park.core.state import WORDS
from park.core.store import MemoryStore, Store
from park.core.sweep import Sweeper
from park.core.writer import Commits, InPlace, Writer
from park.errors import InvalidRequest, ParkError, ProtocolError, StoreError
from park.model import Delta
from park.table import Table
from park.util.outlet import tell
from park.wire import codec, messages
from park.wire.messages import Message, Submit
from park.wire.pack import ERROR, Buffer, Pack, cut, said_count
from park.wire.parts import check_size

#: Packs that are kept open because chunks are cut from them, one after the other, none of them of more bytes than so many.
PACKS, PACK_BYTES = 64, 1 << 20
#: When so many bytes are on their way to the disk, nothing more is decided until they are there.
BACKLOG = 16 << 20
#: With so many under way streams and logs, which can wait, are not written.
QUIET = 2 << 20
#: Seconds after which the room on the disk is looked at again.
LOOK = 0.2
#: What a change of the table, or a record beside its value, counts for in the backlog, bytes.
_CHANGE = 250
#: Rooms of what is shown of a job: their keys begin with its number.
_OF_JOBS = frozenset(("job", "submit", "units", "results"))
#: What answers a Fetch.
_SHOWS = (messages.Results, messages.Blob, messages.Units, messages.Fetched)

_Where = tuple[str, tuple[int | bytes | str, ...]]


class Turn(Struct):
    """What the loop has to do for a turn: send, `JobManager.hand_in`; once it is completed publish and acknowledge."""

    number: int = 0
    sends: list[Send] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    sends_after_commit: list[Send] = field(default_factory=list)
    #: what jobs have said: it is passed on when it is completed
    said: list[Batch] = field(default_factory=list)
    #: bytes that are kept for it until it is completed, about
    size: int = 0
    #: when it is completed: the Deltas message with its payload, if anything changed
    publish: tuple[messages.Deltas, bytes] | None = None
    #: jobs that are archived, and deleted, with this turn
    archived: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    #: what deleted jobs leave is swept out with it
    sweeps: bool = False


class JobManager:
    """The jobs of one broker. *store* None: they live as long as this object. Times in seconds.

    *policy*: the terms of credit; None: nothing is charged. *limits*: what an owner may have; None: anything. *keep*: how
    long ended jobs are kept, and how many of them in memory. *outlived*: kernels may live longer than the broker, and
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
        limits: LimitPolicy | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.store: Store = store if store is not None else MemoryStore()
        #: what needs no disk: units of sessions and drivers, code that no stored job needs
        self._spool: dict[_Where, Buffer] = {}
        self._sweeper = Sweeper(self.store)
        #: packs of units that are cut again and again; None: it was cut once
        self._packs: OrderedDict[_Where, Pack | None] = OrderedDict()
        self._commits: Commits = InPlace(self.store)
        #: what lays long payloads down before their messages are decided, and those messages
        self._writer: Writer | None = None
        self._laying: Laying | None = None
        #: turns so far
        self._turns = 0
        #: those that are not completed, in order, and the bytes of them
        self.handed: deque[Turn] = deque()
        self._backlog = 0
        #: in words that the disk is full, if it is
        self.full = ""
        #: when the room on the disk is looked at again
        self._room_at = 0.0
        #: records that are not on disk yet, and the turn that has written them last
        self._pending: dict[_Where, tuple[int, bytes | memoryview | None]] = {}
        #: how many records of a job are on their way to the disk, by job; only jobs with some
        self._unsaved: Counter[int] = Counter()
        #: assert all invariants after each event (tests do)
        self.checked = checked
        self.outlived = outlived
        self._checks = 0
        epoch = self.store.open_epoch()
        reserved = self.store.get("meta", ("next_job",))
        self.dispatcher = Dispatcher(
            self.store.id,
            epoch,
            heartbeat,
            lease,
            next_job=codec.unpack(reserved) if reserved else 1,
            policy=policy,
            limits=limits,
            keep=keep,
        )
        self.public = Public(self.store, self.dispatcher, self._unsaved)

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
        clock = self.store.get("meta", ("clock",))
        if clock is not None:
            dispatcher.restore_clock(*codec.unpack(clock))
        dispatcher.restore_archived(list(self._archived()))
        self._sweeper.add(_number(number) for (number,), _ in self.store.scan("trash"))
        requests, inputs, answers, risks, said = (
            _ByJob(self.store.scan(room)) for room in ("submit", "units", "results", "attempt", "control")
        )
        for (number,), value in self.store.scan("job"):
            try:
                stored = codec.unpack(value)
                request = next((v for _, v in requests.of(number)), b"")
                submit = codec.build(Submit, codec.unpack(request))
                packs = inputs.of(number)
                units = {_start(key): said_count(v) for key, v in packs}
                size = RECORD + len(request) + stored["code"] + sum(len(v) for _, v in packs)
                size += sum(stored.get("files", {}).values())
                packs = answers.of(number)
                answered = [(_start(key), said_count(v)) for key, v in packs]
                size += sum(len(v) for _, v in packs)
                risky = [(_start(key), codec.unpack(v)) for key, v in risks.of(number)]
                controls = [(_start(key), _key(key), len(v)) for key, v in said.of(number)]
                size += sum(length for _, _, length in controls)
                if stored["ended"] is None:  # else it was counted then
                    stored["failed"] = sum(_failed(Pack(v[:])) for _, v in packs)
                dispatcher.restore(stored, submit, units, answered, risky, size, controls)
            except (ParkError, TypeError, ValueError, KeyError) as error:
                raise StoreError(f"job {number!r} cannot be read from the store: {error}") from error
        out = dispatcher.settle(now, wall)
        if out.writes:
            self.store.commit(out.writes)
        dispatcher.committed(out.archived, out.deleted)
        rows: list[Delta] = [Delta("job", j.number, j.record.as_map()) for j in dispatcher.list.jobs.values()]
        rows += [Delta("owner", o.owner, o.as_map()) for o in dispatcher.owners()]
        self.public.begin(rows, now)

    def _archived(self) -> Iterator[dict[str, Any]]:
        """What lies in the archive. A record that cannot be read is named: its job is not found until that is mended."""
        last: Key = ()
        try:
            for last, value in self.store.scan("archive"):
                yield from self._listed(last, lambda v=value: v)  # type: ignore[misc]
        except StoreError:  # one is damaged: each by itself, then
            for key in self.store.keys("archive", (), sys.maxsize):
                if key > last:
                    yield from self._listed(key, lambda k=key: self.store.get("archive", k) or b"")  # type: ignore[misc]

    def _listed(self, key: Key, load: Callable[[], bytes]) -> Iterator[dict[str, Any]]:
        try:
            found = codec.unpack(load())
            yield {name: found[name] for name in LISTED}
        except (ParkError, TypeError, KeyError) as error:
            self._name(_unreadable(key[0], error))

    @staticmethod
    def _name(error: StoreError) -> None:
        """Say which archived job cannot be read."""
        tell(f"park: {error}", "warning")

    def write_behind(self, wake: Callable[[], None]) -> None:
        """From now on commit in a thread, which calls *wake* when there is something to see; in memory there is none."""
        if not isinstance(self.store, MemoryStore):
            self._writer = Writer(self.store, wake)
            self._laying = Laying(self._writer.lay)
            self.commit_by(self._writer)

    def sift(self, events: Sequence[Event | Tick | Flow]) -> Sequence[Event | Tick | Flow]:
        """Those of *events* that can be decided now; others wait until their long payloads are laid down on the disk."""
        return events if self._laying is None else self._laying.sift(events, self._is_for_store)

    @property
    def has_laid(self) -> bool:
        """Whether `laid` has something to give."""
        return self._writer is not None and self._writer.has_laid

    def laid(self) -> list[Event]:
        """Events whose payloads are laid down now, and those that came behind them."""
        assert self._writer is not None
        assert self._laying is not None
        return self._laying.laid(self._writer.laid())

    def _is_for_store(self, event: Event) -> bool:
        """Whether the event's payload goes to the store, as far as that is known, and there is room for it."""
        match event.message:
            case Submit(session=session):
                stored = not session
            case messages.Units(job=job):
                stored = bool(job)
            case messages.Finished(attempt=number):
                attempt = self.dispatcher.attempts.get(number)
                stored = attempt is None or attempt.map.root
            case messages.File(how=how):
                stored = how == "put"
            case messages.Blob(hash=hash):
                stored = hash not in self.dispatcher.codes
            case _:
                stored = isinstance(event.message, messages.Checkpoint)
        if not stored or self.dispatcher.roster.member(event.peer) is None:
            return False
        return not self.full and self.store.room() - self._backlog > len(event.payload)

    def commit_by(self, commits: Commits) -> None:
        """From now on *commits* makes turns durable."""
        assert not self.handed
        self._commits = commits

    def decide(self, events: Iterable[Event | Tick | Flow], now: float) -> Turn:
        """Handle *events* at monotonic time *now*: what may be sent at once, and what must be committed."""
        self._turns += 1
        turn = Turn(self._turns)
        dispatcher = self.dispatcher
        dispatcher.begin_turn(turn.number)
        if now >= self._room_at:
            self._room_at = now + LOOK
            left = 0 if self._commits.stuck else self.store.room() - self._backlog
            dispatcher.has_room(left, self.store.place)
            short = left < MAX_REQUEST or dispatcher.room.waiting
            self.full = dispatcher.room.trouble if short else ""
        for event in events:
            if isinstance(event, Event):
                message = event.message
                try:
                    self._recall_named(message)
                except StoreError as error:
                    self._name(error)
                    if getattr(message, "id", 0):
                        failure = messages.Failure(message.id, "StoreError", str(error)[:WORDS])  # type: ignore[attr-defined]
                        turn.sends.append(Send(event.peer, failure))
                        continue
                if isinstance(message, READS) and dispatcher.roster.heard(event.peer, now):
                    turn.sends += self.public.answer(event)
                    continue
                shown = isinstance(message, messages.Fetch) and message.job not in self._unsaved
            else:
                shown = False
                self._expire(turn, now)
            self._keep(dispatcher.handle(event, now), turn, shown)
            if self.checked:
                dispatcher.check(everything=self._checks % 64 == 0)
                self._checks += 1
        has_room = not (self.full or self._commits.stuck)
        writes, turn.said = self.public.writes(now, self._backlog < QUIET, has_room)
        if writes:
            self._keep(Outcome(writes=writes), turn)
        if self._sweeper.due:
            self._keep(Outcome(writes=self._sweeper.writes()), turn)
            turn.sweeps = True
        return turn

    def next_deadline(self, now: float) -> float:
        """When a Tick may next lead to something; infinity: not before a message comes."""
        return now if self._sweeper.due else min(self.dispatcher.next_deadline(), self.public.deadline)

    def hand_in(self, turn: Turn) -> None:
        """The turn's writes go to the disk; `completed` gives it back when they are there. In order of their numbers."""
        if turn.writes or turn.deltas or turn.sends_after_commit or turn.said:
            turn.size += _CHANGE * (len(turn.writes) + len(turn.deltas))
            self._backlog += turn.size
            self.handed.append(turn)
            if turn.writes:
                self._commits.put(turn.number, turn.writes)

    @property
    def has_completed(self) -> bool:
        """Whether `completed` has something to give. Raises StoreError when nothing more will get to the disk."""
        first, done = self.handed[0] if self.handed else None, self._commits.done()
        return first is not None and (not first.writes or first.number <= done)

    def cause(self, error: StoreError) -> StoreError:
        """Why *error* came: after a write that failed nothing can be read either, and only the writer knows why."""
        try:
            self._commits.close()
            self._commits.done()
        except StoreError as first:
            return first
        return error

    @property
    def behind(self) -> bool:
        """Whether the disk is so far behind that nothing more should be decided."""
        return self._backlog >= BACKLOG

    def completed(self) -> Iterator[Turn]:
        """The turns that are durable, folded into the table, with what is to be published and sent for each."""
        while self.has_completed:
            turn = self.handed.popleft()
            self._backlog -= turn.size
            for w in turn.writes:
                where = (w.room, w.key)
                last, _ = self._pending.get(where, (0, None))
                if last == turn.number:
                    del self._pending[where]
                if w.room in _OF_JOBS:
                    self._save(_number(w.key[0]), -1)
            self.dispatcher.saved(turn.number)
            self.dispatcher.committed(turn.archived, turn.deleted)
            self._sweeper.add(turn.deleted)
            if turn.sweeps:
                self._sweeper.committed()
            told, heard, count = self.public.pass_on(turn.said, self.dispatcher.now)
            turn.sends_after_commit += told + self.dispatcher.heard(heard, count)
            if turn.deltas:
                turn.publish, told = self.public.fold(turn.deltas)
                turn.sends_after_commit += told
            yield turn
        if self.checked:
            self._check()

    def _save(self, job: int, step: int) -> None:
        self._unsaved[job] += step
        if not self._unsaved[job]:
            del self._unsaved[job]

    def _check(self) -> None:
        """Assert what holds between turns."""
        written = [(w.room, w.key) for turn in self.handed for w in turn.writes]
        assert set(written) == self._pending.keys()
        jobs = Counter(key[0] for room, key in written if room in _OF_JOBS)
        assert jobs == self._unsaved
        assert self._backlog == sum(turn.size for turn in self.handed)

    @property
    def table(self) -> Table:
        """The public table, as it is on disk."""
        return self.public.table

    def close(self) -> None:
        """What was handed in is on disk, or will never be; then it is never acknowledged."""
        self._commits.close()  # if that raises, its thread still has the store, and closing it would wait for the thread
        self.store.close()

    # -- inside a turn -------------------------------------------------------------------------

    def _keep(self, out: Outcome, turn: Turn, shown: bool = False) -> None:
        """What needs no disk: the spool, messages that go at once, and the streams. *shown*: a Fetch's answers, too."""
        for w in out.spool:
            if w.value is not None:
                value = self.load(w.value) if isinstance(w.value, Ref) else w.value
                # a long one is not copied: nobody writes into it any more, or it lies on the disk
                self._spool[w.room, w.key] = value if len(value) > LONG else bytes(value)
        # all payloads now, because they may have left the spool, or the store, by the time of the commit
        for w in out.writes:
            value = self.load(w.value) if isinstance(w.value, Ref) else w.value  # type: ignore[assignment]
            where = (w.room, w.key)
            self._pending[where] = (turn.number, value)
            if value is None:
                self._packs.pop(where, None)
            elif not isinstance(value, Laid):  # that is on disk already
                turn.size += len(value)
            if w.room in _OF_JOBS:
                self._unsaved[_number(w.key[0])] += 1
            turn.writes.append(w if value is w.value else Write(w.room, w.key, value))
        for send in out.sends:
            ref = send.payload
            turn.sends.append(self._load(send, ref) if isinstance(ref, Ref) else send)
        for send in out.sends_after_commit:
            at_once = shown and isinstance(send.message, _SHOWS)
            # the results of a job may be large: each is loaded when its turn has come
            later = isinstance(send.message, messages.Results) and send.message.reply
            if isinstance(send.payload, Ref) and not later:
                send = self._load(send, send.payload)
            (turn.sends if at_once else turn.sends_after_commit).append(send)
        # what was dropped, and has come again since, stays
        if out.spool:
            last = {(w.room, w.key): w.value for w in out.spool}
            for where, found in last.items():
                if found is None:
                    self._spool.pop(where, None)
                    self._packs.pop(where, None)
        if out.publications or out.ended or out.gone:
            turn.sends += self.public.say(out)
        turn.deltas += out.deltas
        turn.archived += out.archived
        turn.deleted += out.deleted
        for number in out.deleted:
            self.public.forget(number)

    def _expire(self, turn: Turn, now: float) -> None:
        """Delete ended jobs that are kept no longer."""
        due = self.dispatcher.due(now)
        if due:
            for number in due:
                try:
                    self.recall(number)
                except StoreError as error:
                    self._name(error)
            self._keep(self.dispatcher.expire(due, now), turn)

    def _recall_named(self, message: Message) -> None:
        """Take the jobs that the message names out of the archive, if they lie there."""
        number = getattr(message, "job", 0)
        if number and number not in self.dispatcher.list.jobs:
            self.recall(number)
        if isinstance(message, Submit):
            for number in message.after:
                self.recall(number)
            if message.key not in self.dispatcher.list.by_key and len(message.key) == 16:
                known = self.store.get("key", (message.key,))
                if known is not None:
                    self.recall(codec.unpack(known))

    def recall(self, number: int) -> None:
        """Take the job out of the archive, if it lies there. Raises StoreError where it cannot be read."""
        jobs = self.dispatcher.list
        if number in jobs.jobs or not jobs.given(number):
            return
        try:
            stored = self.store.get("archive", (number,))
            if stored is None:
                return
            submit = codec.build(Submit, codec.unpack(self.store.get("submit", (number,)) or b""))
            units, results = (self.store.get("spans", (number, what)) or b"" for what in ("units", "results"))
            self.dispatcher.recall(codec.unpack(stored), submit, units, results)
        except (ParkError, TypeError, ValueError, KeyError, struct.error) as error:
            raise _unreadable(number, error) from error

    def _load(self, send: Send, ref: Ref) -> Send:
        """The same, with the bytes for which *ref* stands."""
        return Send(send.peer, send.message, self.load(ref))

    def frames(self, send: Send, failed: ParkError | None = None) -> list[Any]:
        """The message as it travels; a payload that lies on the disk is read now, or piece by piece when these are sent.

        Instead of one that cannot travel, or that *failed* on its way, its peer is told why: no answer ends a broker.
        """
        message, payload = send.message, send.payload
        try:
            if failed is not None:
                raise failed
            data = self.load(payload) if isinstance(payload, Ref) else payload
            check_size(len(data))
            return codec.encode(message, data)
        except (
            StoreError,
            InvalidRequest,
            ProtocolError,
        ) as error:  # StoreError: it was deleted, or is damaged
            reply = getattr(message, "reply", 0)
            attempt = getattr(message, "attempt", 0) if reply else 0
            return codec.encode(messages.Failure(reply, type(error).__name__, str(error)[:WORDS], attempt))

    def load(self, ref: Ref) -> Buffer:
        """The bytes that *ref* stands for; long ones of the store as they lie there (`park.core.pieces`)."""
        where = (ref.room, ref.key)
        pack = self._packs.get(where)
        if pack is None:
            value: Buffer | None = self._spool.get(where)
            if value is None and where in self._pending:
                _, value = self._pending[where]
            elif value is None:
                value = self.store.find(ref.room, ref.key)
            if value is None and ref.room == "checkpoint":
                return b""  # its unit was answered in this very turn
            if value is None:
                raise StoreError(f"the store has no {ref.room} {ref.key}")
            if ref.hi is None:
                return value
            if len(value) > PACK_BYTES:
                return cut(value, ref.lo, ref.hi)
            if where not in self._packs:  # where ten thousand jobs take turns, none comes again soon
                self._packs[where] = None
                if len(self._packs) > PACKS:
                    self._packs.popitem(last=False)
                return cut(value, ref.lo, ref.hi)
            pack = self._packs[where] = Pack(value)
        return pack.slice(ref.lo, pack.count if ref.hi is None else ref.hi)


class _ByJob:
    """Records of a room, scanned once, for jobs that are asked for in the order of their numbers."""

    def __init__(self, records: Iterator[tuple[Key, bytes]]) -> None:
        self._records = records
        self._next = next(records, None)

    def of(self, number: int | bytes | str) -> list[tuple[Key, bytes]]:
        found = []
        while self._next is not None and self._next[0][0] <= number:  # type: ignore[operator]
            if self._next[0][0] == number:
                found.append(self._next)
            self._next = next(self._records, None)
        return found


def _failed(pack: Pack) -> int:
    return 0 if pack.rows is not None else sum(bytes(entry[:1]) == ERROR for entry in pack.entries())


def _unreadable(number: int | bytes | str, error: Exception) -> StoreError:
    return StoreError(f"job {number!r} cannot be read from the archive: {error}")


def _number(part: int | bytes | str) -> int:
    assert isinstance(part, int)
    return part


def _key(key: Key) -> bytes:
    found = key[2]
    assert isinstance(found, bytes)
    return found


def _start(key: tuple[int | bytes | str, ...]) -> int:
    start = key[1]
    assert isinstance(start, int)
    return start

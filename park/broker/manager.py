"""`JobManager`: the dispatcher, the public table and the store together; the persistent list of jobs.

A *turn* takes the events that have arrived: it decides, keeps payloads in memory that need no disk, and gives the
messages that may go at once. Its writes are handed in, and the next turns are decided while the writes are on their way
to the disk (see `park.broker.storage.writer`). Then the turn is completed: its changes are folded into the table and
published, and its requests are acknowledged. Turns are completed in their order.

So the dispatcher is ahead of the disk. Only the broker itself sees the decided records; clients see the records on
disk.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from park.broker import restore
from park.broker.accounts.budgets import MAX_ANSWERS_PER_TURN, MAX_POSTPONED
from park.broker.accounts.ledger import CreditPolicy
from park.broker.accounts.quotas import LimitPolicy
from park.broker.dispatcher import Dispatcher
from park.broker.effects import Effects, Event, Flow, Peer, Send, Tick, Write
from park.broker.entities.archive import RetentionPolicy
from park.broker.payloads import Payloads
from park.broker.queries import READS, PublicRecords
from park.broker.spooling import Hold, Spooler
from park.broker.state import MAX_REASON_CHARS
from park.broker.storage.memory import MemoryStore
from park.broker.storage.pieces import LongValue
from park.broker.storage.store import JobStore, Store
from park.broker.storage.sweep import Sweeper
from park.broker.storage.writer import Commits, InPlace, Writer
from park.broker.turns import Turn, as_one
from park.errors import StoreError
from park.mail.notices import FIT_FILE, MAX_FIT_BYTES, MAX_FITS, Letter
from park.table.table import Table
from park.wire import codec, messages
from park.wire.fragments import PIECE_BYTES
from park.wire.messages import Submit

if TYPE_CHECKING:  # the local service sends no mail: `smtplib` and `email` take some 20 ms and 2 MB
    from park.mail.postman import Postman

#: With this many bytes on their way to the disk, the broker decides no further turn; on a full disk, it takes no
#: request that needs more bytes.
MAX_BACKLOG_BYTES = 16 << 20
#: With this many bytes on their way to the disk, streams and logs are not written, because they can wait.
QUIET_BACKLOG_BYTES = 2 << 20
#: Seconds after which the free space of the disk is looked at again.
DISK_POLL_SECONDS = 0.2
#: Messages with longer payloads came in pieces.
LONG_PAYLOAD_BYTES = PIECE_BYTES
#: The answers to a Fetch.
_SHOWS = (messages.Results, messages.Blob, messages.Units, messages.Fetched)
#: Turns that have waited for a full disk become one when there are so many.
MAX_LATE_TURNS = 64
#: Requests that may need more bytes of the disk. Requests that end or delete jobs are always taken.
_GROWING = (Submit, messages.Change, messages.Control, messages.File, messages.Grant)
#: The acknowledgements of requests that change records.
_ACKNOWLEDGEMENTS = (messages.Done, messages.Accepted, messages.Records, messages.Filed)


def _note_taken(turn: Turn, event: Event) -> None:
    """Note that the event is decided or dropped. If it is long, its sender may send more."""
    if (size := len(event.payload)) > LONG_PAYLOAD_BYTES:
        turn.taken.append((event.peer, size))


class JobManager:
    """The jobs of one broker. *store* None: the jobs live as long as this object. Times in seconds.

    *policy*: the terms of credit; None: nothing is charged. *limits*: the quotas of owners; None: there are none. *keep*:
    how long ended jobs are kept, and how many of them in memory. *outlived*: kernels may live longer than the broker, and
    come back to its next life. It has more than 20 attributes: it joins all the parts of a broker but the loop.
    """

    def __init__(
        self,
        store: Store | None = None,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        checked: bool = False,
        policy: CreditPolicy | None = None,
        outlived: bool = True,
        limits: LimitPolicy | None = None,
        keep: RetentionPolicy | None = None,
        postman: Postman | None = None,
    ) -> None:
        self.store: Store = store if store is not None else MemoryStore()
        self._options = (heartbeat, lease, checked, policy, outlived, limits, keep, postman)
        #: sends mails about ended jobs; the letters that are on disk and that it has not taken yet
        self._postman = postman
        self._letters: deque[Letter] = deque()
        #: messages that wait for a later turn, by peer: see `_in_turn`
        self._postponed: dict[bytes, deque[Event]] = {}
        #: the event that is decided now
        self.deciding: Event | Tick | Flow | None = None
        self.payloads = Payloads(self.store)
        self._sweeper = Sweeper(self.store)
        self._commits: Commits = InPlace(self.store)
        #: writes long payloads to disk before their messages are decided; the spooler holds these messages
        self._writer: Writer | None = None
        self._spooler: Spooler | None = None
        #: the strides of the writer that `held_while_moving` has seen
        self._strides = 0
        #: turns so far
        self._turns = 0
        #: the turns that are not completed, in order, and their bytes
        self.handed: deque[Turn] = deque()
        self._backlog = 0
        #: the sentence that the disk is full; "": it has space
        self.full = ""
        #: when the free space of the disk is looked at again
        self._disk_poll_at = 0.0
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
            mail=postman.policy if postman is not None else None,
        )
        self.public = PublicRecords(self.store, self.dispatcher, self.payloads.unsaved)

    def __repr__(self) -> str:
        jobs = self.dispatcher.state.jobs.values()
        active = sum(not j.ended for j in jobs)
        return f"<JobManager {len(jobs)} jobs, {active} active, epoch {self.store.epoch}>"

    # -- a broker's life -----------------------------------------------------------------------

    def successor(self) -> JobManager:
        """A new manager that knows only the records on disk of the same store. This manager must not be used any more."""
        return JobManager(self.store, *self._options)

    def finish(self) -> None:
        """Wait until every turn that was handed in is on disk; `completed` returns them. Raises StoreError."""
        self._commits.close()
        self._commits.done()

    def restore(self, now: float, wall: float) -> None:
        """Take up the stored jobs: units without an answer wait again."""
        self._sweeper.add(restore.deleted(self.store))
        try:
            rows = restore.restore(self.store, self.dispatcher, self.outlived, now, wall)
        except StoreError as error:
            if error.errno is not None:
                raise
            raise StoreError(
                f"{error}: go on with a copy from `park backup` (park-broker --restore), or in another home"
            ) from error
        self.public.begin(rows, now)
        self._letters.extend(self.dispatcher.state.notices.letters.values())
        self._post()

    def write_behind(self, wake: Callable[[], None]) -> None:
        """Commit in a thread from now on; it calls *wake* after each commit. A store in memory needs no thread."""
        if self._postman is not None:
            self._postman.start(wake)
        if not isinstance(self.store, MemoryStore):
            self._writer = Writer(self.store, wake)
            self._spooler = Spooler(self._writer.lay, wake)
            self.commit_by(self._writer)

    def sift(self, events: Sequence[Event | Tick | Flow]) -> Sequence[Event | Tick | Flow]:
        """The *events* that can be decided now; the others wait until their long payloads are on disk."""
        return events if self._spooler is None else self._spooler.sift(events, self._hold)

    @property
    def has_laid(self) -> bool:
        """Whether a long payload has come to the disk, or was hashed, since the last `laid`."""
        spooler, writer = self._spooler, self._writer
        return spooler is not None and writer is not None and (writer.has_laid or spooler.has_hashed)

    def held_while_moving(self) -> list[Peer] | None:
        """The peers whose messages are held up, if long payloads have moved to the disk since the last call; else None."""
        if self._writer is None or self._spooler is None or self._writer.strides == self._strides:
            return None
        self._strides = self._writer.strides
        return self._spooler.peers

    @property
    def commit_seconds(self) -> float:
        """The time that the last write to the disk took."""
        return self._commits.seconds

    @property
    def has_posted(self) -> bool:
        """Whether letters have left the broker since the last turn."""
        return self._postman is not None and self._postman.has_posted

    def _post(self) -> None:
        """Give the postman letters that are on disk, as many as it takes, with the numbers of their fits."""
        postman, state = self._postman, self.dispatcher.state
        while postman is not None and self._letters and postman.takes_more:
            letter = self._letters.popleft()
            if letter.number in state.notices.letters:
                postman.post(letter, dict(self._fit_files(letter)))
        if postman is not None:
            postman.note_behind(len(self._letters))

    def _fit_files(self, letter: Letter) -> Iterator[tuple[int, bytes]]:
        """The file with the numbers of each fit that the letter tells of, by job."""
        for notice in letter.notices[:MAX_FITS]:
            number = notice["job"]
            if notice["state"] == "complete" and self.store.keys("file", (number, FIT_FILE), 1):
                try:
                    data = self.store.get("file", (number, FIT_FILE)) or b""
                except StoreError as error:  # it is damaged
                    restore.warn(error)
                    continue
                if len(data) <= MAX_FIT_BYTES:
                    yield number, data

    def laid(self) -> list[Event]:
        """The events whose payloads are on disk now, and the events that have waited behind them."""
        assert self._writer is not None
        assert self._spooler is not None
        return self._spooler.laid(self._writer.laid())

    def forget_recent(self, now: float) -> None:
        """Let go of the memory of long values that came to the disk too long ago."""
        if isinstance(self.store, JobStore):
            self.store.recent.forget(now)

    def _hold(self, event: Event) -> Hold:
        """Whether the event's payload goes to the store, as far as that is known, and the disk has free bytes for it."""
        state = self.dispatcher.state
        match event.message:
            case Submit(session=session):
                stored = not session
            case messages.Units(job=job):
                stored = bool(job)
            case messages.Finished(attempt=number):
                attempt = state.attempts.get(number)
                stored = attempt is None or attempt.map.root
            case messages.File(how=how):
                stored = how == "put"
            case messages.Blob(hash=hash, brief=brief):
                if brief or event.peer in state.roster.kernels:  # kernels send the code of drivers' maps
                    return Hold.NOT if hash in state.code_cache else Hold.HASH
                stored = not isinstance(self.payloads.spooled.get(("blob", (hash,))), LongValue)
                stored = stored and not state.code_cache.is_kept(hash)
            case _:
                stored = isinstance(event.message, messages.Checkpoint)
        if not stored or state.roster.member(event.peer) is None:
            return Hold.NOT
        free = not self.full and self.store.free_bytes() - self._backlog > len(event.payload)
        return Hold.LAY if free else Hold.NOT

    def commit_by(self, commits: Commits) -> None:
        """Let *commits* make turns durable from now on."""
        assert not self.handed
        self._commits = commits

    def decide(self, events: Sequence[Event | Tick | Flow], now: float) -> Turn:
        """Handle *events* at monotonic time *now*. Returns the messages that may go at once and the writes to commit."""
        turn = self._begin_turn(now)
        answers: Counter[bytes] = Counter()
        in_turn = self._in_turn(events, answers, turn) if self._postponed or len(events) > 1 else events
        for event in in_turn:
            self.deciding = event
            shown = False
            if not isinstance(event, Event):
                self._expire(turn, now)
            elif self._is_answered(event, turn):
                continue
            else:
                message = event.message
                if isinstance(message, messages.Fetch):
                    shown = message.job not in self.payloads.unsaved
                    if not (shown or message.wait or message.attempt):
                        turn.readers[event.peer, message.id] = message.job
            out = self.dispatcher.handle(event, now)
            if isinstance(event, Event):
                answers[event.peer] += len(out.sends) + len(out.sends_after_commit)
            self._keep(out, turn, shown)
            if self.checked:
                self.dispatcher.check(everything=self._checks % 64 == 0)
                self._checks += 1
        self.deciding = None
        self._add_due(turn)
        return turn

    def _begin_turn(self, now: float) -> Turn:
        self._turns += 1
        turn = Turn(self._turns, now)
        self.dispatcher.begin_turn(turn.number)
        if now >= self._disk_poll_at:
            self._look_at_disk(now)
        if self._spooler is not None:
            for dropped in self._spooler.dropped:
                _note_taken(turn, dropped)
            self._spooler.dropped.clear()
        return turn

    def _is_answered(self, event: Event, turn: Turn) -> bool:
        """Answer what needs no decision: questions of readers, and requests that the disk or a damaged record refuses."""
        message = event.message
        _note_taken(turn, event)
        try:
            restore.recall_named(self.store, self.dispatcher, message)
        except StoreError as error:
            restore.warn(error)
            if getattr(message, "id", 0):
                failure = messages.Failure(message.id, "StoreError", str(error)[:MAX_REASON_CHARS])  # type: ignore[attr-defined]
                turn.sends.append(Send(event.peer, failure))
                return True
        if self.jammed and isinstance(message, _GROWING):
            text = self.dispatcher.state.disk.refusal
            turn.sends.append(Send(event.peer, messages.Failure(message.id, "Refused", text)))
            return True
        if isinstance(message, READS) and self.dispatcher.state.roster.heard(event.peer, turn.at):
            turn.sends += self.public.answer(event)
            return True
        return False

    def _add_due(self, turn: Turn) -> None:
        """Add what is due without an event: failures of messages, letters, streams and logs, and deletions."""
        now = turn.at
        # a failed job may give its slot to another job with a damaged record
        while self.payloads.unsent:
            self._keep(self.dispatcher.handle(self.payloads.unsent.pop(), now), turn)
        if self._postman is not None and self._postman.has_posted:
            turn.posted = self._postman.posted()
            self._keep(self.dispatcher.forget_letters(turn.posted, now), turn)
        has_space = not (self.full or self._commits.stuck)
        writes, turn.said = self.public.writes(now, self._backlog < QUIET_BACKLOG_BYTES, has_space)
        if writes:
            self._keep(Effects(writes=writes), turn)
        if self._sweeper.due:
            self._keep(Effects(writes=self._sweeper.writes()), turn)
            turn.sweeps = True

    def _look_at_disk(self, now: float) -> None:
        """Tell the dispatcher how much of the disk is free."""
        self._disk_poll_at = now + DISK_POLL_SECONDS
        left = 0 if self._commits.stuck else self.store.free_bytes() - self._backlog
        self.dispatcher.tell_disk_space(left, self.store.place)
        disk = self.dispatcher.state.disk
        self.full = disk.trouble if disk.is_full else ""

    def _in_turn(
        self, events: Iterable[Event | Tick | Flow], answers: Counter[bytes], turn: Turn
    ) -> Iterator[Event | Tick | Flow]:
        """The events of this turn: postponed ones first, then the new ones.

        *answers* counts the messages that go out for events of each peer. Where they are many, further events of the peer
        wait for later turns, so that other peers are answered in between. A peer of which too many wait is cut off.
        """
        for peer in list(self._postponed):
            waiting = self._postponed[peer]
            while waiting and answers[peer] <= MAX_ANSWERS_PER_TURN:
                yield waiting.popleft()
            if not waiting:
                del self._postponed[peer]
        for event in events:
            if not isinstance(event, Event) or (
                answers[event.peer] <= MAX_ANSWERS_PER_TURN and event.peer not in self._postponed
            ):
                yield event
            else:
                self.dispatcher.state.roster.heard(event.peer, turn.at)
                waiting = self._postponed.setdefault(event.peer, deque())
                waiting.append(event)
                if len(waiting) > MAX_POSTPONED:
                    for each in self._postponed.pop(event.peer):
                        _note_taken(turn, each)
                    yield Flow(event.peer, "cut")

    def next_deadline(self, now: float) -> float:
        """The time of the next Tick that may have an effect; infinity: none before a message comes."""
        if self._postponed or self.payloads.unsent:
            return now
        return now if self._sweeper.due else min(self.dispatcher.next_deadline(), self.public.deadline)

    def hand_in(self, turn: Turn) -> None:
        """Hand in the turn's writes, in the order of turns. `completed` returns the turn when they are on disk."""
        if turn.writes or turn.deltas or turn.sends_after_commit or turn.said:
            turn.measure()
            self._backlog += turn.size
            self.handed.append(turn)
            if turn.writes:
                turn.put = turn.number
                self._commits.put(turn.number, turn.writes)

    @property
    def has_completed(self) -> bool:
        """Whether a turn is on disk that `completed` has not returned yet. Raises StoreError if the disk has failed for
        good.
        """
        first, done = self.handed[0] if self.handed else None, self._commits.done()
        return first is not None and first.put <= done

    def cause(self, error: StoreError) -> StoreError:
        """The cause of *error*: after a failed write nothing can be read either, and only the writer knows the cause."""
        try:
            self._commits.close()
            self._commits.done()
        except StoreError as first:
            return first
        return error

    @property
    def behind(self) -> bool:
        """Whether the disk works but is so far behind that no further turn should be decided."""
        return self._backlog >= MAX_BACKLOG_BYTES and not self._commits.stuck

    @property
    def jammed(self) -> bool:
        """Whether requests for more bytes are refused, because many bytes wait for a full disk."""
        return self._backlog >= MAX_BACKLOG_BYTES and bool(self._commits.stuck)

    def late_answers(self) -> list[Send]:
        """Words for senders whose requests the full disk has refused for now, in place of the acknowledgements, and for
        readers of jobs whose changes it has refused.
        """
        disk = self.dispatcher.state.disk
        told: list[Send] = []
        late: list[Turn] = []
        for turn in self.handed if self._commits.stuck else ():
            if turn.put > self._commits.refused:
                break
            late.append(turn)
            kept: list[Send] = []
            for send in turn.sends_after_commit:
                message = send.message
                reply: int = getattr(message, "reply", 0)
                if (send.peer, reply) in turn.readers and isinstance(message, _SHOWS):
                    continue
                if not (isinstance(message, _ACKNOWLEDGEMENTS) and reply):
                    kept.append(send)
                    continue
                words = disk.delay(getattr(message, "job", 0))
                told.append(Send(send.peer, messages.Failure(reply, "Refused", words)))
            for (peer, reply), job in turn.readers.items():
                told.append(Send(peer, messages.Failure(reply, "Refused", disk.unread(job))))
            turn.sends_after_commit, turn.readers = kept, {}
        if len(late) > MAX_LATE_TURNS:
            self._join(late)
        return told

    def _join(self, late: list[Turn]) -> None:
        """Merge these turns, the first ones that were handed in, into one."""
        one, replaced = as_one(late, self.public.table.names())
        self.payloads.replaced(replaced)
        for turn in late:
            self._backlog -= turn.size
            self.handed.popleft()
        self._backlog += one.size
        self.handed.appendleft(one)

    def completed(self) -> Iterator[Turn]:
        """The durable turns, folded into the table, each with its messages to publish and to send."""
        while self.has_completed:
            turn = self.handed.popleft()
            self._backlog -= turn.size
            self.payloads.saved(turn.number, turn.writes)
            self.dispatcher.saved(turn.number)
            self.dispatcher.committed(turn.archived, turn.deleted)
            self._sweeper.add(turn.deleted)
            if turn.letters or self._letters:
                self._letters.extend(turn.letters)
                self._post()
            if turn.posted and self._postman is not None:
                self._postman.recorded(turn.posted)
            if turn.sweeps:
                self._sweeper.committed()
            told, heard, count = self.public.pass_on(turn.said, self.dispatcher.state.now)
            turn.sends_after_commit += told + self.dispatcher.heard(heard, count)
            if turn.deltas:
                turn.publish, told = self.public.fold(turn.deltas)
                turn.sends_after_commit += told
            yield turn
        if self.checked:
            self._check()

    def _check(self) -> None:
        """Assert the invariants that hold between turns."""
        self.payloads.check(w for turn in self.handed for w in turn.writes)
        assert self._backlog == sum(turn.size for turn in self.handed)

    @property
    def table(self) -> Table:
        """The public table, as it is on disk."""
        return self.public.table

    def close(self) -> None:
        """Write the turns that were handed in, and close the store. A turn that cannot be written is never acknowledged."""
        if self._postman is not None:
            self._postman.close()
        self._commits.close()  # if it raises, its thread still uses the store, and closing that would wait for the thread
        if self.has_posted:
            assert self._postman is not None
            self.store.commit([Write("mail", ("letter", n), None) for n in self._postman.posted()])
        self.store.close()

    # -- inside a turn -------------------------------------------------------------------------

    def _keep(self, out: Effects, turn: Turn, shown: bool = False) -> None:
        """Add the effects of one event to the turn. *shown*: the answers to a Fetch go at once, before the commit."""
        payloads = self.payloads
        if out.spool:
            payloads.spool(out.spool)
        for w in out.writes:
            value = payloads.pend(turn.number, w)
            turn.writes.append(w if value is w.value else Write(w.namespace, w.key, value))
        if out.sends:
            turn.sends += payloads.loaded(out.sends)
        for send in out.sends_after_commit:
            at_once = shown and isinstance(send.message, _SHOWS)
            # the results and inputs of a job may be large: each is loaded when its turn has come
            message = send.message
            later = isinstance(message, messages.Units) or (
                isinstance(message, messages.Results | messages.Blob) and message.reply
            )
            sends = turn.sends if at_once else turn.sends_after_commit
            sends += [send] if later else payloads.loaded([send])
        if out.writes:
            payloads.unpend(turn.number, out.writes)
        if out.spool:
            payloads.unspool(out.spool)
        if out.publications or out.ended or out.gone:
            turn.sends += self.public.say(out)
        turn.deltas += out.deltas
        turn.letters += out.letters
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
                    restore.recall(self.store, self.dispatcher, number)
                except StoreError as error:
                    restore.warn(error)
            self._keep(self.dispatcher.expire(due, now), turn)

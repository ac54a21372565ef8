"""The broker's answers to readers: the public table, searches for jobs, and the streams of jobs.

The table takes the changes of a turn when they are on disk. At that moment the job's stream gets the message that the
job has started or ended, after all earlier messages of its body.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from park.broker.dispatcher import Dispatcher
from park.broker.effects import Effects, Event, Heard, Peer, Send, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.handlers import rights
from park.broker.handlers.explain import explainer
from park.broker.storage.job_messages import Batch, JobMessages
from park.broker.storage.latest import LatestMessages
from park.broker.storage.store import Store
from park.errors import InvalidRequest, ParkError, Refused
from park.model import Delta, JobRecord, JobState
from park.table.query import JobIndex, Query
from park.table.table import Table, pack_deltas
from park.util.msgstream import LATEST_KINDS, message_stream
from park.wait_reason import Cause, WaitReason, words
from park.wire import codec, messages

#: Archived jobs that are shown at a time.
ARCHIVED_PAGE_JOBS = 500
#: The messages that this module answers.
READS = (messages.Snapshot, messages.Watch, messages.Unwatch, messages.Status, messages.Logs)

#: Fields of a record that the dispatcher's `BrokerJob` counts, with the names of its attributes.
_OF_JOBS = {name: name for name in ("done", "failed", "total", "running", "progress", "units", "note")} | {
    "seconds": "used_seconds",
    "credits": "paid_credits",
}
#: The default of each field of a record, and the names of the fields.
_NONE = JobRecord(0, "").as_map()
_FIELDS = JobRecord.__struct_fields__
#: The number of fields that one request may name: each once, and some of them twice.
MAX_FIELDS = 2 * len(_FIELDS)
_LAST = {JobState.COMPLETE: "complete", JobState.FAILED: "error", JobState.ABORTED: "abort"}


class PublicRecords:
    """The public records and streams, as the module explains. *unsaved*: jobs whose latest records are not on disk yet."""

    def __init__(self, store: Store, dispatcher: Dispatcher, unsaved: Container[int]) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._unsaved = unsaved
        self.table = Table()
        self._index = JobIndex()
        self.stream = message_stream()
        self.job_messages = JobMessages(store)
        self.snapshots = LatestMessages(store)

    def begin(self, rows: Iterable[Delta], now: float) -> None:
        """The table as a new life finds it."""
        self.table = Table.from_header(pack_deltas(rows), 0)
        self._index = JobIndex(self.table.jobs.values())
        self.job_messages.begin({job for job, row in self.table.jobs.items() if not row.state.ended}, now)
        for job, kind, payload in self.snapshots.restore():
            row = self.table.jobs.get(job)
            if row is None or row.state.ended:
                self.snapshots.end(job)
            else:
                self.stream.set_header(job, kind, payload)

    @property
    def head(self) -> messages.Head:
        """The Head message that is published every second."""
        return messages.Head(self._store.id, self._store.epoch, self.table.seq)

    # -- what changes --------------------------------------------------------------------------

    def fold(self, deltas: list[Delta]) -> tuple[tuple[messages.Deltas, bytes], list[Send]]:
        """Fold changes that are on disk into the table. Returns the message to publish, and those for followers."""
        seq = self.table.seq + 1
        message = messages.Deltas(self._store.id, self._store.epoch, seq, len(deltas))
        sends: list[Send] = []
        for delta in deltas:
            old, new = self.table.apply(delta)
            self._index.change(old, new)
            if new is None and isinstance(old, JobRecord):
                self.forget(old.job)
            if isinstance(new, JobRecord) and (old is None or old.state is not new.state):  # type: ignore[union-attr]
                sends += self._tell(new, old is None or old.started is None)  # type: ignore[union-attr]
        return (message, pack_deltas(deltas)), sends

    def _tell(self, record: JobRecord, fresh: bool) -> Iterator[Send]:
        if record.state is JobState.RUNNING and fresh:
            yield from self._publish(record.job, 0, "start", codec.pack(record.as_map()))
        elif record.state.ended:
            for entry in self.job_messages.last_words(record.job):
                yield from self._publish(record.job, *entry)
            yield from self._publish(record.job, 0, _LAST[record.state], _last(record.as_map()))
            self.stream.close(record.job)
            self.snapshots.end(record.job)

    def say(self, out: Effects) -> Iterator[Send]:
        """Take the messages of bodies. Yields those that may go to followers before they are on disk."""
        for p in out.publications:
            stored = not self._dispatcher.state.jobs[p.job].session
            if stored and p.kind and (p.header or p.kind in LATEST_KINDS):
                self.snapshots.put(p.job, p.kind, p.payload)
            if p.header and p.kind:
                self.stream.set_header(p.job, p.kind, p.payload)
            if not self.job_messages.take(p, stored, self.stream.watched(p.job)):
                yield from self._publish(p.job, 0, p.kind, p.payload)
        for job in out.ended:
            self.job_messages.end(job)
        for peer in out.gone:
            self.stream.drop_peer(peer)

    def forget(self, job: int) -> None:
        """Write no more records of *job*, which is deleted: a later record would outlive it."""
        self.job_messages.forget(job)
        self.snapshots.end(job)

    def writes(self, now: float, quiet: bool, has_space: bool) -> tuple[list[Write], list[Batch]]:
        """The due writes of streams and logs, and messages to pass on after the commit; none unless the disk *has_space*.

        *quiet*: the disk has time for the records that are written about once a second.
        """
        if now < self.deadline and not self.job_messages.has_ends:
            return [], []
        if not has_space:
            self.job_messages.put_off(now)
        if not (has_space and quiet):
            self.snapshots.put_off(now)
        writes, batches = self.job_messages.batches(now, quiet) if has_space else ([], [])
        return writes + self.snapshots.writes(now), batches

    def pass_on(self, batches: list[Batch], now: float) -> tuple[list[Send], list[Heard], int]:
        """Pass on messages that are on disk. Returns sends to followers, receipts for kernels, and how many they were."""
        sends = [
            send
            for batch in batches
            for entry in self.job_messages.on_disk(batch, now)
            for send in self._publish(batch.job, *entry)
        ]
        heard = [heard for batch in batches for heard in batch.heard]
        return sends, heard, sum(len(batch.entries) for batch in batches)

    @property
    def deadline(self) -> float:
        """The time at which `writes` is due; infinity: nothing waits."""
        return min(self.job_messages.deadline, self.snapshots.deadline)

    def _publish(self, job: int, at: int, kind: str, payload: Any) -> Iterator[Send]:
        for peer, message, data in self.stream.publish(job, kind, payload, at=at):
            yield Send(peer, message, data)

    # -- what is asked -------------------------------------------------------------------------

    def answer(self, event: Event) -> Iterator[Send]:
        """Answer a question for the table, for records, or for a job's stream or log, from the records on disk."""
        message, peer = event.message, event.peer
        match message:
            case messages.Snapshot():
                header = messages.Header(self._store.id, self._store.epoch, self.table.seq, message.id)
                yield Send(peer, header, self.table.header())
            case messages.Status(job=0):
                try:
                    found = self._find(message)
                except InvalidRequest as error:
                    yield Send(peer, messages.Failure(message.id, "InvalidRequest", str(error)))
                else:
                    yield Send(peer, messages.Records(message.id), codec.pack(found))
            case messages.Unwatch():
                self.stream.unsubscribe(message.job, peer)
            case messages.Status() | messages.Watch() | messages.Logs():
                yield from self._answer_about(event, message)

    def _find(self, message: messages.Status) -> list[Any]:
        """The records of the jobs that the message describes, or their number. Raises InvalidRequest."""
        catalogue = self._dispatcher.state.ended.catalogue
        if message.below and message.fields == [messages.COUNT]:
            return [[catalogue.count(_query(message), message.below)]]
        names = message.fields or _FIELDS
        if unknown := set(names).difference(_FIELDS):
            raise InvalidRequest(
                f"records of jobs have no field {min(unknown)!r}: they have {', '.join(_FIELDS)}"
            )
        if len(names) > MAX_FIELDS:
            raise InvalidRequest(
                f"a request for records names at most {MAX_FIELDS} fields, not {len(names):,}"
            )
        if message.below:
            numbers = catalogue.find(_query(message), message.below)
            most = min(message.newest or ARCHIVED_PAGE_JOBS, ARCHIVED_PAGE_JOBS)
            rows = self._archived(islice(numbers, most), names)
        else:
            found = self._index.find(_query(message), self.table.jobs)
            rows = self._rows(found, names, self._explainer())
        return list(rows) if message.fields else [dict(zip(_FIELDS, row, strict=True)) for row in rows]

    def _answer_about(
        self, event: Event, message: messages.Status | messages.Watch | messages.Logs
    ) -> Iterator[Send]:
        """Answer a question about one job."""
        peer, state = event.peer, self._dispatcher.state
        job = state.jobs.get(message.job)
        if message.job not in self.table.jobs and (job is None or not job.archived):
            yield Send(peer, messages.Failure(message.id, "UnknownJob", state.unknown(message.job)))
            return
        if isinstance(message, messages.Status):
            explain = functools.cache(self._explainer())
            shown = self._shown(message.job, explain)
            if job is not None:
                shown["wait"] = explain(message.job).as_map()
            yield Send(peer, messages.Records(message.id), codec.pack([shown]))
            return
        try:
            # a job that is being deleted has its row until that is on disk
            owner = job.owner if job is not None else self.table.jobs[message.job].owner
            rights.check_sender(state, event, message.job, owner)
        except Refused as error:
            yield Send(peer, messages.Failure(message.id, "Refused", str(error)))
            return
        if isinstance(message, messages.Logs):
            yield Send(peer, messages.Records(message.id), codec.pack(self.job_messages.lines(message.job)))
        else:
            yield Send(peer, messages.Done(message.id))
            yield from self._join(message, peer)

    def _join(self, message: messages.Watch, peer: Peer) -> Iterator[Send]:
        """Let *peer* follow a job: its record, its log or the messages that the peer has missed, its latest messages, and
        from then on every new one. For an ended job the last message tells how it ended.
        """
        number, id, since = message.job, message.id, message.since
        shown = self._shown(number, self._explainer())
        passed, kept = self.job_messages.since(number, since)
        at, lost = passed, ""
        if since is None:
            kept = [entry for entry in kept if message.logs and entry.kind == "log"]
            if (
                kept
            ):  # the follower's place moves on with the lines, and after the last one to the next message
                at = kept[0].at - 1
                kept[-1] = kept[-1]._replace(at=passed)
        elif since > passed:  # the store is older than the messages that the peer has
            kept, lost = [], "messages"
        else:
            at = since
            if len(kept) < passed - since:
                lost = f"{passed - since - len(kept):,} messages"
        yield Send(peer, messages.Stream(number, "join", True, id, at), codec.pack(shown))
        if lost:
            text = f"{lost} of job {number} were left out: the broker does not keep them any more"
            data = codec.pack({"text": text, "record": None})
            yield Send(peer, messages.Stream(number, "error", True, id), data)
        for entry in kept:
            yield Send(peer, messages.Stream(number, entry.kind, since is None, id, entry.at), entry.data)
        row = self.table.jobs.get(number)
        if row is None or row.state.ended:
            yield Send(peer, messages.Stream(number, _LAST[shown["state"]], True, id), _last(shown))
            return
        self.job_messages.hurry(number)
        for stream, payload in self.stream.subscribe(number, peer):
            yield Send(peer, replace(stream, reply=id), payload)

    def _rows(
        self, numbers: Iterable[int], names: Sequence[str], explain: Callable[[int], WaitReason]
    ) -> Iterator[list[Any]]:
        """The fields *names* of the records of these jobs, with the reasons, as far as they are on disk.

        No `JobRecord` is made for a row: the broker shows thousands of jobs at once, and does nothing else meanwhile.
        """
        jobs = self._dispatcher.state.jobs
        # one call gets all fields; one more field makes the answer always a tuple
        of_record = attrgetter(*names, "job")
        of_job = attrgetter(*(_OF_JOBS.get(name, f"facts.{name}") for name in names), "facts.job")
        why = [i for i, name in enumerate(names) if name == "reason"]
        where = [i for i, name in enumerate(names) if name == "hosts"]
        for number in numbers:
            job, shown = jobs.get(number), self.table.jobs.get(number)
            if shown is not None and (job is None or number in self._unsaved):
                row = list(of_record(shown))
            else:
                row = list(of_job(job))
            row.pop()
            if job is not None:
                for i in why:
                    row[i] = words(explain(number))
                for i in where:
                    row[i] = self._hosts(job)
            yield row

    def _explainer(self) -> Callable[[int], WaitReason]:
        """The function that explains jobs as they are shown: the news of some may wait for a full disk."""
        explain, disk = explainer(self._dispatcher.state), self._dispatcher.state.disk
        if not disk.is_full:
            return explain

        def why(number: int) -> WaitReason:
            reason = explain(number)
            unsaid = reason.cause is Cause.NONE and number in self._unsaved
            return WaitReason(Cause.DISK, disk.trouble) if unsaid else reason

        return why

    def _hosts(self, job: BrokerJob) -> list[str]:
        """The kernels that run units of the job now."""
        attempts = (self._dispatcher.state.attempts[number] for number in job.attempts)
        return sorted({a.kernel.host for a in attempts if a.has_slots})

    def _archived(self, numbers: Iterable[int], names: Sequence[str]) -> Iterator[list[Any]]:
        """The rows of archived jobs. A job that cannot be read is left out; a request that names it gets the reason."""
        for number in numbers:
            with contextlib.suppress(ParkError, AttributeError):
                stored = codec.unpack(self._store.get("archive", (number,)) or b"")
                yield [stored.get(name, _NONE[name]) for name in names]

    def _shown(self, number: int, explain: Callable[[int], WaitReason]) -> dict[str, Any]:
        """The record of one job as a map, likewise."""
        return dict(zip(_FIELDS, next(self._rows([number], _FIELDS, explain)), strict=True))


def _last(record: dict[str, Any]) -> bytes:
    """The payload of the last message of a stream."""
    if record["state"] == JobState.FAILED:
        return codec.pack({"text": record["reason"], "record": record})
    return codec.pack(record)


def _query(m: messages.Status) -> Query:
    return Query(m.owner, tuple(m.states), tuple(m.tags), m.word, m.since, max(0, m.newest))

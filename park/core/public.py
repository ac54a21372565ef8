"""What clients may look at: the public table, the jobs that are found in it, and the streams of jobs.

The table is folded from the changes of each turn when these are on disk, and what happens there to a job (it starts, it
ends) is told on its stream at that moment, after all that its body has said before.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from park.core.dispatcher import Dispatcher
from park.core.logbook import LogBook
from park.core.outcome import Event, Outcome, Peer, Send, Write
from park.core.snapshots import Snapshots
from park.core.store import Store
from park.errors import Refused
from park.model import Delta, JobRecord, JobState
from park.search import Index, Query
from park.table import Table, pack_deltas
from park.util.msgstream import LATEST, message_stream
from park.wire import codec, messages

#: What is answered here.
READS = (messages.Snapshot, messages.Watch, messages.Unwatch, messages.Status, messages.Logs)

_FIELDS = tuple(field.name for field in fields(JobRecord))
_LAST = {JobState.COMPLETE: "complete", JobState.FAILED: "error", JobState.ABORTED: "abort"}


class Public:
    """See the module. *unsaved*: the jobs with records that are decided and not on disk."""

    def __init__(self, store: Store, dispatcher: Dispatcher, unsaved: Container[int]) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._unsaved = unsaved
        self.table = Table()
        self._index = Index()
        self.stream = message_stream()
        self.logs = LogBook(store)
        self.snapshots = Snapshots(store)

    def begin(self, rows: Iterable[Delta]) -> None:
        """The table as a new life finds it."""
        self.table = Table.from_header(pack_deltas(rows), 0)
        self._index = Index(self.table.jobs.values())
        for job, kind, payload in self.snapshots.restore():
            row = self.table.jobs.get(job)
            if row is None or row.state.ended:
                self.snapshots.end(job)
            else:
                self.stream.set_header(job, kind, payload)

    @property
    def head(self) -> messages.Head:
        """What is published every second."""
        return messages.Head(self._store.id, self._store.epoch, self.table.seq)

    # -- what changes --------------------------------------------------------------------------

    def fold(self, deltas: list[Delta]) -> tuple[tuple[messages.Deltas, bytes], list[Send]]:
        """The changes are on disk: what is to be published, and what those who follow the jobs are told."""
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
            yield from self._publish(record.job, "start", codec.pack(record.as_map()))
        elif record.state.ended:
            yield from self._publish(record.job, _LAST[record.state], _last(record.as_map()))
            self.stream.close(record.job)
            self.logs.end(record.job)
            self.snapshots.end(record.job)

    def say(self, out: Outcome) -> Iterator[Send]:
        """What bodies have published in a turn."""
        for p in out.publications:
            stored = not self._dispatcher.list.jobs[p.job].session
            if p.kind == "log":
                self.logs.add(p.job, p.payload, stored)
            elif stored and (p.header or p.kind in LATEST):
                self.snapshots.put(p.job, p.kind, p.payload)
            yield from self._publish(p.job, p.kind, p.payload, p.header)
        for peer in out.gone:
            self.stream.drop_peer(peer)

    def forget(self, job: int) -> None:
        """*job* is deleted, though perhaps not yet on disk: what is written of it now would outlive it."""
        self.logs.forget(job)
        self.snapshots.end(job)

    def writes(self, now: float, quiet: bool) -> list[Write]:
        """What is kept of streams and logs, about once a second, when the disk is *quiet*: has time and room for it."""
        if not quiet:
            due = self.deadline
            if due is not None and now >= due:
                self.logs.put_off(now)
                self.snapshots.put_off(now)
            return []
        return self.logs.writes(now) + self.snapshots.writes(now)

    @property
    def deadline(self) -> float | None:
        """When `writes` has something; None: nothing is due."""
        times = (self.logs.deadline, self.snapshots.deadline)
        return min((t for t in times if t is not None), default=None)

    def _publish(self, job: int, kind: str, payload: Any, header: bool = False) -> Iterator[Send]:
        for peer, message, data in self.stream.publish(job, kind, payload, header):
            yield Send(peer, message, data)

    # -- what is asked -------------------------------------------------------------------------

    def answer(self, event: Event) -> Iterator[Send]:
        """Whoever wants the table, records, a job's stream or its log gets what is on disk."""
        message, peer = event.message, event.peer
        match message:
            case messages.Snapshot():
                header = messages.Header(self._store.id, self._store.epoch, self.table.seq, message.id)
                yield Send(peer, header, self.table.header())
            case messages.Status(job=0):
                if unknown := set(message.fields).difference(_FIELDS):
                    text = f"records of jobs have no field {min(unknown)!r}: they have {', '.join(_FIELDS)}"
                    yield Send(peer, messages.Failure(message.id, "InvalidRequest", text))
                    return
                numbers = self._index.find(_query(message), self.table.jobs)
                rows = self._rows(numbers, message.fields) if message.fields else self._maps(numbers)
                yield Send(peer, messages.Records(message.id), codec.pack(list(rows)))
            case messages.Unwatch():
                self.stream.unsubscribe(message.job, peer)
            case messages.Status() | messages.Watch() | messages.Logs():
                job = self._dispatcher.list.jobs.get(message.job)
                if message.job not in self.table.jobs and (job is None or not job.archived):
                    text = self._dispatcher.unknown(message.job)
                    yield Send(peer, messages.Failure(message.id, "UnknownJob", text))
                    return
                if isinstance(message, messages.Status):
                    yield Send(peer, messages.Records(message.id), codec.pack([self._shown(message.job)]))
                    return
                try:
                    # of one that is being deleted the row is there until that is on disk
                    owner = job.owner if job is not None else self.table.jobs[message.job].owner
                    self._dispatcher.check_right(event, message.job, owner)
                except Refused as error:
                    yield Send(peer, messages.Failure(message.id, "Refused", str(error)))
                    return
                if isinstance(message, messages.Logs):
                    yield Send(peer, messages.Records(message.id), codec.pack(self.logs.lines(message.job)))
                else:
                    yield Send(peer, messages.Done(message.id))
                    yield from self._join(message, peer)

    def _join(self, message: messages.Watch, peer: Peer) -> Iterator[Send]:
        """The job as it is, its log, its latest messages, and from then on every other; of one that has ended, how."""
        number, id = message.job, message.id
        shown = self._shown(number)
        yield Send(peer, messages.Stream(number, "join", True, id), codec.pack(shown))
        for line in self.logs.lines(number) if message.logs else ():
            yield Send(peer, messages.Stream(number, "log", True, id), line)
        row = self.table.jobs.get(number)
        if row is None or row.state.ended:
            yield Send(peer, messages.Stream(number, _LAST[shown["state"]], True, id), _last(shown))
            return
        for stream, payload in self.stream.subscribe(number, peer):
            yield Send(peer, replace(stream, reply=id), payload)

    def _rows(self, numbers: Iterable[int], names: Sequence[str]) -> Iterator[list[Any]]:
        """Of the records of these jobs the fields *names*, as they are now if that is on disk, and why they are so.

        Thousands are shown at once, while the broker does nothing else: no record is made for it.
        """
        explain = self._dispatcher.explainer()
        jobs = self._dispatcher.list.jobs
        for number in numbers:
            job, shown = jobs.get(number), self.table.jobs.get(number)
            now: dict[str, Any] = {}
            if shown is None or (job is not None and number not in self._unsaved):
                assert job is not None
                shown, now = job.facts, job.counters
            if job is not None and "reason" in names:
                now["reason"] = explain(number)
            yield [now[name] if name in now else getattr(shown, name) for name in names]

    def _shown(self, number: int) -> dict[str, Any]:
        """The record of one job as a map, likewise."""
        return next(self._maps([number]))

    def _maps(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        return (dict(zip(_FIELDS, row, strict=True)) for row in self._rows(numbers, _FIELDS))


def _last(record: dict[str, Any]) -> bytes:
    """The payload of the last message of a stream."""
    if record["state"] == JobState.FAILED:
        return codec.pack({"text": record["reason"], "record": record})
    return codec.pack(record)


def _query(m: messages.Status) -> Query:
    return Query(m.owner, tuple(m.states), tuple(m.tags), m.word, m.since, max(0, m.newest))

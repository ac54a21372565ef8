"""Retention of ended jobs: how long they are kept, and how many of them.

A session leaves the table soon after its end. The newest few stay, so that users see how they ended. The newest stored
jobs stay in memory and in the table; older ones are *archived*: they lie in the store alone, and are *recalled* when a
request names them. A deleted job cannot be found any more, whether its owner or the retention deleted it. Its records
in the store are deleted bit by bit (`park.broker.storage.sweep`). A job is never deleted while one that has not ended
comes after it.

The age of jobs is counted by a clock of the broker's own. Its time is monotonic in each life. The pause between two
lives counts as the wall clock says, but never less than 0 or more than a day. So a wrong wall clock makes jobs older by
one day a start at most.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from park.broker.effects import Effects, Ref, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import JobMap
from park.broker.handlers import fetches
from park.broker.state import State
from park.errors import Refused
from park.model import JobRecord
from park.wire import codec
from park.wire.messages import Submit

#: Ended sessions that stay in the table, and archived jobs that stay in memory after they were recalled.
MAX_ENDED_SESSIONS, MAX_RECALLED_JOBS = 100, 100

#: The fields of an archived job that are read when a life begins.
LISTED_FIELDS = ("job", "owner", "state", "tags", "name", "submitted", "clock", "bytes", "body", "code")

#: Jobs that one turn deletes; seconds until the next ones, and until the next look if no job could be deleted.
EXPIRY_BATCH, EXPIRY_PAUSE_SECONDS, EXPIRY_POLL_SECONDS = 50, 0.01, 60.0

#: Seconds by which an old job may be deleted late.
EXPIRY_SLACK_SECONDS = 1.0

#: Seconds that a pause between two lives counts at most, and seconds between two writes of the clock.
MAX_PAUSE_SECONDS, CLOCK_WRITE_SECONDS = 86400.0, 600.0

_PAIR = struct.Struct("<QQ")


def restore_clock(state: State, clock: float, wall: float) -> None:
    """The retention clock of the last life when it was written, and the wall clock then."""
    state.retention_clock.saved = (clock, wall)


def begin(state: State, effects: Effects, wall: float) -> None:
    """Begin a life: the retention clock goes on, and the ended jobs count."""
    clock, saved = state.retention_clock.saved
    passed = min(max(0.0, wall - saved), MAX_PAUSE_SECONDS) if saved else 0.0
    ended = [j for j in state.jobs.values() if j.ended]
    clock = max([clock + passed, *(j.clock for j in ended), *(c for _, c, _ in state.ended.archive.last())])
    ahead = clock - effects.now
    while ahead + effects.now < clock:  # no job may end before the last one by rounding
        ahead = math.nextafter(ahead, math.inf)
    state.retention_clock.ahead = ahead
    for job in sorted(ended, key=lambda j: (j.clock, j.number)):
        state.ended.jobs[job.number] = None
    write_clock(state, effects)


def write_clock(state: State, effects: Effects) -> None:
    """Write the retention clock, with the wall clock beside it."""
    state.retention_clock.write_due = effects.now + CLOCK_WRITE_SECONDS
    value = codec.pack([state.retention_clock.read(state.now), effects.wall])
    effects.writes.append(Write("meta", ("clock",), value))


def begin_turn(state: State, number: int) -> None:
    """Begin turn *number*: jobs that were recalled first leave the memory again.

    Recalled jobs never leave within a turn, because its messages may name many of them.
    """
    state.turn = number
    while len(state.ended.recalled) > MAX_RECALLED_JOBS:
        job = next(iter(state.ended.recalled))
        del state.ended.recalled[job]
        state.job_list.forget(state.jobs[job])


def keep_ended(state: State, effects: Effects) -> None:
    """Archive the oldest ended jobs if more are in memory than may be."""
    for number in effects.ended:
        job = state.jobs[number]
        if job.session:
            state.ended.sessions[number] = None
        else:
            state.ended.jobs[number] = None
            state.ended.bytes += job.bytes
            wait = math.inf if state.ended.keep.age is None else state.ended.keep.age + EXPIRY_SLACK_SECONDS
            if state.ended.keep.size is not None and state.ended.bytes > state.ended.keep.size:
                wait = 0.0
            state.ended.expiry_due = min(state.ended.expiry_due, effects.now + wait)
    while len(state.ended.sessions) > MAX_ENDED_SESSIONS:
        number = next(iter(state.ended.sessions))
        del state.ended.sessions[number]
        state.job_list.leave_table(state.jobs[number], effects)
        state.job_list.forget(state.jobs[number])
    spare = len(state.ended.jobs) - state.ended.keep.jobs
    if spare > 0:
        # needed jobs keep their places, so that the order stays by age
        old = (number for number in state.ended.jobs if not state.job_list.needed[number])
        for number in list(islice(old, spare)):
            del state.ended.jobs[number]
            _archive(state, effects, state.jobs[number])


def _archive(state: State, effects: Effects, job: BrokerJob) -> None:
    """Archive an ended job; it stays in memory until that is on disk."""
    state.ended.archiving.add(job.number)
    state.job_list.leave_table(job, effects)
    state.ledger.forget(job.number)
    number, record = job.number, job.record.as_map() | state.job_list.more(job)
    record |= {"key": job.submit.key, "body": job.submit.body}
    root = job.root
    spans = [*root.segments.items()] if root is not None else []
    effects.writes += [
        Write("archive", (number,), codec.pack(record)),
        Write("spans", (number, "units"), _pairs(spans)),
        Write("spans", (number, "results"), _pairs(job.results)),
        Write("key", (job.submit.key,), codec.pack(number)),
        Write("job", (number,), None),
    ]
    effects.archived.append(number)


def committed(state: State, archived: list[int], deleted: list[int]) -> None:
    """Take note of jobs that are on disk in the archive, and of jobs that are deleted from it."""
    state.ended.deleting.difference_update(deleted)
    for number in archived:
        if number in state.ended.archiving:
            state.ended.archiving.discard(number)
            job = state.jobs[number]
            state.ended.archive.add(number, job.clock, job.bytes)
            state.ended.catalogue.add(job.record.as_map())
            state.job_list.forget(job)


def restore_archived(state: State, stored: list[dict[str, Any]]) -> None:
    """Take up the archived jobs when a life begins."""
    found: list[tuple[float, int, int]] = []
    for job in stored:
        state.ended.catalogue.add(job)
        found.append((job["clock"], job["job"], job["bytes"]))
        state.ended.bytes += job["bytes"]
        state.job_list.tallies.of(job["owner"]).bytes += job["bytes"]
        state.code_cache.keep(job["body"], job["code"])
    for clock, number, size in sorted(found):
        state.ended.archive.add(number, clock, size)


def recall(state: State, stored: dict[str, Any], submit: Submit, units: bytes, results: bytes) -> None:
    """Take an archived job that a request names into memory, until later requests name enough others."""
    if stored["job"] in state.ended.deleting:
        return
    record = JobRecord.from_map(stored)
    job = BrokerJob(record, submit, b"", results=list(_spans(results)), clock=stored["clock"])
    job.ending, job.error = stored["ending"], stored["error"]
    job.bytes, job.code, job.archived = stored["bytes"], stored["code"], True
    job.files = stored.get("files", {})
    job.root = ended_root(job, dict(_spans(units)))
    state.jobs[job.number] = job
    state.job_list.by_key[submit.key] = job.number
    state.ended.recalled[job.number] = None


def check_deletable(state: State, job: BrokerJob) -> None:
    """Raises Refused while the job, or one that comes after it, has not ended."""
    number = job.number
    if not job.ended:
        raise Refused(
            f"job {number} is {job.state}: abort it first (`park abort {number}`, in Python job.abort()), "
            "then delete it"
        )
    if state.job_list.needed[number]:
        others = (j for j in state.jobs.values() if not j.ended and number in j.facts.after)
        other = next(others)
        raise Refused(
            f"job {other.number}, which comes after job {number}, is {other.state}: wait until it has ended, or "
            "abort it first"
        )


def remove(state: State, effects: Effects, job: BrokerJob) -> None:
    """Delete the job: it cannot be found any more. Its other records are swept out later."""
    number, body = job.number, job.submit.body
    fetches.end(state, effects, job)
    state.job_list.leave_table(job, effects)
    state.job_list.forget(job)
    for kept in (state.ended.jobs, state.ended.sessions):
        kept.pop(number, None)
    if job.session:
        return
    state.ended.deleting.add(number)
    effects.deleted.append(number)
    if number in state.ended.archiving:
        state.ended.archiving.discard(number)
    elif number in state.ended.recalled:
        del state.ended.recalled[number]
        state.ended.archive.remove(number)
        state.ended.catalogue.remove(number)
    state.ended.bytes -= job.bytes
    state.job_list.tallies.of(job.owner).bytes -= job.bytes
    state.ledger.forget(number)
    writes = effects.writes
    if state.code_cache.forget(body):
        if state.code_cache.spool(body):
            effects.spool.append(Write("blob", (body,), Ref("blob", (body,))))
        writes.append(Write("blob", (body,), None))
    writes += [
        Write("job", (number,), None),
        Write("archive", (number,), None),
        Write("key", (job.submit.key,), None),
        Write("trash", (number,), b""),
    ]


def due(state: State, now: float) -> list[int]:
    """Some of the ended jobs that are kept no longer. The caller recalls them, and then calls `expire`."""
    state.now = now
    if now < state.ended.expiry_due:
        return []
    remembered = ((n, state.jobs[n].clock, state.jobs[n].bytes) for n in state.ended.jobs)
    found: list[int] = []
    size = state.ended.bytes
    state.ended.expiry_due = now + EXPIRY_POLL_SECONDS
    for number, clock, its in merge(state.ended.archive, remembered, key=itemgetter(1)):
        age = state.retention_clock.read(state.now) - clock
        old = state.ended.keep.age is not None and age >= state.ended.keep.age
        if not old and (state.ended.keep.size is None or size <= state.ended.keep.size):
            if state.ended.keep.age is not None:
                state.ended.expiry_due = now + min(
                    EXPIRY_POLL_SECONDS, state.ended.keep.age - age + EXPIRY_SLACK_SECONDS
                )
            break
        if state.job_list.needed[number]:
            continue
        found.append(number)
        size -= its
        if len(found) == EXPIRY_BATCH:  # there may be more
            state.ended.expiry_due = now + EXPIRY_PAUSE_SECONDS
            break
    return found


def expire(state: State, effects: Effects, numbers: list[int]) -> None:
    """Delete these jobs, which `due` has named."""
    for number in numbers:
        job = state.jobs.get(number)
        if job is not None and not state.job_list.needed[number]:
            remove(state, effects, job)


def deadline(state: State) -> float:
    """The time at which a job may have to be deleted."""
    over_size = state.ended.keep.size is not None and state.ended.bytes > state.ended.keep.size
    if state.ended.keep.age is None and not over_size:
        return math.inf
    return (
        min(state.retention_clock.write_due, state.ended.expiry_due)
        if state.ended.keep.age is not None
        else state.ended.expiry_due
    )


def check(state: State) -> None:
    """Assert the invariants."""
    ended = {n for n, j in state.jobs.items() if j.ended}
    stored = {n for n in ended if not state.jobs[n].session}
    assert state.ended.sessions.keys() == ended - stored
    assert stored == state.ended.jobs.keys() | state.ended.archiving | state.ended.recalled.keys()
    assert len(state.ended.sessions) <= MAX_ENDED_SESSIONS
    for clocks in (
        [state.jobs[n].clock for n in state.ended.jobs],
        [clock for _, clock, _ in state.ended.archive],
    ):
        assert clocks == sorted(clocks)
    assert state.ended.bytes >= sum(state.jobs[n].bytes for n in stored)


def ended_root(job: BrokerJob, segments: dict[int, int]) -> JobMap:
    """The map of an ended job: only its segments, for the readers of its inputs."""
    m = job.submit
    root = JobMap(m.key, job.number, job.owner, m.body, m.seed, 0, root=True)
    root.segments, root.total = segments, sum(segments.values())
    return root


def _pairs(pairs: list[tuple[int, int]]) -> bytes:
    return b"".join(_PAIR.pack(*pair) for pair in pairs)


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    return _PAIR.iter_unpack(data)

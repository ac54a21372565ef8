"""A new life of the broker: the stored jobs are taken up, and those that may run are released.

`restore` is called once for each stored job, then `settle` once. Kernels that come back say what they still hold
(`park.broker.handlers.recovery`).
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from park.broker.effects import Effects
from park.broker.entities.controls import Controls
from park.broker.entities.jobs import BrokerJob
from park.broker.handlers import job_lifecycle, maps, recovery, requests, retention
from park.broker.state import State
from park.model import JobRecord, JobState
from park.wire.messages import Submit


class StoredRecords(Struct, frozen=True):
    """The records of one job in the store, without its own record and its request."""

    #: first unit -> number of units, of each pack of inputs
    segments: dict[int, int] = field(default_factory=dict)
    #: (first unit, number of units) of each pack of results
    results: list[tuple[int, int]] = field(default_factory=list)
    #: (first unit, number of units) that were dealt and must not run twice
    risky: list[tuple[int, int]] = field(default_factory=list)
    #: bytes of all records of a job that has not ended
    size: int = 0
    #: number, key and bytes of each control
    controls: list[tuple[int, bytes, int]] = field(default_factory=list)


def restore(state: State, stored: dict[str, Any], submit: Submit, records: StoredRecords) -> None:
    """Take up a stored job. Units without an answer wait again, unless a kernel still holds them.

    *stored* is the map that `JobList.store` wrote.
    """
    job = _restored_job(stored, submit, records)
    if job.controls is not None:
        state.job_list.tallies.of(job.owner).controls += len(job.controls.kept)
    state.job_list.restore(job)
    state.code_cache.keep(submit.body, job.code)
    if job.ended:
        state.job_list.grow(job, stored["bytes"])
        state.ended.bytes += stored["bytes"]
        job.root = retention.ended_root(job, records.segments)
        return
    state.job_list.grow(job, records.size)
    _restore_root(state, job, stored["closed"], records)
    if job.state not in (JobState.WAITING, JobState.PAUSED):
        job.facts = replace(job.facts, state=JobState.QUEUED, epoch=state.epoch)
    job.done, job.progress = sum(count for _, count in records.results), None


def _restored_job(stored: dict[str, Any], submit: Submit, records: StoredRecords) -> BrokerJob:
    """The job by itself, without its map."""
    job = BrokerJob(
        JobRecord.from_map(stored),
        submit,
        b"",
        results=records.results,
        ending=stored["ending"],
        error=stored["error"],
        code=stored["code"],
        clock=stored["clock"],
    )
    checkpoints = {unit: (attempt, 0) for unit, attempt in stored.get("checkpoints", ())}
    if checkpoints or records.risky:
        answered = {unit for start, count in records.results for unit in range(start, start + count)}
        job.checkpoints = {unit: mark for unit, mark in checkpoints.items() if unit not in answered}
        job.risky = [(start, count) for start, count in records.risky if start not in answered]
    job.files = stored.get("files", {})
    if records.controls:
        job.controls = Controls(stored.get("served", 0))
        for control in records.controls:
            job.controls.restore(*control)
    job.ran, job.overtime = stored.get("ran", 0.0), stored.get("overtime")
    return job


def _restore_root(state: State, job: BrokerJob, closed: bool, records: StoredRecords) -> None:
    """The job's own map: the units without an answer wait."""
    root = maps.root_map(state, job, came=0)
    root.closed = closed
    root.segments = {0: 1} if job.submit.once else records.segments
    root.total = sum(root.segments.values())
    root.put_missing((start, start + count) for start, count in records.results)
    job.list_ready(root)


def settle(state: State, effects: Effects, wall: float) -> None:
    """Release the jobs that may run; *wall* is the wall clock."""
    state.began = wall
    state.ledger.settle(state.jobs)
    for job in state.jobs.values():
        job.paid = state.ledger.costs.get(job.number, 0)
        job.seconds = state.ledger.used_seconds(job.number) or job.seconds
    retention.begin(state, effects, wall)
    state.recovery.until = effects.now + state.roster.lease
    for job in list(state.jobs.values()):
        if job.ended:
            continue
        # the wall clock only gives the time that the job has waited; a wrong clock makes it count as new, or as a day
        # old
        requests.join_clock(state, effects, job, effects.now - max(0.0, wall - job.facts.submitted))
        recovery.recover(state, job)
        if not job.recovering or job.ending in ("abort", "fail"):
            job.stop_root()
        job_lifecycle.release(state, effects, job)
        job_lifecycle.refresh(state, effects, job)
        if job.root is not None:
            job_lifecycle.check_map(state, effects, job.root)
    if not state.recovery.expected:
        for job in state.jobs.values():
            if not job.ended:
                recovery.look_at_lost(state, effects, job)
    job_lifecycle.release_dependents(state, effects)
    retention.keep_ended(state, effects)
    state.ledger.flush(effects.now, effects)

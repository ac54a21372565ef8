"""Decoding results: one result that cannot be unpickled here does not cost the others, and is named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from park.body import payload
from park.errors import JobAborted, JobFailed, NotComplete, ProtocolError, UnitError, in_words
from park.model import NOT_RUN, JobRecord, JobState
from park.wire.pack import Buffer, Pack


def job_result(record: dict[str, Any], once: bool, pieces: Sequence[tuple[int, Buffer]]) -> Any:
    """The result of a job that has ended, from its record and the packs of its results by first unit.

    A list in input order for a job with inputs, else the value that the body returned. Raises JobFailed, JobAborted, or
    NotComplete.
    """
    job = JobRecord.from_map(record)
    if not job.state.ended:
        raise NotComplete(f"job {job.job} is not complete: call .wait()")
    unreadable: list[UnitError] = []
    if once:
        values = _results(pieces[0][1], 0, unreadable) if pieces else [NOT_RUN]
    else:
        values = [NOT_RUN] * (job.total or 0)
        for start, data in pieces:
            part = _results(data, start, unreadable)
            values[start : start + len(part)] = part
    if job.state is JobState.ABORTED:
        raise JobAborted(job.job, job.reason, None if once else values)
    if job.state is JobState.FAILED:
        first = next((v for v in values if isinstance(v, UnitError)), None)
        raise JobFailed(job.job, job.reason, first.traceback if first else "", None if once else values)
    if unreadable:
        first = unreadable[0]
        if once:
            raise JobFailed(job.job, first.cause) from first.__cause__
        raise JobFailed(job.job, f"unit {first.unit}: {first.cause}", "", values) from first.__cause__
    return values[0] if once else values


def decode_results(pack: Buffer, start: int) -> list[Any]:
    """The values of a pack of results from unit *start* on. A UnitError takes the place of one that cannot be read."""
    return _results(pack, start, [])


def _results(pack: Buffer, start: int, unreadable: list[UnitError]) -> list[Any]:
    try:
        return payload.decode_units(pack)
    except ProtocolError:
        raise
    except Exception as error:
        first = error
    packed = Pack(pack)
    if packed.rows is not None:
        if isinstance(first, ImportError):
            found: list[Any] = [_unreadable(first, "", start + i) for i in range(packed.count)]
            unreadable += found
            return found
        raise first
    values: list[Any] = []
    before = len(unreadable)
    for unit, entry in enumerate(packed.entries(), start):
        names: list[str] = []
        try:
            values.append(payload.decode_entry(entry, partial(_load, names)))
        except Exception as error:
            values.append(_unreadable(error, names[0] if names else "", unit))
            unreadable.append(values[-1])
    if len(unreadable) == before:  # the error came from a signal's handler, not from an entry
        raise first
    return values


def _load(names: list[str], data: Buffer, buffers: Any = None) -> Any:
    return payload.NamingUnpickler(data, names, buffers).load()


def _unreadable(error: Exception, name: str, unit: int) -> UnitError:
    which = f", {name}," if name else ""
    told = UnitError(f"its result{which} cannot be unpickled here: {in_words(error)}", "", unit)
    told.__cause__ = error
    return told

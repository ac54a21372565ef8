"""A job's files: bytes that its bodies keep with it, by name.

Files lie in the store beside the results. They stay when a job runs again, and are deleted with the job. Every unit of
the job may read and write them; if two units write the same name, the later file counts.
"""

from __future__ import annotations

from park.broker.effects import Effects, Event, Ref, Write
from park.broker.entities.jobs import BrokerJob
from park.broker.handlers import attempts, charging, rights
from park.broker.state import State
from park.errors import InvalidRequest, ProtocolError
from park.wire import codec, messages
from park.wire.fragments import MAX_PAYLOAD_BYTES

#: Limits: files of one job, characters of a name, bytes of one file.
MAX_FILES, MAX_FILE_NAME_CHARS, MAX_FILE_BYTES = 500, 100, MAX_PAYLOAD_BYTES


def on_files(state: State, effects: Effects, event: Event, message: messages.Files) -> None:
    """A client reads a file of a job, or the list of its files."""
    job = state.job(message.job)
    rights.check_sender(state, event, job.number, job.owner)
    _answer_file(effects, event, job, message.id, message.name)


def on_file(state: State, effects: Effects, event: Event, message: messages.File) -> None:
    """A body reads, writes or deletes a file of its job."""
    attempt = attempts.held_by(state, event, message.attempt)
    if attempt is None or attempts.ends_if_void(effects, attempt):
        return
    job = state.job(attempt.map.job)
    if job.session:
        raise InvalidRequest("only jobs have files, and this is a session: nothing of it is kept")
    match message.how:
        case "put":
            put_file(state, effects, job, message.name, event.payload)
        case "drop" if message.name in job.files:
            _resize(state, effects, job, message.name, None)
            effects.writes.append(Write("file", (job.number, message.name), None))
        case "get" | "list":
            _answer_file(
                effects, event, job, message.id, message.name if message.how == "get" else "", message.attempt
            )
            return
        case "drop":
            pass
        case _:
            raise ProtocolError(f"nothing can be done to a file by {message.how!r:.20}")
    effects.answer(event.peer, messages.Filed(message.id, message.attempt))


def put_file(state: State, effects: Effects, job: BrokerJob, name: str, payload: bytes | memoryview) -> None:
    """Keep the file of a job. Raises InvalidRequest, LimitReached, or Refused on a full disk."""
    if not name or len(name) > MAX_FILE_NAME_CHARS or not name.isprintable():
        raise InvalidRequest(
            f"{name!r:.120} names no file: a printable text of 1 to {MAX_FILE_NAME_CHARS} characters does"
        )
    if name not in job.files and len(job.files) >= MAX_FILES:
        raise InvalidRequest(f"job {job.number} has {MAX_FILES} files, and there may be no more: join some")
    size = len(payload)
    if size > MAX_FILE_BYTES:
        raise InvalidRequest(
            f"the file {name!r} has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that one may have"
        )
    more = max(0, size - job.files.get(name, 0))
    charging.check_quota(state, job.owner, 0, 0, more)
    state.disk.demand(size)
    _resize(state, effects, job, name, size)
    effects.writes.append(Write("file", (job.number, name), payload))


def _resize(state: State, effects: Effects, job: BrokerJob, name: str, size: int | None) -> None:
    """Note the new size of the file, in bytes; None: it is deleted."""
    state.job_list.grow(job, (size or 0) - job.files.pop(name, 0))
    if size is not None:
        job.files[name] = size
    state.job_list.store(job, effects)


def _answer_file(
    effects: Effects, event: Event, job: BrokerJob, reply: int, name: str, attempt: int = 0
) -> None:
    """Answer with the file *name*; "": with all names, in the payload, because a head cannot hold them all."""
    payload: Ref | bytes = b"" if name else codec.pack(job.files)
    if there := name in job.files:
        payload = Ref("file", (job.number, name))
    effects.answer(event.peer, messages.Filed(reply, attempt, there), payload)

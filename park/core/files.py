"""A job's files: what its bodies keep with it, by name.

They lie in the store beside the results, outlive the run that made them, and go when the job is deleted. Every unit of the
job may read and write them; of two who write the same name the later one counts.
"""

from __future__ import annotations

from park.core.attempts import Attempts
from park.core.jobs import Job
from park.core.limits import check_room
from park.core.outcome import Event, Ref, Write
from park.errors import InvalidRequest, ProtocolError
from park.wire import codec, messages
from park.wire.parts import MAX_PAYLOAD

#: Of one job, characters of a name, and bytes of one file.
MOST, LONGEST, LARGEST = 500, 100, MAX_PAYLOAD


class Files(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    def _file(self, event: Event, m: messages.File) -> None:
        attempt = self._held_attempt(event, m.attempt)
        if attempt is None or self._is_void(attempt):
            return
        job = self._job(attempt.map.job)
        if job.session:
            raise InvalidRequest("only jobs have files, and this is a session: nothing of it is kept")
        match m.how:
            case "put":
                self._put_file(job, m.name, event.payload)
            case "drop" if m.name in job.files:
                self._resize(job, m.name, None)
                self._out.writes.append(Write("file", (job.number, m.name), None))
            case "get" | "list":
                self._answer_file(event, job, m.id, m.name if m.how == "get" else "", m.attempt)
                return
            case "drop":
                pass
            case _:
                raise ProtocolError(f"nothing can be done to a file by {m.how!r:.20}")
        self._answer(event.peer, messages.Filed(m.id, m.attempt))

    def _put_file(self, job: Job, name: str, payload: bytes | memoryview) -> None:
        if not name or len(name) > LONGEST or not name.isprintable():
            raise InvalidRequest(
                f"{name!r:.120} names no file: a printable text of 1 to {LONGEST} characters does"
            )
        if name not in job.files and len(job.files) >= MOST:
            raise InvalidRequest(f"job {job.number} has {MOST} files, and there may be no more: join some")
        size = len(payload)
        if size > LARGEST:
            raise InvalidRequest(
                f"the file {name!r} has {size:,} bytes, more than the {LARGEST:,} that one may have"
            )
        more = max(0, size - job.files.get(name, 0))
        if self.limits is not None:
            check_room(job.owner, self.limits.of(job.owner), self.list.tallies.of(job.owner), 0, 0, more)
        self.room.demand(size)
        self._resize(job, name, size)
        self._out.writes.append(Write("file", (job.number, name), payload))

    def _resize(self, job: Job, name: str, size: int | None) -> None:
        """The file has so many bytes now; None: it is gone."""
        self.list.grow(job, (size or 0) - job.files.pop(name, 0))
        if size is not None:
            job.files[name] = size
        self.list.store(job, self._out)

    def _answer_file(self, event: Event, job: Job, reply: int, name: str, attempt: int = 0) -> None:
        """The file *name*, or ("") what there is: in the payload, for so many names are more than a head holds."""
        payload: Ref | bytes = b"" if name else codec.pack(job.files)
        if there := name in job.files:
            payload = Ref("file", (job.number, name))
        self._answer(event.peer, messages.Filed(reply, attempt, there), payload)

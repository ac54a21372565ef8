"""Requests as messages: `submit`, `fetch`, and the fields of a request in both forms.

`job_fields` and `session_fields` turn a `park.Request` into the fields of a Submit message; `request_of` turns them back.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, structs

from park.body import payload
from park.body.inputs import MAX_BATCH_UNITS, batches_of, check_function
from park.body.reference import collecting
from park.client.job_number import number_of
from park.client.job_waits import result_of
from park.client.link import Link
from park.client.pending import Reply
from park.errors import InvalidRequest, NotComplete, ParkError, UnitError
from park.model import (
    MAX_CONTROL_BYTES,
    MAX_KIND_BYTES,
    NOT_IN_SESSIONS,
    NOT_RUN,
    PYTHON,
    REQUEST_FIELDS,
    JobRecord,
    Request,
    control_too_large,
    is_kind,
    wall_time,
)
from park.util.sealed import SealedBuffer
from park.wire import codec, messages
from park.wire.pack import Buffer, Pack

#: The largest number of jobs in `after`, because their numbers travel in the head of a message.
MAX_AFTER_JOBS = 4_000
#: Batches of lazy inputs that are on their way to the store at a time.
BATCHES_UNDER_WAY = 8

#: Fields that are of another type in a message: the conversion to it, and back.
_CONVERTED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tags": (list, tuple),
    "labels": (list, tuple),
    "argv": (list, tuple),
    "requires": (dict, lambda versions: tuple(versions.items())),
    "max_time": (lambda seconds: seconds or 0.0, lambda seconds: seconds or None),
    "max_unit_time": (lambda seconds: seconds or 0.0, lambda seconds: seconds or None),
    "grace": (lambda seconds: seconds or 0.0, lambda seconds: seconds or None),
    "after": (lambda jobs: sorted(numbers_of(jobs)), tuple),
    "when": (
        lambda when: wall_time(when, time.time()),
        lambda seconds: None if seconds is None else datetime.fromtimestamp(seconds, UTC),
    ),
    "seed": (lambda seed: random_seed() if seed is None else seed & (2**63 - 1), lambda seed: seed),
}
_SESSION_FIELDS = tuple(name for name in REQUEST_FIELDS if name not in (*NOT_IN_SESSIONS, "seed"))


def session_fields(request: Request, name: str, tags: list[str]) -> dict[str, Any]:
    """The fields of the Submit message for a session. *name*: if the request has none; *tags*: before its own."""
    return _fields(_SESSION_FIELDS, request, name, tags)


def job_fields(request: Request, name: str, tags: list[str], references: set[int]) -> dict[str, Any]:
    """The fields of the Submit message for a job, which also comes after those that its *references* name."""
    fields = _fields(REQUEST_FIELDS, request, name, tags)
    if references:
        fields["after"] = sorted(references.union(fields["after"]))
    check_after(fields["after"])
    return fields


def _fields(names: Iterable[str], request: Request, name: str, tags: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"python": PYTHON}
    for field in names:
        value = getattr(request, field)
        found[field] = _CONVERTED[field][0](value) if field in _CONVERTED else value
    found["private"] = request.private is True
    found["shares"] = int(request.private) if request.private is not True else 0
    found["name"] = request.name or name
    found["tags"] = list(dict.fromkeys([*tags, *request.tags]))
    return found


def request_of(submit: Mapping[str, Any], body: Any, inputs: list[Any]) -> Request:
    """The request that was submitted as this message."""
    fields = {
        name: _CONVERTED[name][1](submit[name]) if name in _CONVERTED else submit[name]
        for name in REQUEST_FIELDS
    }
    fields["private"] = fields["private"] or submit.get("shares", 0)
    return Request(body, None if submit["once"] else inputs, **fields)


def random_seed() -> int:
    """63 random bits."""
    return int.from_bytes(os.urandom(8)) >> 1


def submit(link: Link, request: Request, tags: list[str], accepted: Callable[[int], None]) -> int:
    """Submit *request* with *tags* before its own; the number of its job, once the service has all of it.

    *accepted* is called with the number when the service has the job, before the rest of its lazy inputs is read.
    """
    check_function(request.body, "body")
    once = request.inputs is None
    with collecting() as references:
        blob = payload.dump_code(request.body)
        batches = iter(()) if once else batches_of(request.inputs, lambda: MAX_BATCH_UNITS, SealedBuffer)
        data, closed = (b"", True) if once else next(batches)
    message = messages.Submit(
        id=0,
        key=os.urandom(16),
        body=payload.code_hash(blob),
        once=once,
        count=Pack(data).count,
        closed=closed,
        **job_fields(request, name_of(request.body), tags, references),
    )
    return _send(link, message, data, blob, batches, accepted)


def hold_open(link: Link, request: Request, tags: list[str]) -> int:
    """Submit *request* without an input, and leave it open: the number of a job that lasts until `close`, and no longer
    than this client.
    """
    blob = payload.dump_code(request.body)
    fields = job_fields(request, name_of(request.body), tags, set())
    message = messages.Submit(id=0, key=os.urandom(16), body=payload.code_hash(blob), closed=False, **fields)
    return _send(link, message, b"", blob, iter(()), lambda _: None)


def keep_open(link: Link, job: int) -> None:
    """Tell the broker, which may have been restarted, that the client of a job from `hold_open` is there."""
    link.ask(lambda n: messages.Units(0, 0, False, job=job, id=n))


def close(link: Link, job: int) -> None:
    """End a job from `hold_open`: it has no further inputs."""
    link.ask(lambda n: messages.Units(0, 0, True, job=job, id=n))


def repeat(link: Link, job: int, tags: list[str], private: int = 0) -> int:
    """Submit the body and the inputs of a job again as they are, in their pickles; the number of the new job.

    *private*: the private job whose kernels it shares. Those that the first one shared may be gone.
    """
    reply = link.request(lambda n: messages.Fetch(n, job, request=True, results=False))
    fetched, _ = link.answer(reply)
    assert isinstance(fetched, messages.Fetched)
    if fetched.record["kind"] == "session":
        raise InvalidRequest(f"job {job} is a session: its request is not kept")
    blob = next(data for message, data in reply.messages if isinstance(message, messages.Blob))
    packs = [bytes(data) for message, data in reply.messages if isinstance(message, messages.Units)] or [b""]
    message = structs.replace(
        codec.build(messages.Submit, fetched.submit),
        key=os.urandom(16),
        tags=list(dict.fromkeys([*tags, *fetched.submit["tags"]])),
        after=[],
        when=None,
        shares=private,
        count=Pack(packs[0]).count,
        closed=len(packs) == 1,
    )
    rest = ((data, data is packs[-1]) for data in packs[1:])
    return _send(link, message, packs[0], blob, rest, lambda _: None)


def _send(
    link: Link,
    message: messages.Submit,
    data: Buffer,
    blob: Buffer,
    batches: Iterator[tuple[Buffer, bool]],
    accepted: Callable[[int], None],
) -> int:
    """Submit a job with its first units *data*, then the *batches* of the others."""
    reply = link.request(lambda n: structs.replace(message, id=n), data, (message.body, blob))
    answer, _ = link.answer(reply)
    assert isinstance(answer, messages.Accepted)
    job = answer.job
    accepted(job)
    if not message.closed:
        try:
            _send_inputs(link, job, message.count, batches)
        except BaseException:  # the job lacks some of its inputs, so it could never complete
            with contextlib.suppress(ParkError):
                link.ask(lambda n: messages.Abort(n, job))
            raise
    return job


def _send_inputs(link: Link, job: int, sent: int, batches: Iterator[tuple[Buffer, bool]]) -> None:
    """Bring a lazy iterable to its end into the store."""
    replies: list[Reply] = []
    for data, closed in batches:
        count = Pack(data).count
        make = lambda n, s=sent, c=count, e=closed: messages.Units(s, c, e, job=job, id=n)  # noqa: E731
        replies.append(link.request(make, data))
        sent += count
        if len(replies) >= BATCHES_UNDER_WAY:
            link.answer(replies.pop(0))
        if closed:
            break
    for reply in replies:
        link.answer(reply)


class JobCopy(Struct, frozen=True):
    """A job as the service keeps it: its record, the request that makes it again, and its result.

    *result* is None before the end; of a job that failed or was aborted it is the error that ``wait`` raises.
    """

    record: JobRecord
    request: Request
    result: Any


def fetch(link: Link, job: int) -> JobCopy:
    """The record, the request and the result of a job. Raises InvalidRequest for a session."""
    reply = link.request(lambda n: messages.Fetch(n, job, request=True))
    fetched, _ = link.answer(reply)
    assert isinstance(fetched, messages.Fetched)
    record = JobRecord.from_map(fetched.record)
    if record.kind == "session":
        raise InvalidRequest(f"job {job} is a session: its request is not kept")
    blob = next(d for m, d in reply.messages if isinstance(m, messages.Blob))
    inputs: list[Any] = []
    for message, data in reply.messages:
        if isinstance(message, messages.Units):
            inputs += payload.decode_units(data)
    request = request_of(fetched.submit, payload.loads(blob), inputs)
    result: Any = None
    try:
        result = result_of(reply)
    except NotComplete:
        pass
    except ParkError as error:
        result = error
    return JobCopy(record, request, result)


def unfinished(copy: JobCopy) -> list[Any]:
    """The inputs whose units failed or did not run. Raises InvalidRequest where there are none."""
    inputs, result = copy.request.inputs, copy.result
    if not isinstance(result, list):  # the job failed or was aborted
        result = getattr(result, "results", None) or getattr(result, "partial", None)
    pairs = zip(inputs, result or [NOT_RUN] * len(inputs), strict=True)
    found = [value for value, got in pairs if got is NOT_RUN or isinstance(got, UnitError)]
    if not found:
        raise InvalidRequest(f"job {copy.record.job} has no units that failed or did not run")
    return found


def packed_control(message: Any) -> bytes:
    """A control as it travels: a dict with a ``kind``; a text is its kind alone. Raises InvalidRequest, NotPicklable."""
    if isinstance(message, str):
        message = {"kind": message}
    match message:
        case {"kind": str(kind)} if is_kind(kind):
            data = payload.dumps(dict(message), f"the control {kind!r}")
        case _:
            raise InvalidRequest(
                f"{message!r:.200} is no control: it is a name, or a dict with one as its 'kind', that can follow on_ in a "
                f"method's name and has at most {MAX_KIND_BYTES} bytes"
            )
    if len(data) > MAX_CONTROL_BYTES:
        raise InvalidRequest(control_too_large(len(data)))
    return data


def name_of(body: Any) -> str:
    """The name of a job of this body that is given none."""
    name = getattr(body, "__qualname__", None) or type(body).__qualname__
    return str(name).rpartition(".")[2][:200] or "job"


def numbers_of(after: Any) -> set[int]:
    """The numbers of the jobs that a request comes after."""
    if after is None:
        return set()
    if isinstance(after, Iterable) and not isinstance(after, str):
        return {number_of(job) for job in after}
    return {number_of(after)}


def check_after(jobs: list[int]) -> None:
    """Raises InvalidRequest for more *jobs* than a request may come after."""
    if len(jobs) > MAX_AFTER_JOBS:
        raise InvalidRequest(
            f"a job may come after {MAX_AFTER_JOBS:,} others, and this one after {len(jobs):,}: submit what they do as the "
            "units of one job (inputs=...) and come after that, or let each come after the one before"
        )

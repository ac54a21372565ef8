"""The environment of a running body: `park.environment()`.

The module opens no socket: a slot process hands it a `Host` when it begins to run a body.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol

from park.errors import InvalidRequest, ParkError, UnitError
from park.model import (
    MAX_KIND_BYTES,
    MAX_NOTE_CHARS,
    MAX_PROGRESS,
    Improvement,
    Log,
    Progress,
    is_kind,
    remark_of,
)
from park.wire import codec

#: ``sys.argv`` of a body whose request names none: the arguments of the slot process stay hidden.
DEFAULT_ARGV = ("park-slot",)
#: Kinds of messages that only PARK itself makes.
RESERVED_KINDS = frozenset(("start", "join", "complete", "error", "abort", "log", "progress", "improvement"))


class Host(Protocol):
    """The process that runs a body."""

    @property
    def job(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def should_stop(self) -> bool: ...

    @property
    def should_checkpoint(self) -> bool: ...

    def map(self, code: tuple[bytes, bytes], units: Any) -> list[Any]: ...

    def code(self, function: Any) -> tuple[bytes, bytes]: ...

    def publish(self, kind: str, message: Any) -> None: ...

    def ready(self) -> None: ...

    def fetch(self, job: int) -> Any: ...

    def checkpoint(self, state: Any, wait: float) -> bool: ...

    def restore(self) -> Any: ...

    def file(self, how: str, name: str, data: Any = b"") -> tuple[bool, Any]: ...

    def remark(self, text: str) -> None: ...


class Environment:
    """The fabric as a running body sees it. Get it with `park.environment()`, use it from the body's main thread."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __repr__(self) -> str:
        return f"<Environment of job {self.job_id}>"

    def __reduce__(self) -> Any:
        raise InvalidRequest("an environment stays where it is: call park.environment() inside the function")

    @property
    def job_id(self) -> int:
        """The number of the job that this code runs for."""
        return self._host.job

    @property
    def seed(self) -> int:
        """The seed of this unit, 64 bits: the same in any rerun, different in any other unit.

        The global generators of `random`, numpy and numba are seeded from it before the unit runs. A generator of your
        own is best made from it, since numpy's takes a new seed from the system when it is given none::

            rng = np.random.default_rng(park.environment().seed)
        """
        return self._host.seed

    @property
    def should_stop(self) -> bool:
        """Whether the job was asked to stop: return the best result so far."""
        return self._host.should_stop

    @property
    def should_checkpoint(self) -> bool:
        """Whether the kernel leaves soon, so that the body should make a `checkpoint` now. The question is a safe
        point, as `ready` is.

        It turns false with the next checkpoint. A kernel that leaves, for example because its allocation ends, waits
        for the checkpoints of its drivers as long as its grace allows. When a checkpoint is on disk, its unit goes on
        elsewhere from there. A body with cheap checkpoints may make one in every iteration instead, without asking::

            if env.should_checkpoint or time.monotonic() > due:
                env.checkpoint(state, wait=0)
        """
        return self._host.should_checkpoint

    def map(self, fn: Callable[[Any], Any], inputs: Iterable[Any]) -> Iterator[Any]:
        """Run *fn* over *inputs* on the fabric and wait; the slot is lent to others meanwhile.

        *inputs* is read to its end; the rows of a numpy array are its inputs. Returns an iterator over the
        results in order; it raises `UnitError` at an item that failed. *fn* may itself call ``env.map``.
        """
        return _values(self._host.map(self._host.code(fn), inputs))

    def mapper(self, fn: Callable[[Any], Any]) -> Callable[[Iterable[Any]], list[Any]]:
        """A callable that maps *fn* over points and returns the list of results; *fn* is shipped once."""
        code = self._host.code(fn)
        return lambda points: list(_values(self._host.map(code, points)))

    def publish(self, message: Progress | Improvement | Log | dict[str, Any]) -> None:
        """Send a message to the followers of the job: Progress, Improvement, Log, or a dict with a ``kind``.

        Progress and Improvement may come as often as the body likes: some ten a second are passed on. Progress is in the
        job's record, where all clients see it.
        """
        match message:
            case Progress():
                message = _plain(message)
                self._host.publish("progress", message)
            case Improvement():
                self._host.publish("improvement", message)
            case Log():
                self._host.publish("log", message)
            case {"kind": str(kind)} if is_kind(kind) and kind not in RESERVED_KINDS:
                self._host.publish(kind, message)
            case {"kind": str(kind)} if kind in RESERVED_KINDS:
                raise InvalidRequest(f"messages of the kind {kind!r} are PARK's own: choose another name")
            case _:
                raise InvalidRequest(
                    f"{message!r} is no message: publish park.Progress, park.Improvement, park.Log, "
                    f"or a dict with a 'kind' that can follow on_ in a method's name, of at most {MAX_KIND_BYTES} bytes"
                )

    def ready(self) -> None:
        """The safe point of a serial body: call it in every iteration.

        Messages go out, and controls of the job (`park.Job.control`) reach the body's ``on_<kind>(message)``. An abort
        is raised here. While another job is due, or this one is paused, the body waits here without a slot. A body that
        never calls it never gives its slot to other jobs.

        A body that was asked to stop, and never looks at `should_stop`, ends here. Its ``finally`` and ``cleanup`` run,
        and its result is ``park.NotRun``.
        """
        self._host.ready()

    def remark(self, text: str) -> None:
        """Leave a remark on the job's result for people, such as "not converged": ``job.remark``, shown by `park jobs`,
        `show`, `wait` and `fetch`, and kept with the job.

        The remark goes with the result when this unit has ended. It is one line, cut after 200 characters. Of several
        remarks, also of other units and of maps inside, the last one stays::

            park.environment().remark("7 of 80 images have no peak")
        """
        if not isinstance(text, str):
            raise InvalidRequest(f"the remark {text!r:.80} is no text")
        self._host.remark(remark_of(text))

    def checkpoint(self, state: Any, wait: float = 5.0) -> bool:
        """Keep *state*, any object that pickles, for a rerun of this unit. Returns whether it is on the broker's disk.

        If the slot process, its kernel or the broker dies, the unit runs again, and finds the newest checkpoint in
        `restored`. The call waits until the state is durable, but no longer than *wait* seconds. While the broker is
        away, the kernel keeps the newest state and sends it later, so a loop may use ``wait=0`` and go on. The
        checkpoint is deleted when the unit is answered. Only units of a job's own inputs have checkpoints: units of
        maps inside the job, and of sessions, have none.

        A job that runs once gets each control only once: a control from before the checkpoint is part of the state, and a
        rerun does not get it again. So read `restored` before the first safe point.
        """
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not wait >= 0:
            raise InvalidRequest(f"wait={wait!r} is not a number of seconds from 0")
        return self._host.checkpoint(state, wait)

    @property
    def store(self) -> FileStore:
        """The files that are kept with the job: a mapping from names to bytes, on the broker's disk.

        A file is durable once the statement is done. Any unit of the job may read it, also when it runs again, and later
        the client in `job.files`. A name has 1 to 100 characters, a file at most 512 MiB, a job 500 of them; they count to
        its owner's stored bytes. Raises InvalidRequest, LimitReached, Refused where the disk is full::

            park.environment().store["chains.npz"] = data
        """
        return FileStore(self._host)

    @property
    def restored(self) -> Any:
        """The newest checkpoint that an earlier run of this unit has made; None in the first run."""
        return self._host.restore()


class FileStore(MutableMapping[str, bytes]):
    """A job's files by name; see `Environment.store`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __repr__(self) -> str:
        return f"<FileStore of job {self._host.job}>"

    def __getitem__(self, name: str) -> bytes:
        there, data = self._host.file("get", _name(name))
        if not there:
            raise KeyError(name)
        return bytes(data)

    def __setitem__(self, name: str, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidRequest(f"the file {name!r} must be bytes, not {type(data).__name__}")
        self._host.file("put", _name(name), bytes(data))

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._host.file("drop", _name(name))

    def __contains__(self, name: object) -> bool:
        return name in self._sizes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes())

    def __len__(self) -> int:
        return len(self._sizes())

    def _sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = codec.unpack(self._host.file("list", "")[1])
        return sizes


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidRequest(f"the name of a file is a text, not {name!r:.80}")
    return name


def _plain(progress: Progress) -> Progress:
    """The progress with plain numbers and short words. Raises InvalidRequest."""
    words = progress.units, progress.note
    if not all(isinstance(word, str) for word in words):
        raise InvalidRequest(f"{progress!r:.200}: units and note are texts")
    units, note = (remark_of(word, MAX_NOTE_CHARS) for word in words)
    done, total = float(progress.done), float(progress.total)
    if any(math.isfinite(number) and not 0.0 <= number <= MAX_PROGRESS for number in (done, total)):
        raise InvalidRequest(f"{progress!r:.200}: done and total are from 0 to {MAX_PROGRESS:g}")
    return Progress(done, total, units, note)


def _values(results: list[Any]) -> Iterator[Any]:
    for result in results:
        if isinstance(result, UnitError):
            raise result
        yield result


_environment: Environment | None = None


def enter(host: Host | None) -> None:
    """Set the *host* of the body that this process runs from now on (None: no body)."""
    global _environment
    _environment = Environment(host) if host is not None else None


def environment() -> Environment:
    """The environment of the body that runs here. Raises ParkError elsewhere."""
    if _environment is None:
        raise ParkError("no job runs in this process: park.environment() works inside a body that PARK runs")
    return _environment


def inside() -> bool:
    """Whether this process runs a body."""
    return _environment is not None

"""Every error of PARK, under one root.

Each class also derives from the matching built-in exception, so that ``except KeyError`` or ``except TimeoutError`` in
a script catches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from park.text import visible


class ParkError(Exception):
    """The root: ``except park.ParkError`` catches all errors of PARK itself. Its text has no control characters, which
    could steer a terminal.
    """

    def __str__(self) -> str:
        return visible(super().__str__(), lines=True)


class UnknownJob(ParkError, KeyError):
    """Raised when a job number names no job that this call can act on."""

    def __str__(self) -> str:  # KeyError would show the repr of the sentence
        return visible(str(self.args[0]), lines=True) if self.args else "unknown job"


class UnknownKernel(ParkError, KeyError):
    """Raised when a number names no kernel that is connected."""

    __str__ = UnknownJob.__str__


class InvalidRequest(ParkError, ValueError):
    """Raised when a request, a message or an argument cannot mean anything."""


class NotPicklable(ParkError, TypeError):
    """Raised when a body or an input cannot travel to another process; names the object."""


class WaitTimeout(ParkError, TimeoutError):
    """Raised when ``wait(timeout=...)`` ends before the job does. The job goes on."""


class NotComplete(ParkError, RuntimeError):
    """Raised when the result of a job is used before the job has ended."""


class NoBroker(ParkError, ConnectionError):
    """Raised when no broker answers at the address."""


class Refused(ParkError, RuntimeError):
    """Raised when the broker refuses a request for another reason than its form."""


class LimitReached(Refused):
    """Raised when a request would take its owner over a limit of the broker; the text names the limit and the figures."""


class Busy(ParkError, RuntimeError):
    """Raised when a broker has no more room in memory for a client's units; the client tries again by itself."""


class ProtocolError(ParkError, ValueError):
    """Raised when a frame from a peer is not a message of this protocol."""


class StoreError(ParkError, OSError):
    """Raised when the store of a broker cannot be opened, read or written."""


class ServiceClosed(ParkError, RuntimeError):
    """Raised when a service is used after it was closed, or in a child of the process that made it."""


class BatchError(ParkError, RuntimeError):
    """Raised when a command of a batch system fails, is missing, or does not answer; the text has the system's words.

    *unsure*: the batch system may have carried out the request nevertheless.
    """

    def __init__(self, words: str, unsure: bool = False) -> None:
        super().__init__(words)
        self.unsure = unsure


class UnitError(ParkError, RuntimeError):
    """The failure of one unit.

    *unit* is its index among the inputs (None for a job that runs once), *cause* one line,
    *traceback* the text of the traceback in the process that ran it (empty after a crash).
    """

    def __init__(self, cause: str, traceback: str = "", unit: int | None = None) -> None:
        super().__init__(cause, traceback, unit)
        self.cause = cause
        self.traceback = traceback
        self.unit = unit

    def __str__(self) -> str:
        where = "" if self.unit is None else f"unit {self.unit}: "
        return _with_traceback(f"{where}{self.cause}", self.traceback)

    def __repr__(self) -> str:
        return f"<UnitError {self.unit if self.unit is not None else '-'}: {visible(self.cause)}>"


class JobFailed(ParkError, RuntimeError):
    """Raised by ``wait`` when the job failed.

    *cause* is one line, *traceback* the remote text, *results* the list of results of a job with
    inputs, with a `UnitError` wherever a unit failed (None for a job that runs once).
    """

    def __init__(self, job: int, cause: str, traceback: str = "", results: list[Any] | None = None) -> None:
        super().__init__(job, cause, traceback, results)
        self.job = job
        self.cause = cause
        self.traceback = traceback
        self.results = results

    def __str__(self) -> str:
        return _with_traceback(with_cause(f"job {self.job} failed", self.cause), self.traceback)


class JobAborted(ParkError, RuntimeError):
    """Raised by ``wait`` when the job was aborted.

    *partial* is the list of results so far with `NotRun` where nothing ran (None for a job that runs once).
    """

    def __init__(self, job: int, reason: str = "", partial: list[Any] | None = None) -> None:
        super().__init__(job, reason, partial)
        self.job = job
        self.reason = reason
        self.partial = partial

    def __str__(self) -> str:
        return with_cause(f"job {self.job} was aborted", visible(self.reason))


class Abort(BaseException):
    """Raised inside a body when its job is aborted.

    A BaseException, because optimizers swallow ``Exception`` and even ``KeyboardInterrupt``.
    """


class Stop(Abort):
    """Raised by `Environment.ready` in a body that was asked to stop, and that never looks at ``should_stop``."""


def _with_traceback(text: str, traceback: str) -> str:
    """One line, and below it the traceback of the process in which the error was raised."""
    text = visible(text)
    return f"{text}\n\nRemote traceback:\n{visible(traceback.rstrip(), lines=True)}" if traceback else text


def with_cause(end: str, cause: str) -> str:
    """The sentence that says an *end* and its *cause*; where the cause begins with the last word of the end, once.

    >>> with_cause("job 1 was aborted", "aborted by its owner")
    'job 1 was aborted by its owner'
    >>> with_cause("job 1 failed", "unit 3: ValueError")
    'job 1 failed: unit 3: ValueError'
    >>> with_cause("job 1 failed", "failed-over node")
    'job 1 failed: failed-over node'
    """
    word = end.rpartition(" ")[2]
    rest = cause[len(word) :]
    if cause.casefold().startswith(word.casefold()) and rest[:1] in ("", *" :,;."):
        return end + rest
    return f"{end}: {cause}" if cause else end


def in_words(error: BaseException) -> str:
    """The class of any exception and the first line of its text, also where it has none to give."""
    try:
        text = str(error).strip().partition("\n")[0]
    except BaseException:
        text = "(its __str__ fails)"
    return with_cause(type(error).__name__, text)


def did_you_mean(word: str, known: Iterable[str], after: str = "") -> str:
    """The question whether a *known* word near *word* was meant, with *after* behind it; "": none is near.

    >>> did_you_mean("limit", ["credits", "limits"])
    ' (did you mean limits?)'
    """
    from difflib import get_close_matches  # seldom needed

    near = get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}{after}?)" if near else ""


#: Errors that a broker may name in a refusal; a client raises the class of that name.
REFUSALS: dict[str, type[ParkError]] = {
    cls.__name__: cls
    for cls in (
        UnknownJob,
        UnknownKernel,
        InvalidRequest,
        Refused,
        LimitReached,
        ProtocolError,
        StoreError,
        NotComplete,
    )
}

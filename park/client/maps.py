"""Sessions: jobs whose driver is the client itself. They serve `service.map`, mappers and executors.

A session is not stored, and ends with its client, but not with its broker. The client keeps all units without an
answer, opens the session anew if the broker has lost it, and gets each result once (`park.wire.calls`). Inputs are read
as results come (`park.client.input_feed`), so that a lazy iterable of any length needs little memory on either side.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from park.body import payload
from park.body.inputs import MAX_BATCH_UNITS, windows_of
from park.body.results import decode_results
from park.body.seeds import mix
from park.client.input_feed import InputFeed
from park.client.link import Link
from park.client.remote_maps import MapCall
from park.client.requests import name_of, random_seed, session_fields
from park.errors import InvalidRequest, ParkError, UnitError
from park.model import NOT_IN_SESSIONS, make_request
from park.util.sealed import SealedBuffer
from park.wire import calls, messages
from park.wire.pack import Buffer, Pack

#: Units in the first batch.
FIRST_BATCH_UNITS = 64
#: Batches under way, and bytes of the results of all of them, as far as they can be foreseen.
BATCHES_UNDER_WAY, RESULT_BYTES_UNDER_WAY = 4, 64 << 20
#: Bytes of inputs that are on their way or wait: fewer than the broker has room for.
INPUT_BYTES_UNDER_WAY = 192 << 20
#: Seconds between two looks for the first input.
INPUT_POLL_SECONDS = 0.005


def open_session(
    link: Link, function: Any, fields: dict[str, Any], tags: list[str], private: int = 0
) -> MapSession:
    """Open a session for maps of *function* (None: of any), with these *fields* of a request, and *tags* before its own.

    *private*: the private job whose kernels it shares, if *fields* name none.
    """
    for name in fields.keys() & set(NOT_IN_SESSIONS):
        raise InvalidRequest(f"a session takes no {name}=: it runs at once, and its results go to the caller")
    request = make_request(function, None, {"private": private, **fields})
    name = name_of(function) if function is not None else "executor"
    submit = messages.Submit(id=0, key=b"", session=True, **session_fields(request, name, tags))
    kept, reply = link.maps.open_session(submit)
    try:
        link.answer(reply)
    except BaseException:
        with contextlib.suppress(ParkError):
            link.maps.close_session(kept)
        raise
    return MapSession(link, kept, random_seed() if request.seed is None else request.seed)


class MapSession:
    """An open session: makes maps, and closes itself when it is not used any more."""

    def __init__(self, link: Link, kept: calls.ClientSession, seed: int) -> None:
        self.link = link
        self._kept = kept
        self._seed = seed
        self._maps = itertools.count()
        self._finalizer = weakref.finalize(self, _close, link, kept)
        self._finalizer.atexit = False

    def open(
        self,
        code: bytes,
        blob: bytes,
        data: Buffer,
        count: int,
        closed: bool = True,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of the function *blob* over the pack *data*."""
        message = messages.Map(os.urandom(16), 0, code, count, closed, self.next_seed())
        return self.link.maps.open(self._kept, message, data, blob, on_result)

    def open_calls(
        self,
        code: tuple[bytes, bytes],
        data: Buffer,
        numbers: range,
        seed: int,
        on_result: Callable[[MapCall], None],
    ) -> MapCall:
        """Start a map of calls of one function, whose hash and pickle are *code*; their units have these *numbers*."""
        name, blob = code
        message = messages.Map(
            os.urandom(16), 0, name, len(numbers), seed=seed, start=numbers.start, calls=True
        )
        return self.link.maps.open(self._kept, message, data, blob, on_result)

    def next_seed(self) -> int:
        """The seed of the session's next map."""
        return mix(self._seed, next(self._maps))

    def close(self) -> None:
        self._finalizer()


def _close(link: Link, kept: calls.ClientSession) -> None:
    with contextlib.suppress(ParkError):
        link.maps.close_session(kept)


class MapRun:
    """One map of a session under way: its inputs are read and sent, its results are taken, in order or as they come.

    ``eager``: inputs are sent as long as the broker keeps up, even if no results are taken. *inputs* None: the owner of
    the map puts them. *on_end* is called once, in the loop, when all results have come or no more will.
    """

    def __init__(
        self,
        session: MapSession,
        function: Any,
        inputs: Iterable[Any] | None,
        eager: bool = False,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._session = session
        blob = payload.dump_code(function, "the function")
        self._code = (payload.code_hash(blob), blob)
        self._eager = eager
        self._on_end = on_end
        self.call: MapCall | None = None
        #: units sent, with their bytes; units that came back; units that were taken, with the bytes of their results
        self._sent = self._sent_bytes = 0
        self._taken = self._size = 0
        self.closed = False
        #: results that came before those that are due, by first unit
        self._early: dict[int, list[Any]] = {}
        self._feed: InputFeed | None = None
        if inputs is not None:
            self._feed = InputFeed(inputs, self, eager)

    # -- what the feed asks for ------------------------------------------------------------------

    def put(self, data: Buffer, count: int, closed: bool) -> None:
        """Send more inputs."""
        if self.call is None:
            hook = None if self._on_end is None and not self._eager else self._arrived
            self.call = self._session.open(*self._code, data, count, closed, hook)
        else:
            units = messages.Units(self._sent, count, closed, map=self.call.key)
            self._session.link.maps.feed(self.call, units, data)
        self._sent += count
        self._sent_bytes += len(data)
        self.closed = closed
        if closed and self.call.call.complete:
            self._session.link.maps.end(self.call, cancel=False)
            self._arrived(self.call)

    def has_room(self) -> bool:
        """Whether more inputs may be sent: by the results that were taken or, if ``eager``, by those that came back."""
        if not self._eager:
            ahead = self._sent - self._taken
            few = ahead <= (BATCHES_UNDER_WAY - 1) * self.batch_size()
            return few and ahead * self._sent_bytes <= INPUT_BYTES_UNDER_WAY * self._sent
        if self.call is None or self.call.error is not None:
            return True
        return (self._sent - self.call.came) * self._sent_bytes <= INPUT_BYTES_UNDER_WAY * self._sent

    def batch_size(self) -> int:
        """Units of the next batch: the more, the faster results are taken."""
        if self._eager:
            return MAX_BATCH_UNITS
        most = (
            RESULT_BYTES_UNDER_WAY * self._taken // (BATCHES_UNDER_WAY * self._size)
            if self._size
            else MAX_BATCH_UNITS
        )
        return max(1, min(MAX_BATCH_UNITS, max(FIRST_BATCH_UNITS, self._taken // 4), most))

    @property
    def dropped(self) -> bool:
        """Whether units were cancelled that had not begun."""
        return self.call is not None and self.call.dropped

    def stir(self) -> None:
        if self.call is not None:
            self._session.link.maps.stir(self.call)

    def _arrived(self, call: MapCall) -> None:
        """Take results that have come (runs in the loop)."""
        feed = self._feed
        if feed is not None:
            feed.tell_room()
        if call.call.complete or call.error is not None:
            if feed is not None and feed.error is None:
                self._feed = None  # a cycle less
            self._end()

    def _end(self) -> None:
        end, self._on_end = self._on_end, None
        if end is not None:
            end()

    # -- whose results they are ------------------------------------------------------------------

    def take(self, ordered: bool = True, deadline: float | None = None) -> tuple[int, list[Any]] | None:
        """The next results, with their first unit; None: there are no more. Raises TimeoutError."""
        while not (ordered and self._taken in self._early):
            if self._look():
                return None
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            got = self._get(left)
            if got is None:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError
                continue
            self._size += len(got[2])
            self._early[got[0]] = decode_results(got[2], got[0])
            if not ordered:
                return self._took(got[0])
        return self._took(self._taken)

    def _look(self) -> bool:
        """Send the inputs that can go. Returns whether the map is over. Raises the error that has ended it."""
        feed = self._feed
        if feed is not None:
            if feed.failed and feed.error is not None:
                raise feed.error
            feed.rest()
            feed.flush()
        if not self.closed or self._taken < self._sent:
            return False
        if feed is not None and feed.error is not None:
            error, feed.error = feed.error, None
            raise error
        return True

    def _get(self, left: float | None) -> tuple[int, int, Any] | None:
        if self.call is None:
            time.sleep(INPUT_POLL_SECONDS)  # its first input is not there yet
            return None
        return self.call.get(left)

    def _took(self, start: int) -> tuple[int, list[Any]]:
        values = self._early.pop(start)
        self._taken += len(values)
        feed = self._feed
        if feed is not None:
            feed.tell_room()
        return start, values

    def join(self) -> None:
        """Wait until all inputs are sent; the owner of the map waits for their results."""
        feed = self._feed
        while feed is not None and not feed.over:
            feed.flush()
            time.sleep(INPUT_POLL_SECONDS)
        if feed is not None and feed.failed:
            self.cancel(spare=True)

    def cancel(self, spare: bool = False) -> None:
        """Cancel the map: take no more inputs and results. *spare*: running units go on."""
        feed = self._feed
        if feed is not None:
            feed.stop()
            if not feed.failed:
                self._feed = None
        call, link = self.call, self._session.link
        if call is None:
            self._end()
        elif not (self.closed and self._taken == self._sent):
            with contextlib.suppress(ParkError):
                if not spare or link.maps.spare(call) is None:
                    link.maps.end(call, cancel=True)


class MapIterator:
    """The results of ``service.map``, in order or as they come. Closing it cancels what has not run."""

    def __init__(self, session: MapSession, function: Any, inputs: Iterable[Any], ordered: bool) -> None:
        self._session = session
        self._ordered = ordered
        #: the results at hand, the next one last, and the unit of that
        self._values: list[Any] = []
        self._unit = 0
        self._over = False
        self._run = MapRun(session, function, inputs)

    def __iter__(self) -> MapIterator:
        return self

    def __next__(self) -> Any:
        while not self._over:
            if self._values:
                unit, self._unit = self._unit, self._unit + 1
                if type(self._values[-1]) is UnitError:
                    value = self._values[-1]
                    self.close()
                    raise UnitError(value.cause, value.traceback, unit)
                return self._values.pop()
            try:
                taken = self._run.take(self._ordered)
            except BaseException:
                self.close()
                raise
            if taken is None:
                self.close()
            else:
                self._unit, self._values = taken
                self._values.reverse()
        raise StopIteration

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # also when it was never made whole, or at the interpreter's end
            self.close()

    def close(self) -> None:
        """End the map: what has not run will not."""
        if self._over:
            return
        self._over = True
        self._values = []
        self._run.cancel()
        self._session.close()


class Mapper:
    """A callable that maps one function over points: ``mapper(points) -> list``. Many calls, one session."""

    def __init__(self, session: MapSession, function: Any) -> None:
        self._session = session
        self._blob = payload.dump_code(function, "the function")
        self._code = payload.code_hash(self._blob)

    def __call__(self, points: Iterable[Any]) -> list[Any]:
        """The results in order. Raises UnitError at the first point that failed."""
        values = self._run(points)
        for unit, value in enumerate(values):
            if type(value) is UnitError:
                raise UnitError(value.cause, value.traceback, unit)
        return values

    def _run(self, points: Iterable[Any]) -> list[Any]:
        values: list[Any] = []
        for data in windows_of(points, SealedBuffer):
            values += self._map(data, Pack(data).count)
        return values

    def _map(self, data: Buffer, count: int) -> list[Any]:
        """The results of one message of points."""
        call = self._session.open(self._code, self._blob, data, count)
        done = False
        try:
            values: list[Any] = [None] * count
            missing = count
            while missing:
                got = call.get()
                assert got is not None
                values[got[0] : got[0] + got[1]] = decode_results(got[2], got[0])
                missing -= got[1]
            done = True
            return values
        finally:
            self._session.link.maps.end(call, cancel=not done)

    def close(self) -> None:
        """End the session."""
        self._session.close()

"""Sessions: jobs whose driver is the client itself. `service.map`, mappers, and what executors are made of.

Nothing of a session is stored, and it ends with its client. It does not end with its broker: the client keeps what has not
been answered, opens the session anew where the broker has lost it, and gets each result once (`park.wire.calls`).
Inputs are read as results come (`park.feeding`), so that a lazy iterable of any length needs little memory on either side.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from park import payload
from park.batches import LARGEST_BATCH, windows_of
from park.errors import ParkError, UnitError
from park.feeding import Feed
from park.kernel.env import mix
from park.link import Link, MapCall
from park.results import decode_results
from park.wire import calls, messages
from park.wire.pack import Pack

#: Units in the first batch.
FIRST_BATCH = 64
#: Batches under way, and bytes of the results of all of them, as far as they can be foreseen.
BATCHES, AHEAD_BYTES = 4, 64 << 20
#: Bytes of inputs that are on their way, or wait: less than what the broker has room for.
INPUT_BYTES = 192 << 20
#: Seconds between two looks for the first input.
READING = 0.005


class Session:
    """An open session: makes maps, and closes itself when it is not used any more."""

    def __init__(self, link: Link, kept: calls.Session, seed: int) -> None:
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
        data: bytes,
        count: int,
        closed: bool = True,
        on_result: Callable[[MapCall], None] | None = None,
    ) -> MapCall:
        """Start a map of the function *blob* over the pack *data*."""
        seed = mix(self._seed, next(self._maps))
        message = messages.Map(os.urandom(16), 0, code, count, closed, seed)
        return self.link.open_map(self._kept, message, data, blob, on_result)

    def close(self) -> None:
        self._finalizer()


def _close(link: Link, kept: calls.Session) -> None:
    with contextlib.suppress(ParkError):
        link.close_session(kept)


class Run:
    """One map of a session under way: its inputs are read and sent, its results are taken, in order or as they come.

    ``eager``: what is read is sent as long as the broker keeps up, whether or not results are taken; *inputs* None: they
    are put by whoever has made it. *on_end* is called once, in the loop, when all results have come, or none will.
    """

    def __init__(
        self,
        session: Session,
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
        #: units that were sent, with their bytes; that came back; and that were taken, with the bytes of their results
        self._sent = self._sent_bytes = 0
        self._taken = self._size = 0
        self.closed = False
        #: results that came before those that are due, by first unit
        self._early: dict[int, list[Any]] = {}
        self._feed: Feed | None = None
        if inputs is not None:
            self._feed = Feed(inputs, self, eager)

    # -- what the feed asks for ------------------------------------------------------------------

    def put(self, data: bytes, count: int, closed: bool) -> None:
        """Send more inputs."""
        if self.call is None:
            hook = None if self._on_end is None and not self._eager else self._arrived
            self.call = self._session.open(*self._code, data, count, closed, hook)
        else:
            units = messages.Units(self._sent, count, closed, map=self.call.key)
            self._session.link.feed_map(self.call, units, data)
        self._sent += count
        self._sent_bytes += len(data)
        self.closed = closed
        if closed and self.call.call.complete:
            self._session.link.end_map(self.call, cancel=False)
            self._arrived(self.call)

    def has_room(self) -> bool:
        """Whether more may be on its way: by what has been taken or, where nobody need take it, by what came back."""
        if not self._eager:
            ahead = self._sent - self._taken
            few = ahead <= (BATCHES - 1) * self.batch_size()
            return few and ahead * self._sent_bytes <= INPUT_BYTES * self._sent
        if self.call is None or self.call.error is not None:
            return True
        return (self._sent - self.call.came) * self._sent_bytes <= INPUT_BYTES * self._sent

    def batch_size(self) -> int:
        """Units of the next batch: the more, the faster results are taken."""
        if self._eager:
            return LARGEST_BATCH
        most = AHEAD_BYTES * self._taken // (BATCHES * self._size) if self._size else LARGEST_BATCH
        return max(1, min(LARGEST_BATCH, max(FIRST_BATCH, self._taken // 4), most))

    @property
    def dropped(self) -> bool:
        """Whether units were cancelled that had not begun."""
        return self.call is not None and self.call.dropped

    def stir(self) -> None:
        if self.call is not None:
            self._session.link.stir(self.call)

    def _arrived(self, call: MapCall) -> None:
        """In the loop: results have come."""
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
        """Send what there is to send; whether all is over. Raises what has ended it."""
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
            time.sleep(READING)  # its first input is not there yet
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
        """Wait until all inputs are sent; whoever has made it waits for what comes of them."""
        feed = self._feed
        while feed is not None and not feed.over:
            feed.flush()
            time.sleep(READING)
        if feed is not None and feed.failed:
            self.cancel(spare=True)

    def cancel(self, spare: bool = False) -> None:
        """No more results are wanted, and no more inputs; *spare*: what runs goes on."""
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
                if not spare or link.spare_map(call) is None:
                    link.end_map(call, cancel=True)


class MapIterator:
    """The results of ``service.map``, in order or as they come. Closing it cancels what has not run."""

    def __init__(self, session: Session, function: Any, inputs: Iterable[Any], ordered: bool) -> None:
        self._session = session
        self._ordered = ordered
        #: the results at hand, the next one last, and the unit of that
        self._values: list[Any] = []
        self._unit = 0
        self._over = False
        self._run = Run(session, function, inputs)

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

    def __init__(self, session: Session, function: Any) -> None:
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
        for data in windows_of(points):
            values += self._map(data, Pack(data).count)
        return values

    def _map(self, data: bytes, count: int) -> list[Any]:
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
            self._session.link.end_map(call, cancel=not done)

    def close(self) -> None:
        """End the session."""
        self._session.close()

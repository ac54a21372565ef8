"""The answers that a kernel keeps, because it may have to give them again.

One that goes to the disk is kept until the broker says that it is there, any other until the broker was heard some time
later; those that a hello has named are all kept until contact is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from park.wire import messages
from park.wire.pack import Buffer

#: Answers that are not stored are kept until the broker was heard so many seconds later, if they are no more than so
#: many, and so many bytes.
KEEP = 10.0
MOST_KEPT = 1024
KEPT_BYTES = 256 << 20
#: Bytes of all answers that are kept in memory; more of them for so many seconds, as long as they are on their way.
MEMORY = 64 << 20
SETTLE = 30.0


class Kept(Struct, frozen=True, gc=False):
    """An answer, and what was asked."""

    run: messages.Run
    answer: messages.Finished
    payload: Buffer
    at: float


class Answers:
    """See the module; by the numbers of their attempts, the oldest first.

    *shelve* takes the bytes of an answer that memory is not for, and returns the same elsewhere, or None.
    """

    def __init__(self, shelve: Callable[[Buffer], Buffer | None]) -> None:
        self._shelve = shelve
        #: bytes in memory, by attempt, and of all
        self._sizes: dict[int, int] = {}
        self._memory = 0
        #: those that go to the disk
        self.stored: dict[int, Kept] = {}
        self._passing: dict[int, Kept] = {}
        #: those of the others that a hello has named
        self._named: set[int] = set()
        #: bytes of the others, and when the broker last spoke to a kernel that it knows
        self._bytes = 0
        self._heard = 0.0

    def __contains__(self, attempt: int) -> bool:
        return attempt in self.stored or attempt in self._passing

    def __iter__(self) -> Iterator[int]:
        yield from self.stored
        yield from self._passing

    def get(self, attempt: int) -> Kept | None:
        return self.stored.get(attempt) or self._passing.get(attempt)

    def all(self) -> list[Kept]:
        return [*self.stored.values(), *self._passing.values()]

    def keep(self, kept: Kept, live: bool = False) -> None:
        """An answer without room is not kept: if it does not arrive, no hello names it, and its units run again.

        *live*: it is given to the broker now, and so in memory anyway.
        """
        number, size = kept.run.attempt, len(kept.payload)
        if self._memory + size > MEMORY and not live:
            payload = self._shelve(kept.payload)
            if payload is None:
                return
            kept, size = replace(kept, payload=payload), 0
        self._sizes[number] = size
        self._memory += size
        if kept.run.stored:
            self.stored[number] = kept
        else:
            self._passing[number] = kept
            self._bytes += len(kept.payload)

    def drop(self, attempts: Iterable[int]) -> None:
        """They are on disk, or nobody wants them."""
        for number in attempts:
            self._memory -= self._sizes.pop(number, 0)
            self.stored.pop(number, None)
            kept = self._passing.pop(number, None)
            self._bytes -= len(kept.payload) if kept is not None else 0

    def name(self) -> None:
        """A hello names them: none is forgotten before `given`."""
        self._named = set(self._passing)

    def heard(self, now: float) -> None:
        """The broker has spoken, other than to make contact: it has taken what was said long before."""
        self._heard = now

    def given(self, now: float) -> None:
        """All were given again."""
        self._named.clear()
        self._passing = {number: replace(kept, at=now) for number, kept in self._passing.items()}

    def clear(self) -> None:
        """They are nobody's any more."""
        self.drop(list(self))

    def tick(self, now: float) -> None:
        """Forget those that were kept long enough. A broker that is away may have had none of them."""
        if self._memory > MEMORY:
            self._put_away(now)
        while self._passing:
            number, kept = next(iter(self._passing.items()))
            few = len(self._passing) <= MOST_KEPT and self._bytes <= KEPT_BYTES
            if number in self._named or (self._heard - kept.at <= KEEP and few):
                break
            self.drop([number])

    def _put_away(self, now: float) -> None:
        """They do not arrive: the oldest need not be in memory."""
        for kept in sorted(self.all(), key=lambda kept: kept.at):
            number = kept.run.attempt
            if self._memory <= MEMORY or now < kept.at + SETTLE:
                break
            if not self._sizes[number]:
                continue
            payload = self._shelve(kept.payload)
            if payload is None:
                self.drop([number])
                continue
            room = self.stored if number in self.stored else self._passing
            room[number] = replace(kept, payload=payload)
            self._memory -= self._sizes[number]
            self._sizes[number] = 0

    def check(self) -> None:
        assert self._sizes.keys() == set(self)
        assert self._memory == sum(self._sizes.values())
        assert self._bytes == sum(len(kept.payload) for kept in self._passing.values())

"""The answers that a kernel keeps, because it may have to give them again.

One that goes to the disk is kept until the broker says that it is there, any other for a while; those that a hello has
named are all kept until contact is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from park.wire import messages
from park.wire.pack import Buffer

#: Answers that are not stored are kept for so many seconds, and no more than so many of them.
KEEP = 10.0
MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, and what was asked."""

    run: messages.Run
    answer: messages.Finished
    payload: Buffer
    at: float


class Answers:
    """See the module; by the numbers of their attempts, the oldest first."""

    def __init__(self) -> None:
        #: those that go to the disk
        self.stored: dict[int, Kept] = {}
        self._passing: dict[int, Kept] = {}
        #: those of the others that a hello has named
        self._named: set[int] = set()

    def __contains__(self, attempt: int) -> bool:
        return attempt in self.stored or attempt in self._passing

    def __iter__(self) -> Iterator[int]:
        yield from self.stored
        yield from self._passing

    def get(self, attempt: int) -> Kept | None:
        return self.stored.get(attempt) or self._passing.get(attempt)

    def all(self) -> list[Kept]:
        return [*self.stored.values(), *self._passing.values()]

    def keep(self, kept: Kept) -> None:
        (self.stored if kept.run.stored else self._passing)[kept.run.attempt] = kept

    def drop(self, attempts: Iterable[int]) -> None:
        """They are on disk, or nobody wants them."""
        for number in attempts:
            self.stored.pop(number, None)
            self._passing.pop(number, None)

    def name(self) -> None:
        """A hello names them: none is forgotten before `given`."""
        self._named = set(self._passing)

    def given(self) -> None:
        """All were given again."""
        self._named.clear()

    def clear(self) -> None:
        """They are nobody's any more."""
        self.stored.clear()
        self._passing.clear()

    def tick(self, now: float) -> None:
        """Forget those that were kept long enough."""
        while self._passing:
            number, kept = next(iter(self._passing.items()))
            if number in self._named or (now - kept.at <= KEEP and len(self._passing) <= MOST_KEPT):
                break
            del self._passing[number]

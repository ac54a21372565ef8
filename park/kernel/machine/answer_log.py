"""The answers that a kernel keeps because it may have to repeat them.

A stored answer is kept until the broker says that it is on disk. A passing answer, whose map lives in memory only, is
kept until the broker sends a message some time later. Passing answers that a hello has named are kept until contact is
made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from park.wire import messages
from park.wire.pack import Buffer

#: A message of the broker this many seconds after a passing answer shows that the broker has it; then it is dropped.
RETENTION_SECONDS = 10.0
#: Passing answers that are kept at most, and their bytes.
MAX_RETAINED_ANSWERS = 1024
MAX_RETAINED_BYTES = 256 << 20
#: Bytes of all answers that are kept in memory. More of them stay there for `SPILL_AGE_SECONDS` while contact lasts.
MEMORY_BYTES = 64 << 20
SPILL_AGE_SECONDS = 30.0


class KeptAnswer(Struct, frozen=True, gc=False):
    """An answer, the attempt that it answers, and when it came."""

    run: messages.Run
    answer: messages.Finished
    payload: Buffer
    at: float


class AnswerLog:
    """The kept answers by attempt, the oldest first.

    *spill* takes the bytes of an answer that does not fit into memory, and returns the same bytes elsewhere, or None.
    """

    def __init__(self, spill: Callable[[Buffer], Buffer | None]) -> None:
        self._spill = spill
        #: bytes in memory of each answer, and of all
        self._sizes: dict[int, int] = {}
        self._memory = 0
        self.stored: dict[int, KeptAnswer] = {}
        self._passing: dict[int, KeptAnswer] = {}
        #: passing answers that a hello has named
        self._named: set[int] = set()
        #: bytes of the passing answers
        self._passing_bytes = 0
        #: when the broker last spoke to a kernel that it knows
        self._heard_at = 0.0

    def __contains__(self, attempt: int) -> bool:
        return attempt in self.stored or attempt in self._passing

    def __iter__(self) -> Iterator[int]:
        yield from self.stored
        yield from self._passing

    def get(self, attempt: int) -> KeptAnswer | None:
        return self.stored.get(attempt) or self._passing.get(attempt)

    def all(self) -> list[KeptAnswer]:
        return [*self.stored.values(), *self._passing.values()]

    def keep(self, kept: KeptAnswer, live: bool = False) -> None:
        """Keep an answer if there is room. Otherwise no hello names the attempt, and its units run again.

        *live*: the answer is sent to the broker now, and so in memory anyway.
        """
        number, size = kept.run.attempt, len(kept.payload)
        if self._memory + size > MEMORY_BYTES and not live:
            payload = self._spill(kept.payload)
            if payload is None:
                return
            kept, size = replace(kept, payload=payload), 0
        self._sizes[number] = size
        self._memory += size
        if kept.run.stored:
            self.stored[number] = kept
        else:
            self._passing[number] = kept
            self._passing_bytes += len(kept.payload)

    def drop(self, attempts: Iterable[int]) -> None:
        """Forget answers that are on disk, or that the broker does not want."""
        for number in attempts:
            self._memory -= self._sizes.pop(number, 0)
            self.stored.pop(number, None)
            kept = self._passing.pop(number, None)
            self._passing_bytes -= len(kept.payload) if kept is not None else 0

    def name(self) -> None:
        """Note that a hello names the answers: they are kept until `given`."""
        self._named = set(self._passing)

    def heard(self, now: float) -> None:
        """Note a message of the broker other than a Welcome: it has taken the messages that were sent long before."""
        self._heard_at = now

    def given(self, now: float) -> None:
        """All answers were repeated."""
        self._named.clear()
        self._passing = {number: replace(kept, at=now) for number, kept in self._passing.items()}

    def clear(self) -> None:
        """Forget all answers."""
        self.drop(list(self))

    def tick(self, now: float) -> None:
        """Forget passing answers that were kept long enough. A broker that is away may not have got them."""
        if self._memory > MEMORY_BYTES:
            self._spill_oldest(now)
        while self._passing:
            number, kept = next(iter(self._passing.items()))
            fits = len(self._passing) <= MAX_RETAINED_ANSWERS and self._passing_bytes <= MAX_RETAINED_BYTES
            if number in self._named or (self._heard_at - kept.at <= RETENTION_SECONDS and fits):
                break
            self.drop([number])

    def _spill_oldest(self, now: float) -> None:
        """Move the oldest answers out of memory, because the broker does not take them now."""
        for kept in sorted(self.all(), key=lambda kept: kept.at):
            number = kept.run.attempt
            if self._memory <= MEMORY_BYTES or now < kept.at + SPILL_AGE_SECONDS:
                break
            if not self._sizes[number]:
                continue
            payload = self._spill(kept.payload)
            if payload is None:
                self.drop([number])
                continue
            answers = self.stored if number in self.stored else self._passing
            answers[number] = replace(kept, payload=payload)
            self._memory -= self._sizes[number]
            self._sizes[number] = 0

    def check(self) -> None:
        """Assert that the sums agree with the answers."""
        assert self._sizes.keys() == set(self)
        assert self._memory == sum(self._sizes.values())
        assert self._passing_bytes == sum(len(kept.payload) for kept in self._passing.values())

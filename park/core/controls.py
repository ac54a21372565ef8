"""The controls of one job: messages for its body, in the order in which the broker has taken them.

They are kept until the job has ended, so that a body that runs again gets them again. What a checkpoint has made needless
goes; of the last of those the keys stay, by which one that comes twice is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from park.core.outcome import Key

#: Of one job, controls that are kept and bytes of all of them.
MOST, MOST_BYTES = 10_000, 16 << 20
#: Of all jobs of one owner; each takes some hundred bytes of the broker's memory.
MOST_OF_OWNER = 200_000
#: Keys of controls that are not kept any more. Nobody sends one again after that many others.
MOST_SPENT = 1000


@dataclass(slots=True)
class Kept:
    """A control in the store: its *key*, its bytes, and the turn in which it came."""

    key: bytes
    size: int
    turn: int = 0
    #: that something went wrong with it was told
    blamed: bool = False


class Controls:
    """See the module. *served*: those up to this one are in the checkpoint of the job's only unit."""

    def __init__(self, served: int = 0) -> None:
        self.served = served
        #: the turn in which that checkpoint came
        self.turn = 0
        #: the number of the last one
        self.last = served
        self.kept: dict[int, Kept] = {}
        self.bytes = 0
        #: keys, by number, of those that are not kept
        self.spent: dict[int, bytes] = {}
        self._keys: set[bytes] = set()
        #: the last one that each kernel was given, of those that run the job's own units
        self.told: dict[int, int] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes, size: int, turn: int) -> int:
        """The next one; its number."""
        self.last += 1
        self.kept[self.last] = Kept(key, size, turn)
        self.bytes += size
        self._keys.add(key)
        return self.last

    def restore(self, seq: int, key: bytes, size: int) -> None:
        """One that an earlier life has kept, in their order; *size* 0: only its key."""
        self.last = max(self.last, seq)
        self._keys.add(key)
        if size:
            self.kept[seq] = Kept(key, size)
            self.bytes += size
        else:
            self.spent[seq] = key

    def after(self, seq: int) -> list[tuple[int, Kept]]:
        """Those that are kept and come after this one."""
        found: list[tuple[int, Kept]] = []
        for number in reversed(self.kept):
            if number <= seq:
                break
            found.append((number, self.kept[number]))
        return found[::-1]

    def serve(self, seq: int, turn: int) -> Iterator[tuple[int, bytes, bool]]:
        """A checkpoint has those up to this one. Yields number and key of what goes, and whether its key goes too."""
        self.served, self.turn = max(self.served, min(seq, self.last)), turn
        while self.kept and (first := next(iter(self.kept))) <= self.served:
            kept = self.kept.pop(first)
            self.bytes -= kept.size
            self.spent[first] = kept.key
            yield first, kept.key, False
        while len(self.spent) > MOST_SPENT:
            first = next(iter(self.spent))
            key = self.spent.pop(first)
            self._keys.discard(key)
            yield first, key, True

    def keys(self, job: int) -> Iterator[Key]:
        """The records of all of them."""
        for seq, kept in self.kept.items():
            yield record(job, seq, kept.key)
        for seq, key in self.spent.items():
            yield record(job, seq, key)

    def check(self) -> None:
        """Assert what must always hold."""
        numbers = [*self.spent, *self.kept]
        assert numbers == sorted(numbers)
        assert not numbers or numbers[-1] <= self.last
        assert all(seq <= self.served for seq in self.spent)
        assert all(seq > self.served for seq in self.kept)
        assert self._keys == {*self.spent.values(), *(k.key for k in self.kept.values())}
        assert len(self._keys) == len(numbers), "one is kept twice"
        assert self.bytes == sum(k.size for k in self.kept.values()) <= MOST_BYTES
        assert all(seq <= self.last for seq in self.told.values())


def record(job: int, seq: int, key: bytes) -> Key:
    """Where a control lies in the store."""
    return (job, seq, key)

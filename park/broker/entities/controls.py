"""The controls of one job: messages for its body, in the order in which the broker has taken them.

The broker keeps controls until the job has ended, because a body that runs again needs all of them again. It deletes a
control that a checkpoint contains. The keys of the last deleted controls stay, so that a repeated control is
recognised.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from park.broker.effects import Key

#: The largest number of controls that are kept for one job, and their bytes.
MAX_KEPT_CONTROLS, MAX_KEPT_CONTROL_BYTES = 10_000, 16 << 20
#: The most controls of all jobs of one owner; each takes some hundred bytes of the broker's memory.
MAX_OWNER_CONTROLS = 200_000
#: Keys of deleted controls that stay; no client repeats a control after this many others.
MAX_SPENT_KEYS = 1000


class KeptControl(Struct):
    """A control in the store: its *key*, its bytes, and the turn in which it came."""

    key: bytes
    size: int
    turn: int = 0
    #: its error was told
    blamed: bool = False


class Controls:
    """The controls of one job. *served*: the checkpoint of the job's only unit contains the controls up to this number."""

    def __init__(self, served: int = 0) -> None:
        self.served = served
        #: the turn in which that checkpoint came
        self.turn = 0
        #: the number of the last one
        self.last = served
        self.kept: dict[int, KeptControl] = {}
        self.bytes = 0
        #: keys of deleted controls, by number
        self.spent: dict[int, bytes] = {}
        self._keys: set[bytes] = set()
        #: the last control that was sent to each kernel with a unit of the job's own map
        self.sent: dict[int, int] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def add(self, key: bytes, size: int, turn: int) -> int:
        """Add a control. Returns its number."""
        self.last += 1
        self.kept[self.last] = KeptControl(key, size, turn)
        self.bytes += size
        self._keys.add(key)
        return self.last

    def restore(self, seq: int, key: bytes, size: int) -> None:
        """Take up a control of an earlier life. Controls come in their order; *size* 0: only the key is left."""
        self.last = max(self.last, seq)
        self._keys.add(key)
        if size:
            self.kept[seq] = KeptControl(key, size)
            self.bytes += size
        else:
            self.spent[seq] = key

    def after(self, seq: int) -> list[tuple[int, KeptControl]]:
        """The kept controls after number *seq*."""
        found: list[tuple[int, KeptControl]] = []
        for number in reversed(self.kept):
            if number <= seq:
                break
            found.append((number, self.kept[number]))
        return found[::-1]

    def serve(self, seq: int, turn: int) -> Iterator[tuple[int, bytes, bool]]:
        """Delete the controls up to *seq*, which a checkpoint has. Yields number, key, and whether the key goes too."""
        self.served, self.turn = max(self.served, min(seq, self.last)), turn
        while self.kept and (first := next(iter(self.kept))) <= self.served:
            kept = self.kept.pop(first)
            self.bytes -= kept.size
            self.spent[first] = kept.key
            yield first, kept.key, False
        while len(self.spent) > MAX_SPENT_KEYS:
            first = next(iter(self.spent))
            key = self.spent.pop(first)
            self._keys.discard(key)
            yield first, key, True

    def keys(self, job: int) -> Iterator[Key]:
        """The store keys of all controls."""
        for seq, kept in self.kept.items():
            yield record(job, seq, kept.key)
        for seq, key in self.spent.items():
            yield record(job, seq, key)

    def check(self) -> None:
        """Assert the invariants."""
        numbers = [*self.spent, *self.kept]
        assert numbers == sorted(numbers)
        assert not numbers or numbers[-1] <= self.last
        assert all(seq <= self.served for seq in self.spent)
        assert all(seq > self.served for seq in self.kept)
        assert self._keys == {*self.spent.values(), *(k.key for k in self.kept.values())}
        assert len(self._keys) == len(numbers), "one is kept twice"
        assert self.bytes == sum(k.size for k in self.kept.values()) <= MAX_KEPT_CONTROL_BYTES
        assert all(seq <= self.last for seq in self.sent.values())


def record(job: int, seq: int, key: bytes) -> Key:
    """The key of a control in the store."""
    return (job, seq, key)

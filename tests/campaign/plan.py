"""The requests of a client, made from a seed: the client and the audit make the same."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

#: Units of one client have numbers of their own, and so have those of one task.
CLIENT, TASK = 10**9, 10**5
#: How a generation or an inner map is numbered inside a task.
ROW = 100
#: Kinds whose jobs end complete, so that others may run after them.
LASTING = ("map", "driver", "nest")


def value(unit: int) -> int:
    """The result of a unit."""
    return unit * 2654435761 % 2**31


def deadly(unit: int) -> bool:
    """Whether a unit of a ``crash`` task kills its process."""
    return unit % ROW == 7


@dataclass(frozen=True)
class Task:
    """A job of a client: *kind* says what it does with *count* units from *first* on, each of some *seconds*."""

    number: int
    kind: str
    first: int
    count: int
    seconds: float
    priority: int
    #: the task after which it runs, if any
    after: int | None
    key: bytes

    @property
    def once(self) -> bool:
        return self.kind == "driver"

    @property
    def inputs(self) -> list[int]:
        """The inputs of its job."""
        return list(range(self.first, self.first + self.count))

    def inner(self, unit: int) -> list[int]:
        """The units that a ``nest`` maps over for one of its inputs."""
        start = self.first + ROW + (unit - self.first) * ROW
        return list(range(start, start + 10))

    def generations(self) -> list[list[int]]:
        """The maps that a ``driver`` makes."""
        units = self.inputs
        return [units[n : n + 20] for n in range(0, len(units), 20)]

    def expected(self) -> list[int]:
        """The results of its units, in order."""
        if self.kind == "driver":
            return [sum(map(value, self.inputs))]
        if self.kind == "nest":
            return [sum(map(value, self.inner(unit))) for unit in self.inputs]
        return [value(unit) for unit in self.inputs]

    def leaves(self) -> list[int]:
        """The units that note their runs."""
        if self.kind == "nest":
            return [unit for outer in self.inputs for unit in self.inner(outer)]
        return self.inputs


def plan(seed: int, client: int, units: int, seconds: float, kinds: tuple[str, ...]) -> list[Task]:
    """Tasks of about *units* units in all."""
    chance = random.Random(f"plan {seed} {client}")
    tasks: list[Task] = []
    left = units
    while left > 0:
        number = len(tasks)
        kind = chance.choice(kinds) if number else kinds[0]
        count = min(left, TASK // 2, chance.choice((5, 20, 60, max(30, units // 12))))
        if kind == "nest":
            count = min(count, 10)
        if kind == "driver":
            count = min(count, 400)
        before = [t.number for t in tasks if t.kind in LASTING]
        after = chance.choice(before) if before and chance.random() < 0.2 else None
        key = hashlib.blake2b(f"{seed} {client} {number}".encode(), digest_size=16).digest()
        task = Task(
            number,
            kind,
            client * CLIENT + number * TASK,
            count,
            seconds,
            chance.choice((-3, 0, 0, 0, 1, 4)),
            after,
            key,
        )
        tasks.append(task)
        left -= len(task.leaves())
    return tasks

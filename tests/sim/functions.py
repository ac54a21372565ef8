"""Functions that run in the simulator: plain functions, and generators, which are drivers.

A driver yields a function's name with inputs, and gets the results of that map; or it yields a number, the seconds
that its next step takes; or `RESTORE`, and gets its newest checkpoint, or a `Save`, which makes one; or `HEAR`, and gets
the controls that its body has had. A name may be
followed by a space and more (``"nap 3"``): other code that does the same, so that its units are timed apart. How long
a plain unit takes is the pace of its world.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from typing import Any

from park.wire import codec, pack


class Failed(Exception):
    """A unit raised."""


class Crash(Exception):
    """A unit killed its process."""


class Abort(Exception):
    """The process raises this in what it runs, as park.Abort."""


@dataclass(frozen=True)
class Save:
    """A driver's state."""

    state: list[int]


RESTORE, HEAR = "restore", "hear"


def square(x: int) -> int:
    return x * x


def nap(seconds: float) -> float:
    """Takes as long as its input says, where the pace of the world is `exact`."""
    return seconds


def fails(x: int) -> int:
    if x % 3 == 0:
        raise Failed(f"{x} is a multiple of three")
    return x


def kills(x: int) -> int:
    if x % 7 == 3:
        raise Crash
    return -x


def aborts(x: int) -> int:
    raise Abort


def driver(x: int | None) -> Generator[Any, Any, Any]:
    total = x or 0
    for generation in range(3):
        total += sum((yield "square", [total % 10, generation, 3]))
        yield 0.002
    return total


def nest(depth: int) -> Generator[Any, Any, Any]:
    if depth <= 0:
        return 1
    return 1 + sum((yield "nest", [depth - 1] * 2))


def chain(depth: int) -> Generator[Any, Any, Any]:
    if depth <= 0:
        return 0
    return 1 + sum((yield "chain", [depth - 1]))


def broad(x: int | None) -> Generator[Any, Any, Any]:
    return sum((yield "driver", [1, 2, 3, 4, 5, 6]))


def unlucky(x: int | None) -> Generator[Any, Any, Any]:
    return sum((yield "kills", [1, 2, 3]))


def hopeful(x: int | None) -> Generator[Any, Any, Any]:
    first = yield "square", [1, 2]
    try:
        yield "kills", [3, 4]
    except Failed:
        return sum(first) + 100
    return 0


def serial(steps: int | None) -> Generator[Any, Any, Any]:
    """A driver that makes no maps, a serial optimizer."""
    steps = steps or 100
    for _ in range(steps):
        yield 0.03
    return steps


def saver(steps: int | None) -> Generator[Any, Any, Any]:
    """A driver that goes on from its checkpoints: [steps that were made, their sum]."""
    made, total = (yield RESTORE) or [0, 0]
    while made < (steps or 30):
        yield 0.2
        made += 1
        total += made
        yield Save([made, total])
    return total


def heeds(count: int | None) -> Generator[Any, Any, Any]:
    """A driver that goes on until its body has had *count* controls, and returns them."""
    yield RESTORE
    kept = 0
    while len(heard := (yield HEAR)) < (count or 12):
        if len(heard) > kept:
            kept = len(heard)
            yield Save([kept, *heard])
        yield 0.05
    return heard[: count or 12]


def generations(plan: list[Any] | None) -> Generator[Any, Any, Any]:
    """A fit: *count* generations of *points* naps of *seconds*, and a step of the driver's own after each."""
    count, points, seconds, step = plan or (20, 10, 0.05, 0.01)
    total = 0
    for _ in range(count):
        total += len((yield "nap", [seconds] * points))
        yield step
    return total


def fit(of: None) -> Generator[Any, Any, Any]:
    """A driver whose units are drivers themselves, whose units are short."""
    total = 0
    for _ in range(10):
        total += sum((yield "generations", [[3, 20, 0.005, 0.002]] * 4))
    return total


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        square,
        nap,
        fails,
        kills,
        aborts,
        driver,
        nest,
        chain,
        broad,
        unlucky,
        hopeful,
        serial,
        saver,
        heeds,
        generations,
        fit,
    )
}


@cache
def function(name: str) -> Callable[..., Any]:
    return FUNCTIONS[name.partition(" ")[0]]


@cache
def drives(name: str) -> bool:
    """Whether it makes maps of its own."""
    return inspect.isgeneratorfunction(function(name))


@dataclass(frozen=True)
class Error:
    """Stands for a unit that failed."""


ERROR = Error()


def expected(name: str, x: Any) -> Any:
    """The result of the function in a world without accidents and without controls."""
    try:
        if not drives(name):
            return function(name)(x)
        made = function(name)(x)
        try:
            step = made.send(None)
            while True:
                if isinstance(step, float | Save) or step == RESTORE:
                    step = made.send(None)
                    continue
                answer = [expected(step[0], i) for i in step[1]]
                step = made.throw(Failed()) if ERROR in answer else made.send(answer)
        except StopIteration as end:
            return end.value
    except (Failed, Crash, Abort):
        return ERROR


def remark_on(value: Any) -> str:
    """The remark of a body that runs once on its result."""
    return f"it gave {value}"


# -- how long it takes -----------------------------------------------------------------------------

#: The seconds that a unit takes, or a driver between two of its yields: of the function's name, its input and chance.
Pace = Callable[[str, Any, random.Random], float]


def hasty(name: str, x: Any, chance: random.Random) -> float:
    """A fraction of a millisecond mostly, sometimes some hundredths of a second, rarely seconds."""
    seconds = 5e-4 * chance.random()
    draw = chance.random()
    return seconds * (10_000 if draw < 0.003 else 100 if draw < 0.1 else 1)


def exact(name: str, x: Any, chance: random.Random) -> float:
    """A nap takes what its input says, everything else no time."""
    return float(x) if name.startswith("nap") else 0.0


# -- how it travels --------------------------------------------------------------------------------


@cache
def blob(name: str) -> bytes:
    return b"code of " + name.encode()


@cache
def code(name: str) -> bytes:
    return hashlib.blake2b(blob(name), digest_size=16).digest()


@cache
def name_in(data: bytes) -> str:
    """The function that this code is."""
    prefix, _, name = data.decode().partition("code of ")
    assert not prefix
    return name


def units(values: list[Any]) -> bytes:
    return pack.pack_entries([codec.pack(v) for v in values])


def inputs(payload: Any) -> list[Any]:
    return [codec.unpack(e) for e in pack.Pack(payload).entries()]


def entry(value: Any, unit: int = 0) -> bytes:
    return pack.error_entry("it failed", "", unit) if value is ERROR else b"v" + codec.pack(value)


def values(data: Any) -> list[Any]:
    """The values in a pack of results."""
    entries = [bytes(e) for e in pack.Pack(data).entries()]
    return [ERROR if e[:1] == pack.ERROR else codec.unpack(e[1:]) for e in entries]

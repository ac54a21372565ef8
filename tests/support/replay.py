"""Calls of real machines and their answers, written down, and repeated without the simulator.

A dispatcher, a kernel's machine and a mirror are pure: what they answer follows from what they were asked, one call after
the other. `recorded` notes each call from outside. ``python -m tests.support.replay FILE`` makes machines of its own, asks
the same, and fails at the first other answer: whatever had a say in a decision beside the calls, it is not there now.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from park.broker.dispatcher import Dispatcher
from park.broker.effects import Event
from park.kernel.machine.state_machine import KernelMachine
from park.table.mirror import Mirror

MACHINES: dict[str, type[Any]] = {c.__name__: c for c in (Dispatcher, KernelMachine, Mirror)}

#: machine, method, the pickled arguments, the answer
Call = tuple[int, str, bytes, Any]


def plain(value: Any) -> Any:
    """The value as tuples, texts, numbers and bytes, to be compared and kept."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, Struct):
        return (type(value).__name__, *map(plain, structs.astuple(value)))
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        return (type(value).__name__, *(plain(getattr(value, name)) for name in names))
    if isinstance(value, dict):
        return tuple((plain(k), plain(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return value


def frozen(given: Any) -> bytes:
    """Arguments as they are now."""

    def kept(value: Any) -> Any:
        if isinstance(value, memoryview):
            return bytes(value)
        return structs.replace(value, payload=bytes(value.payload)) if type(value) is Event else value

    args, named = given
    return pickle.dumps(([kept(a) for a in args], {k: kept(v) for k, v in named.items()}))


def questions(machine: type[Any]) -> list[str]:
    """The methods that anybody may call."""
    return [name for name in dir(machine) if callable(getattr(machine, name)) and not name.startswith("_")]


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Notes each call of each machine that is made meanwhile; calls that a machine makes of itself are its own affair."""
    calls: list[Call] = []
    numbers: dict[int, int] = {}
    kept: list[Any] = []  # so that no two have one id
    inside: set[int] = set()
    before: list[tuple[type[Any], str, Any]] = []

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: Any, *args: Any, **named: Any) -> Any:
            if id(self) in inside or (name != "__init__" and id(self) not in numbers):
                return method(self, *args, **named)  # of itself; or it was there before, in another thread
            if name == "__init__":
                numbers[id(self)] = len(kept)
                kept.append(self)
            asked = frozen((args, named))
            inside.add(id(self))
            try:
                answer = method(self, *args, **named)
            finally:
                inside.discard(id(self))
            said = type(self).__name__ if name == "__init__" else plain(answer)
            calls.append((numbers[id(self)], name, asked, said))
            return answer

        return noted

    for machine in MACHINES.values():
        for name in ("__init__", *questions(machine)):
            before.append((machine, name, getattr(machine, name)))
            setattr(machine, name, noting(name, getattr(machine, name)))
    try:
        yield calls
    finally:
        for machine, name, method in before:
            setattr(machine, name, method)


def replay(calls: list[Call]) -> None:
    """Raises AssertionError at the first answer that is another one now."""
    machines: dict[int, Any] = {}
    for count, (number, name, asked, said) in enumerate(calls):
        args, named = pickle.loads(asked)
        if name == "__init__":
            machines[number] = MACHINES[said](*args, **named)
            continue
        answer = plain(getattr(machines[number], name)(*args, **named))
        assert answer == said, f"call {count}, {name}{(*args, named)}: it answered {said}, and now {answer}"


if __name__ == "__main__":
    replay(pickle.loads(Path(sys.argv[1]).read_bytes()))
    strangers = [
        name
        for name in sys.modules
        if name.startswith("tests.") and name not in ("tests.support", "tests.support.replay")
    ]
    assert not strangers, strangers
    print("the same")

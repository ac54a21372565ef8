"""The kernel's machine on a bench: a test gives it messages and looks at its actions."""

from __future__ import annotations

from typing import Any

from park.kernel.machine.actions import Action, ToBroker, ToSlot
from park.kernel.machine.state_machine import KernelMachine
from park.wire import messages
from tests.sim.functions import blob, code, units
from tests.sim.wire import carried

A, B = b"a" * 16, b"b" * 16


class Bench:
    """A kernel's machine whose broker and processes are the test."""

    def __init__(self, slots: int = 1) -> None:
        self.machine = KernelMachine(slots)
        self.started = self.machine.begin()
        self.broker(messages.Welcome("store", 1, 2.0, 20.0))
        self.broker(messages.Blob(code("square")), blob("square"))

    def broker(self, message: messages.Message, payload: Any = b"", now: float = 0.0) -> list[Action]:
        return self._checked(self.machine.broker(*carried(message, payload), now))

    def slot(
        self, process: int, message: messages.Message, payload: Any = b"", live: bool = True
    ) -> list[Action]:
        return self._checked(self.machine.slot(process, *carried(message, payload), live))

    def exited(self, process: int, cause: str = "signal 11") -> list[Action]:
        return self._checked(self.machine.exited(process, cause, "last words"))

    def _checked(self, actions: list[Action]) -> list[Action]:
        self.machine.check()
        return actions

    def run(self, attempt: int, map: bytes = A, **fields: Any) -> list[Action]:
        values = {"job": 1, "owner": "ann", "function": code("square"), "start": 0, "count": 1, "seed": 0}
        return self.broker(messages.Run(attempt=attempt, map=map, **(values | fields)), units([1]))

    def call(self, process: int, attempt: int, map: bytes = B, count: int = 3) -> list[Action]:
        return self.slot(
            process, messages.Map(map, 1, code("square"), count, attempt=attempt), units([0] * count)
        )

    def done(self, process: int, attempt: int, map: bytes = A, ended: str = "") -> list[Action]:
        return self.slot(process, messages.Finished(attempt, map, 0, 0, 0.0, ended=ended))


def place(actions: list[Action]) -> int:
    """The process that got a Run."""
    (process,) = [a.process for a in actions if isinstance(a, ToSlot) and isinstance(a.message, messages.Run)]
    return process


def told(actions: list[Action], kind: type[Any]) -> list[Any]:
    return [a.message for a in actions if isinstance(a, ToBroker | ToSlot) and isinstance(a.message, kind)]

"""The border between user code and the slot process around it.

The signal of an abort raises `park.Abort` in user code and nowhere else: `UserCode.running` and `UserCode.paused` say where
user code begins and ends. An exception that leaves user code is its result, unless the slot itself has raised it. A child
that a body has forked is no slot process: it ends where it would return to the slot.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any

from park.errors import Abort, Stop
from park.slot.frame import Frame, SlotGone


class UserCode:
    """The border to user code. *stack*: the frames of the process."""

    def __init__(self, stack: list[Frame]) -> None:
        self._stack = stack
        #: user code runs, and an abort may be raised in it
        self.interruptible = False
        #: a context in which user code runs
        self.running = _Running(self)
        #: a context in which the slot works for the user code that has called it
        self.paused = _Paused(self)
        #: this process is a child that a body has forked
        self.forked = False
        #: the kernel is gone, or has told this process to end
        self.gone = False

    def interrupt(self, *_: Any) -> None:
        """The handler of an abort's signal."""
        if self.interruptible:
            self.interruptible = False
            self._stack[-1].interrupted = True
            raise Abort("the job was aborted")

    def raise_own(self, error: BaseException) -> None:
        """Raise the slot's own exception again if user code has passed it on or wrapped it.

        Returns where *error* is the result of user code. In a forked child it does not return.
        """
        self.end_forked_child(error)
        if isinstance(error, SlotGone) and self.gone:
            raise error
        frame = self._stack[-1]
        if isinstance(error, Stop) and frame.stopped:
            raise error
        if frame.interrupted or (isinstance(error, Abort) and any(f.aborted for f in self._stack)):
            raise Abort from None

    def end_forked_child(self, error: BaseException | None = None) -> None:
        """End a forked child that has come back from the body, as a child of a script ends. Else do nothing."""
        if not self.forked:
            return
        status: Any = int(error is not None)
        if isinstance(error, SystemExit):
            status = 0 if error.code is None else error.code
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
        elif error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        os._exit(status & 0xFF)


class _Running:
    """User code runs in this context."""

    __slots__ = ("_code",)

    def __init__(self, code: UserCode) -> None:
        self._code = code

    def __enter__(self) -> None:
        self._code.interruptible = True

    def __exit__(self, *_: object) -> None:
        self._code.interruptible = False


class _Paused:
    """A context in which no user code runs; afterwards the former state counts again. Contexts may be nested."""

    __slots__ = ("_before", "_code")

    def __init__(self, code: UserCode) -> None:
        self._code = code
        self._before: list[bool] = []

    def __enter__(self) -> None:
        before = self._code.interruptible
        self._code.interruptible = False  # first, so that an interrupt leaves no entry behind
        self._before.append(before)

    def __exit__(self, *_: object) -> None:
        self._code.interruptible = self._before.pop()

"""Why a slot process has ended, in words that say only what is known."""

from __future__ import annotations

import contextlib
import signal

from msgspec import Struct

#: The part of all memory above which a shortage of memory may be the cause of a kill.
SHORTAGE_FRACTION = 0.85


class ExitCause(Struct, frozen=True):
    """The end of a process in words. *code*: the exit status as of subprocess; None: unknown.

    *peak*: the largest number of bytes of memory that the process held. The system includes what its parent held when it
    started the process, *floor* bytes: a peak that is no greater only bounds what the process held. 0: unknown. *limit*:
    bytes that all processes of the node may use. *starved*: the system has just killed a process because memory was short.
    """

    code: int | None
    peak: int = 0
    floor: int = 0
    limit: int = 0
    starved: bool = False

    def __str__(self) -> str:
        code, held = self.code, self._held()
        if code is None:
            return "its process closed its channel"
        if code >= 0:
            return f"its process exited with code {code}{held and f' ({held})'}"
        name = f"signal {-code}"
        with contextlib.suppress(ValueError):
            name += f" ({signal.Signals(-code).name})"
        text = f"its process was killed by {name}"
        memory_may_be_why = self.starved or self.peak > max(self.floor, SHORTAGE_FRACTION * self.limit) > 0
        if -code != signal.SIGKILL or not memory_may_be_why:
            return text + (held and f" ({held})")
        of = f" of the {in_words(self.limit)} that there are" if self.limit else ""
        if self.starved:
            return f"{text} when the system had to kill for want of memory{held and f': {held}{of}'}"
        return f"{text}: {held}{of}, so want of memory may be why"

    def _held(self) -> str:
        """The memory that the process held, in words."""
        if not self.peak:
            return ""
        if self.peak <= self.floor:
            return f"it held less than {in_words(self.floor)} of memory"
        return f"it held up to {in_words(self.peak)} of memory"


def in_words(size: int) -> str:
    """A number of bytes for readers."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"

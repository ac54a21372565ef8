"""What ended a slot process, in words: what is known, and no more."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass

#: Of so much of the memory that there is, want of it may be why a process was killed.
NEAR = 0.85


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended. *code*: as of subprocess; None: it is not known.

    *peak*: the most bytes of memory that it held. The system counts what its parent held when it started it, *floor*
    bytes: a peak that is no greater says only that it held no more. 0: not known. *limit*: what all processes there may
    use. *starved*: the system has killed somebody for want of memory just before.
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
        if -code != signal.SIGKILL or not (
            self.starved or self.peak > max(self.floor, NEAR * self.limit) > 0
        ):
            return text + (held and f" ({held})")
        of = f" of the {_size(self.limit)} that there are" if self.limit else ""
        if self.starved:
            return f"{text} when the system had to kill for want of memory{held and f': {held}{of}'}"
        return f"{text}: {held}{of}, so want of memory may be why"

    def _held(self) -> str:
        """How much memory it had, in words."""
        if not self.peak:
            return ""
        if self.peak <= self.floor:
            return f"it held less than {_size(self.floor)} of memory"
        return f"it held up to {_size(self.peak)} of memory"


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"

"""The slots that each owner has used in the last hour, minute by minute."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

KEPT_MINUTES = 60


class Usage:
    """Slot-seconds of owners. Each `note` tells how many slots each owner has; time is an argument (seconds)."""

    def __init__(self) -> None:
        #: minute, the slot-seconds that each owner used in it, and those that there were
        self._minutes: deque[tuple[int, Counter[str], Counter[str]]] = deque(maxlen=KEPT_MINUTES)
        self._last: float | None = None

    def note(self, running: Mapping[str, int], slots: int, now: float) -> None:
        """Count the time since the last note: each owner in *running* had that many of the *slots* slots."""
        last, self._last = self._last, now
        if last is None or not 0 < now - last < 60:
            return
        minute = int(now // 60)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter(), Counter()))
        _, used, all_slots = self._minutes[-1]
        for owner, count in running.items():
            used[owner] += count * (now - last)  # type: ignore[assignment]
        all_slots[""] += slots * (now - last)  # type: ignore[assignment]

    def shares(self, now: float) -> dict[str, float]:
        """The part of all slot-seconds that each owner has used, since an hour ago or the first note."""
        first = int(now // 60) - KEPT_MINUTES
        used: Counter[str] = Counter()
        total = 0.0
        for minute, owners, slots in self._minutes:
            if minute > first:
                used.update(owners)
                total += slots[""]
        return {owner: min(1.0, seconds / total) for owner, seconds in used.items() if total and seconds}

"""Units that may have taken their kernel along.

A kernel that is gone without a word, for a whole lease, may have been killed by what it ran: a unit that kills its parent,
or one for whose memory the system has killed the kernel. Or its machine was switched off. So each unit that ran there is
counted, unless it has run for `LONG`, and one that has lost `KILLS` kernels fails. A kernel that comes back was only cut
off, and counts no more.

Units beside a killer would be counted with it. So those that have lost all kernels but one run one after the other, those
of one kernel, for `PATIENCE` seconds each at most: the killer is alone when it kills its last kernel. Where several have
lost as many all the same, none fails before it has lost twice as many.
"""

from __future__ import annotations

from collections import deque

from park.core.attempts import Attempts
from park.core.roster import Kernel
from park.core.work import KILLS, Attempt, Map, Span, Trial

#: Seconds for which the next one waits for one that runs.
PATIENCE = 60.0
#: What has run for so many seconds is not counted: fits of days lose more kernels than three.
LONG = 3600.0
#: So many lost kernels are remembered, in case they come back.
REMEMBERED = 256


class Suspects(Attempts):
    """The floor above `Attempts`, on one level with `park.core.dealing`."""

    def _suspects(self, kernel: Kernel) -> list[Attempt]:
        """The attempts that ran in slots of the kernel, and the drivers for which they ran, if those waited there."""
        found = [self.attempts[n] for n in sorted(kernel.running)]
        for attempt in found:
            driver = self.attempts.get(attempt.map.driver)
            if driver is not None and driver.kernel is kernel and driver not in found:
                found.append(driver)
        return [a for a in found if not a.void and a.twin is None and self._now < a.begun + LONG]

    def _suspect(self, kernel: Kernel, attempts: list[Attempt]) -> None:
        """The kernel of these attempts, whose units wait again, was lost."""
        counted: list[tuple[Map, int]] = []
        spans: list[tuple[Map, Span]] = []
        for attempt in attempts:
            map_, span = attempt.map, attempt.span
            known = self.maps.get(map_.key) is map_ and not map_.cancelled
            if known and (taken := map_.claim(span.start, len(span))) is not None:
                for unit in range(span.start, span.stop):
                    map_.losses[unit] = map_.losses.get(unit, 0) + 1
                    counted.append((map_, unit))
                    spans.append((map_, Span(unit, unit + 1, taken.segment)))
        self.vanished[kernel.incarnation] = [(map_.key, unit) for map_, unit in counted]
        while len(self.vanished) > REMEMBERED:
            del self.vanished[next(iter(self.vanished))]
        worst = max((map_.losses[unit] for map_, unit in counted), default=0)
        alone = sum(map_.losses[unit] == worst for map_, unit in counted) == 1
        held: deque[tuple[Map, Span]] = deque()
        for map_, span in reversed(spans):  # the first is dealt first again
            losses, job = map_.losses[span.start], self._job(map_.job)
            map_.apart = True
            if losses >= 2 * KILLS or (losses >= KILLS and losses == worst and alone):
                text = f"{losses} kernels were lost without a word while it ran: it may have killed them"
                self._fail_unit(job, map_, span.start, text, "")
                self._drop_spent(map_, span.segment)
            elif losses >= KILLS - 1 and worst > 1:
                held.appendleft((map_, span))
                map_.hold(span)
            else:
                map_.give_back(span)
        if held:
            self.trials.append(Trial(held.popleft(), held))
            self.trials[-1].now[0].let(self.trials[-1].now[1])
        for map_ in {id(map_): map_ for map_, _ in spans}.values():
            job = self._job(map_.job)
            if map_.waiting:
                job.list_ready(map_)
            self._refresh(job)
            self._check_map(map_)

    def _cleared(self, kernel: bytes) -> None:
        """The kernel is there again: nobody has killed it."""
        for key, unit in self.vanished.pop(kernel, ()):
            map_ = self.maps.get(key)
            if map_ is not None and map_.losses.get(unit):
                map_.losses[unit] -= 1

    def _look_at_trials(self) -> None:
        """Where one is through, the next may begin."""
        for trial in list(self.trials):
            while trial.later and self._is_through(*trial.now):
                trial.now = map_, span = trial.later.popleft()
                if map_.let(span):
                    job = self._job(map_.job)
                    job.list_ready(map_)
                    self._refresh(job)
            if not trial.later:
                self.trials.remove(trial)

    def _is_through(self, map_: Map, span: Span) -> bool:
        """Whether the unit has ended, or has run long enough."""
        if self.maps.get(map_.key) is not map_ or map_.cancelled:
            return True
        runs = [
            a for a in (self.attempts[n] for n in map_.running) if a.span.start <= span.start < a.span.stop
        ]
        if runs:
            return all(self._now >= a.since + PATIENCE for a in runs)
        return not any(waits.start <= span.start < waits.stop for waits in (*map_.pending, *map_.held))

    def _trial_deadline(self) -> float:
        """When somebody may have run long enough."""
        running = (self.attempts[n] for t in self.trials for n in t.now[0].running)
        return min(
            (a.since + PATIENCE for a in running if a.since + PATIENCE > self._now), default=float("inf")
        )

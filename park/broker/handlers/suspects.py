"""Units that may have killed their kernel.

A unit may kill the kernel that runs it: it kills its parent process, or takes so much memory that the system kills the
kernel. The broker sees only that the kernel was silent for a whole lease, as when its machine was switched off. So it
counts the loss against each unit that ran there, unless the unit had run for `INNOCENT_SECONDS`, and a unit that has
lost `MAX_KILLS` kernels fails. A kernel that comes back was only cut off: its loss does not count any more.

Units that ran beside a killer are counted with it. So units that may lose only one more kernel run one after the other,
each alone for up to `TRIAL_SECONDS`. The killer is then alone when it kills its last kernel. If several units have lost
equally many kernels all the same, a unit fails only after twice as many losses.
"""

from __future__ import annotations

from collections import deque

from park.broker.effects import Effects
from park.broker.entities.maps import MAX_KILLS, Attempt, JobMap, Span, Trial
from park.broker.entities.roster import Kernel
from park.broker.handlers import attempts, job_lifecycle, results
from park.broker.state import State

#: Seconds for which a suspect unit waits for the one before it.
TRIAL_SECONDS = 60.0

#: A unit that has run this long is not counted (seconds): a fit of days may lose more kernels than three.
INNOCENT_SECONDS = 3600.0

#: Lost kernels that are remembered, at most, in case they come back.
MAX_REMEMBERED_KERNELS = 256


def candidates(state: State, effects: Effects, kernel: Kernel) -> list[Attempt]:
    """The attempts in slots of the kernel, and the drivers there that waited for their maps."""
    found = [state.attempts[n] for n in sorted(kernel.running)]
    for attempt in found:
        driver = state.attempts.get(attempt.map.driver)
        if driver is not None and driver.kernel is kernel and driver not in found:
            found.append(driver)
    return [a for a in found if not a.void and a.twin is None and effects.now < a.begun + INNOCENT_SECONDS]


def count_loss(state: State, effects: Effects, kernel: Kernel, suspected: list[Attempt]) -> None:
    """Count the loss of a kernel against the units of these attempts, which wait again."""
    counted: list[tuple[JobMap, int]] = []
    spans: list[tuple[JobMap, Span]] = []
    for attempt in suspected:
        map_, span = attempt.map, attempt.span
        known = state.maps.get(map_.key) is map_ and not map_.cancelled
        if known and (taken := map_.claim(span.start, len(span))) is not None:
            for unit in range(span.start, span.stop):
                map_.losses[unit] = map_.losses.get(unit, 0) + 1
                counted.append((map_, unit))
                spans.append((map_, Span(unit, unit + 1, taken.segment)))
    state.suspects.lost_units[kernel.incarnation] = [(map_.key, unit) for map_, unit in counted]
    while len(state.suspects.lost_units) > MAX_REMEMBERED_KERNELS:
        del state.suspects.lost_units[next(iter(state.suspects.lost_units))]
    worst = max((map_.losses[unit] for map_, unit in counted), default=0)
    alone = sum(map_.losses[unit] == worst for map_, unit in counted) == 1
    held: deque[tuple[JobMap, Span]] = deque()
    for map_, span in reversed(spans):  # so that the first unit is dealt first again
        losses, job = map_.losses[span.start], state.job(map_.job)
        map_.apart = True
        if losses >= 2 * MAX_KILLS or (losses >= MAX_KILLS and losses == worst and alone):
            text = f"{losses} kernels were lost without a word while it ran: it may have killed them"
            results.fail_unit(state, effects, job, map_, span.start, text, "")
            attempts.drop_spent(state, effects, map_, span.segment)
        elif losses >= MAX_KILLS - 1 and worst > 1:
            held.appendleft((map_, span))
            map_.hold_back(span)
        else:
            map_.give_back(span)
    if held:
        state.suspects.trials.append(Trial(held.popleft(), held))
        state.suspects.trials[-1].now[0].release(state.suspects.trials[-1].now[1])
    for map_ in {id(map_): map_ for map_, _ in spans}.values():
        job = state.job(map_.job)
        if map_.waiting:
            job.list_ready(map_)
        job_lifecycle.refresh(state, effects, job)
        job_lifecycle.check_map(state, effects, map_)


def cleared(state: State, kernel: bytes) -> None:
    """Clear the units of a kernel that has come back: its loss was no unit's fault."""
    for key, unit in state.suspects.lost_units.pop(kernel, ()):
        map_ = state.maps.get(key)
        if map_ is not None and map_.losses.get(unit):
            map_.losses[unit] -= 1


def look_at_trials(state: State, effects: Effects) -> None:
    """Let the next suspect unit begin after one that has run long enough."""
    for trial in list(state.suspects.trials):
        while trial.later and _is_through(state, effects, *trial.now):
            trial.now = map_, span = trial.later.popleft()
            if map_.release(span):
                job = state.job(map_.job)
                job.list_ready(map_)
                job_lifecycle.refresh(state, effects, job)
        if not trial.later:
            state.suspects.trials.remove(trial)


def _is_through(state: State, effects: Effects, map_: JobMap, span: Span) -> bool:
    """Whether the unit has ended, or has run long enough."""
    if state.maps.get(map_.key) is not map_ or map_.cancelled:
        return True
    runs = [a for a in (state.attempts[n] for n in map_.running) if a.span.start <= span.start < a.span.stop]
    if runs:
        return all(effects.now >= a.since + TRIAL_SECONDS for a in runs)
    return not any(waits.start <= span.start < waits.stop for waits in (*map_.pending, *map_.held_back))


def deadline(state: State) -> float:
    """The time at which the next unit has run long enough."""
    running = (state.attempts[n] for t in state.suspects.trials for n in t.now[0].running)
    return min(
        (a.since + TRIAL_SECONDS for a in running if a.since + TRIAL_SECONDS > state.now),
        default=float("inf"),
    )

"""The dispatcher: a pure state machine that decides what happens to every job.

`Dispatcher.handle(event, now)` takes a decoded message with its sender, a `Tick`, a `Flow` or an `Unsent`, and returns
`Effects`: records to write, changes of the public table, messages to send at once, and messages to send when the records
are on disk. It has no socket, clock, file or thread, and it opens no payload.

`HANDLERS` names the function that handles each message; the docstring of its module says how. After the handler the
dispatcher does everything that the event has made possible: it takes answers for which the disk has room now, looks at
jobs that come after ended ones, and deals free slots. `park.broker.scheduler.fairshare` says which job is next, and
`park.broker.assign` where it runs.

How a job moves: a Submit makes it waiting or queued. The service clock picks a job for each free slot. In that job
a driver whose map has ended goes first, then the next units of the deepest map. A driver that sends a Map gives its slot
back until that map has ended. When the last unit of the root map is answered, the job ends.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from park.broker import assign, invariants
from park.broker.effects import Effects, Event, Flow, Heard, Send, Tick, Unsent
from park.broker.entities.roster import Kernel
from park.broker.handlers import (
    attempt_state,
    attempts,
    backlog,
    charging,
    checkpoints,
    code_sharing,
    connections,
    controls,
    damage,
    drain,
    explain,
    fetches,
    files,
    job_lifecycle,
    late_units,
    maps,
    notify,
    recovery,
    requests,
    results,
    retention,
    startup,
    streams,
    suspects,
    time_limits,
)
from park.broker.state import State
from park.errors import Busy, ParkError, ProtocolError
from park.wait_reason import words
from park.wire import messages
from park.wire.messages import Message, Submit

#: The handler of each message that a broker takes.
HANDLERS: dict[type[Message], Callable[[State, Effects, Event, Any], None]] = {
    messages.Hello: connections.on_hello,
    messages.KernelHello: connections.on_kernel_hello,
    messages.Heartbeat: connections.on_heartbeat,
    messages.Goodbye: connections.on_goodbye,
    messages.Blob: requests.on_blob,
    messages.NeedBlob: code_sharing.on_need_blob,
    messages.Shared: code_sharing.on_shared,
    messages.Submit: requests.on_submit,
    messages.Stop: requests.on_stop,
    messages.Abort: requests.on_abort,
    messages.Close: requests.on_close,
    messages.Change: requests.on_change,
    messages.Delete: requests.on_delete,
    messages.Fetch: requests.on_fetch,
    messages.Forget: requests.on_forget,
    messages.Credits: requests.on_credits,
    messages.Grant: requests.on_grant,
    messages.Backlog: backlog.on_backlog,
    messages.Units: maps.on_units,
    messages.Map: maps.on_map,
    messages.Cancel: maps.on_cancel,
    messages.Control: controls.on_control,
    messages.Finished: results.on_finished,
    messages.Crashed: results.on_crashed,
    messages.Early: results.on_early,
    messages.HandBack: late_units.on_hand_back,
    messages.Lent: attempts.on_lent,
    messages.Publish: streams.on_publish,
    messages.Checkpoint: checkpoints.on_checkpoint,
    messages.Restore: checkpoints.on_restore,
    messages.File: files.on_file,
    messages.Files: files.on_files,
    messages.Drain: drain.on_drain,
    messages.Draining: drain.on_draining,
    messages.Serving: drain.on_serving,
}


class Dispatcher:
    """The state machine of one life of the broker. Its options are those of `State`."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.state = State(*given, **options)

    # -- events --------------------------------------------------------------------------------

    def handle(self, event: Event | Tick | Flow | Unsent, now: float) -> Effects:
        """The effects of *event* at monotonic time *now*, seconds."""
        state = self.state
        effects = state.begin(now)
        state.touched.jobs.clear()
        state.standing.shares = state.standing.forecast = None
        if isinstance(event, Tick):
            _tick(state, effects, event)
            fetches.go_on(state, effects)
        elif isinstance(event, Flow):
            connections.on_flow(state, effects, event)
        elif isinstance(event, Unsent):
            damage.on_unsent(state, effects, event)
        else:
            _receive(state, effects, event)
        if state.disk.waiting:
            _admit_waiting_answers(state, effects)
        while state.recovery.replay:
            _receive(state, effects, state.recovery.replay.popleft())
        if effects.ended:
            job_lifecycle.release_dependents(state, effects)
            drain.let_go(state, effects)
            retention.keep_ended(state, effects)
        if state.ledger.unsettled:
            charging.reweigh(state, effects)
        if state.suspects.trials:
            suspects.look_at_trials(state, effects)
        assign.deal(state, effects)
        state.job_list.flush(now, effects)
        state.ledger.flush(now, effects)
        state.roster.said_to(effects)
        return effects

    def next_deadline(self) -> float:
        """The time at which a Tick may next lead to something; infinity: not before a message comes."""
        state = self.state
        times = [
            state.roster.next_look,
            state.job_list.next_deadline(),
            state.ledger.next_deadline(),
            retention.deadline(state),
            state.notices.look_at,
        ]
        if state.stream_acks_due:
            times += state.stream_acks_due.values()
        if state.run_times:
            times.append(state.run_times.next_deadline())
        if state.recovery.orphans or state.recovery.expected:
            times.append(recovery.deadline(state))
        if state.disk.waiting:
            times.append(state.disk.look_at)
        if state.suspects.trials:
            times.append(suspects.deadline(state))
        if state.late and state.clock.awake:
            times.append(late_units.deadline(state))
        if state.superseded:
            times.append(next(iter(state.superseded.values())))
        if state.free_slots.free:
            times.append(state.stragglers.next_deadline())
        if state.clock.awake or state.free_slots.reserved:
            times.append(state.preemption.next_deadline())
        if state.deferred.delayed:
            times.append(state.now + max(0.0, state.deferred.delayed[0][0] - state.wall))
        if fetches.is_due(state):
            times.append(state.now)
        return min(times)

    def check(self, everything: bool = True) -> None:
        """Assert invariants, after each event in tests: with *everything* all, else those of the jobs that the event
        has changed.
        """
        invariants.check(self.state, everything)
        self.state.disk.check()
        if everything:
            retention.check(self.state)

    # -- the turns of the loop -----------------------------------------------------------------

    def begin_turn(self, number: int) -> None:
        """The events from now on are those of this turn of the loop."""
        retention.begin_turn(self.state, number)

    def saved(self, number: int) -> None:
        """The turns up to this one are on disk."""
        self.state.saved = number

    def committed(self, archived: list[int], deleted: list[int]) -> None:
        """The archiving of *archived*, and the deletion of *deleted*, are on disk."""
        retention.committed(self.state, archived, deleted)

    def heard(self, of: Iterable[Heard], count: int = 1) -> list[Send]:
        """Acknowledge to their kernels stream messages that are on disk."""
        return streams.heard(self.state, of, count)

    def tell_disk_space(self, left: int, where: str) -> None:
        """The disk *where* the store is has *left* free bytes for jobs, inputs and results."""
        self.state.disk.tell(left, where, self.state.wall)

    # -- retention -----------------------------------------------------------------------------

    def due(self, now: float) -> list[int]:
        """Ended jobs whose retention is over, some of them: the caller recalls them, and then calls `expire`."""
        return retention.due(self.state, now)

    def expire(self, numbers: list[int], now: float) -> Effects:
        """Delete these jobs, which `due` has named."""
        effects = self.state.begin(now)
        retention.expire(self.state, effects, numbers)
        return effects

    def recall(self, stored: dict[str, Any], submit: Submit, units: bytes, results: bytes) -> None:
        """Take an archived job back into memory, until others are recalled."""
        retention.recall(self.state, stored, submit, units, results)

    # -- mails ----------------------------------------------------------------------------------

    def forget_letters(self, numbers: list[int], now: float) -> Effects:
        """Forget letters that have left the broker."""
        effects = self.state.begin(now)
        notify.forget_letters(self.state, effects, numbers)
        return effects

    def restore_mail(self, kind: str, owner: int | bytes | str, value: dict[str, Any], now: float) -> None:
        """A record of the news of an earlier life."""
        notify.restore(self.state, kind, owner, value, now)

    # -- a new life ----------------------------------------------------------------------------

    def expect(self, incarnations: set[bytes]) -> None:
        """Expect the kernels that were connected in the broker's last life."""
        recovery.expect(self.state, incarnations)

    def restore_clock(self, clock: float, wall: float) -> None:
        """The retention clock of the last life when it was written, and the wall clock then."""
        retention.restore_clock(self.state, clock, wall)

    def restore_archived(self, stored: list[dict[str, Any]]) -> None:
        """The archived jobs of the last life."""
        retention.restore_archived(self.state, stored)

    def restore(self, stored: dict[str, Any], submit: Submit, records: startup.StoredRecords) -> None:
        """A stored job of an earlier life: see `park.broker.handlers.startup`."""
        startup.restore(self.state, stored, submit, records)

    def settle(self, now: float, wall: float) -> Effects:
        """After all `restore` calls: release the jobs that may run, as the first tick of this life."""
        state = self.state
        state.wall_offset = wall - now
        effects = state.begin(now)
        startup.settle(state, effects, wall)
        return effects

    # -- questions -----------------------------------------------------------------------------

    def explain(self, number: int) -> str:
        """One sentence: why the job waits, its share, and when to expect its next unit; or the cause of its end."""
        return words(explain.explainer(self.state)(number))

    def __repr__(self) -> str:
        return f"<Dispatcher {len(self.state.jobs)} jobs, epoch {self.state.epoch}>"


def _tick(state: State, effects: Effects, tick: Tick) -> None:
    """Everything whose time has come."""
    now = effects.now
    state.wall_offset = tick.wall - now
    effects.wall = state.wall
    while (
        state.deferred.delayed
        and state.deferred.delayed[0][0] <= tick.wall + job_lifecycle.DUE_TOLERANCE_SECONDS
    ):
        job = state.jobs.get(heapq.heappop(state.deferred.delayed)[1])
        if job is not None:  # else it was aborted, and deleted since
            job_lifecycle.release(state, effects, job)
    if state.ended.keep.age is not None and now >= state.retention_clock.write_due:
        retention.write_clock(state, effects)
    if now >= state.notices.look_at:
        notify.write_letters(state, effects)
    attempt_state.end_superseded(state, effects, [n for n, until in state.superseded.items() if until <= now])
    recovery.look_for_lost(state, effects)
    late_units.look(state, effects)
    time_limits.enforce(state, effects)
    state.roster.said_to(effects)
    effects.sends += streams.heard(state, ())
    silent, due = state.roster.look(now)
    for member in silent:
        connections.lose(state, effects, member, "its client was lost", silent=True)
    for member in due:
        effects.send(member.peer, messages.Heartbeat(state.epoch))
        if isinstance(member, Kernel):
            results.confirm(effects, member)
    assign.preempt(state, effects)


def _receive(state: State, effects: Effects, event: Event) -> None:
    """Hand the message to its handler. An error goes back to the sender."""
    message = event.message
    if not state.roster.heard(event.peer, effects.now) and not isinstance(
        message, messages.Hello | messages.KernelHello
    ):
        if not isinstance(message, messages.Goodbye):
            effects.send(event.peer, messages.Unwelcome(state.epoch))
        return
    kernel = state.roster.kernels.get(event.peer)
    if kernel is not None and effects.now >= kernel.accrued + state.roster.heartbeat:
        kernel.accrued = effects.now
        for number in kernel.running:
            charging.accrue(state, effects, state.attempts[number])
    handler = HANDLERS.get(type(message))
    try:
        if state.recovery.orphans and recovery.held_back(state, effects, event, message):
            return
        if handler is None:
            raise ProtocolError(f"a broker takes no {type(message).__name__}")
        handler(state, effects, event, message)
    except ParkError as error:
        _refuse(state, effects, event, error)


def _refuse(state: State, effects: Effects, event: Event, error: ParkError) -> None:
    """Tell the sender why its message was refused, if it waits for an answer."""
    message = event.message
    name, text = type(error).__name__, str(error)
    if reply := getattr(message, "id", 0):
        failure = messages.Failure(reply, name, text, attempt=getattr(message, "attempt", 0))
        effects.send(event.peer, failure)
    elif isinstance(message, messages.Map):
        effects.send(event.peer, messages.MapFailed(message.map, name, text, message.job, message.attempt))
    elif isinstance(message, messages.Units) and isinstance(error, Busy):
        effects.send(event.peer, messages.MapFailed(message.map, name, text, message.job))


def _admit_waiting_answers(state: State, effects: Effects) -> None:
    """Handle answers that have waited for free bytes of the disk, or ask for them again, if there are enough now."""
    kept, again = state.disk.let_in(effects.now)
    state.recovery.replay.extend(kept)
    for waited in again:
        number = waited.message.attempt  # type: ignore[attr-defined]
        held = state.attempts.get(number)
        if held is not None and held.kernel.peer == waited.peer:
            effects.send(waited.peer, messages.Again(number))

"""Units that come back from behind a late one, and late units that give their slots to earlier ones."""

from __future__ import annotations

from typing import Any

from park.broker.entities.maps import AttemptState
from park.broker.handlers.late_units import LATE_UNIT_SECONDS
from park.model import JobState
from park.wire import messages
from tests.sim.desk import Desk, finished, of
from tests.sim.functions import blob, code, units


def dealt(desk: Desk, slots: int = 2, units: int = 60, **fields: Any) -> list[messages.Run]:
    """The chunks of a job of short units on one kernel."""
    desk.dispatcher.state.estimates.learn("ann", code("square"), 1, 1e-3)
    client = desk.client()
    desk.kernel(slots=slots)
    runs = of(desk.submit(client, inputs=range(units), **fields), messages.Run)
    assert all(run.count > 3 for run in runs)
    return runs


def units_of(runs: list[messages.Run]) -> list[range]:
    return [range(run.start, run.start + run.count) for run in runs]


def test_units_that_come_back_run_before_later_ones_and_each_once() -> None:
    desk = Desk()
    first, second, *more = dealt(desk)
    assert of(desk.give(b"k1", messages.HandBack(first.attempt, 2, 1)), messages.Run) == []  # no slot is free
    # said again it changes nothing
    desk.give(b"k1", messages.HandBack(first.attempt, 2, 1))
    for run in more:
        desk.give(b"k1", *finished(run, [], ended="lost"))
    runs = of(desk.give(b"k1", *finished(second, seconds=1e-3 * second.count)), messages.Run)
    assert runs[0].start == first.start + 2
    answered = [*range(2), *units_of([second])[0]]
    runs += of(desk.give(b"k1", *finished(first, [0, 0], seconds=1.0)), messages.Run)
    for run in runs:
        answered += units_of([run])[0]
        runs += of(desk.give(b"k1", *finished(run, seconds=1e-3 * run.count)), messages.Run)
    assert sorted(answered) == list(range(60))
    assert desk.dispatcher.state.jobs[1].state is JobState.COMPLETE


def test_no_chunk_waits_at_a_kernel_whose_units_are_late() -> None:
    desk = Desk()
    first, second, *more = dealt(desk)
    assert more
    assert all(run.ahead for run in more)
    desk.give(b"k1", messages.HandBack(first.attempt, 2, 1))
    for run in more:
        assert of(desk.give(b"k1", *finished(run, [], ended="lost")), messages.Run) == []
    runs = of(desk.give(b"k1", *finished(second, seconds=1e-3 * second.count)), messages.Run)
    assert [run.ahead for run in runs] == [False, True, True]


def test_a_late_unit_gives_its_slot_to_earlier_units_that_wait() -> None:
    desk = Desk()
    first, second, *more = dealt(desk)
    for run in (first, second):
        desk.give(b"k1", messages.HandBack(run.attempt, run.start + 1, 1))
    for run in more:
        desk.give(b"k1", *finished(run, [], ended="lost"))
    out = desk.tick(LATE_UNIT_SECONDS)
    # the unit that is first in order keeps its slot
    assert of(out, messages.Aside) == [messages.Aside(second.attempt)]
    assert of(out, messages.Run)[0].start == 1
    assert desk.dispatcher.state.attempts[second.attempt].state is AttemptState.ASIDE
    assert of(desk.tick(10 * LATE_UNIT_SECONDS), messages.Aside) == []
    # it may end as any other
    desk.give(b"k1", *finished(second, [0], seconds=1.0))
    assert desk.dispatcher.state.maps[second.map].remaining == 59


def test_a_unit_that_came_back_has_not_begun_where_it_must_not_run_twice() -> None:
    desk = Desk()
    first, *_ = dealt(desk, slots=1, idempotent=False)
    out = desk.give(b"k1", messages.HandBack(first.attempt, 2, 1))
    (write,) = [w for w in out.writes if w.namespace == "attempt"]
    assert (write.key, write.value) == ((1, first.start), b"\x02")


def test_units_of_a_cancelled_map_that_come_back_run_no_more() -> None:
    desk = Desk()
    first, *more = dealt(desk, slots=1)
    desk.give(b"c1", messages.Stop(5, 1))
    for run in more:
        desk.give(b"k1", *finished(run, [], ended="stop"))
    desk.give(b"k1", messages.HandBack(first.attempt, 2, 1))
    assert of(desk.give(b"k1", *finished(first, [0, 0], ended="stop")), messages.Run) == []
    assert desk.dispatcher.state.jobs[1].ended


def dealt_to_session(desk: Desk) -> tuple[bytes, messages.Run]:
    """A kernel, and the first chunk of a session's map of eight short units there."""
    desk.dispatcher.state.estimates.learn("ann", code("square"), 1, 1e-3)
    client, peer = desk.client(), desk.kernel()
    session = desk.session(client)
    desk.give(client, messages.Blob(code("square")), blob("square"))
    out = desk.give(client, messages.Map(b"m" * 16, session, code("square"), 8), units(range(8)))
    run = of(out, messages.Run)[0]
    assert run.count > 3
    return peer, run


def test_results_before_a_late_unit_come_early_and_once() -> None:
    desk = Desk()
    peer, run = dealt_to_session(desk)
    _, results = finished(run, [0, 0])
    early = messages.Early(run.attempt, 0, 2, epoch=1)
    assert [(m.start, m.count) for m in of(desk.give(peer, early, results), messages.Results)] == [(0, 2)]
    assert of(desk.give(peer, early, results), messages.Results) == []
    # the end of the chunk brings all results, and units that come back are named by their numbers
    desk.give(peer, messages.HandBack(run.attempt, 3, 1))
    (rest,) = of(desk.give(peer, *finished(run, [0, 0, 7], seconds=1.0)), messages.Results)
    assert (rest.start, rest.count) == (2, 1)
    assert desk.dispatcher.state.maps[b"m" * 16].remaining == 5


def test_units_that_were_answered_early_do_not_run_again_when_their_kernel_is_lost() -> None:
    desk = Desk()
    peer, run = dealt_to_session(desk)
    desk.give(peer, messages.Early(run.attempt, 0, 2, epoch=1), finished(run, [0, 0])[1])
    desk.give(peer, messages.Goodbye("it was stopped"))
    other = desk.kernel("k2")
    waiting = [run for run in desk.dispatcher.state.attempts.values() if run.kernel.peer == other]
    again = [(a.span.start, a.span.stop) for a in waiting]
    assert min(again)[0] == 2

"""The dispatcher on a full disk."""

from __future__ import annotations

import pytest

from park.wire import messages
from tests.sim.desk import Desk, of
from tests.sim.functions import units


def test_new_jobs_are_refused_results_wait_and_all_is_well_when_there_is_room() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=2)
    desk.submit(client, inputs=[1, 2])
    desk.submit(client, inputs=[3])
    number = min(desk.dispatcher.state.attempts)
    attempt = desk.dispatcher.state.attempts[number]
    # when the disk is full
    desk.dispatcher.tell_disk_space(-1, "/home/park")
    (refusal,) = of(desk.submit(client), messages.Failure)
    assert (refusal.error, "/home/park" in refusal.text) == ("Refused", True)
    assert desk.session(client)
    span = attempt.span
    answer = messages.Finished(number, attempt.map.key, span.start, len(span), 0.01)
    out = desk.give(kernel, answer, units([1] * len(span)))
    # then the answer is neither stored nor acknowledged, and the job says why
    assert not out.writes
    assert not of(desk.tick(2.0), messages.Committed)
    assert desk.job(1).done == 0
    assert "kernels keep results" in desk.dispatcher.explain(1)
    # and so does another job, whose slots are taken meanwhile
    waits = "): kernels keep results, and their slots"
    assert waits in desk.dispatcher.explain(2)
    # and it is when there is room
    desk.dispatcher.tell_disk_space(1 << 30, "/home/park")
    out = desk.tick(2.0)
    assert [w.namespace for w in out.writes if w.namespace == "results"] == ["results"]
    assert desk.job(1).done == len(span)
    assert not desk.dispatcher.state.disk.waiting


def test_another_kernels_answer_does_not_take_the_place_of_one_that_waits() -> None:
    desk = Desk()
    client, kernel, other = desk.client(), desk.kernel("k1"), desk.kernel("k2")
    desk.submit(client, inputs=[1])
    ((number, attempt),) = desk.dispatcher.state.attempts.items()
    if attempt.kernel.peer != kernel:
        kernel, other = other, kernel
    desk.dispatcher.tell_disk_space(-1, "/home/park")
    answer = messages.Finished(number, attempt.map.key, 0, 1, 0.01)
    desk.give(kernel, answer, units([1]))
    desk.give(other, answer, units(["false"]))
    desk.dispatcher.tell_disk_space(1 << 30, "/home/park")
    out = desk.tick(2.0)
    assert [w.value for w in out.writes if w.namespace == "results"] == [units([1])]


def test_what_memory_has_no_room_for_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel(slots=2)
    desk.submit(client, inputs=[1, 2])
    answers = {}
    desk.dispatcher.tell_disk_space(-1, "/home/park")
    for number, attempt in list(desk.dispatcher.state.attempts.items()):
        span = attempt.span
        payload = units([1] * len(span))
        answers[number] = messages.Finished(number, attempt.map.key, span.start, len(span), 0.01), payload
        monkeypatch.setattr("park.broker.accounts.disk_space.MAX_WAITING_BYTES", len(payload))
        desk.give(kernel, *answers[number])
        desk.give(kernel, *answers[number])
    first, second = answers
    assert desk.dispatcher.state.disk.held == len(answers[first][1])
    desk.dispatcher.tell_disk_space(1 << 30, "/home/park")
    out = desk.tick(2.0)
    assert len([w for w in out.writes if w.namespace == "results"]) == 1
    assert of(out, messages.Again) == [messages.Again(second)]
    assert desk.dispatcher.state.disk.held == 0
    desk.give(kernel, *answers[second])
    assert desk.job(1).state == "complete"


def test_inputs_that_come_later_are_refused_by_their_size() -> None:
    desk = Desk()
    client = desk.client()
    desk.submit(client, inputs=[1], closed=False)
    desk.dispatcher.tell_disk_space(100, "/home/park")
    late = messages.Units(1, 1, False, job=1, id=7)
    (refusal,) = of(desk.give(client, late, units(["x" * 200])), messages.Failure)
    assert refusal.error == "Refused"
    assert of(desk.give(client, late, units([2])), messages.Done)


def test_a_kernel_that_is_lost_while_its_answer_waits_is_done_without() -> None:
    desk = Desk()
    client = desk.client()
    kernel = desk.kernel()
    desk.submit(client, inputs=[1])
    ((number, attempt),) = desk.dispatcher.state.attempts.items()
    desk.dispatcher.tell_disk_space(-1, "/home/park")
    desk.give(kernel, messages.Finished(number, attempt.map.key, 0, 1, 0.01), units([1]))
    desk.give(kernel, messages.Goodbye("it has left"))
    desk.dispatcher.tell_disk_space(1 << 30, "/home/park")
    desk.tick(2.0)
    assert desk.job(1).done == 0
    assert not desk.dispatcher.state.disk.waiting
    # its unit runs elsewhere
    desk.kernel("k2")
    assert len(desk.dispatcher.state.attempts) == 1


def test_a_result_of_an_earlier_life_that_waits_for_room_is_not_taken_for_lost() -> None:
    desk = Desk()
    client, kernel = desk.client(), desk.kernel()
    desk.submit(client, inputs=[1])
    ((number, attempt),) = desk.dispatcher.state.attempts.items()
    desk.dispatcher.state.epoch += 1  # the attempt was brought along
    desk.dispatcher.tell_disk_space(-1, "/home/park")
    desk.give(kernel, messages.Finished(number, attempt.map.key, 0, 1, 0.01), units([1]))
    # the kernel has ended it, so that it names it no more
    desk.give(kernel, messages.Heartbeat(desk.dispatcher.state.epoch, []))
    assert desk.dispatcher.state.attempts[number] is attempt
    desk.dispatcher.tell_disk_space(1 << 30, "/home/park")
    desk.tick(2.0)
    assert desk.job(1).state == "complete"

"""Maps under way as their makers see them: what is kept, what is passed on, what is said again."""

from __future__ import annotations

import random

from park.wire import messages
from park.wire.calls import MAX_ANSWERED_RANGES, Call, ClientSession, lost_sessions
from tests.sim.functions import inputs, units

KEY = b"m" * 16


def made(*packs: int, closed: bool = True) -> Call:
    """A call of so many units in each pack; the unit 7 is the input 7."""
    call = Call(messages.Map(KEY, 0, b"f", packs[0], closed and len(packs) == 1), results(0, packs[0]))
    for count in packs[1:]:
        last = closed and count is packs[-1]
        call.add(messages.Units(call.total, count, last), results(call.total, call.total + count))
    return call


def results(start: int, stop: int) -> bytes:
    return units([*range(start, stop)])


def said(call: Call, job: int = 3, epoch: int = 1) -> tuple[messages.Map, list[messages.Units], list[int]]:
    """The messages, and all units that came with them."""
    first, *more = call.again(job, epoch)
    assert isinstance(first[0], messages.Map)
    given = [unit for _, data in (first, *more) for unit in inputs(data)]
    return first[0], [m for m, _ in more if isinstance(m, messages.Units)], given


def test_what_is_not_answered_is_said_again_under_its_key() -> None:
    call = made(4, 3, 2)
    message, more, given = said(call)
    assert (message.map, message.job, message.start, message.count, message.closed) == (KEY, 3, 0, 4, False)
    assert [(m.start, m.count, m.closed) for m in more] == [(4, 3, False), (7, 2, True)]
    assert given == [*range(9)]
    assert [list(call.fresh(s, results(s, s + 2), 2)) for s in (0, 5)] == [
        [(0, 2, results(0, 2))],
        [(5, 2, results(5, 7))],
    ]
    message, more, given = said(call, job=8, epoch=2)
    assert (message.job, message.start, message.answered, message.epoch) == (8, 0, [0, 2, 5, 7], 1)
    assert given == [*range(9)]
    call.news(2, 4)
    message, more, given = said(call)
    assert (message.start, message.answered, given) == (4, [5, 7], [4, 5, 6, 7, 8])


def test_a_refusal_of_an_earlier_session_is_late() -> None:
    session = ClientSession(messages.Submit(id=1, key=b"", session=True), number=3)
    three, any_one = messages.MapFailed(KEY, "JobAborted", "", 3), messages.MapFailed(KEY, "Busy", "")
    assert session.concerns(three)
    lost_sessions([session])
    assert not session.concerns(three)
    session.number = 5
    assert not session.concerns(three)
    assert session.concerns(any_one)


def test_each_answer_is_passed_on_once() -> None:
    call = made(6)
    assert list(call.fresh(2, results(2, 4), 2)) == [(2, 2, results(2, 4))]
    assert list(call.fresh(2, results(2, 4), 2)) == []
    assert list(call.fresh(0, results(0, 6), 6)) == [(0, 2, results(0, 2)), (4, 2, results(4, 6))]
    assert call.complete
    assert call.news(0, 100) == []


def test_a_map_that_is_complete_is_said_as_such() -> None:
    call = made(2)
    call.news(0, 2)
    message, more, given = said(call)
    assert (message.start, message.count, message.closed, more, given) == (2, 0, True, [], [])
    open_ = made(2, closed=False)
    open_.news(0, 2)
    message, more, _ = said(open_)
    assert (message.start, message.count, message.closed) == (2, 0, False)
    assert not open_.complete
    open_.add(messages.Units(2, 0, True), b"")
    assert open_.complete


def test_an_endless_map_keeps_what_is_under_way() -> None:
    call = made(100, closed=False)
    for start in range(0, 100_000, 100):
        call.add(messages.Units(start + 100, 100, False), results(start + 100, start + 200))
        call.news(start, start + 100)
    message, _, given = said(call)
    assert (message.start, len(given)) == (100_000, 100)


def test_any_order_of_answers_is_told_right() -> None:
    rng = random.Random(3)
    call = made(50, 70, 1, 400)
    seen: set[int] = set()
    while not call.complete:
        start = rng.randrange(521)
        stop = start + rng.randint(1, 40)
        new = [u for lo, hi in call.news(start, stop) for u in range(lo, hi)]
        assert new == [u for u in range(start, min(stop, 521)) if u not in seen]
        seen |= set(new)
        message, _, given = said(call)
        ranges = zip(message.answered[::2], message.answered[1::2], strict=True)
        told = {u for lo, hi in ranges for u in range(lo, hi)} | set(range(message.start))
        assert told == seen
        assert set(given) | told == set(range(521))


def test_the_ranges_fit_in_a_message() -> None:
    call = made(4 * MAX_ANSWERED_RANGES)
    for unit in range(0, 4 * MAX_ANSWERED_RANGES, 2):
        call.news(unit, unit + 1)
    assert call.answered() == [u for n in range(0, MAX_ANSWERED_RANGES, 2) for u in (n, n + 1)]


def test_lost_sessions_are_opened_anew_and_then_say_their_maps() -> None:
    first, second = (ClientSession(messages.Submit(0, b"", session=True), number) for number in (4, 0))
    first.calls[KEY] = made(2)
    assert lost_sessions([first, second]) == [first]  # the other one is being opened
    assert (first.number, lost_sessions([first])) == (0, [])
    first.number = 9
    assert [m.job for _, m, _ in first.again(2) if isinstance(m, messages.Map)] == [9]

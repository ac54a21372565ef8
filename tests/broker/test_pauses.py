"""Kernels that pause for others or for all, and kernels that were away for long: what the broker deals, and says."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from park.broker.entities import roster
from park.model import JobState
from park.wire import codec, messages
from tests.sim.desk import Desk, finished, of
from tests.sim.functions import blob, code, units
from tests.sim.wire import PYTHON

KEYBOARD = "its user is at the keyboard"


def run_of(out: Any) -> messages.Run:
    (run,) = of(out, messages.Run)
    return run  # type: ignore[no-any-return]


def desktop(desk: Desk, name: str = "k1", owner: str = "ann", **fields: Any) -> bytes:
    hello = messages.KernelHello((name.encode() * 16)[:16], "kay", "node", 1, 1, PYTHON, owner=owner)
    desk.give(name.encode(), replace(hello, **fields))
    return name.encode()


def serving(desk: Desk, kernel: bytes, serves: str, why: str = KEYBOARD) -> Any:
    return desk.give(kernel, messages.Serving(serves, why if serves != "all" else "", 1))


def test_a_paused_kernel_gets_nothing_new_and_serves_again() -> None:
    desk = Desk()
    client, kernel = desk.client(), desktop(desk)
    out = serving(desk, kernel, "none")
    assert [d.change for d in out.deltas if d.table == "kernel"] == [{"serves": "none", "pause": KEYBOARD}]
    assert of(desk.submit(client, inputs=[5]), messages.Run) == []
    assert desk.dispatcher.explain(1) == f"the kernel that could run it pauses, on node: {KEYBOARD}"
    assert run_of(serving(desk, kernel, "all")).job == 1
    # units that run there go on through the next pause
    assert serving(desk, kernel, "none").sends == []
    assert desk.job(1).running == 1


def test_others_wait_for_a_kernel_that_serves_its_own() -> None:
    desk = Desk()
    ann, bob, kernel = desk.client("c1", "ann"), desk.client("c2", "bob"), desktop(desk)
    serving(desk, kernel, "own")
    assert of(desk.submit(bob, inputs=[5]), messages.Run) == []
    assert KEYBOARD in desk.dispatcher.explain(1)
    run = run_of(desk.submit(ann, inputs=[6]))
    assert run.owner == "ann"
    assert of(desk.give(kernel, *finished(run)), messages.Run) == []
    assert run_of(serving(desk, kernel, "all")).owner == "bob"


def test_a_driver_of_others_goes_on_where_it_waits_also_through_a_pause() -> None:
    for serves in ("none", "own"):
        desk = Desk()
        client, kernel = desk.client("c1", "bob"), desktop(desk)
        driver = run_of(desk.submit(client, name="driver"))
        desk.give(kernel, messages.Blob(code("square")), blob("square"))
        call = messages.Map(b"m" * 16, driver.job, code("square"), 1, attempt=driver.attempt)
        run = run_of(desk.give(kernel, call, units([0])))
        serving(desk, kernel, serves)
        other = desktop(desk, "k2", "")
        desk.give(kernel, *finished(run, [], ended="lost"))
        (again,) = [a for a in desk.dispatcher.state.attempts.values() if a.map.key == b"m" * 16]
        assert again.kernel.peer == other
        out = desk.give(other, messages.Finished(again.number, b"m" * 16, 0, 1, 0.0, epoch=1), units([0]))
        assert any(m.resume for m in of(out, messages.Results)) or of(out, messages.Resume)


def test_units_of_others_do_not_begin_inside_their_drivers_in_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        roster, "DRIVERS_PER_SLOT", 1
    )  # units run inside the one driver that the kernel may hold
    desk = Desk()
    client, kernel = desk.client("c1", "bob"), desktop(desk)
    driver = run_of(desk.submit(client, "driver", None))
    desk.give(kernel, messages.Blob(code("square")), blob("square"))
    call = messages.Map(b"m" * 16, driver.job, code("square"), 3, attempt=driver.attempt)
    run = run_of(desk.give(kernel, call, units([1, 2, 3])))
    serving(desk, kernel, "own")
    assert of(desk.give(kernel, *finished(run)), messages.Run) == []
    assert run_of(serving(desk, kernel, "all")).map == run.map


def test_a_pause_outlives_the_connection_and_the_broker() -> None:
    desk = Desk()
    client = desk.client()
    kernel = desktop(desk, serves="own", pause=KEYBOARD, owner="bob")
    assert of(desk.submit(client, inputs=[5]), messages.Run) == []
    hello = messages.KernelHello(b"k1" * 8, "kay", "node", 1, 1, PYTHON, owner="bob")
    assert run_of(desk.give(b"k7", hello)).job == 1
    assert kernel not in desk.dispatcher.state.roster.kernels


def test_a_kernel_without_an_owner_has_nothing_of_its_own() -> None:
    desk = Desk()
    kernel = desktop(desk, owner="")
    (member,) = desk.dispatcher.state.roster.kernels.values()
    serving(desk, kernel, "some")  # there is no such word
    assert (member.serves, member.pause) == ("all", "")
    serving(desk, kernel, "own")
    assert (member.serves, member.pause) == ("none", KEYBOARD)


def test_a_laptop_that_slept_goes_on_with_its_unit_and_nothing_counts_as_a_death() -> None:
    desk = Desk(heartbeat=0.5, lease=2.0)
    client, kernel = desk.client(), desktop(desk)
    run = run_of(desk.submit(client, inputs=[5]))
    # the laptop is suspended for three hours: its lease ends, and no other kernel is there
    for seconds in (5.0, 10800.0):
        desk.tick(seconds)
    assert desk.dispatcher.state.roster.kernels == {}
    assert desk.dispatcher.state.maps[run.map].losses == {0: 1}
    # it wakes up, and says what it holds
    held = codec.pack([[run.map, run.start, run.count, 1, 0, "runs", 1.0, 0]])
    hello = messages.KernelHello(b"k1" * 8, "kay", "node", 1, 1, PYTHON, [run.attempt], 1, owner="ann")
    out = desk.give(b"k2", hello, held)
    assert of(out, messages.Abort) == of(out, messages.Run) == []
    assert desk.dispatcher.state.maps[run.map].losses == {0: 0}
    desk.give(b"k2", *finished(run, [25]))
    assert desk.job(1).state is JobState.COMPLETE
    assert kernel != b"k2"

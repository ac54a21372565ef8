"""GPUs at the broker: never more than a whole one is dealt, units without GPUs go past, and the price."""

from __future__ import annotations

import random
from typing import Any

import pytest

from park.broker.entities.devices import Devices
from park.broker.entities.requirements import KernelProfile, Needs, unmet
from park.errors import InvalidRequest
from park.model import JobState, Request
from park.wire import codec, messages
from tests.sim.desk import Desk, finished, of
from tests.sim.functions import blob, code, units
from tests.sim.wire import PYTHON


def gpu_kernel(desk: Desk, name: str = "k1", slots: int = 4, gpus: int = 2, **fields: Any) -> bytes:
    incarnation = (name.encode() * 16)[:16]
    hello = messages.KernelHello(incarnation, "kay", "node", 1, slots, PYTHON, gpus=gpus, **fields)
    desk.give(name.encode(), hello)
    return name.encode()


def runs(out: Any) -> list[messages.Run]:
    return of(out, messages.Run)


# -- the request and the kernel ------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1.5, -1, 65, float("nan"), float("inf"), True, "1", 1e-9])
def test_what_is_no_number_of_gpus_is_refused(gpus: Any) -> None:
    with pytest.raises(InvalidRequest, match="is neither a part of a GPU"):
        Request(abs, [1], gpus=gpus)


def test_a_request_that_another_client_made_wrong_is_refused_too() -> None:
    desk = Desk()
    client = desk.client()
    desk.give(client, messages.Blob(code("square")), blob("square"))
    submit = messages.Submit(1, b"k" * 16, code("square"), python=PYTHON, count=1, gpus=1.5)
    (failure,) = of(desk.give(client, submit, units([1])), messages.Failure)
    assert "gpus=1.5" in failure.text


def test_a_job_says_which_gpus_no_kernel_has() -> None:
    desk = Desk()
    client = desk.client()
    gpu_kernel(desk, gpus=0)
    desk.submit(client, gpus=0.5)
    desk.submit(client, gpus=2.0)
    assert desk.dispatcher.explain(1) == "no kernel has a GPU"
    assert desk.dispatcher.explain(2) == "no kernel has 2 GPUs"
    assert unmet(Needs(gpus=0.5), KernelProfile(gpus=1)) == ""


# -- the devices ---------------------------------------------------------------------------------------


def test_parts_share_a_device_and_whole_ones_are_kept_apart() -> None:
    desk = Desk()
    client = desk.client()
    gpu_kernel(desk)
    shared = [run.devices for n in range(4) for run in runs(desk.submit(client, gpus=0.5))]
    assert shared == [[0], [0], [1], [1]]
    assert runs(desk.submit(client, gpus=0.001)) == []
    assert desk.dispatcher.state.roster.kernels[b"k1"].record().gpus_busy == 2.0


def test_the_fullest_device_with_room_is_filled_first() -> None:
    devices = Devices(3)
    devices.take((1,), 0.3)
    assert devices.choose(0.7) == (1,)
    assert devices.choose(0.8) == (0,)
    assert devices.choose(2) == (0, 2)
    assert devices.choose(3) is None


def test_a_unit_without_gpus_goes_past_one_that_waits_for_a_gpu() -> None:
    desk = Desk()
    client, kernel = desk.client(), gpu_kernel(desk, gpus=1)
    (holds,) = runs(desk.submit(client, gpus=1.0))
    assert runs(desk.submit(client, gpus=1.0)) == []
    assert desk.dispatcher.explain(2).startswith("all GPUs are busy")
    (past,) = runs(desk.submit(client))
    assert past.devices == []
    # a smaller one does not go past it for ever: it gets the GPU first
    assert runs(desk.submit(client, gpus=0.5)) == []
    (freed,) = runs(desk.give(kernel, *finished(holds)))
    assert (freed.job, freed.devices) == (2, [0])


def test_the_gpu_of_a_process_that_died_is_free_again() -> None:
    desk = Desk()
    client, kernel = desk.client(), gpu_kernel(desk, slots=2, gpus=1)
    (run,) = runs(desk.submit(client, gpus=1.0))
    (again,) = runs(desk.give(kernel, messages.Crashed([run.attempt], "signal 9", epoch=1)))
    assert again.devices == [0]
    desk.give(kernel, messages.Goodbye())
    assert runs(desk.give(kernel, *finished(again))) == []
    gpu_kernel(desk, "k2", gpus=1)
    assert desk.dispatcher.state.roster.kernels[b"k2"].devices.given == [1000]


def test_a_driver_gives_its_gpu_to_its_units_and_goes_on_with_the_same_one() -> None:
    desk = Desk()
    client, kernel = desk.client(), gpu_kernel(desk, gpus=1)
    (driver,) = runs(desk.submit(client, name="driver", gpus=1.0))
    desk.give(kernel, messages.Blob(code("square")), blob("square"))
    call = messages.Map(b"m" * 16, driver.job, code("square"), 1, attempt=driver.attempt)
    (unit,) = runs(desk.give(kernel, call, units([0])))
    assert unit.devices == driver.devices == [0]
    desk.submit(client, gpus=1.0)
    out = desk.give(kernel, *finished(unit))
    resumed = any(m.resume for m in of(out, messages.Results)) or of(out, messages.Resume)
    assert resumed or [run.job for run in runs(out)] == [2]  # either may be due; never both
    assert desk.dispatcher.state.roster.kernels[kernel].devices.given == [1000]


def test_a_gpu_stays_given_out_through_a_restart_of_the_broker() -> None:
    desk = Desk()
    client, kernel = desk.client(), gpu_kernel(desk)
    desk.submit(client, gpus=1.0)
    (run,) = runs(desk.submit(client, gpus=1.0))
    assert run.devices == [1]
    desk.give(kernel, messages.Goodbye())
    # the kernel says that it holds the unit of the second job still
    held = codec.pack([[run.map, run.start, run.count, 1, 0, "runs", 1.0, 0, run.gpus, run.devices]])
    out = desk.give(
        b"k2",
        messages.KernelHello(b"k1" * 8, "kay", "node", 1, 1, PYTHON, [run.attempt], 1, gpus=2),
        held,
    )
    assert runs(out) == []  # its one slot is busy
    assert desk.dispatcher.state.roster.kernels[b"k2"].devices.given == [0, 1000]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_ends_in_whatever_order_no_device_is_given_out_twice(seed: int) -> None:
    """`Desk` checks all invariants after each event; the sums of the runs are counted here once more."""
    chance, desk = random.Random(seed), Desk()
    client, kernel = desk.client(), gpu_kernel(desk, slots=6, gpus=3)
    held: dict[int, messages.Run] = {}
    for step in range(150):
        if len(held) < 2 or chance.random() < 0.4:
            gpus = chance.choice([0.0, 0.25, 0.5, 0.7, 1.0, 2.0])
            out = desk.submit(client, inputs=[1] * chance.randint(1, 3), gpus=gpus)
        else:
            run = held.pop(chance.choice(list(held)))
            crash = messages.Crashed([run.attempt], "signal 9", epoch=1), b""
            out = desk.give(kernel, *(crash if chance.random() < 0.2 else finished(run)))
        held |= {run.attempt: run for run in runs(out)}
        parts = [sum(min(r.gpus, 1.0) for r in held.values() if n in r.devices) for n in range(3)]
        assert max(parts) <= 1.0 + 1e-9, step
        assert all(len(r.devices) == (max(1, int(r.gpus)) if r.gpus else 0) for r in held.values())
    for _ in range(2000):
        if not held:
            break
        run = held.pop(next(iter(held)))
        held |= {run.attempt: run for run in runs(desk.give(kernel, *finished(run)))}
    states = {job.state for job in desk.dispatcher.state.jobs.values()}
    assert states <= {JobState.COMPLETE, JobState.FAILED}  # failed: killed its process three times
    assert desk.dispatcher.state.roster.kernels[kernel].devices.given == [0, 0, 0]


# -- the price -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "cost"),
    [({"gpus": 1.0}, 4.0), ({"gpus": 0.5}, 2.0), ({"gpus": 0.1, "cpus": 3}, 3.0), ({"cpus": 2}, 2.0)],
)
def test_a_unit_costs_the_larger_of_its_parts_of_slots_and_gpus(fields: dict[str, Any], cost: float) -> None:
    desk = Desk()
    client, kernel = desk.client(), gpu_kernel(desk, slots=8, gpus=2)
    (run,) = runs(desk.submit(client, **fields))
    desk.now += 10.0
    desk.give(kernel, *finished(run, seconds=10.0))
    assert desk.job(1).seconds == pytest.approx(10.0 * cost)

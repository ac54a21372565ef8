"""Faults of the broker itself: the turn is undone, a new life begins, the sender is shut out, and nothing is lost."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import park
from park.broker import faults
from park.broker.faults import Faults
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

PLANTED = ("tests.support.faulty_broker",)


def test_a_sender_is_shut_out_from_its_second_fault_on_for_longer_each_time() -> None:
    found, now = Faults(), 100.0
    assert found.blame("eve", now) == 0.0
    assert not found.shut_out_for("eve", now)
    times = []
    for _ in range(9):
        times.append(found.blame("eve", now))
        assert found.shut_out_for("eve", now) == times[-1]
        assert not found.shut_out_for("ada", now)
        now += times[-1]
        assert not found.shut_out_for("eve", now)
    assert times[:4] == [60.0, 120.0, 240.0, 480.0]
    assert times[-1] == faults.MAX_SHUT_OUT_SECONDS
    assert found.blame("eve", now + faults.FORGET_SECONDS + 1) == 0.0
    assert found.count == 11


@given(st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 100)), max_size=3000))
def test_the_memory_of_senders_is_bounded(blamed: list[tuple[int, float]]) -> None:
    found, now = Faults(), 0.0
    for sender, seconds in blamed:
        now += seconds
        found.blame(sender, now)
    assert len(found._senders) <= faults.MAX_SENDERS


def test_faults_at_ticks_end_the_broker_only_where_they_are_many_at_once() -> None:
    found = Faults()
    assert [found.at_tick(at) for at in (0.0, 100.0, 200.0, 210.0, 220.0)] == [
        False,
        False,
        False,
        False,
        True,
    ]


def slow(x: float) -> float:
    time.sleep(0.2)
    return x * x


def test_a_broker_that_fails_at_a_message_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    with Fabric(tmp_path, command=PLANTED, keys=True) as fabric:
        fabric.start_kernel(slots=2)
        with fabric.connect() as service, park.connect(str(fabric.connection), "admin") as admin:
            job = service.start(slow, range(30))
            early = service.start(abs, [-1])
            assert service.wait(early, 60) == [1]
            results = service.map(slow, range(30))
            until(lambda: service.status(job).done > 3)
            with pytest.raises(park.ParkError, match="the broker failed at this Change"):
                admin.set(job, tags=["planted"])
            assert service.wait(job, 60) == [x * x for x in range(30)]
            assert list(results) == [x * x for x in range(30)], "an open map begins again where it was"
            assert service.wait(early, 60) == [1]
            assert "planted" not in service.status(job).tags, "the turn that failed was undone"
            assert fabric.broker.running
            assert admin.status(job).state.ended, "its sender goes on too"
            assert not service.table.stale  # the count comes with the table
            until(lambda: service.about().faults == 1)
            doctor = fabric.park("doctor")
            assert doctor.wait() == 1
            assert "the broker has failed at 1 message since it was started" in doctor.text
        assert "a new life begins from the store" in fabric.broker.text
        assert "ZeroDivisionError: planted" in fabric.broker.text

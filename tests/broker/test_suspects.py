"""Units that take their kernels along fail alone, after three; those beside them, and kernels that come back, count not."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import park
from park.broker.entities.maps import MAX_KILLS
from park.broker.handlers.suspects import INNOCENT_SECONDS, TRIAL_SECONDS
from park.model import JobState
from park.wire import messages
from tests.sim.desk import Desk, finished
from tests.sim.functions import blob, code, units
from tests.support.fabric import Fabric, until

LEASE = 2.0


class Fleet(Desk):
    """A desk with kernels of which some vanish."""

    def __init__(self) -> None:
        super().__init__(heartbeat=0.5, lease=LEASE)
        self.names = itertools.count(1)
        self.living: dict[bytes, int] = {}
        self.lost = 0
        self.mine = self.client()

    def join(self, slots: int) -> bytes:
        name = self.kernel(f"k{next(self.names)}", slots)
        self.living[name] = slots
        return name

    def runs(self) -> list[Any]:
        """The attempts that run."""
        return [
            a for a in self.dispatcher.state.attempts.values() if not a.parked and not a.ahead and not a.void
        ]

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            step = min(0.4, seconds)
            seconds -= step
            self.now += step
            for name in self.living:
                self.give(
                    name, messages.Heartbeat(1, sorted(self.dispatcher.state.roster.kernels[name].holds))
                )
            self.give(self.mine, messages.Heartbeat(1))
            self.tick()

    def vanish(self, name: bytes) -> None:
        """The kernel is lost for good."""
        slots = self.living.pop(name)
        self.lost += 1
        self.pass_time(LEASE + 0.1)
        assert name not in self.dispatcher.state.roster.kernels
        self.join(slots)

    def answer(self, attempt: Any) -> None:
        run = messages.Run(
            attempt.number,
            attempt.map.job,
            "ann",
            attempt.map.key,
            attempt.map.function,
            attempt.span.start,
            len(attempt.span),
            0,
            1,
            LEASE,
        )
        self.now += 0.01
        self.give(attempt.kernel.peer, *finished(run, [0] * len(attempt.span), seconds=0.01))


def cause(desk: Desk) -> str:
    return desk.job(1).reason


def test_a_unit_that_takes_three_kernels_along_fails() -> None:
    desk = Fleet()
    desk.join(1)
    desk.submit(desk.mine, inputs=[1])
    while desk.job(1).state is not JobState.FAILED:
        (attempt,) = desk.runs()
        desk.vanish(attempt.kernel.peer)
    assert desk.lost == MAX_KILLS == 3
    assert "3 kernels were lost without a word while it ran" in cause(desk)


def test_so_does_a_driver_whose_map_does_it() -> None:
    desk = Fleet()
    desk.join(1)
    desk.submit(desk.mine, inputs=None)
    while desk.job(1).state is not JobState.FAILED:
        (driver,) = desk.runs()
        peer = driver.kernel.peer
        desk.give(peer, messages.Blob(code("kills")), blob("kills"))
        key = desk.lost.to_bytes(16, "big")
        desk.give(peer, messages.Map(key, 1, code("kills"), 1, attempt=driver.number), units([0]))
        assert any(a.map.key == key for a in desk.runs())
        desk.vanish(peer)
    assert desk.lost == 3


def test_what_runs_for_long_may_lose_more_kernels() -> None:
    desk = Fleet()
    desk.join(1)
    desk.submit(desk.mine, inputs=None)
    for _ in range(5):
        desk.now += INNOCENT_SECONDS
        for name in desk.living:
            desk.dispatcher.state.roster.kernels[name].last_heard = desk.now
        desk.dispatcher.state.roster.clients[desk.mine].last_heard = desk.now
        (attempt,) = desk.runs()
        desk.vanish(attempt.kernel.peer)
    assert desk.job(1).state is JobState.RUNNING


@pytest.mark.parametrize("how", ["comes back", "says goodbye", "drains"])
def test_who_leaves_in_good_order_or_was_only_cut_off_does_not_count(how: str) -> None:
    desk = Fleet()
    desk.join(1)
    desk.submit(desk.mine, inputs=[1])
    for _ in range(10):
        (attempt,) = desk.runs()
        peer = attempt.kernel.peer
        if how == "comes back":
            desk.vanish(peer)
            (again,) = desk.runs()
            desk.give(again.kernel.peer, messages.Goodbye())
            del desk.living[again.kernel.peer]
            desk.living[peer] = 1
            desk.kernel(peer.decode(), 1)
        elif how == "says goodbye":
            del desk.living[peer]
            desk.join(1)
            desk.give(peer, messages.Goodbye("the kernel was stopped"))
        else:
            desk.give(peer, messages.Draining(1))
            desk.vanish(peer)
    assert desk.job(1).state is JobState.RUNNING


@pytest.mark.parametrize("seed", range(12))
def test_a_killer_among_others_fails_alone(seed: int) -> None:
    chance = random.Random(seed)
    desk = Fleet()
    for _ in range(chance.randint(1, 3)):
        desk.join(chance.randint(1, 6))
    count = chance.randint(1, 12)
    killer = chance.randrange(count)
    desk.submit(desk.mine, inputs=list(range(count)))
    for _ in range(500):
        if desk.job(1).state.ended:
            break
        running = desk.runs()
        killing = [a for a in running if killer in range(a.span.start, a.span.stop)]
        if killing:
            desk.vanish(killing[0].kernel.peer)
        elif running and chance.random() < 0.7:
            desk.answer(chance.choice(running))
        else:
            desk.pass_time(TRIAL_SECONDS / 4)
    assert (desk.job(1).state, desk.job(1).failed, desk.job(1).done) == (JobState.FAILED, 1, count)
    # one more where others have run as long, and beside it again
    assert desk.lost in (3, 4)
    assert f"unit {killer}: {desk.lost} kernels were lost" in cause(desk)


def test_a_unit_that_kills_its_kernel_leaves_the_others_alive(tmp_path: Path) -> None:
    def unit(x: int) -> int:
        if x == 2:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(5)
        return x

    with Fabric(tmp_path, lease=0.6, heartbeat=0.1) as fabric:
        kernels = fabric.start_kernels(4)
        service = fabric.connect()
        with pytest.raises(park.JobFailed, match="unit 2: 3 kernels were lost") as failed:
            service.wait(service.start(unit, range(5)), timeout=60)
        assert failed.value.results is not None
        assert [x for x in failed.value.results if isinstance(x, int)] == [0, 1, 3, 4]
        until(lambda: sum(kernel.running for kernel in kernels) == 1)

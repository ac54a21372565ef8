"""A desktop that serves while its user does not need it: the decision, the readings, the pauses, and sleep."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.kernel.loop import KernelLoop
from park.kernel.machine.actions import Withdraw
from park.kernel.node.desktop import Donation, Readings, Verdict
from park.kernel.node.read_desktop import DesktopReader
from park.kernel.node.this_node import Node
from park.model import Serves
from park.net.reactor import Reactor
from park.wire import codec, messages
from tests.support.bench import Bench, told
from tests.support.fabric import Fabric, Process, slots_of, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

AWAY = Readings(at_keyboard=False, on_battery=False, others=0.1)
HERE = Readings(at_keyboard=True, on_battery=False, others=0.1)
BATTERY = Readings(at_keyboard=False, on_battery=True, others=0.1)
BUSY = Readings(at_keyboard=False, on_battery=False, others=2.5)
KEYBOARD = "its user is at the keyboard"


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# -- the decision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readings", "only_idle", "verdict"),
    [
        (AWAY, False, Verdict(Serves.ALL)),
        (HERE, False, Verdict(Serves.OWN, KEYBOARD)),
        (HERE, True, Verdict(Serves.NONE, KEYBOARD)),
        (BATTERY, False, Verdict(Serves.NONE, "it runs on battery")),
        (BUSY, False, Verdict(Serves.NONE, "other programs need its processors")),
        (Readings(), True, Verdict(Serves.ALL)),
    ],
)
def test_each_reason_has_its_verdict(readings: Readings, only_idle: bool, verdict: Verdict) -> None:
    assert Donation(only_idle, 2.0, 60.0).decide(readings, 0.0) == verdict


def test_a_pause_begins_at_once_and_ends_after_a_quiet_time() -> None:
    donation = Donation(False, 2.0, 60.0)
    seen = [
        donation.decide(readings, now).serves
        for readings, now in [(AWAY, 0.0), (HERE, 5.0), (BATTERY, 10.0), (HERE, 20.0), (HERE, 79.0)]
    ]
    assert seen == [Serves.ALL, Serves.OWN, Serves.NONE, Serves.NONE, Serves.NONE]
    assert donation.decide(HERE, 80.0) == Verdict(Serves.OWN, KEYBOARD)
    # the quiet time begins again with each touch of a key
    assert [donation.decide(r, t).serves for r, t in [(AWAY, 90.0), (HERE, 100.0), (AWAY, 110.0)]] == [
        Serves.OWN
    ] * 3
    assert donation.decide(AWAY, 169.0).serves is Serves.OWN
    assert donation.decide(AWAY, 170.0).serves is Serves.ALL


@given(st.lists(st.tuples(st.sampled_from([AWAY, HERE, BATTERY, BUSY]), st.floats(0.1, 100.0))))
def test_nothing_is_served_against_a_reading(steps: list[tuple[Readings, float]]) -> None:
    donation, now = Donation(False, 2.0, 60.0), 0.0
    for readings, seconds in steps:
        now += seconds
        verdict = donation.decide(readings, now)
        allowed = Donation(False, 2.0, 60.0).decide(readings, now).serves
        order = [Serves.NONE, Serves.OWN, Serves.ALL]
        assert order.index(verdict.serves) <= order.index(allowed)
        assert bool(verdict.why) == (verdict.serves is not Serves.ALL)


# -- the readings ------------------------------------------------------------------------------------


def test_the_load_of_the_process_itself_and_of_its_children_is_not_others() -> None:
    reader = DesktopReader()
    whole, own = reader._cpu_times()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "sum(range(10**7))"], os.environ)
    os.waitpid(pid, 0)
    until(lambda: reader._cpu_times()[1] - own > 0.05)
    assert reader._cpu_times()[0] - whole > 0.05
    until(lambda: reader.read().others is not None)
    assert (reader.read().others or 0.0) >= 0.0
    assert reader.source


# -- the pauses of a kernel ----------------------------------------------------------------------------


def test_what_has_not_begun_goes_back_and_what_runs_ends_with_its_unit() -> None:
    bench = Bench(1)
    bench.run(1, count=5)
    bench.run(2, ahead=True)
    actions = bench.machine.serve(Serves.NONE, KEYBOARD, "", now=10.0)
    assert told(actions, messages.Serving) == [messages.Serving("none", KEYBOARD, 1)]
    assert [(m.attempt, m.count, m.ended) for m in told(actions, messages.Finished)] == [(2, 0, "lost")]
    assert Withdraw(1, 1) in actions
    # chunks that were on their way meanwhile go back too
    assert [m.ended for m in told(bench.run(3), messages.Finished)] == ["lost"]
    # and the process stays for the time after the pause
    bench.done(1, 1)
    assert told(bench.machine.serve(Serves.ALL, "", "", now=20.0), messages.Serving) == [
        messages.Serving("all", "", 1)
    ]
    assert told(bench.run(4), messages.Run)[0].attempt == 4
    assert bench.machine.serve(Serves.ALL, "", "", now=30.0) == []


def test_own_work_goes_on_beside_a_pause_for_others() -> None:
    bench = Bench(2)
    bench.run(1, owner="ann", count=3)
    bench.run(2, owner="bob", count=3)
    actions = bench.machine.serve(Serves.OWN, KEYBOARD, "ann", now=10.0)
    assert [a for a in actions if isinstance(a, Withdraw)] == [Withdraw(2, 2)]
    assert [m.ended for m in told(bench.run(3, owner="bob"), messages.Finished)] == ["lost"]
    assert told(bench.run(4, owner="ann"), messages.Finished) == []


# -- sleep -------------------------------------------------------------------------------------------


class Line:
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        self.said: list[messages.Message] = []
        self.coming: list[list[Any]] = []

    def send(self, frames: list[Any], said: messages.Message | None = None) -> None:
        self.said.append(codec.decode(frames)[0])

    def clear(self) -> None:
        self.said.clear()

    def lively(self) -> bool:
        return False

    def waiting(self) -> bool:
        return bool(self.coming)

    def receive(self) -> list[Any] | None:
        return self.coming.pop(0) if self.coming else None

    def close(self) -> None:
        pass


def test_a_kernel_says_hello_again_when_its_machine_wakes_up(capfd: pytest.CaptureFixture[str]) -> None:
    line, sleep, reactor = Line(), [0.0], Reactor()
    kernel = KernelLoop(reactor, line, 1, "ann", Node(), clock_with_sleep=lambda: time.monotonic() + sleep[0])
    reactor.add(kernel)
    reactor.start("kernel")
    try:
        until(lambda: [type(m) for m in line.said] == [messages.KernelHello])
        line.coming.append(codec.encode(messages.Welcome("store", 1, 0.01, 20.0)))
        until(lambda: messages.Heartbeat(1) in line.said)
        line.said.clear()
        sleep[0] = 3600.0
        until(lambda: hellos(line))
        assert "was suspended for 3600 s" in capfd.readouterr().err
    finally:
        reactor.stop()


def hellos(line: Line) -> list[messages.Message]:
    return [message for message in list(line.said) if isinstance(message, messages.KernelHello)]


def wait_for(folder: str) -> int:
    with Path(folder, "begun").open("a") as file:
        file.write("x")
    until(Path(folder, "go").exists)
    return Path(folder, "begun").stat().st_size


@pytest.mark.heavy
def test_a_unit_goes_on_where_its_machine_slept_longer_than_a_lease(tmp_path: Path) -> None:
    with Fabric(tmp_path, lease=0.5, heartbeat=0.1) as fabric:
        kernel, service = fabric.start_kernel(), fabric.connect()
        job = service.start(wait_for, [str(tmp_path)])
        until((tmp_path / "begun").exists)
        asleep = [kernel.pid, *slots_of(kernel.pid)]
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: not service.kernels())
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        until(service.kernels)
        (tmp_path / "go").touch()
        assert service.wait(job, 20) == [1]


# -- a real one ----------------------------------------------------------------------------------------

LOGIND = """#!/bin/sh
echo IdleHint=$(cat {file})
"""


class Desktop:
    """A real donation on a machine whose systemd-logind is a script."""

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self.fabric = fabric
        self._idle = folder / "idle"
        self._bin = folder / "bin"
        self._bin.mkdir()
        script = self._bin / "loginctl"
        script.write_text(LOGIND.format(file=self._idle))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.user_is_away(True)

    def user_is_away(self, away: bool) -> None:
        part = self._idle.with_suffix(".part")
        part.write_text("yes" if away else "no")
        part.replace(self._idle)

    def donate(self, *options: str) -> Process:
        return self.fabric.start(
            *("-m", "park.cli.park", "donate", "--broker", self.fabric.address, "--slots", "1"),
            *("--max-load", "1000", "--settle", "0", "--every", "0.05", *options),
            env={"PATH": f"{self._bin}:{os.environ['PATH']}"},
        )


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    with Fabric(tmp_path) as fabric:
        yield Desktop(fabric, tmp_path)


def test_others_wait_while_the_user_is_at_the_keyboard_and_own_jobs_run(desktop: Desktop) -> None:
    process = desktop.donate("--nice")
    own, other = desktop.fabric.connect(), desktop.fabric.connect("bob")
    (kernel,) = until(own.kernels)
    assert (kernel.owner, kernel.only, kernel.serves) == ("tester", False, "all")
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    desktop.user_is_away(False)
    until(lambda: own.kernels()[0].serves == "own")
    job = other.start(nap, [0.0, 0.0])
    until(lambda: KEYBOARD in other.status(job).reason)
    assert own.wait(own.start(nap, [0.0, 0.0]), 60) == [0.0, 0.0]
    shown = desktop.fabric.park("kernels")
    assert shown.wait() == 0
    assert f"others pause: {KEYBOARD}" in shown.text
    desktop.user_is_away(True)
    assert other.wait(job, 60) == [0.0, 0.0]
    until(lambda: "serves again" in process.text)
    process.popen.terminate()
    assert process.wait() == 0
    assert f"others' new work pauses: {KEYBOARD}" in process.text

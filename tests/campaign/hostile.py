"""The campaign of hostile peers: honest people work, while attackers of each role do to the broker what they can.

The broker is a real one, with keys over TCP. Honest owners share pool kernels, and look at each result. A report says how
long they waited at most, how evenly they were served, how much memory the broker took, and what attackers were answered.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from park.errors import ParkError
from park.net.keys import CLIENT, KERNEL, OBSERVER
from tests.campaign.attackers import ROLES, Hoarder, Stranger
from tests.support.fabric import Fabric, Process, until

#: Seconds that an honest answer may take beside the attackers, or as a multiple of the longest answer without them.
IN_TIME_SECONDS, IN_TIME_RATIO = 30.0, 10.0
#: Seconds of honest work without attackers, at most, which show how fast this machine is now; seconds that a call may take.
CALM_SECONDS, PATIENCE_SECONDS = 20.0, 300.0
#: Bytes that the broker may hold.
MEMORY_BYTES = 1 << 30
#: The largest part by which one of several equal owners may be served better or worse than their mean. It counts from some
#: units of each on. Or it may be as a multiple of what it is without attackers.
SHARE_ERROR, SHARE_RATIO = 0.05, 2.0
SHARED_UNITS = 5_000
#: The roles' keys.
KEYS = {"Hoarder": CLIENT, "Thief": CLIENT, "Observer": OBSERVER, "BadKernel": KERNEL}


def square(x: int) -> int:
    return x * x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@dataclass
class Phase:
    """Honest work for *seconds*. *rounds* and units *served* by owner; *slowest*: seconds of a call."""

    seconds: float
    rounds: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    served: dict[str, int] = field(default_factory=dict)

    @property
    def share_error(self) -> float:
        """By how much the best or the worst served owner differs from the mean, as a part of the mean."""
        mean = sum(self.served.values()) / max(1, len(self.served))
        return max((abs(units / mean - 1.0) for units in self.served.values()), default=0.0) if mean else 0.0

    def __str__(self) -> str:
        return (
            f"rounds {dict(self.rounds)} in {self.seconds:.0f} s, slowest {self.slowest:.1f} s; "
            f"units served {self.served}, share error {100 * self.share_error:.1f} %"
        )


@dataclass
class Report:
    """The findings of a campaign: honest work without and with attackers. *memory*: bytes."""

    calm: Phase
    work: Phase
    wrong: list[str] = field(default_factory=list)
    memory: int = 0
    faults: int = 0
    attackers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """The promises that were broken, a sentence each."""
        found = list(self.wrong)
        work, calm = self.work, self.calm
        if missing := sorted(set(work.served) - set(work.rounds)):
            found.append(f"no round at all for {', '.join(missing)}")
        if work.slowest > max(IN_TIME_SECONDS, IN_TIME_RATIO * calm.slowest):
            found.append(
                f"an honest call took {work.slowest:.0f} s, and {calm.slowest:.1f} s without attackers"
            )
        even = max(SHARE_ERROR, SHARE_RATIO * calm.share_error)
        if min(work.served.values(), default=0) > SHARED_UNITS and work.share_error > even:
            found.append(f"equal owners were served {work.served}")
        if self.memory > MEMORY_BYTES:
            found.append(f"the broker held {self.memory >> 20} MB")
        if self.faults:
            found.append(f"the broker failed at {self.faults} messages")
        for role, seen in self.attackers.items():
            found += [f"{role} got {what}, {times} times" for what, times in seen["breaches"].items()]
        found += [f"{role} was not heard" for role in KEYS if not self.attackers.get(role, {}).get("refused")]
        if not self.attackers.get(Hoarder.__name__, {}).get("refused", {}).get("LimitReached"):
            found.append("a client that opens as much as it can was never refused")
        return found

    def __str__(self) -> str:
        lines = [
            f"without attackers: {self.calm}",
            f"with attackers: {self.work}",
            f"broker: {self.memory >> 20} MB at most, {self.faults} faults",
        ]
        for role, seen in self.attackers.items():
            lines.append(
                f"{role}: {seen['sent']:,} messages, refused {seen['refused']}, breaches {seen['breaches']}"
            )
        return "\n".join([*lines, *(f"BROKEN: {text}" for text in self.broken)])


class _BrokerEnded(Exception):
    """The broker has ended: nothing more can be seen."""


class Hostile:
    """One campaign in *folder* for *seconds*. *planted*: a hole in the broker, see `tests.campaign.planted`.

    *owners* work on as many *kernels* of two slots.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        seed: int = 0,
        planted: str = "",
        owners: int = 2,
        kernels: int = 1,
    ) -> None:
        self.owners = [f"owner{number}" for number in range(owners)]
        self.kernels = kernels
        self.seconds, self.seed = seconds, seed
        self.folder = folder
        command = ("tests.campaign.planted", planted) if planted else ("park.cli.broker",)
        self.fabric = Fabric(folder, lease=5.0, heartbeat=0.5, keys=True, command=command)
        self.report = Report(Phase(min(CALM_SECONDS, seconds / 2)), Phase(seconds))

    def run(self) -> Report:
        """Let them work and attack. Returns what was seen."""
        cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["square"]))
        with self.fabric as fabric:
            for owner in self.owners:
                fabric.new_key(owner)
            for role in ROLES:  # well before they come: the broker looks for new keys each second
                fabric.new_key(role.lower(), KEYS.get(role, CLIENT), self._key(role))
            kernels = [fabric.start_kernel(slots=2) for _ in range(self.kernels)]
            services = {owner: fabric.connect(owner) for owner in self.owners}
            until(lambda: len(services[self.owners[0]].kernels()) == len(kernels), 60.0)
            shared = {owner: service.start(nap, [0.002] * 200_000) for owner, service in services.items()}
            with contextlib.suppress(_BrokerEnded):
                self._phase(self.report.calm, services, shared)
                attackers = {role: self._attack(role) for role in ROLES}
                self._phase(self.report.work, services, shared)
                for role, process in attackers.items():
                    process.wait(self.seconds + PATIENCE_SECONDS)
                    self.report.attackers[role] = json.loads(process.text.splitlines()[-1])
            self._judge(services, shared, kernels)
        return self.report

    def _phase(self, phase: Phase, services: dict[str, Any], shared: dict[str, int]) -> None:
        """Let the honest owners work for a while, and look at the broker's memory."""
        self.until = time.monotonic() + phase.seconds
        before = {owner: self._done(service, shared[owner]) for owner, service in services.items()}
        threads = [
            threading.Thread(target=self._work, args=(phase, owner, service), daemon=True)
            for owner, service in services.items()
        ]
        for thread in threads:
            thread.start()
        self._watch()
        if not self.fabric.broker.running:  # the owners would wait for it
            raise _BrokerEnded
        after = {owner: self._done(service, shared[owner]) for owner, service in services.items()}
        phase.served = {owner: after[owner] - before[owner] for owner in services}
        for thread in threads:
            thread.join(2 * PATIENCE_SECONDS)
            if thread.is_alive():
                self.report.wrong.append("an honest owner waits for ever")

    def _done(self, service: Any, job: int) -> int:
        """The answered units of a job, as the live table has it."""
        record = service.table.jobs.get(job)
        return record.done if record is not None else 0

    def _judge(self, services: dict[str, Any], shared: dict[str, int], kernels: list[Process]) -> None:
        report = self.report
        if not self.fabric.broker.running:
            report.wrong.append(f"the broker has ended: {self.fabric.broker.text[-2000:]}")
            return
        for kernel in [kernel for kernel in kernels if not kernel.running]:
            report.wrong.append(f"an honest kernel has ended: {kernel.text[-2000:]}")
        for owner, service in services.items():
            try:
                record = service.status(shared[owner])
            except ParkError as error:
                report.wrong.append(f"{owner}'s job is lost: {error}")
                continue
            if record.failed or record.state.ended:
                report.wrong.append(f"{owner}'s job is {record.state}, with {record.failed} failed units")
            report.faults = max(report.faults, service.about().faults)

    def _key(self, role: str) -> Path:
        return self.folder / f"{role}.key"

    def _attack(self, role: str) -> Process:
        endpoints = json.dumps(
            {port: self.fabric.endpoints["tcp"][port] for port in ("clients", "kernels", "table")}
        )
        key = self._key(role)
        return self.fabric.start(
            "-m",
            "tests.campaign.attackers",
            role,
            endpoints,
            "" if role == Stranger.__name__ else str(key),
            str(self.seconds),
            str(self.seed),
            env={"A_KEY": str(key)},
        )

    def _watch(self) -> None:
        """Look at the broker's memory until the time is over."""
        status = Path(f"/proc/{self.fabric.broker.pid}/status")
        while time.monotonic() < self.until and self.fabric.broker.running:
            for line in status.read_text().splitlines():
                if line.startswith("VmRSS:"):
                    self.report.memory = max(self.report.memory, int(line.split()[1]) * 1024)
            time.sleep(0.1)

    def _work(self, phase: Phase, owner: str, service: Any) -> None:
        """An honest owner: one round after the other."""
        rounds: list[tuple[Callable[[], Any], Any]] = [
            (lambda: list(service.map(square, range(40))), [x * x for x in range(40)]),
            (lambda: service.wait(service.start(square, [3, 4]), PATIENCE_SECONDS), [9, 16]),
            (lambda: service.executor().submit(square, 5).result(PATIENCE_SECONDS), 25),
        ]
        while time.monotonic() < self.until:
            for call, right in rounds:
                began = time.monotonic()
                try:
                    got = call()
                except (ParkError, TimeoutError) as error:
                    got = repr(error)
                phase.slowest = max(phase.slowest, time.monotonic() - began)
                if got != right:
                    self.report.wrong.append(f"{owner} got {got!r:.300} instead of {right!r:.100}")
                    return
            phase.rounds[owner] += 1

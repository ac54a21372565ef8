"""A life in which everybody pays: units of one length a job, priorities above free, and all accidents that cost nothing.

Nobody is stopped or aborted, and no process is killed for what it runs: the fabric alone is at fault.
"""

from __future__ import annotations

from typing import Any

from park.broker.accounts.ledger import MICRO, CreditPolicy
from tests.sim.client import Request
from tests.sim.disk import Pause
from tests.sim.functions import exact
from tests.sim.life import Chance, Life
from tests.sim.world import World

#: Seconds of a unit: whole in binary, so that sums are exact, and so long that none waits at a kernel for a slot.
TICKS = 1 / 64
#: Functions with a price that is known beforehand.
PLAIN = "nap"


class PayingLife(Life):
    """See the module."""

    def __init__(self, seed: int, disk: Pause | None = None) -> None:
        super().__init__(seed, World(seed, pace=exact, policy=CreditPolicy(), disk=disk))
        #: the price of one result, micro-credits, by job
        self.prices: dict[int, int] = {}
        self._asked_for: list[tuple[Request, int]] = []

    def run(self, *given: int) -> World:
        for _ in range(3):
            self.submit()
        return super().run(*given)

    def chances(self) -> list[Chance]:
        spared = (self.tell, self.kill, self.delete)
        return [(chance, what) for chance, what in super().chances() if what not in spared]

    def submit(self) -> None:
        level = self.random.choice([-3, 0, 1, 2, 4, 6])
        if self.random.random() < 0.2:
            self.submit_some("generations", [[3, 4, TICKS, 0.002]], priority=level)
            return
        ticks = self.random.randint(2, 20)
        given: list[Any] = [ticks * TICKS] * self.random.randint(1, 30)
        request = self.submit_some(f"{PLAIN} {ticks}", given, priority=level)
        self._asked_for.append((request, round(max(0, 2**level - 1) * ticks * TICKS * MICRO)))

    def see_accepted(self) -> None:
        super().see_accepted()
        for request, price in self._asked_for:
            if request.done:
                self.prices[request.job] = price

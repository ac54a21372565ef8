"""A life in which jobs wait to be told something, while brokers, kernels and connections come and go."""

from __future__ import annotations

from tests.sim.disk import Pause
from tests.sim.life import Chance, Life
from tests.sim.world import World


class SteeredLife(Life):
    """See the module."""

    def __init__(self, seed: int, disk: Pause | None = None) -> None:
        super().__init__(seed, World(seed, heartbeat=0.3, lease=1.5, disk=disk))

    def chances(self) -> list[Chance]:
        return [
            (1, self.submit),
            (30, self.control),
            (3, self.cut),
            (3, self.lose_kernel),
            (4, self.join),
            (4, self.kill),
            (5, self.doom),
            (12, self.hold_up_kernel),
            (10, self.wait),
        ]

    def hold_up_kernel(self) -> None:
        """For less than a lease, or more; what it runs may begin elsewhere meanwhile."""
        if self.world.kernels:
            self.random.choice(self.world.kernels).wire.hold_up(self.random.choice([0.5, 2.0, 4.0]))

    def wait(self) -> None:
        self.world.run_for(self.random.choice([0.1, 0.5, 2.0]))

    def submit(self) -> None:
        self.submit_some("heeds", self.random.choice([None, None, [6, 18]]))

"""A life in which accidents never stop: nothing need finish, but all that comes about is right, and none of it is lost."""

from __future__ import annotations

from tests.sim.disk import Pause
from tests.sim.life import Chance, Life
from tests.sim.world import World

#: More kills than a life has.
NO_END = 1_000_000


class StormyLife(Life):
    """See the module. Of heartbeats and leases some lives have short ones, so that these end more often."""

    def __init__(self, seed: int, disk: Pause | None = None) -> None:
        times = ((2.0, 20.0), (0.5, 2.0))[seed % 4 > 1]
        super().__init__(seed, World(seed, None, *times, disk=disk))
        self.kills_left, self.fragile = NO_END, True

    def run(self, happenings: int = 40, events: int = 0) -> World:
        """A number of happenings, and in the end the broker's death."""
        self.submit_some("broad", None)
        self.submit_some("heeds", self.random.choice([None, [2, 4]]))
        for _ in range(happenings):
            self.happen()
            for _ in range(self.random.choice([0, 10, 30, 90, 200])):
                self.world.step()
            self.see_accepted()
        self.die()
        return self.world

    def chances(self) -> list[Chance]:
        accidents = (
            self.cut,
            self.lose_kernel,
            self.kill,
            self.doom,
            self.hold_up,
            self.say_twice,
            self.echo,
        )
        more = [(5, what) for what in accidents]
        return [*super().chances(), *more, (6, self.die), (8, self.join), (3, self.join_client)]

    def die(self) -> None:
        """The broker dies at once, perhaps again before anybody is back."""
        for _ in range(self.random.choice([1, 1, 2])):
            self.world.restart_broker()
            self.check_safe()

    def join_client(self) -> None:
        if len(self.world.clients) < 4:
            self.world.client(self.random.choice(["ann", "bob"]))

"""A judge: whether the books are right, read from the disk alone.

Jobs whose units all take the same time, and whose owners can pay, cost exactly so much a result: at every commit the
charges on disk for a job are those of its results on disk, whatever was run twice, answered twice, lost or done in
vain. And each owner's balance is what was granted less all charges, to the micro-credit.
"""

from __future__ import annotations

from dataclasses import dataclass

from park.broker.accounts.ledger import MICRO
from park.broker.turns import Turn
from park.wire import codec, pack
from tests.sim.world import World

#: Turns between two readings of the books; they are also read whenever the broker dies.
EVERY = 8


@dataclass
class Audit:
    """The books of a world. *prices*: what one result of a job costs, micro-credits, by job; they may come later."""

    world: World
    prices: dict[int, int]
    #: how often the books were read, and how many charges they held
    readings: int = 0
    entries: int = 0
    _turns: int = 0

    def __post_init__(self) -> None:
        self.world.judges.append(self)

    def decided(self, turn: Turn) -> None:
        pass

    def turned(self, turn: Turn) -> None:
        self._turns += 1
        if self._turns % EVERY == 0:
            self.read()

    def died(self) -> None:
        self.read()

    def read(self) -> dict[str, int]:
        """AssertionError where a job's charges are not those of its results; the balance of each owner."""
        self.readings += 1
        store = self.world.manager.store
        results: dict[object, int] = {}
        for (job, _), data in store.scan("results"):
            results[job] = results.get(job, 0) + pack.count(data)
        costs: dict[object, int] = {}
        balances: dict[str, int] = {}
        for (owner,), data in store.scan("account"):
            account = codec.unpack(data)
            balances[str(owner)] = account["granted"] - account["settled"]
        for (job, _), data in store.scan("charge"):
            self.entries += 1
            charge = codec.unpack(data)
            costs[job] = costs.get(job, 0) + charge["amount"]
            if charge["amount"]:
                balances[charge["owner"]] -= charge["amount"]
        for job, price in self.prices.items():
            had, due = costs.get(job, 0), price * results.get(job, 0)
            assert had == due, f"job {job} has cost {had} for {results.get(job, 0)} results at {price}"
        return balances

    def close(self) -> None:
        """All is quiet: the accounts of the broker say what the books say."""
        accounts = self.world.dispatcher.state.ledger.accounts
        assert {owner: account.balance for owner, account in accounts.items()} == self.read()
        for owner, account in accounts.items():
            assert account.balance <= round(account.terms.cap * MICRO), owner

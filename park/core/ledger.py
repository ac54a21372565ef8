"""What was paid: the credit ledger.

A unit of a job with a priority above free costs (weight - 1) credits a slot-second; free and background cost
nothing. An account begins with all that its cap allows and is filled again, at so many credits an hour, up to the
cap. While its balance is not positive, its owner's paid jobs count as free: they are served as such, and cost nothing.

Amounts are whole micro-credits, so that a balance is exactly what was granted less what was charged, whatever
the order. A charge is written with the state of the unit that it is for: either both are on disk or neither.
Units that are not stored (of sessions and drivers) are summed by job and life of the broker (epoch), and written at
least once a second and when their job ends.

On disk: "account" (owner) -> {granted, settled}, "charge" (job, epoch) -> {owner, amount}. The balance is
granted - settled - the sum of the owner's charges; *settled* are the charges of jobs that are not stored themselves.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from park.core.outcome import Outcome, Write
from park.errors import InvalidRequest
from park.model import MOST_CREDITS, Delta, check_grant, owner_name
from park.wire import codec

#: Micro-credits in one credit.
MICRO = 1_000_000
#: Seconds between two writes of charges for units that are not stored.
WRITE_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """An account's *cap*, where it also begins, in credits, and its *rate* of refill in credits an hour.

    >>> Terms(cap=100)
    Terms(cap=100, rate=1500.0)
    """

    cap: float = 36_000.0
    rate: float = 1_500.0

    def __post_init__(self) -> None:
        for name in ("cap", "rate"):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 <= value <= MOST_CREDITS
            ):
                raise InvalidRequest(f"{name}={value!r} is no number of credits from 0 to {MOST_CREDITS:.0e}")


@dataclass(frozen=True, slots=True)
class Policy:
    """The terms of a broker: the *usual* ones, and those of single *owners*."""

    usual: Terms = field(default_factory=Terms)
    owners: Mapping[str, Terms] = field(default_factory=dict)

    def of(self, owner: str) -> Terms:
        return self.owners.get(owner, self.usual)


@dataclass(slots=True)
class Account:
    """One owner's credits, in micro-credits."""

    terms: Terms
    #: the first filling, refills, and what an admin gave
    granted: int
    #: up to when it was filled again, monotonic seconds
    filled: float
    #: charges of all its jobs; `settled` are those among them that no record of a charge holds
    charged: int = 0
    settled: int = 0

    @property
    def balance(self) -> int:
        return self.granted - self.charged

    def fill(self, now: float) -> bool:
        """Grant what has come since the last time; whether that is anything."""
        before = self.granted
        room = round(self.terms.cap * MICRO) - self.balance
        speed = self.terms.rate * MICRO / 3600.0
        due = math.floor((now - self.filled) * speed) if speed else 0
        if due >= room or not speed:
            self.granted += max(0, min(due, room))
            self.filled = now
        elif due > 0:
            self.granted += due
            self.filled += due / speed
        return self.granted != before

    def positive_at(self) -> float:
        """When refills will have made the balance positive."""
        speed = self.terms.rate * MICRO / 3600.0
        if not speed or self.terms.cap <= 0:
            return math.inf
        return self.filled + (1 - self.balance) / speed


class Ledger:
    """All accounts. *policy* None: nothing is charged, as in the local service. Times are monotonic seconds."""

    def __init__(self, policy: Policy | None, epoch: int) -> None:
        self.policy = policy
        self._epoch = epoch
        self.accounts: dict[str, Account] = {}
        #: (job, epoch) -> owner and sum
        self._charges: dict[tuple[int, int], tuple[str, int]] = {}
        #: the epochs in which a job has charges
        self._epochs: dict[int, set[int]] = {}
        #: what each job has cost, in all epochs
        self.costs: dict[int, int] = {}
        #: accounts without credit
        self._broke: set[str] = set()
        self._stale_charges: set[tuple[int, int]] = set()
        self._stale_accounts: set[str] = set()
        #: something stale belongs to the records of this turn
        self._now_due = False
        self._written = 0.0

    # -- accounts ------------------------------------------------------------------------------

    def account(self, owner: str, now: float) -> Account:
        """The owner's account, opened and filled by need."""
        account = self.accounts.get(owner)
        if account is None:
            terms = self.policy.of(owner) if self.policy is not None else Terms()
            account = self.accounts[owner] = Account(terms, round(terms.cap * MICRO), now)
            self._stale_accounts.add(owner)
            if account.balance <= 0:
                self._broke.add(owner)
        if account.fill(now):
            self._stale_accounts.add(owner)
        return account

    def broke(self, owner: str, now: float) -> bool:
        """Whether the owner's paid jobs count as free now."""
        if self.policy is None:
            return False
        if owner not in self.accounts:
            self.account(owner, now)
        return owner in self._broke

    @property
    def unsettled(self) -> bool:
        """Whether `changed` may have somebody."""
        return bool(self._stale_accounts or self._broke)

    def changed(self, now: float) -> list[str]:
        """The owners who have come to be broke, or are so no more."""
        found: list[str] = []
        if self.policy is None:
            return found
        for owner in [o for o in self._stale_accounts if o not in self._broke]:
            if self.account(owner, now).balance <= 0:
                self._broke.add(owner)
                found.append(owner)
        for owner in list(self._broke):
            account = self.accounts[owner]
            if (account.balance > 0 or now >= account.positive_at()) and self.account(owner, now).balance > 0:
                self._broke.discard(owner)
                found.append(owner)
        return found

    # -- charges and grants --------------------------------------------------------------------

    def charge(self, job: int, owner: str, amount: int, now: float, stored: bool) -> None:
        """The job has cost *amount* micro-credits more (negative: a refund); *stored*: for a unit that is."""
        if not amount or self.policy is None:
            return
        account = self.account(owner, now)
        account.charged += amount
        key = (job, self._epoch)
        self._charges[key] = (owner, self._charges.get(key, (owner, 0))[1] + amount)
        self._epochs.setdefault(job, set()).add(self._epoch)
        self.costs[job] = self.costs.get(job, 0) + amount
        self._stale_charges.add(key)
        self._stale_accounts.add(owner)
        self._now_due |= stored

    def end(self, job: int, owner: str, stored: bool) -> None:
        """The job has ended: its charges are written now. Those of a job that is not stored become the account's."""
        key = (job, self._epoch)
        if key in self._charges:
            self._now_due = True
            self._stale_charges.add(key)
        if not stored:
            self.forget(job)

    def forget(self, job: int) -> None:
        """What the job has cost becomes its account's own."""
        for epoch in self._epochs.pop(job, ()):
            owner, amount = self._charges.pop((job, epoch))
            self.accounts[owner].settled += amount
            self._stale_charges.add((job, epoch))
            self._stale_accounts.add(owner)
            self._now_due = True
        self.costs.pop(job, None)

    def settle(self, jobs: Container[int]) -> None:
        """Charges of an earlier life for what is not among *jobs*, the stored ones, become their account's own."""
        for job in [j for j in self._epochs if j not in jobs]:
            self.forget(job)

    def forgive(self, job: int) -> None:
        """What the job has cost in earlier lives of the broker is refunded: its work was lost with them."""
        for epoch in self._epochs.get(job, set()) - {self._epoch}:
            key = (job, epoch)
            owner, amount = self._charges[key]
            self._charges[key] = (owner, 0)
            self.accounts[owner].charged -= amount
            self.costs[job] -= amount
            self._stale_charges.add(key)
            self._stale_accounts.add(owner)

    def grant(self, owner: str, credits: float, now: float) -> None:
        """An admin gives credits, beyond the cap if need be. Raises InvalidRequest for what is no grant."""
        if self.policy is None:
            raise InvalidRequest("this service has no credit limit: there is nothing to grant")
        check_grant(credits)
        owner_name(owner)
        self.account(owner, now).granted += round(credits * MICRO)
        self._stale_accounts.add(owner)
        self._now_due = True

    # -- the disk ------------------------------------------------------------------------------

    def flush(self, now: float, out: Outcome) -> None:
        """Write what has to be on disk with this turn, or has waited for a second."""
        stale = self._stale_charges or self._stale_accounts
        if not stale or not (self._now_due or now >= self._written + WRITE_INTERVAL):
            return
        self._written, self._now_due = now, False
        for key in self._stale_charges:
            charge = self._charges.get(key)
            value = None if charge is None else codec.pack({"owner": charge[0], "amount": charge[1]})
            out.writes.append(Write("charge", key, value))
        for owner in self._stale_accounts:
            account = self.accounts[owner]
            value = codec.pack({"granted": account.granted, "settled": account.settled})
            out.writes.append(Write("account", (owner,), value))
        self._stale_charges.clear()
        self._stale_accounts.clear()

    def deltas(self, owners: Iterable[str]) -> Iterator[Delta]:
        """What the public table says of the balances of *owners*."""
        for owner in owners:
            if self.policy is not None and owner in self.accounts:
                yield Delta("owner", owner, {"credits": self.accounts[owner].balance / MICRO})

    def next_deadline(self) -> float:
        """When something has to be written, or an account comes to be positive."""
        if not (self._broke or self._stale_charges or self._stale_accounts):
            return math.inf
        times = [self.accounts[owner].positive_at() for owner in self._broke]
        if self._stale_charges or self._stale_accounts:
            times.append(self._written + WRITE_INTERVAL)
        return min(times)

    def restore_account(self, owner: str, stored: dict[str, int], now: float) -> None:
        """An account of an earlier life; all of them come before all charges."""
        terms = self.policy.of(owner) if self.policy is not None else Terms()
        settled = stored["settled"]
        self.accounts[owner] = Account(terms, stored["granted"], now, settled, settled)

    def restore_charge(self, job: int, epoch: int, stored: dict[str, object]) -> None:
        """A charge of an earlier life."""
        owner, amount = stored["owner"], stored["amount"]
        assert isinstance(owner, str)
        assert isinstance(amount, int)
        self._charges[job, epoch] = (owner, amount)
        self._epochs.setdefault(job, set()).add(epoch)
        self.accounts[owner].charged += amount
        self.costs[job] = self.costs.get(job, 0) + amount

    def check(self) -> None:
        """Assert that every balance is what was granted less what was charged."""
        sums = {owner: account.settled for owner, account in self.accounts.items()}
        for owner, amount in self._charges.values():
            sums[owner] += amount
        assert {(j, e) for j, epochs in self._epochs.items() for e in epochs} == self._charges.keys()
        for owner, account in self.accounts.items():
            assert account.charged == sums[owner], owner
            assert (owner in self._broke) <= (account.balance <= 0), owner

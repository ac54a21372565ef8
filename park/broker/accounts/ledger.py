"""The credit ledger: grants, charges and balances.

A unit of a job with a priority above free costs (weight - 1) credits a slot-second; free and background cost nothing.
An account begins at its cap and is filled again up to the cap, at a fixed number of credits an hour. While the balance
is not positive, the owner's paid jobs are served as free jobs, and cost nothing.

Amounts are whole micro-credits, so that a balance is exactly what was granted less what was charged, whatever the
order. A charge is written with the state of the unit that it is for: either both are on disk or neither. Units that are
not stored (of sessions and drivers) are summed by job and life of the broker (epoch), and written at least once a
second and when their job ends. A charge also has the slot-seconds that the job has used, even if they cost nothing, so
that the sum continues in the next life of the broker.

On disk: "account" (owner) -> {granted, settled}, "charge" (job, epoch) -> {owner, amount, used}. The balance is
granted - settled - the sum of the owner's charges; *settled* are the charges of jobs that are not stored themselves.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict

from park.broker.effects import Effects, Write
from park.errors import InvalidRequest
from park.model import MAX_CREDITS, Delta, check_grant, owner_name
from park.wire import codec

#: Micro-credits in one credit.
MICRO = 1_000_000
#: Micro-slot-seconds in one slot-second.
MICRO_SECONDS = 1_000_000
#: Seconds between two writes of charges for units that are not stored.
CHARGE_WRITE_SECONDS = 1.0


class Terms(Struct, frozen=True):
    """An account's *cap*, where it also begins, in credits, and its *rate* of refill in credits an hour.

    >>> Terms(cap=100)
    Terms(cap=100, rate=1500.0)
    """

    cap: float = 36_000.0
    rate: float = 1_500.0

    def __post_init__(self) -> None:
        for name in ("cap", "rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_CREDITS:
                raise InvalidRequest(f"{name}={value!r} is no number of credits from 0 to {MAX_CREDITS:.0e}")


class CreditPolicy(Struct, frozen=True):
    """The terms of a broker: the *usual* ones, and those of single *owners*."""

    usual: Terms = field(default_factory=Terms)
    owners: Mapping[str, Terms] = field(default_factory=dict)

    def of(self, owner: str) -> Terms:
        return self.owners.get(owner, self.usual)


class Charge(Struct):
    """The charges of a job in one life of the broker: micro-credits, and micro-slot-seconds used."""

    owner: str
    amount: int = 0
    used: int = 0


class CreditAccount(Struct):
    """One owner's credits, in micro-credits."""

    terms: Terms
    #: the first filling, the refills, and the grants of an admin
    granted: int
    #: up to when it was filled again, monotonic seconds
    filled: float
    #: charges of all its jobs; `settled`: those of them that have no charge record any more
    charged: int = 0
    settled: int = 0
    #: no refund lifts the balance above this, because refills may have replaced the refunded credits already
    top: int = 0

    def __post_init__(self) -> None:
        self.raise_top(0)

    def raise_top(self, before: int) -> None:
        """The highest balance so far is the one *before*, the cap, or the present one."""
        self.top = max(before, self.balance, round(self.terms.cap * MICRO))

    @property
    def balance(self) -> int:
        return self.granted - self.charged

    def charge(self, amount: int) -> None:
        """Charge micro-credits, or refund them (less than 0)."""
        self.charged += amount
        if amount < 0:
            self.granted -= max(0, self.balance - self.top)

    def grant(self, amount: int) -> None:
        """Grant micro-credits, also beyond the cap."""
        self.granted += amount
        self.raise_top(self.top)

    def fill(self, now: float) -> bool:
        """Grant the refill since the last time. False: it is nothing."""
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
        """The time at which refills will have made the balance positive."""
        speed = self.terms.rate * MICRO / 3600.0
        if not speed or self.terms.cap <= 0:
            return math.inf
        return self.filled + (1 - self.balance) / speed


class Ledger:
    """All accounts. *policy* None: nothing is charged, as in the local service. Times are monotonic seconds."""

    def __init__(self, policy: CreditPolicy | None, epoch: int) -> None:
        self.policy = policy
        self._epoch = epoch
        self.accounts: dict[str, CreditAccount] = {}
        #: by job and epoch
        self._charges: dict[tuple[int, int], Charge] = {}
        #: the epochs in which a job has charges
        self._epochs: dict[int, set[int]] = {}
        #: the charges of each job, of all epochs
        self.costs: dict[int, int] = {}
        #: accounts without credit
        self._broke: set[str] = set()
        self._stale_charges: set[tuple[int, int]] = set()
        self._stale_accounts: set[str] = set()
        #: something stale belongs to the records of this turn
        self._now_due = False
        self._written = 0.0

    # -- accounts ------------------------------------------------------------------------------

    def account(self, owner: str, now: float) -> CreditAccount:
        """The owner's account, opened and filled by need."""
        account = self.accounts.get(owner)
        if account is None:
            terms = self.policy.of(owner) if self.policy is not None else Terms()
            account = self.accounts[owner] = CreditAccount(terms, round(terms.cap * MICRO), now)
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
        """Whether `changed` may name an owner."""
        return bool(self._stale_accounts or self._broke)

    def changed(self, now: float) -> list[str]:
        """The owners whose balance has become positive, or ceased to be positive, since the last call."""
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

    def charge(
        self, job: int, owner: str, amount: int, now: float, stored: bool, seconds: float = 0.0
    ) -> None:
        """The job has cost *amount* micro-credits more, and used *seconds* slot-seconds (negative: a refund); *stored*: for
        a unit that is.
        """
        used = round(seconds * MICRO_SECONDS)
        if self.policy is None or not (amount or used):
            return
        if amount:
            self.account(owner, now).charge(amount)
            self._stale_accounts.add(owner)
            self.costs[job] = self.costs.get(job, 0) + amount
        key = (job, self._epoch)
        charge = self._charges.setdefault(key, Charge(owner))
        charge.amount += amount
        charge.used += used
        self._epochs.setdefault(job, set()).add(self._epoch)
        self._stale_charges.add(key)
        self._now_due |= stored

    def end(self, job: int, owner: str, stored: bool) -> None:
        """Write the charges of a job that has ended. For a job that is not stored, the account settles them."""
        key = (job, self._epoch)
        if key in self._charges:
            self._now_due = True
            self._stale_charges.add(key)
        if not stored:
            self.forget(job)

    def forget(self, job: int) -> None:
        """Settle the charges of a deleted job in its owner's account."""
        for epoch in self._epochs.pop(job, ()):
            charge = self._charges.pop((job, epoch))
            if charge.amount:
                self.accounts[charge.owner].settled += charge.amount
                self._stale_accounts.add(charge.owner)
            self._stale_charges.add((job, epoch))
            self._now_due = True
        self.costs.pop(job, None)

    def settle(self, jobs: Container[int]) -> None:
        """All charges of earlier lives are here: settle those for jobs that are not among the stored *jobs*."""
        for account in self.accounts.values():
            account.raise_top(0)
        for job in [j for j in self._epochs if j not in jobs]:
            self.forget(job)

    def forgive(self, job: int) -> None:
        """Refund the charges of a job from earlier lives of the broker: its work was lost with them."""
        for epoch in self._epochs.get(job, set()) - {self._epoch}:
            key = (job, epoch)
            owner, amount = self._charges[key].owner, self._charges[key].amount
            self._charges[key] = Charge(owner)
            if amount:
                self.accounts[owner].charge(-amount)
                self.costs[job] -= amount
                self._stale_accounts.add(owner)
            self._stale_charges.add(key)

    def used_seconds(self, job: int) -> float:
        """The slot-seconds that the job has used in all lives of the broker; 0 also if they are not known."""
        return sum(self._charges[job, epoch].used for epoch in self._epochs.get(job, ())) / MICRO_SECONDS

    def grant(self, owner: str, credits: float, now: float) -> None:
        """Grant an owner credits of an admin, also beyond the cap. Raises InvalidRequest for a wrong owner or number."""
        if self.policy is None:
            raise InvalidRequest("this service has no credit limit: there is nothing to grant")
        check_grant(credits)
        owner_name(owner)
        self.account(owner, now).grant(round(credits * MICRO))
        self._stale_accounts.add(owner)
        self._now_due = True

    # -- the disk ------------------------------------------------------------------------------

    def flush(self, now: float, effects: Effects) -> None:
        """Write the accounts and charges that belong to this turn's records, or have waited for a second."""
        stale = self._stale_charges or self._stale_accounts
        if not stale or not (self._now_due or now >= self._written + CHARGE_WRITE_SECONDS):
            return
        self._written, self._now_due = now, False
        for key in self._stale_charges:
            charge = self._charges.get(key)
            value = None if charge is None else codec.pack(asdict(charge))
            effects.writes.append(Write("charge", key, value))
        for owner in self._stale_accounts:
            account = self.accounts[owner]
            value = codec.pack({"granted": account.granted, "settled": account.settled})
            effects.writes.append(Write("account", (owner,), value))
        self._stale_charges.clear()
        self._stale_accounts.clear()

    def deltas(self, owners: Iterable[str]) -> Iterator[Delta]:
        """The rows of the public table for the balances of *owners*."""
        for owner in owners:
            if self.policy is not None and owner in self.accounts:
                yield Delta("owner", owner, {"credits": self.accounts[owner].balance / MICRO})

    def next_deadline(self) -> float:
        """The time of the next write, or at which an account becomes positive."""
        if not (self._broke or self._stale_charges or self._stale_accounts):
            return math.inf
        times = [self.accounts[owner].positive_at() for owner in self._broke]
        if self._stale_charges or self._stale_accounts:
            times.append(self._written + CHARGE_WRITE_SECONDS)
        return min(times)

    def restore_account(self, owner: str, stored: dict[str, int], now: float) -> None:
        """Take up an account of an earlier life. All accounts come before all charges."""
        terms = self.policy.of(owner) if self.policy is not None else Terms()
        settled = stored["settled"]
        self.accounts[owner] = CreditAccount(terms, stored["granted"], now, settled, settled)

    def restore_charge(self, job: int, epoch: int, stored: dict[str, Any]) -> None:
        """A charge of an earlier life."""
        charge = self._charges[job, epoch] = Charge(**stored)
        self._epochs.setdefault(job, set()).add(epoch)
        if charge.amount:  # work that cost nothing opens no account
            self.accounts[charge.owner].charged += charge.amount
            self.costs[job] = self.costs.get(job, 0) + charge.amount

    def check(self) -> None:
        """Assert that every balance is its grants less its charges."""
        sums = {owner: account.settled for owner, account in self.accounts.items()}
        for charge in self._charges.values():
            if charge.amount:
                sums[charge.owner] += charge.amount
        assert {(j, e) for j, epochs in self._epochs.items() for e in epochs} == self._charges.keys()
        for owner, account in self.accounts.items():
            assert account.charged == sums[owner], owner
            assert (owner in self._broke) <= (account.balance <= 0), owner

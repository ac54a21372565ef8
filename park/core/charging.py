"""What the work of a job costs its owner: time on the service clock, and credits."""

from __future__ import annotations

from typing import Any

from park.core.jobs import Job
from park.core.ledger import MICRO
from park.core.limits import limited
from park.core.line import Line
from park.core.state import State
from park.core.work import Attempt
from park.model import OwnerRecord


class Charging(State):
    """The floor above `State`."""

    def _weight(self, job: Job) -> float:
        """What the job's priority buys, if its owner can pay for it."""
        priority = job.facts.priority
        if priority > 0 and self.ledger.broke(job.owner, self._now):
            return 1.0
        return 2.0**priority

    def _price(self, weight: float) -> int:
        """Micro-credits a slot-second; nothing where there are no accounts."""
        return round(max(0.0, weight - 1.0) * MICRO) if self.ledger.policy is not None else 0

    def _account(self, job: Job, attempt: Attempt, seconds: float) -> None:
        """The attempt has used its slots for *seconds* since it last got them: correct what was thought, and charge."""
        used = seconds * attempt.cpus
        self.clock.charge(job.number, used - attempt.charged, attempt.rates)
        self.clock.used(job.owner, attempt.weight * used, self._now)
        attempt.charged = 0.0
        attempt.used += used
        job.seconds += used
        self.list.counted(job)
        paid = round(attempt.price * used)
        if paid:
            self._pay(job, attempt, paid)
        if attempt.map.driver:
            self._add_below(attempt, used, paid, attempt.weight * used)

    def _refund(self, job: Job, attempt: Attempt) -> None:
        """The fabric has lost what the attempt did, or did not need it; what it let others do was lost with it."""
        used, paid = attempt.used + attempt.used_below, attempt.paid + attempt.paid_below
        use = attempt.weight * attempt.used + attempt.use_below
        self.clock.refund(job.number, attempt.charged + used, attempt.rates)
        self.clock.used(job.owner, -use, self._now)
        job.seconds -= used
        self.list.counted(job)
        if paid:
            self._pay(job, attempt, -paid)
        self._add_below(attempt, -used, -paid, -use)
        attempt.charged = attempt.used = attempt.used_below = attempt.use_below = 0.0
        attempt.paid = attempt.paid_below = 0

    def _add_below(self, attempt: Attempt, used: float, paid: int, use: float) -> None:
        """Tell the drivers that wait for the attempt, further and further out, what it has cost.

        Not where its map is lost: it is refunded itself, and its driver, taken in again since, waits for another map.
        """
        while not attempt.map.lost and (outer := self.attempts.get(attempt.map.driver)) is not None:
            outer.used_below += used
            outer.paid_below += paid
            outer.use_below += use
            attempt = outer

    def _pay(self, job: Job, attempt: Attempt, amount: int) -> None:
        attempt.paid += amount
        job.paid += amount
        stored = attempt.map.root and not attempt.map.once
        self.ledger.charge(job.number, job.owner, amount, self._now, stored)

    def _accrue(self, attempt: Attempt) -> None:
        """An attempt that has run past its estimate is charged for what it has used up to now."""
        used = (self._now - attempt.since) * attempt.cpus
        if used > attempt.charged and not attempt.void:
            self.clock.charge(attempt.map.job, used - attempt.charged, attempt.rates)
            attempt.charged = used
            self.touched_jobs.add(attempt.map.job)

    def _reweigh(self) -> None:
        """Jobs of owners who have come to be broke count as free, and as what they are when they can pay again."""
        for owner in self.ledger.changed(self._now):
            for number in self.clock.jobs(owner):
                self.clock.reweigh(number, self._weight(self.list.jobs[number]))
            self._out.deltas += self.ledger.deltas({owner} & self.list.owners().keys())

    @property
    def shares(self) -> dict[int, float]:
        """What part of all slots is due to each job that has work or runs."""
        if self._shares is None:
            jobs = self.list.jobs
            wanting = {n for a in self.attempts.values() if not a.void and jobs[n := a.map.job].dealt}
            wanting.update(self.clock.waiting)
            wanting.update(k.reserved for k in self.vacancies.reserved.values())
            self._shares = self.clock.shares(wanting, self._now)
        return self._shares

    @property
    def line(self) -> Line:
        """Who is before whom, of those in `shares`."""
        if self._line is None:
            self._line = self.clock.line(self.shares)
        return self._line

    def owners(self) -> list[OwnerRecord]:
        """Everybody who has jobs that have not ended."""
        accounts = self.ledger.accounts if self.ledger.policy is not None else {}
        return [
            OwnerRecord(name, jobs, accounts[name].balance / MICRO if name in accounts else None)
            for name, jobs in self.list.owners().items()
        ]

    def _accounts(self, owner: str) -> list[dict[str, Any]]:
        """What everybody may know of the account of *owner*, or of all ("*")."""
        known = {*self.ledger.accounts, *self.clock.owners}
        shares: dict[str, float] = {}
        for number, share in self.shares.items():
            name = self.list.jobs[number].owner
            shares[name] = shares.get(name, 0.0) + share
        costs: dict[str, dict[str, float]] = {}
        for number, job in self.list.jobs.items():  # the ledger does not keep sessions that have ended
            if job.paid:
                costs.setdefault(job.owner, {})[str(number)] = job.paid / MICRO
        tallies = dict(self.list.tallies)
        found = []
        for name in sorted(known if owner == "*" else {owner}):
            terms = None if self.ledger.policy is None else self.ledger.policy.of(name)
            balance = None if terms is None else terms.cap  # of who had nothing to pay for yet
            if terms is not None and name in self.ledger.accounts:
                balance = self.ledger.account(name, self._now).balance / MICRO
            found.append(
                {
                    "owner": name,
                    "balance": balance,
                    "cap": None if terms is None else terms.cap,
                    "rate": None if terms is None else terms.rate,
                    "use": self.clock.use(name, self._now),
                    "share": shares.get(name, 0.0),
                    "jobs": costs.get(name, {}),
                    "limits": {} if self.limits is None else limited(self.limits.of(name), tallies.get(name)),
                }
            )
        return found

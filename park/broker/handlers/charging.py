"""Charges for the work of a job: time on the service clock, and credits."""

from __future__ import annotations

from typing import Any

from park.broker.accounts.ledger import MICRO
from park.broker.accounts.quotas import check_quota as check_limits
from park.broker.accounts.quotas import limited
from park.broker.effects import Effects
from park.broker.entities.jobs import BrokerJob
from park.broker.entities.maps import Attempt
from park.broker.scheduler.forecast import Forecast
from park.broker.state import State
from park.model import OwnerRecord


def weight(state: State, effects: Effects, job: BrokerJob) -> float:
    """The weight of the job by its priority. While its owner has no credit it weighs no more than a free job."""
    priority = job.facts.priority
    if priority > 0 and state.ledger.broke(job.owner, effects.now):
        return 1.0
    return 2.0**priority


def price(state: State, weight: float) -> int:
    """Micro-credits a slot-second; 0 for a broker without accounts."""
    return round(max(0.0, weight - 1.0) * MICRO) if state.ledger.policy is not None else 0


def charge_use(state: State, effects: Effects, job: BrokerJob, attempt: Attempt, seconds: float) -> None:
    """Charge the *seconds* since the attempt got its slots, and correct the estimate of the service clock."""
    used = seconds * attempt.cost
    state.clock.charge(job.number, used - attempt.charged, attempt.rates)
    state.clock.used(job.owner, attempt.weight * used, effects.now)
    attempt.charged = 0.0
    attempt.used += used
    job.seconds += used
    state.job_list.counted(job)
    paid = round(attempt.price * used)
    _pay(state, effects, job, attempt, paid, used)
    if attempt.map.driver:
        _add_below(state, attempt, used, paid, attempt.weight * used)


def refund(state: State, effects: Effects, job: BrokerJob, attempt: Attempt) -> None:
    """Refund an attempt whose work the fabric has lost or did not need, and the work of its maps."""
    used, paid = attempt.used + attempt.used_below, attempt.paid + attempt.paid_below
    use = attempt.weight * attempt.used + attempt.use_below
    state.clock.refund(job.number, attempt.charged + used, attempt.rates)
    state.clock.used(job.owner, -use, effects.now)
    job.seconds -= used
    state.job_list.counted(job)
    _pay(state, effects, job, attempt, -paid, -used)
    _add_below(state, attempt, -used, -paid, -use)
    attempt.charged = attempt.used = attempt.used_below = attempt.use_below = 0.0
    attempt.paid = attempt.paid_below = 0


def _add_below(state: State, attempt: Attempt, used: float, paid: int, use: float) -> None:
    """Add the cost of the attempt to the drivers that wait for it, from the inner one outwards.

    An attempt of a lost map is left out: it is refunded itself, and its driver waits for another map by now.
    """
    while not attempt.map.lost and (outer := state.attempts.get(attempt.map.driver)) is not None:
        outer.used_below += used
        outer.paid_below += paid
        outer.use_below += use
        attempt = outer


def _pay(
    state: State, effects: Effects, job: BrokerJob, attempt: Attempt, amount: int, seconds: float
) -> None:
    """Charge *amount* micro-credits for *seconds* slot-seconds. The seconds of a session are not kept for later lives."""
    attempt.paid += amount
    job.paid += amount
    stored = attempt.map.root and not attempt.map.once
    used = 0.0 if job.session else seconds
    state.ledger.charge(job.number, job.owner, amount, effects.now, stored, used)


def accrue(state: State, effects: Effects, attempt: Attempt) -> None:
    """Charge attempts beyond their estimate for their use up to now."""
    used = (effects.now - attempt.since) * attempt.cost
    if used > attempt.charged and not attempt.void:
        state.clock.charge(attempt.map.job, used - attempt.charged, attempt.rates)
        attempt.charged = used
        state.touched.jobs.add(attempt.map.job)


def reweigh(state: State, effects: Effects) -> None:
    """Set the weights of jobs by the balance of their owners: without credit they count as free."""
    for owner in state.ledger.changed(effects.now):
        for number in state.clock.jobs(owner):
            state.clock.reweigh(number, weight(state, effects, state.jobs[number]))
        effects.deltas += state.ledger.deltas({owner} & state.job_list.owners().keys())


def shares(state: State) -> dict[int, float]:
    """The part of all slots that is due to each job that has work or runs."""
    if state.standing.shares is None:
        jobs = state.jobs
        wanting = {n for a in state.attempts.values() if not a.void and jobs[n := a.map.job].dealt}
        wanting.update(state.clock.waiting)
        wanting.update(k.reserved for k in state.free_slots.reserved.values())
        state.standing.shares = state.clock.shares(wanting, state.now)
    return state.standing.shares


def forecast(state: State) -> Forecast:
    """The order of the jobs in `shares`."""
    if state.standing.forecast is None:
        state.standing.forecast = state.clock.forecast(shares(state))
    return state.standing.forecast


def owners(state: State) -> list[OwnerRecord]:
    """The owners of jobs that have not ended."""
    accounts = state.ledger.accounts if state.ledger.policy is not None else {}
    return [
        OwnerRecord(name, jobs, accounts[name].balance / MICRO if name in accounts else None)
        for name, jobs in state.job_list.owners().items()
    ]


def accounts(state: State, owner: str) -> list[dict[str, Any]]:
    """The public facts of the account of *owner*, or of all accounts ("*")."""
    known = {*state.ledger.accounts, *state.clock.owners}
    of_owner: dict[str, float] = {}
    for number, share in shares(state).items():
        name = state.jobs[number].owner
        of_owner[name] = of_owner.get(name, 0.0) + share
    costs: dict[str, dict[str, float]] = {}
    for number, job in state.jobs.items():  # the ledger does not keep sessions that have ended
        if job.paid:
            costs.setdefault(job.owner, {})[str(number)] = job.paid / MICRO
    tallies = dict(state.job_list.tallies)
    found = []
    for name in sorted(known if owner == "*" else {owner}):
        terms = None if state.ledger.policy is None else state.ledger.policy.of(name)
        balance = None if terms is None else terms.cap  # an owner without an account has a full one
        if terms is not None and name in state.ledger.accounts:
            balance = state.ledger.account(name, state.now).balance / MICRO
        found.append(
            {
                "owner": name,
                "balance": balance,
                "cap": None if terms is None else terms.cap,
                "rate": None if terms is None else terms.rate,
                "use": state.clock.use(name, state.now),
                "share": of_owner.get(name, 0.0),
                "jobs": costs.get(name, {}),
                "limits": {} if state.limits is None else limited(state.limits.of(name), tallies.get(name)),
            }
        )
    return found


def check_quota(state: State, owner: str, jobs: int, units: int, size: int) -> None:
    """Raise LimitReached if this would go beyond the owner's quotas."""
    if state.limits is not None:
        check_limits(owner, state.limits.of(owner), state.job_list.tallies.of(owner), jobs, units, size)

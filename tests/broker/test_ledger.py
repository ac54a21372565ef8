"""The credit ledger: what is granted, charged and written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.broker.accounts.ledger import MICRO, MICRO_SECONDS, CreditPolicy, Ledger, Terms
from park.broker.effects import Effects
from park.errors import InvalidRequest
from park.wire import codec

HOUR = 3600.0


def small(cap: float = 100.0, rate: float = 3600.0, epoch: int = 1) -> Ledger:
    return Ledger(CreditPolicy(Terms(cap, rate)), epoch)


def written(ledger: Ledger, now: float) -> dict[str, Any]:
    out = Effects()
    ledger.flush(now, out)
    return {
        "/".join(map(str, (w.namespace, *w.key))): None if w.value is None else codec.unpack(w.value)  # type: ignore[arg-type]
        for w in out.writes
    }


def test_an_account_begins_full_and_is_filled_up_to_its_cap() -> None:
    ledger = small()
    assert ledger.account("ann", 0.0).balance == 100 * MICRO
    ledger.charge(1, "ann", 60 * MICRO, 0.0, stored=True)
    assert ledger.account("ann", 10.0).balance == 50 * MICRO
    assert ledger.account("ann", 1000.0).balance == 100 * MICRO
    assert ledger.account("ann", 2000.0).balance == 100 * MICRO
    ledger.charge(1, "ann", 1 * MICRO, 2000.0, stored=True)
    assert ledger.account("ann", 2000.25).balance == round(99.25 * MICRO)
    ledger.check()


def test_who_is_broke_is_so_until_the_balance_is_positive() -> None:
    ledger = small()
    ledger.charge(1, "ann", 130 * MICRO, 0.0, stored=True)
    assert list(ledger.changed(0.0)) == ["ann"]
    assert ledger.broke("ann", 0.0)
    assert list(ledger.changed(29.0)) == []
    at = ledger.next_deadline()
    assert at < math.inf
    assert list(ledger.changed(30.01)) == ["ann"]
    assert not ledger.broke("ann", 30.01)
    # a grant does the same at once
    ledger.charge(1, "ann", 50 * MICRO, 31.0, stored=True)
    assert list(ledger.changed(31.0)) == ["ann"]
    ledger.grant("ann", 1000, 31.0)
    assert list(ledger.changed(31.0)) == ["ann"]
    assert ledger.account("ann", 31.0).balance > 900 * MICRO  # beyond the cap
    ledger.check()


def test_without_a_policy_nothing_is_charged() -> None:
    ledger = Ledger(None, 1)
    ledger.charge(1, "ann", 10**9, 0.0, stored=True)
    assert not ledger.broke("ann", 0.0)
    assert not ledger.accounts
    with pytest.raises(InvalidRequest, match="no credit limit"):
        ledger.grant("ann", 1, 0.0)


def test_charges_of_stored_units_are_written_with_them_and_others_within_a_second() -> None:
    ledger = small(rate=0.0)
    ledger.account("ann", 0.0)
    assert "account/ann" in written(ledger, 5.0)
    ledger.charge(1, "ann", 7, 5.1, stored=True)
    assert written(ledger, 5.1) == {
        "charge/1/1": {"owner": "ann", "amount": 7, "used": 0},
        "account/ann": {"granted": 100 * MICRO, "settled": 0},
    }
    ledger.charge(2, "ann", 5, 5.2, stored=False)
    assert written(ledger, 5.2) == {}
    assert ledger.next_deadline() == pytest.approx(6.1)
    assert written(ledger, 6.1)["charge/2/1"] == {"owner": "ann", "amount": 5, "used": 0}
    # a session's charges are the account's own when it has ended
    ledger.charge(2, "ann", 3, 6.2, stored=False)
    ledger.end(2, "ann", stored=False)
    assert written(ledger, 6.2) == {
        "charge/2/1": None,
        "account/ann": {"granted": 100 * MICRO, "settled": 8},
    }
    assert ledger.accounts["ann"].charged == 15
    ledger.check()


def test_a_refund_and_the_refill_in_its_place_fill_an_account_once() -> None:
    ledger = small(rate=3600.0)
    ledger.charge(1, "ann", 5 * MICRO, 0.0, stored=True)
    assert ledger.account("ann", 10.0).balance == 100 * MICRO
    ledger.charge(1, "ann", -5 * MICRO, 10.0, stored=True)
    assert ledger.account("ann", 10.0).balance == 100 * MICRO
    ledger.grant("ann", 50, 10.0)
    ledger.charge(1, "ann", 20 * MICRO, 10.0, stored=True)
    ledger.charge(1, "ann", -20 * MICRO, 10.0, stored=True)
    assert ledger.account("ann", 10.0).balance == 150 * MICRO
    ledger.check()


def test_a_later_life_knows_all_of_it() -> None:
    ledger = small()
    ledger.charge(1, "ann", 7 * MICRO, 0.0, stored=True, seconds=3.5)
    ledger.charge(2, "ann", 5 * MICRO, 0.0, stored=True)
    ledger.charge(3, "bob", 0, 0.0, stored=True, seconds=2.0)  # for free
    store = written(ledger, 0.0)
    later = small(epoch=2)
    later.restore_account("ann", store["account/ann"], 1000.0)
    assert "account/bob" not in store
    for job in (1, 2, 3):
        later.restore_charge(job, 1, store[f"charge/{job}/1"])
    assert later.account("ann", 1000.0).balance == 88 * MICRO
    later.charge(1, "ann", MICRO, 1000.0, stored=True, seconds=0.5)
    assert written(later, 1000.0)["charge/1/2"] == {
        "owner": "ann",
        "amount": MICRO,
        "used": MICRO_SECONDS // 2,
    }
    assert later.costs == {1: 8 * MICRO, 2: 5 * MICRO}
    assert [later.used_seconds(job) for job in (1, 2, 3, 4)] == [4.0, 0.0, 2.0, 0.0]
    later.forgive(1)  # what earlier lives lost
    assert later.account("ann", 1000.0).balance == 94 * MICRO
    assert later.used_seconds(1) == 0.5
    later.check()
    later.settle({1})  # job 2 was a session: it is gone
    assert later.account("ann", 1000.0).balance == 94 * MICRO
    assert later.accounts["ann"].settled == 5 * MICRO
    assert written(later, 1001.0)["charge/2/1"] is None
    later.check()


@pytest.mark.parametrize("credits", [0, -5, math.nan, math.inf, 1e300])
def test_a_grant_is_a_number_of_credits(credits: float) -> None:
    ledger = small()
    with pytest.raises(InvalidRequest, match="is no number of credits"):
        ledger.grant("ann", credits, 0.0)
    with pytest.raises(InvalidRequest, match="name of an owner"):
        ledger.grant("", 1, 0.0)
    assert not ledger.accounts


@pytest.mark.parametrize("terms", [{"cap": -1}, {"rate": math.nan}, {"cap": "much"}, {"rate": True}])
def test_terms_are_numbers(terms: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="is no number of credits"):
        Terms(**terms)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ann", "bob"]),
            st.integers(-(10**9), 10**9),
            st.floats(0, 100),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.floats(0, 1000),
    st.floats(0, 10_000),
)
def test_a_balance_is_what_was_granted_less_what_was_charged(
    steps: list[tuple[str, int, float, bool]], cap: float, rate: float
) -> None:
    ledger = small(cap, rate)
    now = 0.0
    disk: dict[str, Any] = {}
    for job, (owner, amount, wait, stored) in enumerate(steps):
        now += wait
        ledger.charge(job % 5 + 10 * (owner == "bob"), owner, amount, now, stored)
        list(ledger.changed(now))
        disk |= written(ledger, now)
        ledger.check()
    disk |= written(ledger, now + 1.0)
    later = small(cap, rate, epoch=2)
    for key, value in disk.items():
        if key.startswith("account/"):
            later.restore_account(key.removeprefix("account/"), value, now)
    for key, value in disk.items():
        if key.startswith("charge/") and value is not None:
            _, job_, epoch = key.split("/")
            later.restore_charge(int(job_), int(epoch), value)
    assert {o: a.balance for o, a in later.accounts.items()} == {
        o: a.balance for o, a in ledger.accounts.items()
    }

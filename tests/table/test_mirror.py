"""A mirror equals the broker's table at some number, or says that it is stale."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from park.model import Delta, JobRecord, KernelRecord, OwnerRecord
from park.table.mirror import (
    MAX_KEPT_MESSAGES,
    SNAPSHOT_PACE_SECONDS,
    SNAPSHOT_TIMEOUT_SECONDS,
    STALE_SECONDS,
    Mirror,
    MirrorState,
)
from park.table.table import TRANSITIONS, AnyRecord, Table, pack_deltas
from park.wire.messages import Deltas, Done, Head, Header, Message

Sent = tuple[Message, bytes]


class Broker:
    """A table that publishes, and remembers what it was at every number of every life."""

    def __init__(self, store: str = "s1", epoch: int = 1) -> None:
        self.store, self.epoch = store, epoch
        self.table = Table()
        self.past: dict[tuple[str, int, int], Table] = {}
        self.remember()

    def remember(self) -> None:
        self.past[self.store, self.epoch, self.table.seq] = Table.from_header(
            self.table.header(), self.table.seq
        )

    def change(self, *deltas: Delta) -> Sent:
        first = self.table.seq + 1
        for delta in deltas:
            self.table.apply(delta)
            self.remember()
        return Deltas(self.store, self.epoch, first, len(deltas)), pack_deltas(deltas)

    def submit(self, job: int) -> Sent:
        return self.change(Delta("job", job, JobRecord(job, "alice").as_map()))

    def head(self) -> Sent:
        return Head(self.store, self.epoch, self.table.seq), b""

    def header(self) -> Sent:
        return Header(self.store, self.epoch, self.table.seq), self.table.header()

    def restart(self, store: str | None = None) -> None:
        """A new life: numbers begin again, and kernels have yet to come back."""
        kept = Table.from_header(self.table.header(), 0)
        self.store, self.epoch, self.table = store or self.store, self.epoch + 1, Table()
        if store is None:
            for job in kept.jobs.values():
                self.table._rows["job"][job.job] = job
        self.remember()


def live_mirror(broker: Broker) -> Mirror:
    mirror = Mirror()
    assert mirror.wants_snapshot(0.0)
    mirror.feed(*broker.header(), 0.0)
    assert not mirror.stale
    return mirror


# -- one thing at a time -----------------------------------------------------------------------------


def test_it_is_stale_until_it_has_the_table() -> None:
    broker, mirror = Broker(), Mirror()
    assert (mirror.state, mirror.stale) == (MirrorState.INITIAL, True)

    assert mirror.wants_snapshot(10.0)
    assert (mirror.state, mirror.stale) == (MirrorState.SYNCING, True)
    broker.submit(1)
    changes = mirror.feed(*broker.header(), 10.1)

    assert changes == [(None, broker.table.jobs[1])]
    assert (mirror.state, mirror.stale, mirror.seq) == (MirrorState.LIVE, False, 1)
    assert mirror.table == broker.table
    assert mirror.jobs[1].owner == "alice"
    assert not mirror.kernels
    assert not mirror.owners
    assert not mirror.wants_snapshot(100.0)


def test_what_is_published_while_it_syncs_follows_the_header() -> None:
    broker, mirror = Broker(), Mirror()
    mirror.wants_snapshot(0.0)
    older = broker.submit(1)
    header = broker.header()
    newer = broker.submit(2)

    for sent in (older, newer, header):
        mirror.feed(*sent, 0.0)

    assert (mirror.state, mirror.seq) == (MirrorState.LIVE, 2)
    assert mirror.table == broker.table


def test_what_is_known_already_is_dropped() -> None:
    broker = Broker()
    mirror = live_mirror(broker)
    again = [broker.submit(1), broker.head(), broker.header()]
    both = broker.change(*(Delta("job", n, JobRecord(n, "bob").as_map()) for n in (2, 3)))
    first_only = Deltas("s1", 1, 2, 1), pack_deltas([Delta("job", 2, JobRecord(2, "bob").as_map())])

    for sent in (*again, *again, first_only, both):
        mirror.feed(*sent, 0.0)

    assert mirror.table == broker.table
    assert mirror.state is MirrorState.LIVE


@pytest.mark.parametrize("tells", [Broker.head, lambda broker: broker.submit(2)])
def test_a_loss_means_resync(tells: Callable[[Broker], Sent]) -> None:
    broker = Broker()
    mirror = live_mirror(broker)
    broker.submit(1)  # lost
    header = broker.header()

    mirror.feed(*tells(broker), 2.0)

    assert mirror.stale
    assert mirror.wants_snapshot(2.0)
    mirror.feed(*header, 2.0)
    assert mirror.table == broker.table
    assert not mirror.stale


@pytest.mark.parametrize("store", [None, "s2"])
def test_another_life_of_the_broker_means_resync(store: str | None) -> None:
    broker = Broker()
    mirror = live_mirror(broker)
    left_over = broker.submit(1)
    mirror.feed(*left_over, 1.0)
    broker.restart(store)

    mirror.feed(*broker.head(), 2.0)
    assert mirror.wants_snapshot(2.0)
    mirror.feed(*left_over, 2.0)
    mirror.feed(*broker.header(), 2.0)

    assert (mirror.store, mirror.epoch) == (broker.store, 2)
    assert mirror.table == broker.table
    assert mirror.state is MirrorState.LIVE


def test_what_an_earlier_life_had_under_way_is_ignored() -> None:
    broker = Broker()
    old = [broker.submit(n) for n in range(5)] + [broker.head(), broker.header()]
    broker.restart()
    mirror = live_mirror(broker)

    for sent in old:
        assert mirror.feed(*sent, 1.0) == []

    assert mirror.state is MirrorState.LIVE
    assert mirror.table == broker.table


def test_silence_makes_it_stale_and_news_fresh() -> None:
    broker = Broker()
    mirror = live_mirror(broker)

    mirror.tick(STALE_SECONDS)
    assert not mirror.stale
    mirror.tick(STALE_SECONDS + 0.1)
    assert mirror.stale
    assert not mirror.wants_snapshot(STALE_SECONDS + 0.1)
    assert repr(mirror) == "<Mirror live (stale) at 1.0>"
    mirror.feed(*broker.head(), STALE_SECONDS + 0.2)
    assert not mirror.stale


def test_a_snapshot_is_asked_for_again_but_not_too_often() -> None:
    broker, mirror = Broker(), Mirror()

    asked = [t for t in range(11) if mirror.wants_snapshot(float(t))]
    assert asked == [0, int(SNAPSHOT_TIMEOUT_SECONDS), int(2 * SNAPSHOT_TIMEOUT_SECONDS)]

    mirror.feed(*broker.header(), 10.0)
    broker.submit(1)
    mirror.feed(*broker.head(), 10.1)
    assert not mirror.wants_snapshot(10.1)
    assert mirror.wants_snapshot(10.0 + SNAPSHOT_PACE_SECONDS)


def test_mirrors_that_lost_the_same_do_not_ask_at_the_same_moment() -> None:
    broker, waits = Broker(), [0.1, 0.4]
    mirrors = [Mirror(lambda wait=wait: wait) for wait in waits]  # type: ignore[misc]
    for mirror in mirrors:
        assert mirror.wants_snapshot(0.0), "at first nobody waits"
        mirror.feed(*broker.header(), 0.0)
    broker.submit(1)
    for mirror, wait in zip(mirrors, waits, strict=True):
        mirror.feed(*broker.head(), 10.0)
        assert mirror.stale
        assert mirror.deadline() == 10.0 + wait
        assert not mirror.wants_snapshot(10.0)
        assert mirror.wants_snapshot(10.0 + wait)


def test_what_was_asked_over_a_connection_that_is_over_is_asked_again() -> None:
    broker, mirror = Broker(), Mirror()
    mirror.lost()
    assert mirror.wants_snapshot(0.0)
    mirror.feed(*broker.header(), 0.0)
    mirror.lost()
    assert not mirror.wants_snapshot(10.0), "it lacks nothing"
    broker.restart()
    mirror.feed(*broker.head(), 10.0)
    assert mirror.wants_snapshot(10.0)
    mirror.lost()
    assert mirror.deadline() == 10.0 + SNAPSHOT_PACE_SECONDS < 10.0 + SNAPSHOT_TIMEOUT_SECONDS
    assert mirror.wants_snapshot(10.0 + SNAPSHOT_PACE_SECONDS)


def test_a_change_that_does_not_fit_means_resync(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    broker.submit(1)
    for payload in (b"\xc1", pack_deltas([]), pack_deltas([Delta("job", 1, {"colour": "red"})])):
        mirror = live_mirror(broker)
        with caplog.at_level(logging.CRITICAL):
            assert mirror.feed(Deltas("s1", 1, 2, 1), payload, 2.0) == []
        assert mirror.stale
        assert mirror.table == broker.table
        assert mirror.wants_snapshot(2.0)
        mirror.feed(Header("s1", 1, 2), b"\xc1", 2.0)
        assert mirror.stale
        mirror.feed(*broker.header(), 2.0)
        assert not mirror.stale


def test_messages_of_other_kinds_mean_nothing() -> None:
    assert Mirror().feed(Done(reply=1), b"", 0.0) == []


def test_memory_is_bounded_while_it_syncs() -> None:
    broker, mirror = Broker(), Mirror()
    mirror.wants_snapshot(0.0)
    header = broker.header()
    for n in range(MAX_KEPT_MESSAGES + 10):
        mirror.feed(Deltas("s1", 1, n + 1, 1), b"not looked at yet", 0.0)
    assert len(mirror._kept) == MAX_KEPT_MESSAGES

    mirror.feed(*header, 0.0)

    assert mirror.stale  # the first of them are missing, and it knows


def test_subscribers_hear_of_each_change() -> None:
    broker = Broker()
    mirror = live_mirror(broker)
    heard: list[tuple[Any, Any, int]] = []
    end = mirror.subscribe(lambda old, new: heard.append((old, new, mirror.seq)))

    mirror.feed(*broker.submit(1), 0.0)
    was = broker.table.jobs[1]
    broker.change(Delta("job", 1, {"state": "running"}), Delta("job", 1, {"state": "complete"}))  # lost
    mirror.feed(*broker.head(), 2.0)
    mirror.feed(*broker.header(), 2.0)  # the difference, in one step
    end()
    end()
    mirror.feed(*broker.submit(2), 0.0)

    assert heard == [(None, was, 1), (was, broker.table.jobs[1], 3)]


def test_a_subscriber_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    mirror = live_mirror(broker)
    heard = []
    mirror.subscribe(lambda old, new: 1 / 0)
    mirror.subscribe(lambda old, new: heard.append(new))

    mirror.feed(*broker.submit(1), 0.0)

    assert heard == [broker.table.jobs[1]]
    assert "a subscriber to the table failed" in caplog.text


# -- any interleaving ----------------------------------------------------------------------------------


FATES = ["arrives", "waits", "lost", "not published"]


class Interleaving(RuleBasedStateMachine):
    """A broker, a mirror, and two connections between them that lose, delay and reorder what they like.

    Never wrong: whatever the mirror shows, live or not, was the broker's table at that number of
    that life, it never goes back to an earlier number, and the subscribers were told every step to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.mirror = Mirror()
        self.now = 0.0
        self.decided: list[Delta] = []  # by this turn, not published yet; a Header contains them already
        self.published: list[Sent] = []
        self.reached = ("", 0, 0)
        self.asked = 0
        self.answers: list[Sent] = []
        self.stores = 1
        self.told: dict[tuple[type, int | str], AnyRecord] = {}
        self.mirror.subscribe(self.on_change)

    def on_change(self, old: AnyRecord | None, new: AnyRecord | None) -> None:
        record = old or new
        assert record is not None
        key = (type(record), record.as_map()[next(iter(record.as_map()))])
        assert self.told.pop(key, None) == old
        if new is not None:
            self.told[key] = new

    # what the broker does

    @rule(data=st.data(), number=st.integers(1, 3), fate=st.sampled_from(FATES))
    def change(self, data: st.DataObject, number: int, fate: str) -> None:
        trial = Table.from_header(self.broker.table.header(), 0)
        deltas = []
        for _ in range(number):
            deltas.append(data.draw(st.sampled_from(possible(trial))))
            trial.apply(deltas[-1])
        self.broker.change(*deltas)
        self.decided += deltas
        if fate != "not published":
            self.publish(fate)

    @precondition(lambda self: self.decided)
    @rule(fate=st.sampled_from(FATES[:-1]))
    def publish(self, fate: str) -> None:
        first = self.broker.table.seq + 1 - len(self.decided)
        message = Deltas(self.broker.store, self.broker.epoch, first, len(self.decided))
        self.send((message, pack_deltas(self.decided)), fate)
        self.decided = []

    @precondition(lambda self: not self.decided)
    @rule(fate=st.sampled_from(FATES[:-1]))
    def head(self, fate: str) -> None:
        self.send(self.broker.head(), fate)

    def send(self, sent: Sent, fate: str) -> None:
        if fate == "arrives":
            self.mirror.feed(*sent, self.now)
        elif fate == "waits":
            self.published.append(sent)

    @precondition(lambda self: self.broker.table.seq > 5)
    @rule(new_store=st.booleans())
    def restart(self, new_store: bool) -> None:
        self.decided = []
        self.stores += new_store
        self.broker.restart(f"s{self.stores}" if new_store else None)

    @precondition(lambda self: self.asked)
    @rule()
    def answer(self) -> None:
        self.asked -= 1
        self.answers.append(self.broker.header())

    # what the network does

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        self.mirror.feed(*self.published.pop(data.draw(st.integers(0, len(self.published) - 1))), self.now)

    @precondition(lambda self: self.published)
    @rule()
    def deliver_all(self) -> None:
        while self.published:
            self.mirror.feed(*self.published.pop(0), self.now)

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), twice=st.booleans())
    def deliver_answer(self, data: st.DataObject, twice: bool) -> None:
        at = data.draw(st.integers(0, len(self.answers) - 1))
        self.mirror.feed(*(self.answers[at] if twice else self.answers.pop(at)), self.now)

    @precondition(lambda self: self.mirror.state is not MirrorState.LIVE)
    @rule()
    def nothing_goes_wrong(self) -> None:
        self.now += SNAPSHOT_TIMEOUT_SECONDS
        if self.mirror.wants_snapshot(self.now):
            self.mirror.feed(*self.broker.header(), self.now)

    # what the link does

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def look(self, seconds: float) -> None:
        self.now += seconds
        self.asked += self.mirror.wants_snapshot(self.now)

    # what must hold

    @invariant()
    def it_is_never_wrong(self) -> None:
        mirror = self.mirror
        if mirror.state is MirrorState.LIVE or mirror.store:
            assert mirror.table == self.broker.past[mirror.store, mirror.epoch, mirror.seq]
        if mirror.store == self.reached[0]:
            assert (mirror.store, mirror.epoch, mirror.seq) >= self.reached
        self.reached = (mirror.store, mirror.epoch, mirror.seq)
        shown = [*mirror.jobs.values(), *mirror.kernels.values(), *mirror.owners.values()]
        assert sorted(map(repr, shown)) == sorted(map(repr, self.told.values()))
        if mirror.state is MirrorState.LIVE:
            assert not mirror._kept

    def teardown(self) -> None:
        """Once everything arrives again, a few seconds make it live and equal."""
        self.decided.clear()
        self.published.clear()
        self.answers.clear()
        for _ in range(int(SNAPSHOT_TIMEOUT_SECONDS) + 5):
            self.now += 1.0
            self.mirror.feed(*self.broker.head(), self.now)
            if self.mirror.wants_snapshot(self.now):
                self.mirror.feed(*self.broker.header(), self.now)
        assert not self.mirror.stale
        assert (self.mirror.store, self.mirror.epoch) == (self.broker.store, self.broker.epoch)
        assert self.mirror.table == self.broker.table
        self.it_is_never_wrong()


def possible(table: Table) -> list[Delta]:
    """Changes that a broker may make to *table*, among few jobs and kernels."""
    deltas = [Delta("owner", "alice", OwnerRecord("alice", jobs=table.seq % 3).as_map())]
    for number in (1, 2):
        job = table.jobs.get(number)
        states = TRANSITIONS[job.state if job else None]
        if job is None:
            deltas += [Delta("job", number, JobRecord(number, "a", state=s).as_map()) for s in sorted(states)]
            continue
        deltas += [Delta("job", number, {"state": state}) for state in sorted(states)]
        deltas.append(Delta("job", number, {"done": job.done + 1, "progress": (1.0, 2.0)}))
        if job.state.ended:
            deltas.append(Delta("job", number, None))
    if table.kernels:
        deltas += [Delta("kernel", 1, {"busy": table.kernels[1].busy + 1}), Delta("kernel", 1, None)]
    else:
        deltas.append(Delta("kernel", 1, KernelRecord(1, "node", 5, slots=2).as_map()))
    return deltas


Interleaving.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestInterleaving = Interleaving.TestCase

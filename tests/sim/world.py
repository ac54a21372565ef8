"""`World`: everybody in it, the heap of what will happen, the broker's life, and accidents.

Time moves only from one entry of the heap to the next. An entry is *quiet* when it is only an alarm: somebody looks at
the clock. The broker takes what has arrived in turns, as its loop does; it may die between its decision and its commit,
and with a *disk* that takes its time it decides several turns before the first of them is committed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from park.broker.accounts.ledger import CreditPolicy
from park.broker.dispatcher import Dispatcher
from park.broker.effects import Event, Send, Tick
from park.broker.entities.archive import RetentionPolicy
from park.broker.manager import JobManager
from park.broker.restore import recall
from park.broker.storage.store import Store
from park.broker.storage.sweep import OF_JOBS
from park.broker.turns import Turn
from park.model import IDLE_PROCESSES_PER_SLOT
from park.wire import codec, messages
from tests.sim.client import Client
from tests.sim.disk import Disk, Pause, Shelf
from tests.sim.functions import ERROR, Pace, hasty, remark_on, values
from tests.sim.kernel import Kernel
from tests.sim.peer import Peer
from tests.sim.watcher import Watcher, tables
from tests.sim.wire import WALL, Latency, Wire, fitful

#: The time at which a world begins.
BEGIN = 100.0
#: Messages that the broker takes in one turn.
BATCH = 256
#: Seconds between two heads of the table.
HEAD = 1.0


class Judge(Protocol):
    """Sees what came about, and has no part in it."""

    def decided(self, turn: Turn) -> None:
        """The broker has decided."""

    def turned(self, turn: Turn) -> None:
        """A turn of the broker is on disk."""

    def died(self) -> None:
        """The broker has died, and not come back yet."""


def check_next(last: dict[int, int], attempt: int, number: int) -> None:
    """The line with this *number* comes after the *last* of its attempt: none is missing or comes twice."""
    assert number == last.get(attempt, 0) + 1, (
        f"after line {last.get(attempt, 0)} of {attempt} comes {number}"
    )
    last[attempt] = number


class World:
    """See the module. *checked*: all invariants are asserted after each event; *watched*: a mirror follows."""

    #: steps in which what should come about must have
    PATIENCE = 100_000

    def __init__(
        self,
        seed: int = 0,
        store: Callable[[], Store] | None = None,
        heartbeat: float = 2.0,
        lease: float = 20.0,
        *,
        pace: Pace = hasty,
        latency: Latency = fitful,
        policy: CreditPolicy | None = None,
        keep: RetentionPolicy | None = None,
        checked: bool = True,
        watched: bool = True,
        disk: Pause | None = None,
        process_start: float = 0.0,
    ) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.numbers = itertools.count(1)
        self.now = BEGIN
        #: the wall clock at time 0, as whoever sets it has it
        self._clock = WALL
        self.pace = pace
        self.latency = latency
        self.policy = policy
        self.keep = keep
        self.checked = checked
        #: seconds that the start of a process takes
        self.process_start = process_start
        self.disk = disk
        self._disk: Disk | None = None
        self.judges: list[Judge] = []
        self.peers: list[Peer] = []
        self._wires: dict[bytes, Wire] = {}
        #: attempts that began, and seconds that slots have computed, by job
        self.runs: Counter[int] = Counter()
        self.served: dict[int, float] = defaultdict(float)
        #: steps of a unit of a job of which a process knows that they are on disk
        self._durable: Counter[tuple[int, int]] = Counter()
        #: the number of the last line that followers have heard, by attempt
        self._heard: defaultdict[tuple[Client, int], dict[int, int]] = defaultdict(dict)
        #: units that went on from a checkpoint
        self.restores = 0
        #: of processes, and of the broker
        self.deaths = self.broker_deaths = 0
        #: the events that the dispatcher has handled, in all its lives
        self.events = 0
        self._heap: list[tuple[float, int, bool, Callable[..., None], tuple[Any, ...]]] = []
        self._entries = itertools.count()
        #: entries that are not quiet
        self._busy = 0
        self._inbox: list[Event] = []
        self._turn_due = False
        self._tick_at = float("inf")
        self._ticks = (0.0, 0)
        self._times = (heartbeat, lease)
        #: the store that outlives the broker, if no other one is given
        self.shelf = Shelf()
        self._open_store = store or (lambda: self.shelf)  # type: ignore[assignment,return-value]
        #: how the broker dies next: "", "decided" (before its commit) or "committed" (before it says so)
        self.doom = ""
        #: how likely what is published is lost
        self.loss = 0.0
        #: the broker's table, by store, epoch and number
        self.past: dict[tuple[str, int, int], tuple[dict[Any, Any], ...]] = {}
        self.watchers: list[Watcher] = []
        self.manager: JobManager
        self.start_broker()
        if watched:
            self.watcher()

    @property
    def dispatcher(self) -> Dispatcher:
        return self.manager.dispatcher

    # -- who is there --------------------------------------------------------------------------

    @property
    def kernels(self) -> list[Kernel]:
        return [p for p in self.peers if isinstance(p, Kernel)]

    @property
    def clients(self) -> list[Client]:
        return [p for p in self.peers if isinstance(p, Client)]

    def kernel(self, slots: int = 1, **options: Any) -> Kernel:
        kernel = Kernel(self, f"kernel {next(self.numbers)}", slots, **options)
        self.peers.append(kernel)
        return kernel

    def client(self, user: str = "ann") -> Client:
        client = Client(self, f"client {next(self.numbers)}", user)
        self.peers.append(client)
        return client

    def watcher(self) -> Watcher:
        watcher = Watcher(self, f"watcher {next(self.numbers)}")
        if not self.watchers:
            self.at(self.now + HEAD, self._publish_head, quiet=True)
        self.peers.append(watcher)
        self.watchers.append(watcher)
        self._remember()
        return watcher

    def connected(self, wire: Wire, before: bytes) -> None:
        """The broker sees the wire under a new name."""
        self._wires.pop(before, None)
        self._wires[wire.peer] = wire

    # -- what slots do -------------------------------------------------------------------------

    def began(self, job: int) -> None:
        """A process has begun with an attempt of the job."""
        self.runs[job] += 1

    def computed(self, job: int, seconds: float) -> None:
        """A slot has computed for the job."""
        self.served[job] += seconds

    def durable(self, job: int, unit: int, steps: int) -> None:
        """A process was told that its state after this number of steps is on disk."""
        self._durable[job, unit] = max(steps, self._durable[job, unit])

    def restored(self, job: int, unit: int, steps: int, attempt: int) -> None:
        """A process goes on from that state; one that the broker has lost may be told of it late."""
        overwritten = steps < self._durable[job, unit] and attempt in self.dispatcher.state.attempts
        assert not overwritten, "a state that was acknowledged is lost, or was overwritten"
        self.restores += 1

    def told(self, client: Client, message: messages.Stream, payload: Any) -> None:
        """A follower of a job gets this."""
        if message.kind == "log":
            check_next(self._heard[client, message.job], *codec.unpack(payload))

    # -- time ----------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[..., None], *given: Any, quiet: bool = False) -> None:
        """``what(*given)`` happens at that time."""
        if not quiet:
            self._busy += 1
        heapq.heappush(self._heap, (when, next(self._entries), quiet, what, given))

    @property
    def wall(self) -> float:
        """The time of the broker's wall clock."""
        return self._clock + self.now

    @property
    def seconds(self) -> float:
        """The seconds that have passed in the world."""
        return self.now - BEGIN

    def set_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock, so far ahead or, below 0, back."""
        self._clock += seconds

    def step(self) -> None:
        """The next thing happens."""
        when, _, quiet, what, given = heapq.heappop(self._heap)
        if when > self.now:
            self.now = when
        if not quiet:
            self._busy -= 1
        what(*given)

    def until(self, done: Callable[[], bool]) -> None:
        """Live on until *done*; AssertionError when that takes for ever."""
        for _ in range(self.PATIENCE):
            if done():
                return
            self.step()
        raise AssertionError(f"it never came to that: {self.story()}")

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap[0][0] <= end:
            self.step()
        self.now = max(self.now, end)

    def settle(self) -> None:
        """Until all that is left to come is that somebody looks at the clock, later."""
        for _ in range(self.PATIENCE):
            if not self._busy and self._heap[0][0] > self.now:
                return
            self.step()
        raise AssertionError(f"no rest: {self.story()}")

    def story(self) -> str:
        jobs = [j for j in self.dispatcher.state.jobs.values() if not j.ended]
        lines = [f"{j.record} {j.ending!r} {self.dispatcher.explain(j.number)!r}" for j in jobs]
        lines += [repr(a) for a in self.dispatcher.state.attempts.values()]
        lines += [f"{k} {k.presence} {k.machine.state.holds}" for k in self.kernels]
        lines += [f"{c} {c.presence} {[r.message for r in c.requests.values()]}" for c in self.clients]
        lines += [repr(w.mirror) for w in self.watchers]
        return "\n".join(lines)

    # -- the broker ----------------------------------------------------------------------------

    def start_broker(self) -> None:
        heartbeat, lease = self._times
        self._inbox.clear()
        self._tick_at = float("inf")
        self.manager = JobManager(
            self._open_store(), heartbeat, lease, checked=self.checked, policy=self.policy, keep=self.keep
        )
        self.manager.restore(self.now, self.wall)
        if self.disk is not None:
            self._disk = Disk(self, self.disk)
            self.manager.commit_by(self._disk)
        self.dispatcher.check()
        self._remember()
        self.broker_turn([Tick(self.wall)])

    def restart_broker(self) -> None:
        """Kill the broker: connections are cut, and turns without a commit are lost."""
        self.doom = ""
        self.broker_deaths += 1
        for judge in self.judges:
            judge.died()
        if self._disk is not None:
            self._disk.close()
        self.manager.close()
        for peer in self.peers:
            peer.wire.cut()
        self.start_broker()

    def hear(self, event: Event) -> None:
        """A message has arrived at the broker."""
        self._inbox.append(event)
        if not self._turn_due:
            self._turn_due = True
            self.at(self.now + self.latency(self.random), self._take_turn)

    def _take_turn(self) -> None:
        self._turn_due = False
        events: list[Event | Tick] = list(self._inbox[:BATCH])
        del self._inbox[:BATCH]
        deadline = self.manager.next_deadline(self.now)
        if deadline <= self.now:
            events.append(self._tick())
        if events:
            self.broker_turn(events)
        if self._inbox and not self._turn_due:
            self._turn_due = True
            self.at(self.now, self._take_turn)

    def _tick(self) -> Tick:
        when, count = self._ticks
        count = count + 1 if when == self.now else 1
        assert count < 50, f"the deadline {self.dispatcher.next_deadline()} does not move on"
        self._ticks = (self.now, count)
        return Tick(self.wall)

    def _look(self, deadline: float) -> None:
        """The broker's own alarm."""
        if deadline == self._tick_at:
            self._tick_at = float("inf")
            self._take_turn()
            self._arm_broker()

    def _arm_broker(self) -> None:
        deadline = self.manager.next_deadline(self.now)
        if deadline < self._tick_at:
            self._tick_at = deadline
            self.at(deadline, self._look, deadline, quiet=True)

    def broker_turn(self, events: list[Event | Tick]) -> None:
        self.events += len(events)
        turn = self.manager.decide(events, self.now)
        self._post(turn.sends)
        if self.doom == "decided":
            for peer in self.peers:
                peer.wire.let_arrive()
            self.restart_broker()
            return
        for judge in self.judges:
            judge.decided(turn)
        self.manager.hand_in(turn)
        self.complete()
        self._arm_broker()

    def complete(self) -> None:
        """Publish and acknowledge the turns that are on disk."""
        if self.doom == "committed" and self.manager.has_completed:
            self.restart_broker()
            return
        self._post(self.manager.late_answers())
        for turn in self.manager.completed():
            for judge in self.judges:
                judge.turned(turn)
            if turn.publish is not None and self.watchers:
                self._remember()
                self._publish(codec.encode(*turn.publish))
            self._post(turn.sends_after_commit)

    def _post(self, sends: list[Send]) -> None:
        for send in sends:
            wire = self._wires.get(send.peer)
            if wire is not None:
                wire.put_down(self.manager.payloads.frames(send))

    def _publish(self, frames: list[Any]) -> None:
        for watcher in self.watchers:
            if self.random.random() >= self.loss:
                watcher.wire.put_out(frames)

    def _publish_head(self) -> None:
        self._publish(codec.encode(self.manager.public.head))
        self.at(self.now + HEAD, self._publish_head, quiet=True)

    def _remember(self) -> None:
        if self.watchers:
            table, store = self.manager.table, self.manager.store
            self.past[store.id, store.epoch, table.seq] = tables(table)

    # -- accidents -----------------------------------------------------------------------------

    def cut(self, peer: Peer) -> None:
        """The connection breaks, and is made anew."""
        peer.wire.cut()

    def lose(self, peer: Peer) -> None:
        """The peer is gone without a word."""
        self._remove(peer)

    def leave(self, peer: Peer) -> None:
        """The peer says goodbye."""
        peer.alive = False
        peer.send(messages.Goodbye("it has left"))
        while peer.wire.up:
            event = Event(peer.wire.peer, *codec.decode(peer.wire.up.popleft()))
            self.broker_turn([event])
        self._remove(peer)

    def _remove(self, peer: Peer) -> None:
        peer.alive = False
        self._wires.pop(peer.wire.peer, None)
        self.peers.remove(peer)
        if isinstance(peer, Watcher):
            self.watchers.remove(peer)

    # -- the end -------------------------------------------------------------------------------

    def job(self, number: int) -> Any:
        """A job, also if it is archived; None: it was deleted."""
        if number not in self.dispatcher.state.jobs:
            recall(self.manager.store, self.dispatcher, number)
        return self.dispatcher.state.jobs.get(number)

    def result(self, job: int) -> list[Any]:
        """The stored results of a job, None where there is none; each unit is answered at most once."""
        entry = self.job(job)
        assert entry is not None
        got: dict[int, Any] = {}
        for key, data in self.manager.store.scan("results", (job,)):
            for unit, value in enumerate(values(data), key[1]):  # type: ignore[arg-type]
                assert unit not in got, f"unit {unit} of job {job} was answered twice"
                got[unit] = value
        assert sum(count for _, count in entry.results) == len(got), (
            "results in memory and in the store differ"
        )
        return [got.get(u) for u in range(1 if entry.submit.once else entry.root.total if entry.root else 0)]

    def check_nothing_is_left(self) -> None:
        """All jobs have ended: whatever was held for them is free again."""
        d = self.dispatcher.state
        assert all(j.ended for j in d.jobs.values()), self.story()
        assert not d.attempts
        assert not d.maps
        assert not d.job_list.dependents
        assert not d.code_cache._users
        assert not self.manager.handed
        assert not self.manager.payloads.pending
        assert not d.disk.waiting
        for job in d.jobs.values():
            assert [*job.waiters, *job.attempts, *job.resumable, *job.ready] == [], job.record
        for kernel in d.roster.kernels.values():
            assert kernel.running | kernel.parked | kernel.jobs == set(), kernel
            assert not kernel.fetches, kernel
        for client in d.roster.clients.values():
            assert not client.open, client
            assert not client.fetches, client
        store = self.manager.store
        assert store.count("trash") == 0
        here = {key[0] for namespace in ("job", "archive") for key, _ in store.scan(namespace)}
        for number in d.jobs:
            lines: dict[int, int] = {}
            for line in self.manager.public.job_messages.lines(number):
                check_next(lines, *codec.unpack(line))
        for (number, _), data in store.scan("results"):
            job, (value, *_) = d.jobs.get(number), values(data)
            if job is not None and job.submit.once and value != ERROR:
                assert job.record.remark == remark_on(value), job.record
        for namespace in OF_JOBS:
            assert {key[0] for key, _ in store.scan(namespace)} <= here, namespace
        assert {key[0] for key, _ in store.scan("blob")} == d.code_cache._kept.keys()
        spooled = Counter(namespace for namespace, _ in self.manager.payloads.spooled)
        assert spooled["units"] == 0
        assert spooled["blob"] <= len(d.code_cache)
        for own in self.kernels:
            assert not own.machine.state.attempts, own
            assert not own.machine.state.queued, own
            assert not own.machine.state.answers.stored, own
            assert not own.machine.state.published, own
            assert len(own.processes) <= IDLE_PROCESSES_PER_SLOT * own.machine.state.slots, own.processes
            assert not any(p.stack for p in own.processes.values())
        table = self.manager.table
        assert {n: j.record for n, j in d.jobs.items() if not j.archived} == dict(table.jobs.items())
        assert {k.number: k.record() for k in d.roster.kernels.values()} == dict(table.kernels.items())

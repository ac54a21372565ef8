"""The decisions of an allocator, against a batch system that refuses, forgets, loses nodes, and outlives the allocator."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random

import pytest
from msgspec.structs import replace

from park.batch import allocator
from park.batch.allocator import (
    MAX_DOUBLINGS,
    AllocatorState,
    CancelAllocation,
    Findings,
    Look,
    Policy,
    Stage,
    SubmitAllocation,
    broker_id,
    decide,
    name_of,
    number_in,
    orphans,
)
from park.batch.allocator_claims import CLAIM_SECONDS, claims
from park.batch.systems import Allocation
from park.model import WaitingWork

POLICY = Policy(name="fast", system="slurm", ppn=2, most=3)
BROKER = broker_id("store")
SEEDS = 12


class Killed(Exception):
    """The allocator is killed at this point."""


@dataclass
class Job:
    """A job of the batch system: what it is there for, and whether its node ever starts a kernel."""

    id: str
    healthy: bool
    state: str = "queued"
    up: bool = False
    idle: float = 0.0
    #: times between which the batch system does not list it
    hidden: tuple[float, float] = (0.0, 0.0)


@dataclass
class World:
    """A batch system, the work of a broker, and one allocator, whose record on disk is a copy of its state."""

    random: Random
    policy: Policy = POLICY
    #: how likely it is that a step of the world goes wrong
    trouble: float = 0.0
    now: float = 0.0
    backlog: int = 0
    state: AllocatorState = field(default_factory=AllocatorState)
    disk: AllocatorState = field(default_factory=AllocatorState)
    number: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    why: str = ""
    log: list[str] = field(default_factory=list)

    def bad(self, share: float = 1.0) -> bool:
        return self.random.random() < self.trouble * share

    @property
    def held(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state != "ended"]

    def save(self) -> None:
        self.log += self.state.news
        self.state.news.clear()
        self.disk = copy.deepcopy(self.state)

    def turn(self) -> None:
        """One look of the allocator, which may be killed on the way, and what it leads to."""
        self.now += 5.0
        self.live()
        if self.bad():  # the commands of the batch system fail
            return
        try:
            self.look()
        except Killed:
            self.state = copy.deepcopy(self.disk)
        assert len(self.held) <= self.policy.most
        assert self.why

    def look(self) -> None:
        listed = [
            Allocation(job.id, name, job.state)
            for name, job in self.jobs.items()
            if not job.hidden[0] <= self.now < job.hidden[1]
        ]
        kernels = {name: 1 for name, job in self.jobs.items() if job.up and job.state == "running"}
        busy = kernels if self.backlog else ()
        Look(self.policy, self.state, Findings.of(listed, kernels, busy), self.now).compare()
        strays = orphans(BROKER, listed, [a.name for a in self.state.allocations])
        for stray in strays:
            self.jobs[stray.name].state = "ended"
        actions, self.why = decide(self.policy, self.state, WaitingWork(self.backlog), self.now)
        self.save()
        for action in actions:
            if isinstance(action, SubmitAllocation):
                self.submit()
            else:
                self.cancel(action)
            self.save()

    def submit(self) -> None:
        self.number += 1
        name = name_of(BROKER, self.number)
        allocator.submitting(self.state, name, self.now)
        self.save()
        if self.bad(0.3):
            raise Killed
        self.asked.append(self.now)
        unsure = self.bad()
        if self.bad():
            allocator.refused(self.policy, self.state, name, "Invalid account", unsure)
            return
        assert name not in self.jobs
        job = self.jobs[name] = Job(str(self.number), not self.bad(2.0))
        if self.bad():  # it takes a while until it is listed
            job.hidden = (self.now, self.now + self.policy.grace / 2)
        if self.bad(0.3):
            raise Killed
        if unsure:
            allocator.refused(self.policy, self.state, name, "no answer", unsure)
        else:
            allocator.submitted(self.policy, self.state, name, job.id)

    def cancel(self, action: CancelAllocation) -> None:
        job = self.jobs[action.name]
        assert job.id == action.id
        fails = self.bad()
        if not fails:
            job.state = "ended"
        allocator.cancelled(self.state, action.name, self.now, "cannot connect" if fails else "")

    def live(self) -> None:
        """The batch system starts jobs, kernels come up, and leave when they have had no work for a time."""
        for job in self.held:
            if job.state == "queued":
                job.state = "running" if self.random.random() < 0.3 else "queued"
            elif job.healthy:
                job.up = True
                job.idle = 0.0 if self.backlog else job.idle + 5.0
                if job.idle >= self.policy.idle_timeout:
                    job.state = "ended"
            elif self.bad():
                job.state = "ended"


def turns(world: World, count: int) -> None:
    for _ in range(count):
        world.turn()


def test_from_nothing_to_three_and_back_to_nothing() -> None:
    world = World(Random(1))
    turns(world, 3)
    assert (world.why, world.jobs) == ("no unit waits that could run here", {})
    world.backlog = 4
    turns(world, 1)
    assert world.why == "it looks once more whether the work still waits"
    turns(world, 1)
    assert len(world.held) == 1
    turns(world, 1)
    assert "is a probe" in world.why
    turns(world, 100)
    assert len(world.held) == 3
    world.backlog = 0
    turns(world, 100)
    assert (world.held, world.state.allocations) == ([], [])
    assert world.log[0] == f"park-{BROKER}-1 is submitted: job 1 of slurm, 2 slots"
    assert world.log[1] == f"park-{BROKER}-1 is up"


@pytest.mark.parametrize("trouble", [0.0, 0.05, 0.2])
def test_never_too_many_no_storm_and_nothing_is_left(trouble: float) -> None:
    for seed in range(SEEDS):
        world = World(Random(seed), trouble=trouble)
        for _ in range(150):
            if world.random.random() < 0.05:
                world.backlog = world.random.choice((0, 1, 3, 50))
            if world.random.random() < 0.02:
                world.policy = replace(world.policy, resumes=world.policy.resumes + 1)
            world.turn()
        apart = [later - sooner for sooner, later in zip(world.asked, world.asked[1:], strict=False)]
        assert all(gap >= POLICY.spacing for gap in apart), (seed, apart)
        world.backlog, world.trouble = 0, 0.0
        turns(world, 200)
        assert (world.held, world.state.allocations) == ([], []), seed


def test_an_allocation_under_way_at_a_kill_is_found_by_its_name_and_not_asked_for_twice() -> None:
    world = World(Random(3), backlog=9)
    turns(world, 1)
    allocator.submitting(world.state, name_of(BROKER, 1), world.now)
    world.save()
    world.number, world.jobs[name_of(BROKER, 1)] = 1, Job("4711", True)
    world.state = copy.deepcopy(world.disk)  # killed, before the answer was written down
    turns(world, 1)
    assert f"park-{BROKER}-1 was found again: it is job 4711 of slurm" in world.log
    assert (list(world.jobs), world.state.allocations[0].id) == ([name_of(BROKER, 1)], "4711")


def test_what_the_batch_system_never_got_is_lost_after_the_grace() -> None:
    world = World(Random(3), backlog=9)
    turns(world, 1)
    allocator.submitting(world.state, name_of(BROKER, 1), world.now)
    world.number = 1
    turns(world, round(POLICY.grace / 5))
    assert "is a probe, and submitted" in world.why
    turns(world, 1)
    assert world.log[:1] == [f"park-{BROKER}-1 was not submitted: slurm does not list it"]


def test_ten_refusals_in_a_row_pause_it_with_the_words_until_it_is_resumed() -> None:
    world = World(Random(5), backlog=9)
    for _ in range(3000):
        actions, why = decide(world.policy, world.state, WaitingWork(9), world.now)
        world.now += 5.0
        if SubmitAllocation() in actions:
            allocator.submitting(world.state, "park-x-1", world.now)
            world.asked.append(world.now)
            allocator.refused(world.policy, world.state, "park-x-1", "qsub: Unauthorized Request")
    assert len(world.asked) == 10
    assert world.asked[-1] - world.asked[-2] >= POLICY.spacing * 2**MAX_DOUBLINGS
    assert why == (
        "it has paused itself, as slurm has refused 10 submissions in a row: qsub: Unauthorized Request; "
        "`park alloc resume fast` tries again"
    )
    world.policy = Policy(name="fast", system="slurm", resumes=1)
    turns(world, 2)
    assert len(world.held) == 1


def test_three_starts_without_a_kernel_pause_it_with_the_last_words() -> None:
    policy = Policy(name="fast", system="slurm", most=1, start=60.0)
    state, now, submitted = AllocatorState(), 0.0, 0
    for _ in range(400):
        now += 5.0
        listed = [Allocation(a.name, a.name, "running") for a in state.allocations if a.cancelled is None]
        Look(policy, state, Findings.of(listed, {}), now, lambda name: "ssh: no route to host").compare()
        for action in decide(policy, state, WaitingWork(9), now)[0]:
            if isinstance(action, SubmitAllocation):
                submitted += 1
                allocator.submitting(state, f"park-x-{submitted}", now)
            else:
                allocator.cancelled(state, action.name, now)
    assert submitted == 3
    text = "no kernel of park-x-3 connected within 60 s: ssh: no route to host"
    assert state.pause == f"3 starts in a row have failed; the last one: {text}"
    assert state.allocations == []


def test_allocations_that_find_no_work_come_ever_more_seldom() -> None:
    """The units that wait need what no kernel has, and nothing but an allocation tells so."""
    policy = Policy(name="fast", system="slurm", most=1, idle=10.0, min_life=0.0, grace=0.0)
    state, now, asked = AllocatorState(), 0.0, list[float]()
    for _ in range(2000):
        now += 5.0
        fresh = [a for a in state.allocations if now - a.asked < 10.0]
        listed = [Allocation(a.name, a.name, "running") for a in fresh]
        Look(policy, state, Findings.of(listed, {a.name: 1 for a in fresh}), now).compare()
        actions, why = decide(policy, state, WaitingWork(1), now)
        if SubmitAllocation() in actions:
            asked.append(now)
            allocator.submitting(state, f"park-x-{len(asked)}", now)
    assert len(asked) < 11
    assert "idle allocations in a row" in why


def test_a_queued_one_lives_for_a_while_before_it_is_given_back() -> None:
    world = World(Random(1), backlog=4)
    state = world.state
    allocator.submitting(state, "park-x-1", 0.0)
    allocator.submitted(POLICY, state, "park-x-1", "7")
    for now in (50.0, 60.0):
        assert decide(POLICY, state, WaitingWork(1), now)[0] == []
    since = 100.0
    assert decide(POLICY, state, WaitingWork(), since)[0] == []
    assert decide(POLICY, state, WaitingWork(), since + POLICY.min_life - 1)[0] == []
    found, why = decide(
        POLICY, state, WaitingWork(0, 0, {"for a kernel that has 9 slots": 2}), since + POLICY.min_life
    )
    assert found == [CancelAllocation("park-x-1", "7", "no work is left for it")]
    assert why == "no unit waits that could run here: 2 jobs for a kernel that has 9 slots"


def test_what_is_not_listed_counts_for_a_while_and_shortly_where_its_kernels_have_left() -> None:
    state = AllocatorState()
    allocator.submitting(state, "park-x-1", 0.0)
    allocator.submitted(POLICY, state, "park-x-1", "7")
    job = Allocation("7", "park-x-1", "running")
    Look(POLICY, state, Findings.of([job], {"park-x-1": 1}), 5.0).compare()
    Look(POLICY, state, Findings.of([], {"park-x-1": 1}), 900.0).compare()
    assert [a.stage for a in state.allocations] == [Stage.UP]
    Look(POLICY, state, Findings.of([], {}), 1000.0).compare()
    Look(POLICY, state, Findings.of([], {}), 1000.0 + allocator.UNLISTED_ALLOCATION_SECONDS - 1).compare()
    assert [a.words for a in state.allocations] == ["slurm does not list it"]
    Look(POLICY, state, Findings.of([], {}), 1000.0 + allocator.UNLISTED_ALLOCATION_SECONDS).compare()
    assert state.allocations == []
    assert state.news[-1] == "park-x-1 has ended, and had no work: slurm does not list it any more"


def test_it_is_said_where_some_nodes_have_no_kernel() -> None:
    state, policy = AllocatorState(), replace(POLICY, nodes=2)
    allocator.submitting(state, "park-x-1", 0.0)
    for count, words in ((1, "1 of 2 nodes have a kernel"), (2, "")):
        Look(policy, state, Findings.of([], {"park-x-1": count}), 5.0).compare()
        assert [(str(a.stage), a.words) for a in state.allocations] == [("up", words)]


def test_nodes_that_come_up_one_after_the_other_are_on_the_way() -> None:
    state, policy = AllocatorState(backlog=2), replace(POLICY, nodes=2, spacing=0.0)
    allocator.submitting(state, "park-x-1", 0.0)
    Look(policy, state, Findings.of([], {"park-x-1": 1}), 5.0).compare()
    assert decide(policy, state, WaitingWork(2), 5.0) == (
        [],
        "the nodes still to come will do for the work that waits",
    )
    assert decide(policy, state, WaitingWork(2), 5.0 + allocator.OTHER_NODES_SECONDS)[0] == [
        SubmitAllocation()
    ]


def test_an_allocation_with_another_name_is_known_by_its_id() -> None:
    state = AllocatorState()
    allocator.submitting(state, "park-x-1", 0.0)
    allocator.submitted(POLICY, state, "park-x-1", "7.head")
    renamed = Allocation("7.head.site.org", "held by ops", "queued", "Reservation")
    Look(POLICY, state, Findings.of([renamed], {}), 900.0).compare()
    assert [(str(a.stage), a.words) for a in state.allocations] == [("queued", "Reservation")]


def test_one_that_is_removed_ends_all_that_it_has() -> None:
    state, policy = AllocatorState(), Policy(name="fast", system="slurm", removing=True)
    for number in (1, 2):
        allocator.submitting(state, f"park-x-{number}", 0.0)
    allocator.submitted(policy, state, "park-x-1", "7")
    found, why = decide(policy, state, WaitingWork(9), 5.0)
    assert found == [CancelAllocation("park-x-1", "7", "its allocator is removed")]
    assert why == "it is being removed: 2 allocations must end first"
    allocator.cancelled(state, "park-x-1", 5.0, "cannot connect")
    assert decide(policy, state, WaitingWork(9), 6.0)[0] == []
    assert decide(policy, state, WaitingWork(9), 5.0 + allocator.CANCEL_AGAIN_SECONDS)[0] == found
    assert state.allocations[1].stage is Stage.ENDING


def test_orphans_are_those_of_this_broker_that_hold_something() -> None:
    found = [
        Allocation(str(n), name, state)
        for n, (name, state) in enumerate(
            [
                (name_of(BROKER, 1), "running"),
                (name_of(BROKER, 2), "queued"),
                (name_of(BROKER, 3), "ended"),
                (name_of("none", 4), "running"),
                (f"park-{BROKER}-5b", "running"),
                ("fit", "running"),
            ]
        )
    ]
    assert [a.id for a in orphans(BROKER, found, [name_of(BROKER, 1)])] == ["1"]
    assert number_in(BROKER, name_of(BROKER, 99999)) == 99999
    assert len(name_of(BROKER, 99999)) <= 15


def test_work_that_another_allocator_has_claimed_is_not_submitted_for() -> None:
    policies = {name: replace(POLICY, name=name) for name in ("fast", "long")}
    states = {name: AllocatorState(backlog=9, proved=True) for name in policies}
    work = {"1": 3, "2": 1}
    backlogs: dict[str, WaitingWork | None] = {
        "fast": WaitingWork(4, 2, parts=work),
        "long": WaitingWork(4, 2, parts=work),
    }
    for number in (1, 2):
        allocator.submitting(states["fast"], f"park-x-{number}", 0.0)
    assert claims("fast", policies, states, backlogs, 5.0) == {}
    claimed = claims("long", policies, states, backlogs, 5.0)
    assert claimed == {"fast": 4}
    assert decide(policies["long"], states["long"], backlogs["long"], 5.0, claimed) == (
        [],
        "allocations on the way of fast will do for the work that waits",
    )
    backlogs["long"] = WaitingWork(6, 2, parts={"1": 3, "7": 3})
    claimed = claims("long", policies, states, backlogs, 5.0)
    assert claimed == {"fast": 3}, "it cannot take job 7"
    assert decide(policies["long"], states["long"], backlogs["long"], 5.0, claimed)[0] == [SubmitAllocation()]
    assert claims("long", policies, states, backlogs, CLAIM_SECONDS) == {}, "its queue is long"


def test_two_allocators_do_not_claim_the_same_slots() -> None:
    policies = {name: replace(POLICY, name=name) for name in ("fast", "gpu", "long")}
    states = {name: AllocatorState() for name in policies}
    backlogs = dict.fromkeys(policies, WaitingWork(2, 1, parts={"1": 2})) | {
        "long": WaitingWork(4, 2, parts={"1": 2, "7": 2})
    }
    for name in ("fast", "gpu"):
        allocator.submitting(states[name], f"park-{name}-1", 0.0)
    claimed = claims("long", policies, states, backlogs, 5.0)
    assert sum(claimed.values()) == 2, "neither of them can take job 7"

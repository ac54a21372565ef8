"""The simulator: many lives from seeds, of which each must end well, and the proof that it would notice if one did not.

Real machines decide, and nothing else does: they decide the same where nothing of the simulator is.
"""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from park.broker import assign, manager
from park.broker.dispatcher import HANDLERS, Dispatcher
from park.broker.effects import Effects, Event
from park.broker.entities import maps
from park.broker.entities.controls import Controls
from park.broker.entities.devices import Devices
from park.broker.entities.maps import AttemptState
from park.broker.entities.requirements import Needs
from park.broker.entities.roster import Kernel, Roster
from park.broker.handlers import (
    attempts,
    charging,
    code_sharing,
    controls,
    drain,
    job_lifecycle,
    late_units,
    recovery,
    requests,
    results,
    streams,
)
from park.broker.manager import JobManager
from park.broker.scheduler.fairshare import ServiceClock
from park.broker.state import State
from park.broker.storage.job_messages import JobMessages
from park.broker.turns import Turn
from park.errors import ParkError
from park.kernel.machine import code_cache, late_chunks, process
from park.kernel.machine.publish_log import PublishLog
from park.table.mirror import Mirror
from park.wire.messages import Committed, Early, HandBack, Publish, Submit
from tests.sim.disk import Disk, Shelf
from tests.sim.functions import exact
from tests.sim.world import World
from tests.support.replay import recorded
from tests.support.trials import (
    a_kernel_is_lost,
    back_again,
    clock_is_set,
    live,
    lost_work,
    pay,
    serve_alone,
    share_at_once,
    steer,
    storm,
    the_broker_dies,
)

ROOT = Path(__file__).resolve().parents[2]

#: It notes a name and a value with the test's outcome.
Property = Callable[[str, object], None]

# -- many lives --------------------------------------------------------------------------------------


def blocks(kept: int, of: int) -> list[Any]:
    """The numbers of blocks of seeds: the first *kept* of them for each run, the others for the long one."""
    return [*range(kept), *(pytest.param(n, marks=pytest.mark.heavy) for n in range(kept, of))]


@pytest.mark.parametrize("tens", blocks(2, of=50))
def test_whatever_happens_every_unit_is_answered_once(tens: int, record_property: Property) -> None:
    record_property("simulated", live(range(10 * tens, 10 * tens + 10)))


@pytest.mark.parametrize("tens", blocks(1, of=10))
def test_nothing_is_wrong_or_lost_while_accidents_never_stop(tens: int, record_property: Property) -> None:
    record_property("simulated", storm(range(10 * tens, 10 * tens + 10)))


@pytest.mark.parametrize("tens", blocks(1, of=5))
def test_lives_in_which_kernels_take_code_from_each_other(
    tens: int, record_property: Property, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_sharing, "MIN_SPREAD_BYTES", 1)
    record_property("simulated", live(range(4 * tens, 4 * tens + 4)) + storm(range(tens, tens + 1)))


def test_lives_in_which_no_code_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (code_cache, process):
        monkeypatch.setattr(module, "MAX_CODE_BYTES", 0)
    live(range(8))


def test_lives_in_which_every_chunk_is_large_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Counter[type]()

    def counted(kind: type[HandBack | Early], handler: Callable[..., None]) -> Callable[..., None]:
        def handle(state: State, effects: Effects, event: Event, message: Any) -> None:
            before = state.attempts[message.attempt].span if message.attempt in state.attempts else None
            handler(state, effects, event, message)
            said[kind] += before is not None and state.attempts[message.attempt].span != before

        return handle

    for kind in (HandBack, Early):
        monkeypatch.setitem(HANDLERS, kind, counted(kind, HANDLERS[kind]))
    monkeypatch.setattr(maps, "CHUNK_SECONDS", 0.5)
    monkeypatch.setattr(late_chunks, "LATE_SECONDS", 1e-3)
    monkeypatch.setattr(late_units, "LATE_UNIT_SECONDS", 1e-2)
    live(range(8))
    assert said[HandBack] > 5
    assert said[Early]


@pytest.mark.parametrize("block", blocks(2, of=10))
def test_lives_on_a_disk_that_takes_nothing_for_a_while(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[int] = []
    join = JobManager._join

    def counted(self: JobManager, late: list[Turn]) -> None:
        joined.append(len(late))
        join(self, late)

    monkeypatch.setattr(JobManager, "_join", counted)
    monkeypatch.setattr(manager, "MAX_LATE_TURNS", 3)
    monkeypatch.setattr(manager, "MAX_BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(Shelf, "jams", True)
    live(range(8 * block + 1, 8 * block + 9, 2))
    assert len(joined) > 4


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(5, 25))
def test_more_lives(hundreds: int, record_property: Property) -> None:
    record_property("simulated", live(range(100 * hundreds, 100 * hundreds + 100)))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 20))
def test_more_storms(hundreds: int, record_property: Property) -> None:
    record_property("simulated", storm(range(100 * hundreds, 100 * hundreds + 100)))


@pytest.mark.parametrize("seed", blocks(2, of=10))
def test_a_wall_clock_that_is_set_by_an_hour_or_a_day_changes_nothing(seed: int) -> None:
    deeds = clock_is_set(seed)
    assert len(deeds) > 100
    assert deeds == clock_is_set(seed, often=False)


@pytest.mark.parametrize("tens", blocks(1, of=4))
def test_whatever_happens_the_books_are_right(tens: int) -> None:
    pay(range(10 * tens, 10 * tens + 10))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 6))
def test_more_books(hundreds: int) -> None:
    pay(range(100 * hundreds, 100 * hundreds + 100))


@pytest.mark.parametrize("tens", [14, *blocks(1, of=4)])
def test_whatever_happens_what_is_said_is_heard(tens: int) -> None:
    steer(range(10 * tens, 10 * tens + 10))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 5))
def test_more_is_said(hundreds: int) -> None:
    steer(range(100 * hundreds, 100 * hundreds + 100))


def test_whatever_happens_private_jobs_are_served_alone() -> None:
    serve_alone(range(6))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 5))
def test_more_is_served_alone(hundreds: int) -> None:
    serve_alone(range(100 * hundreds, 100 * hundreds + 100))


@pytest.mark.parametrize("accident", [a_kernel_is_lost, the_broker_dies])
def test_what_was_lost_is_not_paid_for(accident: Callable[[World], None]) -> None:
    lost_work(accident)


# -- planted bugs ------------------------------------------------------------------------------------


def forgets_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    retire = attempts.retire

    def wrong(state: State, effects: Effects, job: Any, attempt: Any, *rest: Any, **more: Any) -> None:
        retire(state, effects, job, attempt, *rest, **more)
        if attempt.number % 7 == 3 and not attempt.parked:
            attempt.kernel.occupy(Needs(), ())

    monkeypatch.setattr(attempts, "retire", wrong)


def answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late or doubled answer is taken for a new one."""
    deliver, held_by = results.deliver, attempts.held_by
    last: list[Effects] = []
    answers: dict[int, tuple[Any, ...]] = {}

    def remembers(state: State, effects: Effects, job: Any, map_: Any, start: int, *rest: Any) -> None:
        answers[start] = (job, map_, start, *rest)
        deliver(state, effects, job, map_, start, *rest)

    def wrong(state: State, event: Any, number: int) -> Any:
        attempt = held_by(state, event, number)
        if attempt is None and getattr(event.message, "start", None) in answers:
            results.deliver(state, last[-1], *answers[event.message.start])
        return attempt

    begin = State.begin

    def begins(self: State, now: float) -> Effects:
        last[:] = [begin(self, now)]
        return last[0]

    monkeypatch.setattr(State, "begin", begins)
    monkeypatch.setattr(results, "deliver", remembers)
    monkeypatch.setattr(attempts, "held_by", wrong)


def acknowledges_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Effects, "answer", Effects.send)


def knows_no_request_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is sent again becomes a second job."""
    submit = requests.on_submit

    def wrong(state: State, effects: Effects, event: Any, message: Any) -> None:
        state.job_list.by_key.pop(message.key, None)
        submit(state, effects, event, message)

    monkeypatch.setitem(HANDLERS, Submit, wrong)


def never_ends_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that says nothing keeps what it has for ever."""
    look = Roster.look

    def wrong(self: Roster, now: float) -> Any:
        for member in (*self.kernels.values(), *self.clients.values()):
            member.last_heard = now
        return look(self, now)

    monkeypatch.setattr(Roster, "look", wrong)


def takes_for_saved_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "done", lambda self: sys.maxsize)


def loses_a_parked_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    check = job_lifecycle.check_map

    def wrong(state: State, effects: Effects, map_: Any) -> None:
        check(state, effects, map_)
        driver = state.attempts.get(map_.driver)
        if driver is not None and driver.resumable and driver.number % 3 == 0:
            state.jobs[map_.job].drop_resumable(driver)
            driver.state = AttemptState.IN_MAP
            job_lifecycle.refresh(state, effects, state.jobs[map_.job])

    monkeypatch.setattr(job_lifecycle, "check_map", wrong)


def knows_no_control_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is sent again is given to the body again."""
    monkeypatch.setattr(Controls, "__contains__", lambda self, key: False)


def gives_a_control_before_it_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = controls.deliver

    def wrong(state: State, effects: Effects, *given: Any) -> None:
        saved, effects.saved = effects.saved, effects.turn
        deliver(state, effects, *given)
        effects.saved = saved

    monkeypatch.setattr(controls, "deliver", wrong)


def forgets_what_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut a kernel gets no control that was lost."""
    monkeypatch.setattr(controls, "redeliver", lambda state, effects, kernel: None)


def gives_again_what_a_checkpoint_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "mark_served", lambda state, effects, job, served: None)


def takes_in_who_has_missed_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body goes on that has not heard all that the checkpoint of another one has."""
    monkeypatch.setattr(recovery, "_is_superseded", lambda job, orphan: False)


def sees_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror takes changes for the next ones that are later ones."""
    feed = Mirror.feed

    def wrong(self: Mirror, message: Any, payload: Any, now: float) -> Any:
        if type(message).__name__ == "Deltas":
            self.table.seq = max(self.table.seq, message.seq - 1)
        return feed(self, message, payload, now)

    monkeypatch.setattr(Mirror, "feed", wrong)


def charges_twice_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    retire = attempts.retire

    def wrong(*given: Any, lost: bool = False, **more: Any) -> None:
        retire(*given, **more)

    monkeypatch.setattr(attempts, "retire", wrong)


def forgets_a_refund(monkeypatch: pytest.MonkeyPatch) -> None:
    refund = charging.refund

    def wrong(state: State, effects: Effects, job: Any, attempt: Any) -> None:
        attempt.paid = 0
        refund(state, effects, job, attempt)

    monkeypatch.setattr(charging, "refund", wrong)


def serves_the_least_charged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = ServiceClock.pick

    def wrong(self: ServiceClock, work_classes: Any, *given: Any, **more: Any) -> int:
        work_classes = list(work_classes)
        if not pick(self, work_classes, *given, **more):
            return 0
        due = [j for j in self._jobs.values() if not j.work_classes.isdisjoint(work_classes)]
        return min(due, key=lambda j: (j.charged, j.number)).number

    monkeypatch.setattr(ServiceClock, "pick", wrong)


def keeps_nothing_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel does not repeat messages that were on their way when the contact was lost."""
    monkeypatch.setattr(PublishLog, "all", lambda self: iter(()))


def takes_what_comes_again_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    take = JobMessages.take

    def wrong(self: JobMessages, p: Any, *given: Any) -> bool:
        if p.job in self._streams:
            self._streams[p.job].marks.clear()
        return take(self, p, *given)

    monkeypatch.setattr(JobMessages, "take", wrong)


def has_heard_what_is_not_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = streams.on_publish

    def wrong(state: State, effects: Effects, event: Any, message: Any) -> None:
        publish(state, effects, event, message)
        effects.send(event.peer, Committed([], [message.attempt, message.number]))

    monkeypatch.setitem(HANDLERS, Publish, wrong)


def leaves_drivers_behind_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    right = assign._resume_on

    def wrong(state: State, effects: Effects, kernel: Kernel) -> bool:
        return kernel.draining and right(state, effects, kernel)

    monkeypatch.setattr(assign, "_resume_on", wrong)


def keeps_a_gpu_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Devices, "give_back", lambda self, devices, gpus: None)


def lets_kernels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of a private job stay when it has ended while they were away."""
    monkeypatch.setattr(drain, "let_go_of", lambda state, effects, kernel: None)
    monkeypatch.setattr(World, "PATIENCE", 20_000)


def counts_idle_time_as_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceClock, "_start", lambda self, entry, *given: entry.tag)


@pytest.mark.parametrize(
    ("plant", "trial"),
    [
        (charges_twice_on_a_retry, lambda: pay(range(20))),
        (forgets_a_refund, lambda: lost_work(a_kernel_is_lost)),
        (serves_the_least_charged_first, lambda: share_at_once(0)),
        pytest.param(counts_idle_time_as_credit, back_again, marks=pytest.mark.heavy),
        (takes_in_who_has_missed_some, lambda: steer((16, 176, 219))),  # a life in eighty shows it
        (forgets_what_was_on_its_way, lambda: steer(range(20, 120))),  # a life in ten shows it
        (lets_kernels_stay, lambda: serve_alone(range(6))),
    ],
)
def test_the_trials_notice_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], trial: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        trial()


@pytest.mark.parametrize("checked", [pytest.param(True, marks=pytest.mark.heavy), False])
@pytest.mark.parametrize(
    "plant",
    [
        forgets_a_slot,
        answers_twice,
        acknowledges_before_the_commit,
        knows_no_request_again,
        pytest.param(never_ends_a_lease, marks=pytest.mark.heavy),
        takes_for_saved_what_is_on_its_way,
        pytest.param(loses_a_parked_driver, marks=pytest.mark.heavy),
        knows_no_control_again,
        gives_a_control_before_it_is_on_disk,
        gives_again_what_a_checkpoint_has,
        sees_no_gap,
        pytest.param(keeps_nothing_that_was_said, marks=pytest.mark.heavy),
        pytest.param(takes_what_comes_again_for_new, marks=pytest.mark.heavy),
        pytest.param(leaves_drivers_behind_in_a_pause, marks=pytest.mark.heavy),
        keeps_a_gpu_for_ever,
        pytest.param(has_heard_what_is_not_on_disk, marks=pytest.mark.heavy),
    ],
)
def test_the_world_notices_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    if not checked:  # the outcomes alone must show it
        monkeypatch.setattr(Dispatcher, "check", lambda self, everything=True: None)
        monkeypatch.setattr(World, "PATIENCE", 20_000)
    with pytest.raises((AssertionError, KeyError, ValueError, ParkError)):
        live(range(60))


@pytest.mark.parametrize(
    "plant",
    [
        acknowledges_before_the_commit,
        takes_for_saved_what_is_on_its_way,
        *(
            pytest.param(plant, marks=pytest.mark.heavy)
            for plant in (
                knows_no_request_again,
                answers_twice,
                knows_no_control_again,
                gives_a_control_before_it_is_on_disk,
                gives_again_what_a_checkpoint_has,
                sees_no_gap,
                keeps_nothing_that_was_said,
                takes_what_comes_again_for_new,
            )
        ),
    ],
)
def test_what_comes_about_shows_a_planted_bug_though_nothing_need_finish(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(Dispatcher, "check", lambda self, everything=True: None)
    with pytest.raises((AssertionError, KeyError, ValueError, ParkError)):
        storm(range(100))


# -- nothing but the real machines decides -----------------------------------------------------------


def replayed(calls: list[Any], file: Path) -> subprocess.CompletedProcess[str]:
    file.write_bytes(pickle.dumps(calls))
    command = [sys.executable, "-m", "tests.support.replay", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_machines_decide_the_same_where_no_simulator_is(tmp_path: Path) -> None:
    with recorded() as calls:
        live(range(900, 903))
    assert sum(name == "handle" for _, name, _, _ in calls) > 900
    assert sum(name == "broker" for _, name, _, _ in calls) > 300
    assert sum(name == "feed" for _, name, _, _ in calls) > 100
    done = replayed(calls, tmp_path / "calls")
    assert done.stdout == "the same\n", done.stderr


def favours_a_job(world: World) -> None:
    """A rule of the simulator's own: the first job is served before all others."""
    world.dispatcher.state.clock.reweigh(1, 64.0)


def makes_chunks_small(world: World) -> None:
    world.dispatcher.state.estimates._mean.update(dict.fromkeys(world.dispatcher.state.estimates._mean, 1.0))


@pytest.mark.parametrize("cheat", [favours_a_job, pytest.param(makes_chunks_small, marks=pytest.mark.heavy)])
def test_a_simulator_that_had_a_say_would_be_found_out(
    cheat: Callable[[World], None], tmp_path: Path
) -> None:
    with recorded() as calls:
        world = World(pace=exact)
        world.kernel(2)
        ann, bob = world.client("ann"), world.client("bob")
        requests = [c.submit("nap", [0.01] * 900) for c in (ann, bob)]
        world.until(lambda: all(r.done for r in requests))
        cheat(world)
        world.run_for(5.0)
    done = replayed(calls, tmp_path / "calls")
    assert "AssertionError" in done.stderr


#: They judge what came about, and nobody in the simulator may know them.
JUDGES = {"shares", "audit", "waits"}
#: Modules of the core that the simulator may use: to make machines, ask and read them, without their rules.
DOORS = {
    "park.broker.dispatcher",
    "park.broker.entities.archive",
    "park.broker.accounts.ledger",
    "park.broker.manager",
    "park.broker.turns",
    "park.broker.restore",
    "park.broker.effects",
    "park.broker.storage.memory",
    "park.broker.storage.store",
    "park.broker.storage.sweep",
    "park.kernel.machine.actions",
    "park.kernel.machine.state_machine",
    "park.kernel.machine.process_pool",
    "park.table.mirror",
    "park.model",
}
#: Names that only a rule of the core uses.
RULES = {
    "weight",
    "priority",
    "tags",
    "age",
    "usage",
    "share",
    "balance",
    "credit",
    "charge",
    "pick",
    "virtual",
}


def rules(text: str, judge: bool = False) -> list[str]:
    """The lines in the source *text* of a simulator's module that are, or could be, a rule of its own."""
    found = []
    foreign: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        line = getattr(node, "lineno", 0)
        for name in names_in(node):
            if name in RULES and not judge:
                found.append(f"line {line}: {name}")
        if isinstance(node, ast.Import):
            found += [f"line {line}: import {a.name}" for a in node.names if a.name.startswith("park")]
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.startswith("park."):
                foreign |= {alias.asname or alias.name for alias in node.names}
                if module not in DOORS and not module.startswith("park.wire"):
                    found.append(f"line {line}: from {module}")
            if {module.rpartition(".")[2], *(alias.name for alias in node.names)} & JUDGES:
                found.append(f"line {line}: from a judge")
        if isinstance(node, ast.ClassDef):
            found += [f"line {line}: class of {ast.unparse(b)}" for b in node.bases if root(b) in foreign]
        for target in targets(node):
            if isinstance(target, ast.Attribute) and root(target) in foreign:
                found.append(f"line {line}: {ast.unparse(target)} =")
            # the state of a machine: anything below what stands for one
            if isinstance(target, ast.Attribute | ast.Subscript) and machine_in(target.value):
                found.append(f"line {line}: {ast.unparse(target)} =")
        if isinstance(node, ast.Call) and root(node.func) in {"setattr", "delattr", "exec", "eval", "vars"}:
            found.append(f"line {line}: {ast.unparse(node.func)}")
        if isinstance(node, ast.Attribute) and node.attr in {"__dict__", "__class__", "__setattr__"}:
            found.append(f"line {line}: {node.attr}")
    return found


def names_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.arg):
        yield node.arg


def root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def machine_in(node: ast.AST) -> bool:
    """Whether the expression goes through a machine: ``self.dispatcher.state.clock``, ``kernel.machine`` ..."""
    return any(
        isinstance(n, ast.Attribute | ast.Name)
        and (n.attr if isinstance(n, ast.Attribute) else n.id)
        in {"dispatcher", "machine", "manager", "mirror"}
        for n in ast.walk(node)
    )


def targets(node: ast.AST) -> Iterator[ast.AST]:
    found: list[ast.AST] = []
    if isinstance(node, ast.Assign | ast.Delete):
        found = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.NamedExpr):
        found = [node.target]
    for target in found:
        yield from target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


@pytest.mark.parametrize(
    "file",
    sorted(f for f in (ROOT / "tests" / "sim").glob("*.py") if not f.stem.startswith("test_")),
    ids=lambda f: f.name,
)
def test_the_simulator_has_no_rule_of_its_own(file: Path) -> None:
    assert rules(file.read_text(), judge=file.stem in JUDGES) == []


@pytest.mark.parametrize(
    "text",
    [
        "from park.broker.scheduler.fairshare import ServiceClock",
        "from park.broker.dispatcher import Dispatcher\nclass Mine(Dispatcher): pass",
        "from park.broker.dispatcher import Dispatcher\nDispatcher.handle = lambda self: None",
        "world.dispatcher.state.clock = None",
        "self.manager.dispatcher.state.estimates._mean[1] = 2.0",
        "del kernel.machine.state.queued[3]",
        "next_job = min(jobs, key=lambda j: -j.priority)",
        "setattr(world, 'x', 1)",
        "from tests.sim import shares",
        "def serve(weight): ...",
        "import park.broker.entities.maps",
    ],
)
def test_the_checker_sees_a_rule(text: str) -> None:
    assert rules(text)

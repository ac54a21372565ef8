"""The simulator: many lives from seeds, of which each must end well, and the proof that it would notice if one did not.

Real machines decide, and nothing else does: they decide the same where nothing of the simulator is.
"""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from park.core.controls import Controls
from park.core.dispatcher import Dispatcher
from park.core.fairshare import ServiceClock
from park.core.journal import Journal
from park.core.roster import Roster
from park.errors import ParkError
from park.kernel import codes, process
from park.kernel.unheard import Unheard
from park.mirror import Mirror
from park.wire.messages import Committed, Publish, Submit
from tests.replay import recorded
from tests.sim.disk import Disk
from tests.sim.functions import exact
from tests.sim.world import World
from tests.trials import (
    a_kernel_is_lost,
    back_again,
    clock_is_set,
    live,
    lost_work,
    pay,
    share_at_once,
    steer,
    the_broker_dies,
)

ROOT = Path(__file__).resolve().parents[1]

# -- many lives --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tens", [*range(25), *(pytest.param(tens, marks=pytest.mark.heavy) for tens in range(25, 50))]
)
def test_whatever_happens_every_unit_is_answered_once(tens: int) -> None:
    live(range(10 * tens, 10 * tens + 10))


def test_lives_in_which_no_code_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (codes, process):
        monkeypatch.setattr(module, "CODE_BYTES", 0)
    live(range(8))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(5, 25))
def test_more_lives(hundreds: int) -> None:
    live(range(100 * hundreds, 100 * hundreds + 100))


@pytest.mark.parametrize("seed", range(10))
def test_a_wall_clock_that_is_set_by_an_hour_or_a_day_changes_nothing(seed: int) -> None:
    deeds = clock_is_set(seed)
    assert len(deeds) > 100
    assert deeds == clock_is_set(seed, often=False)


@pytest.mark.parametrize("tens", range(4))
def test_whatever_happens_the_books_are_right(tens: int) -> None:
    pay(range(10 * tens, 10 * tens + 10))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 6))
def test_more_books(hundreds: int) -> None:
    pay(range(100 * hundreds, 100 * hundreds + 100))


@pytest.mark.parametrize("tens", [0, 1, 2, 3, 14])
def test_whatever_happens_what_is_said_is_heard(tens: int) -> None:
    steer(range(10 * tens, 10 * tens + 10))


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 5))
def test_more_is_said(hundreds: int) -> None:
    steer(range(100 * hundreds, 100 * hundreds + 100))


@pytest.mark.parametrize("accident", [a_kernel_is_lost, the_broker_dies])
def test_what_was_lost_is_not_paid_for(accident: Callable[[World], None]) -> None:
    lost_work(accident)


# -- planted bugs ------------------------------------------------------------------------------------


def forgets_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    retire = Dispatcher._retire

    def wrong(self: Dispatcher, job: Any, attempt: Any, *rest: Any, **more: Any) -> None:
        retire(self, job, attempt, *rest, **more)
        if attempt.number % 7 == 3 and not attempt.parked:
            attempt.kernel.occupy(1, 0)

    monkeypatch.setattr(Dispatcher, "_retire", wrong)


def answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late or doubled answer is taken for a new one."""
    deliver, held = Dispatcher._deliver, Dispatcher._held_attempt
    answers: dict[int, tuple[Any, ...]] = {}

    def remembers(self: Dispatcher, job: Any, map_: Any, start: int, *rest: Any) -> None:
        answers[start] = (job, map_, start, *rest)
        deliver(self, job, map_, start, *rest)

    def wrong(self: Dispatcher, event: Any, number: int) -> Any:
        attempt = held(self, event, number)
        if attempt is None and getattr(event.message, "start", None) in answers:
            deliver(self, *answers[event.message.start])
        return attempt

    monkeypatch.setattr(Dispatcher, "_deliver", remembers)
    monkeypatch.setattr(Dispatcher, "_held_attempt", wrong)


def acknowledges_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "_answer", Dispatcher._send)


def knows_no_request_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is sent again becomes a second job."""
    submit = Dispatcher._submit

    def wrong(self: Dispatcher, event: Any, message: Any) -> None:
        self.list.by_key.pop(message.key, None)
        submit(self, event, message)

    monkeypatch.setitem(Dispatcher._HANDLERS, Submit, wrong)


def never_ends_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that says nothing keeps what it has for ever."""
    look = Roster.look

    def wrong(self: Roster, now: float) -> Any:
        for member in (*self.kernels.values(), *self.clients.values()):
            member.heard = now
        return look(self, now)

    monkeypatch.setattr(Roster, "look", wrong)


def takes_for_saved_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "done", lambda self: sys.maxsize)


def loses_a_parked_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Dispatcher._check_map

    def wrong(self: Dispatcher, map_: Any) -> None:
        check(self, map_)
        driver = self.attempts.get(map_.driver)
        if driver is not None and driver.resumable and driver.number % 3 == 0:
            self.list.jobs[map_.job].drop_resumable(driver)
            self._refresh(self.list.jobs[map_.job])

    monkeypatch.setattr(Dispatcher, "_check_map", wrong)


def knows_no_control_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is sent again is given to the body again."""
    monkeypatch.setattr(Controls, "__contains__", lambda self, key: False)


def gives_a_control_before_it_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    give = Dispatcher._give_controls

    def wrong(self: Dispatcher, *given: Any) -> None:
        saved, self._saved = self._saved, self._turn
        give(self, *given)
        self._saved = saved

    monkeypatch.setattr(Dispatcher, "_give_controls", wrong)


def forgets_what_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut a kernel gets no control that was lost."""
    monkeypatch.setattr(Dispatcher, "_give_controls_again", lambda self, kernel: None)


def gives_again_what_a_checkpoint_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dispatcher, "_serve_controls", lambda self, job, served: None)


def takes_in_who_has_missed_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body goes on that has not heard all that the checkpoint of another one has."""
    monkeypatch.setattr(Dispatcher, "_outrun", lambda self, job, orphan: False)


def sees_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror takes changes for the next ones that are later ones."""
    feed = Mirror.feed

    def wrong(self: Mirror, message: Any, payload: Any, now: float) -> Any:
        if type(message).__name__ == "Deltas":
            self.table.seq = max(self.table.seq, message.seq - 1)
        return feed(self, message, payload, now)

    monkeypatch.setattr(Mirror, "feed", wrong)


def charges_twice_on_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    retire = Dispatcher._retire

    def wrong(self: Dispatcher, *given: Any, lost: bool = False, **more: Any) -> None:
        retire(self, *given, **more)

    monkeypatch.setattr(Dispatcher, "_retire", wrong)


def forgets_a_refund(monkeypatch: pytest.MonkeyPatch) -> None:
    refund = Dispatcher._refund

    def wrong(self: Dispatcher, job: Any, attempt: Any) -> None:
        attempt.paid = 0
        refund(self, job, attempt)

    monkeypatch.setattr(Dispatcher, "_refund", wrong)


def serves_the_least_charged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = ServiceClock.pick

    def wrong(self: ServiceClock, doors: Any, *given: Any, **more: Any) -> int:
        doors = list(doors)
        if not pick(self, doors, *given, **more):
            return 0
        due = [j for j in self._jobs.values() if not j.doors.isdisjoint(doors)]
        return min(due, key=lambda j: (j.charged, j.number)).number

    monkeypatch.setattr(ServiceClock, "pick", wrong)


def keeps_nothing_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on its way when the contact was lost is not said again."""
    monkeypatch.setattr(Unheard, "all", lambda self: iter(()))


def takes_what_comes_again_for_new(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Journal.take

    def wrong(self: Journal, p: Any, *given: Any) -> bool:
        if p.job in self._talks:
            self._talks[p.job].marks.clear()
        return take(self, p, *given)

    monkeypatch.setattr(Journal, "take", wrong)


def has_heard_what_is_not_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Dispatcher._publish

    def wrong(self: Dispatcher, event: Any, message: Any) -> None:
        publish(self, event, message)
        self._send(event.peer, Committed([], [message.attempt, message.number]))

    monkeypatch.setitem(Dispatcher._HANDLERS, Publish, wrong)


def counts_idle_time_as_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceClock, "_start", lambda self, entry, *given: entry.tag)


@pytest.mark.parametrize(
    ("plant", "trial"),
    [
        (charges_twice_on_a_retry, lambda: pay(range(20))),
        (forgets_a_refund, lambda: lost_work(a_kernel_is_lost)),
        (serves_the_least_charged_first, lambda: share_at_once(0)),
        (counts_idle_time_as_credit, back_again),
        (takes_in_who_has_missed_some, lambda: steer(range(110, 134))),
    ],
)
def test_the_trials_notice_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], trial: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        trial()


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    "plant",
    [
        forgets_a_slot,
        answers_twice,
        acknowledges_before_the_commit,
        knows_no_request_again,
        never_ends_a_lease,
        takes_for_saved_what_is_on_its_way,
        loses_a_parked_driver,
        knows_no_control_again,
        gives_a_control_before_it_is_on_disk,
        forgets_what_was_on_its_way,
        gives_again_what_a_checkpoint_has,
        sees_no_gap,
        keeps_nothing_that_was_said,
        takes_what_comes_again_for_new,
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
    rare = plant is forgets_what_was_on_its_way  # one life in eighty shows it
    with pytest.raises((AssertionError, KeyError, ParkError)):
        live(range(190, 260) if rare else range(60))


# -- nothing but the real machines decides -----------------------------------------------------------


def replayed(calls: list[Any], file: Path) -> subprocess.CompletedProcess[str]:
    file.write_bytes(pickle.dumps(calls))
    command = [sys.executable, "-m", "tests.replay", str(file)]
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
    world.dispatcher.clock.reweigh(1, 64.0)


def makes_chunks_small(world: World) -> None:
    world.dispatcher.estimates._mean.update(dict.fromkeys(world.dispatcher.estimates._mean, 1.0))


@pytest.mark.parametrize("cheat", [favours_a_job, makes_chunks_small])
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
#: What the simulator may have of the core: what one makes, asks and reads, none of its rules.
DOORS = {
    "park.core.dispatcher",
    "park.core.keeping",
    "park.core.ledger",
    "park.core.manager",
    "park.core.outcome",
    "park.core.store",
    "park.core.sweep",
    "park.kernel.actions",
    "park.kernel.lifecycle",
    "park.kernel.pool",
    "park.mirror",
    "park.model",
}
#: What rules are made of.
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
    """What in the source *text* of a module of the simulator is, or could be, a rule of its own."""
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
    """Whether the expression goes through a machine: ``self.dispatcher.clock``, ``kernel.life`` ..."""
    return any(
        isinstance(n, ast.Attribute | ast.Name)
        and (n.attr if isinstance(n, ast.Attribute) else n.id) in {"dispatcher", "life", "manager", "mirror"}
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


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "sim").glob("*.py")), ids=lambda f: f.name)
def test_the_simulator_has_no_rule_of_its_own(file: Path) -> None:
    assert rules(file.read_text(), judge=file.stem in JUDGES) == []


@pytest.mark.parametrize(
    "text",
    [
        "from park.core.fairshare import ServiceClock",
        "from park.core.dispatcher import Dispatcher\nclass Mine(Dispatcher): pass",
        "from park.core.dispatcher import Dispatcher\nDispatcher._deal = lambda self: None",
        "world.dispatcher.clock = None",
        "self.manager.dispatcher.estimates._mean[1] = 2.0",
        "del kernel.life.ahead[3]",
        "next_job = min(jobs, key=lambda j: -j.priority)",
        "setattr(world, 'x', 1)",
        "from tests.sim import shares",
        "def serve(weight): ...",
        "import park.core.work",
    ],
)
def test_the_checker_sees_a_rule(text: str) -> None:
    assert rules(text)

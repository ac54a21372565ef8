"""Controls: what a job is told is durable, in order, heard once by each body, and again by one that runs again."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import park
from park.broker.effects import Ref, Write
from park.broker.entities import controls
from park.broker.handlers import controls as handlers
from park.client.stream import Complete, Error, Start
from park.kernel.machine.actions import ToSlot
from park.model import MAX_CONTROL_BYTES, Account, JobState
from park.wire import messages
from tests.sim.desk import Desk, accepted, finished, of
from tests.support.bench import Bench, place
from tests.support.fabric import Fabric, slots_of, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

# -- the broker ----------------------------------------------------------------------------------------


def say(desk: Desk, job: int, said: bytes, key: int = 0, peer: bytes = b"c1", id: int = 9) -> Any:
    return desk.give(peer, messages.Control(job, id, key.to_bytes(16, "big")), said)


def given(out: Any) -> list[tuple[int, Any]]:
    """Number and payload of the controls that go to kernels."""
    sent = [s for s in out.sends + out.sends_after_commit if isinstance(s.message, messages.Control)]
    return [(s.message.seq, s.payload) for s in sent]


def dealt(desk: Desk, inputs: Any = None, **fields: Any) -> tuple[int, messages.Run]:
    out = desk.submit(desk.client(), "heeds", inputs, **fields)
    (run,) = of(out, messages.Run)
    return accepted(out), run


def record(job: int, seq: int, key: int = 0) -> tuple[int, int, bytes]:
    return (job, seq, key.to_bytes(16, "big"))


def test_a_control_is_acknowledged_and_given_when_it_is_on_disk() -> None:
    desk = Desk()
    desk.kernel()
    job, _ = dealt(desk)
    out = say(desk, job, b"one")
    assert Write("control", record(job, 1), b"one") in out.writes
    assert not of_sends(out)
    assert [s.message for s in out.sends_after_commit] == [
        messages.Control(job, seq=1),
        messages.Done(9),
    ]
    assert given(out) == [(1, Ref("control", record(job, 1)))]


def test_a_kernel_over_a_new_connection_gets_the_controls_again_that_were_under_way() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    for n in (1, 2):
        say(desk, job, b"%d" % n, n)
    again = messages.KernelHello(kernel * 8, "kay", "node", 1, 1, run_python(desk), attempts=[run.attempt])
    assert [seq for seq, _ in given(desk.give(b"k1 anew", again))] == [1, 2]
    assert given(desk.give(b"k1 anew", again)) == []  # the kernel has only asked again


def run_python(desk: Desk) -> str:
    (kernel,) = desk.dispatcher.state.roster.kernels.values()
    return kernel.python


def of_sends(out: Any) -> list[Any]:
    return [s for s in out.sends if isinstance(s.message, messages.Control | messages.Done)]


def test_what_was_said_before_a_job_runs_comes_before_its_units() -> None:
    desk = Desk()
    job = accepted(desk.submit(desk.client(), "heeds", None))
    for n in range(3):
        assert not given(say(desk, job, b"said", n))
    hello = messages.KernelHello(b"k" * 16, "kay", "node", 1, 1, "3.11")
    out = desk.give(b"k1", hello)
    sent = [s.message for s in out.sends + out.sends_after_commit]
    said = [m.seq for m in sent if isinstance(m, messages.Control)]
    assert said == [1, 2, 3]
    (run,) = [i for i, m in enumerate(sent) if isinstance(m, messages.Run)]
    assert all(i < run for i, m in enumerate(sent) if isinstance(m, messages.Control))


def test_what_is_sent_again_is_kept_once() -> None:
    desk = Desk()
    desk.kernel()
    job, _ = dealt(desk)
    say(desk, job, b"one", 1)
    out = say(desk, job, b"one", 1)
    assert not out.writes
    assert not given(out)
    assert of(out, messages.Done) == [messages.Done(9)]


def test_each_kernel_that_runs_the_job_gets_all_and_again_over_a_new_connection() -> None:
    desk = Desk()
    desk.kernel("k1")
    job, _ = dealt(desk, [1, 2, 3])
    say(desk, job, b"one", 1)
    say(desk, job, b"two", 2)
    hello = messages.KernelHello((b"k2" * 16)[:16], "kay", "node", 1, 1, "3.11")
    assert [seq for seq, _ in given(desk.give(b"k2", hello))] == [1, 2]
    assert [seq for seq, _ in given(say(desk, job, b"three", 3))] == [3, 3]
    (held,) = [k.holds for k in desk.dispatcher.state.roster.kernels.values() if k.peer == b"k2"]
    again = desk.give(b"k3", messages.KernelHello(hello.incarnation, "kay", "node", 1, 1, "3.11", list(held)))
    assert [seq for seq, _ in given(again)] == [1, 2, 3]


def test_what_a_checkpoint_has_is_dropped_and_not_given_again() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    for n in range(3):
        say(desk, job, b"said", n)
    before = desk.dispatcher.state.jobs[job].bytes
    out = desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1, served=2), b"state")
    assert Write("control", record(job, 2, 1), b"") in out.writes
    assert of(out, messages.Checkpointed) == [messages.Checkpointed(run.attempt, 1, 2)]
    assert desk.dispatcher.state.jobs[job].bytes == before - 8
    assert not say(desk, job, b"said", 1).writes, "its key is known"
    out = desk.give(kernel, messages.Crashed([run.attempt], "signal 9"))
    (again,) = of(out, messages.Run)
    assert again.served == 2
    assert not given(out), "the kernel has what comes after"


def test_keys_of_what_a_checkpoint_has_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "MAX_SPENT_KEYS", 2)
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    for n in range(5):
        say(desk, job, b"said", n)
    out = desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1, served=5), b"state")
    gone = [w.key[1] for w in out.writes if w.namespace == "control" and w.value is None]
    assert gone == [1, 2, 3]


def test_a_checkpoint_of_one_of_many_units_drops_nothing() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk, [1, 2])
    say(desk, job, b"said")
    out = desk.give(kernel, messages.Checkpoint(run.attempt, job, 0, 1, served=1), b"state")
    assert not [w for w in out.writes if w.namespace == "control"]


def test_nothing_is_left_when_the_job_ends_and_a_control_is_for_nobody() -> None:
    desk = Desk()
    kernel = desk.kernel()
    job, run = dealt(desk)
    say(desk, job, b"one", 1)
    out = desk.give(kernel, *finished(run))
    assert Write("control", record(job, 1, 1), None) in out.writes
    released = [s for s in out.sends_after_commit if isinstance(s.message, messages.Release)]
    assert released, "after the controls, which may be on their way"
    assert desk.job(job).state is JobState.COMPLETE
    out = say(desk, job, b"two", 2)
    assert of(out, messages.Done) == [messages.Done(9, ignored=True)]
    assert not out.writes


def refused(out: Any) -> tuple[str, str]:
    (failure,) = of(out, messages.Failure)
    return failure.error, failure.text


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    job = accepted(desk.submit(desk.client(), "heeds", None))
    assert refused(say(desk, 99, b"said"))[0] == "UnknownJob"
    assert refused(desk.give(b"c1", messages.Control(job, 3, b"short"), b"said"))[0] == "ProtocolError"
    assert refused(say(desk, job, b""))[0] == "ProtocolError"
    error, text = refused(say(desk, job, b"x" * (MAX_CONTROL_BYTES + 1)))
    assert (error, "1,048,577 bytes, more than 1,048,576" in text) == ("InvalidRequest", True)
    session = desk.session(b"c1")
    error, text = refused(say(desk, session, b"said"))
    assert (error, "is a session" in text) == ("InvalidRequest", True)
    monkeypatch.setattr(handlers, "MAX_KEPT_CONTROLS", 2)
    for n in range(3):
        out = say(desk, job, b"said", n)
    error, text = refused(out)
    assert (error, "keeps 2 controls of 8 bytes" in text) == ("LimitReached", True)
    monkeypatch.setattr(handlers, "MAX_KEPT_CONTROLS", 100)
    monkeypatch.setattr(handlers, "MAX_KEPT_CONTROL_BYTES", 10)
    assert refused(say(desk, job, b"said", 7))[0] == "LimitReached"
    monkeypatch.setattr(handlers, "MAX_KEPT_CONTROL_BYTES", 1000)
    monkeypatch.setattr(handlers, "MAX_OWNER_CONTROLS", 2)
    error, text = refused(say(desk, job, b"said", 7))
    assert (error, "for all jobs of ann" in text) == ("LimitReached", True)
    monkeypatch.setattr(handlers, "MAX_OWNER_CONTROLS", 100)
    desk.dispatcher.state.disk.tell(2, "here", 0.0)
    assert refused(say(desk, job, b"said", 8))[0] == "Refused"
    desk.client("c2", account=Account("eve"))
    error, text = refused(say(desk, job, b"said", 9, b"c2"))
    assert (error, "may steer it" in text) == ("Refused", True)


def test_what_goes_wrong_with_a_control_is_told_once() -> None:
    desk = Desk()
    first, second = desk.kernel("k1"), desk.kernel("k2")
    out = desk.submit(desk.client(), "heeds", [1, 2])
    job, runs = accepted(out), of(out, messages.Run)
    runs += of(desk.tick(1.0), messages.Run)
    say(desk, job, b"one")
    error = [messages.Publish(job, run.attempt, "error", control=1) for run in runs]
    peers = [desk.dispatcher.state.attempts[run.attempt].kernel.peer for run in runs]
    assert sorted(peers) == sorted([first, second])
    told = [desk.give(peer, message, b"x").publications for peer, message in zip(peers, error, strict=True)]
    assert [len(t) for t in told] == [1, 0]


# -- the kernel ----------------------------------------------------------------------------------------


def told(actions: list[Any]) -> list[tuple[int, int]]:
    """Process and number of the controls that go to processes."""
    return [
        (a.process, a.message.seq)
        for a in actions
        if isinstance(a, ToSlot) and isinstance(a.message, messages.Control)
    ]


def control(bench: Bench, seq: int, job: int = 1) -> list[tuple[int, int]]:
    return told(bench.broker(messages.Control(job, seq=seq), b"said"))


def test_processes_that_run_the_job_get_all_of_them_once() -> None:
    bench = Bench(slots=2)
    first = place(bench.run(5, stored=True))
    assert control(bench, 1) == [(first, 1)]
    assert control(bench, 1) == []
    actions = bench.run(6, stored=True)
    second = place(actions)
    assert told(actions) == [(second, 1)]
    kinds = [type(a.message).__name__ for a in actions if isinstance(a, ToSlot)]
    assert kinds.index("Control") < kinds.index("Run")
    assert sorted(control(bench, 2)) == sorted([(first, 2), (second, 2)])
    bench.done(first, 5)
    assert control(bench, 3) == [(second, 3)]
    actions = bench.run(7, stored=True)
    assert place(actions) == first
    assert told(actions) == [(first, 3)]


def test_chunks_inside_a_driver_are_told_nothing() -> None:
    bench = Bench()
    process = place(bench.run(5, stored=True))
    control(bench, 1)
    bench.call(process, 5)
    actions = bench.run(6, b"b" * 16)
    assert place(actions) == process
    assert not told(actions)


def test_after_lost_contact_all_come_again_and_none_is_passed_on_twice() -> None:
    bench = Bench()
    process = place(bench.run(5, stored=True))
    control(bench, 1)
    bench.broker(messages.Welcome("store", 2, 2.0, 20.0))
    assert control(bench, 1) == []
    assert control(bench, 2) == [(process, 2)]
    actions = bench.exited(process)
    actions = bench.run(9, stored=True)
    assert told(actions) == [(place(actions), 1), (place(actions), 2)]


def test_what_a_checkpoint_has_and_what_an_ended_job_had_is_dropped() -> None:
    bench = Bench()
    process = place(bench.run(5, stored=True))
    for seq in (1, 2, 3):
        control(bench, seq)
    bench.broker(messages.Checkpointed(5, 1, 2))
    bench.exited(process)
    actions = bench.run(6, stored=True, served=2)
    assert told(actions) == [(place(actions), 3)]
    bench.done(place(actions), 6)
    bench.broker(messages.Release(1))
    assert bench.machine.state.controls.after(1, 0) == []


# -- one program ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    with park.local_service as local:
        yield local


class Heeds:
    """Goes on until it was told to end; what it has heard is its result."""

    def __init__(self, slow: float = 0.001) -> None:
        self.slow = slow

    def prepare(self, env: Any) -> None:
        self.heard: list[Any] = []
        self.over = False

    def run(self) -> list[Any]:
        env = park.environment()
        while not self.over:
            env.ready()
            time.sleep(self.slow)
        return self.heard

    def on_say(self, message: dict[str, Any]) -> None:
        self.heard.append(message["value"])

    def on_show(self, message: dict[str, Any]) -> None:
        park.environment().store["heard"] = repr(self.heard).encode()

    def on_fail(self, message: dict[str, Any]) -> None:
        raise ZeroDivisionError("it cannot")

    def on_leave(self, message: dict[str, Any]) -> None:
        raise SystemExit(3)

    def on_refuse(self, message: dict[str, Any]) -> None:
        raise park.InvalidRequest("not now")

    def on_end(self, message: dict[str, Any]) -> None:
        self.over = True


def talk(job: park.Job, *said: Any) -> None:
    for value in said:
        assert job.control({"kind": "say", "value": value})


def test_a_body_hears_in_order_and_what_goes_wrong_is_said_while_it_goes_on(service: Any) -> None:
    job = service.job(service.start(Heeds()))
    stream = job.stream(10)
    talk(job, 1)
    for wrong in ("nothing", "fail", "leave", "refuse"):
        assert job.control(wrong)
    talk(job, 2)
    assert job.control("end")
    assert job.wait(50) == [1, 2]
    assert not job.control("late"), "it has ended"
    *_, last = found = [m for m in stream if not isinstance(m, Start)]
    assert isinstance(last, Complete), "the stream goes on after an error"
    errors = [m.text for m in found if isinstance(m, Error)]
    assert errors == [
        "the control 'nothing' is unknown to the body, which has no on_nothing: it has on_end, on_fail, on_leave, "
        "on_refuse, on_say, on_show",
        "on_fail raised ZeroDivisionError: it cannot",
        "on_leave raised SystemExit: 3",
        "the control 'refuse' was refused: not now",
    ]
    assert "in on_fail" in "".join(line.text for line in job.logs())


def test_a_job_that_waits_or_is_paused_hears_later(service: Any) -> None:
    job = service.job(service.start(Heeds(), when=0.5))
    talk(job, 1)
    assert job.state == "waiting"
    until(lambda: job.state == "running")
    job.pause()
    until(lambda: job.record.running == 0)
    talk(job, 2)
    job.control("end")
    job.resume()
    assert job.wait(50) == [1, 2]


class Scaled:
    """Its units are scaled by what it has heard."""

    factor = 1

    def run(self, x: int) -> tuple[int, int, int]:
        time.sleep(0.02)
        return x, self.factor, os.getpid()

    def on_scale(self, message: dict[str, Any]) -> None:
        self.factor *= message["value"]


def test_every_process_of_a_map_hears_between_units(service: Any) -> None:
    job = service.job(service.start(Scaled(), range(120)))
    until(lambda: job.record.done > 10)
    job.control({"kind": "scale", "value": 2})
    job.control({"kind": "scale", "value": 5})
    acknowledged = job.record.done
    results = job.wait(50)
    assert {factor for _, factor, _ in results} <= {1, 2, 10}
    assert results[0][1] == 1
    late = {factor for x, factor, _ in results if x > acknowledged + 40}
    assert late == {10}
    for pid in {pid for _, _, pid in results}:
        factors = [factor for _, factor, p in results if p == pid]
        assert factors == sorted(factors)


def square(x: float) -> float:
    return x * x


class Generations:
    """A driver that knows no safe points but its maps."""

    def prepare(self, env: Any) -> None:
        self.over = 0

    def run(self) -> int:
        env = park.environment()
        while not self.over:
            list(env.map(square, [1, 2, 3]))
        return self.over

    def on_end(self, message: dict[str, Any]) -> None:
        assert list(park.environment().map(square, [2, 3])) == [4, 9]
        self.over = message["value"]


def test_a_driver_hears_between_its_generations(service: Any) -> None:
    job = service.job(service.start(Generations()))
    job.control({"kind": "end", "value": 7})
    assert job.wait(50) == 7


def test_a_plain_function_serves_none_and_says_so_once(service: Any) -> None:
    job = service.job(service.start(square, [1.0] * 50, when=0.3))
    stream = job.stream(10)
    job.control("faster")
    job.wait(50)
    errors = [m.text for m in stream if isinstance(m, Error)]
    assert errors == [
        "the control 'faster' is unknown to the body, which has no on_faster: it serves no controls"
    ]


class Keeps(Heeds):
    """Its checkpoint has what it has heard."""

    def run(self) -> list[Any]:
        self.heard = list(park.environment().restored or [])
        return super().run()

    def on_keep(self, message: dict[str, Any]) -> None:
        assert park.environment().checkpoint(self.heard)
        self.on_show(message)


@pytest.mark.parametrize(("body", "keeps"), [(Heeds, False), (Keeps, True)])
def test_a_body_that_runs_again_hears_all_that_its_checkpoint_has_not(
    service: Any, body: Any, keeps: bool
) -> None:
    job = service.job(service.start(body()))
    talk(job, 1, 2)
    job.control("keep" if keeps else "show")
    talk(job, 3)
    until(lambda: "heard" in job.files)
    for pid in slots_of(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    talk(job, 4)
    job.control("end")
    assert job.wait(50) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        (3, park.InvalidRequest, "3 is no control: it is a name, or a dict"),
        ({"value": 3}, park.InvalidRequest, "is no control"),
        ({"kind": "two words"}, park.InvalidRequest, "is no control"),
        ("x" * 101, park.InvalidRequest, "at most 100 bytes"),
        (
            {"kind": "say", "value": b"x" * MAX_CONTROL_BYTES},
            park.InvalidRequest,
            "more than 1,048,576: put what",
        ),
        (
            {"kind": "say", "value": threading.Lock()},
            park.NotPicklable,
            "the control 'say' cannot be pickled",
        ),
    ],
)
def test_what_is_no_control_is_refused_here(service: Any, message: Any, error: Any, says: str) -> None:
    job = service.job(service.start(square, [1], when=1000))
    with pytest.raises(error, match=says):
        job.control(message)
    job.abort()


# -- a broker ------------------------------------------------------------------------------------------


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as made:
        yield made


def test_a_thousand_controls_over_the_death_of_the_broker_and_of_a_kernel(fabric: Fabric) -> None:
    kernel = fabric.start_kernel()
    service = fabric.connect()
    job = service.job(service.start(Heeds()))
    for n in range(1000):
        if n == 300:
            fabric.broker.kill()
            threading.Thread(target=fabric.start_broker).start()
        if n == 600:
            until(lambda: job.state == "running")
            kernel.kill()
            fabric.start_kernel()
        talk(job, n)
    job.control("end")
    assert job.wait(50) == list(range(1000))


def test_what_people_type(fabric: Fabric) -> None:
    fabric.start_kernel()
    service = fabric.connect()
    job = service.job(service.start(Heeds(0.01)))
    waiting = service.job(service.start(square, [1], when=1000))
    session = service.mapper(square)
    assert session([2.0]) == [4.0]
    (mapper,) = [j for j in service.jobs() if j.record.kind == "session"]

    def park_control(*words: object, code: int = 0) -> str:
        process = fabric.park("control", *map(str, words))
        assert process.wait() == code, process.text
        return process.text

    says = f"job {job.id} gets the control 'say' as soon as it is ready for it\n"
    assert park_control(job.id, "say", "-5") == says
    park_control(job.id, "say", "five")
    park_control(f"{job.id}-{waiting.id}", "end", '{"kind": "say"}')
    assert job.wait(50) == [-5, "five"]
    says = park_control(job.id, "late", code=3)
    assert says == f"park: job {job.id} has ended: it does not get the control 'late'\n"
    assert "is no control" in park_control(waiting.id, "two words", code=2)
    assert "is a session" in park_control(mapper.id, "say", code=2)


class Shared:
    """Each of its units waits until its body has heard so many."""

    def prepare(self, env: Any) -> None:
        self.heard: list[list[int]] = []

    def run(self, count: int) -> list[list[int]]:
        while len(self.heard) < count:
            park.environment().ready()
            time.sleep(0.002)
        return self.heard[:count]

    def on_say(self, message: dict[str, Any]) -> None:
        self.heard.append(message["value"])


class Alone(Shared):
    """The same once, with checkpoints."""

    def run(self, count: int = 1500) -> list[list[int]]:
        env = park.environment()
        self.heard = list(env.restored or [])
        kept = len(self.heard)
        while len(self.heard) < count:
            env.ready()
            time.sleep(0.002)
            if len(self.heard) > kept + 20:
                kept = len(self.heard)
                env.checkpoint(self.heard, 0)
        return self.heard[:count]


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(5))
def test_everything_dies_while_three_talk(fabric: Fabric, seed: int) -> None:
    chance = random.Random(seed)
    kernels = [fabric.start_kernel(slots=2) for _ in range(2)]
    service = fabric.connect()
    jobs = [service.start(Shared(), [300, 900, 1500, 1200]), service.start(Alone())]
    over = threading.Event()

    def speak(who: int) -> None:
        mine = fabric.connect()
        for n in range(600):
            for job in jobs:
                mine.control(job, {"kind": "say", "value": [who, n]})

    def harm() -> None:
        while not over.wait(chance.uniform(0.3, 1.0)):
            at = chance.randrange(2)
            match chance.choice(["broker", "kernel", "process", "pause"]):
                case "broker":
                    fabric.broker.kill()
                    fabric.start_broker()
                case "kernel":
                    kernels[at].kill()
                    kernels[at] = fabric.start_kernel(slots=2)
                case "process":
                    for pid in slots_of(kernels[at].pid)[:1]:
                        os.kill(pid, signal.SIGKILL)
                case "pause":
                    kernels[at].signal(signal.SIGSTOP)
                    time.sleep(chance.uniform(0.2, 2.0))
                    kernels[at].signal(signal.SIGCONT)

    people = [threading.Thread(target=speak, args=(who,)) for who in range(3)]
    trouble = threading.Thread(target=harm)
    for thread in (*people, trouble):
        thread.start()
    for thread in people:
        thread.join()
    over.set()
    trouble.join()
    *units, alone = [*service.wait(jobs[0], 60), service.wait(jobs[1], 60)]
    assert all(heard == units[2][: len(heard)] for heard in units), "every process has heard the same"
    for heard in (units[2], alone):
        assert len(heard) == 1500
        for who in range(3):
            said = [n for one, n in heard if one == who]
            assert said == list(range(len(said))), "in order, nothing twice, nothing left out"

"""Jobs, maps and drivers through the real local service: bodies, errors, ends, nesting, randomness."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import park
from park.core import server
from park.core.server import ServerProxy
from park.kernel.machine import code_cache, process
from park.local import LocalService
from park.wait_reason import Cause, words


def square(x: float) -> float:
    return x * x


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def service() -> Iterator[ServerProxy]:
    with park.local_service as service:
        yield service


class Counted:
    """A body that writes down what is called."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def note(self, word: str) -> None:
        with self.file.open("a") as out:
            out.write(word + "\n")

    def prepare(self, env: park.environment) -> None:  # type: ignore[valid-type]
        self.offset = 100
        self.note(f"prepare {env.job_id}")

    def run(self, x: int) -> int:
        return self.offset + x

    def cleanup(self, env: park.environment) -> None:  # type: ignore[valid-type]
        self.note("cleanup")


# -- bodies and inputs ---------------------------------------------------------------------------


def test_a_callable_runs_once(service: ServerProxy) -> None:
    assert service.wait(service.start(lambda: 6 * 7)) == 42


def test_results_come_in_input_order(service: ServerProxy) -> None:
    def slow_first(x: int) -> int:
        time.sleep(0.05 if x == 0 else 0)
        return -x

    assert service.wait(service.start(slow_first, range(20))) == [-x for x in range(20)]


def test_no_inputs_give_no_results(service: ServerProxy) -> None:
    job = service.job(service.start(square, []))
    assert job.wait() == []
    assert job.state == "complete"
    assert list(service.map(square, [])) == []
    assert service.mapper(square)([]) == []
    assert list(service.executor().map(square, [])) == []


def test_a_body_is_prepared_once_a_process_and_cleaned_up(service: ServerProxy, tmp_path: Path) -> None:
    file = tmp_path / "calls"
    assert service.wait(service.start(Counted(file), range(50))) == [100 + x for x in range(50)]
    until(lambda: file.read_text().split().count("cleanup") == file.read_text().split().count("prepare"))
    assert 1 <= file.read_text().split().count("prepare") <= 2


def test_rows_of_an_array_are_inputs(service: ServerProxy) -> None:
    points = np.arange(12.0).reshape(4, 3)
    assert service.wait(service.start(np.sum, points)) == [3.0, 12.0, 21.0, 30.0]
    assert list(service.map(float, np.arange(5.0))) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_large_inputs_and_results_pass(service: ServerProxy) -> None:
    big = np.arange(3_000_000.0)
    result = service.wait(service.start(lambda a: a * 2, [big]))[0]
    assert np.array_equal(result, big * 2)


def test_a_lazy_iterable_is_read_to_its_end(service: ServerProxy) -> None:
    job = service.start(square, (x for x in range(20_000)))
    assert service.wait(job) == [x * x for x in range(20_000)]


def test_a_request_carries_its_fields(service: ServerProxy) -> None:
    request = park.Request(square, [1, 2], name="fields", tags=("a", "b=c"), priority="high")
    job = service.job(service.submit(request))
    job.wait()
    assert (job.record.name, job.tags, job.priority) == ("fields", (park.usertag(), "a", "b=c"), 4)
    assert [j.id for j in service.jobs("b=c")] == [job.id]
    assert service.jobs(park.JobState.FAILED, owner="nobody") == []


def test_tags_of_the_process_and_of_the_service_come_first(
    service: ServerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("park.core.server.TAGS", ["desk"])
    above = park.ServerProxy(service)
    above.set_tags("line")
    try:
        service.set_tags(["thesis", "sample=7"])
        job = service.job(service.start(square, [1], tags=["first", "desk"]))
        assert job.tags == ("desk", "thesis", "sample=7", "first")
        assert above.job(above.start(square, [1])).tags == ("desk", "thesis", "sample=7", "line")
        for wrong in ("", ["a", 3], "a\x1b", 3):
            with pytest.raises(park.InvalidRequest, match="tag"):
                service.set_tags(wrong)  # type: ignore[arg-type]
        assert [j.id for j in service.jobs("thesis") if j.id == job.id] == [job.id]
    finally:
        service.set_tags(())
    assert service.job(service.start(square, [1])).tags == ("desk",)


def test_fetch_gives_a_request_that_runs_again(service: ServerProxy) -> None:
    first = service.start(lambda x: (x, random.random(), np.random.rand()), range(10))
    results = service.wait(first)
    copy = service.fetch(first)
    assert copy.result == results
    assert service.wait(service.submit(copy.request)) == results


# -- errors --------------------------------------------------------------------------------------


def test_an_exception_fails_one_unit_only(service: ServerProxy) -> None:
    job = service.job(service.start(lambda x: 1 / x, [1, 0, 2]))
    with pytest.raises(park.JobFailed, match="unit 1: ZeroDivisionError: division by zero") as raised:
        job.wait()
    assert "in <lambda>" in raised.value.traceback
    assert raised.value.results is not None
    assert [raised.value.results[0], raised.value.results[2]] == [1.0, 0.5]
    assert isinstance(raised.value.results[1], park.UnitError)
    assert job.state == "failed"
    assert job.error is raised.value
    with pytest.raises(park.JobFailed):
        _ = job.result


def test_on_error_stop_runs_no_more(service: ServerProxy) -> None:
    def fail(x: int) -> None:
        time.sleep(0.02)
        raise ValueError(f"bad {x}")

    with pytest.raises(park.JobFailed) as raised:
        service.wait(service.start(fail, range(200), on_error="stop"))
    assert raised.value.results is not None
    assert raised.value.results.count(park.NotRun) > 150


def test_a_body_that_cannot_be_unpickled_there_fails_in_words(service: ServerProxy) -> None:
    class Bomb:
        def __reduce__(self) -> object:
            return (int, ("no number",))

        def run(self) -> None: ...

    with pytest.raises(park.JobFailed, match="invalid literal for int"):
        service.wait(service.start(Bomb()))


def test_what_cannot_be_pickled_is_named(service: ServerProxy) -> None:
    lock = threading.Lock()
    with pytest.raises(park.NotPicklable, match="lock"):
        service.start(lambda: lock)
    with pytest.raises(park.JobFailed, match="cannot be pickled"):
        service.wait(service.start(lambda x: threading.Lock(), [1]))


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), r"signal 11 \(SIGSEGV\)"),
        (lambda: os._exit(3), "exited with code 3"),
    ],
)
def test_a_process_that_dies_fails_its_unit_alone(
    service: ServerProxy, death: Callable[[], None], words: str
) -> None:
    def deadly(x: int) -> int:
        if x == 7:
            death()
        return x

    with pytest.raises(park.JobFailed, match=words) as raised:
        service.wait(service.start(deadly, range(20)))
    assert raised.value.results is not None
    assert [r for r in raised.value.results if not isinstance(r, park.UnitError)] == [
        x for x in range(20) if x != 7
    ]
    assert service.wait(service.start(square, [3])) == [9]


def test_the_last_words_of_a_dead_process_are_reported(service: ServerProxy) -> None:
    def dies() -> None:
        import sys

        print("the disk is on fire", file=sys.stderr, flush=True)
        os._exit(1)

    with pytest.raises(park.JobFailed, match="the disk is on fire"):
        service.wait(service.start(dies, idempotent=False))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.start(3), "neither callable nor an object with a run method"),
        (lambda s: s.start(Counted), "give an instance"),
        (lambda s: s.start(square, [1], priority="huge"), "priority 'huge'"),
        (lambda s: s.start(square, [1], priority=7), "priority 7"),
        (lambda s: s.start(square, [1], tags=[3]), "tag 3"),
        (lambda s: s.start(square, [1], when=float("nan")), "when=nan"),
        (lambda s: s.start(square, [1], seed="x"), "seed='x'"),
        (lambda s: s.start(square, [1], cpus=0), "cpus=0"),
        (
            lambda s: s.start(square, [1], cpu=2),
            "no cpu=; it has name=, .* cpus=, memory=, labels=, requires=",
        ),
        (lambda s: s.mapper(square, gpu=2), "a request has no gpu="),
        (lambda s: s.start(square, [1], memory="much"), "memory='much'"),
        (lambda s: s.start(square, [1], memory=1e30), "memory=1e"),
        (lambda s: s.start(square, [1], labels=[""]), "label ''"),
        (lambda s: s.start(square, [1], requires=["bumps"]), r"requires=\['bumps'\] is no list of"),
        (lambda s: s.start(square, [1], requires=[("bumps", ">1"), ("bumps", "<2")]), "names bumps 2 times"),
        (lambda s: s.start(square, [1], requires={"bumps": "new"}), "'new' is no set of versions"),
        (lambda s: s.set(1), "say what to set"),
        (lambda s: s.set(1, priority=9), "priority 9"),
        (lambda s: s.set(1, priority=float("nan")), "priority nan"),
        (lambda s: s.set(1, tags=[3]), "tag 3"),
        (lambda s: s.set("x", tags="a"), "neither a job nor the number"),
        (lambda s: s.grant("ada", -5), "a grant of -5"),
        (lambda s: s.grant("ada", float("nan")), "a grant of nan"),
        (lambda s: s.grant("", 5), "owner=''"),
        (lambda s: s.grant("ada", 5), "no credit limit: there is nothing to grant"),
        (lambda s: s.credits(5), "owner=5"),
        (lambda s: s.start(square, [1], on_error="ignore"), "on_error='ignore'"),
        (lambda s: s.start(square, [1], after="x"), "neither a job nor the number"),
        (lambda s: s.wait(1, timeout=-1), "timeout=-1"),
        (lambda s: s.map(3, [1]), "neither callable"),
        (lambda s: s.submit(square), "no park.Request"),
    ],
)
def test_bad_input_is_refused_in_words(
    service: ServerProxy, call: Callable[[ServerProxy], object], words: str
) -> None:
    with pytest.raises(park.InvalidRequest, match=words):
        call(service)


def test_unknown_jobs(service: ServerProxy) -> None:
    for call in (
        service.status,
        service.wait,
        service.stop,
        service.abort,
        service.pause,
        service.resume,
        lambda job: service.set(job, priority=1),
        service.fetch,
        service.job,
    ):
        with pytest.raises(KeyError, match="job 999999 is unknown"):
            call(999999)
    with pytest.raises(park.UnknownJob, match="999999"):
        service.start(square, [1], after=999999)
    ended = service.start(square, [1])
    service.wait(ended)
    for call in (service.abort, service.pause, service.resume, lambda job: service.set(job, tags="late")):
        with pytest.raises(KeyError, match="has ended"):
            call(ended)


# -- waiting -------------------------------------------------------------------------------------


def test_wait_gives_up_after_its_timeout_and_says_why(service: ServerProxy) -> None:
    job = service.start(time.sleep, [5, 5])
    with pytest.raises(TimeoutError, match=f"job {job} is running after 0.1 s"):
        service.wait(job, timeout=0.1)
    service.abort(job)


def test_wait_without_a_job_waits_for_the_last(service: ServerProxy) -> None:
    service.start(square, [5])
    assert service.wait() == [25]


def test_as_completed_gives_the_first_first(service: ServerProxy, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def patient() -> None:
        while not go.exists():
            time.sleep(0.01)

    slow = service.job(service.start(patient))
    fast = service.job(service.start(lambda: None))
    found = park.as_completed([slow, fast])
    assert next(found).id == fast.id
    go.touch()
    assert [job.id for job in found] == [slow.id]
    never = service.job(service.start(lambda: None, when=1000))
    with pytest.raises(park.WaitTimeout):
        list(park.as_completed([never], timeout=0.05))
    never.abort()


def test_await(service: ServerProxy) -> None:
    import asyncio

    async def main() -> int:
        return await service.job(service.start(lambda: 5))

    assert asyncio.run(main()) == 5


# -- after, when, references ---------------------------------------------------------------------


def test_a_reference_becomes_the_value(service: ServerProxy) -> None:
    first = service.job(service.start(lambda: (time.sleep(0.2), [1, 2, 3])[1]))
    reference = first.result
    with pytest.raises(park.NotComplete, match=f"job {first.id} is not complete"):
        _ = reference[0]
    second = service.job(service.start(lambda: sum(reference)))
    assert second.record.after == (first.id,)
    assert second.state == "waiting"
    assert f"waits for job {first.id}" in second.reason
    assert service.wait_reason(second).job == first.id
    assert second.wait() == 6
    assert first.result == [1, 2, 3]


def test_a_failed_dependency_fails_its_dependents(service: ServerProxy) -> None:
    first = service.start(lambda: 1 / 0, when=0.1)
    second = service.start(lambda: 1, after=first)
    third = service.start(lambda: 1, after=[second])
    with pytest.raises(
        park.JobFailed, match=f"job {first}, which it comes after, has failed: ZeroDivisionError"
    ):
        service.wait(second)
    with pytest.raises(park.JobFailed, match=f"job {second}"):
        service.wait(third)


def test_when_holds_a_job(service: ServerProxy) -> None:
    began = time.time()
    job = service.job(service.start(time.time, when=0.3))
    assert job.state == "waiting"
    assert job.wait() >= began + 0.3


# -- stop and abort ------------------------------------------------------------------------------


def test_abort_ends_a_running_unit_at_once(service: ServerProxy) -> None:
    job = service.job(service.start(time.sleep, [60, 60, 60]))
    until(lambda: job.state == "running")
    began = time.monotonic()
    job.abort()
    with pytest.raises(park.JobAborted) as raised:
        job.wait()
    assert time.monotonic() - began < 30
    assert raised.value.partial == [park.NotRun] * 3
    assert service.wait(service.start(square, [2])) == [4]


def test_abort_kills_what_does_not_obey(service: ServerProxy, tmp_path: Path) -> None:
    def stubborn() -> None:
        while True:
            try:
                (tmp_path / "runs").touch()
                time.sleep(60)
            except BaseException:
                (tmp_path / "swallowed").touch()

    job = service.job(service.start(stubborn))
    until((tmp_path / "runs").exists)
    job.abort()
    with pytest.raises(park.JobAborted):
        job.wait(timeout=60)
    assert (tmp_path / "swallowed").exists()


def test_abort_cleans_up(service: ServerProxy, tmp_path: Path) -> None:
    class Body:
        def run(self) -> None:
            (tmp_path / "runs").touch()
            time.sleep(60)

        def cleanup(self, env: object) -> None:
            (tmp_path / "clean").touch()

    job = service.job(service.start(Body()))
    until((tmp_path / "runs").exists)
    job.abort()
    with pytest.raises(park.JobAborted):
        job.wait()
    assert (tmp_path / "clean").exists()


def test_a_stopped_map_job_keeps_what_ran(service: ServerProxy) -> None:
    def step(x: int) -> int:
        time.sleep(0.01)
        return x

    job = service.job(service.start(step, range(100_000)))
    until(lambda: job.progress.done > 5)
    job.stop()
    results = job.wait()
    assert job.state == "complete"
    assert job.record.stopped
    assert len(results) == 100_000
    ran = [r for r in results if r is not park.NotRun]
    assert 5 < len(ran) < 50_000


def test_a_stopped_driver_returns_its_best(service: ServerProxy) -> None:
    def search() -> int:
        env = park.environment()
        best = 0
        while not env.should_stop:
            best += sum(env.map(square, [1, 2]))
        return best

    job = service.job(service.start(search))
    until(lambda: job.state == "running")
    job.stop()
    assert job.wait() % 5 == 0
    assert job.record.stopped


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_a_stopped_body_that_never_asks_ends_at_its_safe_point(
    service: ServerProxy, tmp_path: Path, pause: float
) -> None:
    class Walk:
        def __init__(self, file: Path) -> None:
            self.file = file

        def run(self) -> int:
            step, end = 0, time.monotonic() + 60
            try:
                while time.monotonic() < end:
                    time.sleep(pause)
                    step += 1
                    park.environment().publish(park.Progress(step, 10**9))
                    park.environment().ready()
            finally:
                self.file.write_text("let go")
            return step

        def cleanup(self, env: Any) -> None:
            self.file.with_suffix(".clean").write_text("")

    job = service.job(service.start(Walk(tmp_path / "walk")))
    until(lambda: job.state == "running" and job.progress.done > 0)
    job.stop()
    assert job.wait(timeout=60) is park.NotRun
    assert job.state == "complete"
    assert job.record.stopped
    assert (tmp_path / "walk").read_text() == "let go"
    until((tmp_path / "walk.clean").exists)


def test_a_stopped_body_that_asks_may_take_safe_points_until_its_end(service: ServerProxy) -> None:
    def walk() -> int:
        env, left = park.environment(), 10
        while left:
            left -= env.should_stop  # it winds up in ten more steps
            time.sleep(0.01)
            env.ready()
        return left

    job = service.job(service.start(walk))
    until(lambda: job.state == "running")
    job.stop()
    assert job.wait(timeout=60) == 0


def test_units_that_never_ask_end_at_their_safe_point(service: ServerProxy) -> None:
    def unit(x: int) -> int:
        for _ in range(600 if x else 1):
            time.sleep(0.1)
            park.environment().ready()
        return x

    job = service.job(service.start(unit, range(5)))
    until(lambda: job.progress.done > 0)
    job.stop()
    results = job.wait(timeout=60)
    assert results[0] == 0
    assert all(result is park.NotRun for result in results[1:])


def test_who_waits_for_a_slot_hears_the_stop(tmp_path: Path) -> None:
    """Drivers share one slot, and the one that waits for its turn ends with its best, too."""

    def search() -> int:
        env, best = park.environment(), 0
        while not env.should_stop:
            best += 1
            time.sleep(0.002)
        return best

    own = LocalService()
    own.configure(slots=1, home=tmp_path)
    with own as service:
        jobs = [service.job(service.start(search)) for _ in range(4)]
        until(lambda: all(job.state == "running" for job in jobs), 60)
        for job in jobs[1:]:
            job.stop()
        assert all(isinstance(job.wait(timeout=60), int) for job in jobs[1:])
        assert jobs[0].state == "running"
        jobs[0].stop()
        assert jobs[0].wait(timeout=60) >= 0


def test_what_never_started_ends_aborted(service: ServerProxy) -> None:
    for end in (service.stop, service.abort):
        job = service.job(service.start(square, [1], when=1000))
        end(job)
        with pytest.raises(park.JobAborted):
            job.wait()


def test_a_job_after_too_many_is_refused_at_once(service: ServerProxy) -> None:
    first = service.start(square, [2])
    assert service.wait(service.start(square, [3], after=[first] * 100_000), timeout=60) == [9]
    with pytest.raises(park.InvalidRequest, match=r"after 4,000 others, and this one after 100,000: submit"):
        service.start(square, [1], after=range(1, 100_001))


# -- pause, resume and other priorities ------------------------------------------------------------


@pytest.fixture
def single() -> Iterator[ServerProxy]:
    """A service with one slot."""
    service = LocalService()
    service.configure(slots=1)
    yield service
    service.close()


def nap(x: int) -> int:
    time.sleep(0.01)
    return x


def test_a_paused_map_job_deals_nothing_until_it_is_resumed(single: ServerProxy) -> None:
    job = single.job(single.start(nap, range(120)))
    until(lambda: job.progress.done > 3)
    job.pause()
    until(lambda: job.record.running == 0)
    done = job.progress.done
    assert job.state == "paused"
    assert repr(job).endswith(
        f"paused {job.progress.done} of 120: `park resume {job.id}`, in Python job.resume(), lets it go on>"
    )
    # whoever waits for it goes on waiting
    with pytest.raises(park.WaitTimeout, match=f"job {job.id} is paused after 0.05 s: `park resume"):
        job.wait(timeout=0.05)
    # others run meanwhile
    assert single.wait(single.start(nap, range(20))) == list(range(20))
    assert job.progress.done == done < 120
    job.resume()
    assert job.wait() == list(range(120))


def test_what_never_ran_may_be_paused(single: ServerProxy) -> None:
    job = single.job(single.start(square, [2], when=0.2))
    job.pause()
    assert job.state == "paused"
    other = single.job(single.start(square, [3], after=job))
    assert f"waits for job {job.id}, which is paused" in other.reason
    job.resume()
    assert job.state == "waiting"
    assert (job.wait(), other.wait()) == ([4], [9])
    paused = single.job(single.start(square, [4], when=1000))
    paused.pause()
    paused.abort()
    assert paused.state == "aborted"


class Counter:
    """A serial body that counts in a file, and says how far it came and in which process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / name
        self.end = folder / f"{name}.end"

    @property
    def count(self) -> int:
        return len(self.file.read_bytes()) if self.file.exists() else 0

    def run(self) -> tuple[int, set[int]]:
        env, processes, count = park.environment(), set(), 0
        while not self.end.exists():
            with self.file.open("ab") as out:
                out.write(b".")
            count += 1
            processes.add(os.getpid())
            time.sleep(0.002)
            env.ready()
        return count, processes


def test_a_paused_body_waits_at_its_safe_point_and_its_slot_is_free(
    single: ServerProxy, tmp_path: Path
) -> None:
    body = Counter(tmp_path, "serial")
    job = single.job(single.start(body))
    until(lambda: body.count > 3)
    job.pause()
    # the one slot is another's
    assert single.wait(single.start(nap, range(5))) == list(range(5))
    assert job.state == "paused"
    count = body.count
    assert single.wait(single.start(nap, range(5))) == list(range(5))
    assert body.count == count
    # it goes on where it was, in the same process
    job.resume()
    until(lambda: body.count > count)
    body.end.touch()
    steps, processes = job.wait()
    assert steps == body.count
    assert len(processes) == 1


def test_a_paused_job_may_be_stopped(single: ServerProxy, tmp_path: Path) -> None:
    def serial() -> str:
        env = park.environment()
        while not env.should_stop:
            (tmp_path / "runs").touch()
            time.sleep(0.002)
            env.ready()
        return "best so far"

    job = single.job(single.start(serial))
    until((tmp_path / "runs").exists)
    job.pause()
    assert single.wait(single.start(square, [2])) == [4]
    job.stop()
    assert job.wait() == "best so far"


def test_serial_bodies_take_turns_on_one_slot(single: ServerProxy, tmp_path: Path) -> None:
    first, second = Counter(tmp_path, "first"), Counter(tmp_path, "second")
    jobs = [single.job(single.start(body)) for body in (first, second)]
    until(lambda: first.count > 0 and second.count > 0)
    # both go on, turn by turn
    seen = first.count, second.count
    until(lambda: first.count > seen[0] and second.count > seen[1])
    seen = first.count, second.count
    until(lambda: first.count > seen[0] and second.count > seen[1])
    for body, job in zip((first, second), jobs, strict=True):
        body.end.touch()
        assert len(job.wait()[1]) == 1


def test_another_priority_counts_from_the_next_unit_on(single: ServerProxy) -> None:
    first, second = (single.job(single.start(nap, range(600))) for _ in range(2))
    until(lambda: first.progress.done > 5 and second.progress.done > 5)
    second.set(priority="urgent", tags=["soon", "soon"])
    assert (second.priority, second.tags) == (6, ("soon",))
    second.wait()
    assert first.progress.done < 480  # with equal priorities it would be about as far
    first.set(tags=())
    assert (first.priority, first.tags) == (0, ())
    first.abort()


# -- what units need -------------------------------------------------------------------------------


def test_what_no_kernel_has_is_said_at_once(service: ServerProxy) -> None:
    needs: list[tuple[dict[str, object], str]] = [
        ({"labels": "gpu"}, "no kernel has the label 'gpu'"),
        ({"memory": "900 TB"}, "no kernel has 9e+05 GB of memory"),
        ({"cpus": 5000}, "no kernel has 5000 slots"),
        ({"requires": {"no-such-package": ""}}, "no kernel has the package no-such-package"),
        ({"requires": [("numpy", "<1.0")]}, "no kernel has numpy <1.0"),
    ]
    for fields, text in needs:
        job = service.job(service.start(square, [1], **fields))
        assert job.state == "queued"
        assert job.reason.startswith(text)
        reason = service.wait_reason(job)
        assert reason.cause is Cause.REQUIREMENT
        assert words(reason) == job.reason
        job.abort()


def test_what_the_node_has_runs(service: ServerProxy) -> None:
    needs = {"memory": "1 MB", "cpus": 1, "requires": [("NumPy", ">=1"), ("click", "")]}
    job = service.start(square, [3], **needs)
    assert service.wait(job) == [9]
    request = service.fetch(job).request
    assert (request.memory, request.labels) == (1_000_000, ())
    assert request.requires == (("NumPy", ">=1"), ("click", ""))
    assert service.wait(service.submit(request)) == [9]
    assert service.mapper(square, **needs)([2]) == [4]
    (kernel,) = service.kernels()
    assert kernel.memory > 10**8


def test_the_local_service_has_no_credit_limit(service: ServerProxy) -> None:
    service.wait(service.start(nap, range(5), priority="urgent"))
    (account,) = service.credits()
    assert account.owner == park.usertag()
    assert (account.balance, account.cap, account.rate, account.jobs) == (None, None, None, {})
    assert account.use > 0
    assert account.owner in {a.owner for a in service.credits("*")}
    assert [a.use for a in service.credits("nobody")] == [0.0]


# -- drivers -------------------------------------------------------------------------------------


def leaf(x: int) -> int:
    return x + 1


def branch(x: int) -> int:
    return sum(park.environment().map(leaf, range(x)))


def tree(x: int) -> int:
    return sum(park.environment().map(branch, range(x)))


def test_maps_nest_at_any_depth(service: ServerProxy) -> None:
    expected = [sum(sum(range(1, i + 1)) for i in range(n)) for n in range(6)]
    assert service.wait(service.start(tree, range(6))) == expected


@pytest.mark.heavy
def test_more_drivers_than_may_stay(service: ServerProxy) -> None:
    def driver(x: int) -> float:
        run = park.environment().mapper(square)
        return sum(sum(run([x, i])) for i in range(3))

    jobs = [service.start(lambda n=n: driver(n)) for n in range(25)]
    assert [service.wait(j) for j in jobs] == [3 * n * n + 5 for n in range(25)]


def test_a_failing_item_raises_in_the_driver(service: ServerProxy) -> None:
    def driver() -> object:
        results = park.environment().map(lambda x: 1 / x, [1, 2, 0])
        first, second = next(results), next(results)
        try:
            next(results)
        except park.UnitError as error:
            return first, second, error.unit, error.cause

    assert service.wait(service.start(driver)) == (1.0, 0.5, 2, "ZeroDivisionError: division by zero")


def test_a_driver_and_its_units_may_die(service: ServerProxy, tmp_path: Path) -> None:
    def unit(x: int) -> int:
        if x == 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(9)
        return x

    def driver() -> int:
        return sum(park.environment().map(unit, range(10)))

    assert service.wait(service.start(driver)) == 45


def test_abort_of_a_driver_ends_its_maps(service: ServerProxy, tmp_path: Path) -> None:
    def unit(x: int) -> None:
        (tmp_path / "runs").touch()
        time.sleep(60)

    def driver() -> None:
        list(park.environment().map(unit, range(4)))

    job = service.job(service.start(driver))
    until((tmp_path / "runs").exists)
    job.abort()
    with pytest.raises(park.JobAborted):
        job.wait(timeout=60)
    assert service.wait(service.start(square, [2])) == [4]


def test_messages_reach_a_monitor_and_the_progress(service: ServerProxy) -> None:
    class Monitor:
        def __init__(self) -> None:
            self.seen: list[object] = []

        def on_progress(self, message: park.Progress) -> None:
            self.seen.append(message)

        def on_improvement(self, message: park.Improvement) -> None:
            self.seen.append(message)

        def on_note(self, message: dict[str, object]) -> None:
            self.seen.append(message)

    def body() -> None:
        env = park.environment()
        env.publish({"kind": "note", "text": "begin"})
        for i in range(1, 11):
            env.publish(park.Progress(i, 10))
        env.publish(park.Improvement(0.5, {"a": 1.0}))
        with pytest.raises(park.InvalidRequest):
            env.publish("nonsense")  # type: ignore[arg-type]

    monitor = Monitor()
    job = service.job(service.start(body, monitor=monitor, when=0.1))
    job.wait()
    until(lambda: len(monitor.seen) >= 4)
    assert monitor.seen[0] == {"kind": "note", "text": "begin"}
    assert park.Progress(10, 10) in monitor.seen
    assert park.Improvement(0.5, {"a": 1.0}) in monitor.seen
    assert job.progress.fraction == 1.0


def test_the_environment_is_only_inside() -> None:
    with pytest.raises(park.ParkError, match="works inside a body"):
        park.environment()


# -- sessions ------------------------------------------------------------------------------------


def test_map_is_lazy_with_back_pressure(service: ServerProxy) -> None:
    read = []

    def endless() -> Iterator[int]:
        x = 0
        while True:
            read.append(x)
            yield x
            x += 1

    results = service.map(square, endless())
    assert [next(results) for _ in range(500)] == [x * x for x in range(500)]
    assert len(read) < 20_000
    results.close()


def test_map_raises_at_the_item(service: ServerProxy) -> None:
    results = service.map(lambda x: 10 // x, [5, 0, 2])
    assert next(results) == 2
    with pytest.raises(park.UnitError, match="unit 1: ZeroDivisionError"):
        next(results)


def test_map_as_they_come(service: ServerProxy) -> None:
    assert sorted(service.map(square, range(1000), ordered=False)) == sorted(x * x for x in range(1000))


def test_a_mapper_maps_often(service: ServerProxy) -> None:
    run = service.mapper(square)
    for n in range(1, 30):
        assert run(range(n)) == [x * x for x in range(n)]
    assert run(np.array([[1.0], [2.0]]))[1] == np.array([4.0])


def test_the_executor_is_an_executor(service: ServerProxy) -> None:
    def fail(x: int) -> int:
        raise LookupError(f"no {x}")

    with service.executor() as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        assert pool.submit(pow, 2, 5).result() == 32
        assert pool.submit(int, "ff", base=16).result() == 255
        assert list(pool.map(pow, [2, 3], [3, 2])) == [8, 9]
        with pytest.raises(LookupError, match="no 3") as raised:
            pool.submit(fail, 3).result()
        assert "in fail" in str(raised.value.__cause__)
        with pytest.raises(LookupError):
            list(pool.map(fail, [1]))
        with pytest.raises(TimeoutError):
            list(pool.map(time.sleep, [3], timeout=0.1))
        futures = [pool.submit(square, x) for x in range(50)]
        assert sum(f.result() for f in concurrent.futures.as_completed(futures)) == sum(
            x * x for x in range(50)
        )
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(square, 1)


def test_a_cancelled_future_does_not_run(service: ServerProxy) -> None:
    pool = service.executor()
    futures = [pool.submit(time.sleep, 0.3) for _ in range(6)]
    until(lambda: sum(job.running for job in service.table.jobs.values()) == 2)
    assert not futures[0].cancel()  # it goes on
    assert futures[0].running()
    pool.shutdown(cancel_futures=True)
    assert [f.cancelled() for f in futures] == [False] * 2 + [True] * 4
    assert [f.result() for f in futures[:2]] == [None, None]
    assert service.wait(service.start(square, [2])) == [4]


def test_whoever_waits_for_a_future_gets_its_end(service: ServerProxy) -> None:
    with service.executor() as pool, concurrent.futures.ThreadPoolExecutor(4) as threads:
        slow = pool.submit(time.sleep, 0.5)
        with pytest.raises(TimeoutError):
            slow.result(0.05)
        assert [f.result(50) for f in [threads.submit(slow.result) for _ in range(4)]] == [None] * 4
        assert isinstance(pool.submit(int, "x").exception(10), ValueError)
        running = [pool.submit(time.sleep, 1.0) for _ in range(2)]
        behind = pool.submit(time.sleep, 60)
        waiting = [threads.submit(behind.result) for _ in range(2)]
        assert not concurrent.futures.wait(waiting, 0.3).done
        assert behind.cancel()
        for future in waiting:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(5)
        assert concurrent.futures.wait([behind], 5).done == {behind}
        assert not any(future.done() for future in running)


def test_callbacks_of_futures_run_in_their_own_thread(service: ServerProxy) -> None:
    with service.executor() as pool:
        ran: list[str] = []
        for _ in range(2):
            future = pool.submit(time.sleep, 0.1)
            future.add_done_callback(lambda f: ran.append(threading.current_thread().name))
            future.result()
    assert ran == ["park-callbacks"] * 2


# -- randomness ----------------------------------------------------------------------------------


def draws(x: int) -> tuple[float, float, int]:
    return random.random(), float(np.random.rand()), park.environment().seed


def test_equal_seeds_give_equal_numbers_in_any_chunks(service: ServerProxy) -> None:
    def driver() -> list[object]:
        mine = [random.random()]
        return [mine, list(park.environment().map(draws, range(40))), random.random()]

    first, second = (service.wait(service.start(draws, range(300), seed=7)) for _ in range(2))
    assert first == second
    assert len({d[0] for d in first}) == 300
    assert service.wait(service.start(driver, seed=1)) == service.wait(service.start(driver, seed=1))
    assert service.wait(service.start(driver, seed=1)) != service.wait(service.start(driver, seed=2))


def test_a_function_that_imports_numpy_itself_is_seeded(service: ServerProxy) -> None:
    def inner(x: int) -> float:
        import numpy

        return float(numpy.random.rand())

    assert service.wait(service.start(inner, range(4), seed=3)) == service.wait(
        service.start(inner, range(4), seed=3)
    )


# -- the default service -------------------------------------------------------------------------


class Other(park.ServerProxy):
    """Another service over the same connection."""


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_the_default_service_is_of_the_thread_and_the_task(service: ServerProxy) -> None:
    other = Other(service)
    seen: list[object] = []

    def elsewhere() -> None:
        seen.append(park.default_service())  # the process's newest that is open
        with other:
            seen.append(park.default_service())
            seen.append(in_a_thread(park.default_service))
        seen.append(park.default_service())

    async def task(mine: ServerProxy) -> bool:
        with mine:
            await asyncio.sleep(0)
            return park.default_service() is mine

    async def tasks() -> list[bool]:
        return await asyncio.gather(task(other), task(service), task(other))

    in_a_thread(elsewhere)
    assert seen == [service, other, other, service]
    assert asyncio.run(tasks()) == [True] * 3
    with pytest.raises(LookupError), other:
        raise LookupError
    assert park.default_service() is service


def test_in_a_body_no_second_fabric_begins_by_itself(service: ServerProxy) -> None:
    def body() -> str:
        try:
            park.default_service()
        except park.ParkError as error:
            return str(error)
        return "it began"

    assert "a body runs here" in service.wait(service.start(body))


def test_the_tags_of_a_process_begin_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.TAGS[0] == park.usertag()
    for user, tags in (("ada", ["ada"]), ("a\tb", []), ("é" * 150, [])):
        monkeypatch.setenv("PARKTAG", user)
        assert server.own_tags() == tags


def test_code_that_the_broker_dropped_is_sent_again(service: ServerProxy) -> None:
    assert isinstance(service, LocalService)
    service.jobs()  # it starts on first use
    assert service._manager is not None
    codes = service._manager.manager.dispatcher.state.code_cache
    limit, codes._limit = codes._limit, 1000
    try:
        first, second = (np.full(5000, n) for n in (1.0, 2.0))
        one, two = service.mapper(lambda x: x + first[3]), service.mapper(lambda x: x + second[3])
        for _ in range(3):  # each larger than what is kept of idle code, so each drops the other
            assert one([1.0]) == [2.0]
            assert two([1.0]) == [3.0]
        assert service.wait(service.start(lambda x: x + second[4], [1.0])) == [3.0]
    finally:
        codes._limit = limit


def test_code_that_a_process_dropped_comes_again(
    service: ServerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (code_cache, process):  # every map drops the code of the one before
        monkeypatch.setattr(module, "MAX_CODE_BYTES", 1000)

    def driver(rounds: int) -> list[list[float]]:
        env = park.environment()
        first, second = (np.full(5000, n) for n in (1.0, 2.0))
        one, two = env.mapper(lambda x: x + first[3]), env.mapper(lambda x: x + second[3])
        return [
            [*one([r]), *two([r, r]), *env.map(lambda x, r=r: x + first[2] * r, [1.0])] for r in range(rounds)
        ]

    want = [[r + 1.0, r + 2.0, r + 2.0, r + 1.0] for r in range(20)]
    assert service.wait(service.start(driver, [20, 20, 20])) == [want] * 3
    arrays = [np.full(5000, n) for n in range(5)]
    for _ in range(3):
        assert [service.wait(service.start(lambda x, a=a: x + a[1], [0.0])) for a in arrays] == [
            [n] for n in range(5)
        ]


def test_slots_follow_the_path_and_the_folder(
    service: ServerProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.wait(service.start(square, [1]))
    (tmp_path / "added_later.py").write_text("def triple(x):\n    return 3 * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    from added_later import triple  # type: ignore[import-not-found]

    assert service.wait(service.start(triple, [1, 2])) == [3, 6]
    assert service.wait(service.start(os.getcwd)) == str(tmp_path)


def test_slots_have_the_arguments_of_the_script(
    service: ServerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: Any) -> list[str]:
        return sys.argv

    for argv in (["fit.py", "200", "é"], ["other.py"], ["many.py", *map(str, range(5000))]):
        monkeypatch.setattr(sys, "argv", argv)
        want = argv if len(argv) < 100 else argv[:1]  # of more than a message holds the script alone
        assert service.wait(service.start(told)) == want
        assert list(service.map(told, range(3))) == [want] * 3
    # a job may have its own, which the next one has not
    assert service.wait(service.start(told, range(3), argv=["mine", "x"])) == [["mine", "x"]] * 3
    assert service.wait(service.start(told)) == ["many.py"]
    with pytest.raises(park.InvalidRequest, match=r"argv='fit\.py' is no list of texts"):
        service.start(told, argv="fit.py")


def test_an_abandoned_map_ends(service: ServerProxy) -> None:
    for value in service.map(lambda x: (time.sleep(0.01), x)[1], range(10_000), name="abandoned"):
        assert value == 0
        break
    (session,) = service.jobs("abandoned")
    until(lambda: session.state.ended)


def test_a_reference_is_refused_where_nothing_can_wait_for_it(service: ServerProxy) -> None:
    slow = service.job(service.start(time.sleep, when=1000, inputs=[0]))
    reference = slow.result
    for call in (
        lambda: service.mapper(square)([reference]),
        lambda: service.map(lambda x: reference, [1]),
    ):
        with pytest.raises(park.ParkError, match=f"job {slow.id} is not complete"):
            call()
    assert service.job(service.start(square, [1, reference])).record.after == (slow.id,)
    slow.abort()


def test_inputs_that_raise_end_their_job(service: ServerProxy) -> None:
    def inputs() -> Iterator[int]:
        yield from range(20_000)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        service.start(square, inputs(), name="half")
    (half,) = service.jobs("half")
    until(lambda: half.state == "aborted")

"""`concurrent.futures` on the fabric: what the standard library promises of executors and their futures.

The cases follow CPython's own tests of its executors. These are not among them, since they are about another thing:

* numbers of workers, start methods, initializers, tasks for each child and names of threads: slots are the service's, and
  a body with `prepare` sets up what it needs;
* pools that break with one process: a call that takes its process along runs again, and fails alone after three times;
* inner parts, such as queues of calls, wake-up pipes and threads that manage processes.

With ``--all`` the installed standard library's own tests run too, where it has them.
"""

from __future__ import annotations

import concurrent.futures as cf
import gc
import itertools
import pickle
import queue
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import park
from park.client.callbacks import Callbacks
from park.client.executor import Executor
from park.local import LocalService
from tests.support.fabric import ENVIRONMENT, until


class Notes:
    """Calls note themselves in a folder, and wait where they are told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, x: Any, seconds: float = 0.0, wait: bool = False) -> Any:
        (self.folder / f"begun {x}").touch()
        time.sleep(seconds)
        while wait and not (self.folder / "open").exists():
            time.sleep(0.005)
        (self.folder / f"ended {x}").touch()
        return x

    def gate(self, x: Any) -> Any:
        return self(x, wait=True)

    def open(self) -> None:
        (self.folder / "open").touch()

    def names(self, what: str) -> list[str]:
        return sorted(file.name.split()[1] for file in self.folder.glob(f"{what} *"))


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Notes]:
    notes = Notes(tmp_path)
    yield notes
    notes.open()


@pytest.fixture
def pool(service: LocalService, notes: Notes) -> Iterator[Executor]:
    with service.executor() as pool:
        yield pool
        notes.open()


def square(x: int) -> int:
    return x * x


def given(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def draw() -> float:
    return random.random()


class Thing:
    """Can be referred to weakly."""

    def method(self) -> int:
        return 1


# -- calls ---------------------------------------------------------------------------------------


def test_arguments_arrive_whatever_their_names(pool: Executor) -> None:
    assert pool.submit(pow, 2, 8).result() == 256
    assert pool.submit(given, 1, self=2, fn=3).result() == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        pool.submit(fn=given, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        pool.submit(5).result()  # type: ignore[arg-type]


def test_what_cannot_travel_is_the_exception_of_its_future(pool: Executor) -> None:
    class Stays:
        def __reduce__(self) -> Any:
            raise pickle.PicklingError("it stays here")

    future = pool.submit(id, Stays())
    with pytest.raises(pickle.PicklingError, match="it stays here"):
        future.result()
    with pytest.raises(pickle.PicklingError):
        pool.submit(Stays().__reduce__).result()
    assert pool.submit(square, 2).result() == 4
    with pytest.raises(TypeError, match="open one where it is used"):
        pickle.dumps(pool)


def test_nothing_is_kept_of_what_was_sent_or_handed_out(pool: Executor) -> None:
    thing = Thing()
    gone = weakref.ref(thing)
    pool.submit(thing.method)
    del thing
    assert gone() is None  # without a collection of garbage
    for found in pool.map(lambda _: Thing(), range(10)):
        gone = weakref.ref(found)
        del found
        assert gone() is None


def test_results_of_a_map_of_the_service_are_freed_too(service: LocalService) -> None:
    for found in service.map(lambda _: Thing(), range(10)):
        gone = weakref.ref(found)
        del found
        assert gone() is None


# -- many calls ----------------------------------------------------------------------------------


def maps_sent(service: LocalService, pool: Executor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of calls in each map that the executor sends from now on."""
    sent: list[int] = []
    open_calls = pool._session.open_calls

    def count(code: Any, data: Any, numbers: range, *rest: Any) -> Any:
        sent.append(len(numbers))
        return open_calls(code, data, numbers, *rest)

    monkeypatch.setattr(pool._session, "open_calls", count)
    return sent


def test_many_calls_of_a_few_functions_make_few_maps(
    service: LocalService, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = maps_sent(service, pool, monkeypatch)
    functions = (square, str, abs)
    futures = [pool.submit(functions[x % 3], x) for x in range(3000)]
    assert [f.result() for f in futures] == [functions[x % 3](x) for x in range(3000)]
    assert sum(sent) == 3000
    assert len(sent) < 1000


def test_a_call_with_few_before_it_is_sent_at_once(
    service: LocalService, pool: Executor, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = maps_sent(service, pool, monkeypatch)
    futures = [pool.submit(notes.gate, x) for x in range(4)]
    assert sent == [1, 1, 1, 1]
    notes.open()
    assert [f.result() for f in futures] == [0, 1, 2, 3]


def test_arguments_and_functions_travel_as_they_are_when_they_are_submitted(pool: Executor) -> None:
    numbers, block, factor = [0], bytearray(200_000), 1

    def scaled(numbers: list[int], block: bytearray) -> tuple[list[int], int]:
        return [factor * n for n in numbers], block[0]

    futures = []
    for factor in range(1, 31):
        numbers[0] = block[0] = factor
        futures.append(pool.submit(scaled, numbers, block if factor % 7 == 0 else block[:3]))
    numbers[0] = block[0] = factor = 99
    assert [f.result() for f in futures] == [([n * n], n) for n in range(1, 31)]


class OutOfRange(ValueError):
    """Pickle calls it with its one text, and it takes three arguments."""

    def __init__(self, name: str, low: float, high: float) -> None:
        super().__init__(f"{name} is not in [{low}, {high}]")
        self.name, self.low, self.high = name, low, high
        self.lock = threading.Lock()


class NoFile(FileNotFoundError):
    def __init__(self, *, path: str) -> None:
        super().__init__(2, "no such file", path)


def refuse(kind: str) -> None:
    if kind == "file":
        raise NoFile(path="peak.dat")
    raise OutOfRange("scale", 0, 1)


def test_exceptions_that_pickle_cannot_make_again_come_as_themselves(pool: Executor) -> None:
    with pytest.raises(OutOfRange, match=r"scale is not in \[0, 1\]") as raised:
        pool.submit(refuse, "range").result()
    assert (raised.value.name, raised.value.high) == ("scale", 1)
    assert not hasattr(raised.value, "lock")  # it stays where it is, and the rest comes
    with pytest.raises(NoFile) as missing:
        pool.submit(refuse, "file").result()
    assert (missing.value.errno, missing.value.filename) == (2, "peak.dat")


def test_each_of_many_calls_has_its_own_end(pool: Executor) -> None:
    class Stays:
        def __reduce__(self) -> Any:
            raise pickle.PicklingError("it stays here")

    futures = [pool.submit(divmod, 6, Stays() if x == 50 else x % 4) for x in range(100)]
    for x, future in enumerate(futures):
        if x == 50:
            assert isinstance(future.exception(), pickle.PicklingError)
        elif x % 4 == 0:
            assert isinstance(future.exception(), ZeroDivisionError)
        else:
            assert future.result() == divmod(6, x % 4)


def test_of_calls_that_travel_together_each_can_be_cancelled(pool: Executor, notes: Notes) -> None:
    running = [pool.submit(notes.gate, x) for x in range(12)]
    until(lambda: len(notes.names("begun")) == 2)
    futures = [pool.submit(notes, x) for x in range(100, 140)]
    assert all(future.cancel() for future in futures[::2])
    assert not any(future.done() for future in futures[1::2])
    notes.open()
    assert [f.result() for f in running] == list(range(12))
    assert [f.result() for f in futures[1::2]] == list(range(101, 140, 2))
    assert all(f.cancelled() for f in futures[::2])
    assert {x for x in map(int, notes.names("begun")) if x >= 100} == set(range(101, 140, 2))


def test_random_numbers_do_not_depend_on_which_calls_travel_together(service: LocalService) -> None:
    def draws(pause: int) -> list[float]:
        with service.executor(seed=3) as pool:
            futures = []
            for x in range(60):
                futures.append(pool.submit(draw))
                futures.append(pool.submit(lambda: 5 + draw()))
                if pause and x % pause == 0:
                    futures[-1].result()
        return [f.result() for f in futures]

    first = draws(0)
    assert first == draws(1) == draws(7)
    assert len(set(first)) == 120


def test_calls_of_many_threads_come_back_to_their_own(pool: Executor) -> None:
    def ask(first: int) -> list[Any]:
        return [f.result(50) for f in [pool.submit(square, first + x) for x in range(200)]]

    with cf.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(0, 4000, 1000)))
    assert found == [[(first + x) ** 2 for x in range(200)] for first in range(0, 4000, 1000)]


def test_calls_that_were_gathered_end_with_the_service() -> None:
    service = LocalService()
    service.configure(slots=1)
    pool = service.executor()
    futures = [pool.submit(time.sleep, 60) for _ in range(30)]
    service.close()
    assert all(isinstance(f.exception(30), park.ServiceClosed) for f in futures)
    with pytest.raises((park.ServiceClosed, RuntimeError)):
        pool.submit(square, 1)


# -- waiting -------------------------------------------------------------------------------------


def raised() -> cf.Future[Any]:
    future: cf.Future[Any] = cf.Future()
    future.set_exception(OSError())
    return future


def cancelled() -> cf.Future[Any]:
    future: cf.Future[Any] = cf.Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


def test_wait_and_as_completed_take_these_futures(pool: Executor, notes: Notes) -> None:
    waits = pool.submit(notes.gate, 1)
    one, two = pool.submit(square, 3), pool.submit(divmod, 2, 0)
    done, left = cf.wait([one, waits], return_when=cf.FIRST_COMPLETED)
    assert (done, left) == ({one}, {waits})
    done, left = cf.wait([two, waits], return_when=cf.FIRST_EXCEPTION)
    assert (done, left) == ({two}, {waits})
    others = {raised(), cancelled()}
    assert cf.wait([waits, *others], timeout=0.05) == (others, {waits})
    with pytest.raises(TimeoutError, match=r"1 \(of 3\) futures unfinished"):
        list(cf.as_completed([waits, one, two], timeout=0))
    assert cf.wait([one, one]).done == {one}
    notes.open()
    assert set(cf.as_completed([waits, one, two, one, *others])) == {waits, one, two, *others}
    assert not cf.wait([waits, *others]).not_done


def test_many_futures_are_waited_for_by_many_threads(pool: Executor) -> None:
    futures = [pool.submit(square, x) for x in range(100)]
    with cf.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda f: f.result(50), [*futures, *futures]))
    assert found == [x * x for x in range(100)] * 2


def test_a_call_that_has_begun_is_not_cancelled(pool: Executor, notes: Notes) -> None:
    running = [pool.submit(notes.gate, x) for x in range(2)]
    until(lambda: len(notes.names("begun")) == 2)
    behind = pool.submit(notes, 2)
    told: list[bool] = []
    behind.add_done_callback(lambda f: told.append(f.cancelled()))
    assert behind.cancel()
    assert behind.cancel()  # once more
    assert behind.cancelled()
    assert told == [True]
    assert not running[0].cancel()
    assert running[0].running()
    with pytest.raises(cf.CancelledError):
        behind.result()
    notes.open()
    assert [f.result() for f in running] == [0, 1]
    assert not running[0].cancel()
    assert not running[0].running()
    assert notes.names("begun") == ["0", "1"]


@pytest.mark.parametrize("error", [SystemExit("leave"), ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_callback_that_raises_hangs_nothing(
    service: LocalService, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(future: cf.Future[Any]) -> None:
        raise error

    called: list[Any] = []
    with service.executor() as pool:
        future = pool.submit(time.sleep, 0.1)
        future.add_done_callback(fail)
        later = pool.submit(square, 2)
        later.add_done_callback(lambda f: called.append(f.result()))
        assert future.result(50) is None
        assert later.result(50) == 4
    until(lambda: called == [4])


# -- shutdown ------------------------------------------------------------------------------------


def test_callbacks_run_at_the_end_of_python_which_starts_no_threads(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    callbacks = Callbacks()
    callbacks.add(lambda: done.append(1 // 0))
    callbacks.add(lambda: done.append(2))
    assert done == [2]
    assert "a callback failed" in capfd.readouterr().err


def test_leaving_waits_for_calls_and_maps(service: LocalService, notes: Notes) -> None:
    with service.executor() as pool:
        futures = [pool.submit(notes, x, 0.01) for x in range(5)]
        maps = [pool.map(notes, range(10, 15)), pool.map(notes, iter(range(20, 25)))]
        pool.map(notes, range(30, 35))  # whose results nobody keeps
    assert len(notes.names("ended")) == 20
    assert [f.result() for f in futures] == list(range(5))
    assert [list(m) for m in maps] == [list(range(10, 15)), list(range(20, 25))]
    for late in (lambda: pool.submit(square, 1), lambda: pool.map(square, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            late()


def test_without_a_wait_all_ends_by_itself(service: LocalService, notes: Notes) -> None:
    pool = service.executor()
    futures = [pool.submit(notes, x, 0.02) for x in range(6)]
    mapped = pool.map(notes, range(10, 14))
    pool.shutdown(wait=False)
    del pool
    gc.collect()
    until(lambda: len(notes.names("ended")) == 10)
    assert [f.result() for f in futures] == list(range(6))
    assert list(mapped) == list(range(10, 14))


def test_an_executor_that_nobody_keeps_ends_its_calls(service: LocalService, notes: Notes) -> None:
    service.executor().submit(notes, 1, 0.1)
    service.executor().map(notes, [2, 3])
    gc.collect()
    until(lambda: notes.names("ended") == ["1", "2", "3"])
    until(
        lambda: not any(job.kind == "session" and not job.state.ended for job in service.table.jobs.values())
    )


def test_shutdown_may_cancel_what_has_not_begun(service: LocalService, notes: Notes) -> None:
    pool = service.executor()
    futures = [pool.submit(notes, x, 0.1) for x in range(10)]
    mapped = pool.map(notes, range(20, 30))
    until(lambda: notes.names("begun"))
    pool.shutdown(cancel_futures=True)
    ran = [f for f in futures if not f.cancelled()]
    assert 1 <= len(ran) <= 6
    assert all(f.done() and f.exception() is None for f in ran)
    assert notes.names("begun") == notes.names("ended")
    with pytest.raises(cf.CancelledError):
        list(mapped)


def test_a_call_that_was_cancelled_at_once_does_not_hold_up_shutdown(service: LocalService) -> None:
    for _ in range(10):
        pool = service.executor()
        pool.submit(int).cancel()
        pool.shutdown(wait=True)


# -- map -----------------------------------------------------------------------------------------


def test_a_map_is_the_built_in_one(pool: Executor) -> None:
    right = list(map(pow, range(40), range(40)))
    for words in (
        {},
        {"chunksize": 6},
        {"chunksize": 50},
        {"timeout": 60},
        {"buffersize": 3},
        {"buffersize": 99},
    ):
        assert list(pool.map(pow, range(40), range(40), **words)) == right
    assert list(pool.map(pow, itertools.count(1), [1, 2, 3])) == [1, 4, 27]
    assert list(pool.map(square, [])) == list(pool.map(square, iter([]))) == []
    assert list(pool.map(square, [], buffersize=2)) == []
    found = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(found), next(found)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert list(found) == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"timout": 1}, TypeError),
        ({"chunksize": 0}, ValueError),
        ({"chunksize": -1}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": -1}, ValueError),
        ({"buffersize": "4"}, TypeError),
        ({"buffersize": 1.5}, TypeError),
    ],
)
def test_words_that_a_map_does_not_know_are_refused(
    pool: Executor, words: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pool.map(square, [1], **words)


def test_a_map_that_takes_too_long_gives_what_it_has(pool: Executor, notes: Notes) -> None:
    found: list[int] = []
    with pytest.raises(TimeoutError):
        found.extend(pool.map(notes.gate, [1], timeout=0.05))
    with pytest.raises(TimeoutError):
        found.extend(pool.map(lambda x: notes(x, wait=x > 2), [1, 2, 3], timeout=4.0))
    assert found == [1, 2]
    with pytest.raises(TimeoutError):
        next(pool.map(square, iter(queue.Queue().get, None), timeout=0.05))  # no input ever comes


def test_of_a_map_that_is_left_what_runs_goes_on_and_the_rest_never_begins(
    service: LocalService, notes: Notes
) -> None:
    with service.executor() as pool:
        mapped = pool.map(lambda x: notes(x, 0.05), range(50))
        assert next(mapped) == 0
        mapped.close()  # type: ignore[attr-defined]
    assert notes.names("begun") == notes.names("ended")
    assert len(notes.names("begun")) < 30


def test_a_buffer_says_how_far_inputs_are_read(service: LocalService) -> None:
    numbers = itertools.count()
    with service.executor() as pool:
        pool.map(str, numbers, buffersize=4)
    assert next(numbers) == 4
    with service.executor() as pool:
        mapped = pool.map(str, itertools.count(), buffersize=2)
        assert [next(mapped) for _ in range(3)] == ["0", "1", "2"]
        ready: list[int] = []
        mapped = pool.map(square, (ready.append(x) or x for x in range(9)), buffersize=3)  # type: ignore[func-returns-value]
        assert ready == [0, 1, 2]
        assert next(mapped) == 0
        assert ready == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(mapped)


@pytest.mark.parametrize("way", ["map", "executor", "unordered"])
def test_a_result_does_not_wait_for_the_next_input(service: LocalService, way: str) -> None:
    """The inputs are slow, or wait for results; some come at once, others do not."""
    with service.executor() as pool:
        ways: dict[str, Any] = {
            "map": lambda inputs: service.map(square, inputs),
            "executor": lambda inputs: pool.map(square, inputs),
            "unordered": lambda inputs: service.map(square, inputs, ordered=False),
        }
        results: queue.Queue[int] = queue.Queue()

        def feedback(at_once: int) -> Iterator[int]:
            yield from range(at_once)
            for _ in range(at_once):
                yield results.get(timeout=60)

        for at_once in (1, 3, 100):
            found = []
            for y in ways[way](feedback(at_once)):
                found.append(y)
                if y < at_once**2:
                    results.put(at_once + y)
            assert (
                sorted(found)
                == sorted([x * x for x in range(at_once)] + [(at_once + x * x) ** 2 for x in range(at_once)])
                or at_once > 1
            )
            while not results.empty():
                results.get()

        gate = threading.Event()

        def slow() -> Iterator[int]:
            yield 3
            gate.wait(50)
            yield 4

        mapped = iter(ways[way](slow()))
        assert next(mapped) == 9
        gate.set()
        assert list(mapped) == [16]


@pytest.mark.parametrize("way", ["map", "executor"])
def test_what_reading_the_inputs_raises_comes_behind_the_results_before_it(
    service: LocalService, way: str
) -> None:
    def inputs() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more")

    with service.executor() as pool:
        mapped = service.map(square, inputs()) if way == "map" else pool.map(square, inputs())
        found: list[int] = []
        with pytest.raises(LookupError, match="no more"):
            found.extend(mapped)
        assert found == [0, 1, 4, 9, 16]


def test_a_generator_finds_what_its_maker_has_set(service: LocalService) -> None:
    other = LocalService()
    with other:

        def inputs() -> Iterator[int]:
            yield int(park.default_service() is other)

        assert list(service.map(square, inputs())) == [1]


def test_an_endless_map_is_read_as_far_as_it_is_needed(service: LocalService) -> None:
    read = itertools.count()
    mapped = service.map(square, iter(read))
    assert [next(mapped) for _ in range(3)] == [0, 1, 4]
    mapped.close()
    assert next(read) < 10_000


# -- the end of the interpreter, and other processes ---------------------------------------------


def run(folder: Path, text: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENVIRONMENT | {"PARK_SLOTS": "2"} | environment,
        cwd=folder,
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_script_waits_at_its_end_for_no_pool_and_a_closed_service_for_no_inputs(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import itertools, time, park

        def endless():
            for x in itertools.count():
                time.sleep(0.001)
                yield x

        for _ in range(2):
            pool = park.local_service.pool()
            next(pool.imap(abs, endless()))
            pool.apply_async(time.sleep, (60,))
            park.local_service.close()
        pool = park.local_service.pool()
        next(pool.imap(abs, endless()))
        pool.apply_async(time.sleep, (60,))
        """,
    )
    assert done.stderr == ""


def test_calls_end_before_the_interpreter_does_and_none_begins_then(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import atexit, pathlib, time, park

        @atexit.register
        def late():
            try:
                pool.submit(id, None)
            except RuntimeError as error:
                print(error)

        def note(x):
            time.sleep(0.3)
            pathlib.Path(f"ended {x}").touch()

        pool, other = park.local_service.executor(), park.local_service.executor()
        for x in range(3):
            pool.submit(note, x)
        pool.map(note, [3, 4])
        other.submit(note, 5)
        other.shutdown(wait=False)
        """,
    )
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n"
    # a machine that is busy may need longer than a script waits without a word
    assert all(line.startswith("park: waiting for the ") for line in done.stderr.splitlines())
    assert len(list(tmp_path.glob("ended *"))) == 6


def test_a_child_of_the_script_waits_for_no_calls_of_its_parent(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import multiprocessing, os, time, park

        def fork():
            try:
                pool.submit(abs, -1)
            except park.ServiceClosed as error:
                print(error, flush=True)
            try:
                future.result()
            except park.ServiceClosed:
                print("nor its results", flush=True)

        def spawned():
            with park.local_service.executor() as own:
                print(list(own.map(twice, [1, 2])), own.submit(twice, 3).result(), flush=True)

        def twice(x):
            return 2 * x

        if __name__ == "__main__":
            pool = park.local_service.executor()
            future = pool.submit(time.sleep, 1.5)
            child = multiprocessing.get_context("fork").Process(target=fork)
            child.start()
            child.join()
            print(child.exitcode, not future.done(), flush=True)
            future = None
            pool.shutdown(wait=False, cancel_futures=True)
            child = multiprocessing.get_context("spawn").Process(target=spawned)
            child.start()
            child.join()
        """,
    )
    lines = done.stdout.splitlines()
    assert "this process is a fork of the one that" in lines[0]
    assert lines[1:] == ["nor its results", "0 True", "[2, 4] 6"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that signal")
def test_ctrl_c_ends_the_wait_for_calls(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import os, signal, threading, time, park
        pool = park.local_service.executor()
        pool.submit(time.sleep, 60)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            pool.shutdown()
        except KeyboardInterrupt:
            print("no longer", flush=True)
        os._exit(0)
        """,
    )
    assert done.stdout == "no longer\n"

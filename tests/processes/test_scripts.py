"""The local service in scripts of its own: what a user's files, threads, forks, signals and bodies may do to it."""

from __future__ import annotations

import doctest
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import park
from park.kernel.node import file_limit
from park.local import LocalService
from tests.support.fabric import ENVIRONMENT, Fabric, Process, alive, slots_of, until


class Scripts(ExitStack):
    """Starts scripts in a folder; all have ended when its ``with`` ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def start(self, text: str, name: str = "script.py", **options: Any) -> Process:
        """A script; its output and errors lie in one log."""
        (self.folder / name).write_text(textwrap.dedent(text))
        return self.python(str(self.folder / name), **options)

    def python(self, *arguments: str, **options: Any) -> Process:
        log = self.folder / f"log{time.monotonic_ns()}"
        options["env"] = {"PARK_SLOTS": "2"} | options.pop("env", {})
        process = Process([sys.executable, *arguments], log, **({"cwd": self.folder} | options))
        self.callback(process.end)
        return process

    def run(self, text: str, code: int = 0, **options: Any) -> str:
        """The output of a script."""
        process = self.start(text, **options)
        assert process.wait(50) == code, process.text
        return process.text


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    with Scripts(tmp_path) as scripts:
        yield scripts


# -- scripts as people write them ----------------------------------------------------------------


def test_a_script_without_a_guard_runs_once(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import park
        with open("effects", "a") as out:
            out.write("x")
        FACTOR = 3

        class Point:
            def __init__(self, x):
                self.x = x
            def __eq__(self, other):
                return type(other) is Point and self.x == other.x

        def triple(p):
            return Point(helper(p.x))

        def helper(x):
            return FACTOR * x

        class Body:
            def prepare(self, env):
                self.factor = FACTOR
            def run(self, p):
                return Point(p.x * self.factor)

        points = [Point(i) for i in range(20)]
        want = [Point(3 * i) for i in range(20)]
        with park.local_service as service:
            print(service.wait(service.start(triple, points)) == want)
            print(service.wait(service.start(Body(), points)) == want)
            print(list(service.map(triple, points)) == want)
        """
    )
    assert text.split() == ["True"] * 3
    assert (scripts.folder / "effects").read_text() == "x"


WORK = """
import park
def double(x):
    return 2 * x
with park.local_service as service:
    print(service.wait(service.start(double, range(5))))
"""


def test_code_without_a_file_runs(scripts: Scripts) -> None:
    code = scripts.python("-c", WORK)
    (scripts.folder / "input").write_text(WORK.replace("with park", "\nwith park") + "\n")
    with (scripts.folder / "input").open() as source:
        piped = scripts.python("-", stdin=source)
    with (scripts.folder / "input").open() as source:
        typed = scripts.python("-i", stdin=source)
    for process in (code, piped, typed):
        assert process.wait() == 0, process.text
        assert "[0, 2, 4, 6, 8]" in process.text


def test_modules_beside_the_script_are_found(scripts: Scripts) -> None:
    (scripts.folder / "sibling.py").write_text("def half(x):\n    return x / 2\n")
    (scripts.folder / "data.txt").write_text("7")
    text = scripts.run(
        """
        import park, sibling
        def reads(x):
            import sibling as again
            return again.half(x) + float(open("data.txt").read())
        with park.local_service as service:
            print(service.wait(service.start(sibling.half, [4])), service.wait(service.start(reads, [4])))
        """
    )
    assert text.split() == ["[2.0]", "[9.0]"]


def test_files_named_like_modules_do_not_reach_slot_processes(scripts: Scripts) -> None:
    for name in ("random", "token", "signal", "types", "park", "env", "socket", "numpy"):
        (scripts.folder / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (scripts.folder / "elsewhere").mkdir()
    assert "[0, 2, 4, 6, 8]" in scripts.run(WORK, name="elsewhere/script.py")


def test_a_module_of_the_user_s_own_is_the_body_s_too(scripts: Scripts) -> None:
    (scripts.folder / "token.py").write_text("from keyword import *\nvalue = 'mine'\n")
    text = scripts.run(
        """
        import sys
        here = sys.path.pop(0)
        import park, cloudpickle, inspect
        sys.path.insert(0, here)
        def body():
            sys.modules.pop("token", None)
            import token
            return token.value
        with park.local_service as service:
            print(service.wait(service.start(body)))
        """
    )
    assert text.strip() == "mine"


def test_what_a_body_prints_shows(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, sys, park
        def body(x):
            print("printed", x)
            print("complained", x, file=sys.stderr)
            if x == 1:
                os._exit(0)
        with park.local_service as service:
            service.wait(service.start(body, [0]))
            try:
                service.wait(service.start(body, [1], idempotent=False))
            except park.JobFailed as error:
                print(error.cause)
        """
    )
    for line in ("printed 0", "complained 0", "printed 1", "complained 1"):
        assert line in text.splitlines()
    assert "exited with code 0" in text


# -- ends ----------------------------------------------------------------------------------------

HANG = """
import os, pathlib, subprocess, sys, time
import park
def hang(x):
    child = subprocess.Popen(["sleep", "60"])
    pathlib.Path(f"child{x}").write_text(str(child.pid))
    time.sleep(60)
service = park.local_service
service.start(hang, range(2))
"""


def hanging(scripts: Scripts) -> list[int]:
    """Children of the slot processes, once both units of HANG run; they end with the test."""
    files = [scripts.folder / f"child{x}" for x in range(2)]
    until(lambda: all(f.exists() and f.read_text() for f in files))
    children = [int(f.read_text()) for f in files]
    for child in children:
        scripts.callback(end, child)
    return children


def end(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_slot_processes_die_with_their_script(scripts: Scripts, death: int) -> None:
    script = scripts.start(HANG + "time.sleep(60)\n")
    hanging(scripts)
    slots = slots_of(script.pid)
    assert len(slots) == 2
    script.signal(death)
    script.wait()
    until(lambda: not any(map(alive, slots)), 50)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_slot_processes_die_with_their_kernel(scripts: Scripts, death: int) -> None:
    with Fabric(scripts.folder) as fabric:
        (kernel,) = fabric.start_kernels(1)
        second = fabric.start_kernel()
        script = fabric.script(HANG.replace("park.local_service", "park.connect()"), cwd=scripts.folder)
        children = hanging(scripts)
        assert script.wait() == 0
        slots = slots_of(kernel.pid) + slots_of(second.pid)
        assert len(slots) == 4  # each has one that works, and a blank one
        for k in (kernel, second):
            k.signal(death)
        until(lambda: not any(map(alive, slots)), 50)
        if death == signal.SIGTERM:
            until(lambda: not any(map(alive, children)), 50)


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_with_unfinished_jobs_is_quick_and_says_so(scripts: Scripts, code: int) -> None:
    ending = f"""
while not (pathlib.Path("child0").exists() and pathlib.Path("child1").exists()):
    time.sleep(0.01)
pathlib.Path("left").write_text(str(time.monotonic()))
sys.exit({code})
"""
    script = scripts.start(HANG + ending)
    children = hanging(scripts)
    assert script.wait() == code
    ended = time.monotonic()
    assert script.text == "park: job 1 had not ended and was aborted\n"
    assert ended - float((scripts.folder / "left").read_text()) < 30  # of 60
    until(lambda: not any(map(alive, children)), 50)


def test_several_jobs_stubborn_ones_too_end_with_the_script(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import pathlib, time, park
        def stubborn(x):
            while True:
                try:
                    pathlib.Path(f"runs{x}").touch()
                    time.sleep(60)
                except BaseException:
                    pass
        service = park.local_service
        for x in range(6):
            service.start(stubborn, [x])
        while len(list(pathlib.Path().glob("runs*"))) < 6:
            time.sleep(0.01)
        pathlib.Path("left").write_text(str(time.monotonic()))
        """,
        env={"PARK_SLOTS": "6"},
    )
    assert time.monotonic() - float((scripts.folder / "left").read_text()) < 30  # of 60
    assert text == "park: 6 jobs had not ended and were aborted\n"


def test_an_exit_with_nothing_left_is_silent(scripts: Scripts) -> None:
    assert scripts.run(WORK).splitlines() == ["[0, 2, 4, 6, 8]"]


def test_slot_processes_are_gone_after_close(tmp_path: Path) -> None:
    service = LocalService()
    service.configure(slots=2)
    before = set(slots_of(os.getpid()))
    try:
        pids = set(service.map(lambda x: os.getpid(), range(50)))
        assert set(slots_of(os.getpid())) >= pids
        service.close()
        assert set(slots_of(os.getpid())) <= before
        assert service.wait(service.start(lambda: 5)) == 5  # it starts anew
    finally:
        service.close()
    assert set(slots_of(os.getpid())) <= before


def test_exit_inside_a_body_fails_the_unit_alone(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import sys, park
        def body(x):
            if x == 1:
                sys.exit("enough")
            if x == 2:
                raise KeyboardInterrupt
            return x
        with park.local_service as service:
            try:
                service.wait(service.start(body, range(4)))
            except park.JobFailed as error:
                print(error.results, error.cause)
            print(service.wait(service.start(body, [5])))
        """
    )
    assert "[0, <UnitError 1: SystemExit: enough>, <UnitError 2: KeyboardInterrupt>, 3]" in text
    assert text.splitlines()[-1] == "[5]"


# -- forks and threads ---------------------------------------------------------------------------


def test_a_fork_of_the_script_gets_a_clear_error(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, sys, time, park
        service = park.local_service
        service.start(time.sleep, [60])
        print(service.wait(service.start(abs, [-1])), flush=True)
        child = os.fork()
        if not child:
            began = time.monotonic()
            uses = (
                lambda: service.start(abs, [-2]), lambda: service.wait(1), lambda: service.map(abs, [1]), service.jobs
            )
            for use in uses:
                try:
                    use()
                except park.ServiceClosed as error:
                    print(error)
            print("quick", time.monotonic() - began < 1, flush=True)
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(service.wait(service.start(abs, [-3])))
        """
    )
    lines = text.splitlines()
    assert lines[0] == "[1]"
    assert (
        len([x for x in lines if "this process is a fork of the one that runs the local service" in x]) == 4
    )
    assert "quick True" in lines
    assert lines[-3:] == ["child 7", "[3]", "park: job 1 had not ended and was aborted"]


def test_a_fork_with_other_threads_under_way_gets_it_too(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, sys, threading, time, park
        service = park.local_service
        service.wait(service.start(abs, [-1]))
        going = True
        def busy():
            while going:
                service.wait(service.start(abs, [-1]))
        threads = [threading.Thread(target=busy) for _ in range(2)]
        for t in threads:
            t.start()
        codes = []
        for _ in range(15):
            child = os.fork()
            if not child:
                code = 1
                try:
                    service.jobs()
                except park.ServiceClosed:
                    code = 0
                os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        going = False
        for t in threads:
            t.join()
        print(codes == [0] * 15)
        """
    )
    assert text.split() == ["True"]


def test_slots_come_up_while_the_script_forks_and_its_forks_live_on(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, signal, threading, time, park
        from park.util.spawn import PIPE, SpawnedProcess

        ballast = bytearray(b"x") * (80 << 20)    # a fork takes some ms, as that of any grown-up script
        started, read, write = threading.Event(), *os.pipe()
        os.set_inheritable(write, True)

        def is_open(pipe):
            found = []
            for number in os.listdir("/proc/self/fd"):
                try:
                    found.append(os.readlink(f"/proc/self/fd/{number}"))
                except FileNotFoundError:    # that of the listing
                    pass
            return pipe in found

        def start():
            for _ in range(25):
                child = SpawnedProcess(["/bin/sh", "-c", "ls /dev/fd | wc -l"], os.environ, stdout=PIPE)
                child.wait()
                child.close()
            started.set()

        job = park.local_service.start(abs, range(-3, 0))
        threading.Thread(target=start, daemon=True).start()
        forks = []
        try:
            while not started.is_set() and len(forks) < 400:
                forks.append(os.fork())
                if not forks[-1]:
                    time.sleep(60)
                    os._exit(0)
            print(started.wait(50), park.local_service.wait(job, 10))
            # descriptors that children inherit are not open in a slot
            print(park.local_service.wait(park.local_service.start(is_open, [os.readlink(f"/proc/self/fd/{write}")])))
        finally:
            for fork in forks:
                os.kill(fork, signal.SIGKILL)
                os.waitpid(fork, 0)
        """
    )
    assert text.splitlines() == ["True [3, 2, 1]", "[False]"]


def test_a_remote_connection_in_a_fork_gets_it_too(scripts: Scripts) -> None:
    with Fabric(scripts.folder) as fabric:
        script = fabric.script(
            """
            import os, sys, time, park
            service = park.connect()
            child = os.fork()
            if not child:
                try:
                    service.jobs()
                except park.ServiceClosed as error:
                    print(error, flush=True)
                sys.exit(7)
            print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(service.jobs())
            """
        )
        assert script.wait() == 0, script.text
        assert "is a fork of the one that opened the service" in script.text
        assert script.text.splitlines()[-2:] == ["child 7", "[]"]


def test_a_script_needs_no_service_of_its_own(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import threading
        import numpy as np
        import park
        from park.fit import Assembly, Fit, Model

        def line(x, slope, floor):
            return slope * x + floor

        x = np.arange(6.0)
        M1 = Assembly((Model(line, slope=(0, 9), floor=(-9, 9)), (x, 2 * x + 1, 0.1)))
        print(Fit(M1, "lm").wait()["slope"].value)
        thread = threading.Thread(target=lambda: print(Fit(M1, "lm").wait().dof))
        thread.start()
        thread.join()
        park.default_service().start(lambda: [park.environment().ready() for _ in iter(int, 1)])
        """
    )
    slope, dof, left = text.splitlines()
    assert float(slope) == pytest.approx(2)
    assert dof == "4"
    assert left == "park: job 3 had not ended and was aborted"


def test_a_connection_is_what_a_script_works_with(scripts: Scripts) -> None:
    with Fabric(scripts.folder) as fabric:
        env = {"PARK_BROKER": fabric.address, "PARKTAG": "ada"}
        text = scripts.run(
            """
            import threading, park
            from park.core.server import TAGS, default_service, service_stack

            def name(found):
                return {id(first): "first", id(second): "second", id(park.local_service): "local"}[id(found)]

            first, second = park.connect(), park.connect()
            threading.Thread(target=lambda: print("thread", name(default_service()))).start()
            print(name(default_service()), name(service_stack.current), len(service_stack))
            with park.local_service:
                print(name(default_service()))
            second.close()
            print(name(default_service()), TAGS, first.status(default_service().start(abs, [-1])).tags)
            first.close()
            print(name(default_service()))
            """,
            env=env,
        )
    assert "thread second" in text
    assert [line for line in text.splitlines() if "thread" not in line] == [
        "second second 0",
        "local",
        "first ['ada'] ('ada',)",
        "local",
    ]


def test_threads_share_the_service(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import threading, park
        results = {}
        def work(n):
            with park.local_service as service:
                assert park.default_service() is service
                job = service.start(lambda x: x + n, range(30))
                mapped = list(service.map(lambda x: x * n, range(30)))
                results[n] = (service.wait(), service.wait(job), mapped)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        print(all(
            results[n] == ([x + n for x in range(30)],) * 2 + ([x * n for x in range(30)],) for n in range(8)
        ))
        """
    )
    assert text.split() == ["True"]


# -- Ctrl-C --------------------------------------------------------------------------------------

BEST = """
import os, pathlib, sys, threading, time
import park
def tell_of_wait():
    main = threading.main_thread().ident
    while True:
        time.sleep(0.01)
        frame = sys._current_frames()[main]
        while frame is not None:
            if frame.f_code.co_name == "attend":
                pathlib.Path("waits").touch()
                return
            frame = frame.f_back
threading.Thread(target=tell_of_wait, daemon=True).start()
def best():
    env = park.environment()
    for n in range(10**9):
        pathlib.Path("started").touch()
        if env.should_stop:
            return "best so far"
        time.sleep(0.01)
def never(x):
    pathlib.Path("started").touch()
    while True:
        time.sleep(0.01)
"""


def waits(folder: Path) -> bool:
    """Whether the body runs and the script waits for it."""
    return (folder / "started").exists() and (folder / "waits").exists()


def interrupt(script: Process) -> None:
    """Ctrl-C at its terminal: to its whole process group."""
    os.killpg(script.pid, signal.SIGINT)


def test_exceptions_of_signal_handlers_end_one_wait_only(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, random, signal, threading, time
        import park
        class Late(Exception): pass
        armed = False
        def late(*_):
            if armed: raise Late
        def f(x): return x
        SIGNALS = (signal.SIGALRM, signal.SIGUSR1, signal.SIGVTALRM, signal.SIGTERM)
        for number in SIGNALS: signal.signal(number, late)
        chance = random.Random(1)
        with park.local_service as service:
            mapper = service.mapper(f)
            ways = [lambda: list(service.map(f, range(10**6))), lambda: [mapper(range(5)) for _ in range(10**6)],
                    lambda: [service.wait(service.start(f, [1])) for _ in range(10**6)]]
            came = 0
            for turn in range(60):
                def send(pause=chance.uniform(0.003, 0.03), number=chance.choice(SIGNALS)):
                    time.sleep(pause)
                    while armed:  # Python ignores what is raised in a __del__
                        os.kill(os.getpid(), number)
                        time.sleep(0.1)
                thread = threading.Thread(target=send)
                try:
                    armed = True
                    thread.start()
                    ways[turn % 3]()
                except Late:
                    armed = False
                    came += 1
                armed = False
                thread.join()
            print(came == 60, list(service.map(f, range(3))), service.wait(service.start(f, [4]), timeout=60))
            print({signal.getsignal(number) for number in SIGNALS} == {late})
        """
    )
    assert text.splitlines()[-2:] == ["True [0, 1, 2] [4]", "True"]


def test_ctrl_c_stops_a_local_job_and_keeps_the_best_so_far(scripts: Scripts) -> None:
    script = scripts.start(
        BEST
        + "job = park.local_service.job(park.local_service.start(best))\nprint(job.wait())\nprint(job)\n",
        process_group=0,
    )
    until(lambda: waits(scripts.folder))
    interrupt(script)
    assert script.wait() == 0, script.text
    assert "park: stopping job 1, keeping its best so far (Ctrl-C again aborts it)" in script.text
    assert script.text.splitlines()[-2:] == ["best so far", "<Job 1 'best' complete: stopped by its owner>"]
    assert "Traceback" not in script.text


def test_ctrl_c_twice_aborts_a_local_job(scripts: Scripts) -> None:
    script = scripts.start(
        BEST
        + """
service = park.local_service
job = service.job(service.start(never, [1]))
try:
    job.wait()
except KeyboardInterrupt:
    print("interrupted", job.state)
print(service.wait(service.start(abs, [-4])))
""",
        process_group=0,
    )
    until(lambda: waits(scripts.folder))
    interrupt(script)
    until(lambda: "stopping job 1" in script.text)
    interrupt(script)
    assert script.wait() == 0, script.text
    assert script.text.splitlines()[-2:] == ["interrupted aborted", "[4]"]


def test_ctrl_c_detaches_from_a_remote_job(scripts: Scripts) -> None:
    with Fabric(scripts.folder) as fabric:
        fabric.start_kernels(1)
        script = fabric.script(
            BEST + "park.connect().job(park.connect().start(best)).wait()",
            cwd=scripts.folder,
            process_group=0,
        )
        until(lambda: waits(scripts.folder))
        interrupt(script)
        assert script.wait() in (130, -signal.SIGINT), script.text
        again = f"park.connect('{fabric.connection}').job(1).wait()"
        assert f"park: job 1 goes on; wait for it again with {again}" in script.text
        service = fabric.connect()
        assert service.status(1).state == "running"
        service.stop(1)
        assert service.wait(1, timeout=60) == "best so far"


def test_ctrl_c_does_not_reach_slot_processes(scripts: Scripts) -> None:
    text = """
import park, pathlib, signal, time
def body(x):
    pathlib.Path("started").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return x
job = park.local_service.job(park.local_service.start(body, [3]))
try:
    while True:
        time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("go").touch()
print(job.wait())
"""
    script = scripts.start(text, process_group=0)
    until((scripts.folder / "started").exists)
    interrupt(script)
    assert script.wait() == 0, script.text
    assert script.text == "[3]\n"


def test_ctrl_c_at_any_moment_leaves_the_service_whole(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, signal, sys, threading, time, park
        service = park.local_service
        service.wait(service.start(abs, [-1]))
        going = True
        def strike():
            strikes = 0
            while going:
                time.sleep(0.004 * (1 + strikes // 100))  # on a slow machine no map is done in 4 ms
                os.kill(os.getpid(), signal.SIGINT)
                strikes += 1
        done = interrupted = 0
        thread = threading.Thread(target=strike)
        end = time.monotonic() + 1.5
        try:
            thread.start()
        except KeyboardInterrupt:
            pass
        while going:
            try:
                while time.monotonic() < end or done <= 3 or interrupted <= 3:
                    list(service.map(abs, range(30)))
                    done += 1
                going = False
            except KeyboardInterrupt:
                interrupted += 1
            except park.ParkError as error:
                print("broken:", error)
                os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        thread.join()
        print(done > 3, interrupted > 3, service.wait(service.start(abs, [-5])))
        """
    )
    assert text.splitlines()[-1] == "True True [5]"


def test_children_of_bodies_that_come_back_end_as_those_of_a_script_do(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import os, sys, park
        def ends(how):
            if how == "raises": raise ValueError("in the child")
            if how == "leaves": sys.exit(7)
            if how == "says": sys.exit("some words")
            if how == "at once": os._exit(9)
            print("returns", how)
        def body(how):
            pid = os.fork()
            if not pid: return ends(how)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        class Prepares:
            def prepare(self, env):
                self.code = body("leaves")
            def run(self, x):
                return self.code
        with park.local_service as service:
            ways = ["returns", "raises", "leaves", "says", "at once"]
            print(service.wait(service.start(body, ways)))
            with service.executor() as executor:
                print("calls", [executor.submit(body, how).result() for how in ways])
            print("pool", service.pool().map(body, ways))
            print(service.wait(service.start(Prepares(), [1])))
        """
    )
    for found in ("[0, 1, 7, 1, 9]", "calls [0, 1, 7, 1, 9]", "pool [0, 1, 7, 1, 9]"):
        assert found in text.splitlines()
    assert "[7]" in text.splitlines()
    for words in ("returns returns", "ValueError: in the child", "some words"):
        assert words in text.splitlines()


BEHIND = """
import os, subprocess, sys, time
import park
def leaves(x):
    own = subprocess.Popen(["sleep", "60"], start_new_session=True)
    daemon = subprocess.check_output(["sh", "-c", "setsid sleep 60 >&- 2>&- & echo $!"], text=True)
    return [own.pid, int(daemon)]
def ended(pids):
    end = time.monotonic() + 10
    while time.monotonic() < end and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.01)
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)
"""


def test_what_a_body_has_started_ends_with_its_job_or_its_service(scripts: Scripts) -> None:
    text = scripts.run(
        BEHIND
        + textwrap.dedent(
            """
            class Serves:
                def prepare(self, env):
                    self.server = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                def run(self, x):
                    self.server.stdin.write(b"%d\\n" % x)
                    self.server.stdin.flush()
                    return int(self.server.stdout.readline())
            park.local_service.configure(slots=1)
            with park.local_service as service:
                served = service.start(Serves(), range(300))
                (pids,) = service.wait(service.start(leaves, [0], priority="urgent"))
                print(ended(pids), service.wait(served) == list(range(300)))
                waits = service.start(lambda: (print(leaves(0), flush=True), time.sleep(60)))
                while not any("]" in log.text for log in service.logs(waits)):
                    time.sleep(0.01)
            """
        ),
    )
    first, second = sorted(text.splitlines()[:2])
    assert first == "True True"
    until(lambda: not any(map(alive, json.loads(second))), why=lambda: "it has left in good order")


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_body_has_started_ends_with_its_kernel(tmp_path: Path, death: int) -> None:
    with Fabric(tmp_path) as fabric:
        kernel = fabric.start_kernel()
        script = fabric.script(
            BEHIND + "with park.connect() as service:\n"
            "    service.start(lambda: (print(leaves(0), flush=True), time.sleep(60)))\n"
        )
        assert script.wait(50) == 0, script.text
        until(lambda: kernel.text.strip().endswith("]"))
        pids = json.loads(kernel.text[kernel.text.rindex("[") :])
        assert all(map(alive, pids))
        kernel.signal(death)
        kernel.wait()
        until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize(
    ("options", "want"),
    [(["-W", "error"], "an error 0 0"), (["-X", "dev"], "a word 1 0"), (["-E", "-s"], "a word 0 1")],
)
def test_slots_have_the_options_of_their_script(scripts: Scripts, options: list[str], want: str) -> None:
    (scripts.folder / "script.py").write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(park.__file__).parents[1])!r})
            import warnings, park
            def body(x):
                try:
                    warnings.warn("w")
                    told = "a word"
                except UserWarning:
                    told = "an error"
                return f"{{told}} {{int(sys.flags.dev_mode)}} {{sys.flags.no_user_site}}"
            if __name__ == "__main__":
                with park.local_service as service:
                    print(service.wait(service.start(body, [0]))[0])
            """
        )
    )
    script = scripts.python(*options, "script.py")
    assert script.wait(50) == 0, script.text
    assert want in script.text.splitlines()


@pytest.mark.parametrize(
    ("soft", "hard", "slots", "words"),
    [(64, 4096, 5, "done"), (64, 88, 5, "3 slots, not 5"), (40, 40, 2, "which leaves no room for a slot")],
)
def test_few_descriptors_are_said_in_words(
    scripts: Scripts, soft: int, hard: int, slots: int, words: str
) -> None:
    script = scripts.start(
        f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
        import park
        park.local_service.configure(slots={slots})
        with park.local_service as service:
            print("done" if list(service.map(abs, range(50))) == list(range(50)) else "no")
        """
    )
    script.wait(50)
    assert words in script.text


def test_room_for_slots() -> None:
    assert doctest.testmod(file_limit).failed == 0


# -- settings ------------------------------------------------------------------------------------


def test_one_thread_for_libraries_unless_the_user_says_otherwise(scripts: Scripts) -> None:
    text = scripts.run(
        """
        import json, os, park
        def seen():
            names = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"
            return {name: os.environ.get(name) for name in names}
        def parallel(x):
            return seen()
        with park.local_service as service:
            one = service.wait(service.start(seen))
            two, = service.wait(service.start(parallel, [1], cpus=2))
            print(json.dumps([one, two, seen()]))
        """,
        env={"OMP_NUM_THREADS": "5"},
    )
    one, two, mine = json.loads(text)
    assert one == {
        "OMP_NUM_THREADS": "5",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
    }
    assert (two["MKL_NUM_THREADS"], two["OMP_NUM_THREADS"]) == ("2", "5")
    assert mine["MKL_NUM_THREADS"] == ENVIRONMENT.get("MKL_NUM_THREADS")


def test_the_number_of_slots(scripts: Scripts) -> None:
    text = """
    import park
    service = park.local_service
    if {slots}:
        service.configure(slots={slots})
    service.wait(service.start(abs, [1]))
    print([k.slots for k in service.kernels()])
    try:
        service.configure(slots=2)
    except park.InvalidRequest as error:
        print(error)
    """
    first = scripts.start(text.replace("{slots}", "0"), name="a.py", env={"PARK_SLOTS": "3"})
    second = scripts.start(text.replace("{slots}", "1"), name="b.py", env={"PARK_SLOTS": "3"})
    for process, slots in ((first, 3), (second, 1)):
        assert process.wait() == 0, process.text
        assert process.text.splitlines() == [
            f"[{slots}]",
            "the local service runs already: configure it before its first use",
        ]


@pytest.mark.parametrize("slots", ["0", "-1", "many", "1.5", "99999"])
def test_a_wrong_number_of_slots_is_said(monkeypatch: pytest.MonkeyPatch, slots: str) -> None:
    monkeypatch.setenv("PARK_SLOTS", slots)
    with pytest.raises(
        park.InvalidRequest, match=f"PARK_SLOTS='?{slots}'? is not a whole number from 1 to 4096"
    ):
        LocalService().start(abs, [1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slots": 0}, "slots=0 is not a whole number from 1 to 4096"),
        ({"slots": 1.5}, "slots=1.5"),
        ({"slots": True}, "slots=True"),
        ({"slots": "2"}, "slots='2'"),
        ({"home": 3}, "home=3 is no folder"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(park.InvalidRequest, match=words):
        LocalService().configure(**settings)


def test_a_home_keeps_the_jobs(scripts: Scripts) -> None:
    text = """
    import sys, park
    service = park.local_service
    service.configure(home="jobs")
    if sys.argv[1:]:
        print(service.job(int(sys.argv[1])).wait())
    else:
        print(service.start(lambda x: x + 1, range(3), when=0.5))
    """
    number = scripts.run(text).strip()
    again = scripts.python(str(scripts.folder / "script.py"), number)
    assert again.wait() == 0, again.text
    assert again.text.strip() == "[1, 2, 3]"


def test_a_home_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    service = LocalService()
    service.configure(slots=1, home=tmp_path / "file")
    with pytest.raises(park.StoreError, match="file"):
        service.start(abs, [1])
    service.configure(home=tmp_path / "good")
    other = LocalService()
    other.configure(slots=1, home=tmp_path / "good")
    try:
        assert service.wait(service.start(abs, [-1])) == [1]
        with pytest.raises(park.StoreError, match="another"):
            other.start(abs, [1])
    finally:
        service.close()
        other.close()


# -- bodies that misbehave -----------------------------------------------------------------------


def misbehave(scripts: Scripts, body: str, **fields: Any) -> list[str]:
    """The output of a script that runs *body*, and then a harmless function."""
    text = scripts.run(
        f"""
import os, sys, time, park
{textwrap.dedent(body)}
with park.local_service as service:
    try:
        print(service.wait(service.start(body, [0, 1], **{fields!r}), timeout=60))
    except park.JobFailed as error:
        print(error.cause, error.results, sep="\\n")
    print(service.wait(service.start(abs, [-6])))
"""
    )
    return text.splitlines()


def test_a_body_that_closes_its_descriptors(scripts: Scripts) -> None:
    lines = misbehave(
        scripts,
        """
        def body(x):
            if x == 1:
                os.closerange(0, 1000)
                time.sleep(60)
            return x
        """,
        idempotent=False,
    )
    assert "its process closed its connection to the kernel" in "\n".join(lines)
    assert lines[-1] == "[6]"


def test_a_body_that_writes_into_its_connection(scripts: Scripts) -> None:
    lines = misbehave(
        scripts,
        """
        def body(x):
            if x == 1:
                for fd in range(3, 20):
                    try:
                        os.write(fd, b"\\xff" * 100)
                    except OSError:
                        pass
                time.sleep(30)
            return x
        """,
        idempotent=False,
    )
    assert "a body wrote into its connection to the kernel" in "\n".join(lines)
    assert lines[-1] == "[6]"


def test_a_body_that_writes_much_to_standard_error(scripts: Scripts) -> None:
    with (scripts.folder / "errors").open("wb") as errors:
        script = scripts.start(
            """
            import os, sys, time, park
            def flood(x):
                line = b"x" * 99 + b"\\n"
                end = time.monotonic() + 2
                while time.monotonic() < end:
                    os.write(2, line * 10_000)
                return x
            def beat():
                return time.monotonic()
            with park.local_service as service:
                job = service.start(flood, [1])
                while service.status(job).state != "running":
                    pass
                beats = 0
                while not service.status(job).state.ended:
                    service.wait(service.start(beat))
                    beats += 1
                print(service.wait(job), beats > 3, beats)
            """,
            stderr=errors,
        )
        assert script.wait(60) == 0, script.text
    assert script.text.startswith("[1] True"), script.text
    assert (scripts.folder / "errors").stat().st_size > 10_000_000


def test_a_body_that_forks(scripts: Scripts) -> None:
    lines = misbehave(
        scripts,
        """
        def body(x):
            if os.fork() == 0:
                if x == 1:
                    raise ValueError("in the child")
                return "the child"
            time.sleep(0.2)
            return x
        """,
    )
    assert lines[-2:] == ["[0, 1]", "[6]"]
    assert "ValueError: in the child" in lines


def test_a_body_may_use_children(scripts: Scripts) -> None:
    lines = misbehave(
        scripts,
        """
        import concurrent.futures, multiprocessing, subprocess
        def body(x):
            import threading
            with concurrent.futures.ThreadPoolExecutor() as threads:
                texts = list(threads.map(lambda n: subprocess.check_output(["echo", str(n)], text=True), range(3)))
            context = multiprocessing.get_context("fork")
            with context.Pool(2) as pool:
                return x, pool.map(abs, [-1, -2]), "".join(texts).split()
        """,
    )
    assert lines == ["[(0, [1, 2], ['0', '1', '2']), (1, [1, 2], ['0', '1', '2'])]", "[6]"]


def test_units_draw_the_same_numbers_from_a_script_s_generator_on_any_number_of_slots(
    scripts: Scripts,
) -> None:
    """Given a generator beside a function, its numbers depend on the seed of each unit, and not on processes."""
    text = """
        import numpy as np
        import park

        rng = np.random.default_rng(7)
        with park.local_service as service:
            print(service.wait(service.start(lambda unit: rng.normal(), range(8), seed=4)))
            units = list(service.map(lambda unit: rng.normal(), range(8)))
            again = list(service.map(lambda unit: rng.normal(), range(8)))
            print(len({*units, *again}))
            # a body that runs once finds it as it was, and so does a unit the one that is its input
            print(service.wait(service.start(lambda: rng.normal())) == np.random.default_rng(7).normal())
            children = [np.random.default_rng(number) for number in range(3)]
            drawn = service.wait(service.start(lambda given: given.normal(), children))
            print(drawn == [child.normal() for child in children])
        """
    one, two = (scripts.run(text, env={"PARK_SLOTS": slots}).splitlines() for slots in ("1", "2"))
    assert one == two
    assert one[1:] == ["16", "True", "True"]

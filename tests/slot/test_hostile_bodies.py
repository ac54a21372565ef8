"""Bodies that catch, raise and break what they can: nobody waits for them, and their kernel lives on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Never

import cloudpickle
import pytest

import park
from park.kernel.orphan_killer import MARK_VARIABLE, NUMBER_VARIABLE
from tests.support.fabric import Fabric, alive, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """One kernel of two slots for all tests of this file: it lives on."""
    with Fabric(tmp_path_factory.mktemp("hostile"), lease=5.0) as fabric:
        kernel = fabric.start_kernel(slots=2)
        yield fabric
        assert kernel.running, kernel.text


@pytest.fixture(params=["kernel", "local"])
def service(request: pytest.FixtureRequest, fabric: Fabric) -> Any:
    return park.local_service if request.param == "local" else fabric.connect()


class Nasty(BaseException):
    """Raises something else at every touch."""

    def __str__(self) -> str:
        raise SystemExit(9)

    @property
    def __traceback__(self) -> Never:  # type: ignore[override]
        raise KeyboardInterrupt

    @property
    def __cause__(self) -> Never:  # type: ignore[override]
        raise KeyboardInterrupt


def raises_nasty(x: int) -> Never:
    raise Nasty


def says_that_the_kernel_is_gone(x: int) -> Never:
    from park.slot.frame import SlotGone

    raise SlotGone


class FailsInPrepare:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def prepare(self, env: Any) -> None:
        raise self.error

    def run(self, x: int) -> int:
        return x


def breaks_its_process(x: int) -> int:
    time.perf_counter = None  # type: ignore[assignment]
    return x


def catching(unit: Any) -> Callable[[], str]:
    """A driver that catches everything."""

    def driver() -> str:
        try:
            return str(list(park.environment().map(unit, range(4))))
        except BaseException as error:
            return f"caught {type(error).__name__}"

    return driver


@pytest.mark.parametrize(
    "unit",
    [
        raises_nasty,
        says_that_the_kernel_is_gone,
        FailsInPrepare(SystemExit(3)),
        FailsInPrepare(GeneratorExit()),
        FailsInPrepare(park.Abort()),
    ],
    ids=["nasty", "gone", "exit", "generator", "abort"],
)
def test_whatever_a_unit_raises_its_driver_hears_of_it(service: Any, unit: Any) -> None:
    assert service.wait(service.start(catching(unit)), timeout=60) == "caught UnitError"
    with pytest.raises(park.JobFailed) as caught:
        service.wait(service.start(unit, range(2)), timeout=60)
    assert [type(result) for result in caught.value.results or ()] == [park.UnitError] * 2


def test_a_unit_that_breaks_its_process_inside_a_driver_ends_it(fabric: Fabric) -> None:
    service = fabric.connect()
    with pytest.raises(park.JobFailed, match="its process died, and idempotent=False"):
        service.wait(service.start(catching(breaks_its_process), idempotent=False), timeout=60)


def test_another_thread_of_a_body_cannot_wait_for_the_fabric(service: Any) -> None:
    def driver() -> list[str]:
        env, said = park.environment(), []

        def ask() -> None:
            try:
                env.map(abs, [1])
            except park.ParkError as error:
                said.append(str(error))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return [*said, *map(str, env.map(abs, [-1]))]

    refused, done = service.wait(service.start(driver), timeout=60)
    assert "call the methods of park.environment() in the thread that runs the body" in refused
    assert done == "1"


def test_a_program_in_place_of_the_process_is_ended(fabric: Fabric) -> None:
    def unit() -> None:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])

    service = fabric.connect()
    with pytest.raises(park.JobFailed, match="its process closed its connection to the kernel"):
        service.wait(service.start(unit, idempotent=False), timeout=60)


# -- what a process finds, and what it leaves behind --------------------------------------------


def leaves_files() -> tuple[set[str], str]:
    """The settings of PARK that a body finds, and the temporary folder in which it leaves what is hard to remove."""
    folder = tempfile.gettempdir()
    (Path(folder) / "closed").mkdir()
    (Path(folder) / "closed" / "file").write_text("left")
    (Path(folder) / "closed").chmod(0)
    return {name for name in os.environ if name.startswith("PARK")}, folder


def test_processes_have_a_clean_environment_and_temporary_folders_that_go_with_them(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        kernels = fabric.start_kernels(1)
        service = fabric.connect()
        settings, folder = service.wait(service.start(leaves_files), timeout=60)
        assert settings == {MARK_VARIABLE, NUMBER_VARIABLE}
        assert (Path(folder) / "closed").exists()
        with pytest.raises(park.JobFailed):
            service.wait(service.start(lambda: os._exit(1), idempotent=False), timeout=60)
        until(lambda: not Path(folder).exists())
        _, folder = service.wait(service.start(leaves_files), timeout=60)
        kernels[0].kill()
        until(lambda: not Path(folder).parent.exists())
        (kernel,) = fabric.start_kernels(1)
        _, folder = service.wait(service.start(leaves_files), timeout=60)
        kernel.signal(signal.SIGTERM)
        kernel.wait()
        assert not Path(folder).parent.exists()


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda folder: os.chmod(folder, 0)])
def test_the_temporary_folder_is_there_for_the_next_job(tmp_path: Path, harm: Callable[[str], None]) -> None:
    def does_harm() -> tuple[int, str]:
        folder = os.environ["TMPDIR"]
        assert "park-" in Path(folder).parent.name, folder  # the process's own, and nobody else's
        harm(folder)
        return os.getpid(), folder

    def uses_it() -> tuple[int, str]:
        with tempfile.NamedTemporaryFile() as file:
            return os.getpid(), str(Path(file.name).parent)

    with Fabric(tmp_path) as fabric:
        fabric.start_kernels(1)
        service = fabric.connect()
        harmed = service.wait(service.start(does_harm), timeout=60)
        if not os.getuid() and harm is not shutil.rmtree:
            pytest.skip("root may write to any folder")
        assert service.wait(service.start(uses_it), timeout=60) == harmed


def test_a_kernel_shows_escape_sequences_and_does_not_follow_them(tmp_path: Path) -> None:
    def prints() -> None:
        print("\x1b[31mred \u202e\x9b")
        os.write(2, b"\x1b]0;title\x07 \xff\n")

    with Fabric(tmp_path) as fabric:
        kernel = fabric.start_kernel()
        service = fabric.connect()
        job = service.start(prints)
        service.wait(job, timeout=60)
        until(lambda: "title" in kernel.text)
        assert f"job {job} (tester): \\x1b[31mred \\u202e\\x9b\n" in kernel.text
        assert f"job {job} (tester): \\x1b]0;title\\x07 \\xff\n" in kernel.text


@pytest.mark.parametrize("end", ["killed", "exits"])
def test_a_daemon_ends_with_the_process_that_has_started_it(fabric: Fabric, tmp_path: Path, end: str) -> None:
    def unit(x: int) -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
                (tmp_path / f"{os.getpid()}").touch()
                time.sleep(600)
            os._exit(0)
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        if end == "exits":
            os._exit(1)
        time.sleep(600)

    service = fabric.connect()
    limits = {"max_unit_time": 1} if end == "killed" else {}
    with pytest.raises(park.JobFailed):
        service.wait(service.start(unit, [1], idempotent=False, **limits), timeout=60)
    until(lambda: not any(alive(int(file.name)) for file in tmp_path.iterdir()))


def test_a_child_that_is_ended_as_soon_as_it_is_forked_ends(service: Any) -> None:
    def unit(x: int) -> list[int]:
        ends = []
        for _ in range(400):
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return sorted(set(ends))

    assert list(service.map(unit, [1, 2])) == [[-signal.SIGTERM]] * 2


def test_a_unit_that_leaves_no_descriptor_tells_its_long_result(service: Any) -> None:
    def unit(x: int) -> bytes:
        kept = globals().setdefault("kept", [])
        try:
            while True:
                kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return bytes(3 << 20)

    for _ in range(3):
        assert [len(found) for found in service.map(unit, [1, 2])] == [3 << 20] * 2
    assert service.wait(service.start(len, [bytes(3 << 20)]), timeout=60) == [3 << 20]


def test_a_body_that_says_more_units_than_it_sends_ends_no_kernel(fabric: Fabric) -> None:
    def unit(x: int) -> int:
        import gc

        from park.slot.slot import Slot
        from park.wire import messages
        from park.wire.pack import pack_entries

        (slot,) = (found for found in gc.get_objects() if isinstance(found, Slot))
        run = slot.stack[-1].run
        message = messages.Map(bytes(16), run.job, bytes(16), 10**12, attempt=run.attempt, epoch=run.epoch)
        slot.channel.send(message, pack_entries([b"one"]))
        time.sleep(30)
        return x

    service = fabric.connect()
    with pytest.raises(park.JobFailed, match="a map says that it has 1,000,000,000,000 units"):
        service.wait(service.start(unit, [1], idempotent=False), timeout=60)
    assert service.wait(service.start(abs, [-1]), timeout=60) == [1]


class OddMap:
    """A driver whose first map has a key that the broker refuses."""

    def run(self) -> list[Any]:
        import types

        from park.slot import host

        env, said = park.environment(), ""
        host.os = types.SimpleNamespace(urandom=lambda size: b"short")  # type: ignore[attr-defined]
        try:
            list(env.map(abs, [-1, -2]))
        except park.ParkError as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            host.os = os  # type: ignore[attr-defined]
        return [said, *env.map(abs, [-3, -4])]


def test_a_driver_is_told_why_its_map_is_refused_and_goes_on(service: Any) -> None:
    job = service.start(OddMap())
    assert service.wait(job, timeout=60) == ["ProtocolError: a map key has 16 bytes", 3, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has sent a signal")
def test_a_body_cannot_end_its_kernel_by_a_signal(fabric: Fabric) -> None:
    def unit(x: int) -> None:
        kernel = os.getppid()
        if x == 0 or os.fork() == 0:  # by itself, or from a process of its own, which may end at once
            os.kill(kernel, signal.SIGTERM)
            if x == 2:
                os._exit(0)
        time.sleep(30)

    service = fabric.connect()
    for x in (0, 1, 2):
        with pytest.raises(park.JobFailed, match="it sent SIGTERM to its kernel"):
            service.wait(service.start(unit, [x], idempotent=False), timeout=60)
    assert service.wait(service.start(abs, [-1]), timeout=60) == [1]

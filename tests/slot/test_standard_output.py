"""Standard output and error that are slow, paused, full, closed or gone: nothing waits for them, and nothing fails."""

from __future__ import annotations

import io
import itertools
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import park
from park.kernel.output_lines import PARTIAL_LINE_SECONDS, OutputLines
from park.slot.line_stream import LineStream
from park.util import stdio
from park.util.stdio import MAX_KEPT_BYTES, StandardStream
from tests.support.fabric import ENVIRONMENT, Fabric, until

HEAP = b"x" * 99 + b"\n"


@pytest.fixture
def files() -> Iterator[ExitStack]:
    with ExitStack() as files:
        yield files


class End:
    """The target of an outlet, and the bytes that came out there."""

    def __init__(self, files: ExitStack, reader: int, writer: int) -> None:
        os.set_inheritable(writer, True)
        os.set_blocking(reader, False)
        self.reader, self.writer = reader, writer
        files.callback(self.close, reader)
        files.callback(self.close, writer)

    def close(self, descriptor: int) -> None:
        with suppress(OSError):
            os.close(descriptor)

    def read(self, size: int = 1 << 20) -> bytes:
        try:
            return os.read(self.reader, size)
        except BlockingIOError:
            return b""


def pipe(files: ExitStack) -> End:
    return End(files, *os.pipe())


def terminal(files: ExitStack) -> End:
    reader, writer = pty.openpty()
    modes = termios.tcgetattr(writer)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(writer, termios.TCSANOW, modes)
    return End(files, reader, writer)


def connection(files: ExitStack) -> End:
    reader, writer = socket.socketpair()
    return End(files, reader.detach(), writer.detach())


KINDS = pytest.mark.parametrize("kind", [pipe, terminal, connection])


# -- the outlet ------------------------------------------------------------------------------------


@KINDS
def test_what_is_not_taken_waits_and_comes_in_order(
    files: ExitStack, kind: Callable[[ExitStack], End]
) -> None:
    end = kind(files)
    out = StandardStream(end.writer)
    lines = [b"%d\n" % n for n in range(60_000)]
    count, came = 0, b""
    while count < len(lines):  # who writes keeps to `full`
        if not out.full:
            out.write(b"".join(lines[count : count + 100]))
            count += 100
        else:
            came += end.read()
    deadline = time.monotonic() + 20
    while len(came) < sum(map(len, lines)) and time.monotonic() < deadline:
        came += end.read()
    assert came == b"".join(lines)
    until(lambda: out._thread is None)


@KINDS
def test_nobody_waits_for_who_takes_nothing_and_what_is_left_out_is_counted(
    files: ExitStack, kind: Callable[[ExitStack], End], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "STALLED_SECONDS", 0.05)
    end = kind(files)
    out = StandardStream(end.writer)
    while not out.full and out._size <= MAX_KEPT_BYTES:
        out.write(HEAP * 10)
    until(lambda: not out.full)
    for _ in range(7):
        out.write(HEAP)
    came = b""
    deadline = time.monotonic() + 20
    while b"more" not in came and time.monotonic() < deadline:
        came += end.read()
    assert came.endswith(b"(7 more lines are left out here: their reader did not take them)\n")
    assert came.count(HEAP) > 2000
    until(lambda: out._thread is None)


@KINDS
def test_who_has_gone_is_no_error(files: ExitStack, kind: Callable[[ExitStack], End]) -> None:
    end = kind(files)
    out = StandardStream(end.writer)
    while not out._waiting:
        out.write(HEAP)
    end.close(end.reader)
    for _ in range(100):
        out.write(HEAP)
    until(lambda: not out._waiting)


def test_a_full_disk_is_no_error(files: ExitStack) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    files.callback(os.close, full)
    os.set_inheritable(full, True)
    out = StandardStream(full)
    out.write(HEAP)
    assert not out._waiting


def test_a_file_that_has_got_the_number_is_not_written_into(tmp_path: Path) -> None:
    with (tmp_path / "mine").open("w") as mine:
        StandardStream(mine.fileno()).write(HEAP)
    assert (tmp_path / "mine").read_bytes() == b""


def test_what_the_number_stands_for_may_change(files: ExitStack) -> None:
    first, second = pipe(files), pipe(files)
    out = StandardStream(first.writer)
    out.write(b"one\n")
    os.dup2(second.writer, first.writer)
    out.write(b"two\n")
    assert (first.read(), second.read()) == (b"one\n", b"two\n")


# -- lines -----------------------------------------------------------------------------------------


def test_lines_of_several_come_whole(files: ExitStack) -> None:
    end = pipe(files)
    out = StandardStream(end.writer)
    sources = [(pipe(files), OutputLines(out)) for _ in range(2)]
    for n, (source, _) in enumerate(sources):
        os.write(source.writer, b"%d begins" % n)
    for source, lines in sources:
        assert lines.read(source.reader, 0.0)
    assert end.read() == b""
    os.write(sources[0][0].writer, b" and ends\nnext")
    sources[0][1].read(sources[0][0].reader, 5.0)
    assert end.read() == b"0 begins and ends\n"
    assert sources[0][1].due == 5.0 + PARTIAL_LINE_SECONDS
    for _, lines in sources:
        lines.settle()
    assert end.read() == b"next\n1 begins"
    assert "next" in sources[0][1].last()
    os.close(os.dup(sources[0][0].writer))
    sources[0][0].close(sources[0][0].writer)
    assert not sources[0][1].read(sources[0][0].reader, 6.0)


def test_threads_print_whole_lines() -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    stream = LineStream(Stream(), itertools.count(1))
    threads = [
        threading.Thread(target=lambda n=n: [print(n, i, file=stream) for i in range(200)]) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = "".join(written).splitlines()
    assert sorted(lines) == sorted(f"{n} {i}" for n in range(4) for i in range(200))


# -- scripts and kernels ---------------------------------------------------------------------------

SCRIPT = """
import os, sys
first = open("first", "w")  # it gets a number that was closed
first.write("kept")
first.flush()
import park
def noisy(x):
    print("printed", x)
    print("complained", x, file=sys.stderr)
    os.system("echo of a child")
    os.write(1, b"y" * 400_000)
    os.write(2, b"y" * 400_000)
    return x
if __name__ == "__main__":
    park.local_service.configure(slots=2)
    with park.local_service as service:
        job = service.job(service.start(noisy, range(3)))
        values = job.wait(timeout=60)
        lines = "\\n".join(log.text for log in job.logs()).splitlines()
        with open("found", "w") as file:
            file.write(f"{values} {sum('printed' in line for line in lines)} {sum('complained' in line for line in lines)}")
        service.start(noisy, [4])
"""


def closed(*numbers: int) -> Callable[[ExitStack], dict[str, Any]]:
    return lambda files: {"preexec_fn": lambda: [os.close(number) for number in numbers]}


def gone(files: ExitStack) -> dict[str, Any]:
    reader, writer = os.pipe()
    os.close(reader)
    files.callback(os.close, writer)
    return {"stdout": writer, "stderr": writer}


def full(files: ExitStack) -> dict[str, Any]:
    writer = os.open("/dev/full", os.O_WRONLY)
    files.callback(os.close, writer)
    return {"stdout": writer, "stderr": writer}


def paused(files: ExitStack) -> dict[str, Any]:
    writer = terminal(files).writer
    termios.tcflow(writer, termios.TCOOFF)
    return {"stdout": writer, "stderr": writer}


def unread(files: ExitStack) -> dict[str, Any]:
    writer = pipe(files).writer
    return {"stdout": writer, "stderr": writer}


HEAVY = pytest.mark.heavy
WAYS = [
    pytest.param(closed(1), id="closed 1", marks=HEAVY),
    pytest.param(closed(2), id="closed 2", marks=HEAVY),
    pytest.param(closed(0, 1, 2), id="closed"),
    pytest.param(gone, id="gone"),
    pytest.param(full, id="full", marks=HEAVY),
    pytest.param(paused, id="paused"),
    pytest.param(unread, id="unread", marks=HEAVY),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_script_does_not_mind_who_hears_it(
    files: ExitStack, tmp_path: Path, way: Callable[[ExitStack], dict[str, Any]]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        **(
            {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            | way(files)
        ),
    )
    files.callback(script.wait)
    files.callback(script.kill)
    assert script.wait(90) == 0
    assert (tmp_path / "found").read_text() == "[0, 1, 2] 3 3"
    assert (tmp_path / "first").read_text() == "kept"


def test_lines_of_many_slots_come_whole(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import park
            def noisy(x):
                print("noisy", "prints", x)
            if __name__ == "__main__":
                park.local_service.configure(slots=3)
                with park.local_service as service:
                    service.wait(service.start(noisy, range(500)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-u", "script.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sorted(done.stdout.splitlines()) == sorted(f"noisy prints {x}" for x in range(500))


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(gone, id="gone"),
        pytest.param(paused, id="paused", marks=HEAVY),
        pytest.param(closed(1, 2), id="closed", marks=HEAVY),
    ],
)
def test_a_kernel_does_not_mind_who_hears_it(
    files: ExitStack, tmp_path: Path, way: Callable[[ExitStack], dict[str, Any]]
) -> None:
    """Nor does it when its broker goes and comes back, which it has to say."""

    def noisy(x: int) -> int:
        print("printed", x)
        os.write(2, b"y" * 50_000)
        time.sleep(0.02)
        return x

    with Fabric(tmp_path) as fabric:
        kernel = fabric.start(
            *("-m", "park.cli.kernel", "--broker", fabric.address, "--slots", "1", "--grace", "0.3"),
            **way(files),
        )
        service = fabric.connect()
        job = service.job(service.start(noisy, range(60)))
        until(lambda: job.progress.done > 2)
        fabric.broker.signal(signal.SIGKILL)
        fabric.broker.wait()
        fabric.start_broker()
        assert job.wait(timeout=60) == list(range(60))
        assert kernel.running
        lines = "\n".join(log.text for log in job.logs()).splitlines()
        assert [f"printed {x}" for x in range(60)] == [line for line in lines if "printed" in line]


@pytest.mark.parametrize("size", [(0, 0), (24, 100), (50, 40)])
def test_a_bar_is_drawn_on_a_terminal_of_any_size(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    from park.client.progress_bar import ProgressBar

    master, slave = os.openpty()
    termios.tcsetwinsize(slave, size)
    try:
        with open(slave, "w", closefd=False) as terminal, ProgressBar("job {1}") as bar:
            monkeypatch.setattr(sys, "stderr", terminal)
            for now in range(4):
                bar.update(park.Progress(now, 4, "{loaves}", "crust {2}"), "", now)
        text = b""
        while select.select([master], [], [], 0.2)[0]:
            text += os.read(master, 65536)
        drawn = text.decode().split("\r")
    finally:
        os.close(master)
        os.close(slave)
    assert any(each.startswith("job {1}:  75%|") for each in drawn), drawn
    if size[1] != 40:
        assert any("3/4 {loaves} [00:00<00:01, crust {2}" in each for each in drawn), drawn
    assert max(map(len, drawn)) < (size[1] or 80)


def test_a_bar_on_a_terminal_that_has_gone_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from park.client.progress_bar import ProgressBar

    class Gone:
        encoding = "utf-8"

        def write(self, *text: str) -> int:
            raise OSError("Input/output error")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    with ProgressBar("job 1") as bar:
        bar.update(park.Progress(1, 2), "", 1.0)
        bar.update(park.Progress(2, 2), "", 2.0)
    stdio.tell("nobody hears this")
    monkeypatch.setattr(sys, "stderr", None)
    stdio.tell("nor this")
    with park.local_service as service:
        assert service.wait(service.start(lambda: 1), timeout=60) == 1

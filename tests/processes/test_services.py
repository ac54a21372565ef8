"""`park-broker` and `park-kernel` as services: their log files, their options in park.toml, their terminals."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from park.cli import broker, kernel
from park.cli.park import main
from park.util import stdio
from tests.support.fabric import ENVIRONMENT, Fabric, until

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (INFO|WARNING|ERROR) +park-(broker|kernel): \S.*")


def test_services_write_logs_with_times_and_levels(tmp_path: Path) -> None:
    logs = tmp_path / "broker.log", tmp_path / "kernel.log"
    with Fabric(tmp_path, "--log-file", str(logs[0])) as fabric:
        started = fabric.start_kernel("--log-file", str(logs[1]))
        until(lambda: logs[1].exists() and "connected" in logs[1].read_text())
        until(lambda: "has come: 1 slot on" in logs[0].read_text())
        logs[0].rename(tmp_path / "broker.log.1")  # as logrotate does
        started.signal(15)
        assert started.wait() == 0
        until(lambda: logs[0].exists() and "has left" in logs[0].read_text())
        assert "serving at" in (tmp_path / "broker.log.1").read_text()
        fabric.broker.signal(15)
        assert fabric.broker.wait() == 0
    for log in (*logs, tmp_path / "broker.log.1"):
        lines = log.read_text().splitlines()
        assert lines
        assert all(LINE.fullmatch(line) for line in lines), lines
    assert "has ended" in logs[0].read_text()
    assert "leaves, because it was told to stop (SIGTERM)" in logs[1].read_text()


def test_a_log_file_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "log"
    for command, name in ((broker.main, "park-broker"), (kernel.main, "park-kernel")):
        done = CliRunner().invoke(command, ["--log-file", str(file)])
        assert done.exit_code == 2
        assert f"{name}: the log file {file} cannot be written: No such file or directory" in done.output


def test_journald_reads_the_level_of_each_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A supervisor that hands a process a socket for standard error, and names it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        status = os.fstat(theirs.fileno())
        script = "from park.util.stdio import tell, record\ntell('one\\ntwo', 'warning')\nrecord('three')"
        environment = ENVIRONMENT | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        subprocess.run([sys.executable, "-c", script], stderr=theirs, env=environment, check=True)
        assert ours.recv(1000) == b"<4>one\n<4>two\n<6>three\n"
        subprocess.run([sys.executable, "-c", script], stderr=theirs, env=ENVIRONMENT, check=True)
        assert ours.recv(1000) == b"one\ntwo\n"


def test_a_log_survives_what_is_no_text(tmp_path: Path) -> None:
    log = stdio.LogFile(tmp_path / "log")
    log.write("a \udcff name", "info")
    assert (tmp_path / "log").read_text().endswith("INFO    a \\udcff name\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_short_help(option: str) -> None:
    for name in main.list_commands(None):  # type: ignore[arg-type]
        assert CliRunner().invoke(main, [name, option]).output.startswith("Usage: ")
    for command in (broker.main, kernel.main):
        assert CliRunner().invoke(command, [option]).output.startswith("Usage: ")


def test_options_of_services_may_stand_in_the_file_of_settings(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "park"
    folder.mkdir(parents=True)
    (folder / "park.toml").write_text(
        f"""
        [park-broker]
        log-file = "{tmp_path}/broker.log"
        heartbeat = 0.5
        keep = ["30d", "5GB"]

        [park-kernel]
        slots = 3
        label = ["gpu", "old"]
        owner = "ada"
        only-own = true
        idle-timeout = "1h"
        """
    )
    settings = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    (tmp_path / "fabric").mkdir()
    with Fabric(tmp_path / "fabric", settings=settings) as fabric:
        command = ("-m", "park.cli.kernel", "--broker", fabric.address)
        fabric.start(*command, env=settings)
        fabric.start(*command, "--slots", "1", "--label", "new", env=settings)
        service = fabric.connect()
        until(lambda: len(service.kernels()) == 2)
        found = {(k.slots, k.labels, k.owner, k.only) for k in service.kernels()}
        assert found == {(3, ("gpu", "old"), "ada", True), (1, ("new",), "ada", True)}
        assert "serving at" in (tmp_path / "broker.log").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[park-kernel]\nslots = -1", "park-kernel.slots = -1 is no whole number"),
        ("[park-kernel]\nslot = 1", "park-kernel.slot is not known; [park-kernel] has broker, slots"),
        ("[park-kernel]\nonly-own = 1", "park-kernel.only-own = 1 is neither true nor false"),
        ("[park-kernel]\nlabel = 'gpu'", "park-kernel.label = 'gpu' is no list of texts"),
        (
            "[park-kernel]\ngrace = 'soon'",
            "'soon' is no length of time: write it like 3h55m, 5m, 90s or 90 "
            "(it stands in park.toml, in [park-kernel])",
        ),
        (
            "[park-broker]\nlease = 0",
            "0.0 is not in the range 0.2<=x<=86400. (it stands in park.toml, in [park-broker])",
        ),
    ],
)
def test_what_cannot_be_so_in_that_file_is_said(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "park").mkdir()
    (tmp_path / "park" / "park.toml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    command = broker.main if "park-broker" in text else kernel.main
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_each_line_of_a_kernel_says_whose_it_is(tmp_path: Path) -> None:
    def unit(word: str) -> None:
        print(f"{word} one\n{word} two")
        print(f"{word} complains", file=sys.stderr)

    with Fabric(tmp_path) as fabric:
        started = fabric.start_kernel(slots=2)
        jobs = {}
        for owner in ("ada", "pat"):
            service = fabric.connect(owner)
            jobs[owner] = service.start(unit, [owner] * 20)
            service.wait(jobs[owner], timeout=60)
        for owner, job in jobs.items():
            for what in ("one", "two", "complains"):
                line = f"job {job} ({owner}): {owner} {what}"
                until(lambda line=line: started.text.splitlines().count(line) == 20, why=lambda: started.text)  # type: ignore[misc]

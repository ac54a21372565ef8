"""Units for systemd, as `park service` writes them, and what the services tell systemd of themselves."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from park.cli.commands.service import service
from park.cli.systemd_units import SERVICES, unit_text, verify
from tests.support.fabric import Fabric, slots_of, until

WORDS = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=12)


def run(*words: str) -> str:
    done = CliRunner().invoke(service, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PARK_BROKER", "tcp://head:7275")
    return tmp_path / "systemd" / "user"


# -- the units -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("user", ["", "root"])
def test_systemd_finds_no_fault_in_a_unit(user: str) -> None:
    for each in SERVICES.values():
        if not (user and each.personal):
            words = ["--label", 'a "b" $c %d \\e']
            variables = {"PARK_BROKER": "/a b/connection.json"}
            text = unit_text(each, sys.executable, words, variables, Path("/a b %c"), user)
            assert verify(text, each.unit, own=not user) == ""
    assert "Unknown key" in verify(text.replace("KillMode", "KillMood"), each.unit, own=not user)


@given(st.lists(WORDS, max_size=4))
def test_options_reach_the_command_as_they_were_given(words: list[str]) -> None:
    text = unit_text(SERVICES["kernel"], "/python", words, {}, Path("/"))
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    # a shell's double quotes keep the same characters, but for a dollar and a percent sign
    read = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))
    assert read == ["/python", "-m", "park.cli.kernel", *words]


def test_a_unit_is_shown_written_and_listed(folder: Path) -> None:
    shown = run("install", "kernel", "--dry-run", "--", "--slots", "4")
    assert shown.splitlines()[0] == f"# {folder}/park-kernel.service"
    assert '"--slots" "4"' in shown
    assert 'Environment="PARK_BROKER=tcp://head:7275"' in shown
    assert not folder.exists()
    told = run("install", "kernel", "--", "--slots", "4")
    assert "systemctl --user enable --now park-kernel.service" in told
    assert shown.split("\n", 1)[1] == (folder / "park-kernel.service").read_text()
    run("install", "donate", "--", "--only-idle")
    listed = json.loads(run("status", "--json"))
    assert [row["service"] for row in listed if row["unit"].startswith(str(folder))] == ["kernel", "donate"]
    assert all(row["state"] for row in listed)


def test_relative_paths_mean_the_same_in_a_unit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"\nWorkingDirectory=-{tmp_path}\n" in run(
        "install", "broker", "--dry-run", "--", "--home", "home"
    )


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("broker", "--", "--bnid", "tcp://head:7275"), "--bnid"),
        (("kernel", "--", "--idle-timeout", "soon"), "'soon' is no length of time"),
        (("web", "--", "--port", "page"), "'page' is not a valid integer"),
        (("donate", "--", "--only-own", "spare"), "unexpected extra argument (spare)"),
    ],
)
def test_options_that_the_service_would_refuse_at_each_start_are_refused_at_once(
    folder: Path, words: tuple[str, ...], refusal: str
) -> None:
    done = CliRunner().invoke(service, ["install", *words])
    assert (done.exit_code, refusal in done.output) == (2, True), done.output
    assert not folder.exists()


def test_a_donation_is_a_users_own_and_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    done = CliRunner().invoke(service, ["install", "donate", "--system", "ada"])
    assert (done.exit_code, "leave --system out" in done.output) == (2, True)
    folder.parent.mkdir()
    folder.touch()
    done = CliRunner().invoke(service, ["install", "web"])
    assert (done.exit_code, f"{folder}/park-web.service cannot be written" in done.output) == (2, True)


# -- what a service tells ------------------------------------------------------------------------------


class Systemd:
    """The end of a service's line to systemd."""

    def __init__(self, file: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(file))
        self._socket.settimeout(20.0)
        self.settings = {"NOTIFY_SOCKET": str(file), "WATCHDOG_USEC": "20000"}

    def __enter__(self) -> Systemd:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hears(self, text: str) -> None:
        """Wait until the service says this."""
        until(lambda: self._socket.recv(1000) == text.encode())


def test_a_broker_and_a_kernel_tell_when_they_are_ready_that_they_live_and_that_they_end(
    tmp_path: Path,
) -> None:
    with (
        Systemd(tmp_path / "broker") as of_broker,
        Systemd(tmp_path / "kernel") as of_kernel,
        Fabric(tmp_path, settings=of_broker.settings) as fabric,
    ):
        of_broker.hears("READY=1")
        of_broker.hears("WATCHDOG=1")
        command = ("-m", "park.cli.kernel", "--broker", fabric.address, "--slots", "1", "--grace", "0.1")
        kernel = fabric.start(*command, env=of_kernel.settings)
        of_kernel.hears("READY=1")
        of_kernel.hears("STATUS=connected")
        of_kernel.hears("WATCHDOG=1")
        (slot, *_) = until(lambda: slots_of(kernel.pid))
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{slot}/environ").read_bytes()
        kernel.popen.terminate()
        of_kernel.hears("STOPPING=1")
        fabric.broker.popen.terminate()
        of_broker.hears("STOPPING=1")

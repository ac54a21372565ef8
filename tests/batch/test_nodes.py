"""One kernel on each node: the commands that start them, and the watch over them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.kernel.node.allocation import PBS, SLURM, BatchJob
from park.kernel.node.read_allocation import allocated_hosts
from park.kernel.node_watch import NodeWatch
from park.kernel.nodes import Launch, launches, release_command, shipped, write_environment
from tests.support.fabric import Fabric, Process, alive, until

KERNEL = ("/python", "-m", "park.cli.kernel", "--label", "two words")
STARTER = ("/python", "/start_on_node.py", "/file")
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)


# -- the commands ----------------------------------------------------------------------------------


@given(st.lists(NAMES, min_size=1, max_size=20), st.booleans(), st.sampled_from([SLURM, PBS]))
def test_each_host_gets_one_kernel(hosts: list[str], pbsdsh: bool, system: str) -> None:
    found = launches(BatchJob(system, "1"), hosts, hosts[0], KERNEL, STARTER, pbsdsh)
    assert [launch.node for launch in found] == list(dict.fromkeys(hosts))
    for launch in found:
        if system == SLURM:
            assert launch.command[0] == "srun"
            assert f"--nodelist={launch.node}" in launch.command
            assert launch.command[-len(KERNEL) - 1 :] == (*KERNEL, "--until-eof")
        elif pbsdsh:
            assert launch.command == ("pbsdsh", "-n", str(hosts.index(launch.node)), "--", *STARTER, *KERNEL)
            assert not launch.held
        elif launch.node == hosts[0]:
            assert launch.command == (*STARTER, *KERNEL, "--until-eof")
        else:
            assert launch.command[0] == "ssh"
            assert launch.command[-2] == launch.node
            assert launch.command[-1].endswith("--label 'two words' --until-eof")


def test_what_a_node_has_for_itself_is_not_shipped(tmp_path: Path) -> None:
    environment = {"PATH": "/bin", "PBS_JOBID": "1", "PBS_NODENUM": "0", "HOSTNAME": "n1", "TMPDIR": "/t"}
    assert shipped(environment) == {"PATH": "/bin", "PBS_JOBID": "1"}
    file = tmp_path / "cache" / "environment"
    write_environment(file, environment, "/work")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"folder": "/work", "environment": shipped(environment)}


def test_where_there_is_no_node_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "nodes"
    for job, environment, words in (
        (None, {}, "this is no batch job"),
        (BatchJob(PBS, "1"), {}, "the batch system names no node"),
        (BatchJob(PBS, "1"), {"PBS_NODEFILE": str(file)}, "cannot be read"),
        (BatchJob(SLURM, "1"), {"SLURM_JOB_NODELIST": "n[1-2]"}, "scontrol names no node"),
        (
            BatchJob(SLURM, "1"),
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"},
            "in the job script itself",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            allocated_hosts(job, environment)
    file.write_text("n1\nn1\nn2\n")
    assert allocated_hosts(BatchJob(PBS, "1"), {"PBS_NODEFILE": str(file)}) == ["n1", "n1", "n2"]


# -- the watch ---------------------------------------------------------------------------------------


def shell(node: str, script: str, held: bool = True) -> Launch:
    return Launch(node, ("sh", "-c", script), held)


def test_nodes_that_do_not_come_up_are_told_with_their_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.kernel.node_watch.START_SECONDS", 0.3)
    said: list[tuple[str, str]] = []
    found = [
        shell("n1", "echo park-kernel: 2 slots for the broker at tcp://head:7276; cat >/dev/null; echo left"),
        shell("n2", "echo no such key >&2; printf 'the last line'; exit 4"),
        shell("n3", "echo module: not found; cat >/dev/null"),
        shell("n4", "cat >/dev/null"),
        Launch("n5", ("/no/such/launcher",)),
    ]
    watch = NodeWatch(found, lambda node, line: said.append((node, line)), ending=5.0)
    signal.signal(signal.SIGALRM, lambda *_: watch.end())
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    watch.run()
    told = [line for node, line in said if not node]
    assert sorted(told) == [
        "node n2 did not come up: its kernel ended with code 4; its last words: no such key the last line",
        "node n3 did not come up in 0.3 s; its last words: module: not found",
        "node n4 did not come up in 0.3 s; it has said nothing",
        "node n5: /no/such/launcher cannot be started: No such file or directory",
    ]
    assert ("n1", "left") in said
    assert watch.failure == told[0]
    assert watch.came_up == 1


def test_a_node_whose_kernel_has_left_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("park.kernel.node_watch.IDLE_NODE_SECONDS", 0.1)
    up = "echo 2 slots for the broker at tcp://head:7276"
    found = [shell("n1", f"{up}; cat >/dev/null"), shell("n2", up), shell("n3", up)]
    asked: list[tuple[str, list[str]]] = []

    def release(node: str, kept: Sequence[str]) -> tuple[bool, str]:
        asked.append((node, list(kept)))
        if len(asked) == 2:
            watch.end()
        return node == "n2", "stays idle" if node == "n3" else "is given back"

    said: list[str] = []
    watch = NodeWatch(found, lambda node, line: None if node else said.append(line), 5.0, release)
    watch.run()
    assert asked == [("n2", ["n1", "n3"]), ("n3", ["n1"])]
    assert said == [
        "node n2, whose kernel has ended, is given back",
        "node n3, whose kernel has ended, stays idle",
    ]
    assert watch.idle["n1"] == 0.0 < watch.idle["n2"] < watch.idle["n3"]


def test_the_command_that_gives_a_node_back() -> None:
    slurm, pbs = BatchJob(SLURM, "7", "n1"), BatchJob(PBS, "8.head", "n1")
    update = ("scontrol", "update", "JobId=7", "NodeList=n1,n3")
    assert release_command(slurm, "n2", ["n1", "n3"]) == update
    assert release_command(pbs, "n2.site", ["n1"], True) == ("pbs_release_nodes", "-j", "8.head", "n2.site")
    for job, node in ((slurm, "n1.site"), (pbs, "n2"), (None, "n2")):
        assert release_command(job, node, ["n1"]) == ()


def test_what_does_not_leave_is_killed() -> None:
    watch = NodeWatch(
        [shell("n1", "trap '' TERM; exec sleep 60", held=False)], lambda node, line: None, ending=0.3
    )
    watch.end()
    began = time.monotonic()
    watch.run()
    assert time.monotonic() - began < 30


# -- with real kernels -------------------------------------------------------------------------------

#: Torque's pbsdsh: it runs a command on one node of the job, in almost no environment, and ends it at SIGTERM.
PBSDSH = """\
#!{python}
import os, signal, subprocess, sys
assert sys.argv[1] == "-n" and sys.argv[3] == "--", sys.argv
environment = {{"PBS_JOBID": os.environ["PBS_JOBID"], "PBS_NODENUM": sys.argv[2], "PATH": "/usr/bin:/bin", "HOME": "/"}}
task = subprocess.Popen(sys.argv[4:], env=environment, cwd="/", stdin=subprocess.DEVNULL, start_new_session=True)
signal.signal(signal.SIGTERM, lambda number, frame: task.send_signal(number))
sys.exit(task.wait())
"""
#: ssh to this very host: it runs a command in a fresh environment, which ends when the connection does.
SSH = """\
#!/bin/sh
while [ "$1" = -T ] || [ "$1" = -o ]; do [ "$1" = -o ] && shift; shift; done
shift
exec env -i PATH=/usr/bin:/bin HOME=/ sh -c "$*"
"""


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    with Fabric(tmp_path) as fabric:
        yield fabric


def start(fabric: Fabric, program: str, text: str, *arguments: str) -> Process:
    """``park-kernel --nodes`` in an allocation of this node and another one, whose kernel *program* starts here too."""
    folder = fabric.folder / "bin"
    folder.mkdir()
    (folder / program).write_text(text)
    (folder / program).chmod(0o755)
    nodes = fabric.folder / "nodes"
    nodes.write_text(f"{socket.gethostname()}\nother\n")
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "PBS_JOBID": "4711.head",
        "PBS_NODEFILE": str(nodes),
        "XDG_CACHE_HOME": str(fabric.folder / "cache"),
        "OF_THE_SCRIPT": "here",
    }
    command = ("-m", "park.cli.kernel", "--broker", fabric.address, "--nodes", "--grace", "0.3", *arguments)
    return fabric.start(*command, env=environment, cwd=fabric.folder)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("program", "text"), [("pbsdsh", PBSDSH.format(python=sys.executable)), ("ssh", SSH)]
)
def test_pbsdsh_and_ssh_start_kernels_and_end_them(fabric: Fabric, program: str, text: str) -> None:
    watch = start(fabric, program, text, "--slots", "1")
    service = fabric.connect()
    until(lambda: len(service.kernels()) == 2, 50, lambda: watch.text)
    kernels = [kernel.pid for kernel in service.kernels()]
    assert {kernel.batch for kernel in service.kernels()} == {"PBS 4711.head"}
    assert set(service.wait(service.start(os.getenv, ["OF_THE_SCRIPT"] * 4), 60)) == {"here"}
    watch.signal(signal.SIGTERM)
    assert watch.wait(50) == 0, watch.text
    assert "2 of 2 nodes came up, and all have left" in watch.text
    assert not any(map(alive, kernels))
    assert not list((fabric.folder / "cache").rglob("*.json"))


@pytest.mark.heavy
def test_kernels_leave_when_their_launcher_is_killed(fabric: Fabric) -> None:
    watch = start(fabric, "ssh", SSH, "--slots", "1")
    service = fabric.connect()
    until(lambda: len(service.kernels()) == 2, 50, lambda: watch.text)
    kernels = [kernel.pid for kernel in service.kernels()]
    watch.kill()
    until(lambda: not any(map(alive, kernels)), 50)

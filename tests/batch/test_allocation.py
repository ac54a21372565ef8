"""A kernel's reading of the variables, files and commands of batch systems."""

from __future__ import annotations

import math
import re
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.cli.run_kernel import batch_signals
from park.kernel.machine.shutdown import ShutdownPolicy
from park.kernel.node import allocation
from park.kernel.node.allocation import BatchJob, NodeAllocation
from park.kernel.node.read_allocation import allocation_here, usable_cpus
from park.kernel.node.setup import environment_after

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)


# -- pure ----------------------------------------------------------------------------------------


@given(st.dictionaries(NAMES, st.integers(1, 40), min_size=1, max_size=6), st.data())
def test_slots_are_the_node_s_lines_in_any_order_and_spelling(
    nodes: dict[str, int], data: st.DataObject
) -> None:
    spelled = [
        f"{node}.cluster.org" if i % 2 else node.upper() for node, n in nodes.items() for i in range(n)
    ]
    lines = data.draw(st.permutations(spelled))
    for node, count in nodes.items():
        assert allocation.node_file_slots(lines, [f"{node}.local"]) == count
    assert allocation.node_file_slots(lines, ["stranger-1"]) is None


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), st.integers(1, 9))
def test_a_node_without_a_fitting_name_is_known_by_its_number(nodes: list[str], per_node: int) -> None:
    lines = [node for node in nodes for _ in range(per_node)]
    for number in range(len(nodes)):
        assert allocation.node_file_slots(lines, ["stranger-1"], str(number)) == per_node
    assert allocation.node_file_slots(lines, ["stranger-1"], str(len(nodes))) is None


@given(st.lists(st.tuples(st.integers(1, 128), st.integers(1, 5)), min_size=1, max_size=8))
def test_slurm_s_lists_of_numbers(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{n}(x{times})" if times > 1 else str(n) for n, times in runs)
    assert allocation.repeated(text) == [n for n, times in runs for _ in range(times)]


@given(st.text(max_size=20))
def test_no_text_is_too_odd(text: str) -> None:
    allocation.repeated(text)
    assert (allocation.seconds_of(text) or 0.0) >= 0.0
    allocation.pbs_seconds_left(text)
    allocation.batch_job({"PBS_JOBID": text}, text)
    allocation.node_file_slots([text], [text], text)
    allocation.host_file_slots([text], [text])
    allocation.quota_cpus([(text, text)])


@given(st.integers(0, 10**7))
def test_times_as_slurm_and_pbs_write_them(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    assert allocation.seconds_of(f"{days}-{hours:02}:{minutes:02}:{left:02}") == seconds
    assert allocation.seconds_of(f"{seconds // 3600}:{minutes:02}:{left:02}") == seconds
    assert allocation.seconds_of(str(seconds)) == seconds
    assert allocation.seconds_of(f"{days}-{hours}") == days * 86400 + hours * 3600


@pytest.mark.parametrize("text", ["UNLIMITED", "INVALID", "NOT_SET", "", "4h"])
def test_no_end_is_none(text: str) -> None:
    assert allocation.seconds_of(text) is None


@given(st.lists(st.tuples(st.integers(1, 10**7), st.integers(1, 10**6)), max_size=4))
def test_the_smallest_quota_counts_and_is_one_cpu_at_least(limits: list[tuple[int, int]]) -> None:
    found = allocation.quota_cpus(
        [("max", "100000"), ("-1", "100000"), *((str(q), str(p)) for q, p in limits)]
    )
    if not limits:
        assert found is None
    else:
        assert found == max(1, min(q // p for q, p in limits))


@given(st.integers(1, 512), st.integers(1, 600))
def test_tasks_of_a_step_share_a_node_s_cpus(cpus: int, tasks: int) -> None:
    step = {"SLURM_CPUS_ON_NODE": str(cpus), "SLURM_PROCID": "3", "SLURM_NODEID": "1"}
    step["SLURM_STEP_TASKS_PER_NODE"] = f"7,{tasks}"
    found = allocation.slurm_cpus(step)
    assert found is not None
    assert found == max(1, cpus // tasks)
    del step["SLURM_PROCID"]  # the batch script
    assert allocation.slurm_cpus(step) == cpus


def test_the_least_counts() -> None:
    here = NodeAllocation(None, {"a": 8, "b": 3, "c": 4}, {"node": 100, "slurm": 0, "group": 50})
    assert (here.slots, here.slots_source, here.bytes) == (3, "b", 50)


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12", "PBS_JOBID": "12", "SLURMD_NODENAME": "n2"}, BatchJob("Slurm", "12", "n2")),
        ({"PBS_JOBID": "4711.head"}, BatchJob("PBS", "4711.head", "host")),
        ({"JOB_ID": "7", "NSLOTS": "4", "SGE_TASK_ID": "undefined"}, BatchJob("SGE", "7", "host")),
        ({"JOB_ID": "7", "NSLOTS": "4", "SGE_TASK_ID": "3"}, BatchJob("SGE", "7.3", "host")),
        ({"JOB_ID": "7"}, None),
    ],
)
def test_the_batch_job(environment: dict[str, str], job: BatchJob | None) -> None:
    assert allocation.batch_job(environment, "host.cluster.org") == job


def test_the_time_that_is_left_by_torque_and_by_pbs() -> None:
    torque = "Job Id: 1.head\n    Resource_List.walltime = 04:00:00\n    Walltime.Remaining = 1234\n"
    pbs = "Job Id: 1\n    resources_used.walltime = 00:10:00\n    Resource_List.walltime = 01:00:00\n"
    assert allocation.pbs_seconds_left(torque) == 1234
    assert allocation.pbs_seconds_left(pbs) == 3000
    assert allocation.pbs_seconds_left("    Resource_List.nodes = 2\n") is None
    assert allocation.sge_seconds("hard resource_list:         h_rt=14400,mem_free=4G\n") == 14400


def test_the_time_between_the_signals() -> None:
    assert (
        allocation.slurm_kill_wait("KeepAliveTime = SYSTEM_DEFAULT\nKillWait                = 30 sec\n") == 30
    )
    assert allocation.pbs_kill_wait("Queue: a\n    kill_delay = 60\nQueue: b\n    kill_delay = 10\n") == 10
    assert allocation.slurm_kill_wait("") is allocation.pbs_kill_wait("") is None


@given(st.floats(1, 1e6), st.floats(0, 1e4))
def test_leaving_takes_no_more_than_half_of_an_allocation(seconds: float, grace: float) -> None:
    policy = ShutdownPolicy(0.0, grace=grace).within(seconds)
    assert policy.limit == seconds
    assert 0 <= policy.grace <= grace
    assert policy.needs <= seconds / 2 + 1e-6
    assert policy.due(seconds - policy.needs, 0.0)
    assert not policy.due(seconds / 2 - 1e-3, 0.0)


def test_clocks_that_differ_are_told() -> None:
    assert "differs" in allocation.clock_remark({"SLURM_JOB_START_TIME": "2000"}, 1000.0)
    assert "differs" in allocation.clock_remark({"SLURM_JOB_END_TIME": "500"}, 1000.0)
    assert not allocation.clock_remark({"SLURM_JOB_START_TIME": "990", "SLURM_JOB_END_TIME": "5000"}, 1000.0)


# -- files and commands ----------------------------------------------------------------------------


def group(root: Path, line: str, **files: str) -> Path:
    """A file system with the control group of *line* in it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line + "\n")
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def test_quotas_of_control_groups_of_both_versions(tmp_path: Path) -> None:
    new = group(
        tmp_path / "new",
        "0::/job/step",
        job__cpu_DOT_max="150000 100000",
        job__step__cpu_DOT_max="max 100000",
    )
    old = group(
        tmp_path / "old",
        "4:cpu,cpuacct:/job",
        cpu__job__cpu_DOT_cfs_quota_us="100000",
        cpu__job__cpu_DOT_cfs_period_us="100000",
        cpu__cpu_DOT_cfs_quota_us="-1",
        cpu__cpu_DOT_cfs_period_us="100000",
    )
    for root in (new, old):
        assert allocation_here({}, root).cpus["the CPU quota of its control group"] == 1
        assert usable_cpus(root) == 1
    assert "the CPU quota of its control group" not in allocation_here({}, tmp_path / "none").cpus


def test_a_node_file_that_cannot_be_read_or_names_others_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no qstat
    file = tmp_path / "nodes"
    environment = {"PBS_JOBID": "1.head", "PBS_NODEFILE": str(file), "PBS_WALLTIME": "600"}
    assert "cannot be read" in " ".join(allocation_here(environment).remarks)
    file.write_text("elsewhere\nelsewhere\n")
    here = allocation_here(environment)
    assert "names elsewhere, but not this node" in " ".join(here.remarks)
    assert "the node file" not in here.cpus
    assert (here.seconds, here.kill_wait) == (600.0, allocation.KILL_WAIT_SECONDS)


def test_an_end_that_is_not_known_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    here = allocation_here({"PBS_JOBID": "1.head"})
    assert here.seconds is None
    assert "the end of the allocation is not known, since qstat" in " ".join(here.remarks)


def test_outside_of_a_batch_job_nothing_ends() -> None:
    here = allocation_here({})
    assert (here.job, here.seconds, here.kill_wait, here.remarks) == (None, None, math.inf, ())


def test_the_host_file_of_sge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "node1.cluster.org")
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "hosts"
    file.write_text("node0 8 all.q@node0 UNDEFINED\nnode1 1 all.q@node1 UNDEFINED\n")
    here = allocation_here({"JOB_ID": "7", "NSLOTS": "9", "PE_HOSTFILE": str(file)})
    assert here.cpus["the slots that SGE gave"] == 1


def commands(folder: Path, **answers: str) -> Path:
    """A folder with commands that give these answers, whatever they are asked."""
    folder.mkdir()
    for name, answer in answers.items():
        (folder / f"{name}.answer").write_text(answer)
        (folder / name).write_text(f"#!/bin/sh\nexec cat {folder}/{name}.answer\n")
        (folder / name).chmod(0o700)
    return folder


PBS_PRO = """\
Job Id: 4711.head
    Job_Name = park
    resources_used.walltime = 00:10:00
    exec_host = cluster-node-with-a-long-name-0001/0*8+cluster-node-with-a-long-n
\tame-0002/0*6+cluster-node-with-a-long-name-0002/1
    exec_vnode = (cluster-node-with-a-long-name-0001:ncpus=8)+(cluster-node-with-a-l
\tong-name-0002:ncpus=6)+(cluster-node-with-a-long-name-0002:ncpus=1)
    Resource_List.walltime = 01:00:00
"""


def test_pbs_pro_gives_cpus_and_not_mpi_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "cluster-node-with-a-long-name-0002")
    path = commands(tmp_path / "bin", qstat=PBS_PRO)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    file = tmp_path / "nodes"
    file.write_text("cluster-node-with-a-long-name-0001\ncluster-node-with-a-long-name-0002\n")
    here = allocation_here({"PBS_JOBID": "4711.head", "PBS_NODEFILE": str(file)})
    assert (here.cpus["the job's exec_host"], here.seconds) == (7, 3000.0)
    assert "the node file" not in here.cpus
    torque = re.sub(r"    exec_vnode.*\n.*\n", "", PBS_PRO)
    (path / "qstat.answer").write_text(torque)
    here = allocation_here({"PBS_JOBID": "4711.head", "PBS_NODEFILE": str(file)})
    assert here.cpus["the node file"] == 1


@pytest.mark.parametrize(("notify", "seconds"), [("TRUE", 90.0), ("FALSE", allocation.KILL_WAIT_SECONDS)])
def test_sge_warns_of_its_end_only_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notify: str, seconds: float
) -> None:
    status = f"job_number:   7\nhard resource_list:         h_rt=600\nnotify:                     {notify}\n"
    queue = "qname                 all.q\nnotify                00:01:30\n"
    path = commands(tmp_path / "bin", qstat=status, qconf=queue)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    here = allocation_here({"JOB_ID": "7", "NSLOTS": "1", "QUEUE": "all.q"})
    assert (here.seconds, here.kill_wait) == (600.0, seconds)
    assert batch_signals(here.job) == (signal.SIGTERM, signal.SIGUSR2)
    assert batch_signals(allocation.BatchJob("PBS", "7")) == (signal.SIGTERM,)


def test_the_environment_that_a_command_leaves(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "KEPT": "a\nb"}
    (tmp_path / ".bash_profile").write_text("export FROM_LOGIN=1\n")
    found = environment_after("echo noise; export NEW='x=y'; unset KEPT", environment)
    assert (found["NEW"], found["FROM_LOGIN"]) == ("x=y", "1")
    assert "KEPT" not in found
    assert len(environment_after(f"export LONG={'x' * 100_000}", environment)["LONG"]) == 100_000
    with pytest.raises(ValueError, match=r"ended with code 127: .*no-such-command"):
        environment_after("no-such-command", environment)

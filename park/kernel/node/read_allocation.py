"""Reads the surroundings of this process: variables and commands of a batch system, control groups, processors.

`allocation_here` asks once, when a kernel starts. A command that does not answer, or a file that cannot be read, leaves its
limit out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from park.kernel.node import allocation
from park.kernel.node.allocation import PBS, SGE, SLURM, BatchJob, NodeAllocation
from park.kernel.node.memory import control_groups, memory

#: Seconds within which a command of the batch system shall answer.
COMMAND_SECONDS = 10.0
ROOT = Path("/")


def allocation_here(environment: Mapping[str, str] | None = None, root: Path = ROOT) -> NodeAllocation:
    """The allocation of this node now. *root*: the root of the file system."""
    environment = os.environ if environment is None else environment
    host = platform.node()
    job = allocation.batch_job(environment, host)
    cpus, remarks = {"the processors of this process": affinity()}, []
    quota = allocation.quota_cpus(list(_quotas(root)))
    if quota is not None:
        cpus["the CPU quota of its control group"] = quota
    sizes = {"the node": memory(root)}
    if job is None:
        return NodeAllocation(None, cpus, sizes)
    status = _status(job)
    names = (job.node, environment.get("SLURMD_NODENAME", ""), host)
    if job.system == SLURM:
        if count := allocation.slurm_cpus(environment):
            cpus["SLURM_CPUS_ON_NODE"] = count
        sizes["Slurm"] = allocation.slurm_memory(environment)
    elif job.system == SGE:
        count = _sge_slots(environment, names)
        if count:
            cpus["the slots that SGE gave"] = count
    elif count := allocation.pbs_pro_cpus(status, names):
        cpus["the job's exec_host"] = count
    else:
        count, remark = _node_file_slots(environment, names)
        if count:
            cpus["the node file"] = count
        remarks.append(remark)
    seconds, remark = _seconds_left(job, environment, status)
    remarks += [remark, allocation.clock_remark(environment, time.time())]
    said = tuple(filter(None, remarks))
    return NodeAllocation(job, cpus, sizes, seconds, kill_wait(job, environment, status), said)


def usable_cpus(root: Path = ROOT) -> int:
    """The processors that this process may use: those that it is bound to, and no more than its control group's quota."""
    return min(affinity(), allocation.quota_cpus(list(_quotas(root))) or affinity())


def affinity() -> int:
    """The processors that this process is bound to, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def answer(*command: str) -> str:
    """The standard output of a command; "" if it fails, is missing, or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _status(job: BatchJob) -> str:
    """The answer of ``qstat`` on a job of PBS, Torque or SGE; "" for one of Slurm."""
    if job.system == PBS:
        return answer("qstat", "-f", job.number)
    return answer("qstat", "-j", job.number.partition(".")[0]) if job.system == SGE else ""


def kill_wait(job: BatchJob, environment: Mapping[str, str], status: str) -> float:
    """Seconds between the batch system's SIGTERM, or the SIGUSR2 of SGE, and its SIGKILL."""
    found = None
    if job.system == SLURM:
        found = allocation.slurm_kill_wait(answer("scontrol", "show", "config"))
    elif job.system == PBS:
        found = allocation.pbs_kill_wait(answer("qstat", "-Q", "-f"))
    elif queue := environment.get("QUEUE", ""):
        found = allocation.sge_kill_wait(status, answer("qconf", "-sq", queue))
    return allocation.KILL_WAIT_SECONDS if found is None else found


def node_file(environment: Mapping[str, str]) -> list[str]:
    """The lines of the node file. Raises OSError."""
    return Path(environment["PBS_NODEFILE"]).read_text().splitlines()


def allocated_hosts(job: BatchJob | None, environment: Mapping[str, str]) -> list[str]:
    """The hosts of the allocation, as its node file lists them. Raises ValueError where they are not known."""
    if job is None:
        raise ValueError(
            "this is no batch job of Slurm, PBS, Torque or SGE: give the command in a job script, or start a kernel "
            "without --nodes on each node"
        )
    if job.system == SLURM:
        if "SLURM_STEP_ID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            raise ValueError("srun has started it on several nodes: start it once, in the job script itself")
        hosts = answer("scontrol", "show", "hostnames", environment.get("SLURM_JOB_NODELIST", "")).split()
        source = "scontrol"
    else:
        source = environment.get("PE_HOSTFILE" if job.system == SGE else "PBS_NODEFILE", "")
        try:
            lines = Path(source).read_text().splitlines() if source else []
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"the node file {source} cannot be read: {why}") from error
        hosts = [line.split()[0] for line in lines if line.split()]
    if not hosts:
        raise ValueError(f"{source or 'the batch system'} names no node")
    return hosts


def _node_file_slots(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[int | None, str]:
    """The slots of this node by the node file, and a sentence where they are not known."""
    if not environment.get("PBS_NODEFILE"):
        return None, ""
    try:
        lines = node_file(environment)
    except (OSError, UnicodeDecodeError) as error:
        return (
            None,
            f"the node file {environment['PBS_NODEFILE']} cannot be read ({error}), so it limits nothing",
        )
    count = allocation.node_file_slots(lines, names, environment.get("PBS_NODENUM", ""))
    if count is not None:
        return count, ""
    hosts = ", ".join(allocation.unique_hosts(lines)[:5]) or "no host"
    return None, (
        f"the node file {environment['PBS_NODEFILE']} names {hosts}, but not this node, {platform.node()}: "
        "it limits nothing here; --slots says how many there are"
    )


def _sge_slots(environment: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    if file := environment.get("PE_HOSTFILE"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return allocation.host_file_slots(Path(file).read_text().splitlines(), names)
    text = environment.get("NSLOTS", "")
    return int(text) if text.isdecimal() else None


def _seconds_left(job: BatchJob, environment: Mapping[str, str], status: str) -> tuple[float | None, str]:
    """Seconds until the allocation ends (None: not known, or it does not end), and a sentence where that is a guess."""
    if job.system == SLURM:
        said = answer("squeue", "-h", "-j", job.number, "-o", "%L").strip()
        if said:
            return allocation.seconds_of(said.splitlines()[0]), ""
        left = allocation.slurm_seconds_left(environment, time.time())
        return left, _unknown("squeue") if left is None else ""
    if job.system == PBS:
        if (left := allocation.pbs_seconds_left(status)) is not None:
            return left, ""
        whole = allocation.seconds_of(environment.get("PBS_WALLTIME", ""))
        return whole, _unknown("qstat") if whole is None else ""
    return allocation.sge_seconds(status), ""


def _unknown(command: str) -> str:
    return (
        f"the end of the allocation is not known, since {command} does not answer here: --time-limit tells it, "
        "so that drivers make checkpoints in time"
    )


def _quotas(root: Path) -> Iterator[tuple[str, str]]:
    """Quota and period of each control group that this process is in, and of those around them."""
    for folder, unified in control_groups("cpu", root):
        with contextlib.suppress(OSError, ValueError):
            if unified:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = (
                    (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
                )
            yield quota, period

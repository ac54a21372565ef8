"""The allocation of a batch system for this node: slots, memory, and the time until it takes them back.

Pure: each function takes the environment and the texts of files and commands. `read_allocation` reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

#: Names of the batch systems.
SLURM, PBS, SGE = "Slurm", "PBS", "SGE"
#: Seconds between SIGTERM and SIGKILL where the batch system does not say: Torque's default, which is the shortest.
KILL_WAIT_SECONDS = 2.0
#: Numbers of at least this, of bytes or of microseconds, stand for "no limit".
_NO_LIMIT = 1 << 60
#: A difference of clocks above this is worth a remark (seconds).
CLOCK_SKEW_SECONDS = 60.0


class BatchJob(Struct, frozen=True):
    """The batch job of which this process is a part. *node*: this node's name there; "" where it has none."""

    system: str
    number: str
    node: str = ""


class NodeAllocation(Struct, frozen=True):
    """The slots, memory and time that this node may use.

    *cpus*: slots by source, such as "the node file"; the smallest counts. *memory*: bytes by source. *seconds*: the time
    that is left; None: no end is known. *kill_wait*: seconds between the batch system's SIGTERM and its SIGKILL; infinite
    outside of a batch job. *remarks*: sentences about contradictions.
    """

    job: BatchJob | None
    cpus: Mapping[str, int]
    memory: Mapping[str, int]
    seconds: float | None = None
    kill_wait: float = math.inf
    remarks: tuple[str, ...] = ()

    @property
    def slots(self) -> int:
        return min(self.cpus.values(), default=1)

    @property
    def slots_source(self) -> str:
        """The source whose number of slots counts."""
        return min(self.cpus, key=lambda source: self.cpus[source], default="")

    @property
    def bytes(self) -> int:
        """Memory in bytes; 0: not known."""
        return min((size for size in self.memory.values() if size), default=0)


# -- the batch job -------------------------------------------------------------------------------


def batch_job(environment: Mapping[str, str], host: str = "") -> BatchJob | None:
    """The batch job by its variables; None: there is none. Slurm counts first: its wrappers of Torque set both.

    >>> batch_job({"PBS_JOBID": "4711.head"}, "n1.cluster")
    BatchJob(system='PBS', number='4711.head', node='n1')
    """
    if number := environment.get("SLURM_JOB_ID", ""):
        return BatchJob(SLURM, number, environment.get("SLURMD_NODENAME") or short_name(host))
    if number := environment.get("PBS_JOBID", ""):
        return BatchJob(PBS, number, short_name(host))
    if (number := environment.get("JOB_ID", "")) and "NSLOTS" in environment:
        task = environment.get("SGE_TASK_ID", "undefined")
        return BatchJob(SGE, number if task == "undefined" else f"{number}.{task}", short_name(host))
    return None


def short_name(host: str) -> str:
    """The host's name without its domain; an address stays as it is.

    >>> short_name("N1.cluster.org"), short_name("10.0.0.1")
    ('n1', '10.0.0.1')
    """
    host = host.strip().lower()
    return host if re.fullmatch(r"[\d.]+|.*:.*", host) else host.partition(".")[0]


# -- slots ---------------------------------------------------------------------------------------


def node_file_slots(lines: Sequence[str], names: Sequence[str], number: str = "") -> int | None:
    """The lines of a node file that name this node; None: none does.

    *names*: this node's names. *number*: its number among the file's nodes ($PBS_NODENUM), which counts where no name fits.
    """
    hosts = [short_name(line) for line in lines if line.strip()]
    known = {short_name(name) for name in names if name}
    if count := sum(host in known for host in hosts):
        return count
    unique = unique_hosts(lines)
    if number.isdecimal() and int(number) < len(unique):
        return hosts.count(short_name(unique[int(number)]))
    return None


def unique_hosts(lines: Sequence[str]) -> list[str]:
    """The hosts of a node file, each once, in their order."""
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def host_file_slots(lines: Sequence[str], names: Sequence[str]) -> int | None:
    """The slots of this node in the host file of SGE, whose lines are ``HOST SLOTS QUEUE ...``; None: no line names it."""
    known = {short_name(name) for name in names if name}
    found = [line.split() for line in lines]
    slots = [
        int(words[1])
        for words in found
        if len(words) > 1 and words[1].isdecimal() and short_name(words[0]) in known
    ]
    return sum(slots) or None


def pbs_pro_cpus(status: str, names: Sequence[str]) -> int | None:
    """The CPUs of this node by ``qstat -f JOB`` of PBS Pro; None: another system has answered, or none is of this node.

    The node file of PBS Pro has a line for each MPI process, and a job that names no ``mpiprocs`` has one for each chunk.

    >>> status = "    exec_host = n1/0*8+n2/0*8\\n    exec_vnode = (n1:ncpus=8)+(n2:ncpus=8)\\n"
    >>> pbs_pro_cpus(status, ["n2"]), pbs_pro_cpus("    exec_host = n1/0-7\\n", ["n1"])
    (8, None)
    """
    lines = re.sub(r"\n\t", "", status)  # long ones are wrapped
    hosts = re.search(r"^\s*exec_host = (.*)", lines, flags=re.M)
    if hosts is None or not re.search(r"^\s*exec_vnode = ", lines, flags=re.M):
        return None
    known = {short_name(name) for name in names if name}
    chunks = re.findall(r"([^/+\s]+)/\d+(?:\*(\d+))?", hosts[1])
    return sum(int(cpus or 1) for host, cpus in chunks if short_name(host) in known) or None


def repeated(text: str) -> list[int]:
    """The numbers of a list such as Slurm's ``2(x3),1``; none where the text is no such list.

    >>> repeated("2(x3),1")
    [2, 2, 2, 1]
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\(x(\d+)\))?\s*", part)
        if match is None or int(match[2] or 1) > 1 << 20:
            return []
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers


def slurm_cpus(environment: Mapping[str, str]) -> int | None:
    """The CPUs of this node in a job of Slurm, shared among the tasks of the step that run here; None: not known."""
    text = environment.get("SLURM_CPUS_ON_NODE", "")
    if not text.isdecimal() or not int(text):
        return None
    return max(1, int(text) // slurm_tasks(environment))


def slurm_tasks(environment: Mapping[str, str]) -> int:
    """The tasks of this step on this node; each may be a kernel."""
    if "SLURM_PROCID" not in environment:  # the batch script is no step of srun
        return 1
    tasks = repeated(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = environment.get("SLURM_NODEID", "")
    if len(tasks) == 1:
        return max(1, tasks[0])
    return max(1, tasks[int(node)]) if node.isdecimal() and int(node) < len(tasks) else 1


def quota_cpus(limits: Sequence[tuple[str, str]]) -> int | None:
    """The CPUs that the quotas of control groups amount to, at least one; None: there is no quota.

    *limits*: the text of each group's quota and period in microseconds, ("max", "100000") where there is none.
    """
    cpus = [
        int(quota) / int(period)
        for quota, period in limits
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period) and int(quota) < _NO_LIMIT
    ]
    return max(1, int(min(cpus) + 1e-9)) if cpus else None


# -- memory --------------------------------------------------------------------------------------


def slurm_memory(environment: Mapping[str, str]) -> int:
    """Bytes of this node in a job of Slurm, shared among the tasks that run here; 0: not known, or all."""
    tasks = slurm_tasks(environment)
    if (text := environment.get("SLURM_MEM_PER_NODE", "")).isdecimal():
        return int(text) * (1 << 20) // tasks
    cpus = environment.get("SLURM_CPUS_ON_NODE", "")
    if (text := environment.get("SLURM_MEM_PER_CPU", "")).isdecimal() and cpus.isdecimal():
        return int(text) * int(cpus) * (1 << 20) // tasks
    return 0


# -- time ----------------------------------------------------------------------------------------


def seconds_of(text: str) -> float | None:
    """Seconds of a time such as ``1-02:03:04``, ``02:03:04``, ``03:04`` or ``14400``; None: it is none.

    >>> seconds_of("1-00:00:10"), seconds_of("4:00:00"), seconds_of("90"), seconds_of("UNLIMITED")
    (86410.0, 14400.0, 90.0, None)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,3})(?:\.\d+)?", text.strip())
    if match is None:
        return None
    numbers = [int(part) for part in match[2].split(":")]
    if match[1] and len(numbers) < 3:  # Slurm's days are followed by hours
        numbers += [0] * (3 - len(numbers))
    total = 0
    for number, unit in zip(reversed(numbers), (1, 60, 3600, 86400), strict=False):
        total += number * unit
    return float(total + int(match[1] or 0) * 86400)


def pbs_seconds_left(status: str) -> float | None:
    """The time that is left by ``qstat -f JOB`` of Torque or PBS; None: it does not say."""
    fields = dict(re.findall(r"^\s*([\w.]+)\s*=\s*(.*?)\s*$", status, flags=re.M))
    if (left := seconds_of(fields.get("Walltime.Remaining", ""))) is not None:
        return left
    whole = seconds_of(fields.get("Resource_List.walltime", ""))
    if whole is None:
        return None
    return max(0.0, whole - (seconds_of(fields.get("resources_used.walltime", "")) or 0.0))


def sge_seconds(status: str) -> float | None:
    """The wall time of a job by ``qstat -j JOB`` of SGE; None: it does not say."""
    match = re.search(r"\bh_rt=([\d:]+)", status)
    return seconds_of(match[1]) if match else None


def slurm_kill_wait(config: str) -> float | None:
    """Seconds between SIGTERM and SIGKILL by ``scontrol show config``; None: it does not say."""
    match = re.search(r"^\s*KillWait\s*=\s*(\d+)", config, flags=re.M)
    return float(match[1]) if match else None


def pbs_kill_wait(queues: str) -> float | None:
    """Seconds between SIGTERM and SIGKILL by ``qstat -Q -f``: the smallest of the queues; None: it does not say."""
    found = [float(delay) for delay in re.findall(r"^\s*kill_delay\s*=\s*(\d+)", queues, flags=re.M)]
    return min(found, default=None)


def sge_kill_wait(status: str, queue: str) -> float | None:
    """Seconds between SGE's warning, SIGUSR2, and its SIGKILL, by ``qstat -j JOB`` and ``qconf -sq QUEUE``.

    None: the job is not warned (``-notify``), or they do not say.
    """
    match = re.search(r"^notify\s+([\d:]+)", queue, flags=re.M)
    if match is None or not re.search(r"^notify:\s+TRUE", status, flags=re.M):
        return None
    return seconds_of(match[1])


def clock_remark(environment: Mapping[str, str], now: float) -> str:
    """A sentence if the clocks of the batch system and of this node (*now*, seconds since 1970) differ; else ""."""
    start, end = (environment.get(name, "") for name in ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME"))
    if start.isdecimal() and int(start) > now + CLOCK_SKEW_SECONDS:
        ahead = int(start) - now
    elif end.isdecimal() and int(end) < now - CLOCK_SKEW_SECONDS:
        ahead = int(end) - now
    else:
        return ""
    return (
        f"the clock of this node differs from the batch system's by {abs(ahead):.0f} s or more: "
        "the time that is left is not reckoned with it"
    )


def slurm_seconds_left(environment: Mapping[str, str], now: float) -> float | None:
    """The time that is left by Slurm's variables; None: they do not say. If the clocks differ, the kernel counts as
    begun with its allocation.

    >>> slurm_seconds_left({"SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "600"}, 100.0)
    500.0
    >>> slurm_seconds_left({"SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "600"}, 9999.0)
    600.0
    """
    start, end = (environment.get(name, "") for name in ("SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME"))
    if not end.isdecimal():
        return None
    if not clock_remark(environment, now):
        return max(0.0, int(end) - now)
    return float(int(end) - int(start)) if start.isdecimal() else None

"""A real Slurm of two nodes on this host, with Torque's commands: ``qsub``, ``qstat``, ``qdel``.

It needs root, and the Debian packages slurm-wlm, slurm-wlm-torque and munge; `missing` says in words what is not there.
All that it starts is found by process id, and gone when its ``with`` ends.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tests.support.fabric import ENVIRONMENT, until

CPUS = 2
_CONFIG = """\
ClusterName=park
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait={kill_wait}
OverTimeLimit=0
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobSubmitPlugins=pbs
PlugStackConfig={folder}/plugstack.conf
TaskProlog={folder}/task-prolog.sh
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=2000
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_PROLOG = """\
#!/bin/sh
echo "export PBS_NODEFILE=$(generate_pbs_nodefile)"
echo "export PBS_ENVIRONMENT=PBS_BATCH"
"""


def missing() -> str:
    """Why no cluster can be brought up here, in words; "" where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "Slurm's daemons are started as root only"
    absent = [name for name in ("slurmctld", "slurmd", "munged", "qsub") if shutil.which(name) is None]
    if absent or not _plugin():
        return f"{', '.join(absent) or 'spank_pbs.so'} not installed: apt-get install slurm-wlm slurm-wlm-torque munge"
    return ""


def _plugin() -> Path | None:
    return next(iter(Path("/usr/lib").glob("*/slurm-wlm/spank_pbs.so")), None)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in found]


class SlurmCluster(ExitStack):
    """The cluster, in *folder*. *kill_wait*: seconds between SIGTERM and SIGKILL."""

    def __init__(self, folder: Path, kill_wait: int = 8) -> None:
        super().__init__()
        self.folder = folder
        self.environment = ENVIRONMENT | {"SLURM_CONF": str(folder / "slurm.conf")}
        folder.mkdir(parents=True)
        (folder / "state").mkdir()
        (folder / "plugstack.conf").write_text(f"required {_plugin()}\n")
        (folder / "task-prolog.sh").write_text(_PROLOG)
        (folder / "task-prolog.sh").chmod(0o755)
        host = platform.node().partition(".")[0]
        ports = _free_ports(3)
        config = _CONFIG.format(folder=folder, host=host, ports=ports, kill_wait=kill_wait, cpus=CPUS)
        (folder / "slurm.conf").write_text(config)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._start_daemons()
        except BaseException:
            self.close()
            raise
        return self

    def _start_daemons(self) -> None:
        key, pid = self.folder / "munge.key", self.folder / "munged.pid"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"key-file": key, "socket": self.folder / "munge.socket", "pid-file": pid}
        files |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munged.seed"}
        self._daemon(pid, "munged", "--force", *(f"--{name}={file}" for name, file in files.items()))
        self._daemon(self.folder / "slurmctld.pid", "slurmctld", "-i")
        for node in ("n1", "n2"):
            self._daemon(self.folder / f"slurmd-{node}.pid", "slurmd", "-N", node)
        until(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", 60, self.log)
        self.callback(self.cancel_all)

    def _daemon(self, file: Path, *command: str) -> None:
        self.run(*command)
        pid = int(until(lambda: file.exists() and file.read_text().strip(), 50, self.log))
        # what a daemon would tidy up at its end goes with the folder
        self.callback(_kill, pid)

    def log(self) -> str:
        """The last lines of the daemons' logs."""
        return "\n".join(log.read_text(errors="replace")[-600:] for log in sorted(self.folder.glob("*.log")))

    def run(self, *command: str, code: int = 0) -> str:
        """The output of a command of Slurm's or Torque's."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}\n{self.log()}"
        return done.stdout

    def submit(self, script: Path, output: Path) -> str:
        """``qsub`` the script, and its job's number."""
        return self.run("qsub", "-o", str(output), "-e", f"{output}.err", str(script)).strip()

    def state(self, number: str) -> str:
        """The state of a job, such as R; "" for one that is gone."""
        done = subprocess.run(
            ("squeue", "-h", "-j", number, "-o", "%t"), env=self.environment, capture_output=True, text=True
        )
        return done.stdout.strip()

    def cancel_all(self) -> None:
        """End all jobs, and wait until none is left."""
        self.run("scancel", "--user=root")
        until(lambda: not self.run("squeue", "-h").strip(), 60, self.log)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

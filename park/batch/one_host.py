"""A batch system of this one host: a program that submits scripts, lists them and cancels them. Linux only.

A job is a detached process and all that descend from it. It is known by the number of its first process and the time at
which that began, in the ticks of Linux, so no id is ever used again. They carry the id in their environment, so no file
remembers them. Like other batch systems, it gives the job a node file, and ends it after its wall time. To cancel a job
it sends SIGTERM to all its processes, and some seconds later SIGKILL to those that are left.

It does not import park, so that it starts fast::

    python -I one_host.py submit NAME SCRIPT OUTPUT ERRORS | hold NAME SCRIPT OUTPUT ERRORS | list | cancel ID

``hold`` submits a job, and cancels it when standard input ends.
"""

from __future__ import annotations

import os
import platform
import pwd
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

#: Seconds between SIGTERM and SIGKILL.
KILL_SECONDS = 8
#: Seconds between two looks at a job that is held.
HOLD_SECONDS = 0.2
#: The variable in the environment of each process of a job, and the one with the job's name.
JOB, NAME = "PARK_LOCAL_JOB", "PARK_LOCAL_NAME"
#: Variables of other batch systems, in whose jobs this program may run, too.
_FOREIGN = re.compile(r"(SLURM|PBS|SGE)_?\w*|JOB_ID|NSLOTS|PE_HOSTFILE|PARK_LOCAL_\w+")


def submit(name: str, script: str, output: str, errors: str) -> str:
    """Start the script, and return its id. Raises OSError."""
    with open(script, encoding="utf-8") as file:
        head = re.search(r"^#LOCAL slots=(\d+) seconds=(\d+)$", file.read(), flags=re.M)
    slots, seconds = (int(head[1]), int(head[2])) if head else (1, 0)
    out, err = (
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for path in (output, errors)
    )
    with open(f"{output}.nodes", "w", encoding="utf-8") as file:
        file.write(f"{platform.node()}\n" * slots)
    environment = {key: value for key, value in os.environ.items() if not _FOREIGN.fullmatch(key)}
    environment |= {NAME: name, "PBS_NODEFILE": file.name, "PBS_WALLTIME": str(seconds)}
    started, begun = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            for number, own in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
                os.dup2(own, number)
            number_of_job = f"{os.getpid()}.{_began(os.getpid())}"
            environment |= {JOB: number_of_job, "PBS_JOBID": number_of_job}
            watch = (sys.executable, "-I", os.path.abspath(__file__), "run", script, str(seconds))
            os.execve(watch[0], watch, environment)  # closes the pipe
        finally:
            os._exit(127)
    os.close(begun)
    os.read(started, 1)  # the end: its environment is in place
    return f"{pid}.{_began(pid)}"


def run(script: str, seconds: float) -> None:
    """Be the first process of a job: run the script, end the job in time (0: whenever it likes), and leave no process."""
    number, both = os.environ[JOB], (signal.SIGTERM, signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, both)
    child = subprocess.Popen(
        ("/bin/sh", script), preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before)
    )
    end, ending = time.monotonic() + (seconds or 1e9), False
    while child.poll() is None:
        left = end - time.monotonic()
        if left <= 0 and ending:
            break
        if left <= 0:
            cancel(number)  # this process hears of it, too
        got = signal.sigtimedwait(both, max(0.0, min(left, 1e6)))
        if got is not None and got.si_signo == signal.SIGTERM and not ending:
            end, ending = time.monotonic() + KILL_SECONDS, True
    cancel(number, signal.SIGKILL)


def hold(name: str, script: str, output: str, errors: str) -> None:
    """Submit the script, and stay until its job has ended. The end of standard input cancels the job. Raises OSError."""
    number = submit(name, script, output, errors)
    pid, _, began = number.partition(".")
    given = [0]
    while _began(int(pid)) == began:
        ready, _, _ = select.select(given, [], [], HOLD_SECONDS)
        if ready and not os.read(0, 1 << 12):
            cancel(number)
            given = []


def jobs() -> Iterator[tuple[str, str, str]]:
    """Id, name and user of each job."""
    for pid, variables in _processes():
        number = variables.get(JOB, "")
        if number.partition(".")[0] == str(pid) and number == f"{pid}.{_began(pid)}":
            yield number, variables.get(NAME, ""), pwd.getpwuid(os.getuid()).pw_name


def cancel(number: str, by: signal.Signals = signal.SIGTERM) -> bool:
    """Signal all processes of a job, this one last; whether there was one."""
    found = [pid for pid, variables in _processes() if variables.get(JOB) == number]
    for pid in sorted(found, key=os.getpid().__eq__):
        try:
            os.kill(pid, by)
        except ProcessLookupError:
            pass
    return bool(found)


def _began(pid: int) -> str:
    """The time at which the process began; "" where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _processes() -> Iterator[tuple[int, dict[str, str]]]:
    """The processes of this user with the environment of each."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.stat(f"/proc/{entry}").st_uid != os.getuid():
                continue
            with open(f"/proc/{entry}/environ", "rb") as file:
                text = file.read().decode(errors="replace")
        except OSError:  # it has ended, or is another's
            continue
        pairs = (each.partition("=") for each in text.split("\0"))
        yield int(entry), {key: value for key, _, value in pairs}


def main(action: str, *given: str) -> int:
    """The program; its exit code."""
    if action == "submit":
        print(submit(*given))
    elif action == "hold":
        hold(*given)
    elif action == "list":
        for number, name, user in jobs():
            print(number, name, user, "running")
    elif action == "run":
        run(given[0], float(given[1]))
    elif not cancel(given[0]):
        print(f"there is no job {given[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(str(error))

"""Dask as a batch system: a program that submits scripts to the workers of a running cluster, lists them and cancels them.

A job is a task of the scheduler, which no client keeps alive (``fire_and_forget``), so it outlives the program that has
submitted it. Its key carries the job's user and name, so the scheduler tells what there is, and no file remembers it. The
task runs the script with `one_host` on its worker's machine, and ends it when the task is cancelled or the worker ends.

Workers and scheduler get its functions by value: Dask needs no PARK in its own environment, but the workers must find this
file, the script and the Python of this program under the same paths. It imports nothing of park::

    python -I dask_cluster.py SCHEDULER submit NAME SCRIPT OUTPUT ERRORS | list | cancel ID
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The beginning of the keys of tasks, and the scheduler's metadata in which they say where they run and how they ended.
PREFIX, RECORDS = "park-", "park-jobs"
#: Seconds within which a scheduler must answer, between two looks, and for which the end of a job is remembered.
ANSWER_SECONDS, STEP_SECONDS, ENDED_JOB_SECONDS = 10.0, 0.2, 600.0


def submit(client: Any, name: str, script: str, output: str, errors: str) -> str:
    """Hand in the script, and return its id. Raises OSError."""
    import distributed

    head = Path(script).read_text(encoding="utf-8")
    slots = re.search(r"^#LOCAL slots=(\d+)", head, flags=re.M)
    resource = re.search(r"^#DASK resource=(\S+)$", head, flags=re.M)
    key = f"{PREFIX}{uuid.uuid4().hex}/{pwd.getpwuid(os.getuid()).pw_name}/{name}"
    host = Path(__file__).with_name("one_host.py")
    future = client.submit(
        run,
        (sys.executable, "-I", str(host), "hold", name, script, output, errors),
        key=key,
        pure=False,
        retries=0,
        resources={resource[1]: int(slots[1]) if slots else 1} if resource else None,
    )
    # the scheduler disregards a wish for a task that it does not know yet
    _until(lambda: key in client.run_on_scheduler(wanted))
    distributed.fire_and_forget(future)
    _until(lambda: client.run_on_scheduler(wanted).get(key, 0) != 1)  # also where it has ended meanwhile
    return key


def cancel(client: Any, key: str) -> bool:
    """Cancel a job of any client. Returns whether there was one."""
    import distributed

    if key not in client.run_on_scheduler(wanted):
        return False
    client.cancel([distributed.Future(key, client)], force=True)
    _until(lambda: key not in client.run_on_scheduler(wanted))
    return True


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + ANSWER_SECONDS
    while not true():
        if time.monotonic() > end:
            raise OSError(f"it has not done in {ANSWER_SECONDS:g} s as it was asked")
        time.sleep(STEP_SECONDS / 4)


# -- on a worker -------------------------------------------------------------------------------------


def run(command: tuple[str, ...]) -> None:
    """Be the task: run *command*, whose standard input ends with the task or with the worker."""
    import subprocess

    from distributed import get_client, get_worker

    worker, client = get_worker(), get_client()
    key = worker.get_current_task()
    record = {"worker": worker.id, "ended": 0.0, "words": ""}
    client.set_metadata([RECORDS, key], record)
    try:
        holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a signal to the group of the worker leaves it time to end the job
        )
    except OSError as error:
        words = f"{command[0]} is not on {worker.address}: {error.strerror}"
    else:
        # Dask cannot interrupt a task, and tells it nothing: its state on the worker says that it is cancelled
        while holder.poll() is None and worker.status.name == "running":
            task = worker.state.tasks.get(key)
            if task is None or task.state != "executing":
                break
            time.sleep(STEP_SECONDS)
        words = holder.communicate()[1].strip()
    if worker.status.name == "running":
        client.set_metadata([RECORDS, key], {**record, "ended": time.time(), "words": words})


# -- on the scheduler --------------------------------------------------------------------------------


def wanted(dask_scheduler: Any) -> dict[str, int]:
    """The number of clients that want each task of PARK, by its key."""
    return {
        key: len(task.who_wants or ())
        for key, task in dask_scheduler.tasks.items()
        if isinstance(key, str) and key.startswith(PREFIX) and key.count("/") == 2
    }


def table(dask_scheduler: Any) -> list[tuple[str, str, str]]:
    """Key, state and reason of each job. Jobs that have ended some time ago are forgotten."""
    records = dask_scheduler.task_metadata.setdefault(RECORDS, {})
    workers = {worker.server_id: worker for worker in dask_scheduler.workers.values()}
    found = []
    for key in sorted({*wanted(dask_scheduler), *records}):
        task, record = dask_scheduler.tasks.get(key), records.get(key)
        worker = workers.get(record["worker"]) if record else None
        state, reason = "ended", record["words"] if record else ""
        if record and record["ended"]:
            if time.time() - record["ended"] > ENDED_JOB_SECONDS:
                del records[key]
                continue
        elif worker is not None and (task is None or task.processing_on is worker):
            state = "running"  # without a task it is cancelled, and about to end
        elif task is not None and task.state not in ("memory", "erred"):
            state = "queued"
            if task.state == "no-worker":
                needs = ", ".join(f"{name}={number:g}" for name, number in task.resource_restrictions.items())
                reason = f"no worker has {needs}" if needs else "there is no worker"
            elif task.processing_on is not None:
                reason = f"it waits for {task.processing_on.address}"
            else:
                reason = "it waits for a worker that is free"
        elif record:
            record |= {"ended": time.time(), "words": "its worker is gone"}
            reason = record["words"]
        found.append((key, state, reason))
    return found


# -- the program -------------------------------------------------------------------------------------


def main(scheduler: str, action: str, *given: str) -> int:
    """The program; its exit code. Raises OSError."""
    if not re.fullmatch(r"(tcp|tls|wss?|ucx)://\S+:\d+", scheduler):
        print(f"{scheduler} is no address of a scheduler, such as tcp://HOST:8786", file=sys.stderr)
        return 1
    try:
        import distributed
    except ModuleNotFoundError as error:
        print(f"{error} for {sys.executable}: pip install 'park-fit[dask]'", file=sys.stderr)
        return 1
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # an error is said in one line
    try:
        client = distributed.Client(scheduler, timeout=ANSWER_SECONDS, set_as_default=False, name="park")
    except OSError as error:
        print(f"no scheduler of Dask answers at {scheduler}: {error}", file=sys.stderr)
        return 1
    with client:
        if action == "submit":
            print(submit(client, *given))
        elif action == "list":
            for key, state, reason in client.run_on_scheduler(table):
                _, user, name = key.split("/")
                print(key, name, user, state, " ".join(reason.split()))
        elif not cancel(client, given[0]):
            print(f"there is no job {given[0]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(f"the scheduler of Dask: {error}")

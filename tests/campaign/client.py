"""A client: submits the tasks of its plan, waits for them, and writes down what it was promised before it goes on.

Started as ``python -m tests.campaign.client BROKER FOLDER NUMBER`` it may be killed at any time and started again: it
submits whatever has not ended again, under the same request keys.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

import park
from park.body import payload
from park.core.connect import RemoteService
from park.errors import JobAborted, JobFailed, NoBroker, ServiceClosed, UnknownJob
from park.model import PYTHON, NotRun
from park.wire import messages
from tests.campaign.plan import CLIENT, LASTING, Task, deadly, plan, value
from tests.campaign.work import Driver, Units

#: Jobs that a client has open.
OPEN = 3
#: Seconds in which a broker should be back.
PATIENCE = 60.0


class Diary:
    """The promises to a client: lines that are on disk when `write` returns."""

    def __init__(self, file: Path) -> None:
        self.lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, task: int, **more: Any) -> None:
        line = {"what": what, "task": task, **more}
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(self._descriptor)
        self.lines.append(line)

    def find(self, what: str) -> dict[int, dict[str, Any]]:
        """The lines of one kind, by task."""
        return {line["task"]: line for line in self.lines if line["what"] == what}


class Client:
    """One life of a client."""

    def __init__(self, broker: str, folder: Path, number: int) -> None:
        settings = json.loads((folder / "plan.json").read_text())
        self.number = number
        self.ledger = str(folder / "ledger")
        self.diary = Diary(folder / f"client{number}.diary")
        self.tasks = plan(
            settings["seed"], number, settings["units"], settings["seconds"], tuple(settings["kinds"])
        )
        self.rounds = settings["rounds"]
        self.service: RemoteService = patiently(lambda: park.connect(broker, user=f"owner{number}"))

    def run(self) -> None:
        """Everything that has not ended, in order, with a few jobs open at a time."""
        ended = self.diary.find("ended")
        jobs = {n: line["job"] for n, line in self.diary.find("accepted").items()}
        waiting: list[tuple[Task, int]] = []
        for task in self.tasks:
            if task.number in ended:
                continue
            job = self.submit(task, jobs)
            waiting.append((task, job))
            if task.kind in ("abort", "stop"):
                self.tell(task, job)
            if len(waiting) >= OPEN:
                self.wait(*waiting.pop(0))
        self.sessions()
        for task, job in waiting:
            self.wait(task, job)

    def submit(self, task: Task, jobs: dict[int, int]) -> int:
        """The number of the task's job, which may be there since an earlier life."""
        body = (Driver if task.once else Units)(task, self.ledger)
        blob = payload.dumps(body)
        units = b"" if task.once else payload.encode_units(task.inputs)
        submit = messages.Submit(
            id=0,
            key=task.key,
            body=payload.code_hash(blob),
            name=f"{task.kind} {task.number}",
            priority=task.priority,
            after=[] if task.after is None else [jobs[task.after]],
            seed=task.first,
            pure=task.kind not in LASTING,
            once=task.once,
            count=0 if task.once else task.count,
            python=PYTHON,
        )
        known = self.diary.find("accepted").get(task.number)
        link = self.service._link
        reply = link.request(lambda n: structs.replace(submit, id=n), units, (submit.body, blob))
        assert reply.wait(PATIENCE), f"no answer to {submit.name} within {PATIENCE} s"
        accepted, _ = reply.value()
        assert isinstance(accepted, messages.Accepted)
        if known is not None and (not accepted.existed or accepted.job != known["job"]):
            self.diary.write("wrong", task.number, why=f"submitted again: {accepted}, was {known}")
        if known is None:
            self.diary.write("accepted", task.number, job=accepted.job)
        jobs[task.number] = accepted.job
        return accepted.job

    def tell(self, task: Task, job: int) -> None:
        """Ask for the end of the job; once that is acknowledged, it must come."""
        if task.number in self.diary.find("told"):
            return
        try:
            (self.service.abort if task.kind == "abort" else self.service.stop)(job)
        except UnknownJob:  # it has ended, perhaps because we asked for it in an earlier life
            return
        self.diary.write("told", task.number, job=job)

    def wait(self, task: Task, job: int) -> None:
        """Wait for the end, and compare what came with what must come."""
        wrong: Any = None
        try:
            result = self.service.wait(job)
            found = [result] if task.once else result
            if task.kind in ("abort", "stop"):
                found = [task.expected()[n] if isinstance(v, NotRun) else v for n, v in enumerate(found)]
            wrong = difference(task, found)
        except JobFailed as error:
            if task.kind == "crash":
                wrong = difference(task, error.results)
            else:
                wrong = str(error)
        except JobAborted as error:
            if task.kind not in ("abort", "stop"):
                wrong = str(error)
        except UnknownJob as error:
            wrong = f"it was accepted: {error}"
        if wrong is not None:
            self.diary.write("wrong", task.number, why=str(wrong))
        self.diary.write("ended", task.number, job=job)

    def sessions(self) -> None:
        """Maps whose results go to us alone."""
        work = Units(replace(self.tasks[0], kind="map"), self.ledger)
        first = self.number * CLIENT + CLIENT // 2
        done = len([line for line in self.diary.lines if line["what"] == "mapped"])
        for turn in range(done, self.rounds):
            points = range(first + 100 * turn, first + 100 * turn + 40)
            again = 0
            while True:
                try:
                    if turn % 2:
                        found = list(self.service.map(work, points))
                    else:
                        found = self.service.mapper(work)(points)
                    break
                except (ServiceClosed, NoBroker):
                    again += 1
                    assert again < 50, "sessions never come to an end"
                    time.sleep(0.2)
            if found != [value(x) for x in points]:
                self.diary.write("wrong", -1 - turn, why=f"session: {found}")
            self.diary.write("mapped", -1 - turn, again=again)


def difference(task: Task, found: list[Any]) -> str | None:
    """The error in the results, in words; None: there is none."""
    expected = task.expected()
    if len(found) != len(expected):
        return f"{len(found)} results of {len(expected)}"
    for unit, (seen, right) in enumerate(zip(found, expected, strict=True)):
        if task.kind == "crash" and deadly(task.first + unit):
            if not isinstance(seen, park.UnitError) or "signal 11" not in str(seen):
                return f"unit {unit} is {seen!r}, and should have died"
        elif seen != right:
            return f"unit {unit} is {seen!r}, not {right!r}"
    return None


def patiently(attempt: Callable[[], Any]) -> Any:
    """The result of *attempt*, as soon as a broker answers."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except NoBroker:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    client = Client(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    client.run()
    client.service.close()

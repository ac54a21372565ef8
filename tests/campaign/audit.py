"""The judge of a campaign: promises, ledger and store against the plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from park.body import payload
from park.broker.storage.store import JobStore
from park.wire import codec, messages, pack
from tests.campaign.client import Diary, difference
from tests.campaign.plan import Task, deadly
from tests.campaign.work import Run, runs


@dataclass
class Harms:
    """The times of harm to processes, from one to another (monotonic, seconds): broker, links, others by number."""

    broker: list[tuple[float, float]] = field(default_factory=list)
    links: list[tuple[float, float]] = field(default_factory=list)
    others: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def why(self, before: Run, after: Run) -> str:
        """Why a unit ran again."""

        def between(times: list[tuple[float, float]]) -> bool:
            return any(before.at <= end and start <= after.at for start, end in times)

        if between(self.others.get(before.kernel, [])):
            return "its kernel was harmed"
        if between(self.others.get(before.slot, [])):
            return "its process was harmed"
        if any(map(between, self.others.values())):
            return "others were harmed, which may have made its map"
        if between(self.links):
            return "connections were harmed"
        return "the broker was harmed" if between(self.broker) else "nothing was harmed"


@dataclass
class Audit:
    """The findings. *again* counts the runs of units after their first, by the fate of the run before."""

    jobs: int = 0
    units: int = 0
    runs: int = 0
    sessions: int = 0
    sessions_again: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)

    @property
    def broken(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.doubled or self.wrong)

    def __str__(self) -> str:
        again = ", ".join(f"{n} {why}" for why, n in sorted(self.again.items())) or "none"
        lines = [
            f"{self.jobs} jobs acknowledged, {self.units:,} units, {self.runs:,} runs; run again: {again}",
            f"{self.sessions} maps of sessions, {self.sessions_again} of them made again by their clients",
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, wrong {len(self.wrong)}",
        ]
        for name in ("lost", "doubled", "wrong"):
            lines += [f"  {name}: {text}" for text in getattr(self, name)[:20]]
        return "\n".join(lines)


def audit(folder: Path, home: Path, plans: dict[int, list[Task]], harms: Harms) -> Audit:
    """Judge what clients of *plans* were promised in *folder*, by the store in *home*, whose broker has ended.

    *harms*: what was done to whom meanwhile.
    """
    found = Audit()
    store = JobStore(home)
    try:
        jobs = _by_key(store, found)
        for number, tasks in plans.items():
            diary = Diary(folder / f"client{number}.diary")
            accepted, told, ended = diary.find("accepted"), diary.find("told"), diary.find("ended")
            found.wrong += [f"client {number}: {x}" for x in diary.lines if x["what"] == "wrong"]
            maps = [x for x in diary.lines if x["what"] == "mapped"]
            found.sessions += len(maps)
            found.sessions_again += sum(x["again"] for x in maps)
            for task in tasks:
                where = f"client {number}, task {task.number} ({task.kind})"
                if task.number not in ended:
                    found.lost.append(f"{where} has not ended for its client")
                if task.number not in accepted:
                    continue
                found.jobs += 1
                found.units += len(task.leaves())
                job = jobs.get(task.key)
                if job != accepted[task.number]["job"]:
                    found.lost.append(
                        f"{where}: accepted as {accepted[task.number]['job']}, the store has {job}"
                    )
                else:
                    _check_job(store, job, task, task.number in told, where, found)
    finally:
        store.close()
    _check_ledger(runs(folder / "ledger"), harms, found)
    return found


def _by_key(store: JobStore, found: Audit) -> dict[bytes, int]:
    jobs: dict[bytes, int] = {}
    for (number,), data in store.scan("submit"):
        key = codec.build(messages.Submit, codec.unpack(data)).key
        if key in jobs:
            found.doubled.append(f"jobs {jobs[key]} and {number} are of one request")
        assert isinstance(number, int)
        jobs[key] = number
    return jobs


def _check_job(store: JobStore, job: int, task: Task, told: bool, where: str, found: Audit) -> None:
    """Whether the job has ended as it must, with each result once."""
    record = codec.unpack(store.get("job", (job,)) or b"")
    right = {
        "crash": ["failed" if any(map(deadly, task.inputs)) else "complete"],
        "abort": ["aborted"] if told else ["complete", "aborted"],
    }.get(task.kind, ["complete"])
    if task.kind == "stop":
        right = ["complete", "aborted"]  # a job that never started
    if record["state"] not in right:
        found.lost.append(f"{where}: job {job} is {record['state']} ({record['reason']}), not {right[0]}")
    total = 1 if task.once else task.count
    results: list[object] = [None] * total
    seen: Counter[int] = Counter()
    for (_, start), data in store.scan("results", (job,)):
        assert isinstance(start, int)
        seen.update(range(start, start + pack.count(data)))
        results[start : start + pack.count(data)] = payload.decode_units(data)
    found.doubled += [
        f"{where}: unit {u} of job {job} was answered {n} times" for u, n in seen.items() if n > 1
    ]
    missing = [u for u in range(total) if u not in seen]
    if missing and task.kind not in ("abort", "stop"):
        found.lost.append(f"{where}: job {job} has no results of {len(missing)} units ({missing[:5]} ...)")
    for unit in missing:
        results[unit] = task.expected()[unit]
    wrong = difference(task, results)
    if wrong is not None:
        found.wrong.append(f"{where}: job {job} in the store: {wrong}")


def _check_ledger(noted: list[Run], harms: Harms, found: Audit) -> None:
    found.runs = len(noted)
    by_unit: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in noted:
        by_unit[run.job, run.unit].append(run)
    for (job, unit), several in by_unit.items():
        if len({run.seed for run in several}) > 1:
            found.wrong.append(f"unit {unit} of job {job} had several seeds")
        for before, after in pairwise(several):
            found.again[harms.why(before, after)] += 1

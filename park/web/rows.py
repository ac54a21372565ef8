"""The rows of the page's tables: records as plain maps whose texts are ready to be shown.

Each map has the fields that the page's scripts read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from park.model import PRIORITIES, AccountRecord, JobRecord, JobState, KernelRecord, Progress
from park.text import visible
from park.util.pace import counted

_PRIORITY_WORDS = {number: name for name, number in PRIORITIES.items()}
#: Tags of one job that a row shows; the page of the job has them all.
MAX_TAGS = 20


def priority_word(priority: int) -> str:
    """The name of a priority, or its number where it has no name."""
    return _PRIORITY_WORDS.get(priority, str(priority))


def state_word(record: JobRecord) -> str:
    """The state in a word or two; a job that was stopped says so."""
    if record.state is JobState.COMPLETE and record.stopped:
        return "stopped"
    return record.state.value


@lru_cache(4096)
def job_row(record: JobRecord) -> dict[str, Any]:
    """One line of the table of jobs. Callers copy it before they change it."""
    far = record.how_far
    if not (math.isfinite(far.done) and math.isfinite(far.total)):
        far = Progress(0, 0)
    fraction = far.fraction if far.total else None
    return {
        "job": record.job,
        "name": visible(record.name),
        "owner": visible(record.owner),
        "tags": [visible(tag) for tag in record.tags[:MAX_TAGS]],
        "kind": record.kind,
        "state": record.state.value,
        "word": state_word(record),
        "priority": priority_word(record.priority),
        "fraction": 1.0 if record.state is JobState.COMPLETE and not record.stopped else fraction,
        "far": visible(counted(far)),
        "note": visible(far.note),
        "failed": record.failed,
        "running": record.running,
        "reason": visible(record.reason),
        "remark": visible(record.remark),
        "submitted": record.submitted,
        "started": record.started,
        "ended": record.ended,
    }


def kernel_row(record: KernelRecord) -> dict[str, Any]:
    """One line of the table of kernels."""
    whose = f"{visible(record.owner)} {'only' if record.only else 'first'}" if record.owner else "everybody"
    return {
        "kernel": record.kernel,
        "host": visible(record.host),
        "slots": record.slots,
        "busy": record.busy,
        "gpus": record.gpus,
        "gpus_busy": record.gpus_busy,
        "drivers": record.drivers,
        "memory": record.memory,
        "python": record.python,
        "labels": [visible(label) for label in record.labels],
        "serves": whose,
        "state": record.standing,
        "pause": visible(record.pause),
    }


def owner_rows(
    accounts: Iterable[AccountRecord], jobs: Iterable[JobRecord], used: Mapping[str, float], slots: int
) -> list[dict[str, Any]]:
    """The lines of the table of owners: those with jobs that have not ended, or with slots in the last hour.

    *used*: the part of all slot-seconds that each owner used in the last hour.
    """
    running: Counter[str] = Counter()
    active: Counter[str] = Counter()
    for record in jobs:
        if not record.state.ended:
            active[record.owner] += 1
            running[record.owner] += record.running
    rows = [
        {
            "owner": visible(account.owner),
            "jobs": active[account.owner],
            "running": running[account.owner],
            "share": account.share,
            "now": running[account.owner] / slots if slots else 0.0,
            "used": used.get(account.owner, 0.0),
            "credits": account.balance,
            "cap": account.cap,
        }
        for account in accounts
        if active[account.owner] or used.get(account.owner)
    ]
    return sorted(rows, key=lambda row: (-row["share"], -row["used"], row["owner"]))


def summary(jobs: Iterable[JobRecord], kernels: Iterable[KernelRecord]) -> dict[str, Any]:
    """The numbers at the head of the page."""
    states = Counter(record.state.value for record in jobs)
    found = list(kernels)
    return {
        "states": {state.value: states[state.value] for state in JobState},
        "slots": sum(kernel.slots for kernel in found),
        "busy": sum(kernel.busy for kernel in found),
        "kernels": len(found),
    }

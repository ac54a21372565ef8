"""The allocation that a person asks for, in the words of Torque: ``nodes=2:ppn=8,walltime=4:00:00``."""

from __future__ import annotations

import dataclasses
import re

from park.batch.profiles import Ask
from park.errors import InvalidRequest, did_you_mean
from park.model import duration

#: The shortest wall time: a kernel may need a quarter of that to leave in good order.
MIN_WALLTIME_SECONDS = 60.0
#: Words of an ask; nodes and ppn may also be joined by a colon.
WORDS = ("nodes", "ppn", "walltime", "queue", "account")


def ask_of(text: str) -> Ask:
    """The ask behind a text; its command and its name are still to come. Raises InvalidRequest.

    >>> ask = ask_of("nodes=2:ppn=8,walltime=4:00:00,queue=long")
    >>> ask.nodes, ask.ppn, ask.walltime_seconds, ask.queue
    (2, 8, 14400.0, 'long')
    """
    found: dict[str, str] = {}
    for part in filter(None, text.replace(":ppn=", ",ppn=").split(",")):
        word, is_one, value = part.strip().partition("=")
        if not is_one or word not in WORDS or not value.strip():
            raise InvalidRequest(
                f"{part.strip()!r} is no part of an allocation: write it like nodes=2:ppn=8,walltime=4:00:00, and "
                f"queue=NAME or account=NAME where your site needs them{did_you_mean(word, WORDS, '=')}"
            )
        found[word] = value.strip()
    get = found.get
    return make_ask(
        get("nodes", 1), get("ppn", 1), get("walltime", 3600.0), get("queue", ""), get("account", "")
    )


def make_ask(
    nodes: int | str = 1,
    ppn: int | str = 1,
    walltime: float | str = 3600.0,
    queue: str = "",
    account: str = "",
    lines: tuple[str, ...] = (),
) -> Ask:
    """The ask of single values. Raises InvalidRequest."""
    for word, value in (("nodes", nodes), ("ppn", ppn)):
        if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d{0,5}", str(value)):
            raise InvalidRequest(f"{word}={value} is no whole number from 1 on")
    seconds = walltime_seconds(walltime)
    if seconds < MIN_WALLTIME_SECONDS:
        raise InvalidRequest(
            f"walltime={walltime} leaves no time for work: a kernel needs up to 16 s to leave in good order, so ask for "
            f"{MIN_WALLTIME_SECONDS:.0f} s at least"
        )
    return Ask("", int(nodes), int(ppn), seconds, queue, account, tuple(lines))


def walltime_seconds(given: float | str) -> float:
    """The seconds of a wall time such as ``4:00:00``, ``1:00:00:00``, ``90m`` or 3600. Raises InvalidRequest.

    >>> walltime_seconds("4:00:00"), walltime_seconds("10:30"), walltime_seconds("4h"), walltime_seconds(90)
    (14400.0, 630.0, 14400.0, 90.0)
    """
    if isinstance(given, str) and re.fullmatch(r"\d+(:\d+){1,3}", given.strip()):
        total = 0
        for number, unit in zip(reversed(given.strip().split(":")), (1, 60, 3600, 86400), strict=False):
            total += int(number) * unit
        return float(total)
    return duration(given, "walltime")


def with_command(ask: Ask, command: str, name: str) -> Ask:
    """The same ask for a job of that name, which runs the command."""
    return dataclasses.replace(ask, command=command, name=name)

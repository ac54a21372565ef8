"""What is configured: park.toml of the site, then the user's, then the environment. What comes later wins.

The files are ``park/park.toml`` in the folders of XDG_CONFIG_DIRS (/etc/xdg; the first counts most) and in
XDG_CONFIG_HOME (~/.config). Tables are merged key by key. They say where the broker is, and hold its terms of credit, and
what an owner may have::

    broker = "tcp://head:7275"    # or the path of a connection file; $PARK_BROKER counts more

    [credits]
    cap = 36000            # credits that an account begins with, and is filled up to
    rate = 1500            # credits an hour

    [credits.owners.ada]   # what differs for one owner
    cap = 100000

    [limits]
    jobs = 10000           # jobs of one owner that have not ended
    units = 20000000       # units of them that wait or run
    bytes = "50 GB"        # in the store: requests, inputs and results, those of ended jobs too

    [limits.owners.ada]
    bytes = "200 GB"

    [park-broker]          # options of the service of that name, which count less than those of its command line
    bind = "tcp://head:7275"
    keep = ["30d", "50GB"]

    [park-kernel]
    slots = 8
    idle-timeout = "15m"

PARK_CREDITS_CAP, PARK_CREDITS_RATE, PARK_LIMITS_JOBS, PARK_LIMITS_UNITS and PARK_LIMITS_BYTES stand for those of all.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from park.core.keeping import Keep
from park.core.ledger import Policy, Terms
from park.core.limits import LimitPolicy, Limits
from park.errors import InvalidRequest
from park.model import MOST_CREDITS, MOST_MEMORY, duration, memory_bytes
from park.util.addresses import check_said, config_files

Tables = dict[str, Any]
#: Raises InvalidRequest for a value that cannot be, of what is named by the text.
Check = Callable[[Any, str], None]


def credit_policy(environment: Mapping[str, str] | None = None) -> Policy:
    """The terms of credit that are configured. Raises InvalidRequest, which names the file and the key."""
    credits = read(os.environ if environment is None else environment).get("credits", {})
    owners = credits.pop("owners", {})
    return Policy(Terms(**credits), {name: Terms(**(credits | own)) for name, own in owners.items()})


def limit_policy(environment: Mapping[str, str] | None = None) -> LimitPolicy:
    """What owners may have. Raises InvalidRequest, which names the file and the key."""
    limits = read(os.environ if environment is None else environment).get("limits", {})
    owners = limits.pop("owners", {})
    return LimitPolicy(_limits(limits), {name: _limits(limits | own) for name, own in owners.items()})


def _limits(given: Tables) -> Limits:
    return Limits(**{k: memory_bytes(v) if k == "bytes" else v for k, v in given.items()})


def keep_policy(given: Iterable[str]) -> Keep:
    """How long ended jobs are kept: ages such as 30d, and sizes such as 10GB, at most one of each.

    >>> keep_policy(["30d", "10 GB"])
    Keep(age=2592000.0, size=10000000000, jobs=10000)
    """
    found: dict[str, Any] = {}
    for text in given:
        kind = "size" if text.strip().endswith("B") else "age"
        if kind in found:
            raise InvalidRequest(f"--keep {text}: there is another {kind} already; give one age and one size")
        if re.fullmatch(r"[\s\d.]*", text):
            raise InvalidRequest(
                f"--keep {text!r} needs a unit: an age such as 30d or 12h, or a size such as 10GB"
            )
        found[kind] = memory_bytes(text) if kind == "size" else duration(text, "--keep")
    return Keep(**found)


def options_of(service: str, environment: Mapping[str, str]) -> Tables:
    """The options of a *service* that are configured. Raises InvalidRequest, which names the file and the key."""
    found: Tables = read(environment).get(service, {})
    return found


def read(environment: Mapping[str, str]) -> Tables:
    """All that is configured, as one table of tables. Raises InvalidRequest."""
    merged: Tables = {}
    for source in sources(environment):
        if source.faults:
            raise InvalidRequest(source.faults[0])
        _merge(merged, source.tables)
    return merged


@dataclass(slots=True)
class Source:
    """A file or a variable, what it says, and what is wrong with that, a sentence each. *there*: it exists."""

    name: str
    tables: Tables = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    there: bool = True


def sources(environment: Mapping[str, str]) -> Iterator[Source]:
    """Where settings come from, the one that counts least first."""
    for file in config_files(environment):
        source = Source(str(file))
        try:
            source.tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            source.there = False
        except OSError as error:
            source.faults.append(f"{file} cannot be read: {error.strerror}")
        except ValueError as error:  # no TOML, or no text
            source.faults.append(f"{file} is no TOML: {error}")
        source.faults += _faults(source.tables, KNOWN, str(file))
        yield source
    for name, (table, key) in VARIABLES.items():
        if text := environment.get(name):
            value: Any = _number(text) if table == "credits" else int(text) if text.isdigit() else text
            source = Source(name, {table: {key: value}})
            source.faults += _faults_of(KNOWN[table][key], value, name)
            yield source


def _merge(into: Tables, new: Tables) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


# -- what there is -------------------------------------------------------------------------------


def _check_credits(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_CREDITS:
        raise InvalidRequest(f"{where} = {value!r} is no number of credits from 0 to {MOST_CREDITS:.0e}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _check_count(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_MEMORY:
        raise InvalidRequest(f"{where} = {value!r} is no whole number from 0 on")


def _check_size(value: Any, where: str) -> None:
    try:
        memory_bytes(value)
    except InvalidRequest:
        raise InvalidRequest(
            f"{where} = {value!r} is no size: a number of bytes, or a text such as '50 GB'"
        ) from None


#: Keys with the check of their values, or the table behind them; "*" stands for any name.
_TERMS: dict[str, Any] = {"cap": _check_credits, "rate": _check_credits}
_LIMITS: dict[str, Any] = {"jobs": _check_count, "units": _check_count, "bytes": _check_size}


def _check_text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} = {value!r} is no text: write it in quotes")


def _check_texts(value: Any, where: str) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f'{where} = {value!r} is no list of texts: write ["...", "..."]')


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{where} = {value!r} is no number")


def _check_time(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(f'{where} = {value!r} is no length of time: write it like "3h55m", "5m" or 90')


def _check_slots(value: Any, where: str) -> None:
    if value != "auto":
        _check_count(value, where)


def _check_flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where} = {value!r} is neither true nor false")


#: The options of services, as on their command lines.
SERVICES: dict[str, dict[str, Check]] = {
    "park-broker": {
        "home": _check_text,
        "bind": _check_text,
        "connection-file": _check_text,
        "heartbeat": _check_number,
        "lease": _check_number,
        "keep": _check_texts,
        "log-file": _check_text,
    },
    "park-kernel": {
        "broker": check_said,
        "slots": _check_slots,
        "key": _check_text,
        "owner": _check_text,
        "only-own": _check_flag,
        "label": _check_texts,
        "time-limit": _check_time,
        "idle-timeout": _check_time,
        "grace": _check_time,
        "log-file": _check_text,
    },
}
KNOWN: dict[str, Any] = {
    "broker": check_said,
    "credits": {**_TERMS, "owners": {"*": _TERMS}},
    "limits": {**_LIMITS, "owners": {"*": _LIMITS}},
    **SERVICES,
}
VARIABLES = {
    f"PARK_{table.upper()}_{key.upper()}": (table, key)
    for table, keys in (("credits", _TERMS), ("limits", _LIMITS))
    for key in keys
}


def _faults(table: Tables, known: dict[str, Any], file: str, above: str = "") -> Iterator[str]:
    """What *file* says and nobody asks for, or what cannot be so."""
    for key, value in table.items():
        where = f"{above}.{key}" if above else key
        expected: dict[str, Any] | Check | None = known.get(key, known.get("*"))
        if expected is None:
            place = f"[{above}] has" if above else "there are"
            yield f"{file}: {where} is not known; {place} {', '.join(known)}{meant(key, known)}"
        elif not isinstance(expected, dict):
            yield from _faults_of(expected, value, f"{file}: {where}")
        elif not isinstance(value, dict):
            yield f"{file}: {where} = {value!r} is no table: write [{where}]"
        else:
            yield from _faults(value, expected, file, where)


def _faults_of(check: Check, value: Any, where: str) -> Iterator[str]:
    try:
        check(value, where)
    except InvalidRequest as error:
        yield str(error)


def meant(word: str, known: Iterable[str]) -> str:
    """What was probably meant by a *word* that is not among the *known* ones, in words; "": nobody knows.

    >>> meant("limit", ["credits", "limits"])
    ' (did you mean limits?)'
    """
    near = get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""

"""The configuration: park.toml of the site, then the user's, then the environment. Later ones win.

The files are ``park/park.toml`` in the folders of XDG_CONFIG_DIRS (/etc/xdg; the first counts most) and in
XDG_CONFIG_HOME (~/.config). Tables are merged key by key. They say where the broker is, and hold its
terms of credit and its limits for owners::

    broker = "tcp://head:7275"    # or the path of a connection file; $PARK_BROKER counts more

    [credits]
    cap = 36000            # credits that an account begins with, and is filled up to
    rate = 1500            # credits an hour

    [credits.owners.ada]   # terms of one owner that differ
    cap = 100000

    [limits]
    jobs = 10000           # jobs of one owner that have not ended
    units = 20000000       # units of them that wait or run
    bytes = "50 GB"        # in the store: requests, inputs and results, those of ended jobs too

    [limits.owners.ada]
    bytes = "200 GB"

    [mail]                 # how the broker sends mails about ended jobs
    host = "mail.example.org"
    sender = "park@example.org"

    [park-broker]          # options of the service of that name, which count less than those of its command line
    bind = "tcp://head:7275"
    keep = ["30d", "50GB"]

    [park-kernel]
    slots = 8
    idle-timeout = "15m"

    [batch.torque]         # the commands of a batch system, where they differ from those that PARK knows
    cancel = ["/opt/torque/bin/qdel", "@{id}"]

PARK_CREDITS_CAP, PARK_CREDITS_RATE, PARK_LIMITS_JOBS, PARK_LIMITS_UNITS and PARK_LIMITS_BYTES stand for those of all.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from park.errors import InvalidRequest, did_you_mean
from park.model import MAX_CREDITS, MAX_MEMORY_BYTES, mail_address, memory_bytes

Tables = dict[str, Any]
#: Raises InvalidRequest for a value that cannot be; the text names the setting.
Check = Callable[[Any, str], None]

#: The port of a broker for clients; kernels use the next one, the table the one after it.
DEFAULT_PORT = 7275


def default_home() -> Path:
    """The broker's home without ``--home``: $PARK_HOME, else the user's state folder."""
    if home := os.environ.get("PARK_HOME"):
        return Path(home).expanduser()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "park"


def config_files(environment: Mapping[str, str]) -> Iterator[Path]:
    """The park.toml of the site and of the user, which need not be there, the one that counts least first."""
    for folder in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)):
        if os.path.isabs(folder):  # others are to be ignored, says XDG
            yield Path(folder, "park", "park.toml")
    home = environment.get("XDG_CONFIG_HOME")
    yield (Path(home) if home else Path.home() / ".config") / "park" / "park.toml"


def load(file: Path) -> tuple[Tables, str, bool]:
    """The tables of a file, the sentence on why it cannot be read or "", and whether the file exists.

    A file is parsed once, and again when it has changed. The tables must not be changed.
    """
    try:
        found = file.stat()
        return _parsed(file, found.st_ino, found.st_mtime_ns, found.st_size), "", True
    except (FileNotFoundError, NotADirectoryError):
        return {}, "", False
    except OSError as error:
        return {}, f"{file} cannot be read: {error.strerror}", True
    except ValueError as error:  # no TOML, or no text
        return {}, f"{file} is no TOML: {error}", True
    except RecursionError:
        return {}, f"{file} is no TOML: its values nest too deep", True


@functools.lru_cache(maxsize=16)
def _parsed(file: Path, inode: int, changed: int, size: int) -> Tables:
    """The tables of the file that had this inode, time of change and size."""
    import tomllib  # most machines have no park.toml

    return tomllib.loads(file.read_text(encoding="utf-8"))


def said_broker(environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The broker's address and its source, ""  for nothing: $PARK_BROKER, then ``broker`` of a park.toml.

    Raises InvalidRequest for a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    if broker := environment.get("PARK_BROKER"):
        return broker, "PARK_BROKER"
    for file in reversed(list(config_files(environment))):
        tables, fault, _ = load(file)
        if fault:
            raise InvalidRequest(fault)
        if (found := tables.get("broker")) is not None:
            check_said(found, f"{file}: broker")
            return str(found), str(file)
    return str(default_home() / "connection.json"), ""


def check_said(broker: Any, where: str) -> None:
    """Raises InvalidRequest unless the value can be the address of a broker; *where* names the setting."""
    if not isinstance(broker, str) or not broker.strip():
        raise InvalidRequest(
            f"{where} = {broker!r} is no text: give tcp://HOST:{DEFAULT_PORT}, or the path of a connection file"
        )


def read(environment: Mapping[str, str]) -> Tables:
    """The whole configuration as one table of tables. Raises InvalidRequest for the first fault."""
    merged: Tables = {}
    for source in sources(environment):
        if source.faults:
            raise InvalidRequest(source.faults[0])
        _merge(merged, source.tables)
    return merged


class Source(Struct):
    """A file or a variable: its *tables*, its *faults*, a sentence each, and whether it is *there*."""

    name: str
    tables: Tables = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    there: bool = True


def sources(environment: Mapping[str, str]) -> Iterator[Source]:
    """The files and variables of the configuration, the one that counts least first."""
    for file in config_files(environment):
        tables, fault, there = load(file)
        faults = [fault] if fault else list(_faults(tables, KNOWN, str(file)))
        yield Source(str(file), tables, faults, there)
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


# -- the settings that there are -----------------------------------------------------------------


def _check_credits(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_CREDITS:
        raise InvalidRequest(f"{where} = {value!r} is no number of credits from 0 to {MAX_CREDITS:.0e}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _check_count(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_MEMORY_BYTES:
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


def _check_codes(value: Any, where: str) -> None:
    if not isinstance(value, list) or not all(type(each) is int and 0 < each < 256 for each in value):
        raise InvalidRequest(f"{where} = {value!r} is no list of exit codes: write [1, 153]")


def _check_number(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{where} = {value!r} is no number")


def _check_time(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidRequest(f'{where} = {value!r} is no length of time: write it like "3h55m", "5m" or 90')


def _check_slots(value: Any, where: str) -> None:
    if value != "auto":
        _check_count(value, where)


def _check_gpus(value: Any, where: str) -> None:
    if value != 0 or isinstance(value, bool):
        _check_slots(value, where)


def _check_flag(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{where} = {value!r} is neither true nor false")


def _check_choice(*words: str) -> Check:
    def check(value: Any, where: str) -> None:
        if value not in words:
            raise InvalidRequest(f"{where} = {value!r} is none of {', '.join(words)}")

    return check


def _check_expression(value: Any, where: str) -> None:
    _check_text(value, where)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidRequest(f"{where} = {value!r:.200} is no regular expression: {error}") from None


def _check_port(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise InvalidRequest(f"{where} = {value!r} is no port: a whole number from 1 to 65535 is")


def _check_day_time(value: Any, where: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise InvalidRequest(f'{where} = {value!r} is no time of day: write it like "07:00"')


def _check_zone(value: Any, where: str) -> None:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(value)
    except (TypeError, ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise InvalidRequest(f'{where} = {value!r} is no time zone: write it like "Europe/Berlin"') from None


def _check_web_address(value: Any, where: str) -> None:
    if (
        not isinstance(value, str)
        or not re.fullmatch(r"https?://[!-~]{1,500}", value)
        or set(value) & set('<>"')
    ):
        raise InvalidRequest(f'{where} = {value!r} is no address: write it like "https://park.example.org/"')


def _check_limit(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InvalidRequest(f"{where} = {value!r} is no number of mails a day from 1 to 1000")


def _check_address(value: Any, where: str) -> None:
    mail_address(value, where)


#: How the broker sends mail: see docs/notifications.rst.
_MAIL: dict[str, Check] = {
    "host": _check_text,
    "sendmail": _check_text,
    "port": _check_port,
    "security": _check_choice("starttls", "tls", "none"),
    "user": _check_text,
    "password_file": _check_text,
    "ca_file": _check_text,
    "sender": _check_address,
    "digest": _check_day_time,
    "zone": _check_zone,
    "limit": _check_limit,
    "page": _check_web_address,
    "channels_file": _check_text,
}
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
        "gpus": _check_gpus,
        "key": _check_text,
        "owner": _check_text,
        "only-own": _check_flag,
        "python": _check_text,
        "environment": _check_texts,
        "label": _check_texts,
        "time-limit": _check_time,
        "idle-timeout": _check_time,
        "away-timeout": _check_time,
        "grace": _check_time,
        "kill-wait": _check_time,
        "setup": _check_text,
        "peers": _check_flag,
        "log-file": _check_text,
    },
    "donate": {
        "broker": check_said,
        "slots": _check_slots,
        "gpus": _check_gpus,
        "key": _check_text,
        "only-own": _check_flag,
        "only-idle": _check_flag,
        "nice": _check_flag,
        "max-load": _check_number,
        "settle": _check_time,
        "log-file": _check_text,
    },
}
#: The settings of a profile of `park.batch.profiles` that a site may change.
_BATCH: dict[str, Any] = {
    "system": _check_choice("torque", "pbs", "slurm", "sge", "local", "dask"),
    "server": _check_text,
    "template": _check_text,
    **dict.fromkeys(("submit", "list", "cancel", "only_user"), _check_texts),
    **dict.fromkeys(("submitted", "record"), _check_expression),
    "none": _check_codes,
    "fields": dict.fromkeys(("id", "name", "user", "queue", "state", "reason"), _check_expression),
    "states": {"*": _check_choice("queued", "running", "ended", "unknown")},
}
KNOWN: dict[str, Any] = {
    "broker": check_said,
    "credits": {**_TERMS, "owners": {"*": _TERMS}},
    "limits": {**_LIMITS, "owners": {"*": _LIMITS}},
    "mail": _MAIL,
    "batch": {"*": _BATCH},
    **SERVICES,
}
VARIABLES = {
    f"PARK_{table.upper()}_{key.upper()}": (table, key)
    for table, keys in (("credits", _TERMS), ("limits", _LIMITS))
    for key in keys
}


def _faults(table: Tables, known: dict[str, Any], file: str, above: str = "") -> Iterator[str]:
    """The faults of a *table* of this file: settings that are not known, and values that cannot be."""
    for key, value in table.items():
        where = f"{above}.{key}" if above else key
        expected: dict[str, Any] | Check | None = known.get(key, known.get("*"))
        if expected is None:
            place = f"[{above}] has" if above else "there are"
            yield f"{file}: {where} is not known; {place} {', '.join(known)}{did_you_mean(key, known)}"
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

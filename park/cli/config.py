"""What is configured: park.toml of the site, then the user's, then the environment. What comes later wins.

The files are ``park/park.toml`` in the folders of XDG_CONFIG_DIRS (/etc/xdg; the first counts most) and in
XDG_CONFIG_HOME (~/.config). Tables are merged key by key. So far they hold the terms of credit::

    [credits]
    cap = 36000            # credits that an account begins with, and is filled up to
    rate = 1500            # credits an hour

    [credits.owners.ada]   # what differs for one owner
    cap = 100000

PARK_CREDITS_CAP and PARK_CREDITS_RATE stand for the first two.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from park.core.ledger import MOST, Policy, Terms
from park.errors import InvalidRequest

Tables = dict[str, Any]


def credit_policy(environment: Mapping[str, str] | None = None) -> Policy:
    """The terms of credit that are configured. Raises InvalidRequest, which names the file and the key."""
    credits = read(os.environ if environment is None else environment).get("credits", {})
    owners = credits.pop("owners", {})
    return Policy(Terms(**credits), {name: Terms(**(credits | own)) for name, own in owners.items()})


def read(environment: Mapping[str, str]) -> Tables:
    """All that is configured, as one table of tables. Raises InvalidRequest."""
    merged: Tables = {}
    for file in files(environment):
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from error
        except ValueError as error:  # no TOML, or no text
            raise InvalidRequest(f"{file} is no TOML: {error}") from error
        _check(found, _KNOWN, str(file))
        _merge(merged, found)
    for name, (table, key) in _VARIABLES.items():
        if environment.get(name):
            _merge(merged, {table: {key: _number(name, environment[name])}})
    return merged


def files(environment: Mapping[str, str]) -> Iterator[Path]:
    """The files that may be there, the one that counts least first."""
    for folder in reversed((environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)):
        if os.path.isabs(folder):  # others are to be ignored, says XDG
            yield Path(folder, "park", "park.toml")
    home = environment.get("XDG_CONFIG_HOME")
    yield (Path(home) if home else Path.home() / ".config") / "park" / "park.toml"


def _merge(into: Tables, new: Tables) -> None:
    for key, value in new.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


# -- what there is -------------------------------------------------------------------------------


def _check_credits(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
        raise InvalidRequest(f"{where} = {value!r} is no number of credits from 0 to {MOST:.0e}")


def _number(name: str, text: str) -> float:
    try:
        value: Any = float(text)
    except ValueError:
        value = text
    _check_credits(value, name)
    return float(value)


#: Keys with the check of their values, or the table behind them; "*" stands for any name.
_TERMS: dict[str, Any] = {"cap": _check_credits, "rate": _check_credits}
_KNOWN: dict[str, Any] = {"credits": {**_TERMS, "owners": {"*": _TERMS}}}
_VARIABLES = {"PARK_CREDITS_CAP": ("credits", "cap"), "PARK_CREDITS_RATE": ("credits", "rate")}


def _check(table: Tables, known: dict[str, Any], file: str, above: str = "") -> None:
    """Raises InvalidRequest for what *file* says and nobody asks for, or what cannot be so."""
    for key, value in table.items():
        where = f"{above}.{key}" if above else key
        expected: dict[str, Any] | Callable[[Any, str], None] | None = known.get(key, known.get("*"))
        if expected is None:
            place = f"[{above}] has" if above else "there are"
            raise InvalidRequest(f"{file}: {where} is not known; {place} {', '.join(known)}")
        if not isinstance(expected, dict):
            expected(value, f"{file}: {where}")
        elif not isinstance(value, dict):
            raise InvalidRequest(f"{file}: {where} = {value!r} is no table: write [{where}]")
        else:
            _check(value, expected, file, where)

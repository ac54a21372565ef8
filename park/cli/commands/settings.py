"""``park config``: every setting, and what said so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from park.cli.common import in_words
from park.cli.show.tables import plain, print_table

if TYPE_CHECKING:
    from park.config import Source, Tables

BUILT_IN = "built-in"
#: Variables that are read elsewhere: of clients and kernels, and the mark of what a kernel has started.
ELSEWHERE = ("PARK_BROKER", "PARK_HOME", "PARK_SLOTS", "PARK_GPUS", "PARK_KERNEL_MARK")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object: settings, files and faults.")
def config(as_json: bool) -> None:
    """Show every setting, and where it came from.

    /etc/xdg/park/park.toml, then ~/.config/park/park.toml, then the environment: later ones win. Credits, limits and
    mail count where the broker runs, the other settings for this user. The exit code is 2 if a setting is wrong.
    """
    with in_words():
        from park.config import VARIABLES, sources

        found = list(sources(os.environ))
        known, faults = settings(os.environ, found)
        files = {source.name: source.there for source in found if source.name not in VARIABLES}
        if as_json:
            click.echo(
                json.dumps(
                    {"settings": [s._asdict() for s in known], "files": files, "faults": faults}, indent=2
                )
            )
        else:
            print_table(("SETTING", "VALUE", "FROM"), [(s.name, str(s.value), s.source) for s in known])
            for name, there in files.items():
                click.echo(plain(f"{name} {'was read' if there else 'is not there'}"), err=True)
            for fault in faults:
                click.echo(plain(f"park: {fault}"), err=True)
        if faults:
            sys.exit(2)


class Setting(NamedTuple):
    """A setting, its value, and what said so: a file, a variable, or "built-in"."""

    name: str
    value: Any
    source: str


def settings(environment: Mapping[str, str], found: Iterable[Source]) -> tuple[list[Setting], list[str]]:
    """All settings as they count, from the sources that were *found*, and what is wrong with any, a sentence each.

    A wrong setting does not count.
    """
    from park.broker.accounts.ledger import Terms
    from park.broker.accounts.quotas import Limits
    from park.config import KNOWN
    from park.errors import InvalidRequest
    from park.mail.settings import MAIL_DEFAULTS

    known: dict[str, Setting] = {}
    faults: list[str] = []
    for name, make in _OF_CLIENTS.items():
        try:
            known[name] = Setting(name, *make(environment))
        except InvalidRequest as error:
            faults.append(str(error))
    for table, values in (("credits", Terms()), ("limits", Limits())):
        for key in KNOWN[table]:
            if key != "owners":
                name = f"{table}.{key}"
                known[name] = Setting(name, getattr(values, key), BUILT_IN)
    known |= {f"mail.{key}": Setting(f"mail.{key}", value, BUILT_IN) for key, value in MAIL_DEFAULTS.items()}
    for source in found:
        faults += source.faults
        if not source.faults:
            # the sources of the broker's address were looked at before
            known |= {
                name: Setting(name, value, source.name)
                for name, value in _flat(source.tables)
                if name not in _OF_CLIENTS
            }
    return list(known.values()), list(dict.fromkeys(faults + _unknown(environment)))


def broker_setting(environment: Mapping[str, str]) -> tuple[str, str]:
    """The broker's address and its source."""
    from park.config import said_broker

    broker, source = said_broker(environment)
    return broker, source or _home(environment)[1]


def _home(environment: Mapping[str, str]) -> tuple[str, str]:
    from park.config import default_home

    source = next((name for name in ("PARK_HOME", "XDG_STATE_HOME") if environment.get(name)), BUILT_IN)
    return str(default_home()), source


def _slots(environment: Mapping[str, str]) -> tuple[int, str]:
    from park.kernel.node.slot_count import default_slots

    return default_slots(), "PARK_SLOTS" if environment.get("PARK_SLOTS") else BUILT_IN


def _user(environment: Mapping[str, str]) -> tuple[str, str]:
    from park.identity import usertag

    user = usertag(environment)
    names = ("PARKTAG", "PARKMAIL", "LOGNAME", "USERNAME")
    source = (name for name in names if environment.get(name, "").partition("@")[0] == user)
    return user, next(source, "the host's name")


_OF_CLIENTS: dict[str, Callable[[Mapping[str, str]], tuple[Any, str]]] = {
    "broker": broker_setting,
    "home": _home,
    "slots": _slots,
    "user": _user,
}


def _flat(table: Tables, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        where = f"{above}.{key}" if above else key
        if isinstance(value, dict):
            yield from _flat(value, where)
        else:
            yield where, value


def _unknown(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that begins with PARK_ and that nothing reads."""
    from park.config import VARIABLES
    from park.errors import did_you_mean

    known = {*VARIABLES, *ELSEWHERE}
    strange = sorted(name for name in environment if name.startswith("PARK_") and name not in known)
    return [f"nothing reads the variable {name}{did_you_mean(name, known)}" for name in strange]

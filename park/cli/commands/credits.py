"""``park credits``: what an owner has left, and what its jobs have cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from park.cli import complete
from park.cli.common import ShowsByDefault, broker_option, in_words, open_service
from park.cli.show.tables import plain, print_table
from park.util.pace import bounded

if TYPE_CHECKING:
    from park.model import AccountRecord, JobRecord


@click.group(cls=ShowsByDefault, subcommand_metavar="[OWNER] [--json] | grant OWNER AMOUNT")
def credits() -> None:
    """Show an account and what each job has cost, or grant credits.

    A slot-second at priority p costs 2**p - 1 credits: free and background cost nothing, low 1, normal 3, high 15,
    urgent 63. An owner whose balance is not positive is served as free until it is positive again.
    """


@credits.command()
@broker_option
@click.argument("owner", required=False, shell_complete=complete.owners)
@click.option("-a", "everybody", is_flag=True, help="The accounts of all owners.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of accounts.")
def show(broker: str | None, owner: str | None, everybody: bool, as_json: bool) -> None:
    """Show the account of OWNER (default: your own).

    The balance in credits, the refill in credits an hour, the use (weight x slot-seconds, halved each day), and
    the share of all slots that is due now.
    """
    with in_words():
        from park.table.query import Query

        service = open_service(broker)
        accounts = service.credits("*" if everybody else owner)
        if as_json:
            click.echo(json.dumps([a.as_map() for a in accounts], indent=2))
            return
        print_table(("OWNER", "BALANCE", "CAP", "PER HOUR", "USE", "SHARE"), [_row(a) for a in accounts])
        if everybody:
            return
        (account,) = accounts
        if account.balance is not None and account.balance <= 0:
            click.echo(plain(f"{account.owner} {_until(account)}"))
        if account.jobs:
            records = {r.job: r for r in service.records(Query(account.owner))}
            click.echo()
            costs = [_cost(records.get(number), number, cost) for number, cost in account.jobs.items()]
            print_table(("JOB", "COST", "STATE", "NAME"), costs)


def _row(a: AccountRecord) -> tuple[str, ...]:
    limits = (
        ("no limit", "", "")
        if a.balance is None
        else (_number(a.balance), bounded(a.cap or 0.0), bounded(a.rate or 0.0))
    )
    return (a.owner, *limits, _number(a.use), f"{100 * a.share:.3g} %")


def _cost(record: JobRecord | None, number: int, cost: float) -> tuple[str, ...]:
    state, name = (record.state.value, record.name) if record is not None else ("", "")
    return (str(number), _number(cost), state, name)


def _number(value: float) -> str:
    return bounded(value, 2)


def _until(a: AccountRecord) -> str:
    """A sentence on an account without credits: what that means, and how long it lasts."""
    text = "has no credit: jobs with a priority are served as free, and cost nothing, until the balance is positive"
    if not a.rate or not a.cap:
        return f"{text}; nothing refills it"
    minutes = -(a.balance or 0.0) / a.rate * 60
    return f"{text}, in about {bounded(minutes)} min" if minutes >= 1 else f"{text}, within a minute"


@credits.command(
    context_settings={"ignore_unknown_options": True}
)  # so that -5 is a number, and refused as one
@broker_option
@click.argument("owner", shell_complete=complete.owners)
@click.argument("amount", type=float)
@click.option("--json", "as_json", is_flag=True, help="The account as it is now, as JSON.")
def grant(broker: str | None, owner: str, amount: float, as_json: bool) -> None:
    """Give OWNER more credits, if need be beyond the cap.

    Only the broker's own user may, on its machine.
    """
    with in_words():
        service = open_service(broker)
        service.grant(owner, amount)
        (account,) = service.credits(owner)
        if as_json:
            click.echo(json.dumps(account.as_map(), indent=2))
            return
        balance: Any = account.balance
        click.echo(plain(f"{owner} was granted {amount:,g} credits and has {_number(balance)} now"))

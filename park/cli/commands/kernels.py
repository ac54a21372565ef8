"""``park kernels``: the kernels that compute, and how to send one away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from park.cli import complete
from park.cli.common import ShowsByDefault, broker_option, in_words, open_service, seconds
from park.cli.show.tables import print_table
from park.model import DRAIN_SECONDS, Serves
from park.util.pace import ratio

if TYPE_CHECKING:
    from park.model import KernelRecord


HEADS = (
    "KERNEL",
    "HOST",
    "PID",
    "SLOTS",
    "GPUS",
    "DRIVERS",
    "MEMORY",
    "PYTHON",
    "STATE",
    "LABELS",
    "BATCH JOB",
)


@click.group(cls=ShowsByDefault, subcommand_metavar="[--json] | drain KERNEL...")
def kernels() -> None:
    """List the kernels that are connected, or send some away."""


@kernels.command()
@broker_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array of records.")
def show(broker: str | None, as_json: bool) -> None:
    """List the kernels that are connected.

    HOST: in an allocation, the node's name there. SLOTS, GPUS: how many are busy, of how many. DRIVERS: bodies that
    stay there while they wait for a map or for their turn. BATCH JOB: the job in whose allocation it runs.
    """
    with in_words():
        records = sorted(open_service(broker).kernels(), key=lambda r: r.kernel)
        if as_json:
            click.echo(json.dumps([r.as_map() for r in records], indent=2))
            return
        if not records:
            click.echo("no kernel is connected (park-kernel starts one)", err=True)
            return
        print_table(HEADS, [row(r) for r in records])


def row(r: KernelRecord) -> tuple[str, ...]:
    """The line of a kernel below `HEADS`."""
    state = r.standing
    if r.pause:
        state += f" ({'others pause: ' if r.serves == Serves.OWN else ''}{r.pause})"
    if r.owner:
        state += f", {r.owner}'s jobs {'only' if r.only else 'first'}"
    if r.job:
        state += f", job {r.job} alone"
    memory = f"{ratio(r.memory, 1e9):.3g} GB" if r.memory else ""
    slots = f"{r.busy}/{r.slots}"
    gpus = f"{r.gpus_busy:.3g}/{r.gpus}" if r.gpus else ""
    return (
        str(r.kernel),
        r.node or r.host,
        str(r.pid),
        slots,
        gpus,
        str(r.drivers or ""),
        memory,
        ", ".join([r.python, *r.environments]),
        state,
        ", ".join(r.labels),
        r.batch,
    )


@kernels.command()
@broker_option
@click.argument(
    "numbers",
    metavar="KERNEL...",
    type=int,
    nargs=-1,
    required=True,
    shell_complete=complete.kernels,
)
@click.option(
    "--grace",
    callback=seconds,
    default=f"{DRAIN_SECONDS:g}s",
    show_default=True,
    metavar="TIME",
    help="Running units may go on for this time; then they are handed back and run elsewhere.",
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each kernel.")
def drain(broker: str | None, numbers: tuple[int, ...], grace: float, as_json: bool) -> None:
    """Send kernels away: they take no new work, and leave.

    Only its owner and the broker's own user may drain a kernel.
    """
    with in_words():
        service = open_service(broker)
        for number in numbers:
            service.drain(number, grace)
            text = f"kernel {number} drains: it leaves within {grace:g} s or little more"
            click.echo(json.dumps({"kernel": number, "text": text}) if as_json else text)

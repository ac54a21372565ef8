"""``park donate``: lends this desktop, while its user does not need it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from park.cli.common import (
    ServiceCommand,
    broker_option,
    gpus_option,
    in_words,
    kernel_key_option,
    log_option,
    seconds,
)

if TYPE_CHECKING:
    from park.kernel.desktop_watch import DesktopWatch
    from park.kernel.loop import KernelLoop
    from park.net.reactor import Reactor

#: The niceness of a donation's processes with ``--nice``: the highest that there is.
NICENESS = 19


@click.command(cls=ServiceCommand)
@broker_option
@click.option(
    "--slots", default="auto", metavar="auto|N", help="Units to run at once (default: all processors)."
)
@gpus_option
@kernel_key_option
@click.option(
    "--only-own", is_flag=True, help="Serve only your own jobs; without this option they come first."
)
@click.option(
    "--only-idle",
    is_flag=True,
    help="Serve no jobs while you are at the keyboard; without this option your own jobs run then.",
)
@click.option("--nice", is_flag=True, help="Run at the lowest priority of the system, behind other programs.")
@click.option(
    "--max-load",
    type=click.FloatRange(min=0.0),
    metavar="N",
    help="Pause while other programs use more than N processors (default: those that are not lent, at least a quarter).",
)
@click.option(
    "--settle",
    callback=seconds,
    default="1m",
    show_default=True,
    metavar="TIME",
    help="Serve again after this time without a reason to pause.",
)
@click.option(
    "--every", callback=seconds, default="5s", hidden=True, help="Time between two looks at the machine."
)
@log_option
def donate(
    broker: str | None,
    slots: str,
    gpus: str,
    key: Path | None,
    only_own: bool,
    only_idle: bool,
    nice: bool,
    max_load: float | None,
    settle: float,
    every: float,
    log_file: Path | None,
) -> None:
    """Lend this desktop to a broker, your own jobs first.

    It serves until it is stopped. While you are at the keyboard it takes new work of your own jobs only. It takes none
    on battery, and none while other programs need the processors. A pause begins at once: a chunk that runs ends with
    its present unit, and the rest runs elsewhere. `park kernels` shows a pause with its reason.

    Its options may stand in park.toml under [donate]. `park service install donate` starts it with your session.
    """
    with in_words("park donate"):
        from park.cli.run_kernel import KernelOptions, run_kernel, say
        from park.kernel.desktop_watch import DesktopWatch
        from park.kernel.node.desktop import Donation, load_limit
        from park.kernel.node.read_desktop import DesktopReader

        def watch(kernel: KernelLoop, reactor: Reactor, count: int) -> DesktopWatch:
            reader = DesktopReader()
            say(reader.source)
            most = load_limit(os.cpu_count() or 1, count) if max_load is None else max_load
            donation = Donation(only_idle, most, settle)
            return DesktopWatch(kernel, donation, reader.read, every, reactor.wake, say)

        if nice:
            os.nice(NICENESS)
        options = KernelOptions(
            broker=broker,
            slots=slots,
            gpus=gpus,
            key=key,
            only_own=only_own,
            own_first=True,
            log_file=log_file,
        )
        run_kernel(options, watch)

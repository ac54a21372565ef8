"""``park-kernel``: lends the CPUs of this node to a broker's jobs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from park.cli.common import (
    HELP_OPTIONS,
    ServiceCommand,
    broker_option,
    gpus_option,
    in_words,
    kernel_key_option,
    log_option,
    seconds,
)
from park.errors import InvalidRequest
from park.model import DRAIN_SECONDS


@click.command("park-kernel", cls=ServiceCommand, context_settings=HELP_OPTIONS)
@broker_option
@click.option(
    "--slots",
    default="auto",
    metavar="auto|N",
    help="Units to run at once (default: the CPUs that this process may use, or that its batch job has on this node).",
)
@gpus_option
@kernel_key_option
@click.option("--owner", metavar="NAME", help="Serve this owner's jobs first.")
@click.option(
    "--only-own", is_flag=True, help="Serve only this owner's jobs (without --owner: only your own)."
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="A label of this kernel, such as gpu, for jobs that ask for it. May be given several times.",
)
@click.option(
    "--time-limit",
    callback=seconds,
    metavar="TIME",
    help="Leave before this time has passed, such as 3h55m. The end of a batch job counts in any case.",
)
@click.option(
    "--idle-timeout", callback=seconds, metavar="TIME", help="Leave after this time without work, such as 5m."
)
@click.option(
    "--away-timeout",
    callback=seconds,
    metavar="TIME",
    help="Leave after this time without a broker, such as 10m (default: try to reach it for ever).",
)
@click.option(
    "--job",
    type=click.IntRange(1),
    metavar="N",
    help="Serve this private job alone, and leave when it has ended.",
)
@click.option(
    "--grace",
    callback=seconds,
    default=f"{DRAIN_SECONDS:g}s",
    show_default=True,
    metavar="TIME",
    help="When the kernel leaves, running units may go on for this time; then they are handed back.",
)
@click.option(
    "--kill-wait",
    callback=seconds,
    metavar="TIME",
    help="The time between SIGTERM and SIGKILL here (default: as the batch system says).",
)
@click.option(
    "--setup",
    metavar="COMMAND",
    help="Run this command once in a login shell, such as 'module load gcc'. Units get the environment that it leaves.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Run units with this Python: a program, or the folder of an environment (venv, conda) that has park-fit.",
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    metavar="NAME=PATH",
    help="A further Python, as for --python, for jobs that ask for environment NAME. May be given several times.",
)
@click.option(
    "--nodes/--this-node",
    help="Start one kernel on each node of the allocation, and end them all with this command.",
)
@click.option(
    "--relay",
    metavar="[USER@]HOST",
    help="With --nodes: reach the broker through ssh to this host, from this node and over one connection.",
)
@click.option(
    "--private",
    metavar="TARGET",
    help="Run a target of park submit with a broker and kernels inside this allocation, for this job alone. Options of "
    "park submit follow --.",
)
@click.option(
    "--private-host",
    metavar="HOST",
    default="0.0.0.0",
    help="The address of this node to which the private broker is bound (default: all addresses).",
)
@click.argument("submitted", metavar="[-- OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--peers/--no-peers",
    default=True,
    show_default=True,
    help="Exchange long code with kernels of other machines, at a port of the address from which the broker is reached.",
)
@click.option("--until-eof", is_flag=True, hidden=True, help="Leave when standard input ends.")
@log_option
@click.version_option(package_name="park-fit")
def main(
    nodes: bool,
    relay: str | None,
    private: str | None,
    private_host: str,
    submitted: tuple[str, ...],
    **options: Any,
) -> None:
    """Run units for a broker until it is stopped (Ctrl-C, SIGTERM or `park kernels drain`), or its time is over.

    It announces the node's memory and installed packages. In an allocation of Slurm, PBS, Torque or SGE it takes the
    resources of the allocation on this node, and leaves before the allocation ends. When the kernel leaves, it takes no
    new work, waits for units that end soon, and hands the others back to run elsewhere. A second signal ends it at
    once.

    Its options may stand in park.toml, in /etc/xdg/park and then in ~/.config/park, under [park-kernel].

    The kernel runs the code of the broker's clients under your user name: connect it only to a broker that you trust.
    """
    with in_words("park-kernel"):
        if submitted and private is None:
            raise InvalidRequest(
                f"{submitted[0]!r} is too much: only --private TARGET takes options behind --"
            )
        if private is not None:
            from park.cli.kernel_nodes import kernel_arguments
            from park.cli.kernel_private import run_private

            raise SystemExit(run_private(private, submitted, kernel_arguments(sys.argv[1:]), private_host))
        if nodes:
            from park.cli.kernel_nodes import kernel_arguments, relayed, run_nodes

            arguments = kernel_arguments(sys.argv[1:])
            with relayed(relay, options["broker"], options["key"]) as more:
                raise SystemExit(run_nodes([*arguments, *more], options["grace"]))
        from park.cli.run_kernel import KernelOptions, run_kernel

        run_kernel(KernelOptions(**options))


if __name__ == "__main__":
    main()

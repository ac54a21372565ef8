"""``park alloc``: allocations of a batch system that come while work waits, and go when there is none."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from park.cli.commands.alloc_give import give
from park.cli.common import home_of_broker, in_words, seconds
from park.cli.show.columns import span
from park.cli.show.tables import plain, print_table
from park.errors import InvalidRequest, NoBroker
from park.model import priority_number
from park.text import visible

if TYPE_CHECKING:
    from park.batch.allocator import AllocatorState, Policy
    from park.batch.allocator_files import AllocatorFiles, AllocatorRecord
    from park.core.server import ServerProxy

#: Seconds for which the broker may be away before a question to it fails.
QUESTION_PATIENCE_SECONDS = 5.0
#: Seconds without a look after which `list` says so.
SILENT_ALLOCATOR_SECONDS = 90.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")

_home = click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="The broker's home (default: where $PARK_BROKER's connection file is, else $PARK_HOME or the state folder).",
)
_names = click.argument("names", metavar="NAME...", nargs=-1, required=True)


def _time(option: str, default: str, help: str) -> Callable[[Any], Any]:
    return click.option(
        option, callback=seconds, default=default, show_default=True, metavar="TIME", help=help
    )


@click.group()
def alloc() -> None:
    """Submit allocations to a batch system while work waits.

    Allocations are given back when there is no work.

    Run it on the broker's machine, as its Unix user. The running broker does everything else. SYSTEM is torque, pbs,
    slurm, sge, local (processes on this machine), dask (workers of a running cluster of Dask, with --scheduler), or one
    of [batch] in park.toml.

    `give` asks for one allocation for one private job; its owner runs it, anywhere.
    """


alloc.add_command(give)


@alloc.command()
@click.argument("system")
@click.argument("name")
@click.argument("options", metavar="[-- KERNEL-OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Nodes of an allocation.")
@click.option("--ppn", type=click.IntRange(1), default=1, show_default=True, help="Processors on each node.")
@click.option(
    "--gpus",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="GPUs on each node; a --line must ask the batch system for them.",
)
@_time("--walltime", "1h", "The time of an allocation.")
@click.option(
    "--max",
    "most",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The most allocations at the same time.",
)
@click.option(
    "--max-queued",
    "most_queued",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="The most allocations in which no kernel has connected yet.",
)
@click.option(
    "--scheduler",
    default="",
    metavar="tcp://HOST:PORT",
    help="The address of the scheduler of Dask, for the system dask.",
)
@click.option(
    "--queue",
    default="",
    help="The queue, Slurm's partition, or the resource of Dask's workers of which each slot takes one.",
)
@click.option("--account", default="", help="The account that the batch system charges.")
@click.option(
    "--line",
    "lines",
    multiple=True,
    metavar="TEXT",
    help="A further line in the head of the script, such as '#SBATCH --mem=8G'. May be given several times.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="A label of the kernels. May be given several times.",
)
@click.option("--owner", default="", help="Serve this owner's jobs first.")
@click.option("--only-own", "only", is_flag=True, help="Serve and count only this owner's jobs.")
@click.option(
    "--min-priority",
    "priority",
    default="background",
    show_default=True,
    help="Count only jobs of at least this priority; from low on, only jobs of owners with credit.",
)
@_time("--spacing", "30s", "Between two submissions, at least.")
@_time("--min-life", "2m", "No allocation is given back sooner.")
@_time("--idle-timeout", "5m", "The kernels leave after this time without work.")
@_time("--start-timeout", "5m", "A kernel must connect within this time after the allocation has started.")
@_time("--grace", "2m", "An allocation that the batch system does not list counts for this time.")
@click.option("--dry-run", is_flag=True, help="Print the script and the command, and add nothing.")
@_home
def add(home: Path | None, dry_run: bool, priority: str, **fields: Any) -> None:
    """Add an allocator NAME for SYSTEM, such as: park alloc add slurm fast --ppn 8 --walltime 4h --max 5

    SYSTEM is torque, pbs, slurm, sge, local (the broker's machine), dask, or the NAME of a [batch.NAME] in park.toml.
    Options behind -- go to park-kernel, as in: -- --setup 'module load gcc'. The kernels have the label alloc:NAME. The
    first allocation is a probe: others come when a kernel in it has connected.
    """
    with in_words():
        from park.batch import systems
        from park.batch.allocator_files import AllocatorFiles
        from park.batch.allocator_kernels import script
        from park.batch.profiles import profile

        home = _broker_home(home)
        policy = _policy(priority_number(priority), fields)
        found, files = profile(policy.system), AllocatorFiles(home)
        if found.has_one_node and policy.nodes > 1:
            node = "this machine" if found.is_local else "a worker, in each allocation"
            raise InvalidRequest(
                f"{policy.system} has one node, {node}: --max says how many allocations it gets"
            )
        script(found, policy, "park", None)  # raises where the head of the script cannot be
        if dry_run:
            _print_script(home, policy, files.record())
            return
        systems.look(found, systems.own_user())  # a batch system that does not answer is no use
        with files.change() as definitions:
            if policy.name in definitions:
                raise InvalidRequest(
                    f"there is an allocator {policy.name} already: `park alloc remove {policy.name}` first"
                )
            definitions[policy.name] = policy
        click.echo(
            plain(
                f"{policy.name}: up to {policy.most} allocations of {policy.system}, each of {policy.nodes} x "
                f"{policy.ppn} slots for {span(policy.walltime)}, while work waits"
            )
        )


def _policy(priority: int, fields: dict[str, Any]) -> Policy:
    """The definition of an allocator. Raises InvalidRequest for what cannot be."""
    from park.batch.allocator import Policy

    if scheduler := fields.pop("scheduler"):
        fields["system"] += f":{scheduler}"
    fields["idle"], fields["start"] = fields.pop("idle_timeout"), fields.pop("start_timeout")
    policy = Policy(priority=priority, **fields)
    if not _NAME.fullmatch(policy.name):
        raise InvalidRequest(
            f"{policy.name!r} is no name of an allocator: up to 32 letters, digits, '_' or '-', a letter first"
        )
    if policy.only and not policy.owner:
        raise InvalidRequest("--only-own needs --owner NAME: whose jobs its kernels run")
    if policy.walltime < 60:
        raise InvalidRequest(f"--walltime {policy.walltime:g} s: no batch system counts less than a minute")
    return policy


def _broker_home(given: Path | None) -> Path:
    """The home of the broker. Raises NoBroker where none has lived."""
    home = home_of_broker(given)
    if not (home / "jobs.mdb").exists():
        raise NoBroker(
            f"no broker has lived in {home}: start it first (`park-broker --home {home}`), or name its home with --home"
        )
    return home


def _files(home: Path | None) -> AllocatorFiles:
    from park.batch.allocator_files import AllocatorFiles

    return AllocatorFiles(_broker_home(home))


# -- list and log ------------------------------------------------------------------------------------


@alloc.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of allocators.")
@_home
def show(as_json: bool, home: Path | None) -> None:
    """List the allocators, their allocations, and why each does nothing more now.

    UP: allocations with a kernel that has connected. COMING: those that have none. BACKLOG: slots for which work waits.
    """
    with in_words():
        files = _files(home)
        definitions, record = files.definitions(), files.record()
        found = [
            _shown(policy, record, files.is_held, time.time()) for _, policy in sorted(definitions.items())
        ]
        if as_json:
            click.echo(json.dumps(found, indent=2))
            return
        if not found:
            click.echo("no allocators (park alloc add SYSTEM NAME adds one)", err=True)
            return
        heads = ("ALLOCATOR", "SYSTEM", "EACH", "STATE", "UP", "COMING", "MOST", "BACKLOG")
        print_table(heads, [_row(each) for each in found])
        for each in found:
            click.echo(plain(f"{each['name']}: {each['why']}"))
        held = [(each["name"], a) for each in found for a in each["allocations"]]
        if held:
            click.echo()
            rows = [(a["name"], name, a["id"], a["stage"], a["words"]) for name, a in held]
            print_table(("ALLOCATION", "ALLOCATOR", "JOB", "STAGE", "REASON"), rows)


def _shown(policy: Policy, record: AllocatorRecord, is_held: bool, wall: float) -> dict[str, Any]:
    """An allocator with what it has, as JSON has it."""
    from msgspec import to_builtins

    from park.batch.allocator import AllocatorState

    state = record.states.get(policy.name) or AllocatorState()
    return {
        "name": policy.name,
        "state": _state(policy, state),
        "why": standing(policy, record, is_held, wall),
        "backlog": state.backlog,
        "policy": to_builtins(policy),
        "allocations": [to_builtins(a) for a in state.allocations],
    }


def standing(policy: Policy, record: AllocatorRecord, is_held: bool, wall: float) -> str:
    """Why an allocator does nothing more now. *is_held*: a process runs it."""
    if not is_held:
        return "it waits for a broker to run in this home, which takes it up within two seconds"
    if record.looked and wall - record.looked > SILENT_ALLOCATOR_SECONDS:
        ago = span(wall - record.looked)
        return f"its last look was {ago} ago: a command of a batch system, or the broker, does not answer"
    return record.why.get(policy.name, "it has not looked yet")


def _state(policy: Policy, state: AllocatorState) -> str:
    if policy.removing:
        return "removing"
    return "paused" if policy.paused or state.pause else "active"


def _row(shown: dict[str, Any]) -> tuple[str, ...]:
    policy = shown["policy"]
    up = sum(a["stage"] == "up" for a in shown["allocations"])
    return (
        shown["name"],
        policy["system"],
        f"{policy['nodes']}x{policy['ppn']} {span(policy['walltime'])}",
        shown["state"],
        str(up),
        str(len(shown["allocations"]) - up),
        str(policy["most"]),
        str(shown["backlog"]),
    )


@alloc.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of lines.")
@_home
def log(name: str, as_json: bool, home: Path | None) -> None:
    """Print the actions of an allocator and the answers of the batch system."""
    with in_words():
        from park.batch.allocator_files import known

        files = _files(home)
        known(files.definitions(), name)
        lines = files.log_lines(name)
        click.echo(json.dumps(lines, indent=2) if as_json else "\n".join(map(plain, lines)))


# -- changes -----------------------------------------------------------------------------------------


def _change(names: tuple[str, ...], home: Path | None, text: str, **fields: Any) -> None:
    """Change the definitions of these allocators, and say so."""
    from msgspec.structs import replace

    from park.batch.allocator_files import known

    with in_words():
        with _files(home).change() as definitions:
            policies = [known(definitions, name) for name in names]
            for policy in policies:
                more = {"resumes": policy.resumes + 1} if fields.get("paused") is False else {}
                definitions[policy.name] = replace(policy, **fields, **more)
        for name in names:
            click.echo(plain(f"{name} {text}"))


@alloc.command()
@_names
@_home
def pause(names: tuple[str, ...], home: Path | None) -> None:
    """Submit no more allocations; existing ones go on."""
    _change(names, home, "submits nothing more until it is resumed", paused=True)


@alloc.command()
@_names
@_home
def resume(names: tuple[str, ...], home: Path | None) -> None:
    """Let allocators go on, even if they paused themselves after failures."""
    _change(names, home, "goes on", paused=False)


@alloc.command()
@_names
@_home
def remove(names: tuple[str, ...], home: Path | None) -> None:
    """Cancel all allocations of allocators, and forget the allocators. Running units are handed back and run elsewhere."""
    _change(names, home, "ends its allocations, and is forgotten then", removing=True)


# -- a dry run ---------------------------------------------------------------------------------------


@alloc.command("dry-run")
@click.argument("name")
@_home
def dry_run(name: str, home: Path | None) -> None:
    """Print the script and the command of an allocator, and what it would do now. Nothing is submitted or changed."""
    with in_words():
        from park.batch import systems
        from park.batch.allocator import AllocatorState, Findings, Look, SubmitAllocation, decide
        from park.batch.allocator_claims import claims
        from park.batch.allocator_files import known
        from park.batch.allocator_kernels import kind_of
        from park.batch.profiles import profile

        files = _files(home)
        definitions, record = files.definitions(), files.record()
        policy = known(definitions, name)
        _print_script(files.home, policy, record)
        service = _broker(files.home)
        backlogs = {each: service.backlog(**kind_of(p)) for each, p in definitions.items()}
        backlog = backlogs[name]
        claimed = claims(name, definitions, record.states, backlogs, record.clock)
        jobs = systems.look(profile(policy.system), systems.own_user())
        state = record.states.get(name) or AllocatorState()
        kernels = Counter(label for kernel in service.kernels() for label in kernel.labels)
        Look(policy, state, Findings.of(jobs.values(), kernels), record.clock).compare()
        state.backlog = backlog.slots  # it need not look twice
        actions, why = decide(policy, state, backlog, record.clock, claimed)
        work = "1 job waits" if backlog.jobs == 1 else f"{backlog.jobs} jobs wait"
        click.echo(f"{work}, for {backlog.slots} slots at most; this user has {len(jobs)} in {policy.system}")
        for action in actions:
            if not isinstance(action, SubmitAllocation):
                click.echo(plain(f"it would cancel {action.name}, job {action.id}: {action.why}"))
        click.echo(
            "it would submit one allocation"
            if SubmitAllocation() in actions
            else plain(f"nothing more: {why}")
        )


def _print_script(home: Path, policy: Policy, record: AllocatorRecord) -> None:
    """Print the script of the next allocation, and the command that would submit it. Raises ParkError."""
    from park.batch.allocator import name_of
    from park.batch.allocator_kernels import output_folder
    from park.batch.profiles import filled, profile

    found, broker = profile(policy.system), record.broker or "none"
    folder, name = output_folder(broker, policy.name), name_of(broker, record.number + 1)
    click.echo(visible(_script(home, policy, folder, name), lines=True))
    files = {
        "script": f"{folder / name}.sh",
        "output": f"{folder / name}.out",
        "errors": f"{folder / name}.err",
    }
    words = [filled(word, {"name": name, **files}) for word in found.submit]
    click.echo(plain(f"$ {shlex.join(words)}"))


def _script(home: Path, policy: Policy, folder: Path, name: str) -> str:
    """The script of an allocation of a broker that runs. Raises ParkError."""
    from park.batch.allocator_kernels import access, script
    from park.batch.profiles import profile

    found, file = profile(policy.system), home / "connection.json"
    try:
        connection = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoBroker(f"no broker runs in {home}, so its address is not known: {error}") from None
    return script(found, policy, name, access(file, connection, policy, folder, found.is_local))


def _broker(home: Path) -> ServerProxy:
    """The broker that lives there."""
    from park.core.connect import connect

    return connect(home / "connection.json", patience=QUESTION_PATIENCE_SECONDS)


# -- the process -------------------------------------------------------------------------------------


@alloc.command(hidden=True)
@click.option("--connection-file", "connection", type=click.Path(path_type=Path), required=True)
@click.option("--home", type=click.Path(path_type=Path), required=True)
def run(connection: Path, home: Path) -> None:
    """Run the allocators of the broker that lives in a home, until standard input ends. The broker starts this."""
    with in_words("park alloc"):
        from park.batch.allocator_files import AllocatorFiles
        from park.batch.allocator_loop import AllocatorLoop
        from park.core.connect import connect

        files = AllocatorFiles(home)
        while True:
            with files.hold() as held:
                if held:
                    service = connect(connection, patience=QUESTION_PATIENCE_SECONDS)
                    with service.hush():
                        AllocatorLoop(home, service, connection).run(_let_go)
                    return
            if _let_go(1.0):  # the process of the last broker finishes a command of a batch system
                return


def _let_go(limit: float) -> bool:
    """Wait for *limit* seconds; whether what has started this process lets it go, or is gone."""
    ready, _, _ = select.select([0], [], [], limit)
    return bool(ready) and not os.read(0, 1 << 12)

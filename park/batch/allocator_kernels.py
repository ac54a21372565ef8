"""The kernels in the allocations of an allocator: their command, their way to the broker, and their last words."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from park.batch.allocator import Policy
from park.batch.profiles import Ask, Profile, script_of
from park.errors import NoBroker, ParkError, Refused
from park.model import PYTHON
from park.net.addresses import seen_from_elsewhere
from park.net.keys import KERNEL, POOL, Keyring, plain_name, read_key

#: Seconds of an allocation in which no unit runs: the kernel starts, and leaves in good order.
START_AND_LEAVE_SECONDS = 60.0
#: Allocations whose script and output are kept when they have ended.
MAX_ENDED_ALLOCATIONS = 20
#: Bytes at the end of an allocation's output in which its last words are looked for, and the most characters of these.
_TAIL_BYTES, _MAX_LINE_CHARS = 4096, 300


def label_of(name: str) -> str:
    """The label of all kernels of an allocator. A job may ask for it."""
    return f"alloc:{name}"


def kind_of(policy: Policy) -> dict[str, Any]:
    """The kernels of an allocator, for `ServerProxy.backlog`."""
    return {
        "like": label_of(policy.name),
        "python": PYTHON,
        "slots": policy.ppn,
        "labels": list(policy.labels),
        "owner": policy.owner,
        "only": policy.only,
        "seconds": max(policy.walltime - START_AND_LEAVE_SECONDS, policy.walltime / 2),
        "priority": policy.priority,
        "gpus": policy.gpus,
    }


def script(profile: Profile, policy: Policy, name: str, way: BrokerAccess | None) -> str:
    """The script of an allocation. Raises InvalidRequest."""
    ask = Ask(
        kernel_command(policy, name, way, profile.has_one_node),
        policy.nodes,
        policy.ppn,
        policy.walltime,
        policy.queue,
        policy.account,
        policy.lines,
        name,
    )
    return script_of(profile, ask)


def kernel_command(policy: Policy, name: str, way: BrokerAccess | None, has_one_node: bool) -> str:
    """The shell command that an allocation runs."""
    words = [sys.executable, "-m", "park.cli.kernel", *([] if has_one_node else ["--nodes"])]
    if way is not None:
        words += ["--broker", way.broker, *(["--key", str(way.key)] if way.key is not None else [])]
    for label in (name, label_of(policy.name), *policy.labels):
        words += ["--label", label]
    words += ["--idle-timeout", f"{policy.idle_timeout:g}s"]
    if policy.owner:
        words += ["--owner", policy.owner, *(["--only-own"] if policy.only else [])]
    command = f"exec {shlex.join([*words, *policy.options])}"
    # for a checkout that is not installed
    path = os.environ.get("PYTHONPATH")
    return f"export PYTHONPATH={shlex.quote(path)}\n{command}" if path else command


# -- the way to the broker -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """The way of kernels to their broker: its address, and the file of their key, if they need one."""

    broker: str
    key: Path | None = None


def access(
    connection: Path, found: Mapping[str, Any], policy: Policy, folder: Path, is_local: bool
) -> BrokerAccess | None:
    """The way of an allocator's kernels to the broker, of whose *connection* file the fields were *found*.

    None: the allocator's options say where it is. Raises NoBroker where it cannot be reached from other machines.
    """
    if any(option.partition("=")[0] == "--broker" for option in policy.options):
        return None
    if is_local:
        return BrokerAccess(str(connection))
    tcp = found.get("tcp")
    if not isinstance(tcp, Mapping):
        raise NoBroker(
            "the broker listens on its own machine only, and compute nodes cannot reach it: start it with "
            "--bind tcp://HOST:7275"
        )
    return BrokerAccess(seen_from_elsewhere(str(tcp["clients"])), folder / "kernel.key")


def make_key(home: Path, policy: Policy, file: Path) -> None:
    """Write the key of an allocator's kernels to *file*, unless that has one that counts. Raises Refused."""
    role, name = (KERNEL, policy.owner) if policy.only else (POOL, plain_name(f"alloc-{policy.name}"))
    ring = Keyring(home)
    with contextlib.suppress(Refused):
        key = read_key(file)
        if (key.name, key.role) == (name, role) and ring.find(key.public, time.monotonic()) is not None:
            return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _revoke(home, file)
    ring.new(name, role, file)


def _revoke(home: Path, file: Path) -> None:
    """Take back the key in a file, and delete that, if it is there."""
    with contextlib.suppress(ParkError):
        ring, public = Keyring(home), read_key(file).public
        for entry in ring.entries():
            if entry.public == public:
                ring.revoke(entry)
    file.unlink(missing_ok=True)


# -- files -----------------------------------------------------------------------------------------


def output_folder(broker: str, name: str) -> Path:
    """The folder for the scripts and the output of an allocator, in the user's home folder, which the nodes share."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "park" / "alloc" / broker / name


def last_words(folder: Path, name: str) -> str:
    """The last line that an allocation has written."""
    for ending in ("err", "out"):
        with contextlib.suppress(OSError), (folder / f"{name}.{ending}").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
            if any(lines):
                return [line for line in lines if line][-1][:_MAX_LINE_CHARS]
    return ""


def clean(folder: Path, alive: Iterable[str]) -> None:
    """Delete the files of allocations that have ended, but for the last ones."""
    names: dict[str, list[Path]] = {}
    for file in folder.glob("park-*.*"):
        names.setdefault(file.name.partition(".")[0], []).append(file)
    with contextlib.suppress(OSError):  # it is tried again
        ended = sorted(names.keys() - set(alive), key=lambda n: max(f.stat().st_mtime for f in names[n]))
        for file in (file for name in ended[:-MAX_ENDED_ALLOCATIONS] for file in names[name]):
            file.unlink(missing_ok=True)


def forget(home: Path, folder: Path) -> None:
    """Take back the key of an allocator that is removed, and delete its files."""
    _revoke(home, folder / "kernel.key")
    for file in folder.glob("park-*.*"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()

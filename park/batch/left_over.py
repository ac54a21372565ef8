"""Allocations whose process was killed before it could give them back: the next command of park starts another process.

Allocations of private jobs have a keeper, and those of scripts have the script. Each of them has a folder, and holds its
lock while it lives. An allocation that a script has left is given back by this module::

    python -m park.batch.left_over FOLDER
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from msgspec import MsgspecError, Struct, json

from park.batch.profiles import profile
from park.batch.systems import cancel
from park.util.file_lock import locked

#: The file whose lock a keeper or a script holds while it lives, in its folder.
LOCK = "lock"
#: The file of a keeper's order, and the one that names the allocation of a script.
ORDER, ALLOCATION = "order.json", "allocation.json"
#: The modules that take up an allocation again, by its file.
_MODULES = {f"job-*/{ORDER}": "park.batch.keeper", f"script-*/{ALLOCATION}": "park.batch.left_over"}


class HostFile(Struct):
    """The part of both files that names the machine of the keeper or the script."""

    host: str


class ScriptAllocation(HostFile):
    """The allocation *id* of a script at a batch *system*."""

    system: str
    id: str


def remember(folder: Path, system: str, id: str) -> None:
    """Write down the allocation of the script that works in *folder*."""
    (folder / ALLOCATION).write_bytes(json.encode(ScriptAllocation(platform.node(), system, id)))


def take_up(above: Path) -> None:
    """Start another process for each folder in *above* whose process on this machine has ended. Batch systems may be
    slow.
    """
    for files, module in _MODULES.items():
        for file in above.glob(files):
            with suppress(OSError, MsgspecError):  # its folder goes at this moment, or the file is damaged
                if json.decode(file.read_bytes(), type=HostFile).host == platform.node():
                    with locked(file.with_name(LOCK)) as free:
                        pass
                    if free:
                        start(module, file.parent)


def start(module: str, folder: Path) -> None:
    """Start the process of an allocation, for which no other process waits. Where the folder has one, that stays."""
    with (folder / f"{module.rpartition('.')[2]}.log").open("ab") as log:
        subprocess.run(
            ("/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-m", module, str(folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            check=True,
        )


def give_back(folder: Path) -> None:
    """Give back the allocation of a script that lives no more. Raises ParkError."""
    found = json.decode((folder / ALLOCATION).read_bytes(), type=ScriptAllocation)
    cancel(profile(found.system), found.id)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with locked(place / LOCK) as is_free:
        if is_free:
            give_back(place)

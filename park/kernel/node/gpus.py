"""The GPUs of a node: their names, and the variables by which a slot process sees some of them.

CUDA and ROCm read their variable when a program first uses them. So a slot process has the variable from its start on,
before it imports anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from park.errors import InvalidRequest
from park.model import MAX_NODE_GPUS

#: The variables that tell a process which GPUs it sees.
CUDA, ROCM = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
#: For each variable, the command that lists the GPUs, and how its lines name one. CUDA numbers GPUs otherwise than
#: nvidia-smi does, so they go by their UUIDs; a MIG instance stands below its GPU.
_LISTS = {
    CUDA: (("nvidia-smi", "-L"), re.compile(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)")),
    ROCM: (("rocm-smi", "--showid"), re.compile(r"GPU\[(\d+)\]")),
}
#: Seconds that the command may take, because it may have to load the driver first.
LIST_SECONDS = 30.0


class Gpus(Struct, frozen=True):
    """GPUs by the *names* that *variable* takes; where there are none, a slot process sees what its kernel sees."""

    variable: str = CUDA
    names: tuple[str, ...] = ()

    def settings(self, devices: Sequence[int]) -> dict[str, str]:
        """The variable for a process that sees these *devices*, numbered from 0.

        >>> Gpus(CUDA, ("3", "7")).settings([1])
        {'CUDA_VISIBLE_DEVICES': '7'}
        """
        return {self.variable: ",".join(self.names[n] for n in devices)} if self.names else {}


NO_GPUS = Gpus()


def gpus_of(text: str, environment: Mapping[str, str], what: str = "--gpus ") -> Gpus:
    """The GPUs by *text*, "auto" or a number: those that are found, or the first of them. *what* says it in the error.

    A number counts even if no command lists GPUs. If the *environment* lets the kernel see only some GPUs, only these
    count. Raises InvalidRequest.
    """
    if text != "auto" and not (text.isdigit() and int(text) <= MAX_NODE_GPUS):
        raise InvalidRequest(f"{what}{text!r} is neither 'auto' nor a number up to {MAX_NODE_GPUS}")
    if text == "0":
        return NO_GPUS
    found = _found(environment)
    if text == "auto":
        return found
    count = int(text)
    if len(found.names) >= count:
        return Gpus(found.variable, found.names[:count])
    if found.names:
        raise InvalidRequest(f"{what}{count}: this kernel sees {len(found.names)} only")
    variable = ROCM if ROCM in environment or shutil.which("rocm-smi") else CUDA
    return Gpus(variable, tuple(map(str, range(count))))


def _found(environment: Mapping[str, str]) -> Gpus:
    """The GPUs that this process sees."""
    for variable, (command, pattern) in _LISTS.items():
        seen = environment.get(variable)
        if seen is not None:
            names = [name.strip() for name in seen.split(",")]
            return Gpus(variable, tuple(name for name in names if name and not name.startswith("-")))
        if found := without_split(list(dict.fromkeys(pattern.findall(_said_by(command))))):
            return Gpus(variable, tuple(found[:MAX_NODE_GPUS]))
    return NO_GPUS


def without_split(names: list[str]) -> list[str]:
    """The names without GPUs that are split into MIG instances, which follow them: programs use the instances.

    >>> without_split(["GPU-1", "GPU-2", "MIG-3", "MIG-4", "GPU-5"])
    ['GPU-1', 'MIG-3', 'MIG-4', 'GPU-5']
    """
    is_split = [below.startswith("MIG-") and not name.startswith("MIG-") for name, below in pairwise(names)]
    return [name for name, split in zip(names, [*is_split, False], strict=False) if not split]


def _said_by(command: Sequence[str]) -> str:
    """The text that a command prints; "": it is not here, or fails."""
    path = shutil.which(command[0])
    if path is None:
        return ""
    try:
        told = subprocess.run(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIST_SECONDS,
            env=os.environ,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""

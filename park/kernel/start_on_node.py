"""Runs a command on another node in the environment of the job script: ``python start_on_node.py FILE COMMAND...``.

`pbsdsh` gives almost no environment, and ssh not the batch job's. The script imports nothing of PARK, because PARK may
only be found with the variables of the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys


def main(file: str, command: list[str]) -> None:
    """Take over folder and variables, and become the command. This node's own variables of the batch system stay."""
    with open(file, encoding="utf-8") as source:
        found = json.load(source)
    own = {name: value for name, value in os.environ.items() if name.startswith("PBS_")}
    with contextlib.suppress(OSError):  # it need not be on each node
        os.chdir(found["folder"])
    os.execve(command[0], command, {**found["environment"], **own})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""Takes the environment of a command that a site needs first, such as ``module load gcc``."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping

#: Seconds that the command may take.
SETUP_SECONDS = 120.0
#: Characters of its last words that are told.
MAX_LAST_WORDS_CHARS = 300
#: Variables that belong to the shell itself.
_OF_THE_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")


def environment_after(command: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that *command* leaves in a login shell. Raises ValueError with the last output if the command
    fails.
    """
    environment = os.environ if environment is None else environment
    with tempfile.TemporaryFile() as file:  # the command's own output must not be taken for the environment
        number = file.fileno()
        script = f"{command}\nstatus=$?; [ $status = 0 ] && exec env -0 >&{number}; exit $status"
        try:
            shell = subprocess.run(
                ["bash", "-l", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(number,),
                env=dict(environment),
                timeout=SETUP_SECONDS,
            )
        except OSError as error:
            raise ValueError(f"bash cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise ValueError(f"it has not ended within {SETUP_SECONDS:g} s") from None
        file.seek(0)
        data = file.read()
    if shell.returncode:
        words = " ".join(shell.stdout.decode(errors="replace").split())[-MAX_LAST_WORDS_CHARS:]
        raise ValueError(f"it ended with code {shell.returncode}{words and f': {words}'}")
    pairs = (entry.partition("=") for entry in os.fsdecode(data).split("\0") if "=" in entry)
    found = {name: value for name, _, value in pairs}
    return {name: value for name, value in found.items() if name not in _OF_THE_SHELL} | {
        name: environment[name] for name in _OF_THE_SHELL if name in environment
    }

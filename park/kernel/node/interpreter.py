"""The Python interpreter in which a kernel runs units: its own, or that of a user's environment."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from park.model import PYTHON
from park.version import __version__

#: Seconds within which an interpreter must answer; on a cold file system it takes seconds to start.
ANSWER_SECONDS = 60.0
#: Printed by the interpreter: its version, its paths, and the release of PARK there (None: it has none).
_ASK = """
import json, sys
try:
    from park.version import __version__ as release
except ImportError:
    release = None
print(json.dumps([list(sys.version_info[:2]), sys.path, release]))
"""


class Interpreter(Struct, frozen=True):
    """An interpreter: its program, its minor version as "3.11", and its ``sys.path``."""

    program: str
    python: str
    path: tuple[str, ...]


def own_interpreter() -> Interpreter:
    """The interpreter of this process."""
    return Interpreter(sys.executable, PYTHON, tuple(sys.path))


def interpreter_at(place: Path) -> Interpreter:
    """The interpreter at *place*: a program, or the folder of an environment (venv, conda).

    Raises ValueError if there is no interpreter, if it does not answer, and if its PARK is missing or of another
    release.
    """
    import json  # the local service, which has its own interpreter, starts without it

    program = Path(os.path.abspath(place.expanduser()))
    if program.is_dir():
        program /= "bin/python"
    if not os.access(program, os.X_OK):
        raise ValueError(f"there is no program {program} on {platform.node()}")
    try:
        found = subprocess.run(
            [program, "-P", "-c", _ASK], capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS
        )
        (major, minor), path, release = json.loads(found.stdout.decode().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise ValueError(f"{program} has not answered in {ANSWER_SECONDS:.0f} s") from None
    except OSError as error:
        raise ValueError(f"{program} cannot be run: {error.strerror}") from None
    except (ValueError, TypeError, IndexError):
        said = found.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(
            f"{program} is no Python that PARK knows: {(said or ['it printed nothing'])[-1]}"
        ) from None
    if release != __version__:
        there = "no PARK" if release is None else f"PARK {release}, and this kernel is {__version__}"
        raise ValueError(f"{program} has {there}: run `{program} -m pip install park-fit=={__version__}`")
    return Interpreter(str(program), f"{major}.{minor}", tuple(path))

"""The inputs of a job, from a file: a JSON array, a JSON value a line, the rows of a numpy array, or columns of numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from park.errors import InvalidRequest

#: How each kind of file is read, by the end of its name.
KINDS = (".json", ".jsonl", ".npy", ".txt", ".csv", ".dat")


def read_inputs(name: str) -> Sequence[Any]:
    """All inputs of the file *name*; "-": of standard input, a JSON value a line. Raises InvalidRequest.

    An array's rows are the inputs; a file of one column gives numbers.
    """
    kind = ".jsonl" if name == "-" else Path(name).suffix.lower()
    if kind not in KINDS:
        raise InvalidRequest(f"--inputs {name}: no file of inputs ends so, but with {', '.join(KINDS)}")
    where = "standard input" if name == "-" else name
    found: Any
    try:
        if kind == ".npy":
            found = _rows(name)
        elif name == "-":
            found = _lines(sys.stdin, where)
        else:
            with open(name, encoding="utf-8") as file:
                found = (
                    _array(file)
                    if kind == ".json"
                    else _lines(file, where)
                    if kind == ".jsonl"
                    else _columns(file)
                )
    except OSError as error:
        raise InvalidRequest(f"cannot read {where}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{where}, line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, EOFError) as error:
        said = str(error).split("\n")[0]
        raise InvalidRequest(said if said.startswith(where) else f"{where}: {said}") from error
    if not len(found):
        raise InvalidRequest(f"{where} holds no inputs")
    return found  # type: ignore[no-any-return]


def _array(file: IO[str]) -> list[Any]:
    found = json.load(file)
    if not isinstance(found, list):
        raise ValueError(
            f"it holds {type(found).__name__}, where an array is needed, with an item for each input"
        )
    return found


def _lines(file: IO[str], where: str) -> list[Any]:
    found = []
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{where}, line {number}: {line.strip():.60} is no JSON") from error
    return found


def _rows(name: str) -> Any:
    import numpy as np

    found = np.load(name, allow_pickle=False)
    if not isinstance(found, np.ndarray) or not found.ndim:
        raise ValueError("it holds no array with rows")
    return found


def _columns(file: IO[str]) -> Any:
    import numpy as np

    lines = [line for line in file if line.partition("#")[0].strip()]
    if not lines:
        return []
    try:
        found = np.loadtxt(lines, delimiter="," if "," in lines[0].partition("#")[0] else None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{error} (numbers alone are read; what is none goes behind a #)") from error
    return found[:, 0].tolist() if found.shape[1] == 1 else found

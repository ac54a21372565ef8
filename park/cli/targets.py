"""The targets of ``park submit``, found and loaded: the problem of a script, or an object of a file or a module.

The script runs as bumps runs it: in its own folder, which is on the path after what is installed, with its own arguments
in ``sys.argv``. Its output goes to stderr.

Kernels elsewhere can import what is installed, and nothing that lies in the script's folder or the working folder. So
modules from there are taken out of ``sys.modules`` as soon as the target is loaded: objects that cannot be found by
their names travel by value. Two scripts may therefore each have a ``helper.py`` of their own.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import park
from park.cli.common import tell
from park.errors import InvalidRequest, ParkError

#: The name of the object of a script that is fitted, unless the target names another.
PROBLEM = "problem"
#: Seconds in which another Python says what is installed.
OTHER_PYTHON_SECONDS = 60.0

#: Where a Python that was started anywhere else finds these modules.
_FIND = """
import importlib.util, json, sys
found = {}
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    if spec is not None:
        found[name] = spec.origin or list(spec.submodule_search_locations)[0]
print(json.dumps(found))
"""


#: Words of a script that reads its command line.
_READS = re.compile(rb"\b(argv|argparse|optparse|getopt|docopt|click|typer)\b")


@contextmanager
def opened(text: str, args: Sequence[str] = ()) -> Iterator[Any]:
    """The object that *text* names: ``MODEL.py`` (its `problem`), ``FILE.py:NAME`` or ``MODULE:NAME``. The code finds
    *args* in `sys.argv`.

    In the block it is in its surroundings: checked and pickled there. Raises InvalidRequest for what cannot be found or
    loaded, and for whatever else is wrong with it in the block; a traceback of the user's code is printed before.
    """
    place, name = split(text)
    is_file = place.endswith(".py")
    file = Path(place).absolute()
    here = Path.cwd()
    folder = file.parent if is_file else here
    if is_file and not file.is_file():
        raise InvalidRequest(f"there is no file {place}")
    known, path, argv, no_files = set(sys.modules), list(sys.path), sys.argv, sys.dont_write_bytecode
    sys.path = [*path, str(folder)] if is_file else [str(here), *path]
    sys.argv = [str(file) if is_file else place, *args]
    sys.dont_write_bytecode = True
    try:
        with chdir(folder), redirect_stdout(sys.stderr):
            try:
                module = _run(file) if is_file else importlib.import_module(place)
                _forget(known, folder, here)
                yield _named(module, place, name)
            except ParkError as error:
                raise InvalidRequest(f"{text}: {error}") from error
            except ModuleNotFoundError as error:
                if error.name and f"{place}.".startswith(f"{error.name}.") and _of_user(error) is None:
                    raise InvalidRequest(f"there is no module {place!r} in {here}, or installed") from None
                raise _told(error, text, here) from None
            except (Exception, SystemExit) as error:
                raise _told(error, text, here, "" if args else _hint(error, text)) from None
    finally:
        sys.path, sys.argv, sys.dont_write_bytecode = path, argv, no_files
        _forget(known, folder, here)  # also what was imported in the block


def split(text: str) -> tuple[str, str]:
    """The file or module, and the name in it. Raises InvalidRequest.

    >>> split("fits/line.py"), split("fits/line.py:chisq"), split("scipy.special:erf")
    (('fits/line.py', 'problem'), ('fits/line.py', 'chisq'), ('scipy.special', 'erf'))
    """
    if text.endswith(".py"):
        return text, PROBLEM
    place, _, name = text.rpartition(":")
    module = place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise InvalidRequest(
            f"{text!r} names nothing to run: give a script that defines a problem, as MODEL.py, or a function, as "
            "FILE.py:NAME or MODULE:NAME; a script's arguments go behind two dashes, as MODEL.py -- ARGS"
        )
    return place, name


def _run(file: Path) -> ModuleType:
    """The module of a script."""
    # a name that no script imports another module by: bumps' users may well call theirs refl1d.py
    module = ModuleType("script_" + re.sub(r"\W", "_", file.stem))
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # some of Python's own classes look there for their module
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


def _named(module: ModuleType, place: str, name: str) -> Any:
    """The object of that name in *module*, from *place*. Raises InvalidRequest."""
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = ""
            if name == PROBLEM:
                hint = f": give it one, a bumps FitProblem or a park.fit.Assembly, or name a function, as {place}:NAME"
            raise InvalidRequest(f"it defines no {name!r}{hint}") from None
    if isinstance(found, type):
        raise InvalidRequest(
            f"{name} is a class: make an instance of it there, and name that (body = {found.__name__}(...), and "
            f"{place}:body)"
        )
    return found


def _forget(known: set[str], *folders: Path) -> None:
    """Take modules that were not *known*, lie in the *folders*, and that no kernel can import, out of ``sys.modules``."""
    names = set(sys.modules) - known
    places = {folder.resolve() for folder in folders}
    lying: dict[str, Path] = {}
    for top in {name.partition(".")[0] for name in names} - {"park"}:
        module = sys.modules.get(top)
        where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if where is not None and places.intersection(Path(where).resolve().parents):
            lying[top] = Path(where).resolve()
    if not lying:
        return
    # modules on PYTHONPATH elsewhere count as installed
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    other = os.pathsep.join(path for path in paths if Path(path).resolve() not in places)
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", _FIND, *lying],
            cwd="/",
            env={**os.environ, "PYTHONPATH": other},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=OTHER_PYTHON_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(
            f"{sys.executable} has not said in {OTHER_PYTHON_SECONDS:.0f} s which of "
            f"{', '.join(sorted(lying))} are installed: is a folder on its path on a disk that does not answer?"
        ) from None
    installed = json.loads(asked.stdout) if asked.returncode == 0 else {}
    for name in names:
        top = name.partition(".")[0]
        if top in lying and (top not in installed or Path(installed[top]).resolve() != lying[top]):
            del sys.modules[name]


# -- what is wrong with a user's code ----------------------------------------------------------------


def _told(error: BaseException, text: str, here: Path, hint: str = "") -> InvalidRequest:
    """The sentence for an *error* in the user's code, after its traceback was printed; with a *hint* at its end."""
    trace = _of_user(error)
    tell("".join(traceback.format_exception(type(error), error, trace)).rstrip())
    cause = traceback.format_exception_only(error)[-1].strip() + hint
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return InvalidRequest(f"{_short(error.filename, here)}, line {error.lineno}: {cause}")
    frames = traceback.extract_tb(trace)
    if not frames:
        return InvalidRequest(f"{text}: {cause}")
    frame = _own(frames)[-1]  # not that of a library which it calls
    return InvalidRequest(f"{_short(frame.filename, here)}, line {frame.lineno}: {cause}")


def _hint(error: BaseException, text: str) -> str:
    """A hint on where arguments go, if the script that has failed reads some and got none; else ""."""
    if isinstance(error, ImportError | SyntaxError | NameError):
        return ""
    frames = traceback.extract_tb(_of_user(error))
    for file in dict.fromkeys(frame.filename for frame in _own(frames)):
        with suppress(OSError):
            if _READS.search(Path(file).read_bytes()):
                script = f"park submit {shlex.quote(text)} -- ARGS"
                return f"; if it lacks arguments, give them behind two dashes: {script}"
    return ""


def _own(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The modules of the first file, and of files beside it."""
    folder = os.path.dirname(frames[0].filename) if frames else ""
    return [frame for frame in frames if frame.filename.startswith(folder + os.sep)] or frames


def _of_user(error: BaseException) -> TracebackType | None:
    """The traceback of *error* from the user's code on; None where it did not come so far."""
    machinery = (str(Path(park.__file__).parent), os.path.dirname(importlib.__file__), "<frozen importlib")
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(machinery):
        trace = trace.tb_next
    return trace


def _short(file: str, here: Path) -> str:
    relative = os.path.relpath(file, here)
    return file if relative.startswith("..") else relative

"""The floors of the house: which module may import which, and which libraries.

A module imports only from lower floors. What more it may do stands beside it in `ROOMS`: modules of its own
floor, and libraries other than Python's own. All imports count, also those inside functions; those under
``if TYPE_CHECKING`` do not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Room:
    floor: int
    #: modules of the same floor that it may import
    beside: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    #: modules of lower floors that it may not import
    never: tuple[str, ...] = ()


#: The broker carries pickles and opens none.
PICKLES = ("park.payload",)

#: A module, or "package.*" for a package with all that is in it. The longest name that fits counts.
#: What the dispatcher is put together from.
PARTS = tuple(
    f"park.core.{name}"
    for name in (
        "catalogue",
        "codes",
        "controls",
        "fairshare",
        "jobs",
        "ledger",
        "lending",
        "limits",
        "line",
        "needs",
        "outcome",
        "requests",
        "rights",
        "room",
        "roster",
        "speculation",
        "timing",
        "vacancies",
        "work",
    )
)
#: Its floors, the lowest first.
FLOORS = tuple(
    f"park.core.{name}"
    for name in (
        "state",
        "charging",
        "controlling",
        "course",
        "attempts",
        "dealing",
        "checkpoints",
        "files",
        "overtime",
        "intake",
        "leaving",
        "suspects",
        "recovery",
        "keeping",
    )
)

ROOMS = {
    # 0: words
    "park.version": Room(0),
    "park.errors": Room(0),
    "park.backends": Room(0),
    "park.model": Room(0, beside=("park.errors", "park.version")),
    # 0: packages that only hold others, and import nothing
    "park.core": Room(0),
    "park.kernel": Room(0),
    "park.util": Room(0),
    "park.wire": Room(0),
    # 1: pure
    "park.wire.*": Room(1, beside=("park.wire.*",), libraries=("msgpack",)),
    "park.table": Room(1, beside=("park.wire.*",)),
    "park.search": Room(1, beside=("park.table",)),
    "park.mirror": Room(1, beside=("park.table", "park.wire.*")),
    "park.unserved": Room(1),
    "park.core.line": Room(1),
    "park.core.fairshare": Room(1, beside=("park.core.line",)),
    "park.core.outcome": Room(1, beside=("park.wire.*",)),
    "park.core.needs": Room(1, beside=("park.wire.*",), libraries=("packaging",)),
    "park.core.roster": Room(1, beside=("park.core.needs", "park.core.outcome", "park.wire.*")),
    "park.core.work": Room(
        1,
        beside=(
            "park.core.fairshare",
            "park.core.limits",
            "park.core.outcome",
            "park.core.roster",
            "park.wire.*",
        ),
    ),
    "park.core.limits": Room(1),
    "park.core.ledger": Room(1, beside=("park.core.outcome", "park.wire.*")),
    "park.core.jobs": Room(
        1,
        beside=(
            "park.core.controls",
            "park.core.ledger",
            "park.core.limits",
            "park.core.needs",
            "park.core.outcome",
            "park.core.roster",
            "park.core.work",
            "park.wire.*",
        ),
    ),
    "park.core.vacancies": Room(1, beside=("park.core.needs", "park.core.roster")),
    "park.core.lending": Room(1, beside=("park.core.fairshare", "park.core.work")),
    "park.core.speculation": Room(1, beside=("park.core.work",)),
    "park.core.codes": Room(1),
    "park.core.controls": Room(1, beside=("park.core.outcome",)),
    "park.core.room": Room(1, beside=("park.core.outcome",)),
    "park.core.catalogue": Room(1, beside=("park.search",)),
    "park.core.pieces": Room(1, beside=("park.core.outcome",)),
    "park.core.laying": Room(1, beside=("park.core.outcome", "park.core.pieces", "park.wire.*")),
    "park.core.tail": Room(1, beside=("park.core.outcome", "park.wire.*")),
    "park.core.requests": Room(1, beside=("park.core.needs", "park.wire.*")),
    "park.core.rights": Room(1, beside=("park.core.outcome", "park.core.roster", "park.core.work")),
    # the dispatcher's floors, the lowest first; each knows those below it
    "park.core.state": Room(1, beside=(*PARTS, "park.wire.*")),
    "park.core.charging": Room(1, beside=(*PARTS, "park.core.state", "park.wire.*")),
    "park.core.controlling": Room(1, beside=(*PARTS, *FLOORS[:2], "park.wire.*")),
    "park.core.reasons": Room(1, beside=(*PARTS, "park.core.charging")),
    "park.core.invariants": Room(1, beside=(*PARTS, "park.core.state")),
    "park.core.course": Room(1, beside=(*PARTS, *FLOORS[:3], "park.core.reasons", "park.wire.*")),
    "park.core.attempts": Room(1, beside=(*PARTS, *FLOORS[:4], "park.wire.*")),
    "park.core.dealing": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.timing": Room(1, beside=("park.core.jobs",)),
    "park.core.overtime": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.checkpoints": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.files": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.recovery": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.leaving": Room(1, beside=(*PARTS, *FLOORS[:5], "park.wire.*")),
    "park.core.suspects": Room(1, beside=(*PARTS, *FLOORS[:5])),
    "park.core.keeping": Room(1, beside=(*PARTS, *FLOORS[:5], "park.core.recovery", "park.wire.*")),
    "park.core.intake": Room(
        1, beside=(*PARTS, *FLOORS[:5], "park.core.recovery", "park.core.keeping", "park.wire.*")
    ),
    "park.core.dispatcher": Room(
        1, beside=(*PARTS, *FLOORS, "park.core.invariants", "park.table", "park.wire.*")
    ),
    # the kernel's machine, and its parts
    "park.kernel.actions": Room(1, beside=("park.wire.*",)),
    "park.kernel.process": Room(1, beside=("park.wire.*",)),
    "park.kernel.kept": Room(1, beside=("park.wire.*",)),
    "park.kernel.term": Room(1, beside=("park.wire.*",)),
    "park.kernel.timers": Room(1, beside=("park.wire.*",)),
    "park.kernel.codes": Room(1, beside=("park.wire.*",)),
    "park.kernel.controls": Room(1, beside=("park.wire.*",)),
    "park.kernel.unheard": Room(1, beside=("park.wire.*",)),
    "park.kernel.pool": Room(1, beside=("park.kernel.actions", "park.kernel.process", "park.wire.*")),
    "park.kernel.holding": Room(
        1,
        beside=(
            "park.kernel.actions",
            "park.kernel.kept",
            "park.kernel.codes",
            "park.kernel.controls",
            "park.kernel.pool",
            "park.kernel.process",
            "park.kernel.term",
            "park.kernel.timers",
            "park.kernel.unheard",
            "park.wire.*",
        ),
    ),
    "park.kernel.lifecycle": Room(
        1,
        beside=(
            "park.kernel.actions",
            "park.kernel.holding",
            "park.kernel.kept",
            "park.kernel.codes",
            "park.kernel.pool",
            "park.kernel.process",
            "park.kernel.term",
            "park.wire.*",
        ),
    ),
    # 2: one library each
    "park.libraries": Room(1),
    "park.modules": Room(1),
    "park.rebuild": Room(1),
    "park.sources": Room(1),
    "park.stale": Room(1),
    "park.dynamic": Room(1, beside=("park.modules",)),
    "park.payload": Room(2, libraries=("cloudpickle",)),
    "park.results": Room(2, beside=("park.payload",)),
    "park.batches": Room(2, beside=("park.payload",)),
    "park.core.store": Room(2, libraries=("lmdb",), never=PICKLES),
    "park.core.writer": Room(2, beside=("park.core.store", "park.core.sweep"), never=PICKLES),
    "park.core.backup": Room(2, beside=("park.core.store",), libraries=("lmdb",), never=PICKLES),
    "park.core.journal": Room(2, beside=("park.core.store",), never=PICKLES),
    "park.core.snapshots": Room(2, beside=("park.core.store", "park.util.msgstream"), never=PICKLES),
    "park.core.sweep": Room(2, beside=("park.core.store",), never=PICKLES),
    "park.util.sockets": Room(
        2, beside=("park.util.keys", "park.util.outbox", "park.util.zap"), libraries=("zmq",)
    ),
    "park.util.outbox": Room(2),
    "park.util.zap": Room(2, beside=("park.util.keys",)),
    "park.util.keys": Room(2, beside=("park.util.sockets",)),
    "park.kernel.generators": Room(1),
    "park.kernel.memory": Room(1),
    "park.kernel.death": Room(1),
    "park.kernel.child": Room(2),
    "park.kernel.descriptors": Room(1),
    "park.kernel.settings": Room(1),
    "park.kernel.offspring": Room(2),
    "park.kernel.guard": Room(2, beside=("park.kernel.child",)),
    "park.kernel.lines": Room(2),
    "park.kernel.shelf": Room(2),
    "park.kernel.node": Room(2),
    "park.util.addresses": Room(2),
    "park.util.waits": Room(1),
    "park.util.outlet": Room(1),
    "park.util.reactor": Room(2),
    "park.util.channel": Room(2),
    "park.util.bar": Room(2, libraries=("tqdm",)),
    "park.util.html": Room(1),
    "park.util.notebook": Room(1),
    "park.util.pace": Room(1),
    "park.util.lanes": Room(2),
    "park.util.msgstream": Room(2),
    "park.live": Room(2),
    # 3: loops
    "park.core.manager": Room(3, beside=("park.core.public",), never=PICKLES),
    "park.core.loop": Room(3, beside=("park.core.manager",), never=PICKLES),
    "park.kernel.env": Room(3),
    "park.kernel.answers": Room(3),
    "park.kernel.printed": Room(2),
    "park.kernel.fabric": Room(3, beside=("park.kernel.answers", "park.kernel.env")),
    "park.kernel.serving": Room(3, beside=("park.kernel.answers", "park.kernel.fabric")),
    "park.kernel.slot": Room(
        3, beside=("park.kernel.answers", "park.kernel.env", "park.kernel.serving", "park.kernel.fabric")
    ),
    "park.kernel.here": Room(3, beside=("park.kernel.env",)),
    "park.kernel.runner": Room(3),
    "park.kernel.loop": Room(3, beside=("park.kernel.runner",)),
    "park.link": Room(3),
    "park.stream": Room(3),
    "park.core.public": Room(3, never=PICKLES),
    "park.reference": Room(3, beside=("park.kernel.env",)),
    # 4: surface
    "park.feeding": Room(3),
    "park.session": Room(4),
    "park.executor": Room(4, beside=("park.session",)),
    "park.pool": Room(4, beside=("park.executor",)),
    "park.job": Room(4),
    "park.core.asking": Room(4, beside=("park.job",)),
    "park.core.stack": Room(3),
    # what it names lies above it, and is loaded when it is asked for
    "park.core.server": Room(
        4,
        beside=(
            "park.core.asking",
            "park.executor",
            "park.pool",
            "park.job",
            "park.session",
            "park.local",
            "park.service",
        ),
    ),
    "park.service": Room(4, beside=("park.core.server", "park.job")),
    "park.local": Room(4, beside=("park.core.server", "park.job", "park.service")),
    # 5: outer; each ignores the others
    "park.fit.*": Room(
        5, beside=("park.fit.*",), libraries=("bumps", "matplotlib", "numpy", "scipy", "tqdm")
    ),
    "park.cli.*": Room(5, beside=("park.cli.*",), libraries=("click", "rich", "tqdm")),
    "park.cli.inputs": Room(5, libraries=("numpy",)),
    "park.joblib": Room(5, libraries=("joblib",)),
    # 6: the public door, and what joins rooms of the floor below
    "park": Room(6),
    "park.cli.targets": Room(6, beside=("park",)),
    "park.cli.submit": Room(6, beside=("park.cli.targets",), libraries=("click",)),
    # 7: the script that comes in through the door
    "park.fit.demo": Room(7, libraries=("matplotlib", "numpy")),
}

#: What importing a module never loads, by any way: a slot process starts fast, a broker cannot unpickle, and
#: nobody waits for a library that he does not use.
NEVER_LOADS = {
    "park": ("bumps", "joblib", "matplotlib", "numpy", "scipy"),
    "park.payload": ("numpy",),
    "park.kernel.slot": ("lmdb", "numpy", "zmq"),
    "park.core.loop": ("cloudpickle", "numpy"),
    "park.core.manager": ("cloudpickle", "numpy"),
    "park.fit": ("bumps", "matplotlib", "scipy"),
    "park.fit.job": ("bumps", "matplotlib", "scipy"),
    "park.cli.park": ("cloudpickle", "lmdb", "numpy", "zmq"),
    "park.cli.broker": ("numpy",),
    "park.cli.kernel": ("numpy",),
}

#: The library of plain values, as Python's own dataclasses are: for everybody.
VALUES = "msgspec"

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "park").rglob("*.py"))
}


def fits(module: str, pattern: str) -> bool:
    package = pattern.removesuffix(".*")
    return module == package or (package != pattern and module.startswith(package + "."))


def room(module: str) -> Room:
    """The row of a module; KeyError when it has none."""
    name = module if module in ROOMS else max((p for p in ROOMS if fits(module, p)), key=len, default=module)
    return ROOMS[name]


def is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below *node*, but for the true branch of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield from (other, *statements(other))
        else:
            yield from (child, *statements(child))


def imports(module: str, text: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of what *module* with this source *text* imports. *modules*: all of our own."""
    # An __init__ is its own package; for any other module the package is what is left of the last dot.
    is_package = any(m.startswith(module + ".") for m in modules)
    package = module if is_package else module.rpartition(".")[0]
    for node in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if inner in modules else source


def violations(module: str, text: str, modules: set[str]) -> list[str]:
    """What is wrong with the imports of a module with this source *text*, a sentence each."""
    own = room(module)
    wrong = []
    for line, name in imports(module, text, modules):
        where = f"{module}, line {line}, floor {own.floor}:"
        top = name.partition(".")[0]
        if top != "park":
            if top not in sys.stdlib_module_names and top not in own.libraries and top != VALUES:
                wrong.append(f"{where} may not use the library {top}")
        elif any(fits(name, p) for p in own.never):
            wrong.append(f"{where} may never import {name}")
        elif room(name).floor >= own.floor and name != module and not any(fits(name, p) for p in own.beside):
            wrong.append(f"{where} may not import {name} of floor {room(name).floor}")
    return wrong


def loaded_by(module: str) -> set[str]:
    """The top-level names of all modules that a fresh Python holds after it has imported *module*."""
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_lower_floors(module: str) -> None:
    try:
        room(module)
    except KeyError:
        pytest.fail(f"{module} has no floor yet: give it a row in ROOMS")
    assert violations(module, MODULES[module].read_text(), set(MODULES)) == []


@pytest.mark.parametrize("module", [m for m in NEVER_LOADS if m in MODULES])
def test_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module).isdisjoint(NEVER_LOADS[module])


def test_beside_is_of_the_same_floor() -> None:
    for name, row in ROOMS.items():
        for pattern in row.beside:
            assert ROOMS[pattern].floor == row.floor, f"{name}: {pattern} is of another floor"


PLANTED = [
    ("park.errors", "import park.model", "may not import park.model of floor 0"),
    ("park.table", "from park import link", "may not import park.link of floor 3"),
    ("park.table", "def f():\n    from park.payload import dumps", "line 2"),
    ("park.table", "from .payload import dumps", "may not import park.payload of floor 2"),
    ("park.wire.codec", "from .. import link", "may not import park.link of floor 3"),
    ("park.mirror", "import park", "may not import park of floor 6"),
    ("park.kernel.slot", "import zmq.error", "may not use the library zmq"),
    ("park.link", "import cloudpickle", "may not use the library cloudpickle"),
    ("park.core.manager", "from park import payload", "may never import park.payload"),
    ("park.core.loop", "from park.payload import dumps", "may never import park.payload"),
    ("park.core.fairshare", "import park.core.dispatcher", "may not import park.core.dispatcher of floor 1"),
    ("park.cli.park", "from park.fit import Fit", "may not import park.fit of floor 5"),
    (
        "park.payload",
        "if TYPE_CHECKING:\n    import zmq\nelse:\n    import lmdb",
        "may not use the library lmdb",
    ),
]


@pytest.mark.parametrize(("module", "text", "sentence"), PLANTED)
def test_the_checker_sees_a_planted_violation(module: str, text: str, sentence: str) -> None:
    known = {name.removesuffix(".*") for name in ROOMS} | {"park.wire.codec", "park.cli.park"}
    (found,) = violations(module, text, known)
    assert sentence in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("park.payload", "import pickle, cloudpickle\nfrom park.wire.pack import join"),
        ("park.wire.codec", "from .messages import Message\nfrom ..errors import ProtocolError"),
        ("park.table", "import typing\nif typing.TYPE_CHECKING:\n    from park.link import Link"),
        ("park.fit", "from park.fit.model import Model\nfrom . import model"),
        ("park.core.server", "from park import payload"),
    ],
)
def test_the_checker_lets_pass_what_is_right(module: str, text: str) -> None:
    known = {name.removesuffix(".*") for name in ROOMS} | {
        "park.wire.messages",
        "park.wire.pack",
        "park.fit.model",
    }
    assert violations(module, text, known) == []


def test_loaded_by_sees_what_an_import_pulls_in() -> None:
    assert {"msgpack", "json"} <= loaded_by("msgpack, json.decoder")

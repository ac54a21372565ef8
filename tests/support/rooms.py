"""The rooms of the house, and what each may import.

A room is a folder of `park`, or a few modules of its top floor that do one thing together. It imports its own modules,
those of the rooms that stand in its row, and the libraries there. No import of modules may close a circle, not even
inside a room. All imports count, also those inside functions; those under ``if TYPE_CHECKING`` do not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Room:
    """One room: its modules and packages by name, the rooms whose modules it may import, and its libraries."""

    name: str
    holds: tuple[str, ...]
    may: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


#: The rooms from the ground up: each imports only rooms above it in this table.
ROOMS = (
    Room(
        "words",
        (
            "park.version",
            "park.errors",
            "park.model",
            "park.config",
            "park.backends",
            "park.text",
            "park.identity",
            "park.wait_reason",
        ),
    ),
    Room("wire", ("park.wire",), ("words",), ("msgpack",)),
    Room("util", ("park.util",), ("words", "wire")),
    Room("table", ("park.table",), ("words", "wire")),
    Room("net", ("park.net",), ("words", "wire", "util"), ("cryptography", "zmq")),
    Room("body", ("park.body",), ("words", "wire"), ("cloudpickle",)),
    Room("client", ("park.client",), ("words", "wire", "util", "table", "net", "body"), ("tqdm",)),
    Room("mail", ("park.mail",), ("words", "util"), ("apprise", "matplotlib")),
    Room("batch", ("park.batch",), ("words", "util", "net"), ("distributed",)),
    Room("decisions", ("park.broker.effects",), ("words", "wire", "mail")),
    Room("accounts", ("park.broker.accounts",), ("words", "wire", "decisions")),
    Room(
        "entities",
        ("park.broker.entities",),
        ("words", "wire", "table", "decisions", "accounts"),
        ("packaging",),
    ),
    Room("scheduler", ("park.broker.scheduler",), ("words", "entities")),
    Room(
        "state",
        ("park.broker.state", "park.broker.invariants"),
        ("words", "mail", "decisions", "accounts", "entities", "scheduler"),
    ),
    Room(
        "handlers",
        ("park.broker.handlers", "park.broker.assign"),
        ("words", "wire", "mail", "decisions", "accounts", "entities", "scheduler", "state"),
    ),
    Room("storage", ("park.broker.storage",), ("words", "wire", "util", "decisions"), ("lmdb",)),
    Room(
        "broker",
        ("park.broker",),
        (
            "words",
            "wire",
            "util",
            "table",
            "net",
            "mail",
            "decisions",
            "accounts",
            "entities",
            "state",
            "handlers",
            "storage",
        ),
    ),
    Room("machine", ("park.kernel.machine",), ("words", "wire")),
    Room("node", ("park.kernel.node",), ("words",), ("psutil",)),
    Room("kernel", ("park.kernel",), ("words", "wire", "util", "net", "machine", "node"), ("psutil",)),
    Room("slot", ("park.slot",), ("words", "wire", "util", "net", "body")),
    Room(
        "service",
        ("park.core", "park.job", "park.service", "park.local"),
        (
            "words",
            "wire",
            "util",
            "table",
            "net",
            "body",
            "client",
            "entities",
            "broker",
            "storage",
            "node",
            "kernel",
        ),
    ),
    Room(
        "private",
        (
            *("park.batch.private", "park.batch.keeper", "park.batch.own_broker", "park.batch.fabric"),
            "park.batch.shared_broker",
        ),
        ("words", "util", "net", "client", "batch", "service"),
    ),
    Room(
        "fit",
        ("park.fit",),
        ("words", "util", "body", "service"),
        ("bumps", "matplotlib", "numpy", "scipy", "tqdm"),
    ),
    Room(
        "web",
        ("park.web",),
        ("words", "util", "table", "client", "service"),
        ("jinja2", "prometheus_client", "sse_starlette", "starlette", "uvicorn"),
    ),
    Room("joblib", ("park.joblib",), ("words", "body", "client", "service"), ("joblib",)),
    Room("door", ("park",), ("words",)),
    Room(
        "commands",
        ("park.cli",),
        (
            *("words", "wire", "util", "table", "net", "body", "client", "accounts", "entities", "storage"),
            *(
                "broker",
                "mail",
                "batch",
                "private",
                "machine",
                "node",
                "kernel",
                "service",
                "fit",
                "web",
                "door",
            ),
        ),
        ("click", "numpy", "packaging", "rich"),
    ),
    Room("demo", ("park.demo",), ("fit", "door"), ("matplotlib", "numpy")),
)

#: Imports that a row does not allow, each loaded only when its name is asked for.
LATER = {
    ("park.local", "park.web.serving"): "the local service shows its page when it is asked for",
    ("park.core.server", "park.local"): "the default service is the local one where nothing else is named",
    ("park.core.interface", "park.core.connect"): "a service leads to another connection, as another user",
}

#: Modules that no module of a room may import: the broker carries pickles and opens none.
NEVER = {"broker": "park.body", "storage": "park.body", "handlers": "park.body"}

#: The library of plain values, as Python's own dataclasses are: for every room.
VALUES = "msgspec"

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "park").rglob("*.py"))
}
_BY_NAME = {held: room for room in ROOMS for held in room.holds}


def room(module: str) -> Room:
    """The room of a module: of the longest name that holds it."""
    parts = module.split(".")
    if module == "park":
        return _BY_NAME["park"]
    for size in range(len(parts), 1, -1):
        if (found := _BY_NAME.get(".".join(parts[:size]))) is not None:
            return found
    raise KeyError(module)


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


def imports(module: str, text: str, modules: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of each import of *module* with this source *text*. *modules*: all of our own."""
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


def violations(module: str, text: str, modules: Iterable[str]) -> list[str]:
    """The imports of a module with this source *text* that its row does not allow, a sentence each."""
    own = room(module)
    wrong = []
    for line, name in imports(module, text, modules):
        where = f"{module}, line {line}, room {own.name}:"
        top = name.partition(".")[0]
        if top != "park":
            if top not in sys.stdlib_module_names and top not in own.libraries and top != VALUES:
                wrong.append(f"{where} may not use the library {top}")
        elif own.name in NEVER and name.startswith(NEVER[own.name]):
            wrong.append(f"{where} may never import {name}")
        elif room(name) is not own and room(name).name not in own.may and (module, name) not in LATER:
            wrong.append(f"{where} may not import {name} of room {room(name).name}")
    return wrong


def circle(texts: Mapping[str, str]) -> list[str]:
    """The modules of one circle of imports among these sources, by name; none: []."""
    graph = {
        module: {
            name for _, name in imports(module, text, texts) if name in texts and (module, name) not in LATER
        }
        - {module}
        for module, text in texts.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []

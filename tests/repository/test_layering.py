"""The rooms of the house: which may import which, which libraries they use, and that no imports go in a circle."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.rooms import LATER, MODULES, NEVER, ROOMS, ROOT, circle, imports, room, violations

#: Libraries that importing a module never loads, by any way: a slot process starts fast, a broker cannot unpickle,
#: and no user waits for a library without use.
NEVER_LOADS = {
    "park": ("bumps", "joblib", "matplotlib", "numpy", "scipy"),
    "park.body.payload": ("numpy",),
    "park.slot.slot": ("lmdb", "numpy", "zmq"),
    "park.broker.loop": ("cloudpickle", "numpy"),
    "park.broker.manager": ("cloudpickle", "numpy"),
    "park.mail.postman": ("cloudpickle", "matplotlib", "numpy"),
    "park.fit": ("bumps", "matplotlib", "scipy"),
    "park.fit.job": ("bumps", "matplotlib", "scipy"),
    "park.cli.park": ("cloudpickle", "lmdb", "numpy", "zmq"),
    "park.cli.broker": ("numpy",),
    "park.cli.kernel": ("numpy",),
}


def loaded_by(module: str) -> set[str]:
    """The top-level names of all modules that a fresh Python holds after it has imported *module*."""
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    try:
        room(module)
    except KeyError:
        pytest.fail(f"{module} is in no room yet: give it a row in tests/support/rooms.py")
    assert violations(module, MODULES[module].read_text(), MODULES) == []


def test_no_imports_go_in_a_circle() -> None:
    assert circle({module: path.read_text() for module, path in MODULES.items()}) == []


def test_a_kernel_loads_nothing_of_brokers_and_clients() -> None:
    """Not even on its way to a broker: thousands of kernels start, and each keeps what it has loaded."""
    command = [sys.executable, "-X", "importtime", "-m", "park.cli.kernel", "--broker", "ipc:///nowhere"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as kernel:
        assert kernel.stderr is not None
        told: list[str] = []
        for line in kernel.stderr:
            told.append(line)
            if line.startswith("park-kernel:"):  # it has begun
                kernel.terminate()
    loaded = {line.rpartition("|")[2].strip() for line in told}
    assert "park.net.callers" in loaded, told
    rooms = ("park.broker", "park.client", "park.core", "park.body", "park.mail", "park.local")
    assert [name for name in loaded if name.startswith((*rooms, "cloudpickle", "lmdb"))] == []


@pytest.mark.parametrize("module", NEVER_LOADS)
def test_import_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module).isdisjoint(NEVER_LOADS[module])


def test_each_room_imports_only_rooms_below() -> None:
    below: set[str] = set()
    for each in ROOMS:
        assert set(each.may) <= below, f"{each.name} may import a room that is not below it"
        below.add(each.name)


def test_each_row_is_needed() -> None:
    used = {
        (room(module).name, room(name).name)
        for module, path in MODULES.items()
        for _, name in imports(module, path.read_text(), MODULES)
        if name.partition(".")[0] == "park"
    }
    assert [
        (each.name, other) for each in ROOMS for other in each.may if (each.name, other) not in used
    ] == []
    assert set(NEVER) <= {each.name for each in ROOMS}


def test_each_import_that_comes_later_is_there() -> None:
    for module, name in LATER:
        assert name in {found for _, found in imports(module, MODULES[module].read_text(), MODULES)}


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES.values()}), ids=lambda p: p.name)
def test_each_folder_says_what_lives_in_it(package: object) -> None:
    text = (ROOT / str(package) / "__init__.py").read_text()
    assert text.startswith('"""'), f"{package} has no sentence that says what lives here"


PLANTED = [
    ("park.errors", "import park.wire.codec", "may not import park.wire.codec of room wire"),
    ("park.table.table", "from park.client import link", "may not import park.client.link of room client"),
    ("park.table.table", "def f():\n    from park.body.payload import dumps", "line 2"),
    ("park.table.table", "from ..body.payload import dumps", "may not import park.body.payload of room body"),
    ("park.wire.codec", "from ..client import link", "may not import park.client.link of room client"),
    ("park.table.mirror", "import park", "may not import park of room door"),
    ("park.slot.slot", "import zmq.error", "may not use the library zmq"),
    ("park.client.link", "import cloudpickle", "may not use the library cloudpickle"),
    ("park.broker.manager", "from park.body import payload", "may never import park.body.payload"),
    ("park.broker.loop", "from park.body.payload import dumps", "may never import park.body.payload"),
    (
        "park.broker.scheduler.fairshare",
        "import park.broker.dispatcher",
        "may not import park.broker.dispatcher of room broker",
    ),
    ("park.cli.park", "import park.slot.slot", "may not import park.slot.slot of room slot"),
    (
        "park.body.payload",
        "if TYPE_CHECKING:\n    import zmq\nelse:\n    import lmdb",
        "may not use the library lmdb",
    ),
]


@pytest.mark.parametrize(("module", "text", "sentence"), PLANTED)
def test_the_checker_sees_a_planted_violation(module: str, text: str, sentence: str) -> None:
    (found,) = violations(module, text, MODULES)
    assert sentence in found


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("park.body.payload", "import pickle, cloudpickle\nfrom park.wire.pack import join"),
        ("park.wire.codec", "from .messages import Message\nfrom ..errors import ProtocolError"),
        (
            "park.table.table",
            "import typing\nif typing.TYPE_CHECKING:\n    from park.client.link import Link",
        ),
        ("park.fit", "from park.fit.problem.model import Model\nfrom . import model"),
        ("park.core.server", "from park.body import payload"),
    ],
)
def test_the_checker_lets_pass_what_is_right(module: str, text: str) -> None:
    assert violations(module, text, MODULES) == []


def test_the_checker_sees_a_circle() -> None:
    texts = {
        "park.a": "import park.b",
        "park.b": "def f():\n    from park import c",
        "park.c": "import park.a",
    }
    assert set(circle(texts)) == set(texts)
    assert circle(texts | {"park.c": "import os"}) == []


def test_loaded_by_sees_what_an_import_pulls_in() -> None:
    assert {"msgpack", "json"} <= loaded_by("msgpack, json.decoder")

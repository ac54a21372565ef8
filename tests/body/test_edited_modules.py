"""Modules that are edited between two runs: what runs is what the client has, or the job says that it is not."""

from __future__ import annotations

import importlib
import os
import py_compile
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import park
from park.body import edited_modules, payload
from park.local import LocalService
from tests.support.fabric import ENVIRONMENT, Fabric

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into a folder that Python looks into, each edit a second later than the last one."""
    edits = 0
    folder = tmp_path / "modules"
    folder.mkdir()

    def write(**sources: str) -> None:
        nonlocal edits
        edits += 1
        for name, source in sources.items():
            file = folder / f"{name}.py"
            file.write_text(textwrap.dedent(source))
            os.utime(file, (1e9 + edits, 1e9 + edits))
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
            del sys.modules[name]


def load(name: str) -> ModuleType:
    """The module, loaded anew."""
    if name in sys.modules:
        return importlib.reload(sys.modules[name])
    return importlib.import_module(name)


def test_an_edited_module_is_loaded_anew_in_the_same_service(tmp_path: Path, write: Write) -> None:
    own = LocalService()
    own.configure(slots=1)
    write(edited_a="def value(x): return x + 1")
    with own as service:
        for step in (1, 20, 300):
            write(edited_a=f"def value(x): return x + {step}")
            module = load("edited_a")
            assert service.wait(service.start(module.value, [1]), timeout=60) == [1 + step]
            assert list(service.map(module.value, [2])) == [2 + step]
            with service.executor() as pool:
                assert pool.submit(module.value, 3).result(50) == 3 + step


def test_a_module_without_its_source_counts_too(write: Write, tmp_path: Path) -> None:
    own = LocalService()
    own.configure(slots=1)
    source = tmp_path / "modules" / "compiled_a.py"
    with own as service:
        for step in (1, 20):
            write(compiled_a=f"def value(x): return x + {step}")
            py_compile.compile(str(source), str(source.with_suffix(".pyc")), doraise=True)
            source.unlink()
            module = load("compiled_a")
            assert service.wait(service.start(module.value, [1]), timeout=60) == [1 + step]


def test_what_a_module_imports_counts_too(write: Write) -> None:
    own = LocalService()
    own.configure(slots=1)
    write(edited_b="FACTOR = 2", edited_c="import edited_b\ndef value(x): return x * edited_b.FACTOR")
    with own as service:
        module = load("edited_c")
        assert service.wait(service.start(module.value, [1]), timeout=60) == [2]
        write(edited_b="FACTOR = 7")
        load("edited_b")
        assert service.wait(service.start(module.value, [1]), timeout=60) == [7]
        assert service.wait(service.start(lambda x: module.value(x), [2]), timeout=60) == [14]


def test_a_method_of_a_class_and_a_partial_too(write: Write) -> None:
    import functools

    own = LocalService()
    own.configure(slots=1)
    with own as service:
        for offset in (5, 6):
            write(edited_d=f"class Line:\n    def at(self, a, x): return a * x + {offset}")
            module = load("edited_d")
            line = functools.partial(module.Line().at, 2)
            assert service.wait(service.start(line, [1]), timeout=60) == [2 + offset]


def test_a_module_that_a_function_imports_when_it_is_called_too(write: Write) -> None:
    def value(x: int) -> int:
        import edited_i  # type: ignore[import-not-found]

        found: int = edited_i.value(x)
        return found

    own = LocalService()
    own.configure(slots=1)
    with own as service:
        for step in (1, 20, 300):
            write(edited_i=f"def value(x): return x + {step}")
            assert service.wait(service.start(value, [1]), timeout=60) == [1 + step]
            assert list(service.map(value, [2])) == [2 + step]


HELD = """
import os, sys
import edited_j
from park.body import edited_modules
edited_modules.note()
with open(edited_j.__file__, "w") as file:
    file.write("value = 2")
for edited_modules.held in (True, False):
    edited_modules.refresh({"edited_j": "another"})
    print("edited_j" in sys.modules)
"""


def test_nothing_is_forgotten_beneath_a_body_that_waits(write: Write) -> None:
    write(edited_j="value = 1")
    path = {"PYTHONPATH": f"{os.environ['PYTHONPATH']}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", HELD], env=ENVIRONMENT | path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


SCRIPT = """
import sys
import edited_e, park
with park.connect(sys.argv[1]) as service:
    job = service.job(service.start(edited_e.value, [1, 2]))
    print(edited_e.value(1), job.wait(timeout=60), job.remark)
"""


def test_kernels_that_live_on_have_the_edited_module(tmp_path: Path, write: Write) -> None:
    write(edited_e="")
    with Fabric(tmp_path) as fabric:
        path = {"PYTHONPATH": os.environ["PYTHONPATH"]}
        fabric.start("-m", "park.cli.kernel", "--broker", fabric.address, "--slots", "1", env=path)
        for step in (1, 20, 300):
            write(edited_e=f"def value(x): return x + {step}")
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, fabric.address],
                env=ENVIRONMENT | path,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.stdout == f"{1 + step} [{1 + step}, {2 + step}] \n", done.stderr


def test_a_job_says_that_its_module_differs(write: Write) -> None:
    """The client has loaded a module, and its file was edited since: a new process finds another one."""
    own = LocalService()
    own.configure(slots=1)
    write(edited_f="def value(x): return x + 1")
    module = load("edited_f")
    with own as service:
        payload.dump_code(module.value)
        write(edited_f="def value(x): return x + 20")
        job = service.job(service.start(module.value, [1]))
        assert job.wait(timeout=60) == [21]
        assert job.remark.startswith("edited_f is another version on ")
        assert any("edited_f is another version" in line.text for line in job.logs())


def test_installed_modules_and_parks_own_are_not_looked_at() -> None:
    for module in (os, pytest, park, edited_modules, sys.modules["park.body.payload"]):
        assert not edited_modules.is_own(module)
    assert edited_modules.is_own(sys.modules[__name__])


def test_versions_are_those_of_all_that_is_imported(write: Write) -> None:
    write(edited_g="import json", edited_h="from edited_g import json\nimport edited_g as other")
    load("edited_h")
    assert set(edited_modules.versions_of(["edited_h"])) == {"edited_g", "edited_h"}
    before = edited_modules.versions_of(["edited_h"])
    write(edited_g="import json, os")
    assert edited_modules.versions_of(["edited_h"]) == before  # the loaded version counts
    load("edited_g")
    assert edited_modules.versions_of(["edited_h"]) != before


def test_code_without_own_modules_costs_nothing() -> None:
    function = payload.loads(payload.dump_code(lambda x: abs(x)))
    assert function(-1) == 1
    assert payload.dump_code(abs) == payload.dumps(abs)

"""Every example that people copy runs: those of README.rst and docs, and those in docstrings of pure modules.

Each ``.. code-block:: python`` runs in an empty folder, unless the line before it (blank ones aside) is a comment
``.. not run: reason``. Those of the README run as scripts of their own; those of a page in docs share a process.
"""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.examples import Runner, examples
from tests.support.rooms import MODULES, ROOT, room

README = ROOT / "README.rst"
PAGES = sorted((ROOT / "docs").glob("*.rst"))


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=f"line-{line}") for line, code in examples(README.read_text())]
)
def test_readme_example(code: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(code)
    run = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert run.returncode == 0, f"{code}\n{run.stdout}{run.stderr}"


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(tmp_path_factory.mktemp("examples") / "log")
    yield made
    made.close()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=f"{page.stem}-{line}")
        for page in PAGES
        for line, code in examples(page.read_text())
    ],
)
def test_docs_example(code: str, runner: Runner, tmp_path: Path) -> None:
    error = runner.run(code, tmp_path)
    assert not error, f"{code}\n{error}"


def test_an_example_that_fails_is_seen_and_the_next_one_runs(runner: Runner, tmp_path: Path) -> None:
    assert "ZeroDivisionError" in runner.run("left = 1\n1 / 0\n", tmp_path)
    assert "NameError" in runner.run("print(left)\n", tmp_path)
    assert (
        runner.run(
            "import os\nassert __name__ == '__main__'\nassert os.listdir() == ['example.py']\n", tmp_path
        )
        == ""
    )


#: Rooms whose examples need a service, or a library that a user may do without.
OUTER = {"client", "broker", "kernel", "slot", "service", "fit", "joblib", "door", "commands", "demo"}
PURE = [module for module in MODULES if room(module).name not in OUTER]


@pytest.mark.parametrize("name", PURE)
def test_docstring_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_which_blocks_are_examples() -> None:
    text = textwrap.dedent(
        """\
        Title

        .. code-block:: python

            import park

            print(1)

        Words.

        .. not run: needs a broker

        .. code-block:: python

            park.connect()

        .. code-block:: console

            $ bin/test

        .. code-block:: python
            :caption: last

            if True:
                print(2)
        """
    )
    assert examples(text) == [(5, "import park\n\nprint(1)\n"), (24, "if True:\n    print(2)\n")]


def test_the_readme_says_the_two_commands_first() -> None:
    text = README.read_text()
    assert 0 < text.index("bin/demo") < text.index("bin/test") < 2000

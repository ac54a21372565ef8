"""Every example that people copy runs: those of the README, and those in docstrings of pure modules.

Each ``.. code-block:: python`` of README.rst runs as a script of its own in an empty folder, unless the line
before it (blank ones aside) is a comment ``.. not run: reason``.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_layering import MODULES, ROOT, room

README = ROOT / "README.rst"
BLOCK = re.compile(
    r"^(?P<skip>\.\. not run: .+\n\s*\n)?"
    r"\.\. code-block:: python\n"
    r"(?: +:.+\n)*"  # options
    r"\n+"
    r"(?P<code>(?:(?: +\S.*)?\n)+)",
    re.MULTILINE,
)


def examples(text: str) -> list[tuple[int, str]]:
    """(line, code) of each python block of *text* that is to run."""
    return [
        (text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"]).strip("\n") + "\n")
        for match in BLOCK.finditer(text + "\n")
        if not match["skip"]
    ]


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
        timeout=100,
    )
    assert run.returncode == 0, f"{code}\n{run.stdout}{run.stderr}"


# What is below the loops runs without a service, so its examples can run here.
PURE = [module for module in MODULES if room(module).floor <= 2]


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

"""README and docs are true: each file, module, class, command and option that they name exists; Sphinx builds them."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from docutils.core import publish_doctree

import park
import park.fit
from benchmarks.__main__ import MEASURES, STUDIES
from park.cli import broker, kernel
from park.cli import park as commands
from tests.support.rooms import ROOMS, ROOT

README = ROOT / "README.rst"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.rst"))]
PROGRAMS = {"park": commands.main, "park-broker": broker.main, "park-kernel": kernel.main}
ENTRY_POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
#: Names that pages use for objects, with the class of these objects.
OBJECTS = {
    "service": "park:ServerProxy",
    "job": "park:Job",
    "env": "park.body.environment:Environment",
    "table": "park.client.live_table:LiveTable",
    "result": "park.fit:FitResult",
    "pool": "park.client.pool:Pool",
}
#: Options that are not of PARK's commands: of bin/test and of ``python -m benchmarks chaos``.
OTHER_OPTIONS = {"--all", "--help", "--size"}
FILE = re.compile(r"(?<![\w/.~-])(?:park|tests|benchmarks|bin|docs)/[\w/-]*\w(?:\.\w+)?")
NAME = re.compile(r"(?<![\w/.~-])park(?:\.[A-Za-z_]\w*)+")
LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
RIDDLE = re.compile(r"(?:^|[.:?!]\s+|^\* )(?:What|Who|Whoever|Those of|That which)\b[^\n]*", re.MULTILINE)


def literals(text: str) -> list[str]:
    """The inline literals of *text*, each on one line."""
    return [" ".join(found.split()) for found in LITERAL.findall(text)]


def snippets(text: str) -> list[str]:
    """Texts that a reader may type into a shell: inline literals, and indented lines."""
    return [*literals(text), *re.findall(r"^ +(\S.*)$", text, re.MULTILINE)]


def resolve(name: str) -> Any:
    """The object of a dotted name, ``park.x.y``. Raises AttributeError or ImportError."""
    first, *rest = name.split(".")
    value: Any = importlib.import_module(first)
    path = first
    for part in rest:
        path += f".{part}"
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(path)
    return value


def wrong_files(text: str) -> list[str]:
    return [name for name in FILE.findall(text) if name != "docs/_build" and not (ROOT / name).exists()]


def wrong_names(text: str) -> list[str]:
    wrong = []
    for name in NAME.findall(text):
        if name in ENTRY_POINTS or name == "park.toml":
            continue
        try:
            resolve(name)
        except (AttributeError, ImportError):
            wrong.append(name)
    for literal in literals(text):
        owner, dot, rest = literal.partition(".")
        member = re.match(r"[A-Za-z_]\w*", rest)
        if dot and owner in OBJECTS and member:
            module, _, kind = OBJECTS[owner].partition(":")
            known = getattr(importlib.import_module(module), kind)
            if member[0] not in {*dir(known), *getattr(known, "__annotations__", {})}:
                wrong.append(literal)
    return wrong


def leaves(command: click.Command, words: list[str]) -> tuple[click.Command, list[str]]:
    """The subcommand that *words* name, and the words behind it. Raises KeyError for an unknown one."""
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            if command is commands.main:
                raise KeyError(words[0])
            break  # an argument of a command that has subcommands too, such as park credits ada
        command, words = inner, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    own = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {
        "-h",
        "--help",
    }
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            own |= options_of(inner)
    return own


@cache
def all_options() -> frozenset[str]:
    return frozenset(OTHER_OPTIONS.union(*map(options_of, PROGRAMS.values())))


def typed(snippet: str) -> Iterator[list[str]]:
    """The words of each command of PARK in *snippet*, without a comment behind it."""
    for found in re.finditer(r"(?:^|\$\()((?:park|park-broker|park-kernel)(?: [^\s#=].*)?)$", snippet):
        try:
            yield shlex.split(found[1].rstrip(')"'), comments=True)
        except ValueError:
            yield found[1].split()


def wrong_commands(text: str) -> list[str]:
    wrong = []
    for snippet in snippets(text):
        for program, *words in typed(snippet):
            if program == "park" and not (words and re.fullmatch(r"[a-z]+", words[0])):
                continue  # the package, or the command by itself
            try:
                command, rest = leaves(PROGRAMS[program], words)
            except KeyError:
                wrong.append(snippet)
                continue
            rest = rest[: rest.index("--")] if "--" in rest else rest
            for word in rest:
                option = word.partition("=")[0]
                if re.fullmatch(r"-{1,2}[A-Za-z][\w-]*", option) and option not in options_of(command):
                    wrong.append(f"{snippet}: {option}")
    for literal in literals(text):
        option = re.match(r"--?[A-Za-z][\w-]*", literal)
        if option and option[0] not in all_options():
            wrong.append(literal)
    for name in re.findall(r"python -m benchmarks ([a-z]+(?: [a-z]+)*)", text):
        wrong += [f"benchmarks {each}" for each in name.split() if each not in {*MEASURES, *STUDIES}]
    return wrong


pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pages
def test_each_file_that_is_named_exists(page: Path) -> None:
    assert wrong_files(page.read_text()) == []


@pages
def test_each_name_of_python_exists(page: Path) -> None:
    assert wrong_names(page.read_text()) == []


@pages
def test_each_command_and_option_exists(page: Path) -> None:
    assert wrong_commands(page.read_text()) == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGES.rst"], ids=lambda page: page.stem)
def test_no_sentence_begins_with_a_relative_word(page: Path) -> None:
    assert RIDDLE.findall(page.read_text()) == []


def test_the_checks_see_what_is_wrong() -> None:
    assert wrong_files("see park/broker/nothing.py, ``~/park/x.py`` and park/job.py") == [
        "park/broker/nothing.py"
    ]
    assert wrong_names("`park.job.Job` and park.job.Nothing, ``env.nap()``") == [
        "park.job.Nothing",
        "env.nap()",
    ]
    assert wrong_commands("``park jobs -a``, ``park fly 12``, ``--not-there``") == [
        "park fly 12",
        "--not-there",
    ]
    assert wrong_commands("::\n\n    park-kernel --slots 2 --wings 3   # two\n") == [
        "park-kernel --slots 2 --wings 3   # two: --wings"
    ]
    assert wrong_commands("``python -m benchmarks latency flight``") == ["benchmarks flight"]
    assert RIDDLE.findall("It ends. Whoever waits is told.\n* What is new\nWhich one?")


def test_the_readme_is_short_and_shows_a_picture() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    (picture,) = re.findall(r"^\.\. figure:: (\S+)$", text, re.MULTILINE)
    assert 10_000 < (ROOT / picture).stat().st_size < 200_000


@pytest.mark.parametrize("name", ["README.rst", "CHANGES.rst"])
def test_docutils_reads_it_without_a_warning(name: str) -> None:
    publish_doctree((ROOT / name).read_text(), name, settings_overrides={"report_level": 2, "halt_level": 2})


def test_the_readme_leads_to_pages_that_exist() -> None:
    links = re.findall(r"<(\S+\.rst)>`_", README.read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_index_leads_to_each_page() -> None:
    listed = re.findall(r"^   ([\w-]+)$", (DOCS / "index.rst").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in DOCS.glob("*.rst") if page.stem != "index")


def test_each_public_name_has_its_reference() -> None:
    text = (DOCS / "api.rst").read_text()
    documented = {
        name.rpartition(".")[2] for name in re.findall(r"^\.\. (?:auto|py:)\w+:: (\S+)$", text, re.MULTILINE)
    }
    errors = {name for name in dir(importlib.import_module("park.errors")) if name[0].isupper()}
    assert {*park.__all__, *park.fit.__all__} - errors - {"__version__"} <= documented


def test_each_command_has_its_line() -> None:
    text = (DOCS / "commands.rst").read_text()
    context = click.Context(commands.main)
    assert [name for name in commands.main.list_commands(context) if f"``park {name}" not in text] == []


def test_each_folder_of_the_package_is_described() -> None:
    text = (DOCS / "ARCHITECTURE.rst").read_text()
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "park").rglob("*.py")}
    assert {folder for folder in folders if not re.search(rf"``{folder}[`/]", text)} == set()
    assert ".. room-table::" in text
    assert ROOMS


@pytest.mark.heavy
def test_sphinx_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-q",
            "-n",
            "-W",
            "--keep-going",
            "-E",
            "-d",
            tmp_path / "trees",
            DOCS,
            tmp_path,
        ],
        cwd=ROOT,
        env={**os.environ, "MPLBACKEND": "agg"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout
    built = {page.stem for page in tmp_path.glob("*.html")}
    assert {page.stem for page in DOCS.glob("*.rst")} <= built
    assert "park kernels drain" in (tmp_path / "commands.html").read_text()

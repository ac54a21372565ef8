"""The repository keeps its own rules: lint, format, types, one version, and commands that start anywhere."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from park.version import __version__

ROOT = Path(__file__).resolve().parents[2]
#: A page of a terminal or an editor.
MAX_FUNCTION_LINES = 60
#: Attributes of a class that gives no reason for more of them.
MAX_ATTRIBUTES = 20
BIN = sorted(path for path in (ROOT / "bin").iterdir() if not path.name.startswith("_"))


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """A command's end; its output and errors together in `stdout`."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("arguments", ["ruff check", "ruff format --check", "mypy"])
def test_tool_has_nothing_to_say(arguments: str) -> None:
    done = run(sys.executable, "-m", *arguments.split())
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)


def attributes(node: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class set, and its fields."""
    found = {
        each.target.id
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    return found | {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }


def test_functions_fit_on_a_page_and_classes_are_small_or_say_why() -> None:
    """A longer function does more than one thing: its parts get names of their own."""
    wrong = []
    for path in sorted(ROOT.joinpath("park").rglob("*.py")):
        module = ast.parse(path.read_text())
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
                    wrong.append(f"{path.name}:{node.lineno} {node.name}: {lines} lines")
            elif isinstance(node, ast.ClassDef) and len(attributes(node)) > MAX_ATTRIBUTES:
                said = f"{ast.get_docstring(module)} {ast.get_docstring(node)}"
                if f"more than {MAX_ATTRIBUTES} " not in said:
                    wrong.append(f"{path.name}:{node.lineno} {node.name}: it does not say why it is so large")
    assert wrong == []


def test_the_version_is_that_of_one_file() -> None:
    assert metadata.version("park-fit") == __version__
    assert f"\n{__version__} (" in (ROOT / "CHANGES.rst").read_text()


@pytest.mark.parametrize(
    "entry", metadata.distribution("park-fit").entry_points, ids=lambda entry: f"{entry.group}:{entry.name}"
)
def test_entry_point_leads_somewhere(entry: metadata.EntryPoint) -> None:
    assert callable(entry.load())


def test_data_files_are_installed_too() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packed = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    present = {
        path for path in (ROOT / "park").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in present if path.suffix != ".py"} <= packed


@pytest.mark.parametrize("script", [*BIN, ROOT / "bin/_venv.sh"], ids=lambda path: path.name)
def test_command_is_a_shell_script(script: Path) -> None:
    done = run("sh", "-n", script)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK) == (script in BIN)


def test_command_starts_through_a_symlink_from_another_folder(tmp_path: Path) -> None:
    link = tmp_path / "a link"
    link.symlink_to(ROOT / "bin" / "test")
    done = run(link, "--version", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("pytest ")


PYTHONS = {
    "there is no python3": None,
    "found only python3 (3.9)": 'echo "3.9 False"',
    "venv module of python3 (3.12) is missing": 'case "$*" in *venv*) exit 1 ;; *) echo "3.12 True" ;; esac',
}


@pytest.mark.parametrize("words", PYTHONS)
def test_a_machine_that_cannot_make_an_environment(words: str, tmp_path: Path) -> None:
    """Given a checkout and a PATH with this python3 only, a command says what is missing."""
    checkout, path = tmp_path / "check out", tmp_path / "path"
    shutil.copytree(ROOT / "bin", checkout / "bin")
    for name in ("pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, checkout)
    path.mkdir()
    for tool in ("cat", "cksum", "dirname", "readlink"):
        (path / tool).symlink_to(shutil.which(tool) or tool)
    if (script := PYTHONS[words]) is not None:
        (path / "python3").write_text(f"#!/bin/sh\n{script}\n")
        (path / "python3").chmod(0o755)
    done = run("/bin/sh", checkout / "bin" / "test", PATH=str(path))
    assert done.returncode == 1
    assert words in done.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_two_first_starts_at_once_in_a_fresh_clone(tmp_path: Path) -> None:
    """Both wait for one set-up; a set-up cut short is done again; the next start does nothing."""
    clone = tmp_path / "a clone"
    assert run("git", "clone", "-q", ROOT, clone).returncode == 0
    (clone / ".venv" / "bin").mkdir(parents=True)  # the folder that a set-up may leave which was cut short
    command = [clone / "bin" / "test", "--version"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "12"
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(output.count("setting up") for output in outputs) == 1
    assert run(*command).stdout.startswith("pytest ")

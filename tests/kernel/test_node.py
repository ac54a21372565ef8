"""A kernel's description of its node: memory and its limits, and installed packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import venv
from pathlib import Path

import cloudpickle
import pytest
from packaging.utils import canonicalize_name

import park
from park.broker.entities.requirements import profile_of
from park.kernel.machine.exit_cause import ExitCause
from park.kernel.node.interpreter import interpreter_at, own_interpreter
from park.kernel.node.memory import memory, oom_kills
from park.kernel.node.this_node import MAX_PACKAGE_BYTES, Node, packages, this_node
from park.model import PYTHON
from park.wire import codec, messages
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

WHOLE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def system(root: Path, group: str, **files: str) -> Path:
    """A file system with this /proc/self/cgroup, and these files below /sys/fs/cgroup (a__b: a/b)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


V2, V1 = "0::/users/ada\n", "5:cpu,cpuacct:/\n4:memory:/batch/job7\n0::/\n"


@pytest.mark.parametrize(
    ("group", "files", "want"),
    [
        ("", {}, WHOLE),
        (V2, {"users__ada__memory.max": "1000\n"}, 1000),
        (V2, {"users__ada__memory.max": "max\n"}, WHOLE),
        (V2, {"users__ada__memory.max": "3000\n", "users__memory.max": "2000\n"}, 2000),
        (V2, {"memory.max": "4000\n"}, 4000),  # inside a container, whose own group is the root
        (V1, {"memory__batch__job7__memory.limit_in_bytes": "5000\n"}, 5000),
        (V1, {"memory__memory.limit_in_bytes": "6000\n"}, 6000),
        (V1, {"memory__memory.limit_in_bytes": "9223372036854771712\n"}, WHOLE),
        (V1, {"memory__batch__job7__memory.limit_in_bytes": "nonsense"}, WHOLE),
    ],
)
def test_memory_is_the_least_limit(tmp_path: Path, group: str, files: dict[str, str], want: int) -> None:
    assert memory(system(tmp_path, group, **files)) == want


def test_memory_of_a_system_without_groups(tmp_path: Path) -> None:
    assert memory(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("group", "files", "want"),
    [
        ("", {}, 0),
        (V2, {"users__ada__memory.events": "low 0\noom 3\noom_kill 2\n", "memory.events": "oom_kill 9\n"}, 2),
        (V2, {"memory.events": "oom_kill 9\n"}, 9),
        (V1, {"memory__batch__job7__memory.oom_control": "under_oom 0\noom_kill 4\n"}, 4),
        (V1, {"memory__batch__job7__memory.oom_control": "under_oom 0\n"}, 0),
    ],
)
def test_kills_for_want_of_memory_are_counted(
    tmp_path: Path, group: str, files: dict[str, str], want: int
) -> None:
    root = system(tmp_path, group, **files)
    assert oom_kills(root) == want
    (root / "proc/vmstat").write_text("pgfault 12\noom_kill 7\n")
    assert oom_kills(root) == (want or 7)


GB = 10**9


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (ExitCause(None), "its process closed its channel"),
        (ExitCause(3), "its process exited with code 3"),
        (
            ExitCause(-11, peak=2 * GB, floor=GB),
            "its process was killed by signal 11 (SIGSEGV) (it held up to 2.00 GB of memory)",
        ),
        (
            ExitCause(-11, peak=GB, floor=GB),
            "its process was killed by signal 11 (SIGSEGV) (it held less than 1.00 GB of memory)",
        ),
        (
            ExitCause(-9, peak=GB, limit=4 * GB),
            "its process was killed by signal 9 (SIGKILL) (it held up to 1.00 GB of memory)",
        ),
        (
            ExitCause(-9, peak=39 * GB // 10, limit=4 * GB),
            "its process was killed by signal 9 (SIGKILL): it held up to 3.90 GB of memory of the 4.00 GB that there are, "
            "so want of memory may be why",
        ),
        (
            ExitCause(-9, peak=300_000_000, limit=4 * GB, starved=True),
            "its process was killed by signal 9 (SIGKILL) when the system had to kill for want of memory: "
            "it held up to 300 MB of memory of the 4.00 GB that there are",
        ),
        (ExitCause(-64), "its process was killed by signal 64"),
    ],
)
def test_what_ended_a_process_in_words(death: ExitCause, words: str) -> None:
    assert str(death).startswith(words)


def test_packages_are_those_that_are_installed_here() -> None:
    found = profile_of(messages.KernelHello(b"", "", "", 1, 1, "", packages=packages(sys.path)))
    versions = {canonicalize_name(name): version for name, version in found.packages}
    assert versions["numpy"] == importlib.metadata.version("numpy")
    assert versions["park-fit"] == importlib.metadata.version("park-fit")


def test_how_folders_of_packages_are_read(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for name in ("ruamel.yaml-0.18.6.dist-info", "my-tool-1.0+local.1.dist-info", "shadowed-2.0.dist-info"):
        (first / name).mkdir(parents=True)
    for name in ("PyYAML-6.0-py3.11-linux-x86_64.egg-info", "old_one-1.2-py3.11.egg-info", "README-info"):
        (first / name).touch()
    for name in ("shadowed-1.0.dist-info", "checkout.egg-info", "empty.egg-info"):
        (second / name).mkdir(parents=True)
    (second / "checkout.egg-info/PKG-INFO").write_text(
        "Metadata-Version: 2.1\nName: checkout\nVersion: 0.3.dev1\n"
    )
    assert packages([str(first), str(second), str(tmp_path / "none"), __file__]) == {
        "ruamel.yaml": "0.18.6",
        "my-tool": "1.0+local.1",
        "shadowed": "2.0",
        "PyYAML": "6.0",
        "old_one": "1.2",
        "checkout": "0.3.dev1",
    }


def test_the_empty_entry_of_a_path_is_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here-1.0.dist-info").mkdir()
    monkeypatch.chdir(tmp_path)
    assert packages([""]) == {"here": "1.0"}


def test_more_packages_than_fit_into_a_head_are_left_out(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"a-package-with-a-long-name-{number:04}-1.2.3.dist-info").mkdir()
    found = packages([str(tmp_path)])
    assert 500 < len(found) < 3000
    hello = messages.KernelHello(b"i" * 16, "ada", "node", 1, 512, "3.11", list(range(1024)), packages=found)
    head = codec.encode(hello)[0]
    assert len(head) < MAX_PACKAGE_BYTES + 8192


def test_the_packages_of_a_node_are_found_by_names_of_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    # importlib.metadata reads a file of each package, which takes longer than the start of a kernel may
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: pytest.fail("each package is read"))
    assert this_node(("gpu",), "ada", True).packages


def test_a_node_of_nobody() -> None:
    assert Node() == Node(0, {}, (), own_interpreter(), "", False)


def environment_at(folder: Path, *more: str) -> Path:
    """A virtual environment that finds the libraries of this one, and *more* installed packages of version 7."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "these.pth").write_text("\n".join(path for path in sys.path if path))
    for name in more:
        (site / f"{name}-7.dist-info").mkdir()
    return folder


def test_units_run_in_the_environment_of_a_user(tmp_path: Path) -> None:
    folder = environment_at(tmp_path / "venv", "hers")
    with Fabric(tmp_path) as fabric, fabric.connect() as service:
        fabric.start_kernel("--python", str(folder))
        hers = park.Request(prefix_and_program, [0], requires=[("hers", "==7")])
        ((prefix, program),) = service.wait(service.submit(hers))
    assert prefix == str(folder)
    assert program == str(folder / "bin" / "python")


def test_a_request_names_its_environment(tmp_path: Path) -> None:
    folder = environment_at(tmp_path / "venv")
    with Fabric(tmp_path) as fabric, fabric.connect() as service:
        fabric.start_kernel("--environment", f"refl={folder}", slots=1)
        for _ in range(2):  # the one slot takes turns between two interpreters
            there = service.wait(service.start(prefix_and_program, [0], environment="refl"))
            here = service.wait(service.start(prefix_and_program, [0]))
            assert there == [(str(folder), str(folder / "bin" / "python"))]
            assert here[0][0] == sys.prefix
        assert list(service.map(prefix_and_program, [0], environment="refl")) == there
        (kernel,) = service.kernels()
        assert kernel.environments == (f"refl {PYTHON}",)
        listed = fabric.park("kernels", "--broker", str(fabric.connection))
        listed.wait()
        assert f"{PYTHON}, refl {PYTHON}" in listed.text
        unknown = service.start(abs, [1], environment="sas")
        until(lambda: "no kernel has the environment sas" in service.status(unknown).reason)
        with pytest.raises(park.InvalidRequest, match="leave out requires="):
            service.start(abs, [1], environment="refl", requires=[("numpy", "")])


def prefix_and_program(_: int) -> tuple[str, str | None]:
    return sys.prefix, shutil.which("python")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "there is no program"),
        ("exit 1", "is no Python that PARK knows: it printed nothing"),
        ("echo no such module >&2; exit 1", "is no Python that PARK knows: no such module"),
        ("echo '[[3, 12], [], null]'", "has no PARK: run `"),
        ("echo '[[3, 12], [], \"0.0.7\"]'", "has PARK 0.0.7, and this kernel is "),
    ],
)
def test_an_interpreter_that_runs_no_units_is_refused(script: str | None, words: str, tmp_path: Path) -> None:
    program = tmp_path / "python"
    if script is not None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    with pytest.raises(ValueError, match=re.escape(words)):
        interpreter_at(program)

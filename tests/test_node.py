"""What a kernel finds out about its node: memory and its limits, and installed packages."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from pathlib import Path

import pytest

from park.core.needs import profile_of
from park.kernel.death import Death
from park.kernel.memory import memory, oom_kills
from park.kernel.node import MAX_PACKAGES, Node, packages, this_node
from park.wire import codec, messages

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
        (Death(None), "its process closed its channel"),
        (Death(3), "its process exited with code 3"),
        (
            Death(-11, peak=2 * GB, floor=GB),
            "its process was killed by signal 11 (SIGSEGV) (it held up to 2.00 GB of memory)",
        ),
        (
            Death(-11, peak=GB, floor=GB),
            "its process was killed by signal 11 (SIGSEGV) (it held less than 1.00 GB of memory)",
        ),
        (
            Death(-9, peak=GB, limit=4 * GB),
            "its process was killed by signal 9 (SIGKILL) (it held up to 1.00 GB of memory)",
        ),
        (
            Death(-9, peak=39 * GB // 10, limit=4 * GB),
            "its process was killed by signal 9 (SIGKILL): it held up to 3.90 GB of memory of the 4.00 GB that there are, "
            "so want of memory may be why",
        ),
        (
            Death(-9, peak=300_000_000, limit=4 * GB, starved=True),
            "its process was killed by signal 9 (SIGKILL) when the system had to kill for want of memory: "
            "it held up to 300 MB of memory of the 4.00 GB that there are",
        ),
        (Death(-64), "its process was killed by signal 64"),
    ],
)
def test_what_ended_a_process_in_words(death: Death, words: str) -> None:
    assert str(death).startswith(words)


def test_packages_are_those_that_are_installed_here() -> None:
    found = profile_of(messages.KernelHello(b"", "", "", 1, 1, "", packages=packages(sys.path)))
    versions = dict(found.packages)
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
    assert len(head) < MAX_PACKAGES + 8192


def test_looking_takes_no_time() -> None:
    this_node()
    began = time.process_time()
    for _ in range(10):
        assert this_node(("gpu",), "ada", True).labels == ("gpu",)
    assert time.process_time() - began < 0.3  # importlib.metadata takes longer for one look


def test_a_node_of_nobody() -> None:
    assert Node() == Node(0, {}, (), "", False)

"""A broker whose allocators a test defines, watches and kills."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from park.batch.allocator_files import AllocatorFiles
from park.batch.profiles import ENDED, Profile, profile
from park.batch.systems import Allocation, cancel, look, own_user
from park.cli.park import main
from tests.support.fabric import Fabric, until

#: Times that suit a test.
FAST = ("--spacing", "0.3s", "--min-life", "0.3s", "--idle-timeout", "1s", "--grace", "0.3s")


class Site:
    """A broker with allocators for one batch system. The folder of its fake commands comes first on the path.

    *settings*: variables for all. *keys*: the broker listens on tcp, with *options* for it.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        system: str = "local",
        settings: dict[str, str] | None = None,
        keys: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        self.system: Profile = profile(system, {})
        self.commands = folder / "bin"
        self.commands.mkdir()
        path = f"{self.commands}{os.pathsep}{os.environ['PATH']}"
        settings = {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": path, **(settings or {})}
        self.fabric = Fabric(folder, *options, settings=settings, keys=keys)
        for name, value in {**settings, "XDG_CONFIG_HOME": str(self.fabric.config)}.items():
            monkeypatch.setenv(name, value)

    def command(self, name: str, text: str) -> None:
        """A command of a batch system."""
        (self.commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.commands / name).chmod(0o755)

    def configure(self, text: str) -> None:
        """The park.toml of the broker's user."""
        file = self.fabric.config / "park" / "park.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def alloc(self, *words: str, code: int = 0) -> str:
        """The output of ``park alloc``."""
        done = CliRunner().invoke(main, ["alloc", words[0], "--home", str(self.fabric.home), *words[1:]])
        assert done.exit_code == code, done.output
        return done.output

    def shown(self, name: str) -> dict[str, Any]:
        """An allocator as ``list`` shows it."""
        found = json.loads(self.alloc("list", "--json"))
        return next(dict(each) for each in found if each["name"] == name)

    def why(self, name: str) -> str:
        """Why it does nothing more, as its process has written it down."""
        return AllocatorFiles(self.fabric.home).record().why.get(name, "")

    def stages(self, name: str) -> list[str]:
        state = AllocatorFiles(self.fabric.home).record().states.get(name)
        return [str(a.stage) for a in state.allocations] if state is not None else []

    def story(self, name: str) -> Callable[[], str]:
        """The whole story, for a test that fails."""
        return lambda: f"{self.shown(name)}\n{self.alloc('log', name)}\n{self.fabric.broker.text}"

    @property
    def held(self) -> list[Allocation]:
        """The allocations of this broker that run."""
        prefix = f"park-{AllocatorFiles(self.fabric.home).record().broker or 'none'}-"
        return [
            a
            for a in look(self.system, own_user()).values()
            if a.name.startswith(prefix) and a.state != ENDED
        ]

    def process(self) -> int:
        """The process that runs the allocators; 0: there is none."""
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_text().split("\0")
            except OSError:
                continue
            if "alloc" in words and "run" in words and str(self.fabric.home) in words:
                return int(entry.parent.name)
        return 0

    def remove(self, name: str) -> None:
        """Remove the allocator, and wait until nothing of it is left."""
        self.alloc("remove", name)
        files = AllocatorFiles(self.fabric.home)
        until(lambda: name not in files.definitions(), why=lambda: self.fabric.broker.text)
        assert not self.held


@contextmanager
def opened(folder: Path, *given: Any, **options: Any) -> Iterator[Site]:
    """A site that leaves no allocation behind."""
    with pytest.MonkeyPatch.context() as patch:
        site = Site(folder, patch, *given, **options)
        try:
            with site.fabric:
                yield site
        finally:
            for left in site.held:
                cancel(site.system, left.id)
            until(lambda: not site.held)


def survive_kills(site: Site, *options: str) -> None:
    """Kill the allocator while the batch system is asked, and the broker when the kernels are up: there is one allocation
    all the time, and it goes on.
    """
    asked = site.commands / "asked"
    site.command("slowly", f'"$@" && echo $$ >> {asked} && sleep 1')
    submit = json.dumps([str(site.commands / "slowly"), *site.system.submit])
    server = f'server = "{site.system.server}"\n' if site.system.server else ""
    site.configure(f'[batch.here]\nsystem = "{site.system.base}"\n{server}submit = {submit}\n')
    site.alloc("add", "here", "one", *FAST, "--idle-timeout", "60s", *options)
    files = AllocatorFiles(site.fabric.home)
    job = site.fabric.connect().start(time.sleep, [0.1] * 2000)
    until(asked.exists, why=site.story("one"))
    os.kill(site.process(), signal.SIGKILL)
    until(lambda: site.stages("one") == ["up"], 60, site.story("one"))
    assert "was found again" in site.alloc("log", "one")
    (held,) = site.held
    site.fabric.broker.kill()
    until(lambda: not site.process())
    looked = files.record().looked
    site.fabric.start_broker()
    until(lambda: files.record().looked > looked, why=site.story("one"))
    until(lambda: site.why("one") == "it has as many allocations as it may: 1", 60, site.story("one"))
    service = site.fabric.connect()
    done = service.status(job).done
    until(lambda: service.status(job).done > done, 60, site.story("one"))
    assert [a.id for a in site.held] == [held.id]
    assert len(asked.read_text().split()) == 1
    service.abort(job)
    site.remove("one")

"""`park jobs -a` on a terminal says how many of the jobs are in the archive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from park.broker.entities.archive import RetentionPolicy
from park.broker.manager import JobManager
from park.core.connect import connect
from park.service import ServiceManager
from tests.support.fabric import until
from tests.support.terminal import Terminal


def test_jobs_a_counts_those_in_the_archive(tmp_path: Path) -> None:
    manager = ServiceManager(JobManager(keep=RetentionPolicy(jobs=2))).listen(home=tmp_path)
    manager.reactor.start("broker")
    address = manager.endpoints["clients"]
    try:
        with connect(address, "ann") as service, Terminal() as terminal:
            for tags in (["a"], ["b"], ["a"], [], []):
                service.abort(service.start(abs, [1], when=1000, tags=tags))
            until(lambda: len(service.table.jobs) == 2)

            def told(*words: str) -> str:
                command = [sys.executable, "-m", "park.cli.park", "jobs", "--broker", address, *words]
                env = os.environ | {"PARKTAG": "ann"}
                assert subprocess.run(command, stdout=terminal.slave, env=env, check=False).returncode == 0
                return terminal.text.splitlines()[-1]

            assert told("-a") == "5 jobs, 3 of them in the archive"
            assert told("-a", "-t", "a") == "2 jobs, 2 of them in the archive"
            assert "archive" not in told("-s", "aborted")
    finally:
        manager.close()

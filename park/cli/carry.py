"""Carries the results and the store of a private broker from the local disk of its node to a folder that lasts."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from park.errors import ParkError

if TYPE_CHECKING:
    from park.core.server import ServerProxy
    from park.model import JobRecord

#: Seconds between two copies of the store while jobs run, at least: a node may fail without a word.
MIN_COPY_SECONDS = 60.0
#: The part of the time that copies may take.
COPY_SHARE = 0.05
#: Seconds between two looks at the jobs.
JOBS_POLL_SECONDS = 0.5
#: The copy of the broker's store in the folder.
COPY = "jobs.backup"


class Carrier:
    """Carries to *folder* from the broker with the home *home*, which is connected as *service*."""

    def __init__(self, service: ServerProxy, home: Path, folder: Path) -> None:
        self._service = service
        self._home = home
        self._folder = folder
        self.copy = folder / COPY
        self._look_at = 0.0
        self._copy_at = time.monotonic() + MIN_COPY_SECONDS
        #: jobs that have ended, and were carried
        self._carried: set[int] = set()
        #: the last copy of the store has succeeded
        self.is_copied = False
        self._said = ""

    def turn(self, now: float) -> None:
        """Carry what is due: results when their job has ended, and with them the store."""
        if now < self._look_at:
            return
        ended = self.results()
        if ended or now >= self._copy_at:
            self.copy_store()
        self._look_at = time.monotonic() + JOBS_POLL_SECONDS

    def results(self) -> bool:
        """Write the results of the jobs that have ended since the last time; whether there were any."""
        try:
            records = self._service.records(archived=True)
        except ParkError as error:
            self._warn(f"the jobs of the broker are not known: {error}")
            return False
        ended = [record for record in records if record.state.ended and record.job not in self._carried]
        for record in ended:
            self._carried.add(record.job)
            if record.state == "complete" or (record.state == "failed" and record.done):
                self._write(record)
        return bool(ended)

    def _write(self, record: JobRecord) -> None:
        """Write a result: a fit's as bumps' files, any other pickled."""
        from park.cli.commands.waiting import FIT_KINDS

        where = self._folder / f"job-{record.job}"
        pickled = where.with_suffix(".pickle")
        if not where.exists() and not pickled.exists():
            how = ["--save", str(where)] if record.kind in FIT_KINDS else ["-o", str(pickled)]
            command = [sys.executable, "-m", "park.cli.park", "fetch", str(record.job), *how]
            subprocess.run(command, stdin=subprocess.DEVNULL, check=False)

    def copy_store(self) -> None:
        """Copy the broker's store, whole or not at all."""
        from park.broker.storage.backup import back_up

        began, new = time.monotonic(), self.copy.with_name(f"{self.copy.name}.new")
        try:
            new.unlink(missing_ok=True)
            back_up(self._home, new)
            new.replace(self.copy)
        except (OSError, ParkError) as error:
            self._warn(f"the store of the broker was not copied: {error}")
            self.is_copied = False
        else:
            self.is_copied = True
        now = time.monotonic()
        self._copy_at = now + max(MIN_COPY_SECONDS, (now - began) / COPY_SHARE)

    def _warn(self, text: str) -> None:
        from park.util.stdio import tell

        if text != self._said:
            self._said = text
            tell(f"park-kernel: {text}", "warning")

"""Stores that each release leaves behind: ``python -m tests.support.stores`` makes the one of this release, once.

`tests/support/data/stores` has a store of each schema, packed, and what must be found in it. A new schema adds a pair of
files;
those that are there stay as they were written.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from park.broker.manager import JobManager
from park.broker.storage.store import NAMESPACES, SCHEMA, JobStore
from tests.sim.wire import WALL
from tests.sim.world import World

FOLDER = Path(__file__).parent / "data" / "stores"


def live(home: Path) -> None:
    """A little life of a broker: jobs of all kinds, some of which have ended."""
    world = World(store=lambda: JobStore(home))
    world.kernel(2)
    client = world.client("ann")
    ended = [
        client.submit("square", [1, 2, 3], tags=["first"]),
        client.submit("fails", [3, 1]),
        client.submit("driver"),
    ]
    world.until(lambda: all(r.done and world.dispatcher.state.jobs[r.job].ended for r in ended))
    half = client.submit("square", list(range(30)))
    world.until(lambda: half.done and world.dispatcher.state.jobs[half.job].done >= 5)
    rest = [
        client.submit("square", [7], after=[half.job]),
        client.submit("square", [8], when=WALL + 1e6),
        client.submit("square", [9], idempotent=False, priority=2),
        client.submit("square", [1], closed=False),
    ]
    world.until(lambda: all(r.done for r in rest))
    world.manager.close()


def found(home: Path) -> dict[str, Any]:
    """The content of the store as a broker finds it."""
    store = JobStore(home)
    try:
        records = {namespace: store.count(namespace) for namespace in NAMESPACES}
        identity = store.id
        manager = JobManager(store)
        manager.restore(1.0, WALL + 1000.0)
        manager.dispatcher.check()
        jobs = {
            str(n): [
                job.owner,
                str(job.state),
                job.done,
                job.failed,
                list(job.record.tags),
                list(job.record.after),
            ]
            for n, job in manager.dispatcher.state.jobs.items()
        }
        return {"id": identity, "records": records, "jobs": jobs}
    finally:
        store.close()


def main() -> None:
    packed = FOLDER / f"schema-{SCHEMA}.mdb.gz"
    if packed.exists():
        raise SystemExit(f"{packed} is there: stores of old releases stay as they were written")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        live(home)
        packed.write_bytes(gzip.compress((home / "jobs.mdb").read_bytes(), mtime=0))
        text = json.dumps(found(home), indent=1, sort_keys=True)
        packed.with_name(f"schema-{SCHEMA}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

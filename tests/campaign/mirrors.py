"""Many mirrors in one process: ``python -m tests.campaign.mirrors USER URL ...`` follows the table, once for each URL.

For each line that comes in it prints what its mirrors show: a JSON list of [stale, seq, digest].
"""

from __future__ import annotations

import hashlib
import json
import sys

import park
from park.client.live_table import LiveTable
from tests.campaign.client import patiently


def digest(table: LiveTable) -> str:
    """The whole table in a word."""
    rows = [
        repr([(key, value.as_map()) for key, value in sorted(room.items())])
        for room in (table.jobs, table.kernels, table.owners)
    ]
    return hashlib.blake2b("\n".join(rows).encode(), digest_size=16).hexdigest()


def shown(table: LiveTable) -> list[object]:
    """The rows that a mirror shows."""
    return [table.stale, table.seq, digest(table)]


if __name__ == "__main__":
    user, *urls = sys.argv[1:]
    services = [patiently(lambda u=url: park.connect(u, user=user)) for url in urls]  # type: ignore[misc]
    tables = [service.table for service in services]
    print("following", flush=True)
    for _ in sys.stdin:
        print(json.dumps([shown(table) for table in tables]), flush=True)
    for service in services:
        service.close()

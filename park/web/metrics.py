"""``/metrics``: numbers of the fabric for Prometheus, without names of people or jobs."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class FabricCollector(Collector):
    """*look* gives the numbers at the time of a request."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Any]:
        """The families."""
        seen = self._look()
        jobs = GaugeMetricFamily("park_jobs", "Jobs in the table, by state", labels=["state"])
        for state, count in seen["states"].items():
            jobs.add_metric([state], count)
        yield jobs
        for name, help_, value in (
            ("park_slots", "Slots of all kernels", seen["slots"]),
            ("park_slots_busy", "Slots that are busy", seen["busy"]),
            ("park_kernels", "Kernels that are connected", seen["kernels"]),
            ("park_broker_stale", "1 while there is no sign of the broker", int(seen["stale"])),
            ("park_broker_answer_seconds", "The time of the broker's last answer", seen["answer"]),
            ("park_broker_commit_seconds", "The time of the broker's last write to its disk", seen["commit"]),
            (
                "park_broker_clients",
                "Clients of the broker, mirrors of its table among them",
                seen["clients"],
            ),
            ("park_table_changes", "The number of the last change of the table", seen["seq"]),
            ("park_web_streams", "Browsers that follow the page", seen["streams"]),
            ("park_web_resident_bytes", "Memory of this process", resident_bytes()),
        ):
            yield GaugeMetricFamily(name, help_, value)
        for name, help_, value in (
            ("park_units_done", "Units that were answered since this process began", seen["done"]),
            ("park_web_deltas", "Deltas that were sent to browsers", seen["deltas"]),
        ):
            yield CounterMetricFamily(name, help_, value)


def exposition(look: Callable[[], dict[str, Any]]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FabricCollector(look))
    return generate_latest(registry)


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0

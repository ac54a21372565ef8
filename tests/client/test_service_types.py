"""Services and jobs of a user's own: inherited, installed, and found again."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import park
from park.errors import InvalidRequest
from park.fit import Assembly, Fit, Model
from tests.support.fabric import Fabric


class LineService(park.ServerProxy):
    """Fits straight lines."""

    def fit_line(self, x: Any, y: Any, **fields: Any) -> Fit:
        def line(x: Any, slope: float, floor: float) -> Any:
            return slope * x + floor

        model = Model(line, slope=(-10.0, 10.0), floor=(-10.0, 10.0))
        return Fit(Assembly((model, (np.asarray(x), np.asarray(y)))), "lm", service=self, **fields)


def test_a_service_type_over_the_local_service() -> None:
    with LineService(park.local_service) as service:
        assert park.default_service() is service
        job = service.fit_line([0, 1, 2, 3], [1, 3, 5, 7], tags="of-a-service-type")
        assert job.wait(50).x == pytest.approx([2, 1])
        assert service.wait() is not None, "the last job of this thread is its own"
        assert [j.id for j in service.jobs("of-a-service-type")] == [job.id]
        assert list(service.map(abs, [-1])) == [1]
        with pytest.raises(InvalidRequest, match="the local service has one kernel only"):
            service.drain(1)
    assert "LineService <LocalService" in repr(service)


def test_a_service_type_over_a_broker(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        service = LineService(fabric.connect())
        job = service.fit_line([0, 1, 2], [1, 3, 5])
        assert job.wait(50).x == pytest.approx([2, 1])
        assert service.job(job.id).record.kind == "fit"


PEAKS = """
import park

def count(n):
    return n

class Peaks(park.Job):
    def __init__(self, n, service):
        park.Job.__init__(self, service, service.start(count, [n], kind="peaks"))

    def widest(self):
        return self.wait(50)[0]

class Stranger:
    pass
"""


def test_the_record_names_a_class_that_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peaks_of_ours.py").write_text(PEAKS)
    installed = tmp_path / "peaks_of_ours-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: peaks-of-ours\nVersion: 1.0\n")
    entries = "[park.jobs]\npeaks = peaks_of_ours:Peaks\n"
    entries += "strange = peaks_of_ours:Stranger\ngone = no_such_module:Peaks\n"
    (installed / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    peaks: Any = importlib.import_module("peaks_of_ours")
    with park.local_service as service:
        made = peaks.Peaks(7, service)
        found = service.job(made.id)
        assert type(found) is peaks.Peaks
        assert found.widest() == 7
        (listed,) = [job for job in service.jobs() if job.id == made.id]
        assert type(listed) is peaks.Peaks
        for kind in ("strange", "gone", "unheard_of"):
            job = service.job(service.start(abs, [-1], kind=kind))
            assert type(job) is park.Job
            assert job.wait(50) == [1]
    del sys.modules["peaks_of_ours"]

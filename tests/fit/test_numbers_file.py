"""The file of numbers that a fit keeps with its job."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import json

import park
from park.errors import LimitReached
from park.fit import Assembly, Model
from park.fit.results.numbers_file import MAX_DRAWS, MAX_POINTS, MODELS, NAME, keep_numbers, numbers, zipped
from park.model import Log
from tests.support.fits import Env, assembly, fit, sample


def kept(env: Env) -> dict[str, Any]:
    found: dict[str, Any] = json.decode(env.store[NAME])
    return found


def test_a_fit_keeps_its_numbers() -> None:
    env = Env()
    result = fit(assembly(), "amoeba", env)
    found = kept(env)
    assert found["chisq"] == pytest.approx(result.chisq, rel=1e-6)
    assert [row["name"] for row in found["parameters"]] == list(result.names)
    assert found["parameters"][0]["value"] == pytest.approx(result.x[0], rel=1e-6)
    low, high = found["parameters"][0]["inner"]
    assert low < result.x[0] < high
    (line,) = found["curves"][0]["lines"]
    assert len(line["x"]) == len(line["data"]) == len(line["fit"]) == len(line["residuals"])
    assert line["residuals"][3] == pytest.approx((line["data"][3] - line["fit"][3]) / line["dy"][3], abs=1e-4)
    assert len(found["convergence"]) == len(result.convergence)
    assert found["correlations"][0][0] == pytest.approx(1.0)
    assert "draws" not in found


def test_the_ends_of_starts_are_kept_with_the_best_first() -> None:
    ends = np.array([[4.0, 1.0, 2.0], [np.nan, np.nan, np.nan], [3.0, 1.5, 2.5]])
    found = numbers(replace(fit(assembly(), "lm"), starts=ends, nllf=3.0))
    assert found["starts"] == [[3, 3.0, 1.5, 2.5], [1, 4.0, 1.0, 2.0], [2, None, None, None]]
    assert (found["starts_at_best"], found["starts_made"]) == (1, 3)


def test_a_sampling_keeps_draws_and_histograms() -> None:
    env = Env()
    result = sample(assembly(), env=env, samples=3000, burn=100, init="eps", max_samples=3000)
    found = kept(env)
    assert result.draws is not None
    assert found["count"] == len(result.draws)
    assert len(found["draws"]) == min(MAX_DRAWS, len(result.draws))
    for marginal in found["marginals"]:
        assert len(marginal["edges"]) == len(marginal["counts"]) + 1
        assert sum(marginal["counts"]) >= 0.99 * len(result.draws)


def test_long_data_are_thinned_and_images_are_coarse() -> None:
    env = Env()
    x = np.linspace(0, 1, 20_000)
    line = Assembly((Model(lambda x, a: a * x, a=(0.0, 5.0)), (x, 2 * x)))
    fit(line, "lm", env)
    (long,) = kept(env)["curves"][0]["lines"]
    assert (len(long["x"]), long["x"][0], long["x"][-1]) == (MAX_POINTS, 0.0, 1.0)
    up, across = np.mgrid[0:120, 0:130].astype(float)
    image = Assembly((Model(lambda x, a: a * x[0] + x[1], a=(0.0, 5.0)), ((across, up), 2 * across + up)))
    env = Env()
    fit(image, "lm", env)
    found = kept(env)["curves"][0]["image"]
    assert len(found["data"]) == 60
    assert len(found["data"][0]) == 65
    assert len(env.store[NAME]) < 500_000


def test_a_fit_without_room_for_the_file_ends_well() -> None:
    class Full(dict[str, bytes]):
        def __setitem__(self, name: str, data: bytes) -> None:
            raise LimitReached("no bytes are left")

    env = Env()
    env.store = Full()
    fit(assembly(), "amoeba", env)
    assert any("no bytes are left" in log.text for log in env.of(Log))


def test_files_of_models_become_one_archive() -> None:
    data = zipped({"-1-refl.dat": zlib.compress(b"0 1"), "-1-profile.dat": zlib.compress(b"2 3")})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "fit-1-refl.dat": b"0 1",
            "fit-1-profile.dat": b"2 3",
        }
    env = Env()
    result = fit(assembly(), "lm")
    keep_numbers(replace(result, files={"-1-refl.dat": zlib.compress(b"0 1")}), env)
    assert set(env.store) == {NAME, MODELS}


def test_the_file_lies_with_the_job() -> None:
    job = park.Fit(assembly(), "lm", service=park.local_service)
    result = job.wait(60)
    assert json.decode(job.files[NAME])["nllf"] == pytest.approx(result.nllf, rel=1e-6)

"""Pools for tools that take one, and joblib's backend: the same numbers as without."""

from __future__ import annotations

import inspect
import multiprocessing.pool
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import park
from park.client.pool import Pool
from park.local import LocalService


@pytest.fixture
def pool(service: LocalService) -> Iterator[Pool]:
    with service.pool() as pool:
        yield pool


def square(x: float) -> float:
    return x * x


def inverse(x: float) -> float:
    return 1 / x


# -- a pool --------------------------------------------------------------------------------------


def test_a_pool_does_what_that_of_multiprocessing_does(pool: Pool) -> None:
    with multiprocessing.pool.ThreadPool(2) as other:
        uses: list[Any] = [
            lambda p: p.map(square, range(20)),
            lambda p: p.map(square, iter(range(20)), 3),
            lambda p: p.map(square, []),
            lambda p: p.starmap(pow, [(2, 3), (3, 2)]),
            lambda p: p.apply(pow, (2, 8)),
            lambda p: p.apply(int, ("ff",), {"base": 16}),
            lambda p: list(p.imap(square, iter(range(9)))),
            lambda p: sorted(p.imap_unordered(square, range(9))),
            lambda p: p.map_async(square, range(5)).get(60),
            lambda p: p.starmap_async(pow, [(2, 3)]).get(60),
            lambda p: p.apply_async(pow, (2, 3)).get(60),
        ]
        for use in uses:
            assert use(pool) == use(other)
        fails: list[Any] = [
            lambda p: p.map(inverse, [1, 0, 2]),
            lambda p: p.apply(inverse, (0,)),
            lambda p: p.apply_async(inverse, (0,)).get(),
            lambda p: p.map_async(inverse, [0]).get(),
            lambda p: list(p.imap(inverse, [1, 0])),
        ]
        for use in fails:
            for each in (pool, other):
                with pytest.raises(ZeroDivisionError):
                    use(each)


def test_an_iterator_of_a_pool_goes_on_behind_what_failed_and_what_came_late(pool: Pool) -> None:
    results = pool.imap(inverse, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [0.5]
    late = pool.imap(time.sleep, [0.4])
    with pytest.raises(multiprocessing.TimeoutError):
        late.next(0.05)
    assert late.next(30) is None
    with pytest.raises(StopIteration):
        late.next()


def test_callbacks_are_told_how_a_call_has_ended(pool: Pool) -> None:
    told: list[Any] = []
    words: dict[str, Any] = {"callback": told.append, "error_callback": lambda e: told.append(type(e))}
    good, bad = pool.apply_async(square, (3,), **words), pool.map_async(inverse, [0], **words)
    with pytest.raises(ZeroDivisionError):
        bad.get(30)
    assert good.get(30) == 9
    good.wait()
    assert good.ready()
    assert good.successful()
    assert not bad.successful()
    slow = pool.apply_async(time.sleep, (0.5,))
    with pytest.raises(multiprocessing.TimeoutError):
        slow.get(0.01)
    with pytest.raises(ValueError, match="not ready"):
        slow.successful()
    slow.wait()
    assert sorted(map(str, told)) == ["9", "<class 'ZeroDivisionError'>"]


def test_a_pool_ends_as_that_of_multiprocessing(service: LocalService, tmp_path: Path) -> None:
    def note(x: int) -> None:
        time.sleep(0.05)
        (tmp_path / str(x)).touch()

    pool = service.pool(priority="low")
    assert pool.size == pool._processes == pool._max_workers == service.slots == 2
    pool.map_async(note, range(3)).wait()
    pool.apply_async(note, (7,))
    with pytest.raises(ValueError, match="close"):
        pool.join()
    pool.close()
    with pytest.raises(ValueError, match="closed"):
        pool.map(square, [1])
    pool.join()
    assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(NotImplementedError, match="make one where it is used"):
        pickle.dumps(pool)
    with service.pool() as pool:
        endless = pool.apply_async(time.sleep, (60,))
    with pytest.raises(park.ParkError):
        endless.get(10)


# -- tools ---------------------------------------------------------------------------------------


def log_likelihood(x: Any) -> float:
    return float(-0.5 * np.sum((np.asarray(x) - [1.0, -0.5]) ** 2 / [0.2, 0.1]))


def unit_cube(u: Any) -> Any:
    return 10.0 * np.asarray(u) - 5.0


def rosenbrock(x: Any) -> float:
    return float(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2)


def test_scipy_takes_a_pool(pool: Pool) -> None:
    from scipy.optimize import differential_evolution

    # scipy before 1.15 calls it so
    seed: dict[str, Any] = {
        "rng" if "rng" in inspect.signature(differential_evolution).parameters else "seed": 1
    }
    found = [
        differential_evolution(
            rosenbrock, [(-2, 2)] * 2, workers=workers, updating="deferred", maxiter=5, polish=False, **seed
        )
        for workers in (pool.map, map)
    ]
    assert found[0].x.tolist() == found[1].x.tolist()


def test_emcee_takes_a_pool_and_a_service(service: LocalService, pool: Pool) -> None:
    import emcee

    start = np.random.default_rng(1).normal(size=(8, 2))
    chains = []
    for given in (None, pool, service):
        sampler = emcee.EnsembleSampler(8, 2, log_likelihood, pool=given)
        sampler.random_state = np.random.RandomState(2).get_state()
        sampler.run_mcmc(start, 6)
        chains.append(sampler.get_chain())
    assert np.array_equal(chains[0], chains[1])
    assert np.array_equal(chains[0], chains[2])


@pytest.mark.filterwarnings("ignore")  # of dynesty, that it was stopped early
def test_dynesty_takes_a_pool(pool: Pool) -> None:
    import dynesty

    found = []
    for given in (pool, None):
        sampler = dynesty.NestedSampler(
            log_likelihood,
            unit_cube,
            2,
            nlive=20,
            pool=given,
            queue_size=2 if given is not None else None,
            rstate=np.random.default_rng(3),
            sample="unif",
        )
        sampler.run_nested(maxiter=40, print_progress=False)
        found.append(sampler.results.logz[-1])
    assert found[0] == pytest.approx(found[1], abs=1.5)  # it proposes two at a time, where there are two
    assert np.isfinite(found).all()


def residual(parameters: Any, x: Any, y: Any) -> Any:
    return parameters["a"] * np.exp(-parameters["b"] * x) - y


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # of emcee, that six steps are few
def test_lmfit_takes_a_pool(pool: Pool) -> None:
    import lmfit

    x = np.linspace(0, 3, 20)
    y = 2.0 * np.exp(-0.7 * x)
    chains = []
    for workers in (pool, 1):
        parameters = lmfit.create_params(
            a={"value": 1.9, "min": 0, "max": 5}, b={"value": 0.6, "min": 0, "max": 3}
        )
        fit = lmfit.Minimizer(residual, parameters, fcn_args=(x, y))
        found = fit.emcee(
            steps=6, nwalkers=8, burn=0, seed=4, workers=workers, progress=False, is_weighted=False
        )
        chains.append(found.chain)
    assert np.array_equal(*chains)


# -- joblib --------------------------------------------------------------------------------------


def test_joblib_knows_the_backend_when_a_service_is_entered(service: LocalService) -> None:
    with joblib.parallel_config(backend="park"):
        assert joblib.Parallel()(joblib.delayed(square)(x) for x in range(20)) == [x * x for x in range(20)]
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.effective_n_jobs(-2) == 1
        with pytest.raises(ValueError, match="n_jobs == 0"):
            joblib.Parallel(n_jobs=0)(joblib.delayed(square)(x) for x in range(2))
    with pytest.raises(park.InvalidRequest, match="is no service"):
        joblib.parallel_config(backend="park", service=3)


def nested_here(n: int) -> list[float]:
    return list(joblib.Parallel(backend="park")(joblib.delayed(square)(x) for x in range(n)))


def begin(value: str) -> None:
    os.environ["BEGUN"] = os.environ.get("BEGUN", "") + value


def nested(n: int) -> list[float]:
    return list(joblib.Parallel(n_jobs=2)(joblib.delayed(square)(x) for x in range(n)))


def test_joblib_s_promises_hold(service: LocalService, tmp_path: Path) -> None:
    def slow(x: float) -> float:
        time.sleep(x)
        return x

    def note(x: int) -> None:
        (tmp_path / str(x)).touch()
        time.sleep(0.02)

    with joblib.parallel_config(backend="park", priority="low"):
        run, d = joblib.Parallel(n_jobs=2), joblib.delayed
        with pytest.raises(ZeroDivisionError):
            run(d(inverse)(x) for x in (1, 0, 2))
        assert run(d(nested)(n) for n in (2, 3)) == [[0, 1], [0, 1, 4]]
        assert run(d(nested_here)(n) for n in (2, 3)) == [[0, 1], [0, 1, 4]]
        begun = joblib.Parallel(n_jobs=2, initializer=begin, initargs=("once",))(
            d(os.getenv)("BEGUN") for _ in range(20)
        )
        assert begun == ["once"] * 20
        with joblib.Parallel(n_jobs=2) as several:  # one session for several calls, also after one has failed
            assert several(d(square)(x) for x in range(3)) == [0, 1, 4]
            with pytest.raises(ZeroDivisionError):
                several(d(inverse)(x) for x in (0, 1))
            assert several(d(square)(x) for x in range(3)) == [0, 1, 4]
        assert list(joblib.Parallel(n_jobs=2, return_as="generator")(d(square)(x) for x in range(9))) == [
            x * x for x in range(9)
        ]
        found = joblib.Parallel(n_jobs=2, return_as="generator_unordered")(d(slow)(x) for x in (0.5, 0.0))
        assert sorted(found) == [0.0, 0.5]
        with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
            joblib.Parallel(n_jobs=2, timeout=0.2)(d(slow)(x) for x in (3.0, 3.0))
        with pytest.raises(ZeroDivisionError):  # what has not begun never will
            joblib.Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)(
                [d(inverse)(0), *(d(note)(x) for x in range(100))]
            )
    assert len(list(tmp_path.iterdir())) < 60
    array = np.arange(1000.0).reshape(100, 10)
    with joblib.parallel_config(backend="park", inner_max_num_threads=1):
        sums = joblib.Parallel(n_jobs=2)(joblib.delayed(np.sum)(row) for row in array)
    assert sums == array.sum(axis=1).tolist()


@pytest.mark.heavy
def test_scikit_learn_searches_on_the_fabric(service: LocalService) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    y = x @ [1.0, 2.0, 0.0] + random.normal(size=40)
    search = GridSearchCV(Ridge(), {"alpha": [0.01, 0.1, 1.0, 10.0]}, cv=3, n_jobs=2)
    alone = GridSearchCV(Ridge(), search.param_grid, cv=3).fit(x, y)
    with joblib.parallel_config(backend="park"):
        search.fit(x, y)
    assert search.best_params_ == alone.best_params_
    assert np.array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])

"""Random numbers of units: all bits of a seed count, no process and no chunk does, and drivers keep their place."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import numpy.random
import pytest

import park
from park.body.generators import Generators, seed
from park.body.seeds import mix, preparation_seed
from park.local import LocalService


@pytest.fixture(autouse=True)
def state() -> Iterator[None]:
    """Other tests find the generators of this process as they were."""
    generators = Generators(keep=True)
    yield
    generators.restore()


def numbers() -> tuple[float, ...]:
    """Numbers of both generators; three normal ones, so that one is left over for the next call."""
    return (random.random(), random.gauss(0, 1), *np.random.random(3), *np.random.normal(size=3))


# -- all bits ------------------------------------------------------------------------------------


def test_seeds_that_share_their_lower_half_give_other_numbers() -> None:
    drawn = set()
    for high in range(2000):
        seed(high << 32 | 0x5EED)
        drawn.add((random.random(), np.random.random()))
    assert len({numbers[0] for numbers in drawn}) == len({numbers[1] for numbers in drawn}) == 2000


def test_each_bit_of_a_seed_changes_most_of_numpys_state() -> None:
    seed(0x1234_5678_9ABC_DEF0)
    first = np.random.get_state()[1]
    for bit in range(64):
        seed(0x1234_5678_9ABC_DEF0 ^ 1 << bit)
        assert np.count_nonzero(np.random.get_state()[1] != first) > 300


@pytest.mark.parametrize("jobs", [1, pytest.param(10, marks=pytest.mark.heavy)])
def test_no_two_units_have_one_seed_or_one_state(jobs: int) -> None:
    seeds = {mix(mix(job, step), unit) for job in range(jobs) for step in range(50) for unit in range(1000)}
    seeds |= {mix(job, unit) for job in range(jobs, 2 * jobs) for unit in range(50_000)}
    assert len(seeds) == jobs * 100_000
    generators, states = Generators(keep=False), set()
    for number in sorted(seeds)[:: 50 // jobs]:
        generators.seed(number)
        states.add(np.random.get_state()[1][:8].tobytes())
    generators.restore()
    assert len(states) == jobs * jobs * 2000


def test_the_numbers_are_spread_as_random_ones_are() -> None:
    drawn = []
    for number in range(10_000):
        seed(mix(3, number))
        drawn.append(np.random.random(2))
    cells, *_ = np.histogram2d(*np.array(drawn).T, bins=10, range=[(0, 1), (0, 1)])
    assert 50 < np.sum((cells - 100) ** 2 / 100) < 170  # chi-squared of 99 degrees of freedom


@pytest.mark.parametrize("drawn", [0, 1, 2, 3])
def test_numpys_generator_is_put_back_whole(drawn: int) -> None:
    np.random.seed(11)
    np.random.normal(size=drawn)  # an odd number leaves one for the next call
    kept = Generators(keep=True)
    before = np.random.get_state(legacy=False)
    expected = np.random.normal(size=1000)
    np.random.normal(size=1 - drawn % 2)
    kept.restore()
    after = np.random.get_state(legacy=False)
    assert np.array_equal(before["state"].pop("key"), after["state"].pop("key"))
    assert before == after
    assert np.array_equal(np.random.normal(size=1000), expected)


def test_seed_zero_and_long_seeds_work() -> None:
    for number in (0, 2**64 - 1, 2**63, 2**200 + 1):
        seed(number)
        first = numbers()
        seed(number)
        assert numbers() == first
        assert np.ptp(np.random.random(1000)) > 0.9


# -- the same numbers ----------------------------------------------------------------------------


def test_what_a_unit_has_left_over_does_not_reach_the_next() -> None:
    seed(11)
    first = numbers()
    numbers()
    random.gauss(0, 1)
    np.random.normal()
    seed(11)
    assert numbers() == first


def test_a_driver_goes_on_where_it_was_after_chunks_of_its_map() -> None:
    driver = Generators(keep=False)
    driver.seed(5)
    np.random.normal(), random.gauss(0, 1)
    expected = Generators(keep=True)
    following = numbers()
    expected.restore()
    chunk = Generators(keep=True)
    chunk.seed(99)
    numbers()
    chunk.restore()
    assert numbers() == following
    driver.restore()


def test_another_bit_generator_of_numpy_is_seeded_too() -> None:
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(1))
        chunk = Generators(keep=True)
        chunk.seed(2**63 + 8)
        first = np.random.random(4).tolist()
        chunk.seed(8)
        assert np.random.random(4).tolist() != first
        chunk.seed(2**63 + 8)
        assert np.random.random(4).tolist() == first
        np.random.set_bit_generator(before)
        chunk.restore()
        assert isinstance(np.random.get_bit_generator(), np.random.PCG64)
    finally:
        np.random.set_bit_generator(before)


LATE = """
import sys
from park.body.generators import Generators, seed, watch
watch()
driver = Generators(keep=False)
driver.seed({unit})
if {unit} == 5:
    seed(2**63 + 1)  # a body that sows for itself
assert "numpy.random" not in sys.modules
if {inside}:
    chunk = Generators(keep=True)
    chunk.seed(2**63 + 7)
    import numpy.random
    print(numpy.random.random())
    chunk.restore()
import numpy.random
print(numpy.random.random())
"""


def test_a_generator_is_seeded_when_a_unit_imports_it() -> None:
    """Also the driver's, which a chunk of its map has imported first."""

    def run(inside: bool, unit: int = 2**63 + 1) -> list[float]:
        script = LATE.format(inside=inside, unit=unit)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return [float(line) for line in done.stdout.split()]

    seed(2**63 + 1)
    driver = np.random.random()
    seed(2**63 + 7)
    assert run(True) == [np.random.random(), driver]
    assert run(False) == [driver]
    assert run(False, unit=5) == [driver]
    assert run(True, unit=5)[1] == driver


def test_compiled_functions_draw_by_the_seed() -> None:
    """numba's functions have generators of their own."""
    numba = pytest.importorskip("numba", reason="numba is not installed: refl1d brings it")

    @numba.njit  # type: ignore[untyped-decorator]
    def compiled() -> tuple[float, float, float]:
        return np.random.normal(), np.random.random(), random.random()

    chunk = Generators(keep=True)
    chunk.seed(2**40 + 1)
    first, second = compiled(), compiled()
    assert first[1] != first[2]
    chunk.seed(1)
    assert compiled() != first
    chunk.seed(2**40 + 1)
    assert compiled() == first
    inner = Generators(keep=True)
    inner.seed(3)
    compiled()
    inner.restore()
    assert compiled() == second
    chunk.restore()


# -- on the fabric -------------------------------------------------------------------------------


class Noisy:
    """A body that draws when it is unpickled and prepared, and in each unit."""

    def __setstate__(self, state: object) -> None:
        self.drawn = np.random.random()

    def __getstate__(self) -> dict[str, bool]:
        return {"travels": True}

    def prepare(self, env: object) -> None:
        self.level = np.random.random(), park.environment().seed

    def run(self, x: int) -> tuple[object, ...]:
        return (x, self.drawn, self.level, *numbers(), park.environment().seed)


class Generation:
    """A driver that draws between two maps."""

    def run(self) -> list[object]:
        env, found = park.environment(), []
        for _ in range(2):
            found += [np.random.normal(), *env.map(Noisy(), range(6))]
        return found


def test_any_number_of_slots_and_any_rerun_give_the_same_numbers() -> None:
    results = []
    for slots in (1, 2):
        service = LocalService()
        service.configure(slots=slots)
        with service:
            one = service.wait(service.start(Noisy(), range(40), seed=2**62 + 3))
            assert service.wait(service.start(Noisy(), range(40), seed=2**62 + 3)) == one
            assert service.wait(service.start(Noisy(), range(40), seed=4)) != one
            results.append((one, service.wait(service.start(Generation(), seed=9))))
        service.close()
    assert results[0] == results[1]
    units = results[0][0]
    assert len({unit[3:] for unit in units}) == 40
    assert len({unit[1:3] for unit in units}) == 1  # prepared alike in each process


def test_preparing_depends_on_the_job_or_on_the_code() -> None:
    assert (
        preparation_seed(1, b"12345678")
        == preparation_seed(1, b"87654321")
        != preparation_seed(2, b"12345678")
    )
    assert preparation_seed(None, b"12345678") != preparation_seed(None, b"87654321")


# -- what is not used costs nothing --------------------------------------------------------------


def test_a_slot_process_seeds_random_only_for_units_that_load_it() -> None:
    program = """
import sys, park.slot.slot
from park.body.generators import Generators, watch
assert "random" not in sys.modules, "each unit of every map would pay for its seed"
watch()
drawn = []
generators = Generators(keep=False)
for number in (7, 8, 7):
    generators.seed(number)
    import random
    drawn.append(random.random())
generators.restore()
assert drawn[0] == drawn[2] != drawn[1], drawn
"""
    subprocess.run([sys.executable, "-c", program], check=True)

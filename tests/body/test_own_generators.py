"""Random generators that travel with a function: their numbers depend on the unit's seed alone."""

from __future__ import annotations

import functools
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.body.own_generators import MAX_OBJECTS, OwnGenerators

rng = np.random.default_rng(7)
old = np.random.RandomState(3)
plain = random.Random(1)
#: defaults of parameters, one of each kind
DEFAULTS: Any = (np.random.default_rng(2), np.random.Generator(np.random.Philox(2)), np.random.SFC64(1))
several = [np.random.default_rng(number) for number in range(3)]


def helper() -> float:
    return float(rng.normal())


class Simulation:
    def __init__(self) -> None:
        self.inside = {"rng": np.random.Generator(np.random.MT19937(5))}

    def __call__(self, unit: int) -> float:
        return float(self.inside["rng"].normal())


class Body:
    def prepare(self, env: Any) -> None:
        self.rng = np.random.default_rng()

    def run(self, unit: int) -> float:
        return float(self.rng.random())


def prepared() -> Body:
    body = Body()
    body.prepare(None)
    return body


def closed_over() -> Callable[[int], float]:
    inner = np.random.Generator(np.random.PCG64DXSM(2))
    return lambda unit: float(inner.normal())


simulation = Simulation()
FUNCTIONS: dict[str, Any] = {
    "a global variable": lambda unit: rng.normal(),
    "RandomState": lambda unit: old.normal(),
    "random.Random": lambda unit: plain.gauss(0, 1),
    "another function": lambda unit: helper(),
    "one of a list": lambda unit: several[unit % 3].random(),
    "an object": Simulation(),
    "an object by name": lambda unit: simulation(unit),
    "a method": Simulation().__call__,
    "a partial": functools.partial(lambda g, unit: g.random(), np.random.default_rng(2)),
    "a default": lambda unit, g=DEFAULTS[0]: g.random(),
    "a keyword": lambda unit, *, g=DEFAULTS[1]: g.random(),
    "a closure": closed_over(),
    "a function inside": lambda unit: [rng.normal() for _ in range(2)][1],
    "a bit generator": lambda unit, bits=DEFAULTS[2]: bits.random_raw(),
    "a prepared body": prepared(),
}


def call(function: Any, unit: int) -> Any:
    return function.run(unit) if hasattr(function, "run") else function(unit)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=5, unique=True), before=st.integers(0, 3)
)
def test_numbers_depend_on_the_seed_alone(name: str, seeds: list[int], before: int) -> None:
    function = FUNCTIONS[name]
    own = OwnGenerators(function)
    found = []
    for _ in range(2):
        drawn = []
        for seed in seeds:
            own.seed(seed)
            drawn.append([call(function, 1) for _ in range(2)])
        found.append(drawn)
        for _ in range(before):
            call(function, 1)
    assert found[0] == found[1]
    assert len({str(drawn) for drawn in found[0]}) == len(seeds)
    assert all(first != second for first, second in found[0])


def test_generators_of_one_function_draw_different_numbers() -> None:
    own = OwnGenerators(lambda: (rng, several))
    own.seed(5)
    assert len({each.random() for each in (rng, *several)}) == 4


def test_global_generators_and_those_of_libraries_are_left_alone() -> None:
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    own = OwnGenerators(lambda unit: (random.random(), np.random.rand(), random._inst))  # type: ignore[attr-defined]
    assert not own
    own.seed(3)
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()) == before


def test_a_class_that_looks_after_its_generators_keeps_them() -> None:
    class Keeps(Simulation):
        keeps_own_generators = True

    assert OwnGenerators(Simulation())
    assert not OwnGenerators(Keeps())


def test_the_search_ends() -> None:
    endless: list[Any] = [np.random.default_rng(1)]
    for _ in range(2 * MAX_OBJECTS):
        endless = [endless, endless]
    assert not OwnGenerators(lambda: endless)  # it is further away than anybody looks
    circle: list[Any] = []
    circle.append(circle)
    assert not OwnGenerators(lambda: circle)


class Proxy:
    """An object that has no class that it would tell, as a proxy whose object is gone."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ReferenceError("it is gone")

    def __getattribute__(self, name: str) -> Any:
        raise ReferenceError("it is gone")


class WithoutDict:
    __slots__ = ("rng",)


class Refuses(random.Random):
    """A generator that takes no seed."""

    def seed(self, a: Any = None, version: int = 2) -> None:
        if a is not None:
            raise ValueError("it takes no seed")


class Fails(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Failing(metaclass=Fails):
    pass


def test_a_generator_that_takes_no_seed_stays_as_it_is() -> None:
    refuses = Refuses()
    own = OwnGenerators(lambda: (refuses, rng))
    drawn = []
    for _ in range(2):
        own.seed(4)
        drawn.append(rng.random())
    assert drawn[0] == drawn[1]


def test_an_object_that_fails_when_it_is_looked_at_fails_no_unit() -> None:
    failing = Failing()
    assert OwnGenerators(lambda: (rng, failing))
    assert not OwnGenerators(failing)


def test_objects_that_fail_at_every_question_are_passed_over() -> None:
    gone = weakref.proxy(Simulation())
    proxy, slots = Proxy(), WithoutDict()
    assert OwnGenerators(lambda: (gone, proxy, slots, rng))

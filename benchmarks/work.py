"""Functions that all measures run, for PARK and for its peers. They are importable, so that pickles hold names."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

import park
from benchmarks.scale import Scale


def nothing(x: Any = None) -> Any:
    """A unit that costs nothing."""
    return x


class Curve:
    """A model's misfit at one point: a damped wave at 400 places, *repeats* times over."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats

    def __call__(self, point: np.ndarray[Any, Any]) -> float:
        x = np.linspace(0.0, 10.0, 400)
        total = 0.0
        for _ in range(self.repeats):
            total += float(np.sum((point[0] * np.exp(-point[1] * x) * np.cos(point[2] * x) + point[3]) ** 2))
        return total


def calibrate(seconds: float = 1e-3) -> int:
    """The number of repeats with which one point takes *seconds* of CPU, on a processor that has warmed up."""
    some = 100
    points = population(20)
    curve = Curve(some)
    took = []
    for _ in range(40):
        began = time.process_time()
        for point in points:
            curve(point)
        took.append((time.process_time() - began) / len(points))
    return max(1, round(some * seconds / min(took)))


def calibrated(scale: Scale) -> Scale:
    """The same scale, with the repeats of this machine."""
    return replace(scale, repeats=calibrate())


def population(points: int) -> np.ndarray[Any, Any]:
    """A generation: (points, 4) floats."""
    return np.random.default_rng(1).uniform(0.5, 1.5, (points, 4))


class Driver:
    """The body of a job that runs generations through ``env.mapper``; its result is the seconds they took."""

    def __init__(self, curve: Curve, generations: int, points: int) -> None:
        self.curve = curve
        self.generations = generations
        self.points = points

    def run(self) -> float:
        return run_generations(park.environment().mapper(self.curve), self.generations, self.points)


def run_generations(run: Any, generations: int, points: int) -> float:
    """Seconds that *generations* take after one more, each a call of *run* with all its points."""
    generation = population(points)
    expected = list(run(generation))
    began = time.perf_counter()
    for _ in range(generations):
        values = list(run(generation))
    seconds = time.perf_counter() - began
    assert values == expected
    return seconds

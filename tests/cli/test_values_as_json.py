"""Results as JSON."""

from __future__ import annotations

import doctest
import enum
import json
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from park.cli.show import values
from park.errors import UnitError
from park.fit.results.result import FitResult


class Colour(enum.IntEnum):
    RED = 1


@dataclass
class Peak:
    at: float
    widths: tuple[float, ...]


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, None),
        (True, True),
        (Colour.RED, 1),
        ("ångström", "ångström"),
        (10**30, 10**30),
        (math.inf, None),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.arange(6.0).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        ({1: {2.5}, "b": (b"x",)}, {"1": [2.5], "b": ["b'x'"]}),
        ([UnitError("ValueError: no", "", 3)], [{"unit": 3, "error": "ValueError: no", "traceback": ""}]),
        (Peak(1.0, (math.nan, 2.0)), {"at": 1.0, "widths": [None, 2.0]}),
        (Peak, str(Peak)),
        ({}, {}),
    ],
)
def test_every_value_is_json(value: Any, want: Any) -> None:
    assert json.loads(values.as_json(value)) == want


class Reading:
    """Its text is its author's own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __str__(self) -> str:
        return f"{self.value!r} K"

    __repr__ = __str__


@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.int64, np.uint8, np.longdouble, np.complex128])
@pytest.mark.parametrize("write", [str, repr])
def test_numbers_are_plain_in_texts_wherever_they_lie(scalar: Any, write: Any) -> None:
    number = scalar(2)
    plain = f"{number!s}"
    shapes: list[tuple[Any, str]] = [
        ([number], f"[{plain}]"),
        ({"a": {number: (number,)}}, f"{{'a': {{{plain}: ({plain},)}}}}"),
        (Peak(number, (number, number)), f"Peak(at={plain}, widths=({plain}, {plain}))"),
        (deque([{number}]), f"deque([{{{plain}}}])"),
        (Reading(number), f"{plain} K"),
        (np.array([number, None], dtype=object), "2" if write is str else "array(["),
    ]
    for value, want in shapes:
        text = values.as_text(value, write)
        assert want in text, text
        assert "np." not in text, text
        assert "np." not in values.as_json({(number,): Reading([number])})
    assert values.as_text((np.True_, np.str_("no"))) == "(True, 'no')"
    assert write(np.array([0.1])) == values.as_text(np.array([0.1]), write), "arrays are as they were"


def test_what_holds_itself_ends() -> None:
    assert json.loads(values.as_json(endless()))


def test_a_fit_is_its_summary() -> None:
    one = np.ones(1)
    found = FitResult(("slope",), one, one / 2, np.eye(1), 1.0, 2.0, 3, "lm", 0, one, one)
    shown = json.loads(values.as_json([found]))[0]
    assert shown == json.loads(json.dumps(found.summary()))
    assert "slope" in json.dumps(shown)


def test_the_example() -> None:
    assert doctest.testmod(values).failed == 0

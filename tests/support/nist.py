"""The nonlinear regression problems of NIST StRD: data, certified values, and the models as numpy functions.

``load("Misra1a")`` reads a file of ``tests/support/data/nist`` into a `Problem`; ``problem.model`` is its formula.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "data" / "nist"

#: problems whose model describes the logarithm of what was measured
LOGARITHMIC = frozenset({"Nelson"})


@dataclass(frozen=True)
class Problem:
    """One problem: *y* of shape (n,), *x* too (Nelson's two predictors: (2, n)); all else by parameter, b1, b2, ..."""

    name: str
    x: np.ndarray
    y: np.ndarray
    start1: tuple[float, ...]
    start2: tuple[float, ...]
    certified: tuple[float, ...]
    stderr: tuple[float, ...]
    #: residual sum of squares
    rss: float
    model: Callable[..., Any]

    @property
    def dof(self) -> int:
        """Degrees of freedom (the 9 that is printed in Rat43.dat are 11: its standard deviations say so)."""
        return self.y.size - len(self.certified)

    def __repr__(self) -> str:
        return f"<Problem {self.name}: {len(self.certified)} parameters, {self.y.size} points>"


def load(name: str) -> Problem:
    """The problem of this name."""
    text = (FOLDER / f"{name}.dat").read_text(encoding="ascii")
    rows = [
        tuple(map(float, row)) for row in re.findall(r"^ *b\d+ *=" + r" +(\S+)" * 4 + r"\s*$", text, re.M)
    ]
    start1, start2, certified, stderr = zip(*rows, strict=True)
    table = text[re.search(r"^Data: +y +x1?( +x2)?\s*$", text, re.M).end() :]
    y, *predictors = np.array([line.split() for line in table.splitlines() if line.strip()], dtype=float).T
    x = predictors[0] if len(predictors) == 1 else np.array(predictors)
    if name in LOGARITHMIC:
        y = np.log(y)

    def value(label: str) -> float:
        return float(re.search(label + r": +(\S+)", text)[1])

    if y.size != value("Number of Observations"):
        raise ValueError(f"{name}.dat is not complete")
    rss = value("Residual Sum of Squares")
    return Problem(name, x, y, start1, start2, certified, stderr, rss, MODELS[name])


def digits(found: Any, certified: Any) -> float:
    """Decimal digits to which all of *found* agree with *certified* (the log relative error, at most 11)."""
    found, certified = np.asarray(found, float), np.asarray(certified, float)
    return float(np.min(-np.log10(np.clip(np.abs(found / certified - 1), 1e-11, None))))


def bennett5(x, b1, b2, b3):
    return b1 * (b2 + x) ** (-1 / b3)


def saturation(x, b1, b2):
    return b1 * (1 - np.exp(-b2 * x))


def chwirut(x, b1, b2, b3):
    return np.exp(-b1 * x) / (b2 + b3 * x)


def danwood(x, b1, b2):
    return b1 * x**b2


def enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    year, first, second = (2 * np.pi * x / period for period in (12, b4, b7))
    waves = b2 * np.cos(year) + b3 * np.sin(year) + b5 * np.cos(first) + b6 * np.sin(first)
    return b1 + waves + b8 * np.cos(second) + b9 * np.sin(second)


def eckerle4(x, b1, b2, b3):
    return b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2)


def gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    peaks = b3 * np.exp(-(((x - b4) / b5) ** 2)) + b6 * np.exp(-(((x - b7) / b8) ** 2))
    return b1 * np.exp(-b2 * x) + peaks


def cubic(x, b1, b2, b3, b4, b5, b6, b7):
    return (b1 + x * (b2 + x * (b3 + x * b4))) / (1 + x * (b5 + x * (b6 + x * b7)))


def kirby2(x, b1, b2, b3, b4, b5):
    return (b1 + x * (b2 + x * b3)) / (1 + x * (b4 + x * b5))


def lanczos(x, b1, b2, b3, b4, b5, b6):
    return b1 * np.exp(-b2 * x) + b3 * np.exp(-b4 * x) + b5 * np.exp(-b6 * x)


def mgh09(x, b1, b2, b3, b4):
    return b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4)


def mgh10(x, b1, b2, b3):
    return b1 * np.exp(b2 / (x + b3))


def mgh17(x, b1, b2, b3, b4, b5):
    return b1 + b2 * np.exp(-x * b4) + b3 * np.exp(-x * b5)


def misra1b(x, b1, b2):
    return b1 * (1 - (1 + b2 * x / 2) ** -2)


def misra1c(x, b1, b2):
    return b1 * (1 - (1 + 2 * b2 * x) ** -0.5)


def misra1d(x, b1, b2):
    return b1 * b2 * x / (1 + b2 * x)


def nelson(x, b1, b2, b3):
    weeks, celsius = x
    return b1 - b2 * weeks * np.exp(-b3 * celsius)


def rat42(x, b1, b2, b3):
    return b1 / (1 + np.exp(b2 - b3 * x))


def rat43(x, b1, b2, b3, b4):
    return b1 / (1 + np.exp(b2 - b3 * x)) ** (1 / b4)


def roszman1(x, b1, b2, b3, b4):
    return b1 - b2 * x - np.arctan(b3 / (x - b4)) / np.pi


MODELS: dict[str, Callable[..., Any]] = {
    "Bennett5": bennett5,
    "BoxBOD": saturation,
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": danwood,
    "ENSO": enso,
    "Eckerle4": eckerle4,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubic,
    "Kirby2": kirby2,
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": mgh09,
    "MGH10": mgh10,
    "MGH17": mgh17,
    "Misra1a": saturation,
    "Misra1b": misra1b,
    "Misra1c": misra1c,
    "Misra1d": misra1d,
    "Nelson": nelson,
    "Rat42": rat42,
    "Rat43": rat43,
    "Roszman1": roszman1,
    "Thurber": cubic,
}

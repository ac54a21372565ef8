"""The array type of the fit layer, and evaluations of models without warnings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the warnings of numpy and of models."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

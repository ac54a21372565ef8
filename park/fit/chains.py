"""bumps' buffers of draws, ``MCMCDraw``: made to measure, moved between coordinates, and trimmed.

It loads bumps: import it inside functions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from bumps.dream.core import Dream
from bumps.dream.crossover import AdaptiveCrossover
from bumps.dream.state import MCMCDraw

from park.fit.data import Array

#: bumps' DREAM tests and adapts once in so many generations.
STEPS: int = Dream.DE_steps
#: Sizes of its crossover.
CROSSOVERS = 3


class Chains(MCMCDraw):
    """Draws while DREAM runs."""

    def resize(self, *sizes: int) -> None:
        """Fits the buffers to another run. bumps counts anew from their length, also where that stays as it is."""
        if sizes != (self.Ngen, self.Nthin, self.Nupdate, self.Nvar, self.Npop, self.Ncr, self.thinning):
            super().resize(*sizes)

    def _replace_outlier(self, old: int, new: int) -> None:
        """Puts chain *old* where *new* is. bumps writes into the buffers too, past their end where they are thinned."""
        self._outliers.append((self._thin_index, old, new))
        self._gen_current[old] = self._gen_current[new]


def generations(draws: float, chains: int) -> int:
    """So many generations give so many draws, in whole rounds of DREAM."""
    return math.ceil(draws / (STEPS * chains)) * STEPS


def empty(draws: int, chains: int, parameters: int, thin: int) -> Chains:
    """Buffers for so many *draws*, of which each *thin*-th generation is kept."""
    rows = generations(draws, chains)
    return Chains(rows, math.ceil(rows / thin), rows // STEPS, parameters, chains, CROSSOVERS, thin)


def moved(state: MCMCDraw, function: Callable[[Array], Array], kind: type = MCMCDraw) -> Any:
    """The *state* with each point moved by *function* of (n, k), as an instance of *kind*."""
    new = copy.copy(state)
    new.__class__ = kind
    rows = min(state._thin_count, state.Nthin)
    points = np.zeros_like(state._thin_point)
    k = points.shape[2]
    points[:rows] = function(state._thin_point[:rows].reshape(-1, k)).reshape(rows, -1, k)
    new._thin_point = points
    new._gen_current = function(state._gen_current)
    if state._best_x is not None:
        new._best_x = function(state._best_x[None, :])[0]
    return new


def crossover_of(state: MCMCDraw | None) -> AdaptiveCrossover:
    """DREAM's crossover, with the weights that it had come to."""
    crossover = AdaptiveCrossover(CROSSOVERS)
    if state is not None and state._update_count:
        weights = np.array(state._update_CR_weight[state._update_index - 1], dtype=np.float64)
        if np.all(weights > 0) and np.isfinite(weights).all():
            crossover.weight = weights / weights.sum()
    return crossover


def drawn(state: MCMCDraw, portion: float = 1.0) -> tuple[Array, Array]:
    """The points (n, m, k) of the last *portion* of the n generations of the m good chains, and their log p (n, m)."""
    _, points, logp = state.chains()
    first = int((1 - portion) * len(points))
    good = state._good_chains
    return points[first:, good], logp[first:, good]

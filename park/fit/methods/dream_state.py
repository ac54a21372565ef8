"""bumps' buffers of draws, ``MCMCDraw``: allocation, change of coordinates, extraction of draws.

This module loads bumps: import it inside functions.
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

from park.fit.arrays import Array

#: Generations in one round of bumps' DREAM, after which it tests for outliers and adapts.
GENERATIONS_PER_ROUND: int = Dream.DE_steps
#: Number of crossover probabilities that DREAM adapts.
CROSSOVER_SIZES = 3


class Chains(MCMCDraw):
    """Draws while DREAM runs."""

    def resize(self, *sizes: int) -> None:
        """Resizes the buffers for another run. Equal sizes leave them as they are; bumps would reset its counters."""
        if sizes != (self.Ngen, self.Nthin, self.Nupdate, self.Nvar, self.Npop, self.Ncr, self.thinning):
            super().resize(*sizes)

    def _replace_outlier(self, old: int, new: int) -> None:
        """Moves chain *old* to the point of chain *new*. bumps would also write past the end of thinned buffers."""
        self._outliers.append((self._thin_index, old, new))
        self._gen_current[old] = self._gen_current[new]


def generations(draws: float, chains: int) -> int:
    """The number of generations, in whole rounds of DREAM, that give this number of draws."""
    return math.ceil(draws / (GENERATIONS_PER_ROUND * chains)) * GENERATIONS_PER_ROUND


def empty(draws: int, chains: int, parameters: int, thin: int) -> Chains:
    """Empty buffers for this number of *draws*, with every *thin*-th generation kept."""
    rows = generations(draws, chains)
    return Chains(
        rows, math.ceil(rows / thin), rows // GENERATIONS_PER_ROUND, parameters, chains, CROSSOVER_SIZES, thin
    )


def moved(state: MCMCDraw, function: Callable[[Array], Array], kind: type = MCMCDraw) -> Any:
    """A copy of *state*, an instance of *kind*, with *function* applied to all its points (n, k)."""
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
    """DREAM's crossover with the weights that *state* has adapted."""
    crossover = AdaptiveCrossover(CROSSOVER_SIZES)
    if state is not None and state._update_count:
        weights = np.array(state._update_CR_weight[state._update_index - 1], dtype=np.float64)
        if np.all(weights > 0) and np.isfinite(weights).all():
            crossover.weight = weights / weights.sum()
    return crossover


def drawn(state: MCMCDraw, portion: float = 1.0) -> tuple[Array, Array]:
    """Points (n, m, k) and log p (n, m) of the last *portion* of the generations of the m chains without outliers."""
    _, points, logp = state.chains()
    first = int((1 - portion) * len(points))
    good = state._good_chains
    return points[first:, good], logp[first:, good]

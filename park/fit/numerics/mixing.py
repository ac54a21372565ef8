"""Diagnostics of Markov chains: rank-normalised split R-hat and effective sample size.

The formulas are those of Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16 (2021) 667-718.
Chains have the shape (n, m, k): n generations of m chains of k parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from park.fit.arrays import Array

#: Smallest number of generations for the diagnostics: two in each half.
MIN_GENERATIONS = 4


def rhat(chains: Any) -> Array:
    """Split R-hat of each parameter, shape (k,): near 1 if all chains sample one distribution.

    It compares the variance within half-chains with the variance between them, for the values and for their distances from
    the median, and takes the larger: chains may differ in location or in width. It is nan for fewer than four
    generations and for draws that do not vary.
    """
    halves = _halves(chains)
    return np.array([_rhat(halves[:, :, j]) for j in range(halves.shape[2])])


def ess(chains: Any) -> Array:
    """The effective sample size of each parameter, shape (k,): the equivalent number of independent draws.

    It is the smaller of the bulk size (for means and medians) and the tail size (for the 5 % and the 95 % quantile).
    It is nan as for `rhat`.
    """
    halves = _halves(chains)
    return np.array([_ess(halves[:, :, j]) for j in range(halves.shape[2])])


def _halves(chains: Any) -> Array:
    """Each chain split in halves, shape (n // 2, 2 m, k), without the middle one of an odd number of generations."""
    chains = np.asarray(chains, dtype=np.float64)
    n = len(chains) // 2
    return np.concatenate([chains[:n], chains[len(chains) - n :]], axis=1)


def _says_nothing(halves: Array) -> bool:
    return 2 * len(halves) < MIN_GENERATIONS or not np.isfinite(halves).all() or bool(np.ptp(halves) == 0)


def _rhat(halves: Array) -> float:
    if _says_nothing(halves):
        return float("nan")
    folded = np.abs(halves - np.median(halves))
    return max(_plain_rhat(_ranks(halves)), _plain_rhat(_ranks(folded)))


def _plain_rhat(z: Array) -> float:
    n = len(z)
    within = float(z.var(axis=0, ddof=1).mean())
    between = float(z.mean(axis=0).var(ddof=1))  # the B of the paper is n times this
    if within == 0:
        return float("inf") if between > 0 else float("nan")
    return float(np.sqrt((n - 1) / n + between / within))


def _ess(halves: Array) -> float:
    if _says_nothing(halves):
        return float("nan")
    tails = [(halves <= np.quantile(halves, q)).astype(np.float64) for q in (0.05, 0.95)]
    return min(_plain_ess(z) for z in (_ranks(halves), *tails))


def _ranks(values: Array) -> Array:
    """Normal scores of the ranks among all draws, which are robust to heavy tails."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=None).reshape(values.shape)
    scores: Array = ndtri((ranks - 0.375) / (values.size + 0.25))
    return scores


def _plain_ess(z: Array) -> float:
    n, m = z.shape
    if np.ptp(z) == 0:
        return float(n * m)
    covariance = _autocovariance(z).mean(axis=1)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + float(z.mean(axis=0).var(ddof=1))
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    # Geyer's initial monotone sequence: sums of neighbours are positive and do not rise; the rest is noise.
    pairs = correlation[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    last = int(ends[0]) if ends.size else len(pairs)
    sums = np.minimum.accumulate(pairs[:last])
    rest = max(float(correlation[2 * last]), 0.0) if 2 * last < n else 0.0
    time = -1 + 2 * float(sums.sum()) + rest
    return float(n * m / max(time, 1 / np.log10(n * m)))


def _autocovariance(z: Array) -> Array:
    """The autocovariance of each column, divided by n, shape (n, m)."""
    from scipy import fft

    n = len(z)
    length = fft.next_fast_len(2 * n)
    spectrum = fft.rfft(z - z.mean(axis=0), n=length, axis=0)
    covariance: Array = fft.irfft(np.abs(spectrum) ** 2, n=length, axis=0)[:n] / n
    return covariance

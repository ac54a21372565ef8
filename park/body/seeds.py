"""Seeds of 64 bits, derived from one another: a request's seed gives those of its maps, and a map's seed those of its
units.

The client makes the seed of a request (`park.client.requests`) or of a session (`park.client.maps`), and the slot process
that of a map inside a unit (`park.slot.host`). `Run` carries it, `park.slot.chunk_run` mixes it with the number of the
unit, and `park.body.generators` seeds the global generators.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def mix(seed: int, index: int) -> int:
    """The seed of the *index*-th child of *seed* (the finalizer of splitmix64, Steele et al. 2014)."""
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1342543DE82EF95) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def preparation_seed(seed: int | None, code: bytes) -> int:
    """The seed while a body is unpickled and prepared, which is the same in every process that does it.

    A job's own body takes it from the job's *seed*. A function of maps, which outlives each of them (*seed* None), takes it
    from the hash of its *code*.
    """
    return mix(seed, -1) if seed is not None else int.from_bytes(code[:8], "little")

"""Any small value of a type, as msgspec describes it: for messages that fit the protocol and nothing else."""

from __future__ import annotations

import random
from typing import Any

import msgspec


def any_of(chance: random.Random, kind: Any) -> Any:
    """A value of the type *kind* (`msgspec.inspect`)."""
    inspect = msgspec.inspect
    if isinstance(kind, inspect.UnionType):
        return any_of(chance, chance.choice(kind.types))
    if isinstance(kind, inspect.IntType):
        return chance.choice([0, 0, 1, 1, 2, 3, 5, 1 << 33, 2**63 - 1])
    if isinstance(kind, inspect.FloatType):
        return chance.choice([0.0, 0.5, 1.0, 60.0, -1.0, 1e300])
    if isinstance(kind, inspect.BoolType):
        return chance.random() < 0.5
    if isinstance(kind, inspect.BytesType):
        return chance.choice([b"", bytes([chance.randrange(4)]) * 16, chance.randbytes(16)])
    if isinstance(kind, inspect.StrType):
        return chance.choice(["", "ann", "continue", "stop", "abort", "a b", "x" * 300])
    if isinstance(kind, inspect.ListType):
        return [any_of(chance, kind.item_type) for _ in range(chance.choice([0, 0, 1, 2, 4]))]
    if isinstance(kind, inspect.DictType):
        return {"a": "1"} if chance.random() < 0.3 else {}
    return None

"""The base of all messages, and the types of their fields."""

import sys
from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct

# No module of this folder has `from __future__ import annotations`: the codec would evaluate annotations that are texts
# again for each class.

VERSION = 2

#: In place of the fields of a Status: the number of jobs instead of their records.
COUNT = "count"
MAX_INT = 2**63 - 1
MAX_ITEMS = 4096
_ITEMS = Meta(max_length=MAX_ITEMS)
#: A count, or a number that names something. A plain `int` may also be negative, and fill 64 bits.
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
#: A number that is neither infinite nor NaN; whole numbers are accepted.
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Counts = Annotated[list[Count], _ITEMS]
Texts = Annotated[list[str], _ITEMS]
Hashes = Annotated[list[bytes], _ITEMS]
Names = Annotated[dict[str, str], _ITEMS]
#: Any plain value that nests at most 8 deep.
Record = Annotated[dict[str, Any], _ITEMS]


class Message(Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True, gc=False):
    """The base of all messages. `carries` says whether the payload has a meaning."""

    carries: ClassVar[bool] = False

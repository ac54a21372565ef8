"""The content of payloads: bodies, inputs and results, pickled.

Each unit's input and each result is an *entry*, whose first byte tells its form: a pickle (which begins with its own
0x80), a pickle with its large buffers beside it, raw bytes, or an error. Many entries of one kind (numbers, or equal
arrays) become one block of rows instead.

Encoders never import numpy: a process that has arrays has imported it.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import struct
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from park.body import by_value, edited_modules, former_names
from park.body.culprits import culprit_of, pickles
from park.body.value_pickler import pickle_by_value
from park.errors import NotPicklable, ProtocolError, UnitError
from park.wire import codec
from park.wire.pack import (
    ERROR,
    Buffer,
    BufferAllocator,
    Pack,
    error_entry,
    pack_entries,
    pack_pieces,
    pack_rows,
)
from park.wire.pack import code_hash as code_hash

#: Buffers from this size on lie beside their pickle, not inside.
LARGE_BUFFER_BYTES = 64 * 1024

_BUFFERS, _BYTES = b"b", b"r"
#: The first byte of code with parts: no pickle begins with it.
_CODE = b"\x01"
#: The head of code with parts, and the alignment of each part: that of any number, and of a line of a processor's cache.
_CODE_HEAD, _ALIGNMENT = struct.Struct("<c7xQ"), 64
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
#: Heads of packs whose rows are Python's own numbers, with the letters of `struct`.
_NONE, _NUMBERS = b"None", {int: (b"int", "q"), float: (b"float", "d"), bool: (b"bool", "?")}
_LETTERS = dict(_NUMBERS.values())


class Unpicklable(NotPicklable, pickle.PicklingError):
    """The same as NotPicklable, for code that expects the error of the standard library."""


def dumps(obj: Any, what: str = "the body") -> bytes:
    """The pickle of *obj*, by value where no name leads to it. Raises NotPicklable, which names the culprit."""
    try:
        return pickle_by_value(obj)
    except Exception as error:
        _refuse(what, obj, error)


def dump_code(obj: Any, what: str = "the body") -> bytes:
    """The pickle of code: as `dumps`, with the versions of the user's own modules that it refers to.

    Large buffers, such as the data of arrays, lie beside the pickle: a process that has the code in a file maps them.
    """
    own: set[str] = set()
    large: list[memoryview] = []
    try:
        blob = pickle_by_value(obj, _collector(large), own=own)
    except Exception as error:
        _refuse(what, obj, error)
    if own:
        code = _WithVersions(blob, edited_modules.versions_of(own), large)
        large = []
        blob = pickle.dumps(code, 5, buffer_callback=_collector(large))
    return _join_code([blob, *large]) if large else blob


def _join_code(parts: Sequence[Any]) -> bytes:
    """A head with the sizes of the parts, and then each part at a multiple of `_ALIGNMENT`."""
    sizes = [nbytes(part) for part in parts]
    pieces: list[Any] = [_CODE_HEAD.pack(_CODE, len(sizes)), struct.pack(f"<{len(sizes)}Q", *sizes)]
    at = sum(map(len, pieces))
    for part, size in zip(parts, sizes, strict=True):
        pieces += [bytes(-at % _ALIGNMENT), part]
        at += -at % _ALIGNMENT + size
    return b"".join(pieces)


def _code_parts(blob: memoryview) -> list[memoryview]:
    """The parts that `_join_code` has joined."""
    try:
        _, count = _CODE_HEAD.unpack_from(blob)
        sizes = struct.unpack_from(f"<{count}Q", blob, _CODE_HEAD.size)
    except struct.error as error:
        raise ProtocolError("code is cut short") from error
    at, parts = _CODE_HEAD.size + 8 * count, []
    for size in sizes:
        at += -at % _ALIGNMENT
        parts.append(blob[at : at + size])
        at += size
    if at != len(blob) or not parts:
        raise ProtocolError("code is not as long as it says")
    return parts


class _WithVersions:
    """Pickled code and the versions of the modules that it needs. It unpickles as the code itself."""

    def __init__(self, pickled: bytes, versions: dict[str, str], large: list[memoryview]) -> None:
        self._pickled = pickled
        self._versions = versions
        self._large = large

    def __reduce__(self) -> Any:
        large = map(pickle.PickleBuffer, self._large)
        return _opened, (pickle.PickleBuffer(self._pickled), self._versions, *large)


def _opened(pickled: Buffer, versions: dict[str, str], *large: Any) -> Any:
    edited_modules.refresh(versions)
    code = pickle.loads(pickled, buffers=large)
    edited_modules.compare(versions)
    return code


def loads(blob: Buffer, private: Callable[[Buffer], memoryview] | None = None) -> Any:
    """The object that `dumps` or `dump_code` has pickled.

    *private* makes of a blob the same bytes in memory that the object may change; without it the large parts are copied.
    """
    if bytes(blob[:1]) != _CODE:
        return former_names.loads(blob)
    pickled, *large = _code_parts(memoryview(blob) if private is None else private(blob))
    return former_names.loads(pickled, large if private is not None else [bytearray(part) for part in large])


# -- one entry -----------------------------------------------------------------------------------


def encode_result(obj: Any) -> bytes:
    """The entry of a result, without source lines: the receiver of a result has its code. Raises NotPicklable."""
    pieces = entry_pieces(obj, "the result", lines=False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def encode_error(error: UnitError) -> bytes:
    """The entry of a failed unit."""
    return error_entry(error.cause, error.traceback, error.unit)


def decode_entry(entry: Buffer, loads: Callable[..., Any] = former_names.loads) -> Any:
    """The value of an entry; for a failed unit its UnitError."""
    tag = entry[0] if len(entry) else 0
    if tag == pickle.PROTO[0]:
        return loads(entry)
    if tag == _BYTES[0]:
        return bytes(entry[1:])
    if tag == _BUFFERS[0]:
        return _decode_buffers(memoryview(entry), loads)
    if tag == ERROR[0]:
        return UnitError(*codec.unpack(entry[1:]))
    raise ProtocolError(f"no entry begins with {tag}")


def entry_pieces(obj: Any, what: str, lines: bool = True) -> list[Any]:
    """The buffers that make up the entry of *obj*, in order; a memoryview is one that *obj* may change."""
    kind = type(obj)
    if kind in _PLAIN:
        if kind is bytes and len(obj) >= LARGE_BUFFER_BYTES:
            return [_BYTES, obj]
        return [pickle.dumps(obj, 5)]
    large: list[memoryview] = []
    beside = _collector(large)
    data = _plain_pickle(obj, beside)
    if data is None:
        large.clear()
        try:
            data = pickle_by_value(obj, beside, lines)
        except Exception as error:
            _refuse(what, obj, error)
    if not large:
        return [data]
    sizes = [len(data), *(raw.nbytes for raw in large)]
    return [_BUFFERS, struct.pack(f"<Q{len(sizes)}Q", len(sizes), *sizes), data, *large]


def _collector(large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """A pickler's callback that adds large buffers to *large*, and leaves the others in the pickle."""

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE_BUFFER_BYTES:
            return True
        large.append(raw)
        return False

    return beside


def _decode_buffers(entry: memoryview, loads: Callable[..., Any]) -> Any:
    try:
        (count,) = struct.unpack_from("<Q", entry, 1)
        sizes = struct.unpack_from(f"<{count}Q", entry, 9)
    except struct.error as error:
        raise ProtocolError("an entry is cut short") from error
    at = 9 + 8 * count
    parts = []
    for size in sizes:
        parts.append(entry[at : at + size])
        at += size
    if at != len(entry) or not parts:
        raise ProtocolError("an entry is not as long as it says")
    return loads(parts[0], buffers=[bytearray(part) for part in parts[1:]])


class NamingUnpickler(pickle.Unpickler):
    """Unpickles, and notes the names of the classes that are looked up: the first is the class of the object that fails
    to unpickle.
    """

    def __init__(self, data: Buffer, names: list[str], buffers: Any = None) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(*former_names.current(module, name))
        if found is by_value.made:
            return self._made
        if isinstance(found, type) and module != "builtins":
            self._names.append(f"{module}.{name}")
        return found

    def _made(self, *given: Any) -> type:
        found = by_value.made(*given)
        bases = {f"{b.__module__}.{name}" for b in found.__mro__[1:] for name in (b.__name__, b.__qualname__)}
        self._names[:] = [name for name in self._names if name not in bases]
        self._names.append(f"{found.__module__}.{found.__name__}")
        return found


class _NotPlain(Exception):
    pass


#: Errors that a pickler raises; all others come from handlers of signals.
_PLAINLY_NOT = (
    _NotPlain,
    pickle.PickleError,
    TypeError,
    ValueError,
    AttributeError,
    BufferError,
    RecursionError,
    MemoryError,
)


def _plain_pickle(obj: Any, beside: Callable[[pickle.PickleBuffer], bool]) -> bytes | None:
    """The pickle of *obj*; None where parts of it may have to go by value."""
    file = io.BytesIO()
    try:
        _PlainPickler(file, 5, buffer_callback=beside).dump(obj)
    except _PLAINLY_NOT:
        return None
    return file.getvalue()


#: Objects that have a module of their own. Others are not asked: their attributes may be computed, and may raise.
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType)


class _PlainPickler(pickle.Pickler):
    """Pickles Python's own types and numpy's, and refuses all others, because they may have to go by value."""

    def reducer_override(self, obj: Any) -> Any:
        named: Any = obj if isinstance(obj, _NAMED) else type(obj)
        module = getattr(named, "__module__", None)
        if isinstance(module, str) and module.partition(".")[0] == "numpy":
            if named.__name__ == "ndarray" and named is type(obj) and not obj.flags.forc:
                return obj.copy("K").__reduce_ex__(5)  # strided: numpy would lose its byte order
            return NotImplemented
        raise _NotPlain


# -- many ----------------------------------------------------------------------------------------


def encode_units(
    values: Sequence[Any], what: str = "an input", place: BufferAllocator | None = None
) -> Buffer:
    """The pack of these inputs or results: rows where all are numbers of one kind, or arrays of one shape and kind.

    *place*: where a long one is put.
    """
    kinds = set(map(type, values))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is type(None):
            return pack_rows(_NONE, bytes(len(values)), len(values))
        block = _numbers(values, kind) if kind in _NUMBERS else _alike(values, kind, place)
        if block is not None:
            return block
        if kind in _PLAIN and kind is not bytes:
            return pack_entries([pickle.dumps(value, 5) for value in values])
    sizes, pieces = [], []
    for value in values:
        entry = entry_pieces(value, what)
        sizes.append(sum(map(nbytes, entry)))
        pieces += entry
    return pack_pieces(sizes, pieces, place)


def encode_array(array: Any, place: BufferAllocator | None = None) -> Buffer:
    """The pack of a numpy array of at least one dimension: each index of axis 0 is a unit."""
    plain = type(array).__module__ == "numpy" and type(array).__name__ == "ndarray"
    rows = _rows(array, len(array), place) if plain else None
    return encode_units(list(array), place=place) if rows is None else rows


def decode_units(pack: Buffer) -> list[Any]:
    """The values of a pack. Arrays that travelled as rows are writable views of one private copy."""
    packed = Pack(pack)
    found = packed.rows
    if found is None:
        return [decode_entry(entry) for entry in packed.entries()]
    head, rows = found
    try:
        if head == _NONE:
            return [None] * packed.count
        if head in _LETTERS:
            return list(struct.unpack(f"<{packed.count}{_LETTERS[head]}", rows))
        name, *shape = head.decode("ascii").split()
        numpy = importlib.import_module("numpy")
        array = numpy.frombuffer(bytearray(rows), numpy.dtype(name))
        return list(array.reshape(packed.count, *map(int, shape)))
    except (struct.error, ValueError, TypeError) as error:
        raise ProtocolError(f"rows cannot be what their head says: {error}") from error


def nbytes(piece: Any) -> int:
    """The length of a buffer in bytes."""
    return len(piece) if type(piece) is bytes else piece.nbytes


def _numbers(values: Sequence[Any], kind: type) -> Buffer | None:
    head, letter = _NUMBERS[kind]
    try:
        return pack_rows(head, struct.pack(f"<{len(values)}{letter}", *values), len(values))
    except struct.error:  # a whole number over 64 bits
        return None


def _alike(values: Sequence[Any], kind: type, place: BufferAllocator | None) -> Buffer | None:
    """Rows of equal one-dimensional arrays, or of numpy's numbers; None: *values* are neither."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if kind is numpy.ndarray:
        first = values[0]
        dtype, shape = first.dtype, first.shape
        if len(shape) != 1 or not all(value.dtype == dtype and value.shape == shape for value in values):
            return None
        block = first[None] if len(values) == 1 else numpy.array(values, dtype)
        return _rows(block, len(values), place)
    if is_number(kind):
        dtype = values[0].dtype
        if kind is not numpy.timedelta64 or all(value.dtype == dtype for value in values):
            return _rows(numpy.array(values, dtype), len(values), place)
    return None


def is_number(kind: type) -> bool:
    """Whether *kind* is one of numpy's own number types, whose values cannot change."""
    numpy: Any = sys.modules.get("numpy")
    return (
        hasattr(numpy, "generic") and issubclass(kind, (numpy.number, numpy.bool_)) and kind in _dtypes(numpy)
    )


@functools.cache
def _dtypes(numpy: Any) -> frozenset[type]:
    return frozenset(numpy.sctypeDict.values())


def _rows(array: Any, count: int, place: BufferAllocator | None) -> Buffer | None:
    """The pack of an array's rows; None where the name of its dtype does not describe it fully."""
    dtype = array.dtype
    if not array.ndim or not array.nbytes or dtype.kind not in "biufcSUmM" or dtype.metadata:
        return None
    head = " ".join((dtype.str, *map(str, array.shape[1:]))).encode("ascii")
    rows = array.reshape(-1).view("u1").data if array.flags.c_contiguous else array.tobytes()
    return pack_rows(head, rows, count, place)


# -- errors --------------------------------------------------------------------------------------


def _refuse(what: str, obj: Any, error: Exception) -> NoReturn:
    """Raise the refusal of *obj*. An *error* that a signal's handler raised while *obj* was pickled is raised as it is."""
    if pickles(obj):
        raise error
    raise Unpicklable(f"{what} cannot be pickled: {culprit_of(obj, error)}") from error

"""What travels inside payloads: bodies, inputs, results. The only place that pickles.

Each unit's input and each result is an *entry*, whose first byte tells what follows: a pickle (which begins
with its own 0x80), a pickle with its large buffers beside it, raw bytes, or an error. Many
alike (numbers, or equal arrays) become one block of rows instead.

numpy is never imported for an encoder's sake: whoever has arrays has imported it.
"""

from __future__ import annotations

import _ctypes
import contextlib
import functools
import hashlib
import importlib
import io
import pickle
import struct
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import cloudpickle

from park import dynamic, libraries, modules, rebuild, sources, stale
from park.errors import NotPicklable, ProtocolError, UnitError
from park.wire import codec
from park.wire.pack import ERROR, Pack, error_entry, pack_entries, pack_pieces, pack_rows

Buffer = bytes | memoryview

#: Buffers from this size on are put beside their pickle.
LARGE = 64 * 1024

_BUFFERS, _BYTES = b"b", b"r"
_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
#: Python's own numbers as rows: the name is the head of the pack, the letter is struct's.
_NONE, _NUMBERS = b"None", {int: (b"int", "q"), float: (b"float", "d"), bool: (b"bool", "?")}
_LETTERS = dict(_NUMBERS.values())


def code_hash(blob: Buffer) -> bytes:
    """The 16 bytes by which code is known."""
    return hashlib.blake2b(blob, digest_size=16).digest()


class Unpicklable(NotPicklable, pickle.PicklingError):
    """The same, for those who expect the error of the standard library."""


def dumps(obj: Any, what: str = "the body") -> bytes:
    """The pickle of *obj*, by value where it cannot be imported. Raises NotPicklable naming the culprit."""
    try:
        return _by_value(obj)
    except Exception as error:
        _refuse(what, obj, error)


def dump_code(obj: Any, what: str = "the body") -> bytes:
    """The pickle of code: as `dumps`, with the versions of the modules of one's own that it finds by their names."""
    own: set[str] = set()
    try:
        blob = _by_value(obj, own=own)
    except Exception as error:
        _refuse(what, obj, error)
    return pickle.dumps(_Dated(blob, stale.versions_of(own)), 5) if own else blob


class _Dated:
    """Pickled code, and the versions of the modules that it needs. What arrives is the code itself."""

    def __init__(self, pickled: bytes, versions: dict[str, str]) -> None:
        self._pickled = pickled
        self._versions = versions

    def __reduce__(self) -> Any:
        return _opened, (self._pickled, self._versions)


def _opened(pickled: bytes, versions: dict[str, str]) -> Any:
    stale.refresh(versions)
    code = pickle.loads(pickled)
    stale.compare(versions)
    return code


def loads(blob: Buffer) -> Any:
    """The object of `dumps` and `dump_code`."""
    return pickle.loads(blob)


# -- one entry -----------------------------------------------------------------------------------


def encode_result(obj: Any) -> bytes:
    """The entry of a result: who gets it has the source of the code in it. Raises NotPicklable."""
    pieces = _pieces(obj, "the result", lines=False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def encode_error(error: UnitError) -> bytes:
    """The entry of a unit that failed."""
    return error_entry(error.cause, error.traceback, error.unit)


def decode_entry(entry: Buffer, loads: Callable[..., Any] = pickle.loads) -> Any:
    """The value of an entry; of one that failed the UnitError."""
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


def _pieces(obj: Any, what: str, lines: bool = True) -> list[Any]:
    """The buffers that make the entry of *obj*, one after the other."""
    kind = type(obj)
    if kind in _PLAIN:
        if kind is bytes and len(obj) >= LARGE:
            return [_BYTES, obj]
        return [pickle.dumps(obj, 5)]
    large: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE:
            return True
        large.append(raw)
        return False

    try:
        file = io.BytesIO()
        _PlainPickler(file, 5, buffer_callback=beside).dump(obj)
        data = file.getvalue()
    except _PLAINLY_NOT:
        large.clear()
        try:
            data = _by_value(obj, beside, lines)
        except Exception as error:
            _refuse(what, obj, error)
    if not large:
        return [data]
    sizes = [len(data), *(raw.nbytes for raw in large)]
    return [_BUFFERS, struct.pack(f"<Q{len(sizes)}Q", len(sizes), *sizes), data, *large]


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


class Naming(pickle.Unpickler):
    """Unpickles, and notes the names of the classes that were looked up: the first is that of what does not unpickle."""

    def __init__(self, data: Buffer, names: list[str], buffers: Any = None) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if found is dynamic.made:
            return self._made
        if isinstance(found, type) and module != "builtins":
            self._names.append(f"{module}.{name}")
        return found

    def _made(self, *given: Any) -> type:
        found = dynamic.made(*given)
        bases = {f"{b.__module__}.{name}" for b in found.__mro__[1:] for name in (b.__name__, b.__qualname__)}
        self._names[:] = [name for name in self._names if name not in bases]
        self._names.append(f"{found.__module__}.{found.__name__}")
        return found


class _NotPlain(Exception):
    pass


#: What a pickler may raise; anything else comes from a signal's handler.
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


class _PlainPickler(pickle.Pickler):
    """Pickles Python's own types and numpy's, and refuses anything that might need to go by value."""

    def reducer_override(self, obj: Any) -> Any:
        named = obj if isinstance(obj, type) or hasattr(obj, "__qualname__") else type(obj)
        module = getattr(named, "__module__", None)
        if isinstance(module, str) and module.partition(".")[0] == "numpy":
            if named.__name__ == "ndarray" and named is type(obj) and not obj.flags.forc:
                return obj.copy("K").__reduce_ex__(5)  # strided: numpy would lose its byte order
            return NotImplemented
        raise _NotPlain


def _by_value(
    obj: Any,
    beside: Callable[[pickle.PickleBuffer], Any] | None = None,
    lines: bool = True,
    own: set[str] | None = None,
) -> bytes:
    """The pickle of *obj*, by value where it cannot be imported; with *lines*, code takes its source along.

    *own* gets the names of modules of one's own that are found by their names.
    """
    with io.BytesIO() as file:
        pickler = _ValuePickler(file, beside, lines)
        try:
            pickler.dump(obj)
        finally:
            pickler.clear_memo()  # which would keep what was pickled until a collection of garbage
            for module in pickler.by_value:
                with contextlib.suppress(ValueError):  # another thread has done it
                    cloudpickle.unregister_pickle_by_value(module)
        if own is not None:
            own.update(pickler.own)
        return file.getvalue()


#: By the name of a module: the module, the length of the path then, whether others find it, and whether it is one's own.
_origins: dict[str, tuple[types.ModuleType, int, bool, bool]] = {}
_NAMED = (type, types.FunctionType, types.ModuleType)
_LIBRARIES = (_ctypes.CFuncPtr,)
#: what Python pickles by a name that another process may not know
_UNNAMED = (dynamic.Cached, typing.NewType)
_CODE = cloudpickle.Pickler.dispatch_table[types.CodeType]


class _ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what cannot be imported by its name, and as `park.rebuild` says what would not arrive whole."""

    def __init__(
        self, file: Any, beside: Callable[[pickle.PickleBuffer], Any] | None, lines: bool = True
    ) -> None:
        self.dispatch_table = ChainMap(
            {types.CodeType: self._code},
            dynamic.reducers(),
            libraries.reducers(),
            rebuild.reducers(),
            cloudpickle.Pickler.dispatch_table,
        )
        #: modules that a file was loaded as, under a name by which nobody else finds it
        self.by_value: list[types.ModuleType] = []
        #: modules of one's own that others find by their names
        self.own: set[str] = set()
        self._lines = lines
        #: codes whose source is in that of the code around them
        self._inside: set[int] = set()
        super().__init__(file, 5, buffer_callback=beside)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _NAMED):
            name = obj.__name__ if isinstance(obj, types.ModuleType) else getattr(obj, "__module__", None)
            module = sys.modules.get(name) if isinstance(name, str) else None
            if module is not None and module.__name__ == name:
                known = _origins.get(name)
                if known is None or known[0] is not module or known[1] != len(sys.path):
                    known = module, len(sys.path), modules.is_importable(module), stale.is_own(module)
                    _origins[name] = known
                if not known[2]:
                    self._register(module)
                elif known[3]:
                    self.own.add(name)
        elif isinstance(obj, _UNNAMED):
            reduced = dynamic.reduced(obj)
            return NotImplemented if reduced is None else reduced
        elif not isinstance(obj, _LIBRARIES):
            return NotImplemented
        if not isinstance(obj, types.FunctionType):
            reduced = libraries.reduced(obj)
            if reduced is not None:
                return reduced
        found = super().reducer_override(obj)
        by_value = isinstance(obj, type) and isinstance(found, tuple) and len(found) == 6
        return dynamic.by_value(obj, found) if by_value else found

    def _code(self, code: types.CodeType) -> Any:
        lines = self._lines and id(code) not in self._inside
        if lines:
            self._inside.update(map(id, sources.inner(code)))
        make, args = _CODE(code)
        return sources.reduced(code, make, args, lines)

    def _register(self, module: types.ModuleType) -> None:
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            self.by_value.append(module)


# -- many ----------------------------------------------------------------------------------------


def encode_units(values: Sequence[Any], what: str = "an input") -> bytes:
    """The pack of these inputs (or results): rows where all are numbers of one kind or arrays alike."""
    kinds = set(map(type, values))
    if len(kinds) == 1:
        (kind,) = kinds
        if kind is type(None):
            return pack_rows(_NONE, bytes(len(values)), len(values))
        block = _numbers(values, kind) if kind in _NUMBERS else _alike(values, kind)
        if block is not None:
            return block
        if kind in _PLAIN and kind is not bytes:
            return pack_entries([pickle.dumps(value, 5) for value in values])
    sizes, pieces = [], []
    for value in values:
        entry = _pieces(value, what)
        sizes.append(sum(map(_nbytes, entry)))
        pieces += entry
    return pack_pieces(sizes, pieces)


def encode_array(array: Any) -> bytes:
    """The pack of a numpy array of at least one dimension: axis 0 counts the units."""
    plain = type(array).__module__ == "numpy" and type(array).__name__ == "ndarray"
    rows = _rows(array, len(array)) if plain else None
    return encode_units(list(array)) if rows is None else rows


def decode_units(pack: Buffer) -> list[Any]:
    """The values of a pack. Arrays that were rows are writable views of one private copy of them."""
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


def _nbytes(piece: Any) -> int:
    return len(piece) if type(piece) is bytes else piece.nbytes


def _numbers(values: Sequence[Any], kind: type) -> bytes | None:
    head, letter = _NUMBERS[kind]
    try:
        return pack_rows(head, struct.pack(f"<{len(values)}{letter}", *values), len(values))
    except struct.error:  # a whole number over 64 bits
        return None


def _alike(values: Sequence[Any], kind: type) -> bytes | None:
    """Rows of equal one-dimensional arrays, or of numpy's numbers."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if kind is numpy.ndarray:
        first = values[0]
        dtype, shape = first.dtype, first.shape
        if len(shape) != 1 or not all(value.dtype == dtype and value.shape == shape for value in values):
            return None
        return _rows(numpy.array(values, dtype), len(values))
    if is_number(kind):
        dtype = values[0].dtype
        if kind is not numpy.timedelta64 or all(value.dtype == dtype for value in values):
            return _rows(numpy.array(values, dtype), len(values))
    return None


def is_number(kind: type) -> bool:
    """Whether these are numbers of numpy's own, which cannot change."""
    numpy: Any = sys.modules.get("numpy")
    return (
        hasattr(numpy, "generic") and issubclass(kind, numpy.number | numpy.bool_) and kind in _dtypes(numpy)
    )


@functools.cache
def _dtypes(numpy: Any) -> frozenset[type]:
    return frozenset(numpy.sctypeDict.values())


def _rows(array: Any, count: int) -> bytes | None:
    """The pack of an array's rows; None when the name of its dtype does not tell all."""
    dtype = array.dtype
    if not array.ndim or not array.nbytes or dtype.kind not in "biufcSUmM" or dtype.metadata:
        return None
    head = " ".join((dtype.str, *map(str, array.shape[1:]))).encode("ascii")
    return pack_rows(head, array.tobytes(), count)


# -- errors --------------------------------------------------------------------------------------


def _refuse(what: str, obj: Any, error: Exception) -> NoReturn:
    """Pickling *obj* has raised *error*, which may also come from the handler of a signal."""
    if _pickles(obj):
        raise error
    raise Unpicklable(f"{what} cannot be pickled: {_culprit(obj, error)}") from error


def _culprit(obj: Any, error: Exception) -> str:
    """The path to the innermost part of *obj* that cannot be pickled, and what it is."""
    path: list[str] = []
    seen: set[int] = set()
    while len(path) < 10:
        seen.add(id(obj))
        parts = islice(_parts(obj), 10_000)
        inner = next(((n, o) for n, o in parts if id(o) not in seen and not _pickles(o)), None)
        if inner is None:
            break
        path.append(inner[0])
        obj = inner[1]
    kind = type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    where, text = " of ".join(reversed(path)) or "it", str(error)
    told = f"{where} is a {name} ({text if len(text) <= 200 else text[:197] + '...'})"
    of_ctypes = any(base.__module__ == "_ctypes" for base in kind.__mro__)
    return f"{told}: {_POINTER}" if of_ctypes else told


_POINTER = "an address stays in its process; keep what it is made from, and make it where it is used, as in prepare()"


def _pickles(obj: Any) -> bool:
    try:
        _by_value(obj)
    except Exception:
        return False
    return True


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of an object that are pickled with it."""
    if isinstance(obj, dict):
        yield from ((f"the value of key {key!r}", value) for key, value in obj.items())
    elif isinstance(obj, list | tuple | set | frozenset):
        yield from ((f"item {i}", value) for i, value in enumerate(obj))
    elif isinstance(obj, functools.partial):
        yield from (("the function", obj.func), ("its arguments", obj.args), ("its keywords", obj.keywords))
    elif isinstance(obj, types.MethodType):
        yield (f"the {type(obj.__self__).__name__} it is a method of", obj.__self__)
    elif isinstance(obj, types.FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            try:
                yield (f"variable {name!r}", cell.cell_contents)
            except ValueError:
                pass  # not set yet
        names = (name for name in obj.__code__.co_names if name in obj.__globals__)
        yield from ((f"global {name!r}", obj.__globals__[name]) for name in names)
        yield from (("a default argument", value) for value in obj.__defaults__ or ())
    elif isinstance(obj, type):
        yield from ((f"class attribute {name!r}", value) for name, value in vars(obj).items())
    else:
        try:
            state = obj.__getstate__()
        except Exception:
            return
        for fields in state if isinstance(state, tuple) else (state,):
            if isinstance(fields, dict):
                yield from ((f"attribute {name!r}", value) for name, value in fields.items())
        yield (f"the class {type(obj).__name__}", type(obj))

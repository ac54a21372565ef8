"""Objects come out of payloads equal, with dtype and shape; an object that cannot go in is named."""

from __future__ import annotations

import functools
import math
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from park.body.payload import (
    LARGE_BUFFER_BYTES,
    code_hash,
    decode_entry,
    decode_units,
    dump_code,
    dumps,
    encode_array,
    encode_error,
    encode_result,
    encode_units,
    loads,
)
from park.errors import NotPicklable, ProtocolError, UnitError
from park.util import sealed
from park.wire.pack import Pack, pack_entries, pack_rows

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if b is np.ma.masked:  # numpy 1 cannot compare it
        assert a is b
    else:
        np.testing.assert_array_equal(a, b)


@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    back = decode_entry(memoryview(encode_result(value)))
    assert back == value
    assert type(back) is type(value)


@given(
    st.lists(scalars, max_size=6) | st.lists(st.integers(), max_size=6) | st.lists(st.floats(), max_size=6)
)
def test_units_come_back(values: list[Any]) -> None:
    payload = encode_units(values)
    back = decode_units(payload)
    assert Pack(payload).count == len(values)
    assert repr(back) == repr(values)  # equal, of the same types, and nan is nan


@pytest.mark.parametrize("values", [[1, 2, -(2**63)], [0.5, -0.0, math.inf], [True, False], [None] * 3])
def test_alike_scalars_are_rows(values: list[Any]) -> None:
    payload = encode_units(values)
    assert Pack(payload).rows is not None
    assert repr(decode_units(Pack(payload).slice(1, len(values)))) == repr(values[1:])


def test_numbers_over_64_bits_come_back() -> None:
    values = [1, 2**63, -(2**200)]
    assert decode_units(encode_units(values)) == values


ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(24, dtype=">i2").reshape(2, 3, 4)[:, ::2],
    np.array(3.5),
    np.zeros((0, 3)),
    np.zeros((3, 0)),
    np.array([1 + 2j, 3]),
    np.array(["a", "bc"]),
    np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
    np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array([None, "x", [1]], dtype=object),
    np.zeros(2 * LARGE_BUFFER_BYTES, np.uint8),
    np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
    np.arange(40_000.0)[::2],
    np.float32(1.5),
    np.ma.masked_array([1.0, 2.0], [True, False]),
]


@pytest.mark.parametrize("value", ARRAYS, ids=repr)
def test_arrays_come_back(value: Any) -> None:
    same(decode_entry(encode_result(value)), value)
    [back, again, other] = decode_units(encode_units([value, value, "other"]))
    same(back, value)
    same(again, value)
    assert other == "other"
    if isinstance(value, np.ndarray):
        assert back.flags.writeable
        assert back.flags.f_contiguous == value.flags.f_contiguous or not value.flags.contiguous
        if value.ndim:
            rows = list(zip(decode_units(encode_array(value)), list(value), strict=True))
            for one, row in rows[:: 1 + len(rows) // 1000]:
                same(one, row)


@pytest.mark.parametrize("dtype", ["f8", ">f8", "f4", "c16", "i1", "u8", "?"])
def test_equal_vectors_are_rows(dtype: str) -> None:
    values = [np.arange(3 * i, 3 * i + 3).astype(dtype) for i in range(4)]
    payload = encode_units(values)
    assert Pack(payload).rows is not None
    for back, value in zip(decode_units(payload), values, strict=True):
        same(back, value)
        assert back.flags.writeable
    assert decode_units(payload)[0].base is not decode_units(payload)[0].base


def test_vectors_that_differ_are_entries() -> None:
    for values in ([np.arange(3), np.arange(4)], [np.arange(3), np.arange(3.0)], [np.zeros((2, 2))] * 2):
        payload = encode_units(values)
        assert Pack(payload).rows is None
        for back, value in zip(decode_units(payload), values, strict=True):
            same(back, value)


def test_numbers_of_numpy_are_rows() -> None:
    for values in (list(np.arange(3.0)), list(np.arange(3, dtype="u1")), [np.True_, np.False_]):
        payload = encode_units(values)
        assert Pack(payload).rows is not None
        for back, value in zip(decode_units(payload), values, strict=True):
            same(back, value)


def test_a_slice_of_an_array_decodes_alone() -> None:
    array = np.arange(12.0).reshape(6, 2)
    for back, row in zip(decode_units(Pack(encode_array(array)).slice(2, 5)), array[2:5], strict=True):
        same(back, row)


def test_large_buffers_lie_beside_the_pickle() -> None:
    entry = encode_result({"a": np.arange(100_000.0), "b": np.arange(10), "c": [1]})
    assert entry[:1] == b"b"
    back = decode_entry(memoryview(entry))
    same(back["a"], np.arange(100_000.0))
    same(back["b"], np.arange(10))
    back["a"][0] = back["b"][0] = 7  # writable, and a copy
    assert decode_entry(entry)["a"][0] == 0
    large = bytes(3 * LARGE_BUFFER_BYTES)
    assert len(encode_result(large)) == len(large) + 1
    assert decode_entry(encode_result(large)) == large


def test_arrays_of_code_are_mapped_from_a_file_and_change_for_one_process_alone() -> None:
    array = np.arange(50_000.0)

    def function() -> Any:
        return array

    blob = dump_code(function)
    file = sealed.sealed(blob)
    first, second = (loads(file, sealed.private_copy)() for _ in range(2))
    assert first.flags.aligned
    assert isinstance(root_of(first), mmap.mmap), "it is no copy"
    first[:] = 0
    for found in (second, loads(blob)()):
        same(found, array)
        found[0] = 1  # an array that could be changed still can
    with pytest.raises(ProtocolError):
        loads(blob[:-1])


def no_place(size: int) -> Any:
    raise OSError("no descriptor is left")


@pytest.mark.parametrize(
    "values",
    [[b"x" * (1 << 20), 3], [np.arange(1 << 18)], [np.arange(1 << 18), np.ones((512, 512)).T], [b"x" * 100]],
    ids=["bytes", "rows", "arrays", "short"],
)
def test_a_long_pack_is_put_into_a_file(values: list[Any]) -> None:
    pack, filed = encode_units(values), encode_units(values, place=sealed.SealedBuffer)
    assert filed == pack == encode_units(values, place=no_place)
    assert (sealed.descriptor_of(filed) >= 0) == (len(pack) > 1 << 20)
    for value, found in zip(values, decode_units(filed), strict=True):
        same(value, found)


def root_of(data: Any) -> Any:
    """The object whose memory an array uses."""
    while (below := getattr(data, "base", None)) is not None or (
        below := getattr(data, "obj", None)
    ) is not None:
        data = below
    return data


def test_functions_and_their_data_go_by_value() -> None:
    factor = np.arange(20_000.0)
    function = decode_entry(encode_result(lambda i: i * factor))
    same(function(2), 2 * factor)
    blob = dumps(lambda x: x + 1)
    assert loads(memoryview(blob))(1) == 2
    assert len(code_hash(blob)) == 16
    assert code_hash(blob) == code_hash(memoryview(blob)) != code_hash(blob + b"x")


def test_what_the_main_module_defines_goes_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from park.body.payload import encode_units\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def double(self): return 2 * self.x\n"
        "sys.stdout.buffer.write(encode_units([Point(4), {'in': (Point(5),)}]))\n"
        "assert 'numpy' not in sys.modules\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    payload = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, env=env, check=True).stdout
    point, inside = decode_units(payload)
    assert point.double() == 8
    assert inside["in"][0].double() == 10


def test_errors_and_gaps_are_entries() -> None:
    error = decode_entry(encode_error(UnitError("ValueError: \udcff", "Traceback ...", 3)))
    assert isinstance(error, UnitError)
    assert (error.cause, error.traceback, error.unit) == ("ValueError: ?", "Traceback ...", 3)


class Holder:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def run(self) -> None: ...


def with_default(x: Any, lock: Any = threading.Lock()) -> None: ...  # noqa: B008


def local_function(captured: Any) -> Any:
    return lambda: captured


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (threading.Lock(), r"it is a _thread\.lock \(cannot pickle"),
        (Holder(a=1, lock=threading.Lock()), r"attribute 'lock' is a _thread\.lock"),
        (
            Holder(model=Holder(lock=threading.Lock())),
            "attribute 'lock' of attribute 'model' is a _thread.lock",
        ),
        (Holder(lock=threading.Lock()).run, "attribute 'lock' of the Holder it is a method of"),
        (local_function(threading.Lock()), "variable 'captured' is a _thread.lock"),
        (functools.partial(print, threading.Lock()), "item 0 of its arguments is a"),
        ({"x": [1, (i for i in "ab")]}, "item 1 of the value of key 'x' is a generator"),
    ],
)
def test_what_cannot_be_pickled_is_named(obj: Any, words: str) -> None:
    with pytest.raises(NotPicklable, match=f"the body cannot be pickled: .*{words}"):
        dumps(obj)
    with pytest.raises(NotPicklable, match=f"an input cannot be pickled: .*{words}"):
        encode_units([1, obj])
    with pytest.raises(NotPicklable, match=f"the result cannot be pickled: .*{words}"):
        encode_result(obj)


class Computed:
    """An object whose attributes are computed, and none of which is there."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def test_no_attribute_of_an_object_is_asked_for() -> None:
    assert type(decode_entry(encode_result(Computed()))) is Computed
    assert [type(value) for value in decode_units(encode_units([Computed(), 1]))] == [Computed, int]


def test_a_refusal_shows_the_error_of_pickle_alone() -> None:
    with pytest.raises(NotPicklable) as refused:
        encode_result(i for i in "ab")
    errors = [refused.value]
    while errors[-1] is not None:
        errors.append(errors[-1].__context__)
    assert [type(error).__name__ for error in errors[:-1]] == ["Unpicklable", "TypeError"]


def test_objects_that_refuse_are_named() -> None:
    class Refuses:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

        def __getstate__(self) -> Any:
            raise RuntimeError("not this")

    with pytest.raises(NotPicklable, match=r"attribute 'a' is a .*Refuses .*not me"):
        dumps(Holder(a=Refuses()))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotPicklable):
        dumps(deep)
    while deep:  # or its end would recurse too
        deep = deep[0]


@pytest.mark.parametrize(
    "payload",
    [
        pack_entries([b""]),
        pack_entries([b"?"]),
        pack_entries([b"b"]),
        pack_entries([b"b" + bytes(8)]),
        pack_entries([b"b" + b"\x01" + bytes(7) + b"\x09" + bytes(7)]),
        pack_entries([b"b" + b"\xff" * 8]),
        pack_rows(b"int", b"abcd", 2),
        pack_rows(b"f8 2", bytes(24), 2),
        pack_rows(b"O", bytes(16), 2),
        pack_rows(b"no such", bytes(16), 2),
        pack_rows(b"\xff", bytes(16), 2),
        pack_rows(b"", bytes(16), 2),
    ],
)
def test_payloads_that_cannot_be_right_are_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_units(payload)

"""Classes, cached functions, scalars and source lines on their way to other processes and back."""

from __future__ import annotations

import asyncio
import functools
import linecache
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import park
from park.body.payload import decode_units, dumps, encode_result, encode_units, loads
from park.body.results import decode_results
from park.core.server import ServerProxy
from park.wire.pack import pack_entries
from tests.support.fabric import ENVIRONMENT


@pytest.fixture(scope="module")
def service() -> Iterator[ServerProxy]:
    with park.local_service as service:
        yield service


def run(tmp_path: Path, text: str, name: str = "script.py") -> str:
    """The output of a script, whose classes no other process can import."""
    (tmp_path / name).write_text(textwrap.dedent(text))
    env = ENVIRONMENT | {"PARK_SLOTS": "2"}
    done = subprocess.run(
        [sys.executable, name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- values --------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one.dtype == other.dtype and (one == other or np.isnat(one))


UNITS = ["Y", "M", "D", "h", "s", "ms", "ns"]
#: numpy is about to give up time differences without a unit, and warns of them from 2.5 on
GENERIC = ["generic"] if np.lib.NumpyVersion(np.__version__) < "2.5.0" else []
SCALARS = st.one_of(
    st.builds(np.timedelta64, st.integers(-9999, 9999), st.sampled_from(UNITS + GENERIC)),
    st.builds(np.datetime64, st.integers(-9999, 9999), st.sampled_from(UNITS)),
    st.builds(
        lambda kind, value: kind(value),
        st.sampled_from([np.float16, np.longdouble, np.int8, np.complex64, np.bool_]),
        st.integers(-100, 100),
    ),
)


@given(st.lists(SCALARS, min_size=1, max_size=5))
def test_scalars_come_back_as_they_went(values: list[Any]) -> None:
    assert all(map(same, decode_units(encode_units(values)), values))


def test_classes_of_a_script_come_back_as_they_went(tmp_path: Path) -> None:
    text = run(
        tmp_path,
        """
        import dataclasses, enum, functools, typing
        import park

        @dataclasses.dataclass(slots=True)
        class Point: x: int
        @dataclasses.dataclass(slots=True, frozen=True, kw_only=True)
        class Frozen: x: int
        class Private:
            __slots__ = ("a", "__b")
            def __init__(self, a): self.a = self.__b = a
            def __eq__(self, other): return (self.a, self.__b) == (other.a, other.__b)
        class Below(Private):
            __slots__ = "c"
        class Beside(Private):
            def __init__(self, a): super().__init__(a); self.free = 1
        class Named(typing.NamedTuple):
            a: int
            def twice(self): return 2 * self.a
        class Lazy:
            def __init__(self, a): self.a = a
            @functools.cached_property
            def twice(self): return 2 * self.a
            def __eq__(self, other): return self.a == other.a
        class Colour(enum.Flag):
            RED = enum.auto()
            BLUE = enum.auto()

        VALUES = [Point(1), Frozen(x=2), Private(3), Below(4), Beside(5), Named(6), Lazy(7), Colour.RED | Colour.BLUE]
        def back(x): return x
        if __name__ == "__main__":
            with park.local_service as service:
                for ways in (list(service.map(back, VALUES)), service.wait(service.start(back, VALUES))):
                    for value, found in zip(VALUES, ways, strict=True):
                        assert type(found) is type(value) and found == value, (value, found)
                        assert hasattr(found, "__dict__") == hasattr(value, "__dict__"), value
            print("all")
        """,
    )
    assert text == "all\n"


def test_what_a_unit_sets_on_a_class_stays_there_and_what_its_owner_sets_is_seen(tmp_path: Path) -> None:
    text = run(
        tmp_path,
        """
        import park
        class Model:
            count, log = 0, []
            def __init__(self, x): self.x = x
        def change(x):
            Model.count += 1
            Model.log.append(x)
            Model.new = 1
            return Model(x)
        if __name__ == "__main__":
            park.local_service.configure(slots=1)
            with park.local_service as service:
                found = list(service.map(change, range(3)))
                print(Model.count, Model.log, hasattr(Model, "new"), {type(one) is Model for one in found})
                Model.count = 100
                print(service.wait(service.start(lambda: Model.count)))
        """,
    )
    assert text == "0 [] False {True}\n100\n"


def test_cached_and_generic_functions_of_a_script_travel(tmp_path: Path) -> None:
    text = run(
        tmp_path,
        """
        import functools, typing
        import park
        Angle = typing.NewType("Angle", float)
        @functools.lru_cache(maxsize=7, typed=True)
        def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
        @functools.cache
        def up(x: Angle) -> Angle: return Angle(x + 1)
        @functools.singledispatch
        def kind(x): return "any"
        @kind.register
        def _(x: int): return "whole"
        class Peak:
            @functools.lru_cache
            def at(self, x): return x
        def inside(x): return up(x), kind(x), Peak().at(x)
        if __name__ == "__main__":
            with park.local_service as service:
                for function in (fibonacci, up, kind, inside, Peak().at, functools.partial(up)):
                    assert list(service.map(function, [3, 4])) == [function(3), function(4)], function
                (back,) = service.map(lambda x: fibonacci, [0])
                print(back(10), back.cache_parameters())
        """,
    )
    assert text == "55 {'maxsize': 7, 'typed': True}\n"


# -- exceptions ----------------------------------------------------------------------------------


class Own(BaseException):
    pass


class NoText(Exception):
    def __str__(self) -> str:
        return f"{self.args:d}"  # a slip: these are a tuple


class LeavesInItsText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Refuses(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Blocked(Exception):
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class NotTrue(Exception):
    def __bool__(self) -> bool:
        return False


class NeitherTrueNorFalse(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("ask me something else")


class PicklesAsANumber(Exception):
    def __reduce__(self) -> Any:
        return int, ("7",)


def raise_it(kind: Callable[[str], BaseException], file: Path) -> None:
    with file.open("a") as out:
        out.write("x")
    raise kind("in the unit")


KINDS: list[Any] = [
    Own,
    asyncio.CancelledError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    pytest.fail.Exception,
    park.Abort,
    NoText,
    LeavesInItsText,
    Refuses,
    Blocked,
    NotTrue,
    NeitherTrueNorFalse,
    PicklesAsANumber,
    functools.partial(lambda text, of: BaseExceptionGroup(text, [of()]), of=KeyboardInterrupt),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", "Group"))
def test_any_exception_is_the_result_of_its_unit_once(
    service: ServerProxy, kind: Any, tmp_path: Path
) -> None:
    name = kind.__name__ if isinstance(kind, type) else "BaseExceptionGroup"
    with pytest.raises(park.JobFailed) as failed:
        service.wait(service.start(functools.partial(raise_it, kind), [tmp_path / "job"]), timeout=60)
    assert f"unit 0: {name}" in failed.value.cause
    assert "in raise_it" in failed.value.traceback
    with pytest.raises(park.UnitError, match=name):
        list(service.map(functools.partial(raise_it, kind), [tmp_path / "map"]))
    with service.executor() as executor:
        assert isinstance(executor, Executor)
        future = executor.submit(raise_it, kind, tmp_path / "call")
        error = future.exception(60)
        with pytest.raises(type(error)) as raised:  # type: ignore[arg-type]
            future.result()
    assert raised.value is error
    if kind is park.Abort:
        assert isinstance(error, park.UnitError)  # it does not pickle
    else:
        assert type(error).__name__ == name
    assert {file.read_text() for file in tmp_path.iterdir()} == {"x"}


class FailsToPrepare:
    def prepare(self, env: Any) -> None:
        raise SystemExit(3)

    def run(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("body", "words"),
    [(functools.partial(raise_it, Own), "Own: in the unit"), (FailsToPrepare(), "SystemExit: 3")],
)
def test_a_driver_that_catches_everything_gets_it(service: ServerProxy, body: Any, words: str) -> None:
    def driver() -> str:
        try:
            list(park.environment().map(body, [Path("/dev/null")]))
        except BaseException as error:
            return str(error).splitlines()[0]
        return "nothing"

    assert service.wait(service.start(driver), timeout=60) == f"unit 0: {words}"


class Unreadable:
    def __init__(self, x: int) -> None:
        self.x = x

    def __setstate__(self, state: Any) -> None:
        raise LookupError("it has not arrived")


def unreadable(x: int) -> Any:
    return Unreadable(x) if x == 3 else x * x


def test_a_result_that_does_not_unpickle_costs_no_other(service: ServerProxy) -> None:
    words = (
        r"its result, test_by_value\.Unreadable, cannot be unpickled here: LookupError: it has not arrived"
    )
    job = service.job(service.start(unreadable, range(10)))
    with pytest.raises(park.JobFailed, match=f"unit 3: {words}") as failed:
        job.wait()
    assert isinstance(failed.value.__cause__, LookupError)
    assert failed.value.results is not None
    others = [x for x in range(10) if x != 3]
    assert [failed.value.results[x] for x in others] == [x * x for x in others]
    assert isinstance(failed.value.results[3], park.UnitError)
    assert isinstance(service.fetch(job.id).result, park.JobFailed)
    results = service.map(unreadable, range(10))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(park.UnitError, match=f"unit 3: {words}"):
        next(results)
    with pytest.raises(park.JobFailed, match=words):
        service.wait(service.start(lambda: Unreadable(1)))


def test_an_error_that_a_body_returns_is_its_result(service: ServerProxy) -> None:
    error = service.wait(service.start(lambda: park.UnitError("kept")))
    assert isinstance(error, park.UnitError)


def test_of_a_class_that_is_made_anew_its_own_name_is_told() -> None:
    class Base:
        pass

    class Inner(Base):
        def __reduce__(self) -> Any:
            return type(self), (1, 2, 3)

    (found,) = decode_results(pack_entries([encode_result(Inner())]), 7)
    assert found.unit == 7
    assert found.cause.startswith("its result, test_by_value.Inner, cannot be unpickled here: TypeError")


# -- source lines --------------------------------------------------------------------------------

MODEL = """\
import sys
from park.body.payload import dumps


def other(x):
    return 1 / x


def model(x):
    wavelength = x - 3

    def inner():
        return [other(y) for y in [wavelength]]

    return inner()


sys.stdout.buffer.write(dumps(model))
"""


def test_tracebacks_name_the_script_and_show_its_lines_where_it_is_not(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text(MODEL)
    blob = subprocess.run(
        [sys.executable, script], stdout=subprocess.PIPE, env=ENVIRONMENT, check=True, timeout=60
    ).stdout
    assert len(blob) < 4000
    script.unlink()
    model = loads(blob)
    with pytest.raises(ZeroDivisionError) as raised:
        model(3)
    told = "".join(traceback.format_exception(raised.value))
    for line, text in (
        (6, "return 1 / x"),
        (13, "return [other(y) for y in [wavelength]]"),
        (15, "return inner()"),
    ):
        assert f'File "{script}", line {line}' in told
        assert text in told
    assert linecache.getline(str(script), 10) == "    wavelength = x - 3\n"  # as a debugger lists it


def test_a_file_that_is_here_and_says_something_else_is_not_what_ran(tmp_path: Path) -> None:
    script = tmp_path / "model.py"
    script.write_text("def f(x):\n    return 1 / x  # as it ran\n")
    functions: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.read_text(), script, "exec"), functions)
    blob = dumps(functions["f"])
    linecache.clearcache()
    script.write_text("import os\n\n\ndef f(x):\n    return os  # since\n")
    with pytest.raises(ZeroDivisionError) as raised:
        loads(blob)(0)
    assert "return 1 / x  # as it ran" in "".join(traceback.format_exception(raised.value))
    script.unlink()


def test_results_take_no_source_along() -> None:
    def function() -> str:
        return "some text"

    assert len(encode_result(function)) < len(dumps(function))

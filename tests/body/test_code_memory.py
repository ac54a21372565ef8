"""Functions that are not pickled anew: the pickle that is remembered is always that of the function as it is now."""

from __future__ import annotations

import importlib
import math
import os.path
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from park.body import payload
from park.body.code_memory import MAX_FUNCTIONS, CodeMemory
from park.body.function_call import FunctionCall

FACTOR = 2
ROWS = [1, 2]


@pytest.fixture
def memory() -> CodeMemory:
    return CodeMemory(FunctionCall)


def made(source: str, name: str = "f", **names: Any) -> Any:
    """A function of a script: it travels by value, and its globals are *names*."""
    space = {"__name__": "__main__", **names}
    exec(source, space)
    return space[name]


def value(memory: CodeMemory, function: Any, *args: Any) -> Any:
    """The result of the call where it arrives; the hash is that of a fresh pickle."""
    name, blob = memory.dump(function)
    assert name == payload.code_hash(payload.dump_code(FunctionCall(function))) == payload.code_hash(blob)
    return payload.loads(blob)((args, {}))


def outer(step: Any) -> Callable[[float], Any]:
    def inner(x: float) -> Any:
        return x + step

    return inner


REMEMBERED: dict[str, Callable[[], Any]] = {
    "built in": lambda: abs,
    "of a library": lambda: os.path.join,
    "of this module": lambda: outer,
    "of a script": lambda: made("def f(x): return math.sqrt(x) + FACTOR", math=math, FACTOR=2),
    "with a default": lambda: made("def f(x, y=(1, 'a'), /): return x"),
    "with a keyword's default": lambda: made("def f(x, *, y=1): return x"),
    "annotated": lambda: made("def f(x: int) -> 'float': return x"),
    "a closure": lambda: made("def g(n):\n def f(x): return n + x\n return f", "g")(3),
    "recursive": lambda: made("def f(n): return n and n * f(n - 1)"),
    "of functions": lambda: made("def f(x): return g(x)", g=made("def f(x): return int(x)")),
}


@pytest.mark.parametrize("name", REMEMBERED)
def test_a_function_of_constants_is_pickled_once(memory: CodeMemory, name: str) -> None:
    function = REMEMBERED[name]()
    assert memory.dump(function) is memory.dump(function)


NEW_EACH_TIME: dict[str, Callable[[], Any]] = {
    "a bound method": lambda: ROWS.append,
    "an object": lambda: FunctionCall(abs),
    "reads a list": lambda: made("def f(x): return rows", rows=ROWS),
    "reads a list in a tuple": lambda: made("def f(x): return rows", rows=(1, ROWS)),
    "a list as default": lambda: made("def f(x, y=[]): return y"),
    "a list as keyword's default": lambda: made("def f(x, *, y=[]): return y"),
    "a list in a cell": lambda: made("def g(n):\n def f(x): return n\n return f", "g")([]),
    "attributes": lambda: setattr(f := made("def f(x): pass"), "rows", 1) or f,  # type: ignore[func-returns-value]
    "a class of the script": lambda: made("class A: pass\ndef f(x): return A"),
    "cached": lambda: lru_cache(made("def f(x): return x")),
    "long": lambda: made("def f(x): return text", text="a" * 70_000),
}


@pytest.mark.parametrize("name", NEW_EACH_TIME)
def test_other_functions_are_pickled_each_time(memory: CodeMemory, name: str) -> None:
    function = NEW_EACH_TIME[name]()
    assert memory.dump(function) is not memory.dump(function)


def test_whatever_is_set_anew_is_what_arrives(memory: CodeMemory) -> None:
    f = made("def f(x, y=1): return (x, y, FACTOR, g(x))", FACTOR=2, g=made("def f(x): return K", K=5))
    space = f.__globals__
    assert value(memory, f, 0) == value(memory, f, 0) == (0, 1, 2, 5)
    space["FACTOR"] = 3
    assert value(memory, f, 0) == (0, 1, 3, 5)
    space["g"].__globals__["K"] = 6
    assert value(memory, f, 0) == (0, 1, 3, 6)
    f.__defaults__ = (7,)
    assert value(memory, f, 0) == (0, 7, 3, 6)
    f.__kwdefaults__ = {"more": 1}
    assert value(memory, f, 0) == (0, 7, 3, 6)
    space["g"] = [].append
    assert value(memory, f, 0) == (0, 7, 3, None)
    space["g"] = abs
    f.__code__ = made("def f(x, y=1): return (y, FACTOR)").__code__
    assert value(memory, f, 0) == (7, 3)
    space["FACTOR"] = rows = [1]
    assert value(memory, f, 0) == (7, [1])
    rows.append(2)
    assert value(memory, f, 0) == (7, [1, 2])
    del space["FACTOR"]
    with pytest.raises(NameError):
        payload.loads(memory.dump(f)[1]).function(0)
    space["FACTOR"] = 9
    assert value(memory, f, 0) == (7, 9)


def test_a_cell_that_is_set_anew_is_noticed(memory: CodeMemory) -> None:
    f = made("def g(n):\n def f(x): return n\n return f", "g")(1)
    assert value(memory, f, 0) == 1
    f.__closure__[0].cell_contents = 2
    assert value(memory, f, 0) == 2


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "own_remembered.py"
    file.write_text("def f(x): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    sys.modules.pop("own_remembered", None)


def test_an_edited_module_is_noticed(memory: CodeMemory, own_module: Path) -> None:
    module = importlib.import_module("own_remembered")
    caller = made("def f(x): return m.f(x)", m=module)
    before = [memory.dump(function) for function in (module.f, caller)]
    assert memory.dump(module.f) is before[0]
    assert memory.dump(caller) is before[1]
    own_module.write_text("def f(x): return 2  # another length")
    importlib.reload(module)
    assert memory.dump(module.f)[0] != before[0][0]
    assert memory.dump(caller)[0] != before[1][0]


def test_the_memory_is_bounded(memory: CodeMemory) -> None:
    functions = [made("def f(x): return K", K=k) for k in range(3 * MAX_FUNCTIONS)]
    for _ in range(2):
        assert [value(memory, f, 0) for f in functions] == list(range(3 * MAX_FUNCTIONS))
    assert len(memory._known) <= MAX_FUNCTIONS

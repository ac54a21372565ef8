"""Random generators that travel with a function: ``rng = np.random.default_rng(7)`` beside a function that draws from it.

Each process unpickles such a generator in the same state. Units on two processes would then draw the same numbers, and the
numbers of a unit would depend on the units that its process ran before. So these generators are seeded before each unit of
a job with inputs or of a map, from the unit's seed, as the global ones are (`park.body.generators`). A job without
inputs finds them as the script left them.

A generator inside an input belongs to that input alone, and keeps its state.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from park.body.edited_modules import is_own
from park.body.seeds import mix

#: Objects that are looked at for generators of one function, at most.
MAX_OBJECTS = 2000
#: Items of a container that are looked at.
MAX_ITEMS = 100


class OwnGenerators:
    """The generators that a function, or the ``run`` of a body, may draw from.

    A class with ``keeps_own_generators = True`` looks after them itself.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        keeps = getattr(type(function), "keeps_own_generators", False)
        self._found = [] if keeps else list(_generators(function))

    def __bool__(self) -> bool:
        return bool(self._found)

    def are_of(self, function: Any) -> bool:
        """Whether they are those of this very object."""
        return self._function is function

    def seed(self, number: int) -> None:
        """Seed each from *number* and from its place among them."""
        for index, one in enumerate(self._found):
            _seed(one, mix(number, index))


def _kinds() -> tuple[type, ...]:
    """The classes of generators, of the libraries that are loaded."""
    found: list[type] = []
    if (library := sys.modules.get("random")) is not None:
        found.append(library.Random)
    if (library := sys.modules.get("numpy.random")) is not None:
        found += (library.Generator, library.RandomState, library.BitGenerator)
    return tuple(found)


def _seed(one: Any, number: int) -> None:
    library: Any = sys.modules.get("numpy.random")
    if library is None or not isinstance(one, library.Generator | library.RandomState | library.BitGenerator):
        one.seed(number)
        return
    bits = one if isinstance(one, library.BitGenerator) else one._bit_generator
    try:
        fresh = type(bits)(number)
    except TypeError:  # another library's, which is seeded in its own way: it stays as it is
        return
    bits.state = fresh.state
    if isinstance(one, library.RandomState):  # it forgets the second of two normal numbers
        one.set_state({**one.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})


def _generators(root: Any) -> Iterator[Any]:
    """The generators that *root* reaches by names, closures, defaults, attributes and items: each once, in one order."""
    kinds = _kinds()
    if not kinds:
        return
    seen: dict[int, Any] = {}
    queue = [root]
    for one in queue:
        if id(one) in seen or len(seen) >= MAX_OBJECTS:
            continue
        seen[id(one)] = one  # held, so that its id stays its own
        if isinstance(one, kinds):
            if not _is_global(one):
                yield one
        else:
            queue += _inside(one, kinds)


def _is_global(one: Any) -> bool:
    """Whether it is a library's global generator, which is seeded anyway."""
    return any(
        one is getattr(sys.modules.get(module), name, None)
        for module, name in (("random", "_inst"), ("numpy.random.mtrand", "_rand"))
    )


def _inside(one: Any, kinds: tuple[type, ...]) -> Iterable[Any]:
    match one:
        case FunctionType():
            return _of_function(one, kinds)
        case MethodType():
            return one.__self__, one.__func__
        case functools.partial():
            return one.func, *one.args, *one.keywords.values()
        case list() | tuple():
            return one[:MAX_ITEMS]
        case dict():
            return [value for value, _ in zip(one.values(), range(MAX_ITEMS), strict=False)]
        case type() | str() | bytes() | int() | float():
            return ()
    if type(one).__module__ in ("builtins", "numpy"):
        return ()
    inside = list(getattr(one, "__dict__", {}).values())
    for name in ("run", "__call__"):
        if isinstance(method := getattr(type(one), name, None), FunctionType):
            inside.append(method)
    return inside


def _of_function(function: FunctionType, kinds: tuple[type, ...]) -> Iterator[Any]:
    """What a function names among the global variables of its module, if it may lead to a generator, and what it holds."""
    names: dict[str, None] = {}
    codes = [function.__code__]
    for code in codes:
        names.update(dict.fromkeys(code.co_names))
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    variables = function.__globals__
    for name in names:
        one = variables.get(name)
        if isinstance(one, ModuleType) and is_own(one):
            named = (vars(one).get(each) for each in names)
            yield from (each for each in named if _may_lead(each, vars(one), kinds))
        elif _may_lead(one, variables, kinds):
            yield one
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it is empty
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _may_lead(one: Any, variables: dict[str, Any], kinds: tuple[type, ...]) -> bool:
    """Whether *one*, a global variable, is a generator or may lead to one: the code of libraries is not followed."""
    if isinstance(one, (*kinds, functools.partial, list, tuple, dict)):
        return True
    if isinstance(one, FunctionType):
        return one.__globals__ is variables or _is_of_own_module(one.__module__)
    kind = type(one)
    return kind.__module__ == variables.get("__name__") or _is_of_own_module(kind.__module__)


def _is_of_own_module(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and is_own(module)

"""Random generators that travel with a function: ``rng = np.random.default_rng(7)`` beside a function that draws from it.

Each process unpickles such a generator in the same state. Units on two processes would then draw the same numbers, and the
numbers of a unit would depend on the units that its process ran before. So these generators are seeded before each unit of
a job with inputs or of a map, from the unit's seed, as the global ones are (`park.body.generators`). A job without
inputs finds them as the script left them.

A generator inside an input belongs to that input alone, and keeps its state.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
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

    A class with ``keeps_own_generators = True`` looks after them itself. A generator that takes no seed stays as it is, and
    an object that fails when it is looked at ends the search: neither is a reason for a unit to fail.
    """

    def __init__(self, function: Any) -> None:
        self._function = function
        self._found: list[Any] = []
        with contextlib.suppress(Exception):
            if not getattr(type(function), "keeps_own_generators", False):
                self._found.extend(_generators(function))

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
    library = sys.modules.get("random")
    return (*((library.Random,) if library is not None else ()), *_kinds_of_numpy())


def _kinds_of_numpy() -> tuple[type, ...]:
    library = sys.modules.get("numpy.random")
    return (library.Generator, library.RandomState, library.BitGenerator) if library is not None else ()


def _seed(one: Any, number: int) -> None:
    if not issubclass(type(one), _kinds_of_numpy()):
        with contextlib.suppress(Exception):  # a class of the user's may refuse
            one.seed(number)
        return
    library: Any = sys.modules["numpy.random"]
    bits = one if issubclass(type(one), library.BitGenerator) else one._bit_generator
    try:
        fresh = type(bits)(number)
    except TypeError:  # another library's, which is seeded in its own way: it stays as it is
        return
    bits.state = fresh.state
    if issubclass(type(one), library.RandomState):  # it forgets the second of two normal numbers
        one.set_state({**one.get_state(legacy=False), "has_gauss": 0, "gauss": 0.0})


def _generators(root: Any) -> Iterator[Any]:
    """The generators that *root* reaches by names, closures, defaults, attributes and items: each once, in one order.

    Classes are found by ``type``: ``isinstance`` asks an object for its class, and a proxy may fail at that.
    """
    kinds = _kinds()
    if not kinds:
        return
    seen: dict[int, Any] = {}
    queue = [root]
    for one in queue:
        if id(one) in seen or len(seen) >= MAX_OBJECTS:
            continue
        seen[id(one)] = one  # held, so that its id stays its own
        if not issubclass(type(one), kinds):
            queue += _inside(one, kinds)
        elif not _is_global(one):
            yield one


def _is_global(one: Any) -> bool:
    """Whether it is a library's global generator, which is seeded anyway."""
    return any(
        one is getattr(sys.modules.get(module), name, None)
        for module, name in (("random", "_inst"), ("numpy.random.mtrand", "_rand"))
    )


def _inside(one: Any, kinds: tuple[type, ...]) -> Iterable[Any]:
    kind = type(one)
    if kind is FunctionType:
        return _of_function(one, kinds)
    if kind is MethodType:
        return one.__self__, one.__func__
    if issubclass(kind, functools.partial):
        return one.func, *one.args, *one.keywords.values()
    if kind in (list, tuple):
        return one[:MAX_ITEMS]  # type: ignore[no-any-return]
    if kind is dict:
        return list(islice(one.values(), MAX_ITEMS))
    if issubclass(kind, type) or kind.__module__ in ("builtins", "numpy"):
        return ()
    try:
        inside = list(object.__getattribute__(one, "__dict__").values())
    except AttributeError:
        inside = []
    methods = (getattr(kind, name, None) for name in ("run", "__call__"))
    return inside + [method for method in methods if type(method) is FunctionType]


def _of_function(function: FunctionType, kinds: tuple[type, ...]) -> Iterator[Any]:
    """The global variables that a function names and that may lead to a generator, its closure and its defaults."""
    names: dict[str, None] = {}
    codes = [function.__code__]
    for code in codes:
        names.update(dict.fromkeys(code.co_names))
        codes += [constant for constant in code.co_consts if type(constant) is CodeType]
    variables = function.__globals__
    for name in names:
        one = variables.get(name)
        if type(one) is ModuleType and is_own(one):
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
    kind = type(one)
    if issubclass(kind, (*kinds, functools.partial)) or kind in (list, tuple, dict):
        return True
    if kind is FunctionType:
        return one.__globals__ is variables or _is_of_own_module(one.__module__)
    return kind.__module__ == variables.get("__name__") or _is_of_own_module(kind.__module__)


def _is_of_own_module(name: str) -> bool:
    module = sys.modules.get(name)
    return type(module) is ModuleType and is_own(module)

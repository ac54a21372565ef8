"""Classes and cached functions of a script on their way to other processes, and back.

A class goes by value to a process that cannot import it, and comes back with its instances. Each process has a name for
each class that was defined in it, and for each copy of a class of another process. So a returning instance has the same
class object as the one that was sent. A class belongs to the process that defined it: a returning copy never changes it
there. A copy takes over changes of its owner.
"""

from __future__ import annotations

import functools
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any, NewType
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from park.body import importable

Reduced = tuple[Any, ...]

_lock = threading.Lock()
#: Names of classes, and classes by name.
_names: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_classes: WeakValueDictionary[str, type] = WeakValueDictionary()
#: Copies of classes that other processes have defined.
_made: WeakSet[type] = WeakSet()

#: The class of functions with a cache.
Cached = type(functools.lru_cache(int))


def by_value(cls: type, reduced: Reduced) -> Reduced:
    """The reduction of a class that travels by value, from that of cloudpickle (*reduced*): how to make and fill it.

    Its slots come along, which cloudpickle leaves out: an instance without them cannot be unpickled where they are.
    """
    make, args, state, *_, fill = reduced
    *values, _, extra = args  # the last but one is cloudpickle's own name of the class
    if "__slots__" in vars(cls) and not hasattr(cls, "_fields"):  # a named tuple makes its own
        values[3] = {**values[3], "__slots__": vars(cls)["__slots__"]}
    return made, (_name_of(cls), make, (*values, None, extra)), (fill, state), None, None, filled


def made(name: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class of this name, which is made where it is not known."""
    found = _classes.get(name)
    if found is not None:
        return found
    new = make(*args)
    with _lock:
        found = _classes.setdefault(name, new)
        if found is new:
            _names[new] = name
            _made.add(new)
    return found


def filled(cls: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    """Give a copy of a class the state of its owner's class."""
    if cls in _made:
        fill, values = state
        fill(cls, values)


def reduced(obj: Any) -> Reduced | None:
    """The reduction of a function with a cache, or of a type that is new in name only; None: pickle reduces *obj* itself,
    for example because it is found by its name.
    """
    if isinstance(obj, Cached):
        if _is_found(obj):
            return None
        own = {k: v for k, v in vars(obj).items() if k not in ("__wrapped__", "cache_parameters")}
        settings = obj.cache_parameters()
        return cached, (obj.__wrapped__, settings["maxsize"], settings["typed"], own)
    if isinstance(obj, NewType) and not _is_found(obj):
        return NewType, (obj.__name__, obj.__supertype__)
    return None


def reducers() -> dict[type, Callable[[Any], Reduced]]:
    """The reducers of objects inside functions and classes of a script, by class."""
    return {
        functools.cached_property: lambda prop: (property_of, (prop.func, prop.attrname)),
        WeakKeyDictionary: lambda held: (WeakKeyDictionary, (dict(held),)),
    }


def property_of(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    """A cached property; Python's has a lock, in some versions."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def cached(function: Callable[..., Any], maxsize: int | None, typed: bool, own: dict[str, Any]) -> Any:
    """The function with an empty cache."""
    wrapper = functools.lru_cache(maxsize, typed)(function)
    vars(wrapper).update(own)
    return wrapper


def _name_of(cls: type) -> str:
    with _lock:
        name = _names.get(cls)
        if name is None:
            name = _names[cls] = uuid.uuid4().hex
            _classes[name] = cls
    return name


def _is_found(obj: Any) -> bool:
    """Whether another process finds *obj* by its name."""
    name = obj.__module__
    module = sys.modules.get(name) if isinstance(name, str) and name != "__main__" else None
    if module is None or not importable.is_importable(module):
        return False
    found: Any = module
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj

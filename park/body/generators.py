"""The global random generators of a process: `random`'s, numpy's and numba's, seeded from all bits of one number.

A unit's numbers may depend on its seed alone: not on the process that runs it, nor on earlier units there. So the
generators are seeded before each unit, those of numpy and numba as soon as the unit imports them (`watch`). A driver
finds its generators as it left them, even if its process has run chunks meanwhile.

A unit may take microseconds, and numpy's own way to seed from more than 32 bits takes twenty of them. So the words of
its Mersenne twister's state are written here: each is the seed times an odd number of its own, modulo 2**64, so that
other seeds have other states, plus noise of its own (by exclusive or), so that no seed has a state of zeros.
"""

from __future__ import annotations

import ctypes
import importlib
import struct
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any, Protocol

_MASK = (1 << 64) - 1
#: Words of 32 bits in the state of a Mersenne twister.
_WORDS = 624


class Generator(Protocol):
    """One library's global generator."""

    def seed(self, seed: int) -> None: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


class _Random:
    """The generator of the module ``random``, which a slot process does not load itself."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._random: Any = module.seed.__self__
        # The method that `random.seed` calls in the end, without its look at texts and versions.
        self._seed: Any = super(module.Random, self._random).seed  # type: ignore[misc]

    def seed(self, seed: int) -> None:
        self._seed(seed)
        self._random.gauss_next = None

    def state(self) -> Any:
        return self._module.getstate()

    def restore(self, state: Any) -> None:
        self._module.setstate(state)


class _Numpy:
    """numpy's global generator, of the module ``numpy.random``."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._numpy: Any = importlib.import_module("numpy")
        self._odd, self._noise = (
            self._numpy.array([_noise(n) | lowest for n in range(start, start + _WORDS // 2)], "u8")
            for start, lowest in ((0, 1), (_WORDS, 0))
        )
        self._number = self._numpy.zeros((), "u8")
        self._bits: Any = None
        self._words: Any = None
        self._position: Any = None
        #: the flag and the value of the second of two normal numbers, in the memory of numpy's generator
        self._spare: tuple[ctypes.c_int, ctypes.c_double] | None = None
        if sys.implementation.name == "cpython":  # the address of an object is its id
            self._spare = self._find_spare(getattr(module.get_state, "__self__", None))

    def _find_spare(self, generator: Any) -> tuple[ctypes.c_int, ctypes.c_double] | None:
        """The place where the *generator* keeps the second of two normal numbers; None if it is not as in numpy today."""
        if generator is None:
            return None
        size = type(generator).__basicsize__
        kept = generator.get_state(legacy=False)
        mark = 0.7310585786300049
        try:
            generator.set_state({**kept, "has_gauss": 1, "gauss": mark})
            memory = ctypes.string_at(id(generator), size)
            places = [at for at in range(8, size - 7, 8) if memory[at : at + 8] == struct.pack("=d", mark)]
            if len(places) != 1:
                return None
            flag = ctypes.c_int.from_address(id(generator) + places[0] - 8)
            value = ctypes.c_double.from_address(id(generator) + places[0])
            seen: list[float] = [flag.value]
            generator.set_state({**kept, "has_gauss": 0, "gauss": 0.0})
            seen += [flag.value, value.value]
        finally:
            generator.set_state(kept)
        return (flag, value) if seen == [1, 0, 0.0] else None

    def _bind(self, bits: Any) -> None:
        """Find the state of the bit generator, which user code may have exchanged."""
        self._bits, self._words = bits, None
        if not isinstance(bits, self._module.MT19937):
            return
        address = bits.ctypes.state_address
        words = self._numpy.frombuffer((ctypes.c_uint32 * _WORDS).from_address(address), "u8")
        position = ctypes.c_int.from_address(address + 4 * _WORDS)
        known = bits.state["state"]
        if words.tobytes() == known["key"].astype("u4").tobytes() and position.value == known["pos"]:
            self._words, self._position = words, position

    def seed(self, seed: int) -> None:
        bits = self._module.get_bit_generator()
        if bits is not self._bits:
            self._bind(bits)
        if self._words is None:  # no Mersenne twister, or not as numpy keeps them today: slower
            bits.state = type(bits)(seed).state
        else:
            self._number[()] = seed & _MASK
            self._numpy.multiply(self._odd, self._number, self._words)
            self._numpy.bitwise_xor(self._words, self._noise, self._words)
            self._position.value = _WORDS  # all are new
        self._module.set_bit_generator(bits)  # forgets the second of two normal numbers

    def state(self) -> Any:
        bits = self._module.get_bit_generator()
        if bits is not self._bits:
            self._bind(bits)
        if self._words is None or self._spare is None:
            return bits, self._module.get_state(legacy=False)
        # numpy's own way copies word by word, and takes a hundred times longer
        flag, value = self._spare
        return bits, (self._words.copy(), self._position.value, flag.value, value.value)

    def restore(self, state: Any) -> None:
        bits, values = state
        if self._module.get_bit_generator() is not bits:
            self._module.set_bit_generator(bits)
        if isinstance(values, dict):
            self._module.set_state(values)
            return
        if bits is not self._bits:
            self._bind(bits)
        assert self._spare is not None
        flag, value = self._spare
        self._words[:], self._position.value, flag.value, value.value = values


class _Numba:
    """The generators of numba's compiled functions in this thread: those of ``numpy.random`` and of ``random`` there."""

    #: int32 index, 624 words, int32 has_gauss, double gauss, int32 is_initialized
    _SIZE = 2520

    def __init__(self, helper: Any) -> None:
        self._seed = helper.rnd_seed
        self._numpy = helper.rnd_get_np_state_ptr()
        self._python = helper.rnd_get_py_state_ptr()

    def seed(self, seed: int) -> None:
        data = seed.to_bytes(max(8, seed.bit_length() // 8 + 1), "little")
        self._seed(self._numpy, data)
        self._seed(self._python, data + b"python")

    def state(self) -> Any:
        return tuple(ctypes.string_at(at, self._SIZE) for at in (self._numpy, self._python))

    def restore(self, state: Any) -> None:
        for at, memory in zip((self._numpy, self._python), state, strict=True):
            ctypes.memmove(at, memory, self._SIZE)


def _noise(n: int) -> int:
    """The *n*-th of a row of numbers of 64 bits that look random (splitmix64, Steele et al. 2014)."""
    z = (n + 1) * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


#: The loaded ones, by the module that brings them.
_loaded: dict[str, Generator] = {}


def _numba(_: Any) -> Generator:
    return _Numba(importlib.import_module("numba._helperlib"))


#: Makes the generator of a module, once the module is loaded.
_MADE: dict[str, Callable[[Any], Generator]] = {
    "random": _Random,
    "numpy.random": _Numpy,
    "numba": _numba,
}


def _look() -> None:
    """Make the generators of the modules that are loaded."""
    for name, make in _MADE.items():
        if name not in _loaded and name in sys.modules:
            try:
                _loaded[name] = make(sys.modules[name])
            except (ImportError, AttributeError):  # it is half loaded
                continue


def seed(number: int) -> None:
    """Seed all global generators, from all bits of *number* (from 0).

    A generator whose module the unit loads later is seeded at that moment: numpy loads its own at their first use.
    """
    _look()
    if Generators._current is not None:
        Generators._current._number = number
    for generator in _loaded.values():
        generator.seed(number)


class Generators:
    """The generators while one chunk of units runs.

    With *keep*, `restore` puts them back: a driver does not notice the chunks that its process ran meanwhile.
    """

    _current: Generators | None = None

    def __init__(self, keep: bool) -> None:
        _look()
        self._outer = Generators._current
        self._kept = {name: g.state() for name, g in _loaded.items()} if keep else None
        self._number = 0
        Generators._current = self

    def seed(self, number: int) -> None:
        """Seed all for a unit."""
        self._number = number
        for generator in _loaded.values():
            generator.seed(number)

    def restore(self) -> None:
        Generators._current = self._outer
        if self._kept is None:
            return
        for name, generator in _loaded.items():
            if name in self._kept:
                generator.restore(self._kept[name])
            elif self._outer is not None:  # the driver has not seen it yet
                generator.seed(self._outer._number)


class _Watch:
    """Finds the modules that bring generators as others would, and seeds the generator when its module is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _MADE or name in _loaded:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None) if finder is not self else None
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                break
        else:
            return None
        loader: Any = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is not None:

            def exec_module(module: Any) -> None:
                execute(module)
                _arrived(name)

            loader.exec_module = exec_module
        return spec


def _arrived(name: str) -> None:
    """Seed the generator of the module *name*, which a unit has just loaded."""
    _look()
    current = Generators._current
    if current is not None and name in _loaded:
        _loaded[name].seed(current._number)


def watch() -> None:
    """Seed a generator, from now on, as soon as a unit imports its module."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())

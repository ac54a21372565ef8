"""Pickles of earlier releases name modules that have moved; they open all the same."""

from __future__ import annotations

import importlib

import pytest

from park.body import former_names, payload


@pytest.mark.parametrize("module", sorted(former_names.MOVED))
def test_the_new_module_is_there_and_the_old_one_is_not(module: str) -> None:
    importlib.import_module(former_names.MOVED[module])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)


@pytest.mark.parametrize(("module", "name"), sorted(former_names.RENAMED))
def test_the_new_class_is_there_and_its_old_module_has_moved(module: str, name: str) -> None:
    assert module in former_names.MOVED
    opened = payload.loads(f"c{module}\n{name}\n.".encode())
    assert (opened.__module__, opened.__name__) == former_names.RENAMED[module, name]
    names: list[str] = []
    assert payload.NamingUnpickler(f"c{module}\n{name}\n.".encode(), names).load() is opened


def test_an_object_of_a_module_that_has_moved_opens() -> None:
    assert payload.loads(b"cpark.payload\ncode_hash\n.") is payload.code_hash
    names: list[str] = []
    opened = payload.NamingUnpickler(b"cpark.stream\nComplete\n.", names).load()
    assert opened.__module__ == "park.client.stream"


def test_a_module_that_was_never_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"park\.nowhere"):
        payload.loads(b"cpark.nowhere\nthing\n.")

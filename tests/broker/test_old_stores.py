"""Stores that were written by each release open, and all is found in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from park.broker.storage.store import NAMESPACES, SCHEMA
from tests.support.stores import FOLDER, found

STORES = sorted(FOLDER.glob("*.mdb.gz"))


def test_there_is_a_store_of_this_schema() -> None:
    assert FOLDER / f"schema-{SCHEMA}.mdb.gz" in STORES, "make it: python -m tests.support.stores"


@pytest.mark.parametrize("packed", STORES, ids=lambda file: file.name)
def test_a_store_of_a_release_opens_and_all_is_found(packed: Path, tmp_path: Path) -> None:
    expected = json.loads((FOLDER / packed.name.replace(".mdb.gz", ".json")).read_text())
    (tmp_path / "jobs.mdb").write_bytes(gzip.decompress(packed.read_bytes()))
    there = found(tmp_path)
    assert there["id"] == expected["id"]
    assert there["jobs"] == expected["jobs"]
    # rooms that came later are empty
    assert there["records"] == dict.fromkeys(NAMESPACES, 0) | expected["records"]

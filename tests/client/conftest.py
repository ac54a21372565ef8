"""The local service that most tests of the client's end use."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from park.local import LocalService


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    service = LocalService()
    service.configure(slots=2)
    with service:
        list(service.map(lambda x: time.sleep(0.2), range(2)))  # both slots are there
        yield service
    service.close()

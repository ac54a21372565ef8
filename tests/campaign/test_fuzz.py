"""Random and mutated messages of each role to a real broker, while honest people work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.campaign.fuzz import ROLES
from tests.support.fabric import Fabric

#: Messages of each role.
COUNT = 20_000


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_no_message_of_any_role_ends_a_broker_or_harms_others(tmp_path: Path) -> None:
    with Fabric(tmp_path, keys=True, lease=5.0, heartbeat=0.5) as fabric:
        keys = {}
        for role, (_, kind) in ROLES.items():
            keys[role] = tmp_path / f"{role}.key"
            fabric.new_key(f"mallory-{role}", kind, keys[role])
        fabric.start_kernel(slots=1)
        service = fabric.connect()
        job = service.start(abs, range(-50, 0))
        assert service.wait(job, timeout=300) == list(range(50, 0, -1))
        endpoints: dict[str, Any] = fabric.endpoints["tcp"]
        for seed, role in enumerate(ROLES):
            fuzzer = fabric.start(
                "-m",
                "tests.campaign.fuzz",
                json.dumps(endpoints),
                role,
                str(keys[role]),
                str(COUNT),
                str(seed),
            )
            rounds = 0
            while fuzzer.running:
                assert list(service.map(abs, range(-20, 0))) == list(range(20, 0, -1))
                rounds += 1
            assert fuzzer.wait() == 0, fuzzer.text
            seen = json.loads(fuzzer.text.splitlines()[-1])
            print(f"{role}: {seen}, beside {rounds} honest maps")
            assert seen["sent"] >= COUNT
            assert fabric.broker.running, fabric.broker.text
        assert service.fetch(job).result == list(range(50, 0, -1))
        assert service.wait(service.start(abs, [-7]), timeout=300) == [7]
        assert service.about().faults == 0, fabric.broker.text

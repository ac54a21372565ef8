"""The page of a user who may see the jobs of others, but not steer them or read what they say."""

from __future__ import annotations

import time
from pathlib import Path

import park
from park.web.serving import served
from tests.support.fabric import Fabric, until
from tests.web.site import Visitor


def test_another_owners_job_is_seen_and_left_alone(tmp_path: Path) -> None:
    def secret() -> None:
        print("a secret", flush=True)
        park.environment().store["secret.txt"] = b"secret"
        time.sleep(60)

    with Fabric(tmp_path, keys=True) as fabric:
        fabric.start_kernel()
        fabric.new_key("bob")
        with park.connect(fabric.address, user="tester") as tester:
            number = tester.start(secret, name="the tester's")
            until(lambda: "secret.txt" in tester.files(number))
            bob = park.connect(fabric.address, user="bob")
            with served(bob, admin=False, place=fabric.url) as server, Visitor(server.address()) as visitor:
                visitor.enter()
                (row,) = visitor.get("/api/jobs")["rows"]
                assert (row["name"], row["owner"], row["mine"]) == ("the tester's", "tester", False)
                found = visitor.get(f"/api/job/{number}")
                assert (found["actions"], found["files"]) == ([], {})
                for action in ("abort", "stop", "pause", "delete", "retry", "tags", "priority", "control"):
                    given = {"tags": ["x"], "priority": "high", "kind": "x"}
                    answer = visitor.post(f"/api/job/{number}/{action}", given)
                    assert answer.status_code == 403, action
                    assert "tester's" in answer.json()["error"]
                feed = until(lambda: (said := visitor.get(f"/api/job/{number}/feed"))["trouble"] and said)
                assert feed["log"] == []
                assert "only tester" in feed["trouble"]
                assert visitor.http.get(f"/api/job/{number}/file?name=secret.txt").status_code == 403
            assert tester.status(number).state == "running"
            tester.abort(number)
            bob.close()  # type: ignore[attr-defined]

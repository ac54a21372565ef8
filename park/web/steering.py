"""The changes that the page can make to a job, each by its name, and what the user may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import DecodeError, json

from park.core.server import ServerProxy
from park.errors import InvalidRequest
from park.model import JobRecord, JobState

_LIVE = frozenset({JobState.WAITING, JobState.QUEUED, JobState.RUNNING})


def actions(record: JobRecord, user: str, admin: bool) -> list[str]:
    """The names of the changes that *user* may make to a job as it is now; *admin*: the broker's own user."""
    if not admin and record.owner != user:
        return []
    if record.kind == "session":
        return [] if record.state.ended else ["abort"]
    if record.state.ended:
        return ["retry", "delete"]
    turn = "pause" if record.state in _LIVE else "resume"
    return ["stop", turn, "abort", "priority", "tags", "control", "retry"]


def steer(service: ServerProxy, job: int, action: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make a change, and say what was done: {"text": a sentence}, with {"job": the number of a new job} after a retry.

    Raises InvalidRequest for an unknown change, and the error of the service where it refuses.
    """
    act = _ACTIONS.get(action)
    if act is None:
        raise InvalidRequest(f"the page cannot do {action!r:.40}: choose from {', '.join(_ACTIONS)}")
    return act(service, job, given)


def _simple(name: str, said: str) -> Callable[..., dict[str, Any]]:
    def act(service: ServerProxy, job: int, given: Mapping[str, Any]) -> dict[str, Any]:
        getattr(service, name)(job)
        return {"text": said.format(job=job)}

    return act


def _priority(service: ServerProxy, job: int, given: Mapping[str, Any]) -> dict[str, Any]:
    priority = given.get("priority")
    if not isinstance(priority, str | int):
        raise InvalidRequest(f"priority={priority!r:.40} is neither a name nor a number")
    service.set(job, priority=priority)
    return {"text": f"job {job} has the priority {priority}"}


def _tags(service: ServerProxy, job: int, given: Mapping[str, Any]) -> dict[str, Any]:
    tags = given.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidRequest("tags are a list of texts")
    service.set(job, tags=tags)
    return {"text": f"job {job} has {len(tags)} tag{'s'[: len(tags) != 1]}"}


def _control(service: ServerProxy, job: int, given: Mapping[str, Any]) -> dict[str, Any]:
    kind, text = given.get("kind"), given.get("fields") or ""
    if not isinstance(kind, str) or not isinstance(text, str):
        raise InvalidRequest("a control is a name, with fields as JSON")
    try:
        fields = json.decode(text) if text.strip() else {}
    except DecodeError as error:
        raise InvalidRequest(f'the fields are no JSON ({error}): write them like {{"value": 0.1}}') from None
    if not isinstance(fields, dict):
        raise InvalidRequest('the fields are no JSON object: write them like {"value": 0.1}')
    if service.control(job, {**fields, "kind": kind}):
        return {"text": f"job {job} was told {kind}"}
    return {"text": f"job {job} has ended, and was not told {kind}"}


def _retry(service: ServerProxy, job: int, given: Mapping[str, Any]) -> dict[str, Any]:
    again = service.retry(job)
    return {"text": f"job {again} runs the request of job {job} again", "job": again}


_ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "stop": _simple("stop", "job {job} was asked to stop"),
    "abort": _simple("abort", "job {job} is being aborted"),
    "pause": _simple("pause", "job {job} is paused"),
    "resume": _simple("resume", "job {job} goes on"),
    "delete": _simple("delete", "job {job} is deleted"),
    "priority": _priority,
    "tags": _tags,
    "control": _control,
    "retry": _retry,
}

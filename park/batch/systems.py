"""The commands of batch systems: submit, look and cancel. Each has a time limit, and fails in the system's own words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from park.batch.profiles import ENDED, QUEUED, RUNNING, UNKNOWN, Ask, Profile, filled, profile, script_of
from park.errors import BatchError

__all__ = [
    "Allocation",
    "Ask",
    "cancel",
    "find",
    "look",
    "own_user",
    "profile",
    "script_of",
    "submit",
    "understood",
]

#: Seconds within which a command of a batch system must answer.
COMMAND_SECONDS = 30.0
#: The most characters of a system's words in an error.
_MAX_TEXT_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Allocation:
    """A job of a batch system. *state*: queued, running, ended or unknown. *reason*: the system's words, why it is so.

    *place*: the number of this job among those that wait in its queue, 1 for the next one; 0: not known.
    """

    id: str
    name: str
    state: str
    reason: str = ""
    place: int = 0


def submit(profile: Profile, script: str, folder: Path, name: str) -> str:
    """Hand in a script, which stays in *folder* beside its output, NAME.out and NAME.err; the id of its job.

    Raises BatchError. After a time-out the system may have taken it nevertheless: `look` tells, by the name.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{name}.sh"
    file.write_text(script)
    file.chmod(0o700)
    files = {"script": file, "output": folder / f"{name}.out", "errors": folder / f"{name}.err"}
    values = {"name": name, **{key: str(path) for key, path in files.items()}}
    answer = _run(profile, [filled(word, values) for word in profile.submit], folder)
    found = re.search(profile.submitted, answer)
    if found is None:
        words = f"{profile.submit[0]} has answered {_short(answer)!r}, in which there is no id of a job"
        raise BatchError(words, unsure=True)
    return found[1]


def look(profile: Profile, user: str | None = None) -> dict[str, Allocation]:
    """The jobs that the batch system knows, by id: all, with their places, or those of one user. Raises BatchError."""
    words = profile.list if user is None else (*profile.list, *profile.only_user)
    command = [filled(word, {"user": "*" if user is None else user}) for word in words]
    return understood(profile, _run(profile, command, good=(0, *profile.none)), user)


def understood(profile: Profile, answer: str, user: str | None = None) -> dict[str, Allocation]:
    """The jobs in an answer of the list command. Pure."""
    begins = [match.start() for match in re.finditer(profile.record, answer, flags=re.M)]
    jobs: dict[str, Allocation] = {}
    ahead: Counter[str] = Counter()
    for begin, end in pairwise([*begins, len(answer)]):
        said = {key: _field(pattern, answer[begin:end]) for key, pattern in profile.fields.items()}
        if not said.get("id"):
            continue
        state = profile.states.get(said.get("state", ""), UNKNOWN)
        if state == QUEUED:
            ahead[said.get("queue", "")] += 1
        if user is not None and said.get("user", user) != user:
            continue
        place = ahead[said.get("queue", "")] if state == QUEUED and user is None else 0
        job = Allocation(said["id"], said.get("name", ""), state, _reason(profile, said, state), place)
        known = jobs.get(job.id)
        if known is None or known.state != RUNNING:  # an array runs if one of its jobs does
            jobs[job.id] = job
    return jobs


def _reason(profile: Profile, said: Mapping[str, str], state: str) -> str:
    """The batch system's words on a job; if it has none, the state, unless that is the usual one of waiting jobs."""
    if words := said.get("reason", ""):
        return words
    code = said.get("state", "")
    waits = next((each for each, meaning in profile.states.items() if meaning == QUEUED), "")
    return f"state {code}" if state == UNKNOWN or (state == QUEUED and code != waits) else ""


def find(jobs: Mapping[str, Allocation], id: str) -> Allocation | None:
    """The job with an id that was given at its submission, perhaps with another form of the server's name.

    >>> jobs = {"4711.head.cluster.org": Allocation("4711.head.cluster.org", "fit", "running")}
    >>> find(jobs, "4711.head").state, find(jobs, "471.head")
    ('running', None)
    """
    if id in jobs:
        return jobs[id]
    number = id.partition(".")[0]
    alike = [job for job in jobs.values() if job.id.partition(".")[0] == number]
    return alike[0] if len(alike) == 1 else None


def cancel(profile: Profile, id: str) -> None:
    """End a job. One that is gone already is no error. Raises BatchError."""
    try:
        _run(profile, [filled(word, {"id": id}) for word in profile.cancel])
    except BatchError:
        left = find(look(profile, own_user()), id)
        if left is not None and left.state != ENDED:
            raise


def own_user() -> str:
    """The name of the user for batch systems, independent of $LOGNAME."""
    import pwd  # not on every system

    return pwd.getpwuid(os.getuid()).pw_name


def _field(pattern: str, record: str) -> str:
    found = re.search(pattern, record, flags=re.M)
    return re.sub(r"\n\t", "", found[1]).strip() if found else ""


def _run(
    profile: Profile, command: Sequence[str], folder: Path | None = None, good: tuple[int, ...] = (0,)
) -> str:
    """The answer of a command that ends with a *good* code. Raises BatchError."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
    except FileNotFoundError:
        raise BatchError(
            f"the command {command[0]} of {profile.name} is not on the path of this machine: use a machine from which jobs "
            f"are submitted, or give the whole path under [batch.{profile.name}] in park.toml"
        ) from None
    except OSError as error:
        raise BatchError(f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise BatchError(f"{command[0]} has not answered in {COMMAND_SECONDS:g} s", unsure=True) from None
    if done.returncode not in good:
        words = _short(done.stderr.strip() or done.stdout.strip()) or "it has said nothing"
        program = profile.name if command[0] == sys.executable else command[0]  # one of PARK's own
        raise BatchError(f"{program} has failed with code {done.returncode}: {words}")
    return done.stdout


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_TEXT_CHARS else f"{text[:_MAX_TEXT_CHARS]} ..."

"""The units by which systemd starts PARK's services: their texts, their places, and their state."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where units of the system lie.
SYSTEM_FOLDER = Path("/etc/systemd/system")
#: Variables of the shell that a service needs too.
PASSED_ON = ("PARK_BROKER", "PARK_HOME", "PARKTAG")
#: Seconds that systemctl may take to answer, and systemd-analyze.
ANSWER_SECONDS, VERIFY_SECONDS = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """A service: its command, as words after the interpreter's, and what is special about its unit."""

    name: str
    what: str
    command: tuple[str, ...]
    #: it tells systemd when it is ready, and that it lives
    notifies: bool = True
    #: it is for one user's session only
    personal: bool = False

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"park-{self.name}.service"


SERVICES = {
    service.name: service
    for service in (
        Service("broker", "PARK broker", ("-m", "park.cli.broker")),
        Service("kernel", "PARK kernel", ("-m", "park.cli.kernel")),
        Service(
            "web",
            "PARK page in a browser",
            ("-m", "park.cli.park", "web", "--no-browser"),
            notifies=False,
        ),
        Service("donate", "PARK kernel on a desktop", ("-m", "park.cli.park", "donate"), personal=True),
    )
}


def unit_text(
    service: Service,
    python: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    user: str = "",
) -> str:
    """The text of the unit. *folder*: relative paths of the *arguments* and of the variables begin here.

    *user*: it is a unit of the system, and runs as this user; "": it is a user's own.
    """
    lines = ["[Unit]", f"Description={service.what}"]
    if user:
        lines += ["Wants=network-online.target", "After=network-online.target"]
    lines += ["", "[Service]", f"Type={'notify' if service.notifies else 'exec'}"]
    if user:
        lines.append(f"User={user}")
    # a service whose paths are all absolute outlives the folder: "-"
    lines.append(f"WorkingDirectory=-{str(folder).replace('%', '%%')}")
    lines += [
        f"Environment={_quoted(f'{name}={environment[name]}')}" for name in PASSED_ON if environment.get(name)
    ]
    lines.append(
        f"ExecStart={' '.join(_quoted(word, True) for word in (python, *service.command, *arguments))}"
    )
    if service.notifies:
        # a broker with a large store reads it before it is ready
        lines += ["WatchdogSec=60s", "TimeoutStartSec=15min"]
    # the main process alone is told: it ends its slot processes in good order
    lines += ["Restart=on-failure", "RestartSec=5s", "KillMode=mixed", "TimeoutStopSec=60s"]
    return "\n".join([*lines, "", "[Install]", f"WantedBy={'multi-user' if user else 'default'}.target", ""])


def _quoted(word: str, command: bool = False) -> str:
    """A word as systemd reads it back; of a *command*, where variables are replaced too."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{word.replace("$", "$$") if command else word}"'


def user_folder(environment: Mapping[str, str]) -> Path:
    """The folder of this user's units."""
    config = environment.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


def verify(text: str, unit: str, own: bool) -> str:
    """The words of ``systemd-analyze verify`` about the text of a unit; "": it finds no fault, or is not here."""
    command = shutil.which("systemd-analyze")
    if command is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="park-unit-") as folder:
        file = Path(folder, unit)
        file.write_text(text)
        try:
            found = subprocess.run(
                [command, *(["--user"] if own else []), "verify", str(file)],
                env={**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=VERIFY_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{unit} could not be verified: {error}"
        lines = found.stderr.splitlines()
        # it names other units of this machine, too
        return "\n".join(line.replace(f"{folder}/", "") for line in lines if unit in line)


def state_of(unit: str, own: bool) -> str:
    """The state of a unit by systemctl, such as "active"; "not known" where systemd does not answer."""
    command = shutil.which("systemctl")
    if command is None:
        return "not known: there is no systemd here"
    try:
        found = subprocess.run(
            [command, *(["--user"] if own else []), "is-active", unit],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "not known: systemd does not answer"
    return found.stdout.strip() or "not known: systemd does not answer"

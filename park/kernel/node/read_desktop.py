"""Readings of a desktop: whether its user is at the keyboard, its battery, and the load of other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from park.kernel.node.desktop import Readings

#: Seconds without a key after which the user of a terminal is away.
TERMINAL_IDLE_SECONDS = 300.0
#: Seconds that systemd-logind may take to answer.
LOGIND_SECONDS = 2.0
#: Seconds over which the load is taken, at least: the clocks of processes are coarse.
LOAD_SECONDS = 0.5
#: Answers of logind: whether all sessions are idle.
_IDLE = {"IdleHint=yes": True, "IdleHint=no": False}


class DesktopReader:
    """Reads this machine again and again. *source* says in words by which means the keyboard is watched."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._times = self._cpu_times()
        self._read_at = time.monotonic()
        self._load: float | None = None
        self._logind = _logind_idle() is not None
        if self._logind:
            self.source = "systemd-logind says whether its user is at the keyboard"
        elif _terminals():
            self.source = (
                "systemd-logind does not answer: its user is at the keyboard while keys come to a terminal"
            )
        else:
            self.source = (
                "nothing says whether its user is at the keyboard: it pauses for load and battery only"
            )

    def read(self) -> Readings:
        """The machine as it is now; the load since the last reading."""
        return Readings(self._at_keyboard(), _on_battery(), self._others())

    def _at_keyboard(self) -> bool | None:
        if self._logind and (idle := _logind_idle()) is not None:
            return not idle
        touched = max((_touched(terminal) for terminal in _terminals()), default=None)
        return None if touched is None else time.time() - touched < TERMINAL_IDLE_SECONDS

    def _others(self) -> float | None:
        """The processors that other programs have used since the last reading; the last value again if that was just
        now.
        """
        seconds = time.monotonic() - self._read_at
        if seconds >= LOAD_SECONDS:
            before, self._times = self._times, self._cpu_times()
            whole, own = self._times[0] - before[0], self._times[1] - before[1]
            self._load, self._read_at = max(0.0, (whole - own) / seconds), self._read_at + seconds
        return self._load

    def _cpu_times(self) -> tuple[float, float]:
        """Processor seconds of all programs, and of the kernel with its processes. Ended processes count too."""
        all_ = psutil.cpu_times()
        idle = all_.idle + getattr(all_, "iowait", 0.0) + getattr(all_, "steal", 0.0)
        guests = getattr(all_, "guest", 0.0) + getattr(
            all_, "guest_nice", 0.0
        )  # they are in user and nice already
        own = 0.0
        for process in [self._own, *self._own.children(recursive=True)]:
            try:
                own += sum(process.cpu_times()[:4])
            except psutil.Error:  # it has just ended: its parent has its time
                continue
        return sum(all_) - idle - guests, own


def _on_battery() -> bool | None:
    read = getattr(psutil, "sensors_battery", None)
    try:
        battery = read() if read is not None else None
    except (OSError, ValueError, psutil.Error):  # a driver without useful figures
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def _logind_idle() -> bool | None:
    """Whether systemd-logind says that all sessions are idle; None: it does not answer."""
    command = shutil.which("loginctl")
    if command is None:
        return None
    try:
        told = subprocess.run(
            [command, "show-session", "-p", "IdleHint"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOGIND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _IDLE.get(told.stdout.strip())


def _terminals() -> list[Path]:
    """The terminals at which somebody is logged in."""
    found = [Path("/dev", user.terminal) for user in psutil.users() if user.terminal]
    return [terminal for terminal in found if os.access(terminal, os.F_OK)]


def _touched(terminal: Path) -> float:
    """The time at which a key last came to the terminal, seconds since 1970."""
    try:
        return terminal.stat().st_atime
    except OSError:
        return 0.0

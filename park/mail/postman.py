"""The postman: a thread that sends letters to an SMTP server, and tries again later if that fails."""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from park.errors import in_words
from park.mail.channels import private_text, tell_channel
from park.mail.letter import composed
from park.mail.notices import Letter, MailPolicy
from park.mail.picture import pictures
from park.mail.settings import MailSettings
from park.model import CHANNEL, is_channel
from park.util.stdio import tell

#: Letters that the postman holds in memory.
MAX_HELD_LETTERS = 20
#: Seconds until the second try, and the most seconds between two tries.
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 15.0, 1800.0
#: Tries after which a mail is dropped that the server refuses for good: some hours.
MAX_REFUSED_TRIES = 10
#: Seconds that one answer of the SMTP server may take.
SMTP_SECONDS = 30.0
#: Exit codes with which ``sendmail`` refuses a mail for good: EX_DATAERR, EX_NOUSER and EX_NOHOST of sysexits.h.
REFUSAL_EXIT_CODES = (65, 67, 68)
#: Seconds that a broker which ends waits for the letter that is on its way.
CLOSE_SECONDS = 5.0


@dataclass(slots=True)
class HeldLetter:
    """A letter that waits. *fits*: the files of its fits by job, until the *message* is composed.

    *tries*: those that have failed; *at*: when to try again, monotonic seconds. *away*: the server took nothing at all.
    """

    letter: Letter
    fits: dict[int, bytes]
    message: EmailMessage | None = None
    tries: int = 0
    at: float = 0.0
    away: bool = False


class Postman:
    """Sends letters in a thread of its own. *store*: the id in Message-IDs; *status*: the file for `park doctor`.

    A letter whose acceptance by the server was not written down is sent again after a restart, with the same Message-ID.
    """

    def __init__(
        self, settings: MailSettings, store: str, status: Path, retry: float = FIRST_RETRY_SECONDS
    ) -> None:
        self._settings = settings
        self._store = store
        self._status = status
        self._retry = retry
        self._changed = threading.Condition()
        #: the letters that wait, by number
        self._held: dict[int, HeldLetter] = {}
        #: letters that were sent and not yet reported to the broker; and all that this process has sent
        self._posted: list[int] = []
        self._gone: set[int] = set()
        #: letters that have left and that the broker has not written down as sent
        self._unrecorded: set[int] = set()
        #: letters on disk that it has not been given yet
        self._behind = 0
        self._status_written = -1
        self._closed = False
        self._error = ""
        self._wake: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._work, name="park-mail", daemon=True)

    @property
    def policy(self) -> MailPolicy:
        """The policy that says when mails are due."""
        return self._settings.policy

    @property
    def takes_more(self) -> bool:
        """Whether it takes another letter."""
        return len(self._held) < MAX_HELD_LETTERS

    @property
    def has_posted(self) -> bool:
        """Whether letters have left of which the broker has not been told."""
        return bool(self._posted)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin to send; *wake* is called after each letter."""
        self._wake = wake
        if not self._thread.is_alive() and not self._closed:
            self._thread.start()

    def post(self, letter: Letter, fits: dict[int, bytes]) -> None:
        """Send a letter that is on disk. *fits*: the files of its fits by job. A letter is sent once in this process."""
        with self._changed:
            if letter.number in self._gone:
                self._posted.append(letter.number)
            elif letter.number not in self._held:
                self._held[letter.number] = HeldLetter(letter, fits)
            self._changed.notify()

    def note_behind(self, count: int) -> None:
        """*count* further letters wait on disk until it takes more."""
        with self._changed:
            if count != self._behind:
                self._behind = count
                self._changed.notify()

    def posted(self) -> list[int]:
        """The numbers of letters that have left since the last call."""
        with self._changed:
            found, self._posted = self._posted, []
        return found

    def recorded(self, numbers: list[int]) -> None:
        """The broker has written down that these letters have left."""
        with self._changed:
            self._unrecorded.difference_update(numbers)
            self._changed.notify()

    def close(self) -> None:
        """Send nothing more; wait a moment for the letter that is on its way."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (number := self._next()) is not None:
            held = self._held[number]
            held.away = False
            left, self._error = self._deliver(held)
            with self._changed:
                if left:
                    del self._held[number]
                    self._gone.add(number)
                    self._unrecorded.add(number)
                    self._posted.append(number)
                    for other in self._held.values():  # the server is back
                        other.at = 0.0 if other.away else other.at
                else:
                    held.at = time.monotonic() + min(
                        MAX_RETRY_SECONDS, self._retry * 2.0 ** min(held.tries, 20)
                    )
                    held.tries += 1
            self._write_status()
            if left:
                self._wake()

    def _next(self) -> int | None:
        """Wait for a letter that is to be sent now; None: the broker ends."""
        self._write_status()
        with self._changed:
            while not self._closed:
                if self._status_written != self._waiting:
                    self._write_status()
                now = time.monotonic()
                at, number = min(((held.at, n) for n, held in self._held.items()), default=(now + 60.0, 0))
                if at <= now:
                    return number
                self._changed.wait(at - now)
        return None

    def _message(self, held: HeldLetter) -> EmailMessage:
        """The mail of a letter, composed once."""
        if held.message is None:
            letter, fits = held.letter, held.fits
            drawn = {} if is_channel(letter.address) else pictures(fits)  # channels take text only
            held.message, held.fits = composed(letter, fits, self._settings, self._store, drawn), {}
        return held.message

    def _deliver(self, held: HeldLetter) -> tuple[bool, str]:
        """Whether the letter has left for good, and the error, if there was one."""
        letter = held.letter
        try:
            message = self._message(held)
            if is_channel(letter.address):
                return self._tell_channel(message, letter.address.removeprefix(CHANNEL))
            if self._settings.sendmail:
                return self._hand_over(message, letter.address)
            self._send(message, letter.address)
            return True, ""
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            words = (
                f"the server refuses mail for {letter.address}: {code} {text.decode(errors='replace'):.200}"
            )
            tell(f"park-broker: {words}", "warning")
            return 500 <= code < 600, words
        except smtplib.SMTPDataError as error:
            words = f"the server refuses the mail for {letter.address}: {error}"
            if 500 <= error.smtp_code < 600 and held.tries + 1 >= MAX_REFUSED_TRIES:
                tell(f"park-broker: {words}; after {MAX_REFUSED_TRIES} tries it is dropped", "warning")
                return True, words
        except smtplib.SMTPAuthenticationError as error:
            words = f"the server refuses the login of {self._settings.user!r} ({error.smtp_code})"
        except Exception as error:  # the network, the server, TLS, or the file of the password has failed
            words = in_words(error)
        if not self._settings.sendmail and not is_channel(letter.address):
            words = f"{self._settings.host}:{self._settings.real_port}: {words}"
        held.away = not is_channel(letter.address)
        if words != self._error:
            tell(f"park-broker: a mail waits, and is tried again later: {words}", "warning")
        return False, words

    def _send(self, message: EmailMessage, address: str) -> None:
        """Give a message to the server. Nothing that comes after its acceptance counts: the message would go twice."""
        server = self._connected()
        try:
            server.send_message(message, self._settings.sender, [address])
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
        finally:
            server.close()

    def _hand_over(self, message: EmailMessage, address: str) -> tuple[bool, str]:
        """Give a message to the program ``sendmail``: as `_deliver`. Raises OSError where it takes none now."""
        program = self._settings.sendmail
        found = subprocess.run(
            [program, "-i", "-f", self._settings.sender, "--", address],
            input=message.as_bytes(),
            capture_output=True,
            timeout=SMTP_SECONDS,
        )
        if found.returncode == 0:
            return True, ""
        said = (found.stderr or found.stdout).decode(errors="replace").strip()
        words = f"{program} ends with {found.returncode} for {address}: {said:.200}"
        if found.returncode not in REFUSAL_EXIT_CODES:
            raise OSError(words)
        tell(f"park-broker: {words}", "warning")
        return True, words

    def _tell_channel(self, message: EmailMessage, name: str) -> tuple[bool, str]:
        """Give the text of a message to a channel: as `_deliver`. Raises OSError where it takes none now."""
        url = self._settings.channels.get(name)
        if url is None:  # it had one when the request came
            words = f"there is no channel {name} any more: its news is dropped"
            tell(f"park-broker: {words}", "warning")
            return True, words
        plain = message.get_body(("plain",))
        assert plain is not None
        if words := tell_channel(url, message["Subject"], plain.get_content()):
            raise OSError(f"channel {name}: {words}")
        return True, ""

    def _connected(self) -> smtplib.SMTP:
        """A connection to the server, encrypted and logged in as the settings say."""
        settings = self._settings
        where = (settings.host, settings.real_port)
        if settings.security == "none":
            server = smtplib.SMTP(*where, timeout=SMTP_SECONDS)
        else:
            context = ssl.create_default_context()
            if settings.ca_file:
                context.load_verify_locations(settings.ca_file)
            if settings.security == "tls":
                server = smtplib.SMTP_SSL(*where, timeout=SMTP_SECONDS, context=context)
            else:
                server = smtplib.SMTP(*where, timeout=SMTP_SECONDS)
        try:
            if settings.security == "starttls":
                server.starttls(context=context)
            if settings.user:
                server.login(settings.user, password_of(Path(settings.password_file).expanduser()))
        except BaseException:
            server.close()
            raise
        return server

    @property
    def _waiting(self) -> int:
        """Letters that a broker which ends now would send again."""
        return len(self._held) + len(self._unrecorded) + self._behind

    def _write_status(self) -> None:
        part = self._status.with_name(f".{self._status.name}")
        self._status_written = self._waiting
        status: dict[str, Any] = {"waiting": self._status_written, "error": self._error}
        if tried := [held for held in list(self._held.values()) if held.tries]:
            wait = min(held.at for held in tried) - time.monotonic()
            status |= {"tries": max(held.tries for held in tried), "next": time.time() + max(0.0, wait)}
        try:
            part.write_text(json.dumps(status))
            part.replace(self._status)
        except OSError as error:
            tell(f"park-broker: {self._status} cannot be written: {error.strerror}", "warning")


def password_of(file: Path) -> str:
    """The password in a file that only this user can read. Raises PermissionError."""
    return private_text(file, "password file").partition("\n")[0].rstrip("\r")

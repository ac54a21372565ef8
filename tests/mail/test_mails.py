"""Mails of a real broker by a real SMTP server: over kills, with TLS and a login, and while the server is away."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

import park
from park.cli.broker_terms import mail_settings
from park.local import LocalService
from park.mail.notices import Letter
from park.mail.postman import MAX_HELD_LETTERS, MAX_REFUSED_TRIES, Postman
from park.mail.settings import MailSettings
from tests.support.fabric import Fabric, Process, until


class Mailbox:
    """Takes all mail, but that for an address that begins with "gone"."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        #: called when a mail has come, before the server says so
        self.before_answer: Callable[[], None] | None = None

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("gone"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(message_from_bytes(envelope.content))
        if self.before_answer is not None:
            self.before_answer()
        return "250 OK"

    @property
    def texts(self) -> list[str]:
        """The plain texts."""
        found = []
        for mail in self.mails:
            plain = next(part for part in mail.walk() if part.get_content_type() == "text/plain")
            found.append(plain.get_payload(decode=True).decode())  # type: ignore[union-attr]
        return found

    def told(self) -> Counter[str]:
        """The number of times each job is told, by number; a mail that came twice counts once."""
        texts = {mail["Message-ID"]: text for mail, text in zip(self.mails, self.texts, strict=True)}
        heads = [line for text in texts.values() for line in text.splitlines() if line.startswith("job ")]
        told = Counter(line.split()[1] for line in heads)
        for text in texts.values():
            for numbers in re.findall(r"more jobs: (.*)", text):
                for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers):
                    told.update(map(str, range(int(first), int(last or first) + 1)))
        return told


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def box() -> Iterator[tuple[Mailbox, Controller]]:
    mailbox = Mailbox()
    server = Controller(mailbox, "127.0.0.1", port=free_port())
    server.start()
    yield mailbox, server
    server.stop()


def port_of(server: Controller) -> int:
    return int(server.port)


def configure(folder: Path, port: int, **more: Any) -> None:
    values = {"host": "127.0.0.1", "port": port, "sender": "park@example.org", "security": "none"} | more
    (folder / "config" / "park").mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (folder / "config" / "park" / "park.toml").write_text("\n".join(["[mail]", *lines]) + "\n")


def test_each_job_is_told_once_over_kills_of_the_broker(
    tmp_path: Path, box: tuple[Mailbox, Controller]
) -> None:
    """The first failure goes at once; the rest goes in the digest, which is due once its news is older than a day."""
    mailbox, server = box
    configure(tmp_path, port_of(server), digest="00:00", zone="Etc/GMT")
    jobs: list[int] = []
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel(slots=2)
        for life in range(3):
            with fabric.connect() as service:
                service.set_email("ada@example.org")
                made = [service.start(abs, [n]) for n in range(4)] + [
                    service.start(int, [f"x{life}"], on_error="stop")
                ]
                jobs += made
                until(lambda s=service, m=made: all(s.status(n).state.ended for n in m))
            fabric.broker.kill()
            fabric.start_broker()
        until(lambda: mailbox.mails)
        first = mailbox.told()
        assert set(first.values()) == {1}
        failed = {str(n) for n in jobs[4::5]}
        assert set(first) <= failed  # the others are gathered, or wait for the digest
        fabric.broker.kill()
        _age(fabric.home)
        fabric.start_broker()
        until(lambda: set(mailbox.told()) == {str(n) for n in jobs})
        assert set(mailbox.told().values()) == {1}
        until(lambda: json.loads((fabric.home / "mail.json").read_text()) == {"waiting": 0, "error": ""})
        assert "ValueError: invalid literal" in "".join(mailbox.texts)


def test_a_mail_under_way_at_a_kill_comes_again_with_the_same_number(
    tmp_path: Path, box: tuple[Mailbox, Controller]
) -> None:
    """SMTP leaves this gap: the server has the mail, and the broker dies before it hears of that."""
    mailbox, server = box
    configure(tmp_path, port_of(server))
    with Fabric(tmp_path) as fabric:
        mailbox.before_answer = fabric.broker.kill
        fabric.start_kernel()
        with fabric.connect() as service:
            service.start(int, ["x"], on_error="stop", notify="ada@example.org")
            until(lambda: not fabric.broker.running)
        mailbox.before_answer = None
        fabric.start_broker()
        until(lambda: len(mailbox.mails) == 2)
        assert len({mail["Message-ID"] for mail in mailbox.mails}) == 1
        until(lambda: json.loads((fabric.home / "mail.json").read_text())["waiting"] == 0)
        fabric.broker.kill()
        fabric.start_broker()  # it knows that the mail has left
        until(lambda: json.loads((fabric.home / "mail.json").read_text())["waiting"] == 0)
        assert len(mailbox.mails) == 2


def _age(home: Path) -> None:
    """Make the news of this broker a day older."""
    from park.broker.effects import Write
    from park.broker.storage.store import JobStore
    from park.wire import codec

    store = JobStore(home)
    for key, value in list(store.scan("mail", ("notice",))):
        fields = codec.unpack(value)
        store.commit([Write("mail", key, codec.pack(fields | {"ended": fields["ended"] - 86400.0}))])
    store.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Odd(Mailbox):
    """Answers the end of a mail, or of a connection, in an unusual way."""

    def __init__(self, after_data: str = "250 OK", after_quit: str = "221 bye") -> None:
        super().__init__()
        self._after_data, self._after_quit = after_data, after_quit

    async def handle_DATA(self, *given: Any) -> str:
        await super().handle_DATA(*given)
        return self._after_data

    async def handle_QUIT(self, *_: Any) -> str:
        return self._after_quit


@pytest.mark.parametrize(
    ("server", "tries"),
    [
        (Odd(after_quit="421 too many connections"), 1),
        (Odd(after_quit="500 unknown command"), 1),
        (Odd("554 5.7.1 this is spam"), MAX_REFUSED_TRIES),
    ],
    ids=["busy at the end", "no QUIT", "refused"],
)
def test_a_mail_is_sent_until_the_server_has_taken_or_refused_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], server: Odd, tries: int
) -> None:
    control = Controller(server, "127.0.0.1", port=free_port())
    control.start()
    settings = MailSettings("127.0.0.1", "park@example.org", port=port_of(control), security="none")
    postman = Postman(settings, "store", tmp_path / "mail.json", retry=0.0)
    try:
        postman.start(lambda: None)
        postman.post(Letter(1, "ada", "ada@example.org", "urgent", "2026-12-01", 1.8e9), {})
        until(lambda: postman.has_posted)
    finally:
        postman.close()
        control.stop()
    assert postman.posted() == [1]
    assert len(server.mails) == tries
    assert ("after 10 tries it is dropped" in capfd.readouterr().err) is (tries > 1)


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_goes_encrypted_and_with_a_login(tmp_path: Path, security: str) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    logins: list[LoginPassword] = []

    def authenticate(
        server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        logins.append(data)
        return AuthResult(success=data.password == b"secret")

    own = (
        {"tls_context": context, "require_starttls": True}
        if security == "starttls"
        else {"ssl_context": context}
    )
    mailbox = Mailbox()
    plain = {"auth_require_tls": security == "starttls"}
    server = Controller(
        mailbox, "127.0.0.1", port=free_port(), authenticator=authenticate, auth_required=True, **plain, **own
    )
    server.start()
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    more = {"security": security, "user": "park", "password_file": str(password), "ca_file": str(cert)}
    configure(tmp_path, port_of(server), **more)
    try:
        with Fabric(tmp_path) as fabric, fabric.connect() as service:
            fabric.start_kernel()
            service.start(abs, [1], notify="ada@example.org now")
            until(lambda: mailbox.mails)
    finally:
        server.stop()
    assert mailbox.mails[0]["To"] == "ada@example.org"
    assert logins[0].login == b"park"


@pytest.mark.heavy
def test_mails_wait_while_the_server_is_away_and_doctor_says_so(
    tmp_path: Path, box: tuple[Mailbox, Controller]
) -> None:
    mailbox, server = box
    port = port_of(server)
    configure(tmp_path, 1, limit=50)
    people = [f"ada{n}@example.org" for n in range(MAX_HELD_LETTERS + 1)]
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        with fabric.connect() as service:
            for address in (*people, "gone@example.org"):
                service.start(abs, [1], notify=(address, "now"))
        until(lambda: "refused" in json.loads((fabric.home / "mail.json").read_text())["error"])
        until(lambda: json.loads((fabric.home / "mail.json").read_text())["waiting"] == len(people) + 1)
        doctor = fabric.park("doctor", "--broker", str(fabric.connection))
        doctor.wait()
        assert f"{len(people) + 1} mails wait: 127.0.0.1:1: " in doctor.text
        assert re.search(
            r"tried \d+ times?, the next try (comes in \d+s, at 20\d\d|is under way)", doctor.text
        )
        assert not mailbox.mails
        configure(tmp_path, port, limit=50)
        fabric.broker.signal(15)
        fabric.broker.wait()
        fabric.start_broker()
        until(lambda: len(mailbox.mails) == len(people))
        until(lambda: json.loads((fabric.home / "mail.json").read_text())["waiting"] == 0)
        assert "refuses mail for gone@example.org: 550" in fabric.broker.text
        assert {mail["To"] for mail in mailbox.mails} == set(people)


def test_mail_goes_by_sendmail(tmp_path: Path) -> None:
    """A refusal of sendmail drops the mail with words; another failure leaves it waiting."""
    program = tmp_path / "sendmail"
    program.write_text(
        '#!/bin/sh\necho "$@" >> "$0.calls"\ncat >> "$0.mails"\n'
        'case "$5" in gone*) echo "no such user" >&2; exit 67;; esac\n'
        '[ -e "$0.busy" ] && { echo "try later" >&2; exit 75; }\nexit 0\n'
    )
    program.chmod(0o755)
    busy = tmp_path / "sendmail.busy"
    busy.touch()
    (tmp_path / "config" / "park").mkdir(parents=True)
    settings = f'[mail]\nsendmail = "{program}"\nsender = "park@example.org"\n'
    (tmp_path / "config" / "park" / "park.toml").write_text(settings)

    def status() -> Any:
        return json.loads((fabric.home / "mail.json").read_text())

    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        with fabric.connect() as service:
            service.wait(service.start(abs, [1], notify=("gone@example.org", "now")))
            until(lambda: "no such user" in fabric.broker.text)
            until(lambda: status()["waiting"] == 0)
            service.wait(service.start(abs, [1], notify=("ada@example.org", "now")))
        until(lambda: "try later" in status()["error"])
        assert status()["waiting"] == 1
        busy.unlink()
        fabric.broker.signal(15)
        fabric.broker.wait()
        fabric.start_broker()
        until(lambda: status()["waiting"] == 0)
    assert "-i -f park@example.org -- ada@example.org" in (tmp_path / "sendmail.calls").read_text()
    assert "To: ada@example.org" in (tmp_path / "sendmail.mails").read_text()


class Hook(BaseHTTPRequestHandler):
    """A web hook, which keeps what is posted."""

    posted: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[int]:
    Hook.posted.clear()
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def write_channels(folder: Path, text: str, mode: int = 0o600) -> None:
    file = folder / "channels.toml"
    file.write_text(text)
    file.chmod(mode)
    (folder / "config" / "park").mkdir(parents=True, exist_ok=True)
    settings = f'[mail]\nsender = "park@example.org"\nchannels_file = "{file}"\n'
    (folder / "config" / "park" / "park.toml").write_text(settings)


def test_news_goes_to_channels(tmp_path: Path, hook: int, capfd: pytest.CaptureFixture[str]) -> None:
    write_channels(tmp_path, f'team = "json://127.0.0.1:{hook}/"\n')
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel()
        with fabric.connect() as service:
            service.start(abs, [1], notify="ada@example.org")
            with pytest.raises(park.InvalidRequest, match="no channel 'tame' here; there are team"):
                service.start(abs, [1], notify="channel:tame now")
            service.set_email("channel:team", when="now")
            job = service.start(int, ["x"], on_error="stop")
            until(lambda: Hook.posted)
            until(lambda: json.loads((fabric.home / "mail.json").read_text())["waiting"] == 0)
    assert (
        "no mail will go to ada@example.org: this service sends news to channels only"
        in capfd.readouterr().err
    )
    (posted,) = Hook.posted
    assert "1 job ended, 1 failed" in posted["title"]
    assert f"job {job}" in posted["message"]
    assert "invalid literal for int()" in posted["message"]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ('team = "nothing://x"', 0o600, "the URL of team is none that apprise knows"),
        ('"a b" = "json://x"', 0o600, "'a b' is no name of a channel"),
        ('team = "json://x"', 0o644, "others can read the file of channels"),
        ("team", 0o600, "channels.toml: "),
    ],
)
def test_wrong_channels_are_refused(
    text: str, mode: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_channels(tmp_path, text, mode)
    with pytest.raises(park.InvalidRequest, match=re.escape(words)):
        mail_settings({"XDG_CONFIG_HOME": str(tmp_path / "config")})


def test_a_service_without_mail_says_so_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Fabric(tmp_path) as fabric, fabric.connect() as service:
        service.set_email("ada@example.org")
        for _ in range(2):
            service.start(abs, [1])
    assert capfd.readouterr().err.count("no mail will go to ada@example.org") == 1


def test_a_channel_of_a_service_without_mail_is_told_too(capfd: pytest.CaptureFixture[str]) -> None:
    with LocalService() as service:
        assert service.wait(service.start(abs, [-1], notify="channel:team now"), 60) == [1]
    assert "no mail will go to channel:team: this service" in capfd.readouterr().err


def test_park_submit_takes_an_address(tmp_path: Path) -> None:
    with Fabric(tmp_path) as fabric:
        env = {"PARK_BROKER": fabric.address, "PARKMAIL": "c@d.org", "PARKTAG": "tester"}

        def submit(*words: str) -> Process:
            done = fabric.start("-m", "park.cli.park", "submit", *words, env=env)
            done.wait()
            return done

        wrong = submit("--mail", "ada", "math:sqrt")
        assert wrong.popen.returncode == 2
        assert "--mail 'ada' is no address of mail" in wrong.text
        wanted = {
            "a@b.org fail": ("--mail", "a@b.org", "--mail-type", "fail"),
            "c@d.org daily": (),
            "c@d.org now": ("--mail-type", "now"),
            "never": ("--mail-type", "never"),
        }
        with fabric.connect() as service:
            for words, options in wanted.items():
                assert (
                    service.fetch(int(submit(*options, "math:sqrt").text.split()[-1])).request.notify == words
                )

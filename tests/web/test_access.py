"""The decisions on who may use the page, without a page."""

from __future__ import annotations

import pytest

from park.errors import InvalidRequest
from park.text import visible
from park.web.access import MAX_SESSIONS, TOKEN_SECONDS, Gate, is_same_origin


def test_a_token_opens_one_session() -> None:
    gate = Gate()
    token = gate.new_token(0.0)
    session = gate.redeem(token, 1.0)
    assert session is not None
    assert gate.admits(session)
    assert gate.redeem(token, 1.0) is None
    assert not gate.admits("")
    assert not gate.admits(token)


def test_a_token_grows_old() -> None:
    gate = Gate()
    token = gate.new_token(0.0)
    assert gate.redeem(token, TOKEN_SECONDS) is None
    assert gate.redeem("", 0.0) is None


def test_the_oldest_session_goes() -> None:
    gate = Gate()
    sessions = [gate.redeem(gate.new_token(0.0), 0.0) or "" for _ in range(MAX_SESSIONS + 1)]
    assert not gate.admits(sessions[0])
    assert all(map(gate.admits, sessions[1:]))


def test_the_token_of_a_change_belongs_to_one_session_and_one_process() -> None:
    gate, other = Gate(), Gate()
    assert gate.is_xsrf("one", gate.xsrf("one"))
    assert not gate.is_xsrf("one", gate.xsrf("two"))
    assert not gate.is_xsrf("one", other.xsrf("one"))
    assert not gate.is_xsrf("one", "")
    assert not gate.is_xsrf("one", "\udcff")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:7280", True),
        ("localhost.:9999", True),
        ("127.0.0.1:7280", True),
        ("[::1]:7280", True),
        ("head.example.org", True),
        ("evil.example.org", False),
        ("localhost.evil.example.org", False),
        ("evil@localhost", True),  # a name of a user, which browsers never send there
        ("localhost:7280@evil.example.org", False),
        ("", False),
        ("[", False),
    ],
)
def test_host_names(host: str, allowed: bool) -> None:
    for name in ("Head.example.org", "head.example.org.:8443"):
        assert Gate(names=(name,)).allows_host(host) is allowed


@pytest.mark.parametrize("name", ["http://head.example.org", "head/x", "a b", "", "a$b", "[::1", "head:port"])
def test_a_name_that_no_request_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is no name of a host"):
        Gate(names=(name,))


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://localhost:7280", True),
        ("https://localhost:7280", True),
        ("http://localhost:7281", False),
        ("http://evil.example.org", False),
        ("http://localhost:7280.evil.example.org", False),
        ("null", False),
        ("", False),
        ("file://localhost:7280", False),
    ],
)
def test_origins(origin: str, same: bool) -> None:
    assert is_same_origin(origin, ("localhost:7280",)) is same


def test_a_proxy_shows_a_secret() -> None:
    assert Gate(proxy="s3cret").is_proxy("s3cret")
    assert not Gate(proxy="s3cret").is_proxy("")
    assert not Gate().is_proxy("")


def test_marks_that_deceive_a_reader_are_shown() -> None:
    assert visible("fit of α-Fe\u202f") == "fit of α-Fe\\u202f"
    assert visible("\x1b[2J\u202egnp.exe\u2066") == "\\x1b[2J\\u202egnp.exe\\u2066"
    assert visible("a\nb\t\r", lines=True) == "a\nb\t\\r"

"""Pictures of fits in mails: drawn in a process of their own, inline by Content-ID, within the size of a mail."""

from __future__ import annotations

import sys
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from aiosmtpd.controller import Controller
from msgspec import json

import park
from park.fit import Assembly, Model
from park.mail.letter import MAX_MAIL_BYTES, composed
from park.mail.notices import Letter
from park.mail.picture import pictures
from tests.mail.test_mails import Mailbox, box, configure, port_of  # noqa: F401
from tests.mail.test_notices import NOON, SETTINGS, notice
from tests.support.fabric import Fabric, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])

PNG = b"\x89PNG\r\n\x1a\n"
LINE = {"x": [1.0, 2.0, 3.0], "data": [1.0, None, 9.0], "dy": [0.1, 0.1, -1.0], "fit": [1.0, 4.0, 9.0]}


def file(**curve: Any) -> bytes:
    return json.encode({"format": 1, "curves": [curve]})


def test_what_can_be_drawn_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of a job are no formulas, and numbers that cannot be drawn cost only their own picture."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plane = [[1.0, None], [2.0, 3.0]]
    good = {
        1: file(lines=[LINE | {"fine": [[1.0, 3.0], [1.0, 9.0]]}], x="$\\frac{", y="<b>", view="log"),
        2: file(image={"data": plane, "fit": plane}),
    }
    bad = {
        11: b"{",
        12: file(),
        13: file(lines=[LINE | {"x": [1.0]}]),
        14: file(lines=[LINE | {"data": [1e308, -1e308, 0.0]}]),
    }
    drawn = pictures(good | bad)
    assert set(drawn) == set(good)
    assert all(png.startswith(PNG) and len(png) < 100_000 for png in drawn.values())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert pictures(good) == {}


def test_a_mail_shows_pictures_inline_within_its_size() -> None:
    rows = tuple(notice(n, name="é" * 500, reason="🙂" * 5000).as_map() for n in range(1, 201))
    letter = Letter(7, "ada", "ada@example.org", "digest", "2026-03-10", NOON, rows)
    small, large = PNG + bytes(50_000), PNG + bytes(MAX_MAIL_BYTES)
    without = composed(letter, {}, SETTINGS, "store")
    mail = composed(letter, {}, SETTINGS, "store", {1: small, 2: large, 3: small})
    assert len(mail.as_bytes()) <= MAX_MAIL_BYTES
    plain, related = mail.iter_parts()
    assert plain.get_content() == next(without.iter_parts()).get_content()
    assert related.get_content_type() == "multipart/related"
    html, *images = related.iter_parts()
    for job, image in zip((1, 3), images, strict=True):
        assert image.get_content() == small
        assert image["Content-Disposition"] == "inline"
        assert (
            f'src="cid:{image["Content-ID"].strip("<>")}" alt="Data and fit of job {job}"'
            in html.get_content()
        )


def bent(x: Any, a: float, b: float) -> Any:
    return a * x + b


@pytest.mark.heavy
def test_a_fit_comes_with_its_picture(tmp_path: Path, box: tuple[Mailbox, Controller]) -> None:  # noqa: F811
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    mailbox, server = box
    configure(tmp_path, port_of(server))
    x = np.linspace(0, 1, 30)
    data = (x, 2 * x + 1 + 0.1 * np.random.default_rng(3).normal(size=30), np.full(30, 0.1))
    with Fabric(tmp_path) as fabric:
        fabric.start_kernel(slots=2)
        with fabric.connect() as service:
            service.set_email("ada@example.org", when="now")
            fit = park.Fit(
                Assembly((Model(bent, a=(0.0, 10.0), b=(-5.0, 5.0)), data)), "amoeba", service=service
            )
            fit.wait(60)
            until(lambda: mailbox.mails)
    (mail,) = mailbox.mails
    found = message_from_bytes(mail.as_bytes(), EmailMessage, policy=default)
    (image,) = (part for part in found.walk() if part.get_content_type() == "image/png")
    assert image.get_content().startswith(PNG)
    assert f"cid:{image['Content-ID'].strip('<>')}" in found.get_body(("html",)).get_content()
    assert "a = " in found.get_body(("plain",)).get_content()

"""Configuration: the files that count, and the errors of wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from park.broker.accounts.ledger import CreditPolicy, Terms
from park.broker.accounts.quotas import LimitPolicy, Limits
from park.broker.entities.archive import RetentionPolicy
from park.cli.broker import main as broker_main
from park.cli.broker_terms import credit_policy, keep_policy, limit_policy
from park.cli.commands.donate import donate
from park.cli.commands.settings import config, settings
from park.cli.kernel import main as kernel_main
from park.config import SERVICES, config_files, read, said_broker, sources
from park.errors import InvalidRequest
from park.net.addresses import find_broker


class Place:
    """Folders for the configuration of two sites and a user."""

    def __init__(self, folder: Path) -> None:
        self.first, self.second, self.home = (folder / name for name in ("first", "second", "home"))
        self.environment = {
            "XDG_CONFIG_DIRS": os.pathsep.join([str(self.first), str(self.second)]),
            "XDG_CONFIG_HOME": str(self.home),
        }

    def write(self, folder: Path, text: str) -> Path:
        file = folder / "park" / "park.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def policy(self, **variables: str) -> CreditPolicy:
        return credit_policy(self.environment | variables)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_nothing_configured_means_the_usual_terms(place: Place) -> None:
    assert place.policy() == CreditPolicy(Terms(36_000.0, 1_500.0))


def test_what_is_nearer_wins_key_by_key(place: Place) -> None:
    place.write(place.second, "[credits]\ncap = 1\nrate = 1\n[credits.owners.bob]\ncap = 7\n")
    place.write(place.first, "[credits]\ncap = 2\nrate = 2.5\n")
    place.write(place.home, "[credits]\ncap = 3\n[credits.owners.'ada lovelace']\nrate = 9\n")
    policy = place.policy()
    assert policy.usual == Terms(3, 2.5)
    # what is not said for an owner is as for all
    assert policy.of("ada lovelace") == Terms(3, 9)
    assert policy.of("bob") == Terms(7, 2.5)
    assert policy.of("anybody") == policy.usual


def test_the_environment_wins(place: Place) -> None:
    place.write(place.home, "[credits]\ncap = 3\nrate = 4\n[credits.owners.ada]\ncap = 5\n")
    policy = place.policy(PARK_CREDITS_CAP="6.5", PARK_CREDITS_RATE="")
    assert policy.usual == Terms(6.5, 4)
    assert policy.of("ada") == Terms(5, 4)


def test_where_the_files_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert list(map(str, config_files({}))) == ["/etc/xdg/park/park.toml", "/home/ada/.config/park/park.toml"]
    found = config_files({"XDG_CONFIG_DIRS": "/a:relative:/b", "XDG_CONFIG_HOME": "/c"})
    assert list(map(str, found)) == ["/b/park/park.toml", "/a/park/park.toml", "/c/park/park.toml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[credits]\ncap = -1", "credits.cap = -1 is no number of credits from 0 to 1e+12"),
        ("[credits]\ncap = nan", "credits.cap = nan is no number"),
        ("[credits]\nrate = inf", "credits.rate = inf is no number"),
        ("[credits]\nrate = true", "credits.rate = True is no number"),
        ("[credits]\nrate = '5'", "credits.rate = '5' is no number"),
        ("[credits]\nlimit = 5", "credits.limit is not known; [credits] has cap, rate, owners"),
        (
            "[credit]\ncap = 5",
            "credit is not known; there are broker, credits, limits, mail, batch, park-broker, park-kernel, donate",
        ),
        ("credits = 5", "credits = 5 is no table: write [credits]"),
        ("[credits.owners]\nada = 5", "credits.owners.ada = 5 is no table: write [credits.owners.ada]"),
        ("[credits.owners.ada]\ncap = -5", "credits.owners.ada.cap = -5 is no number"),
        (
            "[credits.owners.ada]\nage = 5",
            "credits.owners.ada.age is not known; [credits.owners.ada] has cap",
        ),
        ("[credits\ncap = 1", "is no TOML: "),
        ("cap = " + "[" * 100_000, "is no TOML: "),
    ],
)
def test_what_cannot_be_so_is_named_with_its_file(place: Place, text: str, words: str) -> None:
    file = place.write(place.home, text)
    with pytest.raises(InvalidRequest) as raised:
        place.policy()
    assert str(raised.value).startswith(str(file))
    assert words in str(raised.value)


def test_a_file_that_is_no_text_or_cannot_be_read(place: Place) -> None:
    file = place.write(place.home, "")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="is no TOML"):
        place.policy()
    file.unlink()
    file.mkdir()
    with pytest.raises(InvalidRequest, match=r"park\.toml cannot be read: Is a directory"):
        place.policy()
    file.rmdir()
    file.parent.rmdir()
    file.parent.touch()  # there is no such folder
    assert read(place.environment) == {}


@pytest.mark.parametrize("value", ["-1", "nan", "much", "1e13"])
def test_a_variable_that_cannot_be_so_is_named(place: Place, value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"PARK_CREDITS_RATE = .* is no number of credits"):
        place.policy(PARK_CREDITS_RATE=value)


# -- limits, and for how long ------------------------------------------------------------------------


def test_limits_are_read_with_those_of_single_owners(place: Place) -> None:
    assert limit_policy(place.environment) == LimitPolicy(Limits(10_000, 20_000_000, 50_000_000_000))
    place.write(
        place.home, "[limits]\njobs = 5\nbytes = '1 GB'\n[limits.owners.ada]\nunits = 7\nbytes = 10\n"
    )
    policy = limit_policy(place.environment | {"PARK_LIMITS_JOBS": "6"})
    assert policy.usual == Limits(6, 20_000_000, 1_000_000_000)
    assert policy.of("ada") == Limits(6, 7, 10)
    assert limit_policy(place.environment | {"PARK_LIMITS_BYTES": "2 kB"}).usual.bytes == 2000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\njobs = -1", "limits.jobs = -1 is no whole number from 0 on"),
        ("[limits]\nunits = 1.5", "limits.units = 1.5 is no whole number"),
        (
            "[limits]\nbytes = 'much'",
            "limits.bytes = 'much' is no size: a number of bytes, or a text such as '50 GB'",
        ),
        ("[limits]\nmemory = 1", "limits.memory is not known; [limits] has jobs, units, bytes, owners"),
    ],
)
def test_a_limit_that_cannot_be_so_is_named_with_its_file(place: Place, text: str, words: str) -> None:
    file = place.write(place.home, text)
    with pytest.raises(InvalidRequest) as raised:
        limit_policy(place.environment)
    assert str(raised.value).startswith(f"{file}: {words}")


def test_how_long_jobs_are_kept() -> None:
    assert keep_policy([]) == RetentionPolicy()
    assert keep_policy(["12h"]) == RetentionPolicy(age=43200.0)
    assert keep_policy(["10GB", "1d12h"]) == RetentionPolicy(age=129600.0, size=10**10)
    for given, words in [
        (["30"], "'30' needs a unit"),
        (["1d", "2d"], "another age already"),
        (["1 GB", "2 GB"], "another size already"),
        (["long"], "long"),
        (["1 XB"], "1 XB"),
    ]:
        with pytest.raises(InvalidRequest, match=words):
            keep_policy(given)


# -- where each came from ----------------------------------------------------------------------------


#: Options of services for one run, and not for a machine.
ONE_RUN = {"job", "nodes", "private", "private-host", "relay", "restore", "version"}


@pytest.mark.parametrize("command", [broker_main, kernel_main, donate], ids=lambda each: each.name)
def test_the_options_of_services_may_stand_in_a_file(command: click.Command) -> None:
    assert command.name is not None
    options = {
        name.removeprefix("--")
        for each in command.params
        if isinstance(each, click.Option) and not each.hidden
        for name in each.opts
        if name.startswith("--")
    }
    assert set(SERVICES[command.name]) == options - ONE_RUN


def test_every_setting_says_where_it_came_from(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARK_HOME", "/var/park")
    site = place.write(place.first, "[credits]\ncap = 2\nrate = 3\n[limits.owners.ada]\nbytes = '1 GB'\n")
    user = place.write(place.home, "[credits]\ncap = 4\n")
    environment = place.environment | {
        "PARK_LIMITS_JOBS": "5",
        "PARK_HOME": "/var/park",
        "PARKMAIL": "ada@x.org",
    }
    known, faults = settings(environment, sources(environment))
    assert faults == []
    found = {s.name: (s.value, s.source) for s in known}
    assert found["credits.cap"] == (4, str(user))
    assert found["credits.rate"] == (3, str(site))
    assert found["limits.jobs"] == (5, "PARK_LIMITS_JOBS")
    assert found["limits.units"] == (20_000_000, "built-in")
    assert found["limits.owners.ada.bytes"] == ("1 GB", str(site))
    assert found["broker"] == ("/var/park/connection.json", "PARK_HOME")
    assert found["user"] == ("ada", "PARKMAIL")
    assert found["slots"][1] == "built-in"


def test_all_that_is_wrong_is_said_and_does_not_count(place: Place) -> None:
    file = place.write(place.home, "[limit]\njobs = 5\n[credits]\ncaps = 5\nrate = -1\n")
    environment = place.environment | {
        "PARK_CREDITS_CAP": "x",
        "PARK_CREDIT_RATE": "5",
        "PARK_LIMITS_JOBS": "7",
    }
    known, faults = settings(environment, sources(environment))
    assert faults == [
        f"{file}: limit is not known; there are broker, credits, limits, mail, batch, park-broker, park-kernel, donate "
        "(did you mean limits?)",
        f"{file}: credits.caps is not known; [credits] has cap, rate, owners (did you mean cap?)",
        f"{file}: credits.rate = -1 is no number of credits from 0 to 1e+12",
        "PARK_CREDITS_CAP = 'x' is no number of credits from 0 to 1e+12",
        "nothing reads the variable PARK_CREDIT_RATE (did you mean PARK_CREDITS_RATE?)",
    ]
    found = {s.name: s.value for s in known}
    assert (found["credits.cap"], found["credits.rate"], found["limits.jobs"]) == (36_000.0, 1_500.0, 7)


def test_the_command_shows_settings_files_and_faults(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("PARK")]:
        monkeypatch.delenv(name)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    file = place.write(place.home, "[credits]\ncap = 4\n")
    with pytest.raises(SystemExit) as ended:
        config(["--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name": "credits.cap", "value": 4, "source": str(file)} in found["settings"]
    assert found["files"][str(file)] is True
    assert found["faults"] == []
    monkeypatch.setenv("PARK_CREDITS_CAP", "much")
    with pytest.raises(SystemExit) as ended:
        config([])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]
    assert f"{file} was read" in err
    assert err.endswith("park: PARK_CREDITS_CAP = 'much' is no number of credits from 0 to 1e+12\n")


def test_a_file_says_where_the_broker_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    site = place.write(place.second, 'broker = "tcp://head:7275"\n[credits]\ncap = 1\n')
    assert said_broker(place.environment) == ("tcp://head:7275", str(site))
    mine = place.write(place.home, 'broker = "tcp://mine:1000"\n')
    assert said_broker(place.environment) == ("tcp://mine:1000", str(mine))
    assert said_broker(place.environment | {"PARK_BROKER": "x.json"}) == ("x.json", "PARK_BROKER")
    # whoever names no broker goes there, and is told that it was this file
    monkeypatch.delenv("PARK_BROKER", raising=False)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    assert find_broker(None).kernels == "tcp://mine:1001"
    known, faults = settings(os.environ, sources(os.environ))
    assert [(s.value, s.source) for s in known if s.name == "broker"] == [("tcp://mine:1000", str(mine))]
    assert not faults
    assert place.policy() == CreditPolicy(Terms(1, 1500.0))


@pytest.mark.parametrize("text", ["broker = 7275", "broker = ' '", "broker = [", "[broker]\nurl = 'x'"])
def test_a_file_that_does_not_say_where_the_broker_is(place: Place, text: str) -> None:
    file = place.write(place.home, text)
    with pytest.raises(InvalidRequest, match=str(file)):
        said_broker(place.environment)
    with pytest.raises(InvalidRequest, match=str(file)):
        read(place.environment)
    assert said_broker(place.environment | {"PARK_BROKER": "x.json"})[0] == "x.json"

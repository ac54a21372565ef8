"""Keys: their files, who is let in, and real peers over tcp: with a key, without one, with a wrong one."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import zmq
from click.testing import CliRunner
from msgspec.structs import asdict
from zmq.utils.monitor import parse_monitor_message

import park
from park.broker.manager import JobManager
from park.cli.park import main
from park.client.link import Link
from park.core import connect as connect_module
from park.core import server
from park.core.connect import connect
from park.core.server import Server, ServerProxy
from park.errors import InvalidRequest, NoBroker, Refused
from park.model import Account
from park.net.addresses import BrokerAddresses, find_broker, seen_from_elsewhere
from park.net.admission import key_for, refusal
from park.net.authenticator import Authenticator
from park.net.callers import Dealer, Subscriber
from park.net.curve import new_pair
from park.net.keys import (
    CLIENT,
    KERNEL,
    POOL,
    Key,
    KeyEntry,
    Keyring,
    check_name,
    find_key,
    key_folder,
    plain_name,
    read_key,
    write_private,
)
from park.net.reactor import Reactor
from park.net.sockets import KeyedRouter
from park.net.zap import answer, decide
from park.service import ServiceManager
from park.wire import codec, messages
from tests.support.fabric import Fabric, Process, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # kernels need not have this folder

ADDRESS = "tcp://head:7275"


def square(x: int) -> int:
    return x * x


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "home")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the keys for the broker at ADDRESS."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    key_folder(ADDRESS).mkdir(parents=True)
    return key_folder(ADDRESS)


# -- who may come in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "role", "status"),
    [
        ("clients", CLIENT, 200),
        ("clients", KERNEL, 400),
        ("clients", POOL, 400),
        ("kernels", CLIENT, 400),
        ("kernels", KERNEL, 200),
        ("kernels", POOL, 200),
        ("table", CLIENT, 200),
        ("table", KERNEL, 200),
        ("table", POOL, 200),
        ("", CLIENT, 400),
        ("elsewhere", POOL, 400),
    ],
)
def test_which_key_opens_which_door(domain: str, role: str, status: int) -> None:
    verdict = decide(domain, "CURVE", KeyEntry("ada", role, "", 0.0))
    assert verdict.status == status
    assert verdict.who == (f"{role} ada {KeyEntry('', '', '', 0.0).id}" if status == 200 else "")


def test_only_curve_and_only_known_keys() -> None:
    ada = KeyEntry("ada", CLIENT, "", 0.0)
    assert [decide("clients", m, ada).status for m in ("NULL", "PLAIN", "GSSAPI")] == [400] * 3
    assert decide("clients", "CURVE", None).status == 400


def test_the_answer_in_frames() -> None:
    known = {b"p" * 32: KeyEntry("ada", KERNEL, "", 0.0)}

    def ask(mechanism: bytes, *credentials: bytes) -> list[bytes]:
        return answer([b"1.0", b"7", b"kernels", b"10.0.0.1", b"", mechanism, *credentials], known.get)

    assert ask(b"CURVE", b"p" * 32) == [b"1.0", b"7", b"200", b"OK", b"kernel ada 7d64c5272e", b""]
    assert ask(b"CURVE", b"q" * 32) == [b"1.0", b"7", b"400", b"no such key", b"", b""]
    assert ask(b"NULL")[2] == ask(b"PLAIN", b"ada", b"secret")[2] == b"400"


# -- names and files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ada", "a", "A.b_c@d+e-1", "7", "x" * 64])
def test_names_that_can_be_charged(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "../x", "-a", ".a", "a/b", "é", "a\n", "x" * 65, "\x1b[31m"]
)
def test_names_that_cannot(name: str, ring: Keyring, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is no name for a key"):
        ring.new(name, CLIENT, tmp_path / "key")
    assert check_name(plain_name(name))


def test_a_key_is_one_file_with_all_that_its_owner_needs(ring: Keyring, tmp_path: Path) -> None:
    made = ring.new("ada", CLIENT, tmp_path / "ada.key")
    key = read_key(tmp_path / "ada.key")
    assert key == made
    assert (key.name, key.role, key.broker) == ("ada", CLIENT, ring.pair().public)
    assert key.secret not in repr(key)
    assert ring.pair().secret not in repr(ring.pair())
    (entry,) = ring.entries()
    assert (entry.name, entry.role, entry.public) == ("ada", CLIENT, key.public)
    # the broker keeps no secret of others
    assert all(key.secret not in f.read_text() for f in ring.folder.iterdir())
    files = [tmp_path / "ada.key", *ring.folder.iterdir()]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert stat.S_IMODE(ring.folder.stat().st_mode) == 0o700


def test_the_brokers_pair_stays(ring: Keyring) -> None:
    assert ring.pair() == ring.pair() == Keyring(ring.folder.parent).pair()
    own = ring.own("Ada Lovelace")
    assert read_key(own).name == "Ada_Lovelace"
    assert ring.own("bob") == own
    assert len(ring.entries()) == 1


def test_a_key_file_is_not_overwritten(ring: Keyring, tmp_path: Path) -> None:
    file = tmp_path / "ada.key"
    ring.new("ada", CLIENT, file)
    before = file.read_bytes()
    with pytest.raises(Refused, match="exists already: name another file with -o"):
        ring.new("bob", CLIENT, file)
    with pytest.raises(Refused, match=r"cannot be written to .*no such file"):
        ring.new("bob", CLIENT, tmp_path / "none" / "bob.key")
    assert file.read_bytes() == before
    assert [e.name for e in ring.entries()] == ["ada"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["ada.key", "home"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o606, 0o620])
def test_loose_modes_are_refused(ring: Keyring, tmp_path: Path, mode: int) -> None:
    file = tmp_path / "ada.key"
    ring.new("ada", CLIENT, file)
    (entry,) = (f for f in ring.folder.iterdir() if f.name.startswith("ada"))
    for loose, use in (
        (file, lambda: read_key(file)),
        (entry, ring.entries),
        (ring.folder / "broker.key", ring.pair),
    ):
        loose.chmod(mode)
        with pytest.raises(Refused, match=f"mode {mode:04o}, .*`chmod 600 {loose}`"):
            use()
        loose.chmod(0o600)
        assert use()
    ring.folder.chmod(mode | 0o100)
    with pytest.raises(Refused, match=f"`chmod 700 {ring.folder}`"):
        ring.entries()


def test_somebody_elses_file_is_refused(
    ring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.new("ada", CLIENT, tmp_path / "ada.key")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(Refused, match=r"belongs to user .*, not to you"):
        read_key(tmp_path / "ada.key")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        "[]",
        "{}",
        '{"version": 2}',
        '{"version": 1}',
        '{"version": 1, "name": "x", "role": 7}',
        "\xff",
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.key"
    file.write_bytes(text.encode("latin-1"))
    file.chmod(0o600)
    with pytest.raises(Refused, match=f"{file} is no key"):
        read_key(file)
    with pytest.raises(Refused, match="cannot be read: no such file"):
        read_key(tmp_path / "none.key")


# -- the broker's look into its folder -------------------------------------------------------------


def test_a_new_key_is_found_at_the_next_look_a_second_later(ring: Keyring, tmp_path: Path) -> None:
    ada = ring.new("ada", CLIENT, tmp_path / "a")
    entry = ring.find(ada.public, 100.0)
    assert entry is not None
    assert entry.name == "ada"
    bob = ring.new("bob", KERNEL, tmp_path / "b")
    assert ring.find(bob.public, 100.9) is None
    entry = ring.find(bob.public, 101.0)
    assert entry is not None
    assert (entry.name, entry.role) == ("bob", KERNEL)
    assert ring.find("unknown", 102.5) is None


def test_a_folder_that_has_not_changed_is_not_read_again(
    ring: Keyring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.new("ada", CLIENT, tmp_path / "a")
    os.utime(ring.folder, (1e9, 1e9))
    ring.find("unknown", 0.0)
    monkeypatch.setattr(Keyring, "_files", lambda self: pytest.fail("it was read again"))
    assert ring.find("unknown", 5.0) is None


def test_a_loose_entry_does_not_count_and_is_said_once(
    ring: Keyring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ada, bob = ring.new("ada", CLIENT, tmp_path / "a"), ring.new("bob", CLIENT, tmp_path / "b")
    (loose,) = (f for f in ring.folder.iterdir() if f.name.startswith("bob"))
    loose.chmod(0o666)
    for now in (0.0, 2.0, 4.0):
        assert ring.find(bob.public, now) is None
    assert ring.find(ada.public, 4.0) is not None
    told = capsys.readouterr().err
    assert told.count("this key does not count") == told.count(f"chmod 600 {loose}") == 1


def test_a_folder_that_is_gone_or_loose_leaves_what_was_known(
    ring: Keyring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ada = ring.new("ada", CLIENT, tmp_path / "a")
    ring.find(ada.public, 0.0)
    ring.folder.chmod(0o777)
    assert ring.find("unknown", 2.0) is None
    ring.folder.chmod(0o700)
    shutil.rmtree(ring.folder)
    assert ring.find("unknown", 4.0) is None
    assert ring.find(ada.public, 6.0) is not None
    assert capsys.readouterr().err.count("no new key counts") == 2


# -- the key that a client shows -------------------------------------------------------------------


def test_the_only_key_is_taken_and_among_several_the_user_says_which(ring: Keyring, config: Path) -> None:
    with pytest.raises(
        NoBroker, match=f"no key for the broker at {ADDRESS} in {config}.*`park keys new eve`"
    ):
        find_key(ADDRESS, (CLIENT,), None, "eve")
    ring.new("ada", CLIENT, config / "ada.key")
    assert find_key(ADDRESS, (CLIENT,), None, "eve").name == "ada"
    with pytest.raises(NoBroker, match=r"clients' keys.*`park keys new NAME --kernel`"):
        find_key(ADDRESS, (KERNEL, POOL), None, "eve")
    ring.new("bob", CLIENT, config / "bob.key")
    assert find_key(ADDRESS, (CLIENT,), "bob", "eve").name == "bob"
    assert find_key(ADDRESS, (CLIENT,), None, "ada").name == "ada"
    with pytest.raises(NoBroker, match="has keys of ada, bob, and 0 of eve: user= says which"):
        find_key(ADDRESS, (CLIENT,), None, "eve")
    ring.new("ada", CLIENT, config / "ada2.key")
    with pytest.raises(NoBroker, match="and 2 of ada: token= says which"):
        find_key(ADDRESS, (CLIENT,), None, "ada")
    ring.new("ada", KERNEL, config / "kernel.key")
    assert find_key(ADDRESS, (KERNEL, POOL), None, "eve").role == KERNEL


def test_a_user_and_a_token_select_a_key(ring: Keyring, config: Path, tmp_path: Path) -> None:
    there = BrokerAddresses.of([ADDRESS] * 3)
    first, second = (ring.new("ada", CLIENT, config / f"ada{n}.key") for n in (1, 2))
    bob = ring.new("bob", CLIENT, config / "bob.key")
    other = ring.new("carl", CLIENT, tmp_path / "carl.key")
    # a public key, its first letters, or a secret key
    for key in (first, second):
        for token in (key.public, key.secret, key.public[:20]):
            assert key_for(there, (CLIENT,), "ada", token=token) == key
    assert key_for(there, (CLIENT,), token=bob.public) == bob
    # or a file, which may lie elsewhere
    assert key_for(there, (CLIENT,), token=other.path) == key_for(
        there, (CLIENT,), "carl", token=str(other.path)
    )
    # a selection of no key is refused with the names that there are, and never with a secret
    with pytest.raises(
        InvalidRequest, match=r"'eve' has no key for the broker at .* has keys of ada, ada, bob"
    ):
        key_for(there, (CLIENT,), "eve")
    with pytest.raises(InvalidRequest, match=r"carl.key is the key of carl, not of 'ada'"):
        key_for(there, (CLIENT,), "ada", token=other.path)
    for token in (bob.public, first.secret[:-1], "", "nonsense"):
        with pytest.raises(
            Refused, match=r"the token fits none of the keys in .*: .* of ada, .* of ada. A token is"
        ) as error:
            key_for(there, (CLIENT,), "ada", token=token)
        assert f"{first.public[:8]}... of ada" in str(error.value)
        assert first.secret[:8] not in str(error.value)
    with pytest.raises(Refused, match=r"the key file /nowhere\.key cannot be read"):
        key_for(there, (CLIENT,), token="/nowhere.key")
    with pytest.raises(InvalidRequest, match=r"takes no key: with token= give the broker's tcp address"):
        key_for(BrokerAddresses.of(["ipc:///h/clients"] * 3), (CLIENT,), token=bob.public)


@pytest.mark.parametrize(
    ("address", "name"), [("tcp://head:7275", "head_7275"), ("tcp://[::1]:80", "::1_80")]
)
def test_where_keys_lie(address: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert key_folder(address) == tmp_path / ".config" / "park" / "keys" / name
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert key_folder(address) == Path("/elsewhere/park/keys") / name


@pytest.mark.parametrize(
    ("filed", "asked"),
    [
        ("head_7275", "tcp://HEAD:7275"),
        ("head_7275", "tcp://head.:7275"),
        ("Head._7275", "tcp://head:7275"),  # filed by hand
        ("localhost_7275", "tcp://127.0.0.1:7275"),
        ("127.0.0.1_7275", "tcp://localhost:7275"),
        ("127.0.0.1_7275", "tcp://[::1]:7275"),
        ("head_7275", "tcp://alias.example.org:7275"),
    ],
)
def test_keys_are_found_however_the_host_is_spelled(
    filed: str, asked: str, ring: Keyring, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: None) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host not in ("head", "alias.example.org"):
            raise OSError("no such host")
        return [(2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    folder = config.parent / filed
    folder.mkdir(exist_ok=True)
    (config.parent / "other_7275").mkdir()
    ring.new("eve", CLIENT, config.parent / "other_7275" / "eve.key")
    ring.new("ada", CLIENT, folder / "ada.key")
    assert find_key(find_broker(asked).clients, (CLIENT,), None, "").name == "ada"
    with pytest.raises(NoBroker, match="there is no key for the broker"):
        find_key("tcp://head:80", (CLIENT,), None, "")


def test_a_broker_s_port_may_be_left_out() -> None:
    assert find_broker("tcp://head").clients == "tcp://head:7275"
    assert find_broker("tcp://[::1]").kernels == "tcp://[::1]:7276"
    with pytest.raises(NoBroker, match="is no address of a broker"):
        find_broker("tcp://")


def test_a_key_is_for_what_it_is_for(ring: Keyring, tmp_path: Path) -> None:
    here, there = BrokerAddresses.of(["ipc:///h/clients"] * 3), BrokerAddresses.of([ADDRESS] * 3)
    client, kernel = tmp_path / "c", tmp_path / "k"
    ring.new("ada", CLIENT, client)
    ring.new("ada", KERNEL, kernel)
    assert key_for(here, (CLIENT,)) is None
    with pytest.raises(InvalidRequest, match="takes no key: with --key give the broker's tcp address"):
        key_for(here, (KERNEL, POOL), file=kernel)
    assert key_for(there, (KERNEL, POOL), file=kernel) == read_key(kernel)
    with pytest.raises(Refused, match=r"is a client's key: a kernel needs .*`park keys new NAME --kernel`"):
        key_for(there, (KERNEL, POOL), file=client)
    with pytest.raises(Refused, match=r"is a kernel's key: a client needs .*`park keys new NAME`"):
        key_for(there, (CLIENT,), file=kernel)


def test_the_connection_file_leads_over_ipc_here_and_over_tcp_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "clients").touch()
    tcp = {name: f"tcp://head:{port}" for name, port in (("clients", 1), ("kernels", 2), ("table", 3))}
    fields: dict[str, Any] = {name: f"ipc://{tmp_path}/{name}" for name in tcp}
    fields |= {"version": 1, "host": platform.node(), "tcp": tcp, "key": "/h/own.key"}

    def place(**changed: Any) -> BrokerAddresses:
        (tmp_path / "connection.json").write_text(json.dumps(fields | changed))
        return find_broker(tmp_path)

    assert place().is_local
    assert place(host="elsewhere") == BrokerAddresses.of(tcp.values(), Path("/h/own.key"))
    assert place(host="elsewhere", tcp=None).is_local  # there is no other way
    (tmp_path / "clients").unlink()
    assert not place().is_local


def test_what_listens_everywhere_is_found_by_the_hosts_name() -> None:
    assert seen_from_elsewhere("tcp://0.0.0.0:7275") == f"tcp://{platform.node()}:7275"
    assert seen_from_elsewhere("tcp://[::]:7275") == f"tcp://{platform.node()}:7275"
    assert seen_from_elsewhere("tcp://127.0.0.1:7275") == "tcp://127.0.0.1:7275"


def test_without_curve_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zmq, "has", lambda what: False)
    with pytest.raises(Refused, match="built without CURVE"):
        new_pair()
    manager = ServiceManager(JobManager())
    with pytest.raises(Refused, match="built without CURVE"):
        manager.listen("tcp://127.0.0.1:0", tmp_path)
    with pytest.raises(Refused, match="built without CURVE"):
        Dealer("tcp://127.0.0.1:9", Key("a", CLIENT, "", "", "", tmp_path))
    manager.listen(home=tmp_path)  # ipc needs none
    manager.reactor.start("broker")
    with connect(manager.endpoints["clients"], "ann") as service:
        assert service.jobs() == []
    service.close()  # type: ignore[attr-defined]
    manager.close()


# -- the commands ----------------------------------------------------------------------------------


def test_park_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    runner = CliRunner()

    def run(*arguments: str, code: int = 0) -> str:
        done = runner.invoke(main, ["keys", *arguments, "--home", str(home)])
        assert done.exit_code == code, done.output
        return done.output

    assert f"no broker has lived in {home}" in run("new", "ada", code=4)
    assert f"no broker has lived in {home}" in run("list", code=4)
    assert not home.exists()
    Keyring(home).pair()
    assert "no keys" in run("list")
    assert json.loads(run("list", "--json")) == []
    monkeypatch.chdir(tmp_path)
    said = run("new", "ada")
    assert "ada.key is a key for ada" in said
    assert "install -D -m 600 ada.key ~/.config/park/keys/HOST_PORT/ada.key" in said
    assert read_key(Path("ada.key")).role == CLIENT
    (home / "connection.json").write_text('{"tcp": {"clients": "tcp://head:7275"}}')
    said = run("new", "ada", "--kernel")
    assert "/head_7275/ada.kernel.key" in said
    assert "runs ada's jobs only" in said
    assert read_key(Path("ada.kernel.key")).role == KERNEL
    run("new", "pat", "--pool", "-o", "node7.key")
    assert read_key(Path("node7.key")).role == POOL
    assert "exists already" in run("new", "ada", code=6)
    assert "is no name for a key" in run("new", "a b", code=2)
    head, *rows = run("list").splitlines()
    assert head.split() == ["NAME", "ROLE", "MADE", "EXPIRES", "LAST", "USED", "PUBLIC", "KEY"]
    assert [row.split()[:2] for row in rows] == [["ada", "client"], ["ada", "kernel"], ["pat", "pool"]]
    assert json.loads(run("list", "--json")) == [asdict(e) for e in Keyring(home).entries()]
    (home / "keys").chmod(0o755)
    assert "chmod 700" in run("list", code=6)


def test_park_keys_of_the_broker_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(broker: str, *arguments: str, code: int = 0) -> str:
        monkeypatch.setenv("PARK_BROKER", broker)
        done = CliRunner().invoke(main, ["keys", "list", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    for name in ("one", "two"):
        Keyring(tmp_path / name).pair()
        Keyring(tmp_path / name).new(name, CLIENT, tmp_path / f"{name}.key")
        place = {"clients": f"ipc://{name}", "tcp": {"clients": f"tcp://{name}:7275"}}
        (tmp_path / name / "connection.json").write_text(json.dumps(place))
    monkeypatch.setenv("PARK_HOME", str(tmp_path / "one"))
    assert run("").splitlines()[1].startswith("one")
    for broker in (tmp_path / "two", tmp_path / "two" / "connection.json"):
        assert run(str(broker)).splitlines()[1].startswith("two")
    assert run("tcp://one:7275").splitlines()[1].startswith("one")
    assert f"does not live in {tmp_path / 'one'}" in run("tcp://two:7275", code=4)
    assert run("tcp://two:7275", "--home", str(tmp_path / "two")).splitlines()[1].startswith("two")


# -- sockets ---------------------------------------------------------------------------------------


def test_a_peer_is_its_connection_and_its_key_together(ring: Keyring, tmp_path: Path) -> None:
    """A peer that chooses another's former routing id stays itself."""
    keeper = Authenticator(ring.pair(), ring.find)
    door = KeyedRouter(keeper, "clients")
    address = door.bind("tcp://127.0.0.1:0")
    keys = [ring.new(name, CLIENT, tmp_path / name) for name in ("ada", "bob")]

    def heard(key: Key) -> bytes:
        """The name under which the door hears a peer with this key; b"": it still holds the connection before."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
            peer.linger = 0
            peer.curve_publickey, peer.curve_secretkey = key.public.encode(), key.secret.encode()
            peer.curve_serverkey = key.broker.encode()
            peer.setsockopt(zmq.ROUTING_ID, b"the same")
            peer.connect(address)
            peer.send_multipart(codec.encode(messages.Heartbeat()))
            end, got = time.monotonic() + 2.0, None
            while got is None and time.monotonic() < end:
                got = look(keeper, door)
            if got is None:
                return b""
            door.send(got[0], [b"for", b"you"])
            assert peer.poll(5000)
            assert peer.recv_multipart() == [b"for", b"you"]
            return bytes(got[0])

    try:
        seen = [until(lambda k=key: heard(k)) for key in keys]
        assert [door.account(name) for name in seen] == [Account("ada"), Account("bob")]
        assert seen[0] != seen[1]
    finally:
        door.close()
        keeper.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    (tmp_path / "home").mkdir()
    manager = ServiceManager(JobManager()).listen("tcp://127.0.0.1:0", tmp_path / "home")
    manager.reactor.start("broker")
    yield manager
    manager.close()


def test_a_hello_at_the_wrong_door_is_no_message(manager: ServiceManager, tmp_path: Path) -> None:
    assert manager.keyring is not None
    assert manager.loop is not None
    kernel = manager.keyring.new("ada", KERNEL, tmp_path / "k")
    line = Dealer(manager.tcp["kernels"], kernel)
    try:
        hello = codec.encode(messages.Hello(b"i" * 16, "ada", "3.11"))
        until(lambda: line.send(hello) or manager.loop.malformed)  # type: ignore[union-attr,func-returns-value]
        assert manager.loop.counts["k > Hello"] == 0
        assert not manager.manager.dispatcher.state.roster.clients
    finally:
        line.close()


def test_without_curve_nothing_comes_in(manager: ServiceManager) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
        stranger.linger = 0
        failures = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        with stranger.get_monitor_socket(failures | zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
            stranger.connect(manager.tcp["clients"])
            with contextlib.suppress(zmq.Again):  # after a refused handshake there is nowhere to send to
                stranger.send_multipart(
                    codec.encode(messages.Hello(os.urandom(16), "admin", "3.11")), zmq.DONTWAIT
                )
            assert monitor.poll(5000)
            assert parse_monitor_message(monitor.recv_multipart())["event"] & failures
            stranger.disable_monitor()
    assert manager.loop is not None
    assert not [name for name in manager.loop.counts if name.startswith("c >")]


def test_a_socket_calls_again_after_any_failure(ring: Keyring, tmp_path: Path) -> None:
    """Given a listener that speaks plain ZeroMQ, when a broker takes its place, then whoever called is in."""
    key = ring.new("ada", CLIENT, tmp_path / "k")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as plain:
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        line = Dealer(f"tcp://127.0.0.1:{port}", key)
        until(lambda: line.trouble() == "handshake")
    keeper = Authenticator(ring.pair(), ring.find)
    door = KeyedRouter(keeper, "clients")
    try:
        until(lambda: bind_again(door, f"tcp://127.0.0.1:{port}"))
        until(lambda: line.send([b"", b""]) or look(keeper, door))  # type: ignore[func-returns-value]
        until(lambda: line.trouble() == "")
    finally:
        line.close()
        door.close()
        keeper.close()


def look(keeper: Authenticator, door: KeyedRouter) -> Any:
    """The messages that have come in at the door, without a reactor."""
    keeper.stir()
    keeper.turn(time.monotonic())
    door.stir()
    return door.receive()


def bind_again(door: KeyedRouter, address: str) -> bool:
    """Whether the port is free already."""
    try:
        return bool(door.bind(address))
    except NoBroker:
        return False


# -- real peers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    """A broker with keys for the clients tester and bob, and a pool kernel."""
    with Fabric(tmp_path_factory.mktemp("keys"), keys=True) as fabric:
        fabric.new_key("bob")
        fabric.start_kernels(1)
        yield fabric


@pytest.fixture
def away(tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who has no key yet. No answer is waited for longer than 2 s."""
    monkeypatch.setattr("park.core.connect.FIRST_ANSWER_SECONDS", 2.0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    key_folder(fabric.url).mkdir(parents=True)
    return key_folder(fabric.url)


def forged(fabric: Fabric, file: Path, **changed: str) -> Path:
    """A key that this broker has never seen, for it but for what is *changed*."""
    other = Keyring(file.parent / "other")
    fields = asdict(other.new("eve", CLIENT, file.with_suffix(".made")))
    del fields["path"]
    write_private(file, fields | {"broker": Keyring(fabric.home).pair().public} | changed)
    return file


def test_who_shares_a_key_is_known_by_a_tag(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    for person, tags in (("eve", ("eve", "demo")), ("tester", ("tester", "demo")), ("a\nb", ("demo",))):
        monkeypatch.setenv("PARKTAG", person)
        monkeypatch.setattr(server, "TAGS", server.own_tags())
        with connect(fabric.url, user="tester") as service:
            job = service.job(service.start(abs, [-1], tags="demo"))
            assert (job.owner, job.tags) == ("tester", tags)


def test_a_service_is_joined_as_somebody_else_too(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        name: read_key(fabric.new_key(name, file=key_folder(fabric.url) / f"{name}.key"))
        for name in ("ina", "jan")
    }
    monkeypatch.setenv("PARK_BROKER", fabric.url)
    with ExitStack() as ends:
        ina = ServerProxy.connect(
            "ina", keys["ina"].public
        )  # of the class: the broker that PARK_BROKER names
        ends.callback(ina.close)  # type: ignore[attr-defined]
        monkeypatch.setenv("PARK_BROKER", "/nowhere")
        jan = ServerProxy(ina).connect(user="jan", token=keys["jan"].path)  # of a service: its own
        ends.callback(jan.close)  # type: ignore[attr-defined]
        owners = [s.status(s.start(abs, [-1])).owner for s in (ina, jan)]
        assert owners == ["ina", "jan"]
        with pytest.raises(
            InvalidRequest, match=r"'mallory' has no key for the broker at .*: .* has keys of "
        ):
            jan.connect("mallory")
        with pytest.raises(Refused, match="the token fits none of the keys"):
            jan.connect("jan", "wrong")
    with pytest.raises(NoBroker, match="/nowhere"):
        Server.connect()
    with pytest.raises(InvalidRequest, match=r"park.connect\(...\) finds a broker"):
        park.local_service.connect("ina")


def test_whoever_a_client_claims_to_be_its_key_is_charged(fabric: Fabric) -> None:
    with connect(fabric.url, user="tester") as service:
        job = service.job(service.start(square, range(5)))
        assert job.wait(50) == [0, 1, 4, 9, 16]
        assert job.owner == "tester"
    key = find_key(fabric.url, (CLIENT,), "bob", "")
    reactor = Reactor()
    place = find_broker(fabric.url)
    line = Dealer(place.clients, key)
    link = Link(
        reactor, line, lambda: Subscriber(place.table, key), "tester", "the broker"
    )  # says that it is the tester
    reactor.listen(line.fileno(), line.stir)
    reactor.add(link)
    reactor.start("link")
    try:
        assert link.wait_live(5.0)
        submit = messages.Submit(0, os.urandom(16), session=True, python="3.11")
        (accepted, _) = link.ask(lambda n: messages.Submit(n, submit.key, session=True, python="3.11"))
        assert isinstance(accepted, messages.Accepted)
        with fabric.connect() as service:
            assert service.status(accepted.job).owner == "bob"
            assert accepted.job in until(lambda: dict(service.table.jobs))
    finally:
        reactor.stop()


def test_somebody_elses_job_is_seen_but_not_steered_nor_read(fabric: Fabric) -> None:
    ada, bob = fabric.connect("tester"), fabric.connect("bob")
    done = ada.start(square, [3])
    assert ada.wait(done, timeout=60) == [9]
    held = ada.start(square, [3], when=1000)
    for ask in (
        lambda: bob.stop(held),
        lambda: bob.abort(held),
        lambda: bob.fetch(done),
        lambda: bob.wait(done, timeout=5),
    ):
        with pytest.raises(
            Refused, match=r"is tester's: only tester and the broker's own user .* you are bob"
        ):
            ask()
    refused = bob._link.request(lambda n: messages.Watch(n, held))  # its messages are pickles, too
    assert refused.wait(50)
    with pytest.raises(Refused, match="is tester's"):
        refused.value()
    assert bob.status(held).state == "waiting"
    assert bob.status(done).state == "complete"
    assert {done, held} <= {job.id for job in bob.jobs(owner="*")}
    until(lambda: bob.table.jobs.get(held))
    denied = fabric.script(
        """
        import sys, park
        from park.cli.park import main
        main(["abort", sys.argv[1], "--broker", sys.argv[2]])
        """,
        str(held),
        fabric.url,
        env={"PARKTAG": "bob"},
    )
    assert denied.wait() == 6, denied.text
    # the broker's own user comes over ipc and is the admin
    with connect(fabric.connection, "somebody") as admin:
        assert admin.wait(done, timeout=5) == [9]
        admin.abort(held)
        until(lambda: ada.status(held).state == "aborted")
    admin.close()  # type: ignore[attr-defined]


def test_the_connection_file_gives_its_reader_a_key_too(fabric: Fabric, tmp_path: Path) -> None:
    file = tmp_path / "connection.json"
    file.write_text(json.dumps(fabric.endpoints | {"host": "another machine"}))
    with connect(file) as service:
        job = service.start(square, [4])
        assert service.wait(job, timeout=60) == [16]
        assert service.status(job).owner == "tester"  # the broker was started by the tester
    service.close()  # type: ignore[attr-defined]


def test_without_a_key_it_says_how_to_get_one(fabric: Fabric, away: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        NoBroker, match=rf"no key for the broker at {fabric.url} in {away}: .*`park keys new \S+`"
    ):
        connect(fabric.url)
    assert time.monotonic() - began < connect_module.FIRST_ANSWER_SECONDS  # it has not asked the broker
    kernel = fabric.start("-m", "park.cli.kernel", "--broker", fabric.url, env={"XDG_CONFIG_HOME": str(away)})
    assert kernel.wait() == 4
    assert "`park keys new NAME --kernel`" in kernel.text


def test_a_key_that_the_broker_does_not_know(fabric: Fabric, away: Path) -> None:
    file = forged(fabric, away / "eve.key")
    began = time.monotonic()
    with pytest.raises(
        NoBroker, match=f"does not let us in with {file}: the key of eve is not.*`park keys list`"
    ):
        connect(fabric.url)
    assert time.monotonic() - began < 20


def test_a_key_for_another_broker(fabric: Fabric, away: Path) -> None:
    file = forged(fabric, away / "eve.key", broker=new_pair()[0])
    with pytest.raises(NoBroker, match=f"does not let us in with {file}: that key is for another broker"):
        connect(fabric.url)


def test_a_loose_key_is_refused_by_who_would_show_it(fabric: Fabric, away: Path) -> None:
    file = fabric.new_key("eve", CLIENT, away / "eve.key")
    file.chmod(0o644)
    with pytest.raises(Refused, match=f"`chmod 600 {file}`"):
        connect(fabric.url)
    file.chmod(0o600)
    with connect(fabric.url) as service:  # a key that was made while the broker runs
        assert service.status(service.start(square, [1])).owner == "eve"
    service.close()  # type: ignore[attr-defined]


def test_a_kernel_is_told_why_and_comes_in_once_its_key_is_known(fabric: Fabric, away: Path) -> None:
    clients = fabric.new_key("eve", CLIENT, away / "eve.key")
    stolen = away / "stolen.key"  # a client's key that calls itself a kernel's
    write_private(stolen, json.loads(clients.read_text()) | {"role": KERNEL})
    unknown = forged(fabric, away / "kernel.key", role=KERNEL)

    def start(file: Path) -> Process:
        return fabric.start(
            "-m", "park.cli.kernel", "--broker", fabric.url, "--slots", "1", "--key", str(file)
        )

    wrong, early = start(stolen), start(unknown)
    refused = start(clients)
    assert refused.wait() == 6
    assert "is a client's key: a kernel needs a key of its own" in refused.text
    for kernel in (wrong, early):
        until(lambda k=kernel: "does not let us in" in k.text)  # type: ignore[misc]
        assert "it is called until one does" in kernel.text
    # when the admin registers the key of the one
    key = read_key(unknown)
    write_private(fabric.home / "keys" / "late", asdict(KeyEntry("eve", KERNEL, key.public, time.time())))
    # then it is in, and the other is not
    until(lambda: "connected" in early.text)
    with fabric.connect("eve") as service:
        until(lambda: early.pid in {k.pid for k in service.kernels()})
        assert wrong.pid not in {k.pid for k in service.kernels()}
    assert "connected" not in wrong.text
    for kernel in (wrong, early):
        kernel.end()


def test_keys_outlive_a_broker(tmp_path: Path) -> None:
    with Fabric(tmp_path, keys=True) as fabric:
        fabric.start_kernels(1)
        service, url = fabric.connect(), fabric.url
        # when the broker is killed, and started again on its home and at its ports
        fabric.broker.kill()
        fabric.options[fabric.options.index("tcp://127.0.0.1:0")] = url
        fabric.start_broker()
        # then its client and its kernel come back, and the client is who it was
        job = service.start(square, [3])
        assert service.wait(job, timeout=60) == [9]
        assert service.status(job).owner == "tester"
        until(lambda: job in service.table.jobs and not service.table.stale)


def test_a_broker_does_not_start_with_loose_keys(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ring = Keyring(home)
    ring.new("ada", CLIENT, tmp_path / "ada.key")
    (entry,) = (f for f in ring.folder.iterdir() if f.name.startswith("ada"))
    entry.chmod(0o664)
    command = [sys.executable, "-m", "park.cli.broker", "--home", str(home), "--bind", "tcp://127.0.0.1:0"]
    broker = Process(command, tmp_path / "log")
    try:
        assert broker.wait(50) == 6, broker.text
        assert f"`chmod 600 {entry}`" in broker.text
        assert len(broker.text.splitlines()) == 1
    finally:
        broker.end()


def test_refusals_are_said_only_where_they_are_known(ring: Keyring, tmp_path: Path) -> None:
    key = ring.new("ada", CLIENT, tmp_path / "k")
    assert refusal(ADDRESS, None, "key") == refusal(ADDRESS, key, "") == ""
    assert "registered" in refusal(ADDRESS, key, "key")
    assert park.Refused is Refused


@pytest.mark.parametrize("half", ["public", "secret", "broker"])
def test_a_key_that_zeromq_would_not_take_is_refused(ring: Keyring, tmp_path: Path, half: str) -> None:
    ring.new("ada", CLIENT, tmp_path / "a")
    write_private(tmp_path / "b", json.loads((tmp_path / "a").read_text()) | {half: "short"})
    with pytest.raises(Refused, match=f"its {half} key is none"):
        read_key(tmp_path / "b")

"""Key files: who a peer is, on disk.

A key is a CURVE pair. Its public half is registered at the broker, with the name that is charged and what it is for;
its secret half is in one file, which its owner takes away, together with the broker's public key: that file
is all that a client or a kernel needs. A broker keeps in its home::

    keys/broker.key                 its own pair
    keys/ada.client.1f0c2a9b4d      who has a key: one file for each, named by name, role and the public key's hash

Files have mode 0600 and belong to whoever uses them; what others can read or change is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from park.errors import InvalidRequest, NoBroker, Refused
from park.util.outlet import tell

#: What a key is for. A pool kernel serves all owners, any other only the one whose name its key has.
CLIENT, KERNEL, POOL = "client", "kernel", "pool"
ROLES = (CLIENT, KERNEL, POOL)
VERSION = 1
#: How key files are called that clients and kernels take away.
SUFFIX = ".key"
#: Seconds between two looks into the folder for a key that is not known.
RESCAN = 1.0
#: A folder that changed so shortly before it was read may have changed again with the same time, ns.
_COARSE = 1_000_000_000
_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Entry:
    """Who has a key: *public* is its public half, *made* UTC seconds since 1970."""

    name: str
    role: str
    public: str
    made: float


@dataclass(frozen=True, slots=True)
class Key:
    """What a client or a kernel shows, and the *broker* (its public key) to whom it shows it."""

    name: str
    role: str
    public: str
    secret: str
    broker: str
    path: Path

    def __repr__(self) -> str:  # no secret in a traceback
        return f"<Key of {self.name}, {self.role}: {self.path}>"


@dataclass(frozen=True, slots=True)
class Pair:
    """A CURVE pair, in the 40 letters of Z85 each."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"<Pair {self.public}>"


def check_name(name: str) -> str:
    """*name*, if it can be charged. Raises InvalidRequest.

    >>> check_name("ada.lovelace")
    'ada.lovelace'
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is no name for a key: it has 1 to 64 letters, digits and . _ @ + -, "
            "and begins with a letter or a digit"
        )
    return name


def plain_name(name: str) -> str:
    """The nearest name that `check_name` takes."""
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name).lstrip("._@+-")[:64] or "somebody"


# -- files -----------------------------------------------------------------------------------------


def read_private(file: Path) -> dict[str, Any]:
    """What a key file says. Raises Refused if others could have read or changed it, or if it is none.

    The file is looked at after it was opened, so that nobody can change it in between.
    """
    try:
        with file.open("rb") as source:
            _check_private(file, os.fstat(source.fileno()), "600")
            found = json.loads(source.read(1 << 16))
    except OSError as error:
        raise Refused(
            f"the key file {file} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    except ValueError as error:
        raise Refused(f"{file} is no key file: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise Refused(f"{file} is no key file, or another release of PARK wrote it")
    return found


def _check_private(path: Path, found: os.stat_result, mode: str) -> None:
    if os.name != "posix":  # no such modes there
        return
    if found.st_uid != os.geteuid():
        raise Refused(
            f"{path} belongs to user {found.st_uid}, not to you: keys are only taken from your own files"
        )
    if found.st_mode & 0o077:
        raise Refused(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, so others on this machine can get at it: run "
            f"`chmod {mode} {path}`, and if somebody may have read a secret key there, make a new one"
        )


def write_private(file: Path, fields: dict[str, Any]) -> None:
    """Write a new file of mode 0600, whole or not at all. Raises FileExistsError, OSError."""
    descriptor, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as out:
            json.dump({"version": VERSION, **fields}, out, indent=2)
            out.write("\n")
            out.flush()
            os.fsync(out.fileno())
        os.link(part, file)  # unlike a rename, it replaces nothing
    finally:
        os.unlink(part)


def read_key(file: Path) -> Key:
    """A client's or a kernel's key. Raises Refused in words."""
    found = read_private(file)
    name, role = _texts(file, found, "name", "role")
    public, secret, broker = _keys(file, found, "public", "secret", "broker")
    return Key(name, role, public, secret, broker, file)


def _texts(file: Path, found: dict[str, Any], *names: str) -> list[str]:
    for name in names:
        if not isinstance(found.get(name), str):
            raise Refused(f"{file} is no key file for this: it has no {name}")
    return [found[name] for name in names]


def _keys(file: Path, found: dict[str, Any], *names: str) -> list[str]:
    """The texts that are halves of pairs: ZeroMQ takes no others."""
    texts = _texts(file, found, *names)
    for name, text in zip(names, texts, strict=True):
        if not _Z85.fullmatch(text):
            raise Refused(f"{file} is no key file: its {name} key is none")
    return texts


# -- the broker's side -----------------------------------------------------------------------------


class Keyring:
    """The keys that a broker knows, in the folder ``keys`` of its *home*.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> ring = Keyring(Path(folder.name))
    >>> ring.new("ada", CLIENT, Path(folder.name) / "ada.key").name
    'ada'
    >>> [(e.name, e.role) for e in ring.entries()]
    [('ada', 'client')]
    >>> folder.cleanup()
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "keys"
        #: what was said to be wrong with the folder and its files
        self._told: set[str] = set()
        self._known: dict[str, Entry] = {}
        self._looked = float("-inf")
        #: the folder's time of change, when it was read
        self._read: int | None = None

    def __repr__(self) -> str:
        return f"<Keyring {self.folder}>"

    def pair(self) -> Pair:
        """The broker's own pair, made if there is none. Raises Refused."""
        file = self._open() / "broker.key"
        if not file.exists():
            with contextlib.suppress(FileExistsError):  # somebody else has just made it
                write_private(file, asdict(_new_pair()))
        return Pair(*_keys(file, read_private(file), "public", "secret"))

    def new(self, name: str, role: str, file: Path) -> Key:
        """Make a key, register it, and write it to *file* for its owner. Raises InvalidRequest, Refused."""
        check_name(name)
        broker, pair = self.pair().public, _new_pair()
        entry = Entry(name, role, pair.public, time.time())
        key = Key(name, role, pair.public, pair.secret, broker, file)
        registered = self._open() / f"{name}.{role}.{_short(pair.public)}"
        write_private(registered, asdict(entry))  # first: a key file that is there is a key that counts
        try:
            write_private(file, {n: v for n, v in asdict(key).items() if n != "path"})
        except OSError as error:
            registered.unlink()
            if isinstance(error, FileExistsError):
                raise Refused(f"{file} exists already: name another file with -o") from None
            raise Refused(f"the key cannot be written to {file}: {(error.strerror or '').lower()}") from error
        return key

    def own(self, name: str) -> Path:
        """The file with the key of the broker's own user, made if there is none."""
        file = self._open() / f"own{SUFFIX}"
        if not file.exists():
            self.new(plain_name(name), CLIENT, file)
        return file

    def entries(self) -> list[Entry]:
        """All keys that are registered, by name. Raises Refused for files that others could have changed."""
        return [self._entry(file) for file in self._files()]

    def find(self, public: str, now: float) -> Entry | None:
        """Whose key it is, at monotonic time *now*, seconds.

        The folder is looked at once a second at most, however often strangers ask: a new key is seen after that.
        """
        entry = self._known.get(public)
        if entry is not None or now < self._looked + RESCAN:
            return entry
        self._looked = now
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed != self._read:
                self._read = changed if time.time_ns() - changed > _COARSE else None
                self._known = {e.public: e for e in self._good()}
        except (OSError, Refused) as error:  # what was known goes on
            self._tell(f"no new key counts: {error}")
        return self._known.get(public)

    def _good(self) -> Iterable[Entry]:
        """The entries that are in order; the others are said, once, and do not count."""
        for file in self._files():
            try:
                yield self._entry(file)
            except Refused as error:
                self._tell(f"this key does not count: {error}")

    def _tell(self, text: str) -> None:
        """Say to whoever looks at the broker's terminal or log what is wrong, once."""
        if text not in self._told:
            self._told.add(text)
            tell(f"park-broker: {text}", "warning")

    def _files(self) -> list[Path]:
        return sorted(f for f in self._open().iterdir() if f.suffix != SUFFIX and f.name[0] != ".")

    def _entry(self, file: Path) -> Entry:
        found = read_private(file)
        name, role = _texts(file, found, "name", "role")
        (public,) = _keys(file, found, "public")
        made = found.get("made")
        if not _NAME.fullmatch(name) or role not in ROLES or not isinstance(made, float):
            raise Refused(f"{file} is no entry of a key: {name!r} as a {role!r}, made {made!r}")
        return Entry(name, role, public, made)

    def _open(self) -> Path:
        """The folder, of mode 0700."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"{self.folder} cannot be made: {(error.strerror or '').lower()}") from error
        _check_private(self.folder, self.folder.stat(), "700")
        return self.folder


def _short(public: str) -> str:
    """A public key's hash, which unlike the key itself can name a file."""
    return hashlib.blake2b(public.encode(), digest_size=5).hexdigest()


def _new_pair() -> Pair:
    from park.util.sockets import new_pair

    return Pair(*new_pair())


# -- the other side --------------------------------------------------------------------------------


def key_folder(address: str) -> Path:
    """Where the keys for a broker lie that is known only by its address.

    >>> key_folder("tcp://head:7275").name
    'head_7275'
    """
    config = os.environ.get("XDG_CONFIG_HOME")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    place = Path(config) if config else Path.home() / ".config"
    return place / "park" / "keys" / f"{host.strip('[]')}_{port}"


def find_key(
    address: str,
    roles: tuple[str, ...],
    user: str | None,
    tag: str,
    token: str | None = None,
    own: Path | None = None,
) -> Key:
    """The key to show to the broker at *address*, one for these *roles*: of the address's folder, or the file *own*.

    *user* and *token*, a public key or its first letters, or a secret key, select one; without them the only one does,
    else that of the *tag*, who one is anyway. Raises NoBroker where there is none, InvalidRequest for a user without any,
    Refused for a token that is of none, and for a key that others could have read.
    """
    folder = key_folder(address)
    files = [*([own] if own is not None else ()), *sorted(folder.glob(f"*{SUFFIX}"))]
    keys = list({(key.public, key.role): key for key in map(read_key, files)}.values())
    fitting = [key for key in keys if key.role in roles]
    kernel = CLIENT not in roles
    if not fitting:
        others = f" (those there are {'clients' if kernel else 'kernels'}' keys)" if keys else ""
        raise NoBroker(
            f"there is no key for the broker at {address} in {folder}{others}: on the broker's machine run "
            f"`park keys new {'NAME --kernel' if kernel else user or tag}`, and copy the file that it writes there"
        )
    names = ", ".join(sorted(key.name for key in fitting))
    chosen = [key for key in fitting if user is None or key.name == user]
    if not chosen:
        raise InvalidRequest(f"{user!r} has no key for the broker at {address}: {folder} has keys of {names}")
    if token is not None:
        return _by_token(chosen, token, folder)
    if len(chosen) > 1:
        chosen = [key for key in chosen if key.name == (user or tag)]
    if len(chosen) != 1:
        how = "--key FILE says which" if kernel else "token= says which" if chosen else "user= says which"
        raise NoBroker(
            f"{folder} has keys of {names}, and {len(chosen)} of {user or tag}: {how}"
            + (f" ({_begins(chosen)}), or remove those that are not used" if chosen else "")
        )
    return chosen[0]


def _by_token(keys: list[Key], token: str, folder: Path) -> Key:
    """The one of *keys* that the *token* is of. Raises Refused."""
    chosen = [key for key in keys if token and (key.public.startswith(token) or key.secret == token)]
    if len(chosen) != 1:
        raise Refused(
            f"the token fits {len(chosen) or 'none'} of the keys in {folder}: {_begins(keys)}. A token is a public key, as "
            "`park keys list` shows it on the broker's machine, or its first letters, or the secret key, or the path of a "
            "key file"
        )
    return chosen[0]


def _begins(keys: list[Key]) -> str:
    """Whose keys they are, and the first letters of each."""
    return ", ".join(f"{key.public[:8]}... of {key.name}" for key in keys)

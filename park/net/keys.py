"""Key files: the identity of a peer on disk.

A key is a CURVE pair. The broker registers its public half, with the name that is charged and the role of the key. Its
secret half is in one file, which its owner takes away, together with the broker's public key: a client or a kernel needs
only that file. A broker keeps in its home::

    keys/broker.key                 its own pair
    keys/ada.client.1f0c2a9b4d      a registered key: one file for each, named by name, role and the public key's hash
    keys/.used                      when peers last connected with each key
    audit.log                       see `park.net.audit`

`park.net.zap` checks the keys of peers that connect.

Files have mode 0600 and belong to the user of the process. Files that other users can read or change are refused.
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
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from park.errors import InvalidRequest, NoBroker, Refused
from park.net.audit import AuditLog
from park.net.host_names import plain_host, same_host
from park.util.stdio import tell

#: Roles of keys. A pool kernel serves all owners, any other kernel only the owner that its key names.
#: An observer sees the table and nothing else.
CLIENT, KERNEL, POOL, OBSERVER = "client", "kernel", "pool", "observer"
ROLES = (CLIENT, KERNEL, POOL, OBSERVER)
KEY_FILE_VERSION = 1
#: The suffix of key files that clients and kernels take away.
KEY_SUFFIX = ".key"
#: Seconds between two scans of the folder for an unknown key.
RESCAN_SECONDS = 1.0
#: A folder that changed within this time before it was read may change again with the same time stamp.
_COARSE_NANOSECONDS = 1_000_000_000
#: The file in the folder of the keys that tells when peers last connected with each.
_USED_FILE = ".used"
_Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


class KeyEntry(Struct, frozen=True):
    """A registered key: *public* is its public half. Times are in seconds since 1970 (UTC): when it was *made*, from
    when on it counts no longer (*expires*), and when a peer last connected with it (*used*); None: never.
    """

    name: str
    role: str
    public: str
    made: float
    expires: float | None = None
    used: float | None = None

    @property
    def id(self) -> str:
        """The hash of the public key, which stands in the file's name."""
        return _short(self.public)

    def counts(self, wall: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or wall < self.expires


class Key(Struct, frozen=True):
    """The key of a client or a kernel, and the public key of the *broker* that it is for."""

    name: str
    role: str
    public: str
    secret: str
    broker: str
    path: Path

    def __repr__(self) -> str:  # no secret in a traceback
        return f"<Key of {self.name}, {self.role}: {self.path}>"


class KeyPair(Struct, frozen=True):
    """A CURVE pair, in the 40 letters of Z85 each."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"<Pair {self.public}>"


def check_name(name: str) -> str:
    """Return *name* if it can be charged. Raises InvalidRequest.

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
    """The nearest name that `check_name` accepts."""
    return re.sub(r"[^A-Za-z0-9._@+-]", "_", name).lstrip("._@+-")[:64] or "somebody"


# -- files -----------------------------------------------------------------------------------------


def read_private(file: Path) -> dict[str, Any]:
    """The fields of a key file. Raises Refused if another user could have read or changed it, or if it is no key file.

    The file is opened before its mode is checked, so no one can exchange it in between.
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
    if not isinstance(found, dict) or found.get("version") != KEY_FILE_VERSION:
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
            f"`chmod {mode} {path}`, and if another user may have read a secret key there, make a new one"
        )


def write_private(file: Path, fields: dict[str, Any]) -> None:
    """Write a new file of mode 0600, whole or not at all. Raises FileExistsError, OSError."""
    descriptor, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as out:
            json.dump({"version": KEY_FILE_VERSION, **fields}, out, indent=2)
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
    """The texts that are halves of pairs, in the form that ZeroMQ requires. Raises Refused."""
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
        #: problems with the folder and its files that were reported
        self._told: set[str] = set()
        self._known: dict[str, KeyEntry] = {}
        #: the keys that counted when `lost` was last called, and those that have connected since
        self._counted: dict[str, KeyEntry] = {}
        #: when peers last connected, by the ids of keys, and whether that is to be written
        self._used: dict[str, float] = {}
        self._changed = False
        self.audit = AuditLog(home)
        self._looked = float("-inf")
        #: the folder's time of change when it was read; None: it may have changed since
        self._read: int | None = None

    def __repr__(self) -> str:
        return f"<Keyring {self.folder}>"

    def pair(self) -> KeyPair:
        """The broker's own pair, made if there is none. Raises Refused."""
        file = self._open() / "broker.key"
        if not file.exists():
            with contextlib.suppress(FileExistsError):  # another process has just made it
                write_private(file, asdict(_new_pair()))
        return KeyPair(*_keys(file, read_private(file), "public", "secret"))

    def new(self, name: str, role: str, file: Path, seconds: float | None = None) -> Key:
        """Make a key, register it, and write it to *file* for its owner. *seconds*: the time that it counts; None: until
        it is revoked. Raises InvalidRequest, Refused.
        """
        check_name(name)
        broker, pair, made = self.pair().public, _new_pair(), time.time()
        entry = KeyEntry(name, role, pair.public, made, None if seconds is None else made + seconds)
        key = Key(name, role, pair.public, pair.secret, broker, file)
        registered = self._open() / f"{name}.{role}.{_short(pair.public)}"
        fields = {n: v for n, v in asdict(entry).items() if n != "used"}
        write_private(registered, fields)  # first: every key file that exists is a registered key
        try:
            write_private(file, {n: v for n, v in asdict(key).items() if n != "path"})
        except OSError as error:
            registered.unlink()
            if isinstance(error, FileExistsError):
                raise Refused(f"{file} exists already: name another file with -o") from None
            raise Refused(f"the key cannot be written to {file}: {(error.strerror or '').lower()}") from error
        self.audit.write(f"made {role} {name} {entry.id}")
        return key

    def named(self, what: str) -> list[KeyEntry]:
        """The keys of a name, or the key of a file or with a public key that begins so. Raises Refused if there is none."""
        entries = self.entries()
        found = [e for e in entries if e.name == what]
        if not found and Path(what).is_file():
            public = read_key(Path(what)).public
            found = [e for e in entries if e.public == public]
        if not found and len(what) >= 8:
            found = [e for e in entries if e.public.startswith(what)]
        if not found:
            raise Refused(
                f"no key that is registered in {self.folder} is of {what!r}: `park keys list` shows them"
            )
        return found

    def revoke(self, entry: KeyEntry) -> None:
        """Take back a key: it opens nothing from now on, and the broker cuts its connections. Raises Refused."""
        try:
            (self._open() / f"{entry.name}.{entry.role}.{entry.id}").unlink()
        except OSError as error:
            raise Refused(f"the key cannot be removed: {(error.strerror or '').lower()}") from error
        own = self.folder / f"own{KEY_SUFFIX}"
        if own.exists() and read_key(own).public == entry.public:
            own.unlink()
        self.audit.write(f"revoked {entry.role} {entry.name} {entry.id}")

    def own(self, name: str) -> Path:
        """The file with the key of the broker's own user, made if there is none."""
        file = self._open() / f"own{KEY_SUFFIX}"
        if not file.exists():
            self.new(plain_name(name), CLIENT, file)
        return file

    def entries(self) -> list[KeyEntry]:
        """All keys that are registered, by name. Raises Refused for files that others could have changed."""
        used = self._read_used()
        found = [self._entry(file) for file in self._files()]
        return [replace(entry, used=used.get(entry.id)) for entry in found]

    def find(self, public: str, now: float) -> KeyEntry | None:
        """The entry of the key *public*, at monotonic time *now* (seconds); None: it is not registered, or has expired.

        The folder is read at most once a second, however often peers ask, so a new key counts after at most a second, and
        a revoked one no longer.
        """
        self._rescan(now)
        entry = self._known.get(public)
        if entry is None or not entry.counts(time.time()):
            return None
        self._counted[public] = entry
        return entry

    def lost(self, now: float) -> list[KeyEntry]:
        """The keys that have counted and do so no longer: they were revoked, or have expired."""
        self._rescan(now)
        wall = time.time()
        counted = {public: entry for public, entry in self._known.items() if entry.counts(wall)}
        lost = [entry for public, entry in self._counted.items() if public not in counted]
        self._counted = counted
        return lost

    def use(self, entry: KeyEntry) -> None:
        """A peer has connected with this key."""
        self._used[entry.id] = time.time()
        self._changed = True

    def write_used(self) -> None:
        """Write down when keys were used."""
        if self._changed:
            self._changed = False
            used = self._read_used() | self._used
            known = {entry.id for entry in self._known.values()}
            part = self.folder / f"{_USED_FILE}.part"
            with contextlib.suppress(OSError):
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "w") as out:
                    json.dump({id: at for id, at in used.items() if id in known}, out)
                part.replace(self.folder / _USED_FILE)

    def _read_used(self) -> dict[str, float]:
        try:
            found = json.loads((self.folder / _USED_FILE).read_bytes())
            return {str(id): float(at) for id, at in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _rescan(self, now: float) -> None:
        """Read the folder again if it has changed, at most once a second."""
        if now < self._looked + RESCAN_SECONDS:
            return
        self._looked = now
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed != self._read:
                self._read = changed if time.time_ns() - changed > _COARSE_NANOSECONDS else None
                self._known = {e.public: e for e in self._good()}
        except (OSError, Refused) as error:  # known keys still count
            self._tell(f"no new key counts: {error}")

    def _good(self) -> Iterable[KeyEntry]:
        """The valid entries. Each invalid one is reported once, and does not count."""
        for file in self._files():
            try:
                yield self._entry(file)
            except Refused as error:
                self._tell(f"this key does not count: {error}")

    def _tell(self, text: str) -> None:
        """Report a problem once, on the broker's terminal and in its log."""
        if text not in self._told:
            self._told.add(text)
            tell(f"park-broker: {text}", "warning")

    def _files(self) -> list[Path]:
        return sorted(f for f in self._open().iterdir() if f.suffix != KEY_SUFFIX and f.name[0] != ".")

    def _entry(self, file: Path) -> KeyEntry:
        found = read_private(file)
        name, role = _texts(file, found, "name", "role")
        (public,) = _keys(file, found, "public")
        made, expires = found.get("made"), found.get("expires")
        is_time = expires is None or isinstance(expires, float)
        if not _NAME.fullmatch(name) or role not in ROLES or not isinstance(made, float) or not is_time:
            raise Refused(f"{file} is no entry of a key: {name!r} as a {role!r}, made {made!r}")
        return KeyEntry(name, role, public, made, expires)

    def _open(self) -> Path:
        """The folder, of mode 0700."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"{self.folder} cannot be made: {(error.strerror or '').lower()}") from error
        _check_private(self.folder, self.folder.stat(), "700")
        return self.folder


def _short(public: str) -> str:
    """The hash of a public key, which unlike the key itself can be part of a file name."""
    return hashlib.blake2b(public.encode(), digest_size=5).hexdigest()


def _new_pair() -> KeyPair:
    from park.net.curve import new_pair

    return KeyPair(*new_pair())


# -- the other side --------------------------------------------------------------------------------


def key_folder(address: str) -> Path:
    """The folder of the keys for a broker that is known only by its address.

    >>> key_folder("tcp://head:7275").name, key_folder("tcp://HEAD.:7275").name
    ('head_7275', 'head_7275')
    """
    config = os.environ.get("XDG_CONFIG_HOME")
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    place = Path(config) if config else Path.home() / ".config"
    return place / "park" / "keys" / f"{plain_host(host)}_{port}"


def key_files(address: str) -> list[Path]:
    """The key files for the broker at *address*, also where they are filed under another name of its host."""
    folder = key_folder(address)
    if files := sorted(folder.glob(f"*{KEY_SUFFIX}")):
        return files
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    filed = {
        f.name.removesuffix(f"_{port}"): f for f in sorted(folder.parent.glob(f"*_{port}")) if f.is_dir()
    }
    spelled = [name for name in filed if plain_host(name) == plain_host(host)]
    names = spelled or same_host(host, filed)
    return [file for name in names for file in sorted(filed[name].glob(f"*{KEY_SUFFIX}"))]


def find_key(
    address: str,
    roles: tuple[str, ...],
    user: str | None,
    tag: str,
    token: str | None = None,
    own: Path | None = None,
) -> Key:
    """The key for the broker at *address* with one of these *roles*: from the address's folder, or the file *own*.

    *user* and *token* (a public key or its first letters, or a secret key) select one. Without them the only key is
    taken, else the key of the user tag *tag*. Raises NoBroker where there is no key, InvalidRequest for a user without a
    key, Refused for a token that matches no key, and for a key that another user could have read.
    """
    folder = key_folder(address)
    files = [*([own] if own is not None else ()), *key_files(address)]
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
    """The one of *keys* that matches the *token*. Raises Refused."""
    chosen = [key for key in keys if token and (key.public.startswith(token) or key.secret == token)]
    if len(chosen) != 1:
        raise Refused(
            f"the token fits {len(chosen) or 'none'} of the keys in {folder}: {_begins(keys)}. A token is a public key, as "
            "`park keys list` shows it on the broker's machine, or its first letters, or the secret key, or the path of a "
            "key file"
        )
    return chosen[0]


def _begins(keys: list[Key]) -> str:
    """The first letters of each key, and its name."""
    return ", ".join(f"{key.public[:8]}... of {key.name}" for key in keys)

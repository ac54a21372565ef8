"""What a unit needs of a kernel, and what kernels announce: who may run what, and the words when nobody may.

Jobs with the same needs, and kernels with the same profile, are many: each pair is compared once.
"""

from __future__ import annotations

import enum
import functools

from msgspec import Struct

from park.errors import InvalidRequest
from park.wire.messages import KernelHello, Submit

#: More needs, and longer ones, than any job has.
MAX_NEEDS = 32
MAX_TEXT = 200


class Needs(Struct, frozen=True, gc=False, cache_hash=True):
    """What each unit of a job needs."""

    #: Python's minor version, as "3.11"
    python: str = ""
    #: slots at once
    cpus: int = 1
    #: bytes
    memory: int = 0
    labels: tuple[str, ...] = ()
    #: (package, versions), as ("bumps", ">=1.0")
    packages: tuple[tuple[str, str], ...] = ()


class Kind(enum.IntEnum):
    """What is known of code: whether it makes maps, so that its processes stay while it waits for them."""

    PLAIN = 0
    UNKNOWN = 1
    DRIVER = 2


class Door(Struct, frozen=True, gc=False, eq=False):
    """Through which units of a job are dealt. Kernels that are full of drivers look through some of them only.

    Jobs with the same needs share their doors (`park.core.vacancies`): each is equal to itself only.
    """

    needs: Needs
    kind: Kind


class Profile(Struct, frozen=True, gc=False, cache_hash=True):
    """What a kernel has, and for whom."""

    python: str = ""
    slots: int = 1
    #: bytes; 0: unknown
    memory: int = 0
    labels: tuple[str, ...] = ()
    packages: tuple[tuple[str, str], ...] = ()
    #: this owner's jobs come first; "": nobody's
    owner: str = ""
    #: it runs no others
    only: bool = False


def profile_of(m: KernelHello) -> Profile:
    """What a kernel's hello announces."""
    packages = tuple(sorted((_canonical(name), version) for name, version in m.packages.items()))
    return Profile(m.python, m.slots, m.memory, tuple(sorted(set(m.labels))), packages, m.owner, m.only)


def needs_of(m: Submit) -> Needs:
    """What a request asks for; `check_needs` has seen it."""
    packages = tuple(sorted((_canonical(name), versions) for name, versions in m.requires.items()))
    return Needs(m.python, m.cpus, m.memory, tuple(sorted(set(m.labels))), packages)


def check_needs(m: Submit) -> None:
    """Raises InvalidRequest, in words, where the needs of a request make no sense."""
    if m.cpus < 1:
        raise InvalidRequest(f"cpus={m.cpus} is not a whole number from 1")
    if m.memory < 0:
        raise InvalidRequest(f"memory={m.memory} is not a number of bytes")
    if max(len(m.labels), len(m.requires)) > MAX_NEEDS:
        raise InvalidRequest(f"a request has at most {MAX_NEEDS} labels and {MAX_NEEDS} required packages")
    for label in m.labels:
        if not isinstance(label, str) or not 0 < len(label) <= MAX_TEXT or not label.isprintable():
            raise InvalidRequest(
                f"the label {label!r:.80} is not a printable text of 1 to {MAX_TEXT} characters"
            )
    for name, versions in m.requires.items():
        if not name or len(name) + len(versions) > MAX_TEXT:
            raise InvalidRequest(f"requires names no package: {name!r:.80}, {versions!r:.80}")
        _specifier(versions)


@functools.lru_cache(maxsize=1024)
def _specifier(versions: str) -> object:
    """What `packaging` makes of a text of versions; a bare version means that one. Raises InvalidRequest."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    text = versions.strip()
    try:
        return SpecifierSet(f"=={text}" if text[:1].isdigit() else text, prereleases=True)
    except InvalidSpecifier:
        raise InvalidRequest(
            f"{versions!r} is no set of versions: write '1.2', '>=1.2', '>=1.2,<2' or '' for any"
        ) from None


@functools.lru_cache(maxsize=65536)
def unmet(needs: Needs, profile: Profile) -> str:
    """What a kernel lacks, as words that follow "no kernel ..."; empty if it may run the units."""
    if needs.python and needs.python != profile.python:
        return f"runs Python {needs.python}"
    if needs.cpus > profile.slots:
        return f"has {needs.cpus} slots"
    if needs.memory > profile.memory:
        return f"has {needs.memory / 1e9:.3g} GB of memory"
    for label in needs.labels:
        if label not in profile.labels:
            return f"has the label {label!r}"
    if needs.packages:
        has = dict(profile.packages)
        for name, versions in needs.packages:
            if name not in has:
                return f"has the package {name}"
            if not _suits(versions, has[name]):
                return f"has {name} {versions}"
    return ""


def _suits(versions: str, version: str) -> bool:
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    specifier = _specifier(versions)
    assert isinstance(specifier, SpecifierSet)
    try:
        return specifier.contains(version)
    except InvalidVersion:
        return not versions.strip()


def _canonical(name: str) -> str:
    """A package's name as all its spellings have it (PEP 503)."""
    return "-".join(filter(None, name.lower().replace("_", "-").replace(".", "-").split("-")))

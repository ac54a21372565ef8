"""Requirements of units and profiles of kernels: which kernel may run a unit, and the words when none may.

Jobs with the same needs, and kernels with the same profile, are many: each pair is compared once.
"""

from __future__ import annotations

import enum
import functools

from msgspec import Struct

from park.broker.accounts.budgets import MAX_TEXT_CHARS
from park.errors import InvalidRequest
from park.model import environment_name, gpu_count
from park.wire.messages import KernelHello, Submit

#: Labels, and required packages, of one job at most.
MAX_NEEDS = 32


class Needs(Struct, frozen=True, gc=False, cache_hash=True):
    """The requirements of each unit of a job."""

    #: Python's minor version, as "3.11"
    python: str = ""
    #: slots at once
    cpus: int = 1
    #: bytes
    memory: int = 0
    labels: tuple[str, ...] = ()
    #: (package, versions), as ("bumps", ">=1.0")
    packages: tuple[tuple[str, str], ...] = ()
    #: the private job whose kernels run it: itself, or another one; 0: any kernel will do
    job: int = 0
    #: whole GPUs, or a part of one
    gpus: float = 0.0
    #: the named environment of the kernel in which the units run; "": its default one
    environment: str = ""

    @property
    def plain(self) -> bool:
        """Whether a unit takes one slot, and neither memory nor GPUs that are counted."""
        return self.cpus == 1 and not (self.memory or self.gpus)


class Kind(enum.IntEnum):
    """The kind of code. Code that makes maps keeps its process while it waits for them."""

    PLAIN = 0
    UNKNOWN = 1
    DRIVER = 2


class WorkClass(Struct, frozen=True, gc=False, eq=False):
    """Units with one set of needs and one kind of code. A kernel that is full of drivers serves some work classes only.

    Jobs with the same needs share their work classes (`park.broker.scheduler.free_slots`): each is equal to itself only.
    """

    needs: Needs
    kind: Kind


class KernelProfile(Struct, frozen=True, gc=False, cache_hash=True):
    """The resources of a kernel, and the owner that it serves."""

    python: str = ""
    slots: int = 1
    #: bytes; 0: unknown
    memory: int = 0
    labels: tuple[str, ...] = ()
    #: installed packages and their versions, as the kernel spells them
    packages: tuple[tuple[str, str], ...] = ()
    #: the owner whose jobs come first; "": no owner has precedence
    owner: str = ""
    #: the kernel runs only the jobs of `owner`
    only: bool = False
    #: the private job that it serves alone; 0: it serves others
    job: int = 0
    gpus: int = 0
    #: its named environments, with their minor versions of Python
    environments: tuple[tuple[str, str], ...] = ()

    def serves(self, owner: str) -> bool:
        """Whether the kernel runs jobs of *owner*."""
        return not self.only or self.owner == owner


def profile_of(m: KernelHello) -> KernelProfile:
    """The profile that a kernel's hello announces."""
    packages = tuple(sorted(m.packages.items()))
    labels = tuple(sorted(set(m.labels)))
    environments = tuple(sorted(m.environments.items()))
    return KernelProfile(
        m.python, m.slots, m.memory, labels, packages, m.owner, m.only, m.job, m.gpus, environments
    )


def needs_of(m: Submit, job: int) -> Needs:
    """The needs of a request that `check_needs` has accepted; *job*: the number that it got."""
    packages = tuple(sorted((_canonical(name), versions) for name, versions in m.requires.items()))
    labels = tuple(sorted(set(m.labels)))
    alone = job if m.private else m.shares
    return Needs(m.python, m.cpus, m.memory, labels, packages, alone, m.gpus, m.environment)


def check_needs(m: Submit) -> None:
    """Raises InvalidRequest, in words, where the needs of a request make no sense."""
    if m.cpus < 1:
        raise InvalidRequest(f"cpus={m.cpus} is not a whole number from 1")
    gpu_count(m.gpus)
    environment_name(m.environment)
    if m.environment and m.requires:
        raise InvalidRequest(f"environment={m.environment!r} stands for its packages: leave out requires")
    if m.memory < 0:
        raise InvalidRequest(f"memory={m.memory} is not a number of bytes")
    if max(len(m.labels), len(m.requires)) > MAX_NEEDS:
        raise InvalidRequest(f"a request has at most {MAX_NEEDS} labels and {MAX_NEEDS} required packages")
    for label in m.labels:
        if not isinstance(label, str) or not 0 < len(label) <= MAX_TEXT_CHARS or not label.isprintable():
            raise InvalidRequest(
                f"the label {label!r:.80} is not a printable text of 1 to {MAX_TEXT_CHARS} characters"
            )
    for name, versions in m.requires.items():
        if not name or len(name) + len(versions) > MAX_TEXT_CHARS:
            raise InvalidRequest(f"requires names no package: {name!r:.80}, {versions!r:.80}")
        _specifier(versions)


@functools.lru_cache(maxsize=1024)
def _specifier(versions: str) -> object:
    """The specifier for a text of versions; a bare version means exactly this version. Raises InvalidRequest."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    text = versions.strip()
    try:
        return SpecifierSet(f"=={text}" if text[:1].isdigit() else text, prereleases=True)
    except InvalidSpecifier:
        raise InvalidRequest(
            f"{versions!r} is no set of versions: write '1.2', '>=1.2', '>=1.2,<2' or '' for any"
        ) from None


@functools.lru_cache(maxsize=512)  # each entry may hold a profile of 64 KB
def unmet(needs: Needs, profile: KernelProfile) -> str:
    """The first missing resource of a kernel, as words after "no kernel ..."; "" if it may run the units."""
    if needs.job != profile.job:
        return f"serves job {needs.job} alone" if needs.job else f"serves more than job {profile.job}"
    if needs.environment:
        python = dict(profile.environments).get(needs.environment, "")
        if not python:
            return f"has the environment {needs.environment}"
        if needs.python and needs.python != python:
            return f"has the environment {needs.environment} with Python {needs.python}"
    elif needs.python and needs.python != profile.python:
        return f"runs Python {needs.python}"
    if needs.cpus > profile.slots:
        return f"has {needs.cpus} slots"
    if needs.gpus > profile.gpus:
        return "has a GPU" if needs.gpus <= 1 else f"has {needs.gpus:.0f} GPUs"
    if needs.memory > profile.memory:
        return f"has {needs.memory / 1e9:.3g} GB of memory"
    for label in needs.labels:
        if label not in profile.labels:
            return f"has the label {label!r}"
    if needs.packages:
        has = _versions(profile.packages)
        for name, versions in needs.packages:
            if name not in has:
                return f"has the package {name}"
            if not suits(versions, has[name]):
                return f"has {name} {versions}"
    return ""


def suits(versions: str, version: str) -> bool:
    """Whether a version is one of *versions*; a version that cannot be read suits no requirement."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion

    specifier = _specifier(versions)
    assert isinstance(specifier, SpecifierSet)
    try:
        return specifier.contains(version)
    except (InvalidVersion, ValueError):  # ValueError: a number has more digits than Python converts
        return not versions.strip()


@functools.lru_cache(maxsize=32)  # thousands of kernels announce the same packages
def _versions(packages: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The versions of packages by the one name for all spellings."""
    return {_canonical(name): version for name, version in packages}


@functools.lru_cache(maxsize=1 << 14)
def _canonical(name: str) -> str:
    """The one name for all spellings of a package's name."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)

"""The packages that PARK depends on, by its own metadata, and whether the installed versions meet it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Dependency(NamedTuple):
    """A package with the *versions* that will do; *installed*: the version here, or "". *extra*: "" if always needed."""

    name: str
    versions: str
    extra: str
    installed: str
    met: bool

    @property
    def state(self) -> str:
        """The package and its version, and what is wrong with it."""
        if self.met:
            return f"{self.name} {self.installed}"
        if not self.installed:
            return f"{self.name} is not installed"
        return f"{self.name} {self.installed} does not meet {self.versions}"


def dependencies(
    requirements: Iterable[str], version_of: Callable[[str], str] = version
) -> Iterator[Dependency]:
    """The dependencies that a package's metadata names as *requirements*; one that two extras need comes once.

    >>> def version_of(name: str) -> str:
    ...     return {"click": "7.0", "numpy": "2.1"}[name]
    >>> needs = ["click>=8.1", "numpy>=1.26; extra == 'fit'", "park-fit[fit]; extra == 'all'"]
    >>> [(d.state, d.extra) for d in dependencies(needs, version_of)]
    [('click 7.0 does not meet >=8.1', ''), ('numpy 2.1', 'fit')]
    """
    from packaging.requirements import Requirement

    seen: set[str] = set()
    for text in requirements:
        need = Requirement(text)
        extra = _extra_of(need.marker)
        applies = need.marker is None or need.marker.evaluate({"extra": extra})
        if not applies or need.extras or need.name in seen:  # extras: a list of other extras of PARK itself
            continue
        seen.add(need.name)
        try:
            installed = version_of(need.name)
        except PackageNotFoundError:
            installed = ""
        met = bool(installed) and need.specifier.contains(installed, prereleases=True)
        yield Dependency(need.name, str(need.specifier), extra, installed, met)


def _extra_of(marker: object) -> str:
    """The extra that a marker such as ``extra == "fit"`` names, or ""."""
    _, found, rest = str(marker).partition("extra == ")
    return rest.split('"')[1] if found else ""


def install(needs: Iterable[Dependency]) -> str:
    """The command that installs them."""
    return " ".join(["pip install", *(f"'{need.name}{need.versions}'" for need in needs)])

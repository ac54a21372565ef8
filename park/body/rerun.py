"""Rerunning one unit of a job in this process, under a debugger for example: with the same inputs and random numbers.

The body's requests to the fabric are served here too, one unit after the other: maps run in this process, messages are
printed, no slot is lent, and nothing is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from park.body import environment, payload, seeds
from park.body.generators import Generators, watch
from park.errors import UnitError
from park.model import Request
from park.wire import codec


class RerunHost:
    """The `park.body.environment.Host` of a unit that runs in this process."""

    def __init__(self, job: int, seed: int, fetch: Callable[[int], Any]) -> None:
        self.job = job
        self.seed = seed
        self.should_stop = False
        self._maps = 0
        self._files: dict[str, bytes] = {}
        self._functions: dict[bytes, Any] = {}
        self.fetch = fetch

    def code(self, function: Any) -> tuple[bytes, bytes]:
        blob = payload.dumps(function, "the function")
        return payload.code_hash(blob), blob

    def map(self, code: tuple[bytes, bytes], units: Iterable[Any]) -> list[Any]:
        seed = seeds.mix(self.seed, self._maps)
        self._maps += 1
        function, blob = code
        if function not in self._functions:
            self._functions[function] = payload.loads(blob)
        body = self._functions[function]
        inner = RerunHost(self.job, seeds.preparation_seed(None, function), self.fetch)
        generators = Generators(keep=True)
        environment.enter(inner)
        try:
            generators.seed(inner.seed)
            if hasattr(body, "prepare"):
                body.prepare(environment.environment())
            results = []
            for unit, value in enumerate(units):
                inner.seed, inner._maps = seeds.mix(seed, unit), 0
                generators.seed(inner.seed)
                results.append(body.run(value) if hasattr(body, "run") else body(value))
            if hasattr(body, "cleanup"):
                body.cleanup(environment.environment())
            return results
        finally:
            generators.restore()
            environment.enter(self)

    def publish(self, kind: str, message: Any) -> None:
        print(f"{kind}: {message}", file=sys.stderr)

    def remark(self, text: str) -> None:
        print(f"remark: {text}", file=sys.stderr)

    def ready(self) -> None:
        """Does nothing: no control reaches this process."""

    should_checkpoint = False

    def checkpoint(self, state: Any, wait: float) -> bool:
        payload.dumps(state, "the state")
        return True

    def restore(self) -> Any:
        return None

    def file(self, how: str, name: str, data: bytes = b"") -> tuple[bool, bytes]:
        if how == "put":
            self._files[name] = data
        elif how == "drop":
            self._files.pop(name, None)
        elif how == "list":
            return False, codec.pack({n: len(d) for n, d in self._files.items()})
        return name in self._files, self._files.get(name, b"")


def rerun_unit(job: int, request: Request, unit: int | None, fetch: Callable[[int], Any]) -> Any:
    """The result of unit *unit* of *job*, computed here from its *request*. Raises the exception of the unit.

    *unit* is the number of an input, or None for a body that runs once. *fetch* returns the result of another job.
    """
    seed = (request.seed or 0) & (2**63 - 1)
    host = RerunHost(job, seeds.preparation_seed(seed, b""), fetch)
    watch()
    generators = Generators(keep=False)
    environment.enter(host)
    argv = sys.argv
    try:
        sys.argv = list(request.argv or environment.DEFAULT_ARGV)
        code = payload.dumps(request.body)
        generators.seed(host.seed)
        body = payload.loads(code)  # references become values here
        arguments = []
        if request.inputs is not None:
            arguments = [payload.loads(payload.dumps(list(request.inputs)[unit or 0]))]
        if hasattr(body, "prepare"):
            body.prepare(environment.environment())
        host.seed = seeds.mix(seed, unit or 0)
        generators.seed(host.seed)
        result = body.run(*arguments) if hasattr(body, "run") else body(*arguments)
        if hasattr(body, "cleanup"):
            body.cleanup(environment.environment())
        return result
    finally:
        generators.restore()
        sys.argv = argv
        environment.enter(None)


def first_failed(results: list[Any] | None) -> int | None:
    """The number of the first failed unit among *results*; None: none failed."""
    for unit, result in enumerate(results or ()):
        if isinstance(result, UnitError):
            return unit
    return None

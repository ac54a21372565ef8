"""Running one unit of a job in this process, to look at what it does: the same inputs, the same random numbers.

What its body asks of the fabric is done here too, one unit after the other: maps run in this process, messages are
printed, nothing is lent or kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from park import payload
from park.errors import UnitError
from park.kernel import env
from park.kernel.generators import Generators, watch
from park.model import Request
from park.wire import codec


class Here:
    """The `env.Host` of a unit that runs in this process."""

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
        seed = env.mix(self.seed, self._maps)
        self._maps += 1
        function, blob = code
        if function not in self._functions:
            self._functions[function] = payload.loads(blob)
        body = self._functions[function]
        inner = Here(self.job, env.preparing(None, function), self.fetch)
        generators = Generators(keep=True)
        env.enter(inner)
        try:
            generators.seed(inner.seed)
            if hasattr(body, "prepare"):
                body.prepare(env.environment())
            results = []
            for unit, value in enumerate(units):
                inner.seed, inner._maps = env.mix(seed, unit), 0
                generators.seed(inner.seed)
                results.append(body.run(value) if hasattr(body, "run") else body(value))
            if hasattr(body, "cleanup"):
                body.cleanup(env.environment())
            return results
        finally:
            generators.restore()
            env.enter(self)

    def publish(self, kind: str, message: Any) -> None:
        print(f"{kind}: {message}", file=sys.stderr)

    def remark(self, text: str) -> None:
        print(f"remark: {text}", file=sys.stderr)

    def ready(self) -> None:
        """Nobody asks for anything here."""

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


def run_here(job: int, request: Request, unit: int | None, fetch: Callable[[int], Any]) -> Any:
    """What unit *unit* of *job*, which *request* makes again, returns; it raises what the unit raises.

    *unit* is the number of an input, or None for a body that runs once. *fetch* gets the result of another job.
    """
    seed = (request.seed or 0) & (2**63 - 1)
    host = Here(job, env.preparing(seed, b""), fetch)
    watch()
    generators = Generators(keep=False)
    env.enter(host)
    argv = sys.argv
    try:
        sys.argv = list(request.argv or env.ARGV)
        code = payload.dumps(request.body)
        generators.seed(host.seed)
        body = payload.loads(code)  # references become values here
        arguments = []
        if request.inputs is not None:
            arguments = [payload.loads(payload.dumps(list(request.inputs)[unit or 0]))]
        if hasattr(body, "prepare"):
            body.prepare(env.environment())
        host.seed = env.mix(seed, unit or 0)
        generators.seed(host.seed)
        result = body.run(*arguments) if hasattr(body, "run") else body(*arguments)
        if hasattr(body, "cleanup"):
            body.cleanup(env.environment())
        return result
    finally:
        generators.restore()
        sys.argv = argv
        env.enter(None)


def first_failed(results: list[Any] | None) -> int | None:
    """The first unit among *results* that failed."""
    for unit, result in enumerate(results or ()):
        if isinstance(result, UnitError):
            return unit
    return None

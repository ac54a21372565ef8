"""What a fit found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from park.errors import InvalidRequest
from park.fit.curve import Curve
from park.fit.data import Array
from park.payload import loads
from park.util import html

if TYPE_CHECKING:
    from park.fit.plots import Plots


@dataclass(frozen=True, slots=True)
class Estimate:
    """One parameter of a result. *kind* is "fitted", "computed" (an expression) or "fixed"."""

    name: str
    value: float
    stderr: float
    kind: str = "fitted"

    def __str__(self) -> str:
        return f"{self.name} = {uncertain(self.value, self.stderr)}"


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """The result of a `Fit` or an `Uncertainty`.

    *names* are the k fitted parameters, *x* the best point, *dx* its standard errors, *cov* their
    covariance (k, k). *nllf* is the negative log likelihood at *x*. *chisq* is the quantity that *statistic* names:
    for data with dy the reduced chi-squared. *dof* counts the degrees of freedom. *draws* (n, k) is a sample of the
    posterior, None after an optimizer; with draws *dx* is half of the 68 % interval. The same fit with *seed* gives
    the same result. *convergence* has one row a step: best nllf so far, and for a population its minimum, 20 %,
    median, 80 % and maximum.

    *converged* is False where an independent test at the end failed: then *message* says why, and neither values
    nor errors are to be trusted. *at_limit* names the parameters, computed ones too, that ended at a limit or on a
    constraint. After `Uncertainty`, *rhat* and *ess* (k,) are the split R-hat and the effective sample size of each
    fitted parameter.

    ``result["b1"].value`` and ``.stderr``: any parameter, computed and fixed ones too. After
    `Uncertainty` the value is the median.
    """

    names: tuple[str, ...]
    x: Array
    dx: Array
    cov: Array
    chisq: float
    nllf: float
    dof: int
    method: str
    seed: int
    low: Array
    high: Array
    draws: Array | None = None
    #: computed and fixed parameters
    others: tuple[Estimate, ...] = ()
    curves: tuple[Curve, ...] = ()
    #: files that models of bumps have written, compressed, by what follows the base name: ``-1-refl.dat``
    files: dict[str, bytes] = field(default_factory=dict)
    convergence: Array = field(default_factory=lambda: np.empty((0, 1)))
    steps: int = 0
    #: ended before the method had finished, by `stop`
    stopped: bool = False
    #: the independent test at the end of every fit has passed
    converged: bool = True
    #: sentences about this result; empty where there is nothing to say
    message: str = ""
    #: names of parameters that ended at a limit or on a constraint
    at_limit: tuple[str, ...] = ()
    #: the quantity that *chisq* is
    statistic: str = "reduced chi-squared"
    #: of parameters that have one, by name
    units: dict[str, str] = field(default_factory=dict)
    #: of each fitted parameter, shape (k,); None after an optimizer
    rhat: Array | None = None
    ess: Array | None = None
    #: degrees of freedom of each error by Student's distribution (k,): finite where the size of dy is estimated
    student: Array | None = None
    #: bumps' ``MCMCDraw``, pickled: a client that does not save it need not load bumps
    pickled_state: bytes | None = None

    @cached_property
    def parameters(self) -> dict[str, Estimate]:
        """All parameters by name, the fitted ones first."""
        values = self.x if self.draws is None else np.median(self.draws, axis=0)
        rows = zip(self.names, values, self.dx, strict=True)
        fitted = {name: Estimate(name, float(value), float(error)) for name, value, error in rows}
        return fitted | {estimate.name: estimate for estimate in self.others}

    def __getitem__(self, name: str) -> Estimate:
        try:
            return self.parameters[name]
        except KeyError:
            raise KeyError(f"no parameter {name!r}; there are {', '.join(self.parameters)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def intervals(self, p: float = 0.68) -> dict[str, tuple[float, float]]:
        """The central interval of each fitted parameter that holds it with probability *p*.

        From the draws where there are some, else from the standard errors: of a normal distribution, or of
        Student's where the size of the errors is estimated from the scatter.
        """
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p < 1:
            raise InvalidRequest(f"intervals({p!r}): a probability between 0 and 1 is needed")
        if self.draws is not None:
            low, high = np.quantile(self.draws, ((1 - p) / 2, (1 + p) / 2), axis=0)
        else:
            half = _quantile((1 + p) / 2, self.student) * self.dx
            low, high = self.x - half, self.x + half
        return {name: (float(a), float(b)) for name, a, b in zip(self.names, low, high, strict=True)}

    def label(self, name: str) -> str:
        """A parameter with its unit, for people."""
        unit = self.units.get(name)
        return f"{name} ({unit})" if unit else name

    @property
    def state(self) -> Any:
        """The state of bumps' DREAM (``MCMCDraw``), None after an optimizer. Imports bumps."""
        return None if self.pickled_state is None else loads(self.pickled_state)

    @property
    def plot(self) -> Plots:
        """Pictures: ``fit()``, ``convergence()``, ``marginals()``, ``correlations()``. Needs matplotlib."""
        from park.fit.plots import Plots

        return Plots(self)

    def table(self) -> str:
        """The parameters with their errors and intervals, for people."""
        rows = self._rows()
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in (1, 2, 3)), row[4]]
            ).rstrip()
            for row in rows
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """The same: its heads, and a row for each parameter."""
        inner, outer = self.intervals(0.68), self.intervals(0.95)
        value = "value" if self.draws is None else "median"
        rows: list[tuple[str, ...]] = [("parameter", value, "68 % interval", "95 % interval", "")]
        for estimate in self.parameters.values():
            row = [self.label(estimate.name), uncertain(estimate.value, estimate.stderr)]
            if estimate.name in inner:
                a, b = inner[estimate.name], outer[estimate.name]
                row += [_interval(*a, estimate.stderr), _interval(*b, estimate.stderr)]
            else:
                row += [estimate.kind, ""]
            row.append("at limit" if estimate.name in self.at_limit else "")
            rows.append(tuple(row))
        return rows

    def __repr__(self) -> str:
        return "\n".join([f"<FitResult {self._head()}>", *self.remarks(), self.table()])

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        remarks = [html.paragraph(line, grave=not self.converged) for line in self.remarks()]
        heads, *rows = self._rows()
        return "".join([html.paragraph(self._head()), *remarks, html.table(heads, rows)])

    def _head(self) -> str:
        """The method, and how well the data are met."""
        what = f"{self.dof + len(self.names)} points, {self.dof} degrees of freedom"
        sample = "" if self.draws is None else f", {len(self.draws)} draws"
        stopped = ", stopped early: the errors are not to be trusted" if self.stopped else ""
        return f"{self.method}: {self.statistic} {self.chisq:.4g}, {what}{sample}{stopped}"

    def remarks(self) -> list[str]:
        """Lines about what may be wrong with this result, the gravest first; empty where nothing is."""
        if self.converged:
            return [self.message] if self.message else []
        return [f"NOT CONVERGED: {self.message}" if self.message else "NOT CONVERGED"]

    def remark(self) -> str:
        """The same in one line, for lists of jobs."""
        return "; ".join(self.remarks())

    def summary(self) -> dict[str, Any]:
        """The numbers as JSON takes them; nan and inf become None."""
        return {
            "method": self.method,
            "seed": self.seed,
            "chisq": _plain(self.chisq),
            "nllf": _plain(self.nllf),
            "dof": self.dof,
            "steps": self.steps,
            "stopped": self.stopped,
            "converged": self.converged,
            "message": self.message,
            "at_limit": list(self.at_limit),
            "statistic": self.statistic,
            "rhat": None if self.rhat is None else _plain(self.rhat.tolist()),
            "ess": None if self.ess is None else _plain(self.ess.tolist()),
            "names": list(self.names),
            "x": _plain(self.x.tolist()),
            "dx": _plain(self.dx.tolist()),
            "cov": _plain(self.cov.tolist()),
            "parameters": {
                e.name: {"value": _plain(e.value), "stderr": _plain(e.stderr), "kind": e.kind}
                | ({"unit": self.units[e.name]} if e.name in self.units else {})
                for e in self.parameters.values()
            },
            "intervals": {
                name: {"68": _plain(self.intervals(0.68)[name]), "95": _plain(self.intervals(0.95)[name])}
                for name in self.names
            },
        }

    def save(self, folder: str | Path, name: str = "fit") -> list[Path]:
        """Writes the result under bumps' file names and returns the paths.

        ``.par`` (name and value a line), ``.err`` (the table), ``.out`` (method, chisq, all values),
        ``.json`` (`summary`), ``-N.dat`` (x, y, dy, fit of part N), for images and large data ``-N.npz``; the files that
        models of bumps write themselves, such as refl1d's ``-N-refl.dat`` and ``-N-profile.dat``; after
        `Uncertainty` also ``-err.json``, ``-chain.mc.gz``, ``-point.mc.gz``, ``-stats.mc.gz``; and pictures
        where matplotlib is installed. Makes *folder* if need be. The numbers are written first; a warning
        names what could not be written after them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        base = folder / name
        written: list[Path] = []

        def write(suffix: str, text: str) -> None:
            path = Path(f"{base}{suffix}")
            path.write_text(text, encoding="utf-8")
            written.append(path)

        write(".par", "".join(f"{n} {v:.15g}\n" for n, v in zip(self.names, self.x, strict=True)))
        write(".err", "".join(f"{line}\n" for line in [*self.remarks(), self.table()]))
        write(".out", self._report())
        write(".json", json.dumps(self.summary(), indent=2) + "\n")
        from park.fit.saving import save_more

        return written + save_more(self, base)

    def _report(self) -> str:
        lines = [f"method {self.method}, seed {self.seed}, {self.steps} steps"]
        lines += self.remarks()
        lines.append(f"chisq={self.chisq:.6g}, nllf={self.nllf:.10g}, dof={self.dof}")
        if self.statistic != "reduced chi-squared":
            lines.append(f"chisq is the {self.statistic}")
        for e in self.parameters.values():
            within = ""
            if e.kind == "fitted":
                n = self.names.index(e.name)
                within = f" in [{self.low[n]:g}, {self.high[n]:g}]"
            if e.name in self.at_limit:
                within += ", at limit"
            lines.append(f"{e.name} = {e.value:.10g} {e.kind}{within}")
        return "\n".join(lines) + "\n"


def _quantile(p: float, dof: Array | None) -> Any:
    """The quantile *p* of Student's distribution with *dof* degrees of freedom each; infinite is the normal one."""
    normal = NormalDist().inv_cdf(p)
    if dof is None or np.isinf(dof).all():
        return normal
    from scipy.special import stdtrit

    finite = np.where(np.isfinite(dof), dof, 1e9)
    return np.where(np.isfinite(dof), stdtrit(finite, p), normal)


def widened(cov: Array, dof: Array | None) -> Array:
    """The covariance (k, k) of normal distributions with the 95 % intervals that Student's have."""
    factor = np.ones(len(cov)) * _quantile(0.975, dof) / _quantile(0.975, None)
    result: Array = cov * np.outer(factor, factor)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return float(value) if np.isfinite(value) else None


def _digits(error: float) -> int | None:
    """How many decimals show two digits of an error; None where it says nothing."""
    return None if not np.isfinite(error) or error <= 0 else 1 - int(np.floor(np.log10(error)))


def uncertain(value: float, error: float) -> str:
    """A value with its error in its last two digits.

    >>> uncertain(238.94213, 2.7070)
    '238.9(2.7)'
    >>> uncertain(5.5015643e-4, 7.2668e-6)
    '5.502(73)e-4'
    """
    decimals = _digits(error)
    if decimals is None or not np.isfinite(value):
        return f"{value:.6g}" if error == 0 else f"{value:.6g}({error:g})"
    power = int(np.floor(np.log10(max(abs(value), error))))
    if -4 < power < 7 and decimals > -6:
        power = 0
    decimals += power
    scaled, small = value / 10.0**power, error / 10.0**power
    tail = f"e{power}" if power else ""
    if decimals <= 0:
        return f"{scaled:.0f}({small:.0f}){tail}"
    inside = f"{small:.{decimals}f}" if small >= 0.995 else f"{round(small * 10**decimals)}"
    return f"{scaled:.{decimals}f}({inside}){tail}"


def _interval(low: float, high: float, error: float) -> str:
    decimals = _digits(error)
    if decimals is None or not (np.isfinite(low) and np.isfinite(high)):
        return f"[{low:.6g}, {high:.6g}]"
    power = int(np.floor(np.log10(max(abs(low), abs(high), error))))
    if -4 < power < 7:
        return f"[{low:.{max(decimals, 0)}f}, {high:.{max(decimals, 0)}f}]"
    digits = max(decimals + power, 1)
    return f"[{low:.{digits}e}, {high:.{digits}e}]"

"""The result of a fit: values, standard errors, covariance, intervals, and how well the model describes the data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from park.body.payload import loads
from park.errors import InvalidRequest
from park.fit.arrays import Array
from park.fit.curves.curve import Curve
from park.fit.numerics.intervals import error_decimals, format_value, quantile
from park.util import html

if TYPE_CHECKING:
    from park.fit.plotting.plots import Plots


#: Starts that end this near the lowest nllf have found the same minimum.
_SAME_NLLF = 0.05


@dataclass(frozen=True, slots=True)
class Estimate:
    """Value and standard error of one parameter. *kind* is "fitted", "computed" (by an expression) or "fixed"."""

    name: str
    value: float
    stderr: float
    kind: str = "fitted"

    def __str__(self) -> str:
        return f"{self.name} = {format_value(self.value, self.stderr)}"


@dataclass(frozen=True, eq=False, repr=False)
class FitResult:
    """The result of a `Fit` or an `Uncertainty`.

    *names* are the k fitted parameters, *x* (k,) the best point, *dx* (k,) the standard errors, *cov* (k, k) the
    covariance; all are in the units of the parameters. *nllf* is the negative log likelihood at *x*. *chisq* is the
    figure that *statistic* names: for data with dy the reduced chi-squared. *dof* is the number of degrees of freedom.
    *draws* (n, k) is a sample of the posterior, or None after an optimiser; with draws *dx* is half the width of the
    68 % interval. The same fit with the same *seed* gives the same result. *convergence* has one row for each step: the
    lowest nllf so far, and for a population the minimum, the 20 % quantile, the median, the 80 % quantile and the
    maximum of its nllf.

    *converged* is False if the independent test of convergence at the end of the fit has failed. *message* then gives the
    reason, and values and errors are not reliable. *at_limit* names the fitted and computed parameters that ended at a
    limit or on a constraint. After a fit from several starts, *starts* (n, 1 + k) holds for each the nllf and the point
    where it ended, nan where the model failed. After `Uncertainty`, *rhat* and *ess* (k,) are the split R-hat and the
    effective sample size of each fitted parameter.

    ``result["b1"].value`` and ``result["b1"].stderr`` give any parameter, also a computed or fixed one. After `Uncertainty`
    the value is the median of the draws.

    A result has more than 20 attributes, one for each figure that a script may ask for.

    >>> import numpy as np
    >>> import park
    >>> from park.fit import Assembly, Fit, Model
    >>> x = np.linspace(0, 4, 20)
    >>> line = Model(lambda x, a, b: a * x + b, a=(0, 4), b=(-5, 5))
    >>> with park.local_service:
    ...     result = Fit(Assembly((line, (x, 2 * x + 1, 0.1)))).wait()
    >>> result.names, result.dof, result.converged
    (('a', 'b'), 18, True)
    >>> print(result["b"])
    b = 1.000(43)
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
    #: the computed and the fixed parameters
    others: tuple[Estimate, ...] = ()
    curves: tuple[Curve, ...] = ()
    #: files that bumps models have written, compressed, by the suffix of their names: ``-1-refl.dat``
    files: dict[str, bytes] = field(default_factory=dict)
    convergence: Array = field(default_factory=lambda: np.empty((0, 1)))
    steps: int = 0
    #: True if the job was stopped before the method had finished
    stopped: bool = False
    #: True if the test of convergence at the end has passed
    converged: bool = True
    #: warnings about this result, separated by semicolons; "" if there are none
    message: str = ""
    #: names of parameters that ended at a limit or on a constraint
    at_limit: tuple[str, ...] = ()
    #: the name of the figure in *chisq*
    statistic: str = "reduced chi-squared"
    #: the units of parameters that have one, by name
    units: dict[str, str] = field(default_factory=dict)
    #: split R-hat and effective sample size of each fitted parameter, shape (k,); None after an optimiser
    rhat: Array | None = None
    ess: Array | None = None
    #: degrees of freedom of each error in Student's t distribution (k,): infinite where dy is known
    student: Array | None = None
    #: bumps' ``MCMCDraw``, pickled, so that only a client that uses it loads bumps
    pickled_state: bytes | None = None
    #: nllf and point (k,) at the end of each start, shape (starts, 1 + k); None after a fit from one start
    starts: Array | None = None

    @cached_property
    def parameters(self) -> dict[str, Estimate]:
        """All parameters by name, the fitted parameters first."""
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
        """The central interval (low, high) of each fitted parameter with probability *p*, by name.

        The intervals are quantiles of the draws. Without draws they follow from the standard errors by a normal
        distribution, or by Student's t distribution if the size of the data's errors was estimated from the scatter.
        Raises InvalidRequest unless 0 < p < 1.
        """
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p < 1:
            raise InvalidRequest(f"intervals({p!r}): a probability between 0 and 1 is needed")
        if self.draws is not None:
            low, high = np.quantile(self.draws, ((1 - p) / 2, (1 + p) / 2), axis=0)
        else:
            half = quantile((1 + p) / 2, self.student) * self.dx
            low, high = self.x - half, self.x + half
        return {name: (float(a), float(b)) for name, a, b in zip(self.names, low, high, strict=True)}

    @property
    def starts_at_best(self) -> int:
        """The number of starts that ended at the best point: with an nllf at most 0.05 above (0.1 in chi-squared)."""
        if self.starts is None:
            return 1
        return int(np.sum(self.starts[:, 0] <= self.nllf + _SAME_NLLF))

    def label(self, name: str) -> str:
        """The name of a parameter with its unit, such as ``radius (Å)``."""
        unit = self.units.get(name)
        return f"{name} ({unit})" if unit else name

    @property
    def state(self) -> Any:
        """The chains as bumps' ``MCMCDraw``, or None after an optimiser. Imports bumps."""
        return None if self.pickled_state is None else loads(self.pickled_state)

    @property
    def plot(self) -> Plots:
        """The plots.

        ``fit()``, ``convergence()``, ``marginals()``, ``correlations()``. Raises ImportError without matplotlib.
        """
        from park.fit.plotting.plots import Plots

        return Plots(self)

    def table(self) -> str:
        """The table of all parameters with standard errors and intervals, as text."""
        rows = self._rows()
        widths = [max(len(row[n]) for row in rows) for n in range(4)]
        return "\n".join(
            "  ".join(
                [row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in (1, 2, 3)), row[4]]
            ).rstrip()
            for row in rows
        )

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: a row of headings, then a row for each parameter."""
        inner, outer = self.intervals(0.68), self.intervals(0.95)
        value = "value" if self.draws is None else "median"
        rows: list[tuple[str, ...]] = [("parameter", value, "68 % interval", "95 % interval", "")]
        for estimate in self.parameters.values():
            row = [self.label(estimate.name), format_value(estimate.value, estimate.stderr)]
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
        """The table as HTML, for notebooks."""
        remarks = [html.paragraph(line, grave=not self.converged) for line in self.remarks()]
        heads, *rows = self._rows()
        return "".join([html.paragraph(self._head()), *remarks, html.table(heads, rows)])

    def _head(self) -> str:
        """One line: the method, chi-squared, and the numbers of points, degrees of freedom and draws."""
        what = f"{self.dof + len(self.names)} points, {self.dof} degrees of freedom"
        sample = "" if self.draws is None else f", {len(self.draws)} draws"
        if self.starts is not None:
            sample = f", {self.starts_at_best} of {len(self.starts)} starts ended here"
        stopped = ", stopped early: the errors are not to be trusted" if self.stopped else ""
        return f"{self.method}: {self.statistic} {self.chisq:.4g}, {what}{sample}{stopped}"

    def remarks(self) -> list[str]:
        """The warnings of this result, the most serious first; [] if there are none."""
        if self.converged:
            return [self.message] if self.message else []
        return [f"NOT CONVERGED: {self.message}" if self.message else "NOT CONVERGED"]

    def remark(self) -> str:
        """The warnings in one line, for lists of jobs; "" if there are none."""
        return "; ".join(self.remarks())

    def summary(self) -> dict[str, Any]:
        """All figures as a dict that JSON can hold; nan and infinity become None."""
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
            "starts": None if self.starts is None else _plain(self.starts.tolist()),
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
        """Writes the result into *folder* under bumps' file names, and returns the paths.

        The file names begin with *name*. ``.par`` has a name and a value in each line, ``.err`` the table, ``.out`` method,
        chi-squared and all values, ``.json`` the `summary`, ``-N.dat`` the columns x, y, dy and fit of part N, and
        ``-N.npz`` the same for images and large data. bumps models add their own files, such as refl1d's
        ``-N-refl.dat`` and ``-N-profile.dat``. `Uncertainty` adds ``-err.json``, ``-chain.mc.gz``, ``-point.mc.gz``
        and ``-stats.mc.gz``. Plots are written if matplotlib is installed. A missing *folder* is created. The figures
        are written first; one warning names all files that could not be written.
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
        from park.fit.results.saving import save_more

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


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return float(value) if np.isfinite(value) else None


def _interval(low: float, high: float, error: float) -> str:
    decimals = error_decimals(error)
    if decimals is None or not (np.isfinite(low) and np.isfinite(high)):
        return f"[{low:.6g}, {high:.6g}]"
    power = int(np.floor(np.log10(max(abs(low), abs(high), error))))
    if -4 < power < 7:
        return f"[{low:.{max(decimals, 0)}f}, {high:.{max(decimals, 0)}f}]"
    shown = max(decimals + power, 1)
    return f"[{low:.{shown}e}, {high:.{shown}e}]"

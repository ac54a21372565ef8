"""The demonstration ``python -m park.demo``: fits a measured scattering curve and plots the result.

The data are neutrons scattered by 10 % SDS in water (model: `park.demo.micelles`; data and source:
``park/demo/data``). A fit from the middle of wide limits comes first, then the sampling of its uncertainty.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import park
from park.demo.micelles import measured, micelles
from park.fit import Assembly, Data, Fit, FitResult, Model, Parameter, Uncertainty

#: The meaning of each parameter, in the order of the model.
MEANING = {
    "aggregation": "molecules in a micelle",
    "ionisation": "dissolved part of their sodium ions",
    "radius": "short semi-axis of the oblate core",
    "layer": "thickness of the head groups",
    "contrast": "solvent less core, in scattering length density",
    "background": "flat background",
}


def parts() -> tuple[Model, Data]:
    """The model between wide limits, and the measured data."""
    model = Model(
        micelles,
        aggregation=(40, 160),
        ionisation=(0.05, 0.95),
        radius=Parameter(limits=(8, 20), unit="Å"),
        layer=Parameter(limits=(1, 12), unit="Å"),
        contrast=Parameter(limits=(2, 8), unit="1e-6/Å²"),
        background=Parameter(limits=(0, 0.3), unit="1/cm"),
    )
    q, intensity, error, _ = measured()
    return model, Data(q, intensity, error, name="10 % SDS, D22", labels=("q (1/Å)", "intensity (1/cm)"))


def report(result: FitResult) -> str:
    """The table of the result with the meaning of its parameters and its chi-squared."""
    fitted = len(result.names)
    lines = [
        result.table(),
        "",
        *(f"{name:12}{meaning}" for name, meaning in MEANING.items()),
        "",
        f"reduced chi-squared {result.chisq:.3f}: {result.dof + fitted} points, {fitted} parameters",
    ]
    return "\n".join(lines)


def pictures(result: FitResult, convergence: FitResult, folder: Path) -> list[Path]:
    """Writes the plots of *result*, and the convergence plot of the fit before it; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "fit": result.plot.fit(view="loglog"),
        "marginals": result.plot.marginals(),
        "correlations": result.plot.correlations(),
        "convergence-fit": convergence.plot.convergence(),
        "convergence-uncertainty": result.plot.convergence(),
    }
    paths = {name: folder / f"sds-{name}.png" for name in figures}
    for name, figure in figures.items():
        figure.savefig(paths[name], dpi=120)
    return list(paths.values())


def main() -> None:
    """Reads the command line, fits the curve, and prints the result."""
    parser = argparse.ArgumentParser(
        description="Fits a measured small-angle scattering curve of SDS micelles."
    )
    parser.add_argument("--out", type=Path, default=Path("park-plots"), help="folder for the plots")
    parser.add_argument("--slots", type=int, help="processes that compute; as many as CPUs if not given")
    options = parser.parse_args()

    started = time.perf_counter()
    model, data = parts()
    if options.slots is not None:
        park.local_service.configure(slots=options.slots)

    with park.local_service:
        M1 = Assembly((model, data))
        # with seeds the numbers are the same each time, and so is the time that the chains take to mix
        fit = Fit(M1, seed=1)
        err = Uncertainty(M1, fit.result, after=fit, seed=3)
        fit.wait()  # with a bar of its own
        result = err.wait()

    print(report(result))
    paths = pictures(result, fit.result, options.out)
    print(f"\n{time.perf_counter() - started:.1f} s in all. Plots:", *paths, sep="\n  ")


if __name__ == "__main__":
    main()

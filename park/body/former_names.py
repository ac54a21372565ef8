"""Former names of modules, for pickles that earlier releases have written.

A stored job holds pickles. They name functions and classes by their modules, and must open in later releases.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

#: The module of an earlier release, and the module that has taken its place.
MOVED = {
    "park.batches": "park.body.inputs",
    "park.dynamic": "park.body.by_value",
    "park.fit.arrival": "park.fit.problem.client_values",
    "park.fit.asked": "park.fit.methods.controls",
    "park.fit.assembly": "park.fit.problem.assembly",
    "park.fit.bands": "park.fit.curves.error_bands",
    "park.fit.chains": "park.fit.methods.dream_state",
    "park.fit.checkpoint": "park.fit.methods.checkpoint",
    "park.fit.columns": "park.fit.problem.input_arrays",
    "park.fit.conclusion": "park.fit.results.build_result",
    "park.fit.constrained": "park.fit.numerics.constrained",
    "park.fit.convergence": "park.fit.numerics.convergence",
    "park.fit.coordinates": "park.fit.problem.coordinates",
    "park.fit.corner": "park.fit.plotting.corner",
    "park.fit.covariance": "park.fit.numerics.covariance",
    "park.fit.curve": "park.fit.curves.curve",
    "park.fit.data": "park.fit.problem.data",
    "park.fit.densities": "park.fit.plotting.kernel_density",
    "park.fit.derivatives": "park.fit.numerics.derivatives",
    "park.fit.diagnostics": "park.fit.numerics.mixing",
    "park.fit.drawing": "park.fit.plotting.curve_panels",
    "park.fit.drivers": "park.fit.methods.optimise",
    "park.fit.env": "park.fit.environment",
    "park.fit.exports": "park.fit.curves.bumps_output",
    "park.fit.expression": "park.fit.problem.expression",
    "park.fit.grids": "park.fit.curves.pixel_grid",
    "park.fit.holes": "park.fit.problem.undefined_points",
    "park.fit.images": "park.fit.plotting.image_panels",
    "park.fit.leastsq": "park.fit.numerics.least_squares",
    "park.fit.micelles": "park.demo.micelles",
    "park.fit.model": "park.fit.problem.model",
    "park.fit.monitor": "park.fit.methods.monitor",
    "park.fit.objective": "park.fit.problem.objective",
    "park.fit.optimizers": "park.fit.methods.bumps_optimizers",
    "park.fit.pairing": "park.fit.problem.row_labels",
    "park.fit.parameter": "park.fit.problem.parameter",
    "park.fit.picture": "park.fit.plotting.notebook_figure",
    "park.fit.plots": "park.fit.plotting.plots",
    "park.fit.portrait": "park.fit.results.result_curves",
    "park.fit.problem_checks": "park.fit.problem.bumps_data",
    "park.fit.problem_holes": "park.fit.problem.bumps_undefined",
    "park.fit.raising": "park.fit.problem.bumps_likelihood",
    "park.fit.reading": "park.fit.curves.bumps_curves",
    "park.fit.result": "park.fit.results.result",
    "park.fit.resume": "park.fit.methods.checkpoint",
    "park.fit.sampler": "park.fit.methods.dream",
    "park.fit.saving": "park.fit.results.saving",
    "park.fit.scaling": "park.fit.methods.scaling",
    "park.fit.shadow": "park.fit.methods.scaled_problem",
    "park.fit.signature": "park.fit.problem.signature",
    "park.fit.steering": "park.fit.methods.controls",
    "park.fit.thinning": "park.fit.curves.downsampling",
    "park.fit.uncertain": "park.fit.numerics.intervals",
    "park.fit.unchanged": "park.fit.problem.preserved_state",
    "park.fit.usable": "park.fit.problem.data_checks",
    "park.fit.watch": "park.fit.methods.monitor",
    "park.fit.whitening": "park.fit.problem.correlated_errors",
    "park.kernel.answers": "park.slot.unit_results",
    "park.kernel.env": "park.body.environment",
    "park.kernel.generators": "park.body.generators",
    "park.libraries": "park.body.shared_libraries",
    "park.modules": "park.body.importable",
    "park.payload": "park.body.payload",
    "park.rebuild": "park.body.reducers",
    "park.reference": "park.body.reference",
    "park.results": "park.body.results",
    "park.sources": "park.body.source_lines",
    "park.stale": "park.body.edited_modules",
    "park.stream": "park.client.stream",
}

#: The module and the name of a class in an earlier release, and those that have taken their place.
RENAMED = {
    ("park.fit.arrival", "NotAsSent"): ("park.fit.problem.client_values", "ModelDiffers"),
    ("park.fit.arrival", "Sent"): ("park.fit.problem.client_values", "ClientValues"),
    ("park.fit.arrival", "Value"): ("park.fit.problem.client_values", "ComparedValue"),
    ("park.fit.checkpoint", "Saved"): ("park.fit.methods.checkpoint", "MethodState"),
    ("park.fit.curve", "Profile"): ("park.fit.curves.curve", "DepthProfile"),
    ("park.fit.monitor", "Broken"): ("park.fit.methods.monitor", "FailedEvaluation"),
    ("park.fit.monitor", "Found"): ("park.fit.methods.monitor", "MethodOutcome"),
    ("park.fit.objective", "Part"): ("park.fit.problem.parts_objective", "AssemblyPart"),
    ("park.fit.portrait", "Drawn"): ("park.fit.results.result_curves", "CurvesAtPoint"),
    ("park.fit.resume", "Saved"): ("park.fit.methods.checkpoint", "MethodState"),
    ("park.fit.watch", "Broken"): ("park.fit.methods.monitor", "FailedEvaluation"),
    ("park.fit.watch", "Found"): ("park.fit.methods.monitor", "MethodOutcome"),
}


def current(module: str, name: str) -> tuple[str, str]:
    """The module and the name that hold today what an earlier release called *name* in *module*."""
    return RENAMED.get((module, name), (MOVED.get(module, module), name))


class Unpickler(pickle.Unpickler):
    """Unpickles the pickles of earlier releases."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(*current(module, name))


def loads(data: Any, buffers: Any = None) -> Any:
    """The object of a pickle of this release or an earlier one.

    The second unpickler is slower, so that it runs only where the first one misses a module that has moved.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except ModuleNotFoundError as error:
        if error.name not in MOVED:
            raise
    return Unpickler(io.BytesIO(data), buffers=buffers).load()

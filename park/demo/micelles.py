"""Small-angle neutron scattering from a solution of SDS micelles: the physical model of the demonstration.

Above about 8 mmol/L sodium dodecyl sulphate forms micelles: an oily core of the C12 tails, with a high neutron contrast
against heavy water, and a thin wet layer of the sulphate heads, with a low contrast. A part of the sodium ions dissolves.
The micelles are therefore charged and repel each other, which causes the peak of the curve.

    I(q) = n contrast^2 [<F^2> + <F>^2 (S(q) - 1)] + background, smeared by the instrument

*n* is the number of micelles in a volume. *F* is the amplitude of an ellipsoid, averaged over its
orientations; *S* the structure factor of charged spheres of equal volume (decoupling approximation:
Kotlarchyk and Chen, J. Chem. Phys. 79 (1983) 2461) in the mean spherical approximation (Hayter and Penfold,
Mol. Phys. 42 (1981) 109), rescaled where the repulsion keeps the spheres from touching (Hansen and Hayter,
Mol. Phys. 46 (1982) 651). It is solved here by Baxter's factorisation (Aust. J. Phys. 21 (1968) 563), which
leaves one quartic equation.

Lengths are in angstrom, q in 1/angstrom, intensities in 1/cm. Only numpy is needed.
"""

from __future__ import annotations

import functools
from importlib import resources
from math import exp, pi, sqrt

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Molecules per cubic angstrom in a solution of 1 mol/L.
MOLAR = 6.02214e-4
#: SDS in the sample (mol/L): in all (10 g of 288.4 g/mol in 100 mL), and outside the micelles.
CONCENTRATION, FREE = 0.347, 0.008
#: Volume of one C12H25 tail (cubic angstrom; Tanford, J. Phys. Chem. 76 (1972) 3020).
TAIL = 350.2
#: Bjerrum length of water at 25 C (angstrom; relative permittivity 78): two unit charges at this distance have energy kT.
BJERRUM = 7.18

#: Nodes and weights for averages over [0, 1].
_U, _WU = (a / 2 for a in np.polynomial.legendre.leggauss(16))
_U = _U + 0.5
_T, _WT = (a / 2 for a in np.polynomial.legendre.leggauss(32))
_T = _T + 0.5


def measured() -> tuple[Array, Array, Array, Array]:
    """The measured curve that ships with PARK: q, intensity, its standard error, the resolution sigma(q)."""
    text = resources.files("park.demo").joinpath("data", "sds_d22.dat").read_text(encoding="ascii")
    table = text[text.index("Mod_Q") :].splitlines()[1:]
    q, intensity, error, sigma = np.array([line.split() for line in table if line.strip()], dtype=float).T
    return q, intensity, error, sigma


def micelles(
    q: Array,
    aggregation: float,
    ionisation: float,
    radius: float,
    layer: float,
    contrast: float,
    background: float,
) -> Array:
    """Intensity in 1/cm of 10 % SDS at *q* (1/angstrom, shape (n,)), as the instrument sees it.

    *aggregation*: molecules in a micelle. *ionisation*: the part of their sodium ions that is dissolved.
    *radius*: the short semi-axis of the oblate core; the other one follows from the volume of the tails.
    *layer*: thickness of the head groups, which keep the cores apart and are not seen. *contrast*: scattering
    length density of the solvent less that of the core, in 1e-6/angstrom^2. *background*: in 1/cm.
    """
    fine, weights = _smearing(q.tobytes())
    core = aggregation * TAIL
    equator = sqrt(core * 3 / (4 * pi * radius))
    outside = 4 / 3 * pi * (equator + layer) ** 2 * (radius + layer)
    density = (CONCENTRATION - FREE) * MOLAR / aggregation
    mean, square = ellipsoid(fine, radius, equator)
    charge = ionisation * aggregation
    repelled = charged_spheres(fine, (outside * 6 / pi) ** (1 / 3), density, charge, FREE * MOLAR) - 1
    scale = density * (core * contrast) ** 2 * 1e-4  # (1e-6/A^2)^2 = 1e-12/A^4, and 1/A = 1e8/cm
    return np.asarray(weights @ (scale * (square + mean**2 * repelled)) + background)


def ellipsoid(q: Array, polar: float, equator: float) -> tuple[Array, Array]:
    """Mean amplitude and mean squared amplitude, both 1 at q = 0, of randomly oriented spheroids."""
    x = q[:, None] * np.sqrt(equator**2 * (1 - _U**2) + polar**2 * _U**2)
    f = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    return f @ _WU, f**2 @ _WU


def charged_spheres(q: Array, diameter: float, density: float, charge: float, salt: float) -> Array:
    """Structure factor of spheres that repel each other through a cloud of ions.

    *density* of the spheres and of the added *salt* per cubic angstrom, *charge* of a sphere in electrons;
    its own ions are monovalent and count as salt does.
    """
    kappa = sqrt(4 * pi * BJERRUM * (density * charge + 2 * salt))
    strength = BJERRUM * (charge * exp(kappa * diameter / 2) / (1 + kappa * diameter / 2)) ** 2

    def solve(wide: float) -> tuple[float, float, float, float, float]:
        return _baxter(pi / 6 * density * wide**3, kappa * wide, strength * exp(-kappa * wide) / wide)

    solution = solve(diameter)
    if solution[-1] < 0:  # negative density at contact: widen the spheres until it is zero
        before, below = diameter, solution[-1]
        diameter *= 1.1
        while (solution := solve(diameter))[-1] < 0:
            before, below = diameter, solution[-1]
            diameter *= 1.1
        for _ in range(20):  # secants; the contact value is nearly a straight line here
            contact = solution[-1]
            if abs(contact) < 1e-10:
                break
            before, below, diameter = (
                diameter,
                contact,
                diameter - contact * (diameter - before) / (contact - below),
            )
            solution = solve(diameter)
    a, b, c, d, _ = solution
    eta, z, x = pi / 6 * density * diameter**3, kappa * diameter, q * diameter
    inside = a / 2 * (_T**2 - 1) + b * (_T - 1) + c * np.expm1(z * (1 - _T))
    transform = np.exp(1j * np.outer(x, _T)) @ (_WT * inside) + d * exp(z) / (z - 1j * x)
    return np.asarray(1 / np.abs(1 - 12 * eta * transform) ** 2)


def _baxter(eta: float, z: float, contact: float) -> tuple[float, float, float, float, float]:
    """Baxter's function Q(r) of hard spheres of diameter 1 with the repulsion *contact* exp(-z (r - 1)) / r.

    With E(r) = exp(-z (r - 1)): Q = a (r^2 - 1) / 2 + b (r - 1) + c (E - 1) + d E inside the sphere and d E
    outside. Returns a, b, c, d and the pair correlation at contact.

    That g = 0 inside makes a and b linear in c and d. With G the Laplace transform of r g(r) at z, three
    equations remain: c + d = 12 eta G d / z (the core), -contact = z d (1 - 12 eta Q(z)) (the tail of the
    direct correlation) and G (1 - 12 eta Q(z)) = L(z), where Q(z) and L(z) are linear in c and d. Without c
    and G, a quartic in d is left; the physical root vanishes with the repulsion, so it is the smallest.
    """
    e, k, small = 12 * eta, -contact, exp(-z)
    m0 = (1 / small - 1) / z - 1
    m1 = (1 / small - 1 - z) / z**2 - 0.5
    tail = e / (small * z)
    det = (1 - e / 3) * (1 + e / 6) + e * e / 16
    # rows: the coefficients of 1, c and d
    right = np.array([[1.0, -e * m0, -tail], [0.0, e * m1, tail / z]])
    a, b = np.array([[1 + e / 6, e / 2], [-e / 8, 1 - e / 3]]) @ right / det
    i0, i1, i2 = (1 - small) / z, (1 - (1 + z) * small) / z**2, (2 - (2 + 2 * z + z * z) * small) / z**3
    q = a * (i2 - i0) / 2 + b * (i1 - i0)
    q[1:] += (1 / small - small) / (2 * z) - i0, 1 / (2 * z * small)
    l0, lc, ld = small * (a * (1 + 1 / z) + b) / z - (0, small / 2, 0)
    # c d = p0 + p1 d + p2 d^2, then (c d + d^2) k / e = d^2 (l0 d + lc c d + ld d^2)
    p0, p1, p2 = np.array([-k / z, 1 - e * q[0], -e * q[2]]) / (e * q[1])
    h = k / e
    roots = np.roots([ld + lc * p2, l0 + lc * p1, lc * p0 - h * (p2 + 1), -h * p1, -h * p0])
    real = roots[np.abs(roots.imag) <= 1e-7 * np.abs(roots)].real
    d = float(min(real, key=abs, default=np.nan))
    c = (p0 + p1 * d + p2 * d * d) / d
    va, vb = float(a @ (1, c, d)), float(b @ (1, c, d))
    return va, vb, float(c), d, va + vb - z * float(c)


@functools.lru_cache(maxsize=8)
def _smearing(where: bytes) -> tuple[Array, Array]:
    """A fine grid of q (m,), and the weights (n, m) that average over the resolution of each point."""
    q = np.frombuffer(where)
    table = measured()
    sigma = np.interp(q, table[0], table[3])
    fine = np.arange(max(0.001, float(np.min(q - 4 * sigma))), float(np.max(q + 4 * sigma)), 0.003)
    weights = np.exp(-(((fine - q[:, None]) / sigma[:, None]) ** 2) / 2)
    return fine, weights / weights.sum(axis=1, keepdims=True)

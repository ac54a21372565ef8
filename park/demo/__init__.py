"""The demonstration: a measured scattering curve is fitted, from start to plots. ``python -m park.demo`` runs it."""

"""The demonstration: a measured scattering curve is fitted, from start to plots.

``python -m park.demo`` and ``bin/demo`` run it. It imports `park` and `park.fit`, as any script does.
"""

"""What PARK costs, measured beside the pools and pipes that it must stand up to: ``python -m benchmarks``.

Each benchmark is a module with the same five names: ``UNITS`` (its columns and their units), ``SYSTEMS`` (what is
measured, one fresh process each, one at a time), ``measure`` (in that process; rows of columns), ``derive`` (ratios
within one round) and ``marks`` (what PARK wants to reach). Rounds are interleaved: every system once, then again.
"""

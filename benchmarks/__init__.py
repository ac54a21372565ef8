"""The price of PARK, measured beside the pools and pipes that it competes with: ``python -m benchmarks --help``.

`benchmarks.measures` holds the measures: each system runs in a fresh process, one at a time, and rounds are interleaved.
`benchmarks.studies` holds longer runs with options of their own. The modules here serve both.
"""

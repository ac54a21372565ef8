"""The things that the broker knows, one module a kind: jobs, maps, kernels, requirements, controls, code, the archive.

Each keeps its own state and its invariants, and decides nothing about the others. Handlers and the scheduler use them.
"""

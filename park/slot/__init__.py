"""A slot process: it runs user code, one unit at a time, and answers the requests of bodies to the fabric.

The kernel's supervisor starts ``python -m park.slot.slot`` and talks to it over a socket pair. `slot` holds the parts of
the process, `chunk_run` runs a chunk, `host` is the fabric as a body sees it. The room imports neither ZeroMQ nor the
store.
"""

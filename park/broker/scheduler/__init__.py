"""The scheduler: which job is served next, which slots are free, which work is preempted or repeated.

Its modules are pure and read entities; the one that assigns chunks to kernels, `park.broker.assign`, calls them.
"""

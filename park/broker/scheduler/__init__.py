"""The scheduler: which job is served next, which slots are free, which work is preempted or repeated.

`fairshare` picks the job that is served next. The modules are pure and read entities. `park.broker.assign`, which deals
chunks to kernels, calls them.
"""

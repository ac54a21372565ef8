"""The client's end of the fabric: requests, maps, executors, streams and the live table of jobs.

`link` exchanges messages with a broker; the other modules are the faces that scripts use, through `park.core.server`.
It imports nothing of a broker, a kernel or a slot process.
"""

"""The client's end of the fabric: requests, maps, executors, streams and the live table of jobs.

`link` joins the modules that exchange messages with a broker. While the broker is away, `pending` keeps the unanswered
requests and `remote_maps` the unanswered units; both send them again when it is back. `outgoing` knows for how long a
client waits, and `broker_notices` tells the user. The other modules are the faces that scripts use, through
`park.core.server`. The room imports nothing of a broker, a kernel or a slot process.
"""

"""The broker: one process that knows all jobs, decides what runs where, and keeps it all on disk.

`loop` does the input and output, `manager` joins the pure `dispatcher` to the store, and `dispatcher` hands each
message to a handler. A turn becomes durable in `storage`; after that the broker acknowledges it. `park-broker` and the
local service run it. It never imports `park.body`: payloads are bytes here.
"""

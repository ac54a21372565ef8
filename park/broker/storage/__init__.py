"""The store: records in LMDB, changed by durable transactions, and the thread that commits them.

Only this package opens a database. `park.broker.manager` hands it the writes of each turn; nothing is acknowledged before
they are on disk.
"""

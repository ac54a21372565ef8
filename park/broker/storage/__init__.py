"""The store: records in LMDB, changed by durable transactions, and the thread that commits them.

Only this package opens a database. `park.broker.manager` hands the writes of each turn to `writer`, whose commit makes
them durable. The broker acknowledges requests and results after that commit.
"""

"""Accounts of owners: credits, quotas, and the free bytes of the disk.

Handlers ask them before something is taken or charged. They import only the words, the wire and the broker's effects.
"""

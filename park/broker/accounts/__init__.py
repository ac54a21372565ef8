"""Accounts of owners: credits, quotas, and the free bytes of the disk.

Handlers ask them before they take or charge anything. The modules import only the words, the wire and the broker's
effects.
"""

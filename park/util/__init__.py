"""Small tools for all rooms: standard streams, progress in words, notebooks, child processes, sealed files in memory, and
the hub of messages.

They import only the words and the wire.
"""

"""The replicated table of jobs, kernels and owners: its values, a mirror that follows it, and queries.

The broker and its clients share `Table.apply`, so that both sides fold in the same numbered deltas. It imports only the
words and the wire.
"""

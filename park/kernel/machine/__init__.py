"""The kernel's state machine: it decides which slot process runs which attempt, and what follows from each message.

`state_machine` takes the messages of the broker and of the slot processes and hands each to its function; `state` is what
is known, `actions` what is to be done. The package is pure: it opens nothing and reads no clock. `park.kernel.loop` carries
out its actions. It imports only `park.wire` and the modules of the top folder that all may import.
"""

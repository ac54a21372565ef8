"""The kernel's supervisor: it lends the slots of a node to a broker, and looks after their processes.

`loop` carries messages between the broker and the slot processes, `park.kernel.machine` decides, `supervisor` starts,
watches and ends the processes, and `park.kernel.node` knows the node. ``park-kernel`` and the local service run the loop.
User code runs in `park.slot`, never here.

The end of a slot process goes this way: `supervisor` sees it, `loop` passes it on, `machine.attempts` finds the attempts
that it held and sends `Crashed`, and the broker (`park.broker.handlers.results`) lets their units run again.
"""

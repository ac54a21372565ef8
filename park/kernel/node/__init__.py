"""The node of a kernel: its processors, memory, GPUs, packages and user, and what a batch system allows of them.

`this_node` is the description that a kernel announces. Modules named ``read_...`` ask the system; the others understand the
answers. It imports only the words.
"""

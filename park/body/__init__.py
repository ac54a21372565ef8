"""The surroundings of user code: functions, inputs and results become payloads here, and bodies find their environment.

A client uses it to send, a slot process to receive; `park.body` is the only room that pickles. It imports the words and
the wire, nothing of a client, a broker or a kernel.
"""

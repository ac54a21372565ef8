"""The surroundings of user code: functions, inputs and results become payloads here, and bodies find their environment.

Clients use it to send, slot processes to receive. Only this room pickles. It imports the words and the wire, and
nothing of a client, a broker or a kernel.
"""

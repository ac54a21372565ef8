"""Transport: ZeroMQ sockets and their keys, socket pairs, in-process queues, and the loop that waits for them all.

`zap` decides whether a key may connect, `authenticator` asks it for each connection, and `keys` reads the key files.
Only this room imports zmq. The link, the broker and the kernel's supervisor use it; it imports the words, the wire and
`park.util`.
"""

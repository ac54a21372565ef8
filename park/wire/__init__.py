"""The protocol: every message, its form as frames, and the rules that both ends of a connection share.

The room is pure: it opens no socket and reads no clock. All other rooms use it; it imports `park.errors` and
`park.model`.
"""

"""The reactions of the broker, one module a kind of message or event.

The dispatcher calls them with the broker's state, the effects of this turn and the message. They change entities and
accounts, and say in the effects what is sent and written; they do no input or output.
"""

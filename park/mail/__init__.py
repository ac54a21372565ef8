"""Mails about jobs that have ended: which are due, their text, and the way to an SMTP server.

The broker's handlers ask `notices` which mails are due; its manager hands letters to the thread of `postman`. The room
imports the words and `park.util`, and matplotlib only in the process that draws pictures.
"""

"""Mails about jobs that have ended: which are due, their text, and the way to an SMTP server."""

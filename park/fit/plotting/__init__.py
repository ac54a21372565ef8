"""The plots of a result, drawn with matplotlib but without pyplot.

`FitResult.plot` loads them; nothing else imports them.
"""

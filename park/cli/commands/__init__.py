"""The subcommands of ``park``, one module for each family.

`park.cli.park` loads the one that is called. It uses a service as scripts do, and imports no broker, kernel or slot process
at its head.
"""

"""The command line: ``park``, ``park-broker`` and ``park-kernel``.

The three commands stand here with their common options; `commands` has one module for each subcommand of ``park``,
`show` draws tables and values. Other rooms import nothing from here.
"""

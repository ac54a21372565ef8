"""The subcommands of ``park``, one module for each family. `park.cli.park` loads the one that is called."""

"""The command ``equisep``: runs, sweeps, and subcommands for what is in the store."""

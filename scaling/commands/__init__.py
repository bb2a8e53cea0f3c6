"""The subcommands of `t5x-lite scaling`: each module has EXAMPLE, add_flags and run."""

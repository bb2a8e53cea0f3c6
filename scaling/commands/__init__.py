"""The subcommands of `t5x-lite scaling`: each module has SUMMARY, EXAMPLE, add_flags and run."""

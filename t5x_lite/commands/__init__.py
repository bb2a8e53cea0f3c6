"""The commands of `t5x-lite`: each module has SUMMARY, EXAMPLE, add_flags and run."""

"""The commands of `t5x-lite`: each module has EXAMPLE, add_flags and run."""

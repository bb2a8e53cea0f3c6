"""The commands of `t5x-lite` that read data: EXAMPLE, add_flags and run each."""

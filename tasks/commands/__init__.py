"""The commands of `t5x-lite` that read data: SUMMARY, EXAMPLE, add_flags and run each."""

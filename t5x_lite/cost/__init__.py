"""What a model and a step cost: parameters, FLOPs, memory; and the hardware that pays."""

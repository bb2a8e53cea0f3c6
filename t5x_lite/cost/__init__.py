"""The cost of a model and a step: parameters, FLOPs and memory; and the hardware catalogue."""

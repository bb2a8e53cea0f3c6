"""Training: state, step, loop, hooks, optimizers, checkpoints and the folder of a run."""

"""Instructions with instances that a model writes, like some of people (Wang et al. 2022)."""

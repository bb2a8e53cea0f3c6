"""From a budget to a model that can be built, its mesh, cost and gin file."""

"""Rewards: what says how good a completion is, by checking it or by a model."""

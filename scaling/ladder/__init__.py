"""Sweeps of small runs that predict a large one: design, launch, verdict."""

"""Runs to a law: reading, fitting, resampling, diagnosing, reporting."""

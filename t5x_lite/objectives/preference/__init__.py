"""Objectives that learn from which response to a prompt is better."""

"""Objectives that raise the rewards of what a policy has written."""

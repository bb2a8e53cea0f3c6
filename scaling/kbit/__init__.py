"""What a bit of a parameter is worth at inference: runs in k bits, measured and fitted."""

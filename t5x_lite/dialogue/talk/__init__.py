"""People talk to systems, and say what they think of them."""

"""Published scaling laws and recipes, and how sure they are."""

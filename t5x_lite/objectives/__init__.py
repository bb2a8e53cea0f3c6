"""What a step minimises, as weighted sums over the global batch."""

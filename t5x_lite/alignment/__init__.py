"""What alignment asks of other runs: their models as rewards."""

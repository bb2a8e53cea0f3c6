"""The mesh, the rules from logical axes to mesh axes, and how arrays are sharded over it."""

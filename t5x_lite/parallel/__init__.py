"""The mesh, the rules from logical axes to mesh axes, and where arrays lie on it."""

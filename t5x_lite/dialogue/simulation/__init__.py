"""Users who want something, systems that help them, and what comes of it."""

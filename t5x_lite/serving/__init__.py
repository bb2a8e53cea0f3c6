"""A model that many ask at once: slots, the engine that fills them, the API, the terminal."""

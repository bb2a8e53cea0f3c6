"""Task-oriented dialogues: their data, scores, structure and simulation."""

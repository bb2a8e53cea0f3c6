"""From parameters to text: generation, prediction, texts in and texts out."""

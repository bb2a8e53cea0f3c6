"""From compute budget to model: accounting, usable without devices and without TensorFlow."""

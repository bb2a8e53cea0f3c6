"""t5x_lite: text Transformers in JAX, from compute budget to trained model."""

__version__ = '0.1.0'

"""The networks: three families of Transformers from one set of layers."""

from t5x_lite.models.config import ModelConfig
from t5x_lite.models.network import Model, Network, build_network

__all__ = ['Model', 'ModelConfig', 'Network', 'build_network']

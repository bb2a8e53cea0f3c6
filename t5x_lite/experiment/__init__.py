"""What a run is: frozen dataclasses, and gin files that fill them."""

from t5x_lite.experiment.experiment import Experiment, InferConfig, InitFrom, TrainConfig

__all__ = ['Experiment', 'InferConfig', 'InitFrom', 'TrainConfig']

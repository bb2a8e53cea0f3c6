"""An experiment: everything a run is, as frozen dataclasses that gin fills from outside.

A field accepts any object with the methods of its protocol: a user's own Source, objective,
optimizer, evaluation, adaptation or hook is a frozen dataclass in a file of theirs.
"""

import dataclasses
import pathlib

from jax.sharding import Mesh

from t5x_lite import models
from t5x_lite.adaptation.adaptation import Adaptation
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import FieldError, check_positive, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source
from t5x_lite.evaluation.evaluation import Evaluation
from t5x_lite.models import ModelConfig, Network
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.objective import Objective
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.loop import Hook
from t5x_lite.training.optimizers import Optimizer
from t5x_lite.training.writers import TensorBoard, WriterConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """Another run to start from: its parameters, or with `restore_state` its full state.

  With its full state a run continues from that checkpoint, with its optimizer state, step and
  position in the data, under settings of its own: for example, decays of several lengths from one
  stable phase.
  """
  model_dir: str
  step: int | None = None               # None: the newest checkpoint
  missing_ok: tuple[str, ...] = ()      # prefixes of parameter paths that run may lack
  restore_state: bool = False

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The training loop."""
  steps: int
  microbatches: int = 1          # gradient accumulation: number of parts of a batch
  log_every: int = 10
  eval_every: int | None = None  # None: only after the last step
  checkpoint_every: int = 1000   # and always after the last step
  keep_checkpoints: int = 2      # how many of the newest are kept
  profile: tuple[int, int] | None = None   # traces the steps after the first, up to the second

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'steps', 'microbatches', 'log_every', 'eval_every', 'checkpoint_every',
                   'keep_checkpoints')
    if self.profile is not None and not 0 <= self.profile[0] < self.profile[1]:
      raise FieldError(self, 'profile', 'expected two steps, the first below the second')


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferConfig:
  """What `t5x-lite infer` reads and writes, and how it samples tokens."""
  input: str | None = None       # .txt (an example a line) or .jsonl file; None: the task's split
  field: str = 'inputs'          # of a .jsonl line: the text that is read
  split: str = 'validation'
  output: str | None = None      # None: MODEL_DIR/inferences-<name>-<step>.jsonl
  step: int | None = None        # the checkpoint that is read; None: the newest
  num_examples: int | None = None
  batch_size: int = 16
  max_tokens: int | None = None  # maximum of new tokens; None: the task's target length
  temperature: float = 0.0       # 0: greedy

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'num_examples', 'batch_size', 'max_tokens')
    if self.temperature < 0:
      raise FieldError(self, 'temperature', 'must be at least 0')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A run: what `t5x-lite train`, `eval`, `infer` and `describe` all read."""
  model_dir: str                 # the run's folder
  model: ModelConfig
  data: Source
  optimizer: Optimizer
  train: TrainConfig
  # Their sum is minimised; those that do not apply to the model are skipped.
  objectives: tuple[Objective, ...] = (CrossEntropy(), RouterLoss(), NextSentenceLoss())
  mesh: MeshConfig = MeshConfig()
  eval: Evaluation | None = None
  infer: InferConfig = InferConfig()
  init_from: InitFrom | None = None
  adaptation: Adaptation | None = None   # None: all parameters are trained
  hooks: tuple[Hook, ...] = ()           # after those that every run has
  writers: tuple[WriterConfig, ...] = (TensorBoard(),)   # of metrics, beside metrics.jsonl
  seed: int = 0

  def __post_init__(self):
    check_types(self)
    if not self.objectives:
      raise FieldError(self, 'objectives', 'there is nothing to minimise')
    self.data.check_model(self.model)

  @property
  def row_lengths(self) -> tuple[int, int]:
    """Tokens of a row that (an encoder, a decoder) reads; 0 where there is none."""
    inputs, targets = (self.data.lengths.get(name) or 0 for name in ('inputs', 'targets'))
    if self.model.family == 'decoder_only':
      return 0, inputs + targets
    return inputs, 0 if self.model.family == 'encoder_only' else targets

  @property
  def folder(self) -> pathlib.Path:
    """The run's folder."""
    if not self.model_dir:
      raise UserError('MODEL_DIR is not set: pass --gin.MODEL_DIR=FOLDER')
    return pathlib.Path(self.model_dir).expanduser()

  def build_network(self, mesh: Mesh) -> tuple[Network, Partitioner]:
    """The network, adapted, and the partitioner that shards it over the mesh.

    Raises FieldError for an adaptation that trains no parameter.
    """
    partitioner = Partitioner(mesh, self.mesh.rules)
    network = models.build_network(self.model, partitioner)
    if self.adaptation is not None:
      network = self.adaptation.adapt(network)
      paths = trees.flatten(network.shapes)
      if not any(map(network.is_trained, paths)):
        raise FieldError(self, 'adaptation', f'trains none of {", ".join(paths)}')
    return network, partitioner

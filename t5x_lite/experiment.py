"""An experiment: everything a run is, as frozen dataclasses that gin fills from outside."""

import dataclasses
import pathlib

from t5x_lite.errors import UserError
from t5x_lite.input_pipeline import DataConfig
from t5x_lite.models import ModelConfig
from t5x_lite.optimizers import Optimizer
from t5x_lite.partitioning import MeshConfig
from t5x_lite.validation import FieldError, check_positive, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """Another run to start from: its parameters, or with `branch` its whole state.

  A branch goes on where that checkpoint was, with its optimizer state, step and place in the data,
  under settings of its own: the decays of several lengths from one stable phase, say.
  """
  model_dir: str
  step: int | None = None        # None: the newest checkpoint
  new: tuple[str, ...] = ()      # beginnings of parameter names that run need not have
  branch: bool = False

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The training loop."""
  steps: int
  microbatches: int = 1          # gradient accumulation: a batch is computed in so many parts
  label_smoothing: float = 0.0
  z_loss: float = 0.0
  log_every: int = 10
  eval_every: int | None = None  # None: only after the last step
  checkpoint_every: int = 1000   # and always after the last step
  keep_checkpoints: int = 2      # the newest so many

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'steps', 'microbatches', 'log_every', 'eval_every', 'checkpoint_every',
                   'keep_checkpoints')
    if not 0 <= self.label_smoothing < 1:
      raise FieldError(self, 'label_smoothing', 'must be at least 0 and below 1')


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """Evaluation of a checkpoint on a split of the experiment's task."""
  split: str = 'validation'
  num_examples: int | None = None   # the first so many; None: all
  batch_size: int = 32
  step: int | None = None           # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'num_examples', 'batch_size')


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferConfig:
  """What `t5x-lite infer` reads, writes and how it draws tokens."""
  input: str | None = None       # .txt (an example a line) or .jsonl file; None: the task's split
  field: str = 'inputs'          # of a .jsonl line: the text that is read
  split: str = 'validation'
  output: str | None = None      # None: MODEL_DIR/inferences-<name>-<step>.jsonl
  step: int | None = None        # the checkpoint that is read; None: the newest
  num_examples: int | None = None
  batch_size: int = 16
  max_tokens: int | None = None  # new tokens at most; None: the task's target length
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
  data: DataConfig
  optimizer: Optimizer
  train: TrainConfig
  mesh: MeshConfig = MeshConfig()
  eval: EvalConfig = EvalConfig()
  infer: InferConfig = InferConfig()
  init_from: InitFrom | None = None
  seed: int = 0

  def __post_init__(self):
    check_types(self)
    self.data.check_model(self.model)

  @property
  def row_lengths(self) -> tuple[int, int]:
    """Tokens of a row that (an encoder, a decoder) reads; 0 where there is none."""
    inputs, targets = self.data.inputs_length or 0, self.data.targets_length or 0
    if self.model.family == 'decoder_only':
      return 0, inputs + targets
    return inputs, 0 if self.model.family == 'encoder_only' else targets

  @property
  def folder(self) -> pathlib.Path:
    """The run's folder."""
    if not self.model_dir:
      raise UserError('MODEL_DIR is not set: pass --gin.MODEL_DIR=FOLDER')
    return pathlib.Path(self.model_dir).expanduser()

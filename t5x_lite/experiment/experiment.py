"""An experiment: everything a run is, as frozen dataclasses that gin fills from outside.

A field accepts any object with the methods of its protocol: a user's own Source, objective,
optimizer, evaluation, adaptation or hook is a frozen dataclass in a file of theirs.
"""

import dataclasses
import pathlib

from jax.sharding import Mesh

from t5x_lite import models
from t5x_lite.adaptation.adaptation import Adaptation, innermost
from t5x_lite.core import paths, trees
from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  Length,
  Path,
  Seed,
  Step,
  check_types,
  nearest,
)
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source, row_lengths
from t5x_lite.evaluation.evaluation import Evaluation
from t5x_lite.inference.beam import Beams
from t5x_lite.inference.constrained import Choice, JsonSchema, Regex
from t5x_lite.inference.sampling import Sampling
from t5x_lite.inference.speculative import DraftRun, NgramDraft
from t5x_lite.models import ModelConfig, Network
from t5x_lite.objectives.classification import Classification
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.objective import Objective
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.loop import Hook
from t5x_lite.training.optimizers import Optimizer
from t5x_lite.training.schedules import Constant
from t5x_lite.training.writers import TensorBoard, WriterConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """Another run to start from: its parameters, or with `restore_state` its full state.

  With its full state a run continues from that checkpoint, with its optimizer state, step and
  position in the data, under settings of its own: for example, decays of several lengths from one
  stable phase.
  """
  model_dir: Path                       # the folder of that run
  step: Step | None = None              # None: the newest checkpoint
  missing_ok: tuple[str, ...] = ()      # prefixes of parameter paths that run may lack
  restore_state: bool = False           # whether to continue it

  def __post_init__(self):
    check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The training loop."""
  steps: Count                   # updates of the parameters
  microbatches: Count = 1        # gradient accumulation: number of parts of a batch
  log_every: Count = 10          # steps
  eval_every: Count | None = None   # None: only after the last step
  checkpoint_every: Count = 1000   # and always after the last step
  keep_checkpoints: Count = 2    # how many of the newest are kept
  profile: tuple[Step, Step] | None = None   # traces the steps after the first, up to the second

  def __post_init__(self):
    check_types(self)
    if self.profile is not None and self.profile[0] >= self.profile[1]:
      raise FieldError(self, 'profile', 'expected two steps, the first below the second')


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferConfig:
  """What `t5x-lite infer` reads and writes, and how it samples tokens."""
  input: Path | None = None      # files of texts, as FileTask.train; None: the task's split
  field: str = 'inputs'          # of them, but for .txt: a field, or a text with {names}
  split: str = 'validation'      # of the task
  output: Path | None = None     # None: MODEL_DIR/inferences-<name>-<step>.jsonl
  step: Step | None = None       # the checkpoint that is read; None: the newest
  num_examples: Count | None = None   # the first so many; None: all
  batch_size: Count = 16         # examples at a time; no output depends on it
  max_tokens: Length | None = None   # maximum of new tokens; None: the task's target length
  decoding: Sampling | Beams = Sampling()   # how tokens are drawn, or outputs searched
  samples: Count = 1             # outputs of each text that are drawn
  constraint: Regex | Choice | JsonSchema | None = None   # of every output
  draft: NgramDraft | DraftRun | None = None   # which the model checks, several tokens at once
  int8_cache: bool = False       # keys and values of tokens in 8 bits
  # [MASK] in a text for a masked language model, <extra_id_0> in one for an encoder-decoder, stand
  # for the mask or the sentinel; False: they are text, as all else that a text spells.
  placeholders: bool = True
  # Ids around a prompt, which t5x-lite import takes from the model's tokenizer; None: as the tasks
  # train, with the id that starts decoding before it, or the class id of an encoder.
  prompt_prefix: tuple[int, ...] | None = None
  prompt_suffix: tuple[int, ...] = ()   # Ids after a prompt, as those before it.
  # That end an output, besides those of a chat template's answers; none: the end of text.
  end_ids: tuple[int, ...] = ()
  # A chat template, by name or file, that makes a message of the user of each text; '': texts are
  # read as they are; None: the one that the run was trained on, if any.
  chat_template: str | None = None
  system: str | None = None      # the system message before each of them
  labels: tuple[str, ...] = ()   # names of an imported model's classes, where no task has them

  def __post_init__(self):
    check_types(self)
    for name in ('prompt_prefix', 'prompt_suffix', 'end_ids'):
      if any(i < 0 for i in getattr(self, name) or ()):
        raise FieldError(self, name, 'ids are at least 0')
    if self.samples > 1 and not (isinstance(self.decoding, Sampling) and self.decoding.temperature):
      raise FieldError(self, 'samples', 'are all the same where none is drawn: set '
                       'Sampling.temperature, or search with Beams.num_return')
    if self.constraint is not None and not isinstance(self.decoding, Sampling):
      raise FieldError(self, 'constraint', 'is of outputs that are drawn: leave Beams out')
    if self.draft is not None and (self.samples > 1 or self.constraint is not None or
                                   not isinstance(self.decoding, Sampling)):
      raise FieldError(self, 'draft', 'is of one output a text that nothing constrains: leave out '
                       'samples, constraint and Beams')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """A run: what `t5x-lite train`, `eval`, `infer` and `describe` all read."""
  model_dir: Path                # the run's folder
  model: ModelConfig             # the architecture
  data: Source                   # what is read
  optimizer: Optimizer           # what turns gradients into updates
  train: TrainConfig             # the training loop
  # Their sum is minimised; those that do not apply to the model are skipped.
  objectives: tuple[Objective, ...] = (CrossEntropy(), RouterLoss(), NextSentenceLoss(),
                                       Classification())
  mesh: MeshConfig = MeshConfig()        # how devices are arranged
  eval: Evaluation | None = None         # None: no evaluation
  infer: InferConfig = InferConfig()     # what `t5x-lite infer` does
  init_from: InitFrom | None = None      # None: the model starts from its seed
  adaptation: Adaptation | None = None   # None: all parameters are trained
  # Of this base, for `t5x-lite infer` and `eval`: names of adapters to folders, of runs or of PEFT.
  adapters: dict[str, Path] | None = None
  adapter: str | None = None     # which of them is chosen; None: the base answers
  hooks: tuple[Hook, ...] = ()           # after those that every run has
  writers: tuple[WriterConfig, ...] = (TensorBoard(),)   # of metrics, beside metrics.jsonl
  seed: Seed = 0                         # of parameters, dropout, the order of the data, samples

  def __post_init__(self):
    check_types(self)
    if not self.objectives:
      raise FieldError(self, 'objectives', 'there is nothing to minimise')
    whole = [type(one).__name__ for one in self.objectives if getattr(one, 'whole_batch', False)]
    if whole and self.train.microbatches > 1:
      raise FieldError(self.train, 'microbatches', f'{whole[0]} compares all rows of a batch, and '
                       'a part has fewer: leave it at 1')
    rate = getattr(self.optimizer, 'learning_rate', None)
    for name in ('prompt_prefix', 'prompt_suffix', 'end_ids'):
      if any(i >= self.model.vocab_size for i in getattr(self.infer, name) or ()):
        raise FieldError(self.infer, name,
                         f'ids are below ModelConfig.vocab_size {self.model.vocab_size}')
    classes = tuple(getattr(getattr(self.data, 'task', None), 'labels', ()))
    if self.infer.labels and len(classes) == len(self.infer.labels) and (
        classes != self.infer.labels):
      raise FieldError(self.infer, 'labels', f'are the classes of the imported model, and those of '
                       f'the task are {classes}: list them in the order of the model, or set '
                       'InferConfig.labels to () to learn them anew')
    profile = self.train.profile
    if profile is not None and profile[1] > self.train.steps:
      raise FieldError(self.train, 'profile', f'ends after TrainConfig.steps {self.train.steps}')
    if isinstance(rate, Constant) and rate.warmup_steps > self.train.steps:
      raise FieldError(rate, 'warmup_steps',
                       f'must be at most TrainConfig.steps {self.train.steps}')
    if self.adapter is not None and self.adapter not in (self.adapters or {}):
      raise FieldError(self, 'adapter', 'is none of Experiment.adapters; '
                       + nearest(self.adapter, self.adapters or {}))
    if self.adapters and innermost(self.adaptation) is not None:
      raise FieldError(self, 'adapters', 'the run is adapted itself: give the config.gin of its '
                       'base, and name this run among the adapters')
    self.data.check_model(self.model)

  @property
  def row_lengths(self) -> tuple[int, int]:
    """Tokens of a row that (an encoder, a decoder) reads; see source.row_lengths."""
    return row_lengths(self.data.lengths, self.model)

  @property
  def folder(self) -> pathlib.Path:
    """The run's folder."""
    if not self.model_dir:
      raise UserError('MODEL_DIR is not set: pass --gin.MODEL_DIR=FOLDER')
    return paths.local_path(self.model_dir)

  def build_network(self, mesh: Mesh) -> tuple[Network, Partitioner]:
    """The network, adapted, and the partitioner that shards it over the mesh.

    Raises FieldError for an adaptation that trains no parameter, unless it is to quantise alone.
    """
    partitioner = Partitioner(mesh, self.mesh.rules)
    network = models.build_network(self.model, partitioner)
    if self.adaptation is not None:
      network = self.adaptation.adapt(network)
      paths = trees.flatten(network.shapes)
      if innermost(self.adaptation) is not None and not any(map(network.is_trained, paths)):
        raise FieldError(self, 'adaptation', f'trains none of {", ".join(paths)}')
    return network, partitioner

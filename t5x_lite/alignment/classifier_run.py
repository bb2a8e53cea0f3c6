"""A reward that a classifier gives: how likely a run that classifies texts thinks a class."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Path, Step, check_types
from t5x_lite.core.templates import fill
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Source
from t5x_lite.inference.generator import Generator
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.rewards.reward import Completion, Rater, Rating

Measure = Literal['probability', 'log_odds']


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierRun:
  """What the classifier of a run says of a class, of a prompt and its completion.

  It reads text, by a tokenizer of its own, so its vocabulary may be another than the policy's. An
  empty completion is rated as it is, with its prompt. A text that is longer than the classifier
  reads has 0, and is a fault.
  """
  name: ClassVar[str] = 'classifier'
  model_dir: Path                    # the folder of a run with classes
  label: str                         # the class; its number where the data names none
  template: str = '{prompt}{completion}'   # what is classified
  measure: Measure = 'probability'   # of the class: p, or log p / (1 - p), which has no bounds
  step: Step | None = None           # its checkpoint; None: the newest
  batch_size: Count = 32             # texts at a time

  def __post_init__(self):
    check_types(self)
    if '{completion}' not in self.template:
      raise FieldError(self, 'template', 'has no {completion}: write it where the text belongs')

  def make(self, data: Source) -> Rater:
    """See Reward."""
    from t5x_lite.experiment import gin_config
    from t5x_lite.training.initial_params import load_params
    run = gin_config.load_run(self.model_dir)
    if not run.model.has_classes:
      raise FieldError(self, 'model_dir', f'{self.model_dir} has no classes: it is to be a run '
                       'with ModelConfig.num_classes, as experiments/classify_files.gin trains')
    if run.data.num_texts > 1:
      raise FieldError(self, 'model_dir', f'{self.model_dir} classifies {run.data.num_texts} texts '
                       'together, and a completion is one: choose another')
    labels = [*run.data.labels] or [*run.infer.labels] or [
        str(i) for i in range(run.model.num_classes)]
    if self.label not in labels:
      raise FieldError(self, 'label', f'{self.label!r} is no class of {self.model_dir}: choose '
                       f'from {", ".join(labels)}')
    network, partitioner = run.build_network(run.mesh.make())
    partitioner.check_rows(self)
    params, _ = load_params(run.folder, network, partitioner, self.step, run.data.fingerprint())
    reader = Generator(network, params, partitioner, run.data, batch_size=self.batch_size,
                       placeholders=False)
    scores_of = make_scores(network, partitioner, labels.index(self.label), self.measure)

    def rater(completions: Sequence[Completion]) -> list[Rating]:
      reads = [reader.read(fill(self.template, prompt=one.prompt, completion=one.text))
               for one in completions]
      found = []
      for start in range(0, len(reads), self.batch_size):
        part = [np.asarray(read.ids, np.int32) for read in reads[start:start + self.batch_size]]
        filled = part + part[-1:] * (self.batch_size - len(part))
        batch = partitioner.put_whole(reader.class_batch(filled))
        found += jax.device_get(scores_of(params, batch))[:len(part)].tolist()
      return [Rating(score) if not read.cut else Rating(
          0.0, f'the text is {read.cut} tokens longer than the classifier reads')
              for score, read in zip(found, reads)]

    return rater


def make_scores(network: Network, partitioner: Partitioner, label: int, measure: Measure
                ) -> Callable[[Any, Batch], jax.Array]:
  """Jitted (params, texts) -> float32 probability, or its log odds, of a class for each text."""

  def scores(params, batch):
    log_p_BC = jax.nn.log_softmax(network.bind(params).outputs(batch).class_logits()[:, 0])
    if measure == 'probability':
      return jnp.exp(log_p_BC[:, label])
    others_BC = jnp.where(jnp.arange(log_p_BC.shape[1])[None, :] == label, -jnp.inf, log_p_BC)
    return log_p_BC[:, label] - jax.nn.logsumexp(others_BC, axis=1)

  return jax.jit(scores, out_shardings=partitioner.replicated)

"""Evaluation of parameters on a split of tasks through seqio's Evaluator.

The Evaluator holds the examples, decodes the model's ids, and applies a task's postprocessing and
metrics; this module gives it what the model predicts and how likely the targets are. Loads no
TensorFlow before an evaluation is made, so that gin can read this file anywhere.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from t5x_lite.core.dataclass_checks import (
  Count,
  FieldError,
  Length,
  Step,
  check_types,
  short_repr,
)
from t5x_lite.data.features import Batch
from t5x_lite.data.source import Source
from t5x_lite.evaluation.perplexity import Losses
from t5x_lite.evaluation.scoring import make_score
from t5x_lite.inference.generate import left_pad, make_greedy
from t5x_lite.inference.predict import make_predict
from t5x_lite.models import ModelConfig, Network
from t5x_lite.parallel.partitioner import Partitioner
from tasks.pipeline.imports import import_seqio
from tasks.pipeline.seqio_data import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """Evaluation of a checkpoint on a split of seqio tasks."""
  split: str = 'validation'            # of the tasks
  tasks: Sequence[Any] = ()            # names of tasks, FileTasks; (): those that are trained on
  inputs_length: Length | None = None  # of `tasks` with inputs; None: as the training data has it
  targets_length: Length | None = None   # of `tasks`; None likewise
  num_examples: Count | None = None    # the first so many of each task; None: all
  batch_size: Count = 32               # rows at a time
  step: Step | None = None             # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)
    if isinstance(self.tasks, str):
      raise FieldError(self, 'tasks', f'expected several: write ({short_repr(self.tasks)},)')
    if len(set(self.tasks)) < len(self.tasks):
      raise FieldError(self, 'tasks', 'a task is listed twice')
    for task in self.tasks:
      if not isinstance(task, str) and not hasattr(task, 'register'):
        raise FieldError(self, 'tasks', f'{task!r} is neither the name of a task nor a FileTask')

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> 'SeqioEvaluator | None':
    """The evaluator, its examples read into memory.

    None, or UserError if it is `required`, for tasks without metrics, or without the split that is
    the default; says so. Raises UserError if a split, the tasks or the mesh do not fit.
    """
    if not isinstance(data, DataConfig):
      raise FieldError(self, 'split', f'it is of a seqio task, and Experiment.data is a '
                       f'{type(data).__name__}: set Experiment.eval to None, or to one of its own')
    import_seqio()
    from tasks.pipeline import evaluated
    members = evaluated.members(self, data, network.config, required)
    if not members:
      return None
    partitioner.check_rows(self)
    return SeqioEvaluator(self, network, partitioner, members, seed)


def prompts_of(batch: Batch, config: ModelConfig) -> list[np.ndarray]:
  """What the decoder reads before its first new token, for each row of unpacked features."""
  tokens = batch['decoder_input_tokens']
  if config.family == 'encoder_decoder':
    return list(tokens[:, :1])
  prefix = batch['decoder_causal_attention'].sum(1)
  return [row[:n] for row, n in zip(tokens, prefix)]


def padded_batches(dataset: Any, batch_size: int, task: Any
                   ) -> Iterator[tuple[np.ndarray, Batch, int]]:
  """(indices, features, real rows) of an enumerated dataset; a short batch repeats its last row."""
  from tasks.pipeline import one_line
  from tasks.pipeline.converters import model_batch
  with one_line.user_errors():
    for indices, batch in dataset.batch(batch_size).as_numpy_iterator():
      missing = batch_size - len(indices)
      fill = lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
      features = {name: fill(x) for name, x in batch.items()}
      yield indices, model_batch(features, task), len(indices)


class SeqioEvaluator:
  """The examples of one split of some tasks, ready to be evaluated any number of times."""

  def __init__(self, settings: EvalConfig, network: Network, partitioner: Partitioner,
               members: Sequence[Any], seed: int):
    """Reads the split of all `members`, of evaluated.members, into memory; see EvalConfig.make."""
    from tasks.instruction.chat import chat_of
    from tasks.pipeline import evaluated
    from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer
    config = network.config
    self.config, self.partitioner, self.batch_size = config, partitioner, settings.batch_size
    self.examples = [evaluated.read(member, settings, config, seed) for member in members]
    targets = SeqioTokenizer(members[0].task.output_features['targets'])
    self._score, self._predict = make_score(network, partitioner), None
    if config.family == 'encoder_only' or config.classifies_texts:
      self._predict = make_predict(network, partitioner, num_ids=targets.vocab_size)
    else:
      chat = chat_of(members[0].task)
      self._generate = make_greedy(
          network, partitioner, max_tokens=members[0].data.targets_length,
          eos_id=chat.end_ids if chat else targets.eos_id, pad_id=0, num_ids=targets.vocab_size)

  def __call__(self, params: Any, step: int) -> dict[str, float]:
    """{'task/metric': value} at `params`."""
    found = {}
    for examples in self.examples:
      metrics, _ = examples.evaluator.evaluate(
          compute_metrics=True, step=step, score_fn=lambda ds: self._scores(params, ds, examples),
          predict_fn=lambda ds: self._predictions(params, ds, examples))
      found |= {f'{examples.name}/{name}': float(value)
                for values in metrics.result().values() for name, value in values.items()}
    return found

  def losses(self, params: Any) -> Losses:
    """Sums of the losses of all tasks' targets at `params`, in nats, and of their weights."""
    total = weight = 0.0
    for examples in self.examples:
      dataset = examples.evaluator.cached_model_datasets[examples.task.name]
      scored, sums = self._scores(params, dataset, examples)
      total -= sum(score for _, score in scored)
      weight += sum(sums['tokens'])
    return Losses(total, weight)

  def _scores(self, params, dataset, examples):
    """seqio's score_fn: ([(index, log-likelihood)], {name: the other sums of each row})."""
    scored, sums = [], {}
    for indices, batch, real in padded_batches(dataset, self.batch_size, examples.task):
      got = jax.device_get(self._score(
          params, self.partitioner.put_batch(batch), examples.text_bytes))
      scored += zip(indices.tolist(), got.pop('score')[:real].tolist())
      for name, values in got.items():
        sums.setdefault(name, []).extend(values[:real].tolist())
    return scored, sums

  def _predictions(self, params, dataset, examples):
    """seqio's predict_fn: [(index, ids as seqio has them)]; the class -1 where several are best."""
    from tasks.vocabularies import seqio_ids
    predicted, targets = [], examples.task.output_features['targets'].vocabulary
    for indices, batch, real in padded_batches(dataset, self.batch_size, examples.task):
      if self._predict is not None:
        ids, _, tied = jax.device_get(self._predict(params, self.partitioner.put_batch(batch)))
        ids = np.where(tied, -1, ids) if self.config.has_classes else ids
      else:
        # A decoder beside an encoder is prompted by one id, which needs no padding.
        prompt, valid = left_pad(prompts_of(batch, self.config), 0, multiple=(
            1 if self.config.family == 'encoder_decoder' else 32))
        put = self.partitioner.put_batch(dict(batch, prompt=prompt, valid=valid))
        ids = jax.device_get(self._generate(
            params, put, put.pop('prompt'), put.pop('valid')).tokens)
      predicted += zip(indices.tolist(), seqio_ids(targets, ids[:real]))
    return predicted

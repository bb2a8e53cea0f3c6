"""Evaluation of parameters on a task's split through seqio's Evaluator.

The Evaluator holds the examples, decodes the model's ids, and applies the task's postprocessing
and metrics; this module gives it what the model predicts and how likely the targets are. Loads no
TensorFlow before an evaluation is made, so that gin can read this file anywhere.
"""

from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
import numpy as np

from t5x_lite.core.dataclass_checks import Count, FieldError, Step, check_types, nearest
from t5x_lite.data.features import Batch, for_model
from t5x_lite.data.source import Source
from t5x_lite.evaluation.scoring import make_score
from t5x_lite.inference.generate import left_pad, make_generate
from t5x_lite.inference.predict import make_predict
from t5x_lite.models import ModelConfig, Network
from t5x_lite.parallel.partitioner import Partitioner
from tasks.pipeline.imports import import_seqio
from tasks.pipeline.seqio_data import DataConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """Evaluation of a checkpoint on a split of the experiment's seqio task."""
  split: str = 'validation'         # of the task
  num_examples: Count | None = None   # the first so many; None: all
  batch_size: Count = 32            # rows at a time
  step: Step | None = None          # the checkpoint `t5x-lite eval` reads; None: the newest

  def __post_init__(self):
    check_types(self)

  def make(self, network: Network, partitioner: Partitioner, data: Source, seed: int, *,
           required: bool = False) -> 'SeqioEvaluator | None':
    """The evaluator, its examples read into memory.

    None, or UserError if it is `required`, for a task without metrics on the split. Raises
    UserError if the task or the mesh do not fit.
    """
    if not isinstance(data, DataConfig):
      raise FieldError(self, 'split', f'it is of a seqio task, and Experiment.data is a '
                       f'{type(data).__name__}: set Experiment.eval to None, or to one of its own')
    seqio = import_seqio()
    from tasks.pipeline import provider
    task = provider.get_task(data)
    provider.check_vocabulary(task, network.config)
    tasks = seqio.get_subtasks(task)
    splits = sorted({split for t in tasks for split in t.splits})
    if not any(self.split in t.splits and t.metric_objs for t in tasks):
      if not required:
        return None
      why = 'has no metrics for it' if self.split in splits else nearest(self.split, splits)
      raise FieldError(self, 'split', f'task {task.name!r}: {why}')
    partitioner.check_rows(self)
    return SeqioEvaluator(self, network, partitioner, data, task, seed)


def prompts_of(batch: Batch, config: ModelConfig) -> list[np.ndarray]:
  """What the decoder reads before its first new token, for each row of unpacked features."""
  tokens = batch['decoder_input_tokens']
  if config.family == 'encoder_decoder':
    return list(tokens[:, :1])
  prefix = batch['decoder_causal_attention'].sum(1)
  return [row[:n] for row, n in zip(tokens, prefix)]


def padded_batches(dataset: Any, batch_size: int, tokenizer: Any
                   ) -> Iterator[tuple[np.ndarray, Batch, int]]:
  """(indices, features, real rows) of an enumerated dataset; a short batch repeats its last row."""
  from tasks.files.source import file_errors
  with file_errors():
    for indices, batch in dataset.batch(batch_size).as_numpy_iterator():
      missing = batch_size - len(indices)
      fill = lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
      features = {name: fill(x) for name, x in batch.items()}
      yield indices, for_model(features, tokenizer), len(indices)


class SeqioEvaluator:
  """The examples of one split, ready to be evaluated any number of times."""

  def __init__(self, settings: EvalConfig, network: Network, partitioner: Partitioner,
               data: DataConfig, task: Any, seed: int):
    """Reads the split of `task`, the task of `data`, into memory; see EvalConfig.make."""
    seqio = import_seqio()
    from tasks.pipeline import converters, provider
    from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer
    config = network.config
    self.config, self.data, self.partitioner = config, data, partitioner
    self.batch_size = settings.batch_size
    targets = SeqioTokenizer(task.output_features['targets'])
    self.tokenizer = provider.text_tokenizer(task)
    converter = converters.feature_converter(task, config, packing='none')
    self.evaluator = seqio.Evaluator(
        task.name, converter, eval_split=settings.split, sequence_length=data.lengths,
        num_examples=settings.num_examples, async_compute_metrics=False, seed=seed)
    text = config.num_classes is None
    self._score = make_score(network, partitioner, targets.byte_lengths() if text else None)
    if config.family == 'encoder_only':
      self._predict = make_predict(network, partitioner)
    else:
      self._generate = make_generate(
          network, partitioner, max_tokens=data.targets_length, temperature=0.0,
          eos_id=targets.eos_id, pad_id=self.tokenizer.pad_id, num_ids=targets.vocab_size)

  def __call__(self, params: Any, step: int) -> dict[str, float]:
    """{'task/metric': value} at `params`."""
    metrics, _ = self.evaluator.evaluate(
        compute_metrics=True, step=step, score_fn=lambda ds: self._scores(params, ds),
        predict_fn=lambda ds: self._predictions(params, ds))
    return {f'{self.data.display_name(task)}/{name}': float(value)
            for task, values in metrics.result().items() for name, value in values.items()}

  def _scores(self, params, dataset):
    """seqio's score_fn: ([(index, log-likelihood)], {name: the other sums of each row})."""
    scored, sums = [], {}
    for indices, batch, real in padded_batches(dataset, self.batch_size, self.tokenizer):
      got = jax.device_get(self._score(params, self.partitioner.put_batch(batch)))
      scored += zip(indices.tolist(), got.pop('score')[:real].tolist())
      for name, values in got.items():
        sums.setdefault(name, []).extend(values[:real].tolist())
    return scored, sums

  def _predictions(self, params, dataset):
    """seqio's predict_fn: [(index, ids)]."""
    predicted = []
    for indices, batch, real in padded_batches(dataset, self.batch_size, self.tokenizer):
      if self.config.family == 'encoder_only':
        ids, _ = jax.device_get(self._predict(params, self.partitioner.put_batch(batch)))
      else:
        prompt, valid = left_pad(prompts_of(batch, self.config), self.tokenizer.pad_id)
        put = self.partitioner.put_batch(dict(batch, prompt=prompt, valid=valid))
        ids, _ = jax.device_get(self._generate(
            params, put, put.pop('prompt'), put.pop('valid'), jax.random.key(0)))
      predicted += zip(indices.tolist(), ids[:real])
    return predicted

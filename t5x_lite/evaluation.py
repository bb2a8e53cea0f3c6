"""Evaluation of parameters on a task's split through seqio's Evaluator.

The Evaluator holds the examples, decodes the model's ids, and applies the task's postprocessing
and metrics; this module gives it what the model predicts and how likely the targets are.
"""

from collections.abc import Iterator
import importlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checkpointing, decoding, input_pipeline, models
from t5x_lite.errors import UserError
from t5x_lite.experiment import Experiment
from t5x_lite.input_pipeline import Batch
from t5x_lite.models import ModelConfig
from t5x_lite.partitioning import Partitioner
from t5x_lite.validation import FieldError, nearest


def make_score(config: ModelConfig, partitioner: Partitioner, byte_lengths: np.ndarray | None):
  """Jitted (params, batch) -> sums of each row, [batch] float32.

  They are log p(target), that of the targets that stand for text, the weights, the bytes of text
  and the hits. `byte_lengths` is [vocab], the bytes each id stands for; None if ids are classes.
  """
  graphdef, _ = models.graph(config, partitioner)
  side = models.FAMILIES[config.family].target

  def score(params, batch):
    logits = nnx.merge(graphdef, params)(batch)
    targets = batch[f'{side}_target_tokens']
    weights = batch[f'{side}_loss_weights'].astype(jnp.float32)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    hits = (logits.argmax(-1) == targets) * weights
    sums = {'score': log_p * weights, 'tokens': weights, 'correct': hits}
    if byte_lengths is not None:
      size = jnp.asarray(byte_lengths)[targets] * (weights > 0)
      sums |= {'bytes': size, 'text': log_p * weights * (size > 0)}
    return {name: x.sum(1) for name, x in sums.items()}

  return jax.jit(score, out_shardings=partitioner.replicated)


def make_predict(config: ModelConfig, partitioner: Partitioner):
  """Jitted (params, batch) -> (best id of each position, its log-likelihood); encoder-only."""
  graphdef, _ = models.graph(config, partitioner)

  def predict(params, batch):
    log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(batch))
    return log_p.argmax(-1), log_p.max(-1)

  return jax.jit(predict, out_shardings=partitioner.replicated)


def prompts_of(batch: Batch, config: ModelConfig) -> list[np.ndarray]:
  """What the decoder reads before its first new token, for each row of unpacked features."""
  tokens = batch['decoder_input_tokens']
  if config.family == 'encoder_decoder':
    return list(tokens[:, :1])
  prefix = batch['decoder_causal_attention'].sum(1)
  return [row[:n] for row, n in zip(tokens, prefix)]


def rows(dataset: Any, batch_size: int, vocabulary: Any) -> Iterator[tuple[np.ndarray, Batch, int]]:
  """(indices, features, real rows) of an enumerated dataset; a short batch repeats its last row."""
  for indices, batch in dataset.batch(batch_size).as_numpy_iterator():
    missing = batch_size - len(indices)
    fill = lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
    yield indices, input_pipeline.for_model(
        {name: fill(x) for name, x in batch.items()}, vocabulary), len(indices)


class Evaluation:
  """The examples of one split, ready to be evaluated any number of times."""

  def __init__(self, experiment: Experiment, partitioner: Partitioner, task: Any):
    """Reads the split of `task`, the experiment's, into memory.

    Raises UserError if the task, split or mesh do not fit.
    """
    seqio = input_pipeline.import_seqio()
    config, data, settings = experiment.model, experiment.data, experiment.eval
    input_pipeline.check_vocabulary(task, config)
    splits = sorted({s for t in seqio.get_subtasks(task) for s in t.splits})
    if settings.split not in splits:
      raise FieldError(settings, 'split', f'task {task.name!r}: {nearest(settings.split, splits)}')
    self.config, self.data, self.partitioner = config, data, partitioner
    self.batch_size = settings.batch_size
    partitioner.check_rows(settings)
    self.targets = task.output_features['targets']
    self.vocabulary = input_pipeline.text_vocabulary(task)
    self.pad_id = self.vocabulary.pad_id
    converter = input_pipeline.feature_converter(task, config, packing='none')
    self.evaluator = seqio.Evaluator(
        task.name, converter, eval_split=settings.split, sequence_length=data.lengths,
        num_examples=settings.num_examples, async_compute_metrics=False, seed=experiment.seed)
    if not self.evaluator.eval_tasks:
      raise UserError(f'Task {task.name!r} has no metrics for split {settings.split!r}')
    vocabularies = importlib.import_module('tasks.vocabularies')
    text = config.num_classes is None
    self._score = make_score(config, partitioner, vocabularies.byte_lengths(
        self.targets.vocabulary) if text else None)
    if config.family == 'encoder_only':
      self._predict = make_predict(config, partitioner)
    else:
      self._generate = decoding.make_generate(
          config, partitioner, max_tokens=data.targets_length, temperature=0.0,
          eos_id=self.targets.vocabulary.eos_id, pad_id=self.pad_id,
          num_ids=self.targets.vocabulary.vocab_size)

  def __call__(self, params: Any, step: int) -> dict[str, float]:
    """{'task/metric': value} at `params`."""
    metrics, _ = self.evaluator.evaluate(
        compute_metrics=True, step=step, score_fn=lambda ds: self._scores(params, ds),
        predict_fn=lambda ds: self._predictions(params, ds))
    return {f'{self.data.shown(task)}/{name}': float(value)
            for task, values in metrics.result().items() for name, value in values.items()}

  def _scores(self, params, dataset):
    """seqio's score_fn: ([(index, log-likelihood)], {name: the other sums of each row})."""
    scored, sums = [], {}
    for indices, batch, real in rows(dataset, self.batch_size, self.vocabulary):
      got = jax.device_get(self._score(params, self.partitioner.put_batch(batch)))
      scored += zip(indices.tolist(), got.pop('score')[:real].tolist())
      for name, values in got.items():
        sums.setdefault(name, []).extend(values[:real].tolist())
    return scored, sums

  def _predictions(self, params, dataset):
    """seqio's predict_fn: [(index, ids)]."""
    predicted = []
    for indices, batch, real in rows(dataset, self.batch_size, self.vocabulary):
      if self.config.family == 'encoder_only':
        ids, _ = jax.device_get(self._predict(params, self.partitioner.put_batch(batch)))
      else:
        prompt, valid = decoding.left_pad(prompts_of(batch, self.config), self.pad_id)
        put = self.partitioner.put_batch(dict(batch, prompt=prompt, valid=valid))
        ids, _ = jax.device_get(self._generate(
            params, put, put.pop('prompt'), put.pop('valid'), jax.random.key(0)))
      predicted += zip(indices.tolist(), ids[:real])
    return predicted


def evaluate(experiment: Experiment) -> dict[str, float]:
  """Metrics of a checkpoint of the run (eval.step, or the newest) on its evaluation split."""
  partitioner = Partitioner(experiment.mesh.make(), experiment.mesh.rules)
  task = input_pipeline.get_task(experiment.data)
  params, step = checkpointing.load_params(experiment.folder, experiment.model, partitioner,
                                           experiment.eval.step, input_pipeline.fingerprint(task))
  return Evaluation(experiment, partitioner, task)(params, step)

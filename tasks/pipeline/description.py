"""What a run will read of its data: a table of the members of its mixture, and examples of each."""

from collections.abc import Iterable, Mapping
import dataclasses
import itertools
import re
from typing import Any

import numpy as np
import seqio

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch
from t5x_lite.experiment import Experiment
from tasks import vocabularies
from tasks.pipeline import caching, one_line, schedules, trimming
from tasks.pipeline.converters import feature_converter, model_batch
from tasks.pipeline.provider import check_split, feature_lengths, get_task
from tasks.pipeline.seqio_data import DataConfig

SAMPLE = 500     # examples of the source that are read of each member
NUM_RENDERED = 5
# Up to four epochs, repeated text is worth nearly as much as new text (Muennighoff et al. 2023,
# "Scaling Data-Constrained Language Models", section 6).
HARMLESS_EPOCHS = 4.0
_MARKS = '⟦⟧'   # where there are no colours
_LOSS, _CONTEXT, _PLAIN = '\033[32m', '\033[90m', '\033[0m'


@dataclasses.dataclass(frozen=True)
class Member:
  """One task of a mixture, as its sample shows it.

  Attributes:
    name: of the task.
    share: of the examples drawn.
    token_share: of the tokens drawn.
    examples: in the source; None if unknown.
    tokens: in all of them, of its outputs: counted in a cache, else estimated from the sample;
      None likewise.
    epochs: times that each token is seen in the planned steps; None likewise.
    mean_length, p95_length: tokens of each feature of an example that reaches the model.
    truncated: share of the tokens that are truncated.
    filled: share of a row's positions that hold a token.
    rendered: rendered examples.
  """

  name: str
  share: float
  token_share: float
  examples: int | None
  tokens: float | None
  epochs: float | None
  mean_length: dict[str, float]
  p95_length: dict[str, float]
  truncated: float
  filled: float
  rendered: tuple[str, ...]


def describe(experiment: Experiment) -> list[Member]:
  """The members of an experiment's training data, the largest share first.

  Raises UserError as provider.get_task, provider.check_split and caching.use_cache.
  """
  data = experiment.data
  if not isinstance(data, DataConfig):
    raise UserError(f'the data is {type(data).__name__}, and data describe shows rows of a '
                    'DataConfig: what is wrong with others is said before the first step')
  provider = get_task(data)
  check_split(provider, data)
  caching.use_cache(provider, data)
  rates = _rates(provider, experiment)
  tasks = sorted(rates, key=lambda t: (-rates[t], t.name))
  with one_line.user_errors():
    samples = [_Sample(task, experiment) for task in tasks]
  shares = np.asarray([rates[t] for t in tasks]) / sum(rates.values())
  tokens_of_example = np.asarray([s.tokens_of_example for s in samples])
  if data.rate_schedule:   # rates of rows
    shares = shares * [s.filled for s in samples] / tokens_of_example
    shares /= shares.sum()
  token_shares = shares * tokens_of_example / (shares * tokens_of_example).sum()
  length = sum(data.lengths.values())
  # A row of a mixture is filled as its members fill theirs, each for its share of the tokens.
  filled = 1 / sum(share / s.filled for share, s in zip(token_shares, samples))
  drawn = experiment.train.steps * data.batch_size * length * filled
  members = []
  for task, share, token_share, sample in zip(tasks, shares, token_shares, samples):
    examples = task.num_input_examples(data.split)
    tokens = None if examples is None else examples * sample.tokens_of_source
    if counted := caching.cached_counts(task, data):
      examples, tokens = counted['examples'], caching.total_tokens(counted) * sample.growth
    members.append(Member(
        data.display_name(task.name), float(share), float(token_share), examples, tokens,
        None if not tokens else float(token_share * drawn / tokens), sample.mean, sample.p95,
        sample.truncated, sample.filled, sample.rendered))
  return members


def _rates(provider, experiment: Experiment) -> dict[seqio.Task, float]:
  """How often each task is drawn, over all steps; those that never are, are left out."""
  data = experiment.data
  if isinstance(provider, seqio.Task):
    return {provider: 1.0}
  tasks = [t for t in provider.tasks if data.split in t.splits]
  if data.rate_schedule:
    means = dict(zip(provider.rate_per_task_name,
                     schedules.mean_rates(data.rate_schedule, experiment.train.steps)))
    rates = {t: float(means[t.name]) for t in tasks}
  else:
    rates = {t: provider.get_rate(t) for t in tasks}
  return {t: rate for t, rate in rates.items() if rate}


class _Sample:
  """Some examples of a task, and what can be measured on them."""

  def __init__(self, task: seqio.Task, experiment: Experiment):
    data = experiment.data
    lengths = feature_lengths(task, data)
    source = task.source.get_dataset(split=data.split, shuffle=True, seed=experiment.seed)
    source = source.take(SAMPLE).cache()
    read = sum(1 for _ in source)
    with seqio.utils.map_seed_manager(experiment.seed):
      tokenized = task.preprocess_precache(source, seed=experiment.seed).cache()
      ds = task.preprocess_postcache(tokenized, lengths, seed=experiment.seed)
      examples = list(ds.as_numpy_iterator())
    if not examples:
      raise UserError(f'{data.display_name(task.name)}: none of the {read} examples that were read '
                      f'of {data.split!r} reaches the model: raise the lengths, or mend the data')
    sizes = {name: np.array([len(ex[name]) for ex in examples]) for name in data.lengths}
    cut = {name: np.minimum(size, data.lengths[name]) for name, size in sizes.items()}
    kept = sum(size.sum() for size in cut.values())
    self.mean = {name: float(size.mean()) for name, size in cut.items()}
    self.p95 = {name: float(np.percentile(size, 95)) for name, size in cut.items()}
    lost = sum(trimming.tokens_cut(ex, name, task.output_features[name], length)
               for ex in examples for name, length in data.lengths.items())
    self.truncated = float(lost / (kept + lost))
    self.tokens_of_example = kept / len(examples)
    self.tokens_of_source = float(kept / read)
    if task.supports_caching:   # of a token, when it is tokenised
      self.growth = float(kept / sum(len(ex[name]) for ex in tokenized.as_numpy_iterator()
                                     for name in data.lengths if name in ex))
    trimmed = [{name: ex[name][:n] for name, n in lengths.items()} for ex in examples]
    self.filled = _filled(trimmed, task, experiment)
    rendered = _convert(trimmed[:NUM_RENDERED], task, experiment, 'none')
    self.rendered = tuple(_render(row, task, experiment) for row in rendered)


def _dataset(examples: Iterable[Mapping[str, np.ndarray]]):
  import tensorflow as tf
  examples = list(examples)
  spec = {name: tf.TensorSpec([None], tf.as_dtype(x.dtype)) for name, x in examples[0].items()}
  return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=spec)


def _convert(examples, task, experiment, packing: str) -> list[Batch]:
  data = experiment.data
  converter = feature_converter(task, experiment.model, packing)
  lengths = feature_lengths(task, data)
  rows = converter(_dataset(examples), lengths).batch(1).as_numpy_iterator()
  return [model_batch(row, task) for row in rows]


def _filled(examples, task, experiment) -> float:
  """The share of the positions of packed rows that hold a token."""
  held = [row[name] > 0 for row in _convert(examples, task, experiment, experiment.data.packing)
          for name in row if name.endswith('_segment_ids')]
  return float(sum(x.sum() for x in held) / sum(x.size for x in held))


def _render(row: Batch, task, experiment) -> str:
  """An example as the model meets it: green where there is a loss, grey where there is none."""
  side = 'encoder' if experiment.model.family == 'encoder_only' else 'decoder'
  lines = []
  if 'encoder_input_tokens' in row:
    vocabulary = task.output_features['inputs'].vocabulary
    ids = row['encoder_input_tokens'][0][row['encoder_segment_ids'][0] > 0]
    lines.append(f'{_CONTEXT}{_text(vocabulary, ids)}{_PLAIN}')
  if 'class_labels' in row:   # of texts that a decoder reads, a line each
    vocabulary, segments = task.output_features['inputs'].vocabulary, row['decoder_segment_ids'][0]
    learned = row['decoder_loss_weights'][0] > 0
    texts = [row['decoder_target_tokens'][0][learned & (segments == i + 1)]
             for i in range(segments.max())]
    lines += [f'{_LOSS}{_text(vocabulary, ids)}{_PLAIN}' for ids in texts]
    return '\n'.join([*lines, f'{_LOSS}{row["class_labels"][0]}{_PLAIN}'])
  vocabulary = task.output_features['targets'].vocabulary
  targets, weights = row[f'{side}_target_tokens'][0], row[f'{side}_loss_weights'][0] > 0
  if isinstance(vocabulary, seqio.PassThroughVocabulary):
    lines.append(f'{_LOSS}{targets[0]}{_PLAIN}')
    return '\n'.join(lines)
  if side == 'decoder':
    held = row['decoder_segment_ids'][0] > 0
    targets, weights = targets[held], weights[held]
  for loss, positions in itertools.groupby(range(len(targets)), key=lambda i: bool(weights[i])):
    if loss or side == 'decoder':
      text = _text(vocabulary, targets[list(positions)])
      lines.append(f'{_LOSS if loss else _CONTEXT}{text}{_PLAIN}')
  if side == 'encoder':   # the tokens to guess, one after the other
    lines[1:] = [' '.join(lines[1:])]
  if 'targets_loss_weights' in task.output_features:   # one text, in which some is learned
    return ''.join(lines)
  return '\n'.join(lines)


def _text(vocabulary: seqio.Vocabulary, ids: np.ndarray) -> str:
  return vocabularies.spell(vocabulary, vocabularies.seqio_ids(vocabulary, ids))


def as_text(members: list[Member], colour: bool) -> str:
  """The table, a warning for each member that is repeated too often, and the examples."""
  number = lambda x, form=',.0f': '?' if x is None else format(x, form)
  lines = [f'{"":<32}{"share":>8}{"tokens":>8}{"examples":>12}{"tokens":>16}{"epochs":>11}'
           f'{"mean":>7}{"95 %":>6}{"cut":>7}{"filled":>8}']
  for m in members:
    lines.append(
        f'{m.name[:31]:<32}{100 * m.share:>7.2f}%{100 * m.token_share:>7.2f}%'
        f'{number(m.examples):>12}{number(m.tokens):>16}{number(m.epochs, ",.2f"):>11}'
        f'{sum(m.mean_length.values()):>7.0f}{sum(m.p95_length.values()):>6.0f}'
        f'{100 * m.truncated:>6.1f}%{100 * m.filled:>7.1f}%')
  for m in members:
    if m.epochs is not None and m.epochs > HARMLESS_EPOCHS:
      lines.append(f'warning: {m.name} is seen {m.epochs:.1f} times; repeating it more than '
                   f'{HARMLESS_EPOCHS:.0f} times is worth less than new text')
  for m in members:
    sign = 'green' if colour else f'{_MARKS[0]}…{_MARKS[1]}'
    lines.append(f'\n{m.name}: {len(m.rendered)} examples ({sign}: what is to be learned)')
    shown = m.rendered if colour else map(_marked, m.rendered)
    lines += [text for rendered in shown for text in ('-' * 20, rendered)]
  return '\n'.join(lines)


def _marked(rendered: str) -> str:
  """Without colours: what is learned is in brackets."""
  pieces = re.split(f'({"|".join(map(re.escape, (_LOSS, _CONTEXT, _PLAIN)))})', rendered)
  loss, found = False, []
  for piece in pieces:
    if piece == _PLAIN:
      found.append(_MARKS[1] if loss else '')
    elif piece in (_LOSS, _CONTEXT):
      loss = piece == _LOSS
      found.append(_MARKS[0] if loss else '')
    else:
      found.append(piece)
  return ''.join(found)


def as_json(members: list[Member]) -> list[dict[str, Any]]:
  """The same as plain values, without examples."""
  return [{k: v for k, v in dataclasses.asdict(m).items() if k != 'rendered'} for m in members]

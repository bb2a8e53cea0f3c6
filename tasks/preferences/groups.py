"""Groups of responses to one prompt as the features of a batch: [groups, responses, length].

Groups lead, so that neither microbatches nor a mesh part one. A row has one response, on the right
of its prompt in a decoder; of an encoder-decoder the encoder reads the prompt, once a group.
"""

# B groups, K responses, L length of a row

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, decoder_rows

_SIDE = ('input_tokens', 'target_tokens', 'loss_weights', 'segment_ids', 'positions')


@dataclasses.dataclass(frozen=True)
class Group:
  """One prompt and the responses to it.

  Attributes:
    prompt: ids of a model [prompt length].
    responses: ids of each response, its end token included.
    scores: float32 [responses], larger is better; NaN of a response that is not compared.
  """

  prompt: np.ndarray
  responses: tuple[np.ndarray, ...]
  scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class GroupShape:
  """What all batches of a run are like.

  Attributes:
    responses: K, rows of a group.
    prompt, response: the longest, in tokens; the response with its end token.
    encoder: whether an encoder reads the prompt.
    start_id: what a decoder reads before the first token.
    prefix_lm: whether the tokens of a prompt see each other both ways.
  """

  responses: int
  prompt: int
  response: int
  encoder: bool
  start_id: int
  prefix_lm: bool = False


def split_group(example: Mapping[str, np.ndarray], shape: GroupShape, where: str) -> Group:
  """The group of an example of a task.

  Args:
    example: `inputs`, `targets`, `response_lengths`, `response_scores`, each of one dimension, with
      the ids of the model.
    shape: which it has to fit.
    where: the task, for messages.

  Raises:
    UserError: there is no prompt or response, the lengths are not those of the targets, a score is
      not finite, or the prompt or a response is too long.
  """
  prompt, targets = example['inputs'], example['targets']
  lengths, scores = example['response_lengths'], example['response_scores']
  if not len(prompt):
    raise UserError(f'{where} has an example without a prompt: leave it out in a preprocessor')
  if not len(lengths) or lengths.min() < 1 or lengths.sum() != len(targets) or (
      len(scores) != len(lengths)):
    raise UserError(f'{where} has an example with {len(targets)} ids of targets, response_lengths '
                    f'{lengths.tolist()} and {len(scores)} response_scores: these lengths must be '
                    '1 or more and add up to the targets, with a score for each')
  if not np.isfinite(scores).all():
    raise UserError(f'{where} has an example with the response_scores {scores.tolist()}, which are '
                    'not finite: leave it out in a preprocessor')
  for field, longest, size in (('inputs_length', shape.prompt, len(prompt)),
                               ('targets_length', shape.response, lengths.max())):
    if size > longest:
      what = 'prompt' if field == 'inputs_length' else 'response'
      raise UserError(f'{where} has a {what} of {size} tokens, and PreferenceData.{field} is '
                      f'{longest}: raise it, or leave the example out in a preprocessor')
  ends = np.cumsum(lengths)
  return Group(prompt, tuple(np.split(targets, ends[:-1])), scores.astype(np.float32))


def choose_responses(group: Group, number: int) -> Group:
  """At most so many responses, the best one first.

  Of more there are left the best, the worst, and those evenly ranked between; equal scores stay in
  their order.
  """
  order = np.argsort(-group.scores, kind='stable')
  if len(order) > number:
    order = order[np.round(np.linspace(0, len(order) - 1, number)).astype(int)]
  return Group(group.prompt, tuple(group.responses[i] for i in order), group.scores[order])


def mismatch(groups: Sequence[Group], following: Group) -> list[Group]:
  """Groups of one response, each with the response of the next one beside it, which has no score.

  The log-probabilities of the second are the baseline of KTO (Ethayarajh et al. 2024), as trl
  estimates it.

  Args:
    groups: in order.
    following: what comes after the last.
  """
  return [Group(group.prompt, (*group.responses, *other.responses),
                np.asarray([*group.scores, np.nan], np.float32))
          for group, other in zip(groups, [*groups[1:], following])]


def batch_groups(groups: Sequence[Group], shape: GroupShape, number: int) -> Batch:
  """Rows of groups, the first of `number` of a batch; the others are padding.

  `decoder_*` features are int32 [number, K, length], with a loss weight of 1 on responses, and
  `encoder_*` [number, prompt length]. `response_scores` is float32 [number, K], NaN where there is
  no response. A prompt [7, 8] with the responses [5, 1] and [6, 4, 1], at length 2 + 3:

      decoder_input_tokens  [[0, 7, 8, 5, 0], [0, 7, 8, 6, 4]]
      decoder_target_tokens [[7, 8, 5, 1, 0], [7, 8, 6, 4, 1]]
      decoder_loss_weights  [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
      decoder_segment_ids   [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
      decoder_positions     [[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]]
  """
  K, L = shape.responses, shape.response + (0 if shape.encoder else shape.prompt)
  batch = {f'decoder_{name}': np.zeros((number, K, L), np.int32) for name in _SIDE}
  batch['response_scores'] = np.full((number, K), np.nan, np.float32)
  if shape.encoder:
    batch |= {f'encoder_{name}': np.zeros((number, shape.prompt), np.int32)
              for name in ('input_tokens', 'segment_ids', 'positions')}
  elif shape.prefix_lm:
    batch['decoder_causal_attention'] = np.zeros((number, K, L), np.int32)
  for b, group in enumerate(groups):
    size = len(group.prompt)
    if shape.encoder:
      batch['encoder_input_tokens'][b, :size] = group.prompt
      batch['encoder_segment_ids'][b, :size] = 1
      batch['encoder_positions'][b, :size] = np.arange(size)
    batch['response_scores'][b, :len(group.scores)] = group.scores
    before = [shape.start_id, *(() if shape.encoder else group.prompt)]
    rows = decoder_rows([before] * len(group.responses), group.responses, L)
    for name, x in rows.items():
      batch[name][b, :len(x)] = x
    if 'decoder_causal_attention' in batch:   # with the position that predicts the first token
      batch['decoder_causal_attention'][b, :len(group.responses), :size + 1] = 1
  return batch

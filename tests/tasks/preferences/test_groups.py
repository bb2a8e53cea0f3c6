"""Groups as rows of a batch, on literal ids."""

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from tasks.preferences.groups import (
  Group,
  GroupShape,
  batch_groups,
  choose_responses,
  mismatch,
  split_group,
)

SHAPE = GroupShape(responses=2, prompt=2, response=3, encoder=False, start_id=0)


def group(prompt, responses, scores) -> Group:
  return Group(np.asarray(prompt), tuple(map(np.asarray, responses)),
               np.asarray(scores, np.float32))


PAIR = group([7, 8], [[5, 1], [6, 4, 1]], [1, 0])
SHORT = group([9], [[0, 1]], [3])   # a token may have the id 0


def test_a_decoder_reads_the_prompt_before_each_response():
  batch = batch_groups([PAIR, SHORT], SHAPE, 3)
  found = {name.removeprefix('decoder_'): x.tolist() for name, x in batch.items()}
  none = [0] * 5
  scores = found.pop('response_scores')
  assert found == {
      'input_tokens': [[[0, 7, 8, 5, 0], [0, 7, 8, 6, 4]], [[0, 9, 0, 0, 0], none], [none] * 2],
      'target_tokens': [[[7, 8, 5, 1, 0], [7, 8, 6, 4, 1]], [[9, 0, 1, 0, 0], none], [none] * 2],
      'loss_weights': [[[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]], [[0, 1, 1, 0, 0], none], [none] * 2],
      'segment_ids': [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[1, 1, 1, 0, 0], none], [none] * 2],
      'positions': [[[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]], [[0, 1, 2, 0, 0], none], [none] * 2]}
  assert str(scores) == '[[1.0, 0.0], [3.0, nan], [nan, nan]]'
  assert {x.dtype.name for name, x in batch.items()} == {'int32', 'float32'}
  assert batch['response_scores'].dtype == np.float32


def test_an_encoder_reads_the_prompt_once():
  shape = GroupShape(responses=2, prompt=3, response=4, encoder=True, start_id=2)
  batch = batch_groups([PAIR], shape, 2)
  assert {name: x[0].tolist() for name, x in batch.items() if name != 'response_scores'} == {
      'encoder_input_tokens': [7, 8, 0], 'encoder_segment_ids': [1, 1, 0],
      'encoder_positions': [0, 1, 0],
      'decoder_input_tokens': [[2, 5, 0, 0], [2, 6, 4, 0]],
      'decoder_target_tokens': [[5, 1, 0, 0], [6, 4, 1, 0]],
      'decoder_loss_weights': [[1, 1, 0, 0], [1, 1, 1, 0]],
      'decoder_segment_ids': [[1, 1, 0, 0], [1, 1, 1, 0]],
      'decoder_positions': [[0, 1, 0, 0], [0, 1, 2, 0]]}
  assert not any(batch[name][1].any() for name in batch if name != 'response_scores')


def test_a_prefix_is_the_prompt_as_seqio_has_it():
  shape = GroupShape(responses=2, prompt=2, response=3, encoder=False, start_id=0, prefix_lm=True)
  batch = batch_groups([PAIR], shape, 1)
  assert batch['decoder_causal_attention'].tolist() == [[[1, 1, 1, 0, 0]] * 2]


def test_of_many_responses_the_best_the_worst_and_those_between_are_left():
  many = group([7], [[i, 1] for i in range(9)], [3, 8, 1, 5, 7, 0, 4, 2, 6])
  kept = lambda number: choose_responses(many, number).scores.tolist()
  assert kept(2) == [8, 0] and kept(3) == [8, 4, 0] and kept(5) == [8, 6, 4, 2, 0]
  assert kept(9) == kept(12) == [*range(8, -1, -1)]
  chosen = choose_responses(many, 3)
  assert [r[0] for r in chosen.responses] == [1, 6, 5]
  level = choose_responses(group([7], [[3, 1], [4, 1], [5, 1]], [0, 0, 1]), 3)
  assert [r[0] for r in level.responses] == [5, 3, 4]


def test_a_thumb_has_the_next_response_beside_it():
  thumbs = [group([i], [[i + 10, 1]], [i % 2]) for i in range(3)]
  found = mismatch(thumbs, thumbs[0])
  assert [[r[0] for r in g.responses] for g in found] == [[10, 11], [11, 12], [12, 10]]
  assert [g.prompt.tolist() for g in found] == [[0], [1], [2]]
  assert str([g.scores.tolist() for g in found]) == '[[0.0, nan], [1.0, nan], [0.0, nan]]'


def example(inputs=(7, 8), targets=(5, 1, 6, 4, 1), lengths=(2, 3), scores=(1, 0)):
  return {'inputs': np.asarray(inputs, np.int32), 'targets': np.asarray(targets, np.int32),
          'response_lengths': np.asarray(lengths, np.int32),
          'response_scores': np.asarray(scores, np.float32)}


def test_an_example_is_split_into_its_responses():
  found = split_group(example(), SHAPE, 'Task')
  assert found.prompt.tolist() == [7, 8] and found.scores.tolist() == [1, 0]
  assert [r.tolist() for r in found.responses] == [[5, 1], [6, 4, 1]]


@pytest.mark.parametrize('bad, message', [
    (dict(inputs=()), 'Task has an example without a prompt'),
    (dict(lengths=(2, 2)), r'with 5 ids of targets, response_lengths \[2, 2\] and 2 response_scor'),
    (dict(lengths=(5, 0)), r'response_lengths \[5, 0\]'),
    (dict(lengths=(), targets=(), scores=()), r'response_lengths \[\]'),
    (dict(scores=(1,)), 'and 1 response_scores: these lengths must be'),
    (dict(scores=(1, np.inf)), 'which are not finite'),
    (dict(inputs=(1, 2, 3)), 'a prompt of 3 tokens, and PreferenceData.inputs_length is 2: raise'),
    (dict(lengths=(1, 4)), 'a response of 4 tokens, and PreferenceData.targets_length is 3'),
])
def test_examples_of_a_task_that_are_not_as_they_should_be(bad, message):
  with pytest.raises(UserError, match=message):
    split_group(example(**bad), SHAPE, 'Task')

"""The first batch of a source that is wrong in one way or another: one line before any compile."""

import itertools
import types

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.training.source_checks import check_batch, checked

SMALL = dict(vocab_size=50, embed_dim=8, num_layers=1, num_heads=1, mlp_dim=8)
MODEL = ModelConfig(family='decoder_only', **SMALL)
OBJECTIVES = (CrossEntropy(),)
DATA = types.SimpleNamespace(batch_size=4, lengths={'targets': 6})
GOOD = {'decoder_input_tokens': np.full((4, 6), 49), 'decoder_target_tokens': np.zeros((4, 6), int),
        'decoder_loss_weights': np.ones((4, 6), np.float32)}


def check(batch, data=DATA, model=MODEL, objectives=OBJECTIVES, **options):
  check_batch(batch, data, model, objectives, **options)


def test_good_batches_pass():
  check(GOOD)
  check({name: x[:2] for name, x in GOOD.items()}, shards=2)
  check({name: x for name, x in GOOD.items() if 'input' in name}, objectives=())
  check(GOOD | {'my_rewards': np.zeros((4, 3, 2)), 'decoder_segment_ids': np.ones((4, 6), int)})
  classifier = ModelConfig(family='encoder_only', head='classifier', num_classes=3, **SMALL)
  labels = {'encoder_input_tokens': np.ones((4, 5), int), 'encoder_loss_weights': np.ones((4, 1)),
            'encoder_target_tokens': np.full((4, 1), 2)}
  both = types.SimpleNamespace(batch_size=4, lengths={'inputs': 5, 'targets': 1})
  check(labels, both, classifier)
  with pytest.raises(UserError, match="ids from 3 to 3, and ModelConfig.num_classes is 3"):
    check(labels | {'encoder_target_tokens': np.full((4, 1), 3)}, both, classifier)


@pytest.mark.parametrize('change, message', [
    ({'decoder_loss_weights': None}, "gives no 'decoder_loss_weights'.*: "),
    ({'decoder_input_tokens': None, 'decoder_inputs_tokens': GOOD['decoder_input_tokens']},
     "gives no 'decoder_input_tokens'.* 'decoder_inputs_tokens'"),
    ({'decoder_input_tokens': np.ones((3, 6), int)}, r'shape \(3, 6\): the first .* must be 4'),
    ({'decoder_input_tokens': np.ones((4, 7), int)}, r'\(4, 7\), and lengths .* have 6 tokens'),
    ({'decoder_input_tokens': np.ones(4, int)}, r'shape \(4,\), and lengths'),
    ({'decoder_target_tokens': np.ones((4, 5), int)}, r'\(4, 5\): expected \(4, 6\)'),
    ({'decoder_input_tokens': np.ones((4, 6))}, 'of type float64: it must be of integers'),
    ({'decoder_loss_weights': np.full((4, 6), 'x')}, 'of type <U1: it must be of numbers'),
    ({'decoder_target_tokens': np.full((4, 6), 50)}, 'ids from 50 to 50, .*vocab_size is 50'),
    ({'decoder_input_tokens': np.full((4, 6), -1)}, 'ids from -1 to -1'),
])
def test_what_is_wrong_is_one_line(change, message):
  batch = {name: x for name, x in (GOOD | change).items() if x is not None}
  with pytest.raises(UserError, match=message) as info:
    check(batch)
  assert '\n' not in str(info.value)


def test_a_stream_that_ends_says_so():
  stream = checked(itertools.repeat(GOOD, 3), DATA, MODEL, ())
  assert len(list(itertools.islice(stream, 3))) == 3
  with pytest.raises(UserError, match='batches ended after 3 batches: it must go on for ever'):
    next(stream)
  with pytest.raises(UserError, match='gives a tuple: a batch is a dict'):
    next(checked(iter([(1, 2)]), DATA, MODEL, ()))


TEXTS = GOOD | {'decoder_segment_ids': np.ones((4, 6), int), 'class_labels': np.array([0, 1, 2, 0]),
                'text_positions': np.array([[5, -1], [0, 5], [3, 4], [5, -1]])}
CLASSIFIER = ModelConfig(family='decoder_only', num_classes=3, **SMALL)


@pytest.mark.parametrize('change, message', [
    ({}, None),
    ({'class_labels': None}, "gives no 'class_labels'"),
    ({'text_positions': None}, "gives no 'text_positions'"),
    ({'decoder_segment_ids': None}, "gives no 'decoder_segment_ids'"),
    ({'class_labels': np.array([0, 1, 3, 0])}, 'from 0 to 3, and ModelConfig.num_classes is 3'),
    ({'class_labels': np.array([0, 1, -1, 0])}, 'class_labels from -1 to 1'),
    ({'class_labels': np.zeros(4)}, "'class_labels' of type float64: it must be of integers"),
    ({'class_labels': np.zeros((4, 1), int)}, r'class_labels of shape \(4, 1\).*expected \[rows\]'),
    ({'text_positions': np.full((4, 1), 6)}, 'text_positions from 6 to 6: .* below the 6 tokens')])
def test_texts_of_a_decoder_that_classifies_are_checked(change, message):
  data = types.SimpleNamespace(batch_size=4, lengths={'inputs': 6, 'targets': 1})
  batch = {name: x for name, x in (TEXTS | change).items() if x is not None}
  if message is None:
    return check(batch, data, CLASSIFIER)
  with pytest.raises(UserError, match=message) as info:
    check(batch, data, CLASSIFIER)
  assert '\n' not in str(info.value)


def test_a_label_beyond_the_choices_of_a_row_is_refused():
  data = types.SimpleNamespace(batch_size=4, lengths={'inputs': 6, 'targets': 1})
  choice = ModelConfig(family='decoder_only', head='choice', **SMALL)
  check(TEXTS | {'class_labels': np.array([0, 1, 1, 0])}, data, choice)
  with pytest.raises(UserError, match='from 0 to 2, and the number of texts is 2'):
    check(TEXTS, data, choice)

import types

import pytest
import seqio

from t5x_lite.core.errors import UserError
from tasks.pipeline import rates


def _task(examples: int, splits=('train',)):
  return types.SimpleNamespace(
      splits=splits, cache_dir=None, num_input_examples=lambda split: {'train': examples}[split]
  )


def test_rates_by_hand():
  assert rates.CAP == 524_288
  assert rates.rate(100) == 100 and rates.rate(10 ** 9) == 2 ** 19
  assert rates.rate(10 ** 9, cap=81, temperature=2) == 9
  assert rates.rate(16, temperature=4) == 2 and rates.rate(0, temperature=2) == 0
  assert rates.proportional()(_task(7)) == 7
  assert rates.proportional(cap=5)(_task(7)) == 5
  assert rates.proportional(cap=64, temperature=3)(_task(10 ** 6)) == pytest.approx(4)
  assert rates.equal(_task(7)) == 1


def test_a_task_without_training_examples_is_never_drawn():
  assert rates.proportional()(_task(7, splits=('validation',))) == 0


@pytest.mark.parametrize('name', ['cap', 'temperature'])
@pytest.mark.parametrize('value', [0, -1, float('nan')])
def test_bad_settings_are_refused_at_once(name, value):
  with pytest.raises(UserError, match=f'rates: {name} must be above 0, got'):
    rates.proportional(**{name: value})


def test_a_mixture_draws_at_its_rates():
  def register(name, size):
    import tensorflow as tf
    rows = tf.data.Dataset.from_tensors({'targets': [size]}).repeat(size)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: rows, splits=('train',),
            num_input_examples={'train': size},
        ),
        preprocessors=[],
        output_features={'targets': seqio.Feature(seqio.PassThroughVocabulary(1000))},
    )

  register('rates_small', 9)
  register('rates_large', 900)
  seqio.MixtureRegistry.add(
      'rates_mixture', ['rates_small', 'rates_large'],
      default_rate=rates.proportional(cap=81, temperature=2.0),
  )
  dataset = seqio.MixtureRegistry.get('rates_mixture').get_dataset(
      {'targets': 1}, 'train', seed=0, shuffle=False
  )
  drawn = [int(ex['targets'][0]) for ex in dataset.take(800).as_numpy_iterator()]
  assert abs(drawn.count(9) - 200) < 62  # 3 : 9, and five standard deviations.

"""Random overrides: an experiment whose config.gin is the same, or one line; nothing in between."""

import dataclasses
import random
import string
import time

import pytest

from t5x_lite.core.dataclass_checks import FieldError, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config, settings

FILES = ('experiments/tiny_lm.gin', 'experiments/tiny_mlm.gin', 'experiments/classify_files.gin',
         'experiments/finetune_docstring.gin', 'models/llama3_1_8b.gin')
NEEDED = ('MODEL_DIR=x', 'INIT_FROM=y', 'VOCABULARY=v', 'TRAIN=a', 'VALIDATION=b')
NUMBERS = (
    '0', '1', '2', '-1', '3.0', '1.5', '1e2', '1e-40', '1e39', '1e999', '-0.0', '0.999999999',
    'nan', 'inf', '2147483648', '18446744073709551616', '9' * 400, '9' * 5000, '0x10',
    '1_0', '1j', '007')
WORDS = (
    'None', 'True', 'False', '""', 'a', 'rope', 'layer_norm', 'a b', 'é', '\x00', '\u2028', '~/a',
    '$HOME', '$NO_SUCH_NAME', 'gs://a/b', '/dev/null', '.', '..', '()', '(1,)', '[]', '{}',
    '{1: 2}', "('a', 'b')", '((((', '[1', '"', "'", '%', '%STEPS', '%NOPE', '%gin.REQUIRED',
    '@', '@a',
    '@models.ModelConfig()', '@models.ModelConfig', '@experiment.InferConfig()',
    '@optimizers.Adafactor()', '@schedules.Rsqrt()', '@subprocess.getoutput()', '#', '1 # a',
    'x\ny = 3', '...', 'b"a"', 'lambda: 0', 'a.b.c', '-', '--', 'import os')
CLASSES = [*settings.settings_classes().values()]


def names(rng: random.Random) -> str:
  """The name of a setting, sometimes with a mistake in it."""
  cls = rng.choice(CLASSES)
  name = f'{cls.__name__}.{rng.choice(dataclasses.fields(cls)).name}' if (
      dataclasses.fields(cls)) else cls.__name__
  name = rng.choice((name, name, rng.choice((
      'STEPS', 'BATCH_SIZE', 'SEED', 'TASK', 'MODEL_DIR', 'VOCABULARY', 'TARGETS_LENGTH',
      'INPUTS_LENGTH', 'LEARNING_RATE', 'WARMUP_STEPS', 'INIT_FROM', 'TRAIN'))))
  if rng.random() < 0.1:
    at = rng.randrange(len(name))
    name = name[:at] + rng.choice(string.printable) + name[at + rng.randrange(2):]
  return name if rng.random() > 0.03 else f'a/{name}'


def values(rng: random.Random) -> str:
  if rng.random() < 0.1:
    return ''.join(rng.choice(string.printable) for _ in range(rng.randrange(12)))
  value = rng.choice(rng.choice((NUMBERS, WORDS)))
  return value if rng.random() > 0.1 else rng.choice((f'({value},)', f'[{value}]', f'-{value}'))


def one(rng: random.Random, tmp_path) -> bool:
  """Whether random overrides are taken; asserts that they are refused in one line if not."""
  file = rng.choice(FILES)
  overrides = [f'{names(rng)}={values(rng)}' for _ in range(rng.choice((1, 1, 1, 2, 3)))]
  alone = file.startswith('models')
  needed = [b for b in NEEDED if not alone and (
      b[0] == 'M' or b[0] in 'IV' and 'docstring' in file and b[:3] != 'VAL' or
      'classify' in file and b[0] in 'TV')]
  began = time.monotonic()
  try:
    if alone:
      check_types(gin_config.load_described([file], overrides))
      return True
    experiment, text = gin_config.load_experiment([file], [*needed, *overrides])
  except UserError as e:
    message = str(e)
    assert message.isprintable() and len(message) < 2000, (file, overrides, message)
    assert not isinstance(e, FieldError) or e.field, (file, overrides, message)
    return False
  finally:
    assert time.monotonic() - began < 10, (file, overrides)
  (tmp_path / 'again.gin').write_text(text)
  again, _ = gin_config.load_experiment([str(tmp_path / 'again.gin')])
  assert again == experiment, (file, overrides)
  return True


def test_random_overrides_are_taken_or_refused_in_one_line(tmp_path):
  rng = random.Random(2)
  assert 10 < sum(one(rng, tmp_path) for _ in range(300)) < 280


@pytest.mark.slow
@pytest.mark.sweep
def test_ten_thousand_random_overrides_are_taken_or_refused_in_one_line(tmp_path):
  rng, began = random.Random(1), time.monotonic()
  for _ in range(10_000):
    one(rng, tmp_path)
    if time.monotonic() - began > 75:
      break

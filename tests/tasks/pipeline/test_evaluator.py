"""Evaluations: which tasks and splits, bytes of the text itself, ties, and what is cut."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models

from t5x_lite import models
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from tasks import files
from tasks.pipeline.evaluator import EvalConfig
from tasks.pipeline.mixtures import Mixture
from tasks.pipeline.seqio_data import DataConfig

ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
LINES = ['The CAT sat.', 'é È 世界 the cat', 'a mat!', 'cat the mat ☃☃']


@pytest.fixture
def task(tmp_path):
  """(name, lines, **fields) -> a FileTask that trains and is evaluated on them."""
  def make(name, lines=LINES, **fields):
    path = tmp_path / f'{name}.txt'
    path.write_text('\n'.join(lines))
    both = dict(train=str(path), validation=str(path), name=name)
    return files.FileTask(**both | fields)
  return make


def data_of(task, **fields):
  return DataConfig(**dict(task=task, targets_length=32, batch_size=2) | fields)


@pytest.fixture
def evaluator(configs):
  def make(data, kind='decoder', required=False, changes=(), **settings):
    small = dict(vocab_size=384, num_layers=1)
    config = dataclasses.replace(configs[kind], **small | dict(changes))
    network = models.build_network(config, ONE)
    settings = EvalConfig(**dict(batch_size=4) | settings)
    return settings.make(network, ONE, data, 0, required=required), config
  return make


def test_each_named_task_is_evaluated_and_no_other(task, evaluator, random_params):
  other, pairs = task('other', ['zzz', 'yyy']), task('pairs', objective='text_to_text',
                                                     inputs='say {text}')
  run, config = evaluator(data_of(task('own')), tasks=(other, pairs), inputs_length=32)
  got = run(random_params(config), 0)
  assert {name.split('/')[0] for name in got} == {'other_lm', 'pairs_text_to_text'}
  alone, _ = evaluator(data_of(other))
  assert alone(random_params(config), 0) == pytest.approx(
      {name: value for name, value in got.items() if name.startswith('other')})
  with pytest.raises(FieldError, match='has inputs, and .*: set EvalConfig.inputs_length'):
    evaluator(data_of(task('own')), tasks=(pairs,))


def test_a_member_that_is_never_drawn_is_evaluated(task, evaluator, random_params):
  mixture = Mixture(tasks=(task('often'), task('never', ['zzz'])), rates=(1.0, 0.0))
  run, config = evaluator(data_of(mixture))
  assert {name.split('/')[0] for name in run(random_params(config), 0)} == {'often_lm', 'never_lm'}
  batch = next(data_of(mixture).batches(config, seed=0))
  assert ord('z') + 3 not in batch['decoder_target_tokens']


def test_a_split_that_is_not_there(task, evaluator, capsys):
  with pytest.raises(FieldError, match="EvalConfig.split = 'validatoin'.* 'validation'"):
    evaluator(data_of(task('own')), split='validatoin')
  with pytest.raises(FieldError, match="'validatoin'"):
    evaluator(data_of(Mixture(tasks=(task('a'), task('b')), rates='equal')), split='validatoin')
  with pytest.raises(FieldError, match=r"^EvalConfig.tasks = \('stdlib_ml',\): .* did you mean "
                     "'stdlib_mlm'"):
    evaluator(data_of(task('own')), tasks=('stdlib_ml',))
  with pytest.raises(FieldError, match="'validation'"):
    evaluator(data_of(task('own')), tasks=(task('bare', validation=None),))
  assert 'EvalConfig' not in capsys.readouterr().err
  run, _ = evaluator(data_of(task('bare', validation=None)))
  assert run is None and "bare_lm has no split 'validation'" in capsys.readouterr().err
  with pytest.raises(FieldError, match="'validation'"):
    evaluator(data_of(task('bare', validation=None)), required=True)
  mixture = Mixture(tasks=(task('whole'), task('bare', validation=None)), rates='equal')
  run, _ = evaluator(data_of(mixture))
  assert len(run.examples) == 1
  assert "bare_lm have no split 'validation' and are not evaluated" in capsys.readouterr().err


def lossy(folder):
  """A lower-casing vocabulary of words that knows a few."""
  tokenizer = tokenizers.Tokenizer(tokenizer_models.WordPiece(unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.train_from_iterator(['the cat sat.', 'a mat'], trainers.WordPieceTrainer(
      vocab_size=40, special_tokens=['[PAD]', '[UNK]', '[CLS]', '[SEP]'], show_progress=False))
  tokenizer.save(str(folder / 'tokenizer.json'))
  return str(folder / 'tokenizer.json'), tokenizer


def test_bits_per_byte_are_over_the_bytes_of_the_text(
    task, evaluator, tmp_path, random_params, forward):
  path, tokenizer = lossy(tmp_path)
  run, config = evaluator(data_of(task('own'), vocabulary=path))
  params = random_params(config)
  nats = 0.0
  for line in LINES:
    ids = tokenizer.encode(line, add_special_tokens=False).ids
    tokens = np.asarray([tokenizer.token_to_id('[CLS]'), *ids])[None]
    log_p = jax.nn.log_softmax(forward(config)(params, {'decoder_input_tokens': tokens}))[0]
    nats -= sum(float(log_p[i, token]) for i, token in enumerate(ids))
  assert tokenizer.token_to_id('[UNK]') in tokenizer.encode(LINES[3]).ids
  size = sum(len(line.encode()) for line in LINES)
  bits = run(params, 0)['own_lm/bits_per_byte']
  assert bits == pytest.approx(nats / size / math.log(2), rel=1e-4)


def test_a_dead_classifier_is_never_right(task, evaluator, random_params):
  rows = task('rows', ['a', 'a', 'a'], objective='classification', inputs='{text}',
              labels=('a', 'b'))
  changes = (('head', 'classifier'), ('num_classes', 2), ('max_length', 64))
  data = data_of(rows, inputs_length=8, targets_length=1, packing='none')
  run, config = evaluator(data, 'encoder', changes=changes)
  params = random_params(config)
  dead = jax.tree.map(np.zeros_like, params)
  assert run(dead, 0)['rows_classification/accuracy'] == 0
  assert run(params, 0)['rows_classification/accuracy'] in (0, 100)


def test_what_is_cut_is_said(task, evaluator, capsys):
  pairs = task('pairs', ['short', 'a long line of text'], objective='text_to_text',
               inputs='say {text}')
  evaluator(data_of(pairs, inputs_length=10, targets_length=8), 'encoder_decoder')
  err = capsys.readouterr().err
  assert '1 examples have inputs of more than 10 tokens, whose end is cut off: raise inputs' in err
  assert '1 examples have targets of more than 8 tokens' in err
  evaluator(data_of(pairs, inputs_length=24, targets_length=20), 'encoder_decoder')
  assert 'cut off' not in capsys.readouterr().err


@pytest.mark.parametrize('tasks, message', [
    ('stdlib_lm', r"EvalConfig.tasks = 'stdlib_lm': expected several: write \('stdlib_lm',\)"),
    (('stdlib_lm', 'stdlib_lm'), 'a task is listed twice')])
def test_tasks_to_evaluate_are_several_and_different(tasks, message):
  with pytest.raises(FieldError, match=message):
    EvalConfig(tasks=tasks)

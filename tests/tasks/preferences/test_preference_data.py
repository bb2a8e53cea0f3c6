"""Batches of groups as a run reads them: order, position, shards, families, objectives."""

import dataclasses
import itertools
import json
import os
import pathlib

import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from t5x_lite.training.source_checks import check_batch
from tasks.preferences import PreferenceData, PreferenceTask

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
_SIZES = dict(vocab_size=384, embed_dim=32, num_layers=1, num_heads=4, mlp_dim=64)
MODELS = {'decoder_only': ModelConfig(family='decoder_only', **_SIZES),
          'encoder_decoder': ModelConfig(family='encoder_decoder', position_embedding='relative',
                                         **_SIZES)}
DECODER = MODELS['decoder_only']
PAIRS = [{'prompt': f'Q{i}', 'chosen': f'good{i}', 'rejected': f'b{i}'} for i in range(7)]
THUMBS = [{'prompt': f'Q{i}', 'completion': f'c{i}', 'label': i % 3 == 0} for i in range(7)]
RANKED = [{'prompt': f'Q{i}', 'responses': [f'r{k}' for k in range(2 + i % 3)],
           'scores': [(k * 7 + i) % 5 for k in range(2 + i % 3)]} for i in range(7)]


def write(path: pathlib.Path, rows) -> str:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


@pytest.fixture(scope='module')
def make(tmp_path_factory):
  """(rows, fields of the data, objective=…) -> a PreferenceData of them, on bytes."""
  folder = tmp_path_factory.mktemp('rows')
  numbers = itertools.count()

  def data(rows, objective='pairs', task=None, **fields) -> PreferenceData:
    fields = dict(inputs_length=6, targets_length=7, batch_size=3) | fields
    train = write(folder / f'{next(numbers)}.jsonl', rows)
    task = PreferenceTask(train=train, objective=objective, **task or {})
    return PreferenceData(task=task, **fields)
  return data


def take(data: PreferenceData, number: int, model=DECODER, **options) -> list[dict]:
  batches = data.batches(model, **{'seed': 0} | options)
  return [next(batches) for _ in range(number)]


def same(a: list[dict], b: list[dict]) -> bool:
  return len(a) == len(b) and all(
      x.keys() == y.keys() and all(np.array_equal(x[k], y[k], equal_nan=x[k].dtype == np.float32)
                                   for k in x) for x, y in zip(a, b))


def text(ids) -> str:
  """Bytes as text, the end of text as $."""
  return ''.join('$' if i == 1 else chr(i - 3) for i in ids if i)


def groups_of(batches: list[dict], encoder=False) -> list[tuple]:
  """(prompt, [(response, score), …]) of each group that has a response."""
  found = []
  for batch in batches:
    for b, scores in enumerate(batch['response_scores']):
      rows = [(targets, weights > 0) for targets, weights in zip(
          batch['decoder_target_tokens'][b], batch['decoder_loss_weights'][b]) if weights.any()]
      if rows:
        prompts = {text(batch['encoder_input_tokens'][b]) if encoder else text(ids[~mask])
                   for ids, mask in rows}
        (prompt,) = prompts
        found.append((prompt, [(text(ids[mask]), float(s)) for (ids, mask), s in zip(
            rows, scores)]))
  return found


@pytest.mark.parametrize('family', MODELS)
def test_batches_have_every_pair(make, family):
  data, model = make(PAIRS, batch_size=7), MODELS[family]
  batches = take(data, 8, model)
  found = {group[0]: group for group in groups_of(batches, family == 'encoder_decoder')}
  assert [found[prompt] for prompt in sorted(found)] == [
      (f'Q{i}', [(f'good{i}$', 1.0), (f'b{i}$', 0.0)]) for i in range(7)]
  shape = {'decoder_only': (7, 2, 13), 'encoder_decoder': (7, 2, 7)}[family]
  assert {x.shape for name, x in batches[0].items() if name.startswith('decoder_')} == {shape}
  check_batch(batches[0], data, model, [])


def test_the_order_follows_from_the_seed_and_not_from_the_processes(make):
  data = make(PAIRS, batch_size=5)
  whole = take(data, 6)
  assert same(whole, take(data, 6)) and not same(whole, take(data, 6, seed=1))
  for i in range(2):
    part = take(data, 6, shard=(i, 2))   # of 5 groups one process has 3, the other 2
    assert same(part, [{name: x[i::2] for name, x in batch.items()} for batch in whole])


@pytest.mark.parametrize('rows, objective', [
    (THUMBS, 'thumbs'), pytest.param(PAIRS, 'pairs', marks=pytest.mark.slow),
    pytest.param(RANKED, 'ranking', marks=pytest.mark.slow)])
def test_resuming_reads_on(make, rows, objective):
  data = make(rows, objective, batch_size=3)
  whole = take(data, 8)
  for start in (1, 7):
    assert same(take(data, 8 - start, start=3 * start), whole[start:])
    assert same(take(data, 8 - start, start=3 * start, shard=(1, 2)),
                [{name: x[1::2] for name, x in batch.items()} for batch in whole[start:]])


def test_a_thumb_has_the_response_of_the_next_group_beside_it(make):
  data = make(THUMBS, 'thumbs', batch_size=4)
  for batch in take(data, 5):
    groups = groups_of([batch])
    own = [responses[0] for _, responses in groups]
    for b, (prompt, responses) in enumerate(groups):
      i = int(prompt[1:])
      assert responses[0] == (f'c{i}$', float(i % 3 == 0))
      assert responses[1][0] == own[(b + 1) % 4][0] and np.isnan(responses[1][1])
  sharded = [take(data, 5, shard=(i, 2)) for i in range(2)]
  assert same(take(data, 5), [
      {name: np.stack([x[name] for x in parts], 1).reshape(-1, *parts[0][name].shape[1:])
       for name in parts[0]} for parts in zip(*sharded)])


def test_rankings_are_sorted_and_padded(make):
  data = make(RANKED, 'ranking', task={'ties': 'drop'}, responses=4, batch_size=7)
  (batch,) = data.groups(DECODER, 'train')
  assert batch['decoder_target_tokens'].shape == (7, 4, 13)
  for prompt, responses in groups_of([batch]):
    row = RANKED[int(prompt[1:])]
    assert sorted(responses) == [(f'{r}$', float(s)) for r, s in zip(
        row['responses'], row['scores'])]
    assert [s for _, s in responses] == sorted((s for _, s in responses), reverse=True)
  empty = np.isnan(batch['response_scores'])
  assert sorted(empty.sum(1)) == [0, 0, 1, 1, 2, 2, 2]
  for name in ('input_tokens', 'target_tokens', 'loss_weights', 'segment_ids', 'positions'):
    assert not batch[f'decoder_{name}'][empty].any()


def test_larger_groups_are_cut_and_counted(make, capfd):
  row = {'prompt': 'Q', 'responses': [*'abcdef'], 'scores': [*range(6)]}
  data = make([row, RANKED[0], RANKED[3]], 'ranking', responses=3)
  found = dict(groups_of([*data.groups(DECODER, 'train'), *data.groups(DECODER, 'train')]))
  assert found['Q'] == [('f$', 5.0), ('d$', 3.0), ('a$', 0.0)]
  said = capfd.readouterr().err
  assert said.count("groups cut to the best response, the worst and those evenly ranked between: 1 "
                    "so far, the last 'Q', of 6") == 2   # once a pass


@pytest.mark.parametrize('rows, objective', [(PAIRS, 'pairs'), (THUMBS, 'thumbs')])
@pytest.mark.parametrize('family', MODELS)
def test_groups_are_read_once_in_order(make, rows, objective, family):
  data, model = make(rows, objective, batch_size=3), MODELS[family]
  batches = [*data.groups(model, 'train')]
  assert [len(batch['response_scores']) for batch in batches] == [3, 3, 3]
  found = groups_of(batches, family == 'encoder_decoder')
  assert [prompt for prompt, _ in found] == [f'Q{i}' for i in range(7)]
  last = batches[-1]
  assert np.isnan(last['response_scores'][1:]).all()
  assert not any(x[1:].any() for name, x in last.items() if name != 'response_scores')
  if objective == 'thumbs':   # the last one is by itself in its batch
    assert found[6][1][0] == ('c6$', 1.0) and found[6][1][1][0] == 'c0$'


def test_examples_are_prompts_with_the_best_response(make):
  data = make(RANKED, 'ranking', task={'validation': 0.4}, responses=4)
  found = [e for split in data.splits() for e in data.examples(split)]
  assert sorted(data.splits()) == ['train', 'validation'] and len(found) == 7
  for example in found:
    row = RANKED[int(example['inputs'][1:])]
    assert data.tokenizer().encode(example['inputs']) == example['ids']
    assert example['targets'] == row['responses'][int(np.argmax(row['scores']))]
  assert len([*data.examples('train', limit=2)]) == 2
  with pytest.raises(UserError, match="preferences_ranking' has no split 'test'"):
    next(data.examples('test'))


def test_what_a_checkpoint_keeps_of_it(make):
  data = make(PAIRS)
  assert data.fingerprint() == 'bytes+125' and data.name == 'preferences_pairs'
  assert data.data_digest() == data.task.data_digest('train') != make(THUMBS,
                                                                      'thumbs').data_digest()
  assert data.chat() is None
  chat = make(PAIRS, task={'template': 'zephyr'}).chat()
  assert text(chat.prompt([{'role': 'user', 'content': 'Q'}])) == '<|user|>\nQ$\n<|assistant|>\n'


def write_tokenizer(path: pathlib.Path) -> str:
  """A tokenizer.json of bytes, as GPT-2's, whose id 0 is the exclamation mark."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(['<|endoftext|>'])
  tokenizer.save(str(path))
  return str(path)


@pytest.mark.parametrize('name', ['bytes', 'peers/chat/tokenizer/tokenizer.json',
                                  'tokenizers/t5/tokenizer.json', 'tokenizers/t5/spiece.model'])
def test_the_ids_are_those_of_the_tokenizer(make, name, tmp_path):
  """Of which the id 0 may be a token: seqio has another one in its place."""
  if name != 'bytes' and not _ROOT:
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  vocabulary = write_tokenizer(tmp_path / 'tokenizer.json') if name == 'bytes' else (
      str(pathlib.Path(_ROOT, name)))
  rows = [{'prompt': 'Hello, is it "you"!', 'chosen': ' Yes! It is.', 'rejected': ' !'}] * 2
  data = make(rows, inputs_length=30, targets_length=30, vocabulary=vocabulary, batch_size=1)
  model = dataclasses.replace(DECODER, vocab_size=2 ** 16)
  (batch,) = take(data, 1, model)
  tokenizer = data.tokenizer()
  start, end = tokenizer.start_id, tokenizer.eos_id
  prompt = tokenizer.encode(rows[0]['prompt'])
  for k, side in enumerate(('chosen', 'rejected')):
    row = [*prompt, *tokenizer.encode(rows[0][side]), end]
    assert batch['decoder_target_tokens'][0, k, :len(row)].tolist() == row
    assert batch['decoder_input_tokens'][0, k, :len(row)].tolist() == [start, *row[:-1]]
    assert batch['decoder_segment_ids'][0, k].tolist() == [1] * len(row) + [0] * (60 - len(row))
    weights = [0] * len(prompt) + [1] * (len(row) - len(prompt)) + [0] * (60 - len(row))
    assert batch['decoder_loss_weights'][0, k].tolist() == weights
  if name == 'bytes':
    assert row[-2:] == [0, end] and end   # an exclamation mark


def register(name: str, examples: list[dict]) -> str:
  """A task as a user registers one, of bytes."""
  import seqio
  import tensorflow as tf

  from tasks import vocabularies
  text_feature = seqio.Feature(vocabularies.BYTE_VOCABULARY, add_eos=False)
  number = dict(vocabulary=seqio.PassThroughVocabulary(2), add_eos=False)
  types = {'inputs': tf.int32, 'targets': tf.int32, 'response_lengths': tf.int32,
           'response_scores': tf.float32}
  generate = lambda split, shuffle_files, seed=None: tf.data.Dataset.from_generator(
      lambda: iter(examples), output_signature={
          k: tf.TensorSpec([None], dtype) for k, dtype in types.items()})
  seqio.TaskRegistry.add(
      name, source=seqio.FunctionDataSource(generate, splits=['train']), preprocessors=[],
      output_features={'inputs': text_feature, 'targets': text_feature,
                       'response_lengths': seqio.Feature(**number),
                       'response_scores': seqio.Feature(**number, dtype=tf.float32)},
      metric_fns=[])
  return name


def example(prompt: str, *responses: str, scores) -> dict:
  ids = lambda text: [1 if c == '$' else ord(c) + 3 for c in text]
  return {'inputs': ids(prompt), 'targets': ids(''.join(responses)),
          'response_lengths': [*map(len, responses)], 'response_scores': scores}


FIELDS = dict(inputs_length=6, targets_length=7, batch_size=2)


def test_a_task_that_a_user_registers():
  name = register('mine_ranked', [example('A', 'x$', 'yy$', scores=[0, 2]),
                                  example('B', 'y$', 'z$', scores=[3, 1])])
  data = PreferenceData(task=name, **FIELDS)
  assert groups_of([*data.groups(DECODER, 'train')]) == [
      ('A', [('yy$', 2.0), ('x$', 0.0)]), ('B', [('y$', 3.0), ('z$', 1.0)])]
  assert len(groups_of(take(data, 3))) == 6 and data.data_digest() is None


@pytest.mark.parametrize('examples, message', [
    ([example('A', 'x$', 'y$', scores=[0, 1]), example('B', 'x$', scores=[1])],
     'has groups of one response and groups of several'),
    ([example('A' * 7, 'x$', 'y$', scores=[0, 1])], 'has a prompt of 7 tokens, and Pref'),
    ([example('A', 'x$', 'y$', scores=[0, 1, 2])], 'and 3 response_scores'), ([], 'is empty'),
])
def test_a_task_of_a_user_that_is_not_as_it_should_be(examples, message, request):
  name = register(f'mine_{abs(hash(request.node.name))}', examples)
  with pytest.raises(UserError, match=f"Task '{name}'.*{message}"):
    next(PreferenceData(task=name, **FIELDS).batches(DECODER, seed=0))


def test_data_and_models_that_do_not_fit(make):
  with pytest.raises(UserError, match='batch_size = 1: must be 2 or more for a task of single res'):
    take(make(THUMBS, 'thumbs', batch_size=1), 1)
  with pytest.raises(UserError, match='responses = 3: must be 2 for a task of single responses'):
    take(make(THUMBS, 'thumbs', responses=3), 1)
  with pytest.raises(UserError, match='responses = 1: .*at least 2'):
    make(PAIRS, responses=1)
  with pytest.raises(UserError, match="task = 'stdlib_lm': .*lacks inputs, response_lengths, resp"):
    take(PreferenceData(task='stdlib_lm', **FIELDS), 1)
  with pytest.raises(UserError, match="split = 'test': task .*choose from train"):
    take(dataclasses.replace(make(PAIRS), split='test'), 1)
  with pytest.raises(UserError, match='vocab_size = 100: the inputs of task .* have 384 ids'):
    take(make(PAIRS), 1, dataclasses.replace(DECODER, vocab_size=100))
  encoder = ModelConfig(family='encoder_only', **_SIZES)
  with pytest.raises(UserError, match="family = 'encoder_only': comparisons are for models that w"):
    take(make(PAIRS), 1, encoder)


def test_other_sources_do_not_read_comparisons(make):
  from tasks.pipeline.seqio_data import DataConfig
  data = DataConfig(task=make(PAIRS).task, inputs_length=8, targets_length=8, batch_size=2)
  with pytest.raises(UserError, match='compares responses: read it by a tasks.preferences.Prefere'):
    next(data.batches(DECODER, seed=0))


def test_a_mixture_of_comparisons(make):
  from tasks.pipeline.mixtures import Mixture
  other = [{**row, 'prompt': row['prompt'].replace('Q', 'P')} for row in PAIRS]
  tasks = [make(rows).task for rows in (PAIRS, other)]
  data = PreferenceData(task=Mixture(tasks=tasks, rates='equal'), **FIELDS | {'batch_size': 7})
  found = {prompt for prompt, _ in groups_of(take(data, 8))}
  assert {prompt[0] for prompt in found} == {'P', 'Q'} and same(take(data, 2), take(data, 2))
  once = [prompt for prompt, _ in groups_of([*data.groups(DECODER, 'train')])]
  assert sorted(once) == sorted(f'{q}{i}' for q in 'PQ' for i in range(7))
  with pytest.raises(UserError, match='is a Mixture with a rate_schedule'):
    PreferenceData(task=Mixture(tasks=tasks, rates=(1, 1), rate_schedule={5: (1, 2)}), **FIELDS)

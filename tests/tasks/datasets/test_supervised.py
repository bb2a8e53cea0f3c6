import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.inference.generator import Generator
from t5x_lite.models import ModelConfig
from t5x_lite.objectives import classification
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import source_checks
from tasks import metrics
from tasks.datasets import prepared
from tasks.datasets.supervised import Supervised
from tasks.pipeline import converters, evaluator, feature_converters, seqio_data
from tasks.preprocessors import prompts

ROOT = pathlib.Path(__file__).parents[3]
SENTENCES = ['a fine film', 'dull', 'not bad at all', 'no']


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError(f'network: {args}')

  monkeypatch.setattr('socket.getaddrinfo', refuse)
  monkeypatch.setattr('socket.socket.connect', refuse)


def _prepare_sst2(prepare) -> None:
  rows = [{'sentence': s, 'label': (1 + i) % 2, 'idx': i} for i, s in enumerate(SENTENCES)]
  hidden = [row | {'label': -1} for row in rows]
  prepare(
      'glue/sst2:2.0.0', {'train': rows * 5, 'validation': rows, 'test': hidden},
      {'sentence': tfds.features.Text(), 'idx': np.int32,
       'label': tfds.features.ClassLabel(names=['negative', 'positive'])},
  )


def _texts(name: str, split: str, **kwargs) -> list[tuple[str, str]]:
  dataset = seqio.get_mixture_or_task(name).get_dataset(None, split, shuffle=False, **kwargs)
  return [(ex['inputs_pretokenized'].decode(), ex['targets_pretokenized'].decode())
          for ex in dataset.as_numpy_iterator()]


def test_a_prepared_data_set_is_read(prepare):
  from tasks.datasets import glue  # noqa: F401

  _prepare_sst2(prepare)
  expected = [(f'sst2 sentence: {s}', label)
              for s, label in zip(SENTENCES, ['positive', 'negative'] * 2)]
  assert _texts('glue_sst2', 'validation') == expected
  assert _texts('glue_sst2', 'test') == [(inputs, '<unk>') for inputs, _ in expected]
  source = seqio.TaskRegistry.get('glue_sst2').source
  assert source.num_input_examples('train') == 20
  assert len(source.list_shards('train')) == 1
  shards = [_texts('glue_sst2', 'train', shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
  assert sorted(shards[0] + shards[1]) == sorted(expected * 5)


def test_what_is_not_prepared_is_refused_in_one_line_and_found_once_it_is(prepare, tfds_dir):
  from tasks.datasets import glue  # noqa: F401

  task = seqio.TaskRegistry.get('glue_sst2')
  assert set(task.splits) == {'train', 'validation', 'test'}  # Known before anything is read.
  message = (f'the data set glue/sst2:2.0.0 is not prepared in {tfds_dir}: run `TFDS_DATA_DIR='
             f'{tfds_dir} python -m tasks.datasets.prepared glue/sst2:2.0.0`, or set '
             'DataConfig.data_dir to the folder that has it')
  for read in (
      lambda: _texts('glue_sst2', 'validation'),
      lambda: task.num_input_examples('train'),
      lambda: task.source.list_shards('train'),
  ):
    with pytest.raises(UserError) as error:
      read()
    assert str(error.value) == message
  assert not list(tfds_dir.iterdir())
  _prepare_sst2(prepare)
  assert len(_texts('glue_sst2', 'validation')) == 4
  # The directory in force counts, not the one of the first read.
  seqio.set_tfds_data_dir_override(str(tfds_dir / 'other'))
  with pytest.raises(UserError, match='not prepared in .*/other'):
    _texts('glue_sst2', 'validation')


def test_a_run_gets_the_message_too(tfds_dir):
  data = seqio_data.DataConfig(
      task='glue_rte', task_module='tasks.datasets.t5', inputs_length=64, targets_length=16,
      batch_size=2,
      data_dir=str(tfds_dir),
  )
  model = ModelConfig(family='encoder_decoder', vocab_size=384, embed_dim=8, num_layers=1,
                      num_heads=1, mlp_dim=8)
  with pytest.raises(UserError, match='glue/rte:2.0.0 is not prepared in'):
    next(data.batches(model, seed=0))


def test_batches_of_text_to_text(prepare, tfds_dir):
  _prepare_sst2(prepare)
  data = seqio_data.DataConfig(
      task='glue_sst2', task_module='tasks.datasets.t5', inputs_length=40, targets_length=10,
      batch_size=3,
      data_dir=str(tfds_dir), packing='none',
  )
  model = ModelConfig(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1,
                      num_heads=1, mlp_dim=8, prefix_lm=True)
  batch = next(data.batches(model, seed=0))
  decode = seqio.TaskRegistry.get('glue_sst2').output_features['targets'].vocabulary.decode
  for row, weights in zip(batch['decoder_target_tokens'], batch['decoder_loss_weights']):
    # Loss is on the answer alone: the prompt of a decoder-only model is free.
    assert decode(row[weights > 0].tolist()) in ('positive', 'negative')


def test_batches_and_evaluation_of_classification(prepare, tfds_dir):
  _prepare_sst2(prepare)
  data = seqio_data.DataConfig(
      task='glue_sst2_classification', task_module='tasks.datasets.t5', inputs_length=40,
      targets_length=1, batch_size=3, data_dir=str(tfds_dir), packing='none',
  )
  model = ModelConfig(family='encoder_only', vocab_size=384, embed_dim=8, num_layers=1,
                      num_heads=1, mlp_dim=8, num_classes=2, pooling='mean')
  batch = next(data.batches(model, seed=0))
  assert (batch['encoder_input_tokens'][:, 0] == 382).all()
  assert set(batch['encoder_target_tokens'][:, 0]) <= {0, 1}
  evaluator = seqio.Evaluator(
      data.task, feature_converters.ClassificationFeatureConverter(), sequence_length=data.lengths
  )
  future, _ = evaluator.evaluate(
      compute_metrics=True, predict_fn=lambda ds: [(int(i), [1]) for i, _ in ds]
  )
  assert future.result()[data.task] == {'accuracy': 50.0}


def _texts_of(row) -> list[str]:
  """The texts of a row of a decoder's classification, each less its first and last id."""
  vocabulary = seqio.TaskRegistry.get('glue_sst2').output_features['inputs'].vocabulary
  segments = row['decoder_segment_ids']
  texts = [row['decoder_input_tokens'][segments == i + 1] for i in range(segments.max())]
  for text, last in zip(texts, row['text_positions']):
    assert text[0] == 0 and text[-1] == 1 == row['decoder_input_tokens'][last]
  assert (row['text_positions'] >= 0).all() and len(texts) == len(row['text_positions'])
  return [vocabulary.decode(text[1:-1].tolist()) for text in texts]


def _first_row(task, tfds_dir, length, targets_length=1, head='classifier'):
  data = seqio_data.DataConfig(
      task=task, task_module='tasks.datasets.t5', inputs_length=length,
      targets_length=targets_length, batch_size=1, data_dir=str(tfds_dir))
  model = ModelConfig(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1, num_heads=1,
                      mlp_dim=8, head=head, num_classes=2 if head == 'classifier' else None)
  batch = next(data.batches(model, seed=0))
  source_checks.check_batch(batch, data, model, (classification.Classification(),))
  return {name: x[0] for name, x in batch.items()}


def test_a_decoder_reads_one_text_a_pair_in_both_orders_or_the_choices(prepare, tfds_dir):
  _prepare_sst2(prepare)
  rows = [{'sentence1': 'it is', 'sentence2': 'so', 'label': 1, 'idx': 0}]
  text = tfds.features.Text()
  prepare('glue/mrpc:2.0.0', {'train': rows}, {
      'sentence1': text, 'sentence2': text, 'idx': np.int32,
      'label': tfds.features.ClassLabel(names=['not_equivalent', 'equivalent'])})
  rows = [{'premise': 'it fell', 'question': 'cause', 'choice1': 'wind', 'choice2': 'sun',
           'label': 0, 'idx': 0}]
  prepare('super_glue/copa:1.0.2', {'train': rows}, {
      'premise': text, 'question': text, 'choice1': text, 'choice2': text, 'idx': np.int32,
      'label': tfds.features.ClassLabel(names=['choice1', 'choice2'])})
  row = _first_row('glue_sst2_decoder_classification', tfds_dir, 40)
  assert row['class_labels'] == (SENTENCES.index(*_texts_of(row)) + 1) % 2
  row = _first_row('glue_mrpc_decoder_classification', tfds_dir, 40)
  assert (_texts_of(row), row['class_labels']) == (['it is $ so', 'so $ it is'], 1)
  # Each text is cut to its part of the length, and its last id stays.
  row = _first_row('super_glue_copa_decoder_classification', tfds_dir, 39, head='choice')
  assert (_texts_of(row), row['class_labels']) == (['it fell cause $ w', 'it fell cause $ s'], 0)
  for lengths in (13, 2), (2, 1):
    with pytest.raises(UserError, match='one label a text|for a text with .* 3 or more'):
      _first_row('glue_sst2_decoder_classification', tfds_dir, *lengths)
  with pytest.raises(UserError, match='inputs_length = 5 has no room for each of 2.* 6 or more'):
    _first_row('glue_mrpc_decoder_classification', tfds_dir, 5)


def test_a_decoder_that_classifies_is_evaluated_and_answers_with_names(prepare, tfds_dir, capsys):
  _prepare_sst2(prepare)
  data = seqio_data.DataConfig(
      task='glue_sst2_decoder_classification', task_module='tasks.datasets.t5', inputs_length=12,
      targets_length=1, batch_size=2, data_dir=str(tfds_dir))
  model = ModelConfig(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1,
                      num_heads=1, mlp_dim=8, init_std=0.5, num_classes=2)
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  network = models.build_network(model, partitioner)
  params = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
  evaluation = evaluator.EvalConfig(batch_size=3).make(network, partitioner, data, 0)
  assert '2 examples have inputs of more than 12 tokens' in capsys.readouterr().err
  generator = Generator(network, params, partitioner, data, batch_size=3)
  answers = generator(SENTENCES)
  names = [answer['output'] for answer in answers]
  want = 100 * np.mean([a == b for a, b in zip(names, ['positive', 'negative'] * 2)])
  assert set(names) <= {'positive', 'negative'}
  assert evaluation(params, 0) == {'glue_sst2_decoder_classification/accuracy': want}
  assert (answers[2]['inputs_read'], answers[2]['tokens_cut']) == ('not bad at', 4)
  given = [*data.examples('validation')]
  assert [x['output'] for x in generator.from_ids([x['ids'] for x in given])] == names
  assert [x['tokens_cut'] for x in given] == [1, 0, 4, 0]
  assert [x['targets'] for x in given] == ['positive', 'negative'] * 2
  swapped = params | {'classifier': {'kernel': params['classifier']['kernel'][:, ::-1]}}
  other = Generator(network, swapped, partitioner, data, batch_size=3)(SENTENCES)
  assert all(a['output'] != b for a, b in zip(other, names))
  pairs = dataclasses.replace(data, task='glue_mrpc_decoder_classification')
  with pytest.raises(UserError, match='the task has 2 texts an example'):
    Generator(network, params, partitioner, pairs, batch_size=3)(['one'])


@pytest.mark.parametrize('task, changes, reason', [
    ('glue_sst2_classification', dict(num_classes=2), 'one text an example for the family enc'),
    ('glue_sst2_decoder_classification', {}, 'for the family decoder_only with the head classif'),
    ('glue_sst2_decoder_classification', dict(head='choice'), 'with the head classifier'),
    ('glue_mrpc_decoder_classification', dict(head='choice'), 'of 2 texts an example'),
    ('super_glue_copa_decoder_classification', dict(num_classes=2), 'with the head choice'),
    ('glue_sst2_decoder_classification', dict(num_classes=2, family='encoder_only'),
     'for the family decoder_only'),
    ('glue_sst2', dict(num_classes=384), 'has no classes: leave it out, or choose a task')])
def test_a_task_for_another_head_is_refused_in_one_line(task, changes, reason):
  from tasks.datasets import t5  # noqa: F401

  model = ModelConfig(**dict(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1,
                             num_heads=1, mlp_dim=8) | changes)
  with pytest.raises(UserError, match=f'^ModelConfig.head = .*{reason}') as error:
    converters.feature_converter(seqio.get_mixture_or_task(task), model, 'best_fit')
  assert '\n' not in str(error.value)


def test_texts_of_a_decoder_are_those_of_labels():
  shared = dict(name='x', source='x:1.0.0', metrics=(metrics.accuracy,))
  with pytest.raises(UserError, match='Supervised.texts = .*is for data with labels'):
    Supervised(**shared, texts=('{a}',))
  with pytest.raises(UserError, match='Supervised.texts = .*a choice has a text a label, 2'):
    Supervised(**shared, texts=('{a}',), labels=('a', 'b'), choice=True)


def test_mnli_is_one_data_set_with_three_names(prepare):
  from tasks.datasets import glue  # noqa: F401

  rows = lambda text: [{'premise': text, 'hypothesis': 'h', 'label': 2, 'idx': 0}]
  splits = ['train', *(f'{s}_{k}' for s in ('validation', 'test')
                       for k in ('matched', 'mismatched'))]
  prepare(
      'glue/mnli:2.0.0', {split: rows(split) for split in splits},
      {'premise': tfds.features.Text(), 'hypothesis': tfds.features.Text(), 'idx': np.int32,
       'label': tfds.features.ClassLabel(names=['entailment', 'neutral', 'contradiction'])},
  )
  of = lambda split: [(f'mnli hypothesis: h premise: {split}', 'contradiction')]
  assert _texts('glue_mnli', 'train') == of('train')
  assert _texts('glue_mnli', 'validation') == of('validation_matched')
  assert _texts('glue_mnli_matched', 'validation') == of('validation_matched')
  assert _texts('glue_mnli_mismatched', 'validation') == of('validation_mismatched')
  assert _texts('glue_mnli_mismatched', 'test') == of('test_mismatched')
  assert 'train' not in seqio.TaskRegistry.get('glue_mnli_mismatched').splits


def test_a_mixture_draws_from_the_tasks_that_have_the_split(prepare):
  from tasks.datasets import t5  # noqa: F401

  _prepare_sst2(prepare)
  seqio.MixtureRegistry.add(
      'sst2_and_evaluation', [('glue_sst2', 1.0), ('glue_mnli_mismatched', 0.0)]
  )
  mixture = seqio.MixtureRegistry.get('sst2_and_evaluation')
  dataset = mixture.get_dataset({'inputs': 40, 'targets': 9}, 'train', seed=0)
  assert len(list(dataset.take(30).as_numpy_iterator())) == 30  # Without end.
  for name in ('glue', 'super_glue', 't5_supervised'):
    with pytest.raises(UserError, match='is not prepared in'):
      seqio.MixtureRegistry.get(name).get_dataset({'inputs': 40, 'targets': 9}, 'train')


def test_the_example_of_the_docs_is_at_most_ten_lines_and_works(prepare):
  text = (ROOT / 'docs/data.md').read_text(encoding='utf-8')
  (code,) = re.findall(r'^```python[^\n]*\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
  declaration = code[code.index('Supervised('):]
  assert len(declaration.strip().splitlines()) <= 10
  exec(compile(code, 'docs/data.md', 'exec'), {})
  prepare(
      'ag_news_subset:1.0.0',
      {'train': [{'title': 'T', 'description': 'D', 'label': 3}],
       'test': [{'title': 'U', 'description': 'E', 'label': 0}]},
      {'title': tfds.features.Text(), 'description': tfds.features.Text(),
       'label': tfds.features.ClassLabel(num_classes=4)},
  )
  assert _texts('ag_news', 'train') == [('ag_news title: T text: D', 'technology')]
  assert _texts('ag_news', 'validation') == [('ag_news title: U text: E', 'world')]
  dataset = seqio.TaskRegistry.get('ag_news_classification').get_dataset(None, 'train')
  assert [ex['targets'].tolist() for ex in dataset.as_numpy_iterator()] == [[3]]


def _declare(**kwargs) -> Supervised:
  return Supervised(**dict(name='x', source='x:1.0.0', metrics=(metrics.accuracy,)) | kwargs)


@pytest.mark.parametrize('kwargs, message', [
    ({'labels': ('yes',)}, "Supervised.labels = ('yes',): expected two names or more, all"),
    ({'labels': ('a', 'a')}, 'all different'),
    ({'labels': ('a', 'b'), 'targets': '{y}'}, 'the labels are the targets'),
    ({'labels': 'yes'}, 'Supervised.labels'),
    ({'metrics': metrics.accuracy}, 'Supervised.metrics'),
    ({'source': 3}, 'Supervised.source'),
    ({'prepare': 'squad'}, 'Supervised.prepare'),
])
def test_wrong_declarations_are_refused(kwargs, message):
  with pytest.raises(UserError) as error:
    _declare(**kwargs)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_declaration_takes_any_source():
  rows = tf.data.Dataset.from_tensor_slices({'q': ['1+1', '2+2'], 'a': ['2', '4']})
  _declare(
      name='sums', inputs='sum: {q}', targets='{a}', metrics=(metrics.exact_match,),
      source=seqio.FunctionDataSource(
          lambda split, shuffle_files, seed=None: rows, splits=('validation',)
      ),
  ).register()
  assert _texts('sums', 'validation') == [('sum: 1+1', '2'), ('sum: 2+2', '4')]


def test_templates_that_do_not_fit_the_data_are_refused():
  rows = tf.data.Dataset.from_tensor_slices({'question': ['q'], 'label': [1]})
  with pytest.raises(UserError, match="names 'questoin', which .*: did you mean 'question'"):
    prompts.to_text(rows, inputs='{questoin}', targets='x')
  with pytest.raises(UserError, match="names 'label', which is not text"):
    prompts.to_text(rows, inputs='{question}', targets='{label}')
  (example,) = prompts.to_text(
      rows, inputs='{{{question}}}', targets='', labels=('no', 'yes'), keep=('label',)
  ).as_numpy_iterator()
  assert example == {'inputs': b'{q}', 'targets': b'yes', 'label': 1}


class TinyCapitals(tfds.core.GeneratorBasedBuilder):
  """A data set that needs no download."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    texts = {name: tfds.features.Text() for name in ('country', 'capital')}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(texts))

  def _split_generators(self, dl_manager):
    return {'train': [(0, {'country': 'Peru', 'capital': 'Lima'})]}

  def _generate_examples(self):
    raise NotImplementedError


def test_what_the_message_says_prepares_a_data_set(tfds_dir):
  _declare(
      name='capitals', source='tiny_capitals:1.0.0', splits=('train',), inputs='of {country}',
      targets='{capital}', metrics=(metrics.exact_match,),
  ).register()
  with pytest.raises(UserError, match='python -m tasks.datasets.prepared tiny_capitals:1.0.0`'):
    _texts('capitals', 'train')
  prepared.prepare('tiny_capitals:1.0.0', str(tfds_dir))
  assert _texts('capitals', 'train') == [('of Peru', 'Lima')]

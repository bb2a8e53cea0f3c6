"""Each objective, from text to a batch that its model reads."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.objective import add_objectives, normalizers
from tasks import vocabularies
from tasks.pipeline import converters
from tasks.pipeline.seqio_data import DataConfig
from tasks.preprocessors import pretraining

_SMALL = dict(vocab_size=384, embed_dim=8, num_layers=1, num_heads=1, mlp_dim=8)
_ENCODER = models.ModelConfig(family='encoder_only', num_token_types=2, **_SMALL)
_MODELS = {
    'decoder_only': models.ModelConfig(family='decoder_only', **_SMALL),
    'encoder_decoder': models.ModelConfig(family='encoder_decoder', **_SMALL),
    'mlm': _ENCODER,
    'mlm_nsp': dataclasses.replace(_ENCODER, head='mlm_nsp'),
}
_TEXTS = [f'line {i} of a text ' + 'and more ' * (i % 9) for i in range(40)]


@pytest.fixture(scope='module')
def tasks():
  """Registers a task for each objective of plain text, named after it."""
  source = seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
          {'targets': _TEXTS}), splits=['train'])
  names = {}
  for name in pretraining.PREPROCESSORS:
    if name == 'text_to_text':
      continue
    names[name] = f'test_objectives_{name}'
    if names[name] not in seqio.TaskRegistry.names():
      seqio.TaskRegistry.add(
          names[name], source=source, preprocessors=pretraining.PREPROCESSORS[name],
          output_features=pretraining.output_features(name, vocabularies.BYTE_VOCABULARY),
          metric_fns=pretraining.METRICS[name], shuffle_buffer_size=16)
  return names


def _data(tasks, name):
  inputs = None if name in ('lm', 'fim') else 48
  return DataConfig(task=tasks[name], inputs_length=inputs, targets_length=48, batch_size=4,
                    task_module='tasks.preprocessors.pretraining', packing='greedy')


@pytest.fixture(scope='module')
def first_batches(tasks):
  """(name, model) -> the first four batches of seed 0."""

  @functools.cache
  def read(name, model):
    stream = _data(tasks, name).batches(_MODELS[model], seed=0)
    return [next(stream) for _ in range(4)]

  return read


@pytest.mark.parametrize('name, model', [
    ('lm', 'decoder_only'), ('fim', 'decoder_only'), ('prefix_lm', 'decoder_only'),
    ('span_corruption', 'encoder_decoder'), ('iid_denoising', 'encoder_decoder'),
    ('ul2', 'encoder_decoder'), ('mlm', 'mlm'), ('mlm_nsp', 'mlm_nsp'),
])
def test_batches(first_batches, name, model):
  config, batch = _MODELS[model], first_batches(name, model)[0]
  for feature, value in batch.items():
    assert value.shape[0] == 4 and (value.ndim == 2 or feature == 'next_sentence_labels')
  side = 'encoder' if config.family == 'encoder_only' else 'decoder'
  assert batch[f'{side}_loss_weights'].sum() > 0


@pytest.mark.parametrize('name, model', [
    ('ul2', 'encoder_decoder'), ('mlm_nsp', 'mlm_nsp')])
def test_a_stream_that_begins_later_goes_on_as_it_would_have(tasks, first_batches, name, model):
  data = _data(tasks, name)
  later = data.batches(_MODELS[model], seed=0, start=3 * data.batch_size)
  expected = first_batches(name, model)[3]
  for feature, value in next(later).items():
    np.testing.assert_array_equal(value, expected[feature])


def test_a_model_of_pairs_reads_its_batches(first_batches):
  config, batch = _MODELS['mlm_nsp'], first_batches('mlm_nsp', 'mlm_nsp')[0]
  assert batch['encoder_token_types'].shape == (4, 48)
  assert batch['next_sentence_labels'].shape == (4,)
  network = models.build_network(config)
  loss_fn = add_objectives([CrossEntropy(), NextSentenceLoss()])
  sums = jax.jit(lambda batch: loss_fn(
      network.bind(network.init(jax.random.key(0))), batch, None, normalizers(batch)))(batch)
  # Untrained: a guess among 384 ids and among 2 labels.
  mean = lambda name: sums.metrics[name][0] / sums.metrics[name][1]
  assert sums.metrics['next_sentence_loss'][1] == 4
  assert abs(mean('loss') - np.log(384)) < 0.5
  assert abs(mean('next_sentence_loss') - np.log(2)) < 0.5


def test_names_of_objectives_agree():
  assert set(pretraining.PREPROCESSORS) == set(pretraining.METRICS)


@pytest.mark.parametrize('name, head, message', [
    ('mlm', 'pooler', r"ModelConfig.head = 'pooler': .*set head to mlm"),
    ('lm', 'pooler', 'has no pairs of texts'),
    ('mlm', 'tagger', r"ModelConfig.head = 'tagger': .*set head to mlm"),
    ('mlm', 'mlm_nsp', 'set head to mlm, or choose a task of the objective mlm_nsp'),
    ('mlm_nsp', 'mlm', 'set head to mlm_nsp'),
])
def test_heads_that_do_not_fit_their_task(tasks, name, head, message):
  classes = 3 if head == 'tagger' else None
  config = dataclasses.replace(_ENCODER, head=head, num_classes=classes)
  with pytest.raises(UserError, match=message) as caught:
    converters.feature_converter(seqio.get_mixture_or_task(tasks[name]), config, 'none')
  assert '\n' not in str(caught.value)


def test_the_converters_of_the_heads(tasks):
  names = lambda config, name: type(converters.feature_converter(
      seqio.get_mixture_or_task(tasks[name]), config, 'none')).__name__
  assert names(_MODELS['mlm'], 'mlm') == 'MaskedLMFeatureConverter'
  assert names(_MODELS['mlm_nsp'], 'mlm_nsp') == 'NextSentenceFeatureConverter'
  classifier = dataclasses.replace(_ENCODER, head='classifier', num_classes=3)
  assert names(classifier, 'mlm') == 'ClassificationFeatureConverter'


def test_seqios_evaluator_reads_pairs(tasks):
  data = _data(tasks, 'mlm_nsp')
  task = seqio.get_mixture_or_task(tasks['mlm_nsp'])
  converter = converters.feature_converter(task, _MODELS['mlm_nsp'], 'none')
  evaluator = seqio.Evaluator(task.name, converter, 'train', sequence_length=data.lengths, seed=0)
  ((name, dataset),) = evaluator.cached_model_datasets.items()
  (_, batch) = next(dataset.batch(8).as_numpy_iterator())
  assert name == task.name and batch['encoder_token_types'].shape == (8, 48)
  assert batch['next_sentence_labels'].shape == (8,)

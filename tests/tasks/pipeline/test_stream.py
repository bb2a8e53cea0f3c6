"""Batches: their names, their order, their place, and a task that gives none."""

import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.files import FileTask
from tasks.pipeline import imports
from tasks.pipeline.seqio_data import DataConfig

LM = models.ModelConfig(family='decoder_only', vocab_size=384, embed_dim=8, num_layers=1,
                        num_heads=1, mlp_dim=8)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  path = tmp_path_factory.mktemp('data') / 'lines.txt'
  path.write_text('\n'.join(f'line {i} ' + 'x' * (i % 7) for i in range(60)))
  return DataConfig(task=FileTask(train=str(path)), targets_length=32, batch_size=8)


def take(data, n, seed=0, **options):
  stream = data.batches(LM, seed=seed, **options)
  return [next(stream) for _ in range(n)]


@pytest.fixture(scope='module')
def whole(data):
  """The first batches, of more than two epochs."""
  return take(data, 12)


def test_a_batch_has_the_names_of_seqios_converter_and_packs_rows(whole):
  batch = whole[0]
  assert set(batch) == {'decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights',
                        'decoder_segment_ids', 'decoder_positions'}
  assert all(x.shape == (8, 32) for x in batch.values())
  assert batch['decoder_segment_ids'].max() > 1
  starts = np.diff(batch['decoder_segment_ids'], prepend=0, axis=1) > 0
  assert (batch['decoder_input_tokens'][starts] == 0).all()   # each example starts anew
  assert (batch['decoder_positions'][starts] == 0).all()


def test_unpacked_rows_get_the_segments_that_hide_their_padding(data):
  import dataclasses
  (batch,) = take(dataclasses.replace(data, packing='none'), 1)
  np.testing.assert_array_equal(batch['decoder_segment_ids'],
                                batch['decoder_target_tokens'] != 0)
  assert batch['decoder_segment_ids'].max() == 1 and batch['decoder_segment_ids'].min() == 0


def test_the_position_in_the_data_is_the_number_of_examples(data, whole):
  for start in (1, 7):
    for a, b in zip(whole[start:], take(data, 12 - start, start=start * data.batch_size)):
      for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_epochs_differ_and_seeds_differ(data, whole):
  def lines(batches):
    ids = np.concatenate([b['decoder_target_tokens'].ravel() for b in batches])
    return bytes(ids[ids > 0].astype(np.uint8)).split(b'\1')[:-1]

  seen = lines(whole)   # of 60: what is drawn is shuffled over epochs
  assert len(seen) > 150 and len(set(seen)) > 50
  assert seen[:60] != seen[60:120]
  assert lines(take(data, 2, seed=1))[:20] != seen[:20]


def test_processes_share_out_the_rows_of_the_same_global_batches(data, whole):
  parts = [take(data, 3, shard=(i, 2)) for i in range(2)]
  for step, batch in enumerate(whole[:3]):
    for name, rows in batch.items():
      again = np.empty_like(rows)
      for i in range(2):
        again[i::2] = parts[i][step][name]
      np.testing.assert_array_equal(again, rows)


def test_a_task_whose_examples_are_all_filtered_out_is_refused_and_does_not_hang(data):
  seqio = imports.import_seqio()
  name = data.task.register()
  task = seqio.TaskRegistry.get(name)
  if 'nothing_left' not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add('nothing_left', source=task.source, preprocessors=[
        *task.preprocessors, lambda ds: ds.filter(lambda _: False)],
        output_features=task.output_features)
  empty = DataConfig(task='nothing_left', targets_length=32, batch_size=8)
  with pytest.raises(UserError, match="'nothing_left', split 'train' is empty"):
    take(empty, 1)


def test_the_decoder_starts_from_bos_or_else_from_padding():
  class Vocabulary:
    pad_id, bos_id = 7, 3
  assert vocabularies.start_id(Vocabulary()) == 3
  Vocabulary.bos_id = None
  assert vocabularies.start_id(Vocabulary()) == 7
  seqio = imports.import_seqio()
  assert vocabularies.start_id(seqio.ByteVocabulary()) == 0


def test_data_without_a_task_has_the_tokenizer_of_its_vocabulary_alone():
  data = DataConfig(task='', targets_length=8, batch_size=1, vocabulary=None)
  for read in (data.splits, data.tokenizer, lambda: take(data, 1)):
    with pytest.raises(UserError, match='^TASK is required to read data: pass --gin.TASK=VALUE'):
      read()

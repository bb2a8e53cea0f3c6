"""Id 0 of every kind of tokenizer, in every family, beside rows made by hand from lengths."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from t5x_lite.commands import infer, train
from t5x_lite.experiment import gin_config
from tasks import files, vocabularies
from tasks.pipeline import seqio_data

LENGTH = 32
TEXTS = ['!!a!', 'the hat', 'a mat! é', 'that cat sat', '!']
CORPUS = ['the cat sat on the mat', 'a hat! that is it!', 'is it!'] * 20
SPECIAL = ['[CLS]', '[MASK]', '<extra_id_1>', '<extra_id_0>']


def byte_level(first, last):
  """(path) -> tokenizer.json, with the ids of the library itself; `first` begin at id 0."""
  def make(folder):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=290, special_tokens=first, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_special_tokens([*last, *SPECIAL])
    tokenizer.save(str(folder / 'tokenizer.json'))
    return str(folder / 'tokenizer.json'), lambda text: tokenizer.encode(text).ids
  return make


def words(folder):
  """A vocabulary of words whose unknown one has id 0."""
  tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token='<unk>'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(
      special_tokens=['<unk>', '</s>', *SPECIAL[:2]], show_progress=False))
  tokenizer.add_special_tokens(SPECIAL)
  tokenizer.save(str(folder / 'tokenizer.json'))
  return str(folder / 'tokenizer.json'), lambda text: tokenizer.encode(text).ids


def pieces(**ids):
  def make(folder):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / 'm'), vocab_size=40,
        hard_vocab_limit=False, minloglevel=2, **ids)
    model = sentencepiece.SentencePieceProcessor(str(folder / 'm.model'))
    return str(folder / 'm.model'), model.EncodeAsIds
  return make


KINDS = {
    'text at 0': byte_level([], ['<|endoftext|>']),
    'end at 0': byte_level(['<|endoftext|>', '<|padding|>'], []),
    'padding at 0': byte_level(['<pad>', '</s>'], []),
    'unknown word at 0': words,
    'unknown piece at 0': pieces(),
    'padding piece at 0': pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
}


FAST = 'end at 0', 'unknown piece at 0'


@pytest.fixture(scope='module', params=[
    kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def tokenizer(request, tmp_path_factory):
  """(path, ids of a text by the tokenizer's own library, the Vocabulary)."""
  path, encode = KINDS[request.param](tmp_path_factory.mktemp('tokenizer'))
  return path, encode, vocabularies.load_vocabulary(path)


def test_the_vocabulary_has_id_0_for_padding_alone(tokenizer):
  path, encode, vocabulary = tokenizer
  assert {0} & {i for text in TEXTS for i in encode(text)} or vocabulary.eos_id != 0
  for text in TEXTS:
    ids = vocabulary.encode(text)
    assert 0 not in ids and vocabularies.model_ids(vocabulary, ids).tolist() == encode(text)
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == list(ids)
    assert vocabulary.decode(list(ids)) == vocabulary.decode([*ids, vocabulary.eos_id, 0, 0])
  assert 0 not in (vocabulary.eos_id, vocabulary.unk_id)


def by_hand(objective, family, tokenizer):
  """The unpadded example of each text, features as models read them."""
  _, encode, vocabulary = tokenizer
  own = lambda i: int(vocabularies.model_ids(vocabulary, i))
  eos, start = own(vocabulary.eos_id), own(vocabularies.start_id(vocabulary))
  ends = lambda text: [*encode(text), eos]
  for text in TEXTS:
    targets = inputs = ends(text)
    if objective == 'lm':
      inputs = []
    decoder = [*inputs, *targets] if family == 'decoder_only' else targets
    example = {'decoder_input_tokens': [start, *decoder[:-1]], 'decoder_target_tokens': decoder,
               'decoder_loss_weights': [0] * (len(decoder) - len(targets)) + [1] * len(targets)}
    if family == 'encoder_decoder':
      example['encoder_input_tokens'] = inputs
    elif objective != 'lm':
      example['decoder_causal_attention'] = [1] * (len(inputs) + 1) + [0] * (len(targets) - 1)
    yield {name: np.asarray(x) for name, x in example.items()}


def examples_of(batch):
  """The examples of a batch, each without padding, by its segment ids."""
  for r, row in enumerate(batch['decoder_segment_ids']):
    for segment in range(1, row.max() + 1):
      example = {}
      for name, x in batch.items():
        side = name.split('_')[0]
        if not name.endswith(('segment_ids', 'positions')):
          example[name] = x[r][batch[f'{side}_segment_ids'][r] == segment]
      yield example


MODELS = ('lm', 'decoder'), ('text_to_text', 'prefix_lm'), ('text_to_text', 'encoder_decoder')
# Each model with each packing, each kind of tokenizer with one or two of them.
CASES = [('end at 0', *MODELS[0], 'greedy'), ('unknown piece at 0', *MODELS[2], 'greedy')]
SLOW_CASES = [
    ('text at 0', *MODELS[0], 'none'), ('padding at 0', *MODELS[0], 'best_fit'),
    ('unknown word at 0', *MODELS[1], 'greedy'), ('end at 0', *MODELS[1], 'none'),
    ('padding piece at 0', *MODELS[1], 'best_fit'), ('padding at 0', *MODELS[2], 'none'),
    ('text at 0', *MODELS[2], 'best_fit')]


@pytest.mark.parametrize('tokenizer, objective, kind, packing', [
    *CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    indirect=['tokenizer'])
def test_a_batch_is_what_its_lengths_say(
    tokenizer, tmp_path, objective, kind, packing, configs, forward, random_params, pack_rows):
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps({'x': t, 'text': t}) + '\n' for t in TEXTS))
  pair = {} if objective == 'lm' else {'inputs': 'x'}
  if objective != 'lm':
    pair['targets'] = '{text}'
  data = seqio_data.DataConfig(
      task=files.FileTask(train=str(path), objective=objective, **pair), batch_size=5,
      vocabulary=tokenizer[0], packing=packing, targets_length=LENGTH,
      inputs_length=None if objective == 'lm' else LENGTH)
  config = dataclasses.replace(configs[kind], vocab_size=512)
  batch = next(data.batches(config, seed=0))
  batch = {name: np.asarray(x) for name, x in batch.items()}
  want = list(by_hand(objective, config.family, tokenizer))
  found = list(examples_of(batch))
  key = lambda example: {name: np.asarray(x).tolist() for name, x in example.items()}
  indices = [[key(w) for w in want].index(key(example)) for example in found]
  assert len({*indices}) > 1
  params = random_params(config)

  def loss(batch):
    log_p = jax.nn.log_softmax(forward(config)(params, batch))
    target = batch['decoder_target_tokens'][..., None]
    return -(np.take_along_axis(np.asarray(log_p), target, -1)[..., 0]
             * batch['decoder_loss_weights'])

  alone = loss(pack_rows([[w] for w in want], batch['decoder_input_tokens'].shape[1])).sum(1)
  assert loss(batch).sum() == pytest.approx(alone[indices].sum(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    'tokenizer', ['text at 0', 'end at 0', 'unknown piece at 0'], indirect=True)
def test_masks_of_an_encoder_are_counted_by_lengths(tokenizer, tmp_path, configs):
  path, encode, vocabulary = tokenizer
  (tmp_path / 'x.txt').write_text('\n'.join(TEXTS))
  data = seqio_data.DataConfig(
      task=files.FileTask(train=str(tmp_path / 'x.txt'), objective='mlm'), batch_size=5,
      vocabulary=path, packing='greedy', inputs_length=LENGTH, targets_length=LENGTH)
  batch = next(data.batches(dataclasses.replace(configs['encoder'], vocab_size=512), seed=0))
  texts = [encode(text) for text in TEXTS]
  eos, cls = (int(vocabularies.model_ids(vocabulary, i))
              for i in (vocabulary.eos_id, vocabularies.cls_id(vocabulary)))
  seen = 0
  for r, row in enumerate(batch['encoder_segment_ids']):
    for segment in range(1, row.max() + 1):
      inputs, targets, weights = (batch[f'encoder_{name}'][r][row == segment] for name in (
          'input_tokens', 'target_tokens', 'loss_weights'))
      restored = np.where(weights > 0, targets, inputs).tolist()
      assert restored[0] == cls and restored[-1] == eos and restored[1:-1] in texts
      assert weights.sum() == max(1, round(0.15 * (len(restored) - 2)))
      seen += 1
  assert seen >= 5


def test_a_model_learns_to_end_with_id_0(tmp_path):
  path, _ = KINDS['end at 0'](tmp_path)
  (tmp_path / 'x.txt').write_text('the cat sat\n!a hat\n' * 8)
  (tmp_path / 'end.gin').write_text(f"""
from __gin__ import dynamic_registration
from tasks import files
include 'experiments/tiny_lm.gin'
TASK = @files.FileTask()
files.FileTask.train = '{tmp_path}/x.txt'
""")
  experiment, text = gin_config.load_experiment([str(tmp_path / 'end.gin')], [
      f"MODEL_DIR='{tmp_path}/run'", f"VOCABULARY='{path}'", 'TARGETS_LENGTH=16', 'STEPS=50',
      'WARMUP_STEPS=5', 'LEARNING_RATE=1e-2', 'ModelConfig.vocab_size=384',
      'ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
      'ModelConfig.mlp_dim=32', 'InferConfig.batch_size=8', 'Experiment.eval=None'])
  train.train(experiment, text)
  generator, _ = infer.load_generator(experiment)
  outputs = [record['output'] for record in generator(['the', '!a'])]
  assert outputs == [' cat sat', ' hat']

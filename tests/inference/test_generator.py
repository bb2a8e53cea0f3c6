"""Texts in, texts out: what is drawn, what is read of long texts, masks and classes."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Source
from t5x_lite.inference.beam import Beams
from t5x_lite.inference.generator import Generator
from t5x_lite.inference.sampling import Sampling
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

ONE = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
EOS, CLS, MASK, LETTERS = 1, 2, 3, 'abcdefghijklmnopqrstuvwxyz []MASK'


class Letters:
  """Ids from 4 on are letters; no id is padding."""
  vocab_size, eos_id, start_id, cls_id, mask_id = 4 + len(LETTERS), EOS, 0, CLS, MASK
  mask_spelling, end_ids = '[MASK]', (EOS,)

  def __init__(self, add_eos):
    self.add_eos = add_eos

  def encode(self, text):
    return [4 + LETTERS.index(c) for c in text]

  def encode_prompt(self, text, kind):
    parts = text.split('[MASK]') if kind == 'mask' else [text]
    ids = self.encode(parts[0])
    for part in parts[1:]:
      ids += [MASK, *self.encode(part)]
    return ids, len(parts) - 1

  def decode(self, ids):
    ids = ids[:ids.index(EOS)] if EOS in ids else ids
    return ''.join('<class>' if i == CLS else LETTERS[i - 4] for i in ids if i == CLS or i >= 4)


@dataclasses.dataclass(frozen=True)
class Data(Source):
  lengths: dict
  labels: tuple = ()
  add_eos: bool = False

  def tokenizer(self, feature='inputs'):
    return Letters(self.add_eos)


@pytest.fixture(scope='module')
def make(configs, random_params):
  made = {}

  def generator(kind, data, changes=(), **options):
    key = repr((kind, data, changes, sorted(options.items())))
    if key not in made:
      config = dataclasses.replace(configs[kind], **dict(changes))
      made[key] = Generator(models.build_network(config, ONE), random_params(config), ONE, data,
                            **dict(batch_size=4) | options)
    return made[key]
  return generator


PROMPTS = ['abc', 'de', 'f', 'abc', 'ghijk', 'l', 'mn']


@pytest.mark.parametrize('kind', [
    'decoder', pytest.param('encoder_decoder', marks=pytest.mark.slow)])
def test_what_is_drawn_depends_on_neither_batch_size_nor_order(make, kind):
  lengths = {'targets': 8} | ({'inputs': 8} if kind == 'encoder_decoder' else {})
  draw = lambda prompts, size, multiple=32: [r['output'] for r in make(
      kind, Data(lengths), batch_size=size, decoding=Sampling(temperature=1.0), seed=3).padded_to(
          multiple)(prompts)]
  want = draw(PROMPTS, 4)
  assert len(set(want)) > 4 and want[0] != want[3], 'the copies of a prompt draw different tokens'
  assert draw(PROMPTS, 1) == draw(PROMPTS, 4, multiple=48) == want
  order = [4, 6, 0, 2, 3, 1, 5]
  assert draw([PROMPTS[i] for i in order], 4) == [want[i] for i in order]
  assert draw(PROMPTS[4:], 4) == want[4:] and draw(PROMPTS[:2], 4) == want[:2]
  other = make(kind, Data(lengths), batch_size=4, decoding=Sampling(temperature=1.0), seed=4)(
      PROMPTS)
  assert [r['output'] for r in other] != want


def test_several_outputs_of_a_text_share_its_prompt_and_the_first_is_that_of_one(make):
  drawn = dict(batch_size=4, decoding=Sampling(temperature=1.0), seed=3)
  one, three = (make('decoder', Data({'targets': 8}), **drawn, **more)(PROMPTS)
                for more in ({}, dict(samples=3)))
  distinct = 0
  for alone, found in zip(one, three):
    outputs = found.pop('outputs')
    assert 'outputs' not in alone and len(outputs) == 3
    assert {'inputs': found['inputs'], **outputs[0]} == found
    assert found['output'] == alone['output']
    assert found['score'] == pytest.approx(alone['score'], rel=1e-5)
    distinct += len({r['output'] for r in outputs}) == 3
  assert distinct


def test_an_output_ends_before_a_stop_string_and_at_its_own_length(make):
  (free,) = make('decoder', Data({'targets': 12}))(['abc'])
  text = free['output']
  stop = text[3:5]
  (record,) = make('decoder', Data({'targets': 12}), decoding=Sampling(stop=('@', stop)))(['abc'])
  assert record['output'] == text[:text.index(stop)] and record['ended']
  (record,) = make('decoder', Data({'targets': 12}), decoding=Sampling(max_new_tokens=3))(['abc'])
  assert record['output'] == text[:3] and not record['ended']
  with pytest.raises(UserError, match='Sampling.forbidden = .*the vocabulary has ids below'):
    make('decoder', Data({'targets': 12}), decoding=Sampling(forbidden=(500,)))


def test_a_search_gives_its_best_outputs_first(make):
  (greedy,) = make('decoder', Data({'targets': 6}))(['abc'])
  (one,) = make('decoder', Data({'targets': 6}), decoding=Beams(num_beams=1, alpha=0.0))(['abc'])
  assert one['output'] == greedy['output'] and 'outputs' not in one
  assert one['score'] == pytest.approx(greedy['score'], rel=1e-5)
  (best,) = make('decoder', Data({'targets': 6}),
                 decoding=Beams(num_beams=8, num_return=3, alpha=0.0))(['abc'])
  scores = [r['score'] for r in best['outputs']]
  assert scores == sorted(scores, reverse=True) and best['score'] == scores[0]
  assert scores[0] >= greedy['score'] and len({r['output'] for r in best['outputs']}) == 3


def test_a_cache_in_8_bits_answers(make):
  plain, held = (make('decoder', Data({'targets': 6}), **options)(['abc'])[0]
                 for options in ({}, dict(int8_cache=True)))
  assert held['score'] == pytest.approx(plain['score'], rel=0.1)
  assert held['score'] != plain['score']


def test_a_decoder_continues_the_end_of_a_long_prompt_and_says_so(make):
  generator = make('decoder', Data({'targets': 4}))
  short, long = generator(['cdef', 'abcdef'])
  assert (long['inputs'], long['inputs_read'], long['tokens_cut']) == ('abcdef', 'cdef', 2)
  assert 'tokens_cut' not in short and 'inputs_read' not in short
  assert (long['output'], long['score']) == (short['output'], pytest.approx(short['score'], 1e-4))


def test_a_decoder_with_inputs_keeps_their_end_and_eos(make):
  generator = make('prefix_lm', Data({'inputs': 4, 'targets': 4}, add_eos=True))
  assert generator.read('abcdef') == ([7, 8, 9, EOS], 3, 0)
  assert generator.read('abc') == ([4, 5, 6, EOS], 0, 0)


@pytest.mark.parametrize('kind, ids', [
    ('encoder_decoder', [4, 5, 6, EOS]), ('encoder', [CLS, 4, 5, EOS])])
def test_an_encoder_reads_the_beginning_of_a_long_text_and_says_so(make, kind, ids):
  generator = make(kind, Data({'inputs': 4, 'targets': 4}, add_eos=True))
  read = generator.read('abcdef')
  assert read.ids == ids and read.cut == (3 if kind == 'encoder_decoder' else 4)
  (record,) = generator(['abcdef'])
  assert record['inputs_read'] == 'abcdef'[:6 - read.cut]


def test_a_prompt_for_which_there_is_no_room_is_refused_before_anything_runs(make):
  generator = make('gpt', Data({'targets': 12}), max_tokens=8)
  with pytest.raises(UserError, match='A prompt of 13 tokens and 8 new ones'):
    generator([*'abcdefgh', 'abcdefghijkl'])


def test_masks_are_filled_where_they_are_named(make):
  data = Data({'inputs': 12, 'targets': 12}, add_eos=True)
  (record,) = make('encoder', data)(['ab[MASK]cd'])
  assert len(record['output']) in (4, 5, 4 + len('<class>')) and record['output'].startswith('ab')
  assert record['output'].endswith('cd') and record['score'] < 0
  (text,) = make('encoder', data, placeholders=False)(['ab[MASK]cd'])
  assert text['output'] == 'ab[MASK]cd' and text['score'] == 0
  assert make('encoder', data)(['abcd'])[0]['output'] == 'abcd', 'padding is no text'


def test_classes_have_their_names(make):
  changes = (('head', 'classifier'), ('num_classes', 5))
  data = Data({'inputs': 8, 'targets': 1})
  names = 'red', 'green', 'blue'
  numbers = [r['output'] for r in make('encoder', data, changes)(PROMPTS)]
  assert {*numbers} <= {*range(5)} and len({*numbers}) > 1
  named = make('encoder', dataclasses.replace(data, labels=names), changes)(PROMPTS)
  assert {r['output'] for r in named} <= {*names}, 'rows of the head without a class are left out'
  for number, record in zip(numbers, named):
    assert number > 2 or record['output'] == names[number]
  assert np.all([r['score'] < 0 for r in named])


def test_a_decoder_that_classifies_reads_a_text_with_its_end_or_in_a_frame(make, random_params):
  changes = (('num_classes', 5),)
  data = Data({'inputs': 8, 'targets': 1}, labels=tuple('vwxyz'))
  generator = make('decoder', data, changes)
  records = generator([*PROMPTS, 'abcdefgh'])
  assert {r['output'] for r in records} <= {*'vwxyz'} and len({r['output'] for r in records}) > 1
  assert (records[-1]['inputs_read'], records[-1]['tokens_cut']) == ('abcdef', 2)
  whole = make('decoder', data, changes, frame=((0,), (EOS,)))(PROMPTS)
  assert [r['output'] for r in whole] == [r['output'] for r in records[:-1]]
  np.testing.assert_allclose([r['score'] for r in whole], [r['score'] for r in records[:-1]],
                             rtol=1e-5)
  # Without a frame of ids the last letter is read, as brute force has it.
  bare, = make('decoder', data, changes, frame=((), ()))(['abc'])
  network = models.build_network(generator.config)
  batch = {'decoder_input_tokens': np.int32([[4, 5, 6]]), 'text_positions': np.int32([[2]])}
  logits = network.bind(random_params(generator.config)).outputs(batch).class_logits_BC[0]
  assert bare['output'] == 'vwxyz'[int(logits.argmax())]
  assert bare['score'] == pytest.approx(float(jax.nn.log_softmax(logits).max()), rel=1e-4)


def test_a_prompt_of_a_task_of_several_texts_is_refused(make):
  data = Data({'inputs': 8, 'targets': 1})
  object.__setattr__(data, 'num_texts', 2)
  with pytest.raises(UserError, match='2 texts an example, and a prompt is one: leave prompts'):
    make('decoder', data, (('num_classes', 5),))(['ab'])

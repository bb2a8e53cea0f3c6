"""Constraints: every allowed token by brute force, and random walks that end in what is asked."""

import functools
import itertools
import json
import os
import pathlib
import random
import re
import shutil

import jax
import numpy as np
import pytest
import seqio
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

pytest.importorskip('outlines_core', reason="pip install -e '.[constrain]'")
jsonschema = pytest.importorskip('jsonschema')

from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.inference.constraints import ConstraintBuilder, constraint_rows  # noqa: E402
from tasks.vocabularies import vocabularies  # noqa: E402
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer  # noqa: E402


class Pieces:
  """A tokenizer of a few pieces; '</s>' ends a text, None is a control token."""

  def __init__(self, *pieces):
    self.pieces = [None, *[p.encode() if isinstance(p, str) else p for p in pieces], None]
    self.vocab_size, self.eos_id = len(self.pieces), len(self.pieces) - 1

  def token_bytes(self):
    return self.pieces

  def decode(self, ids):
    return b''.join(self.pieces[i] or b'' for i in ids).decode()

  def builder(self, **options):
    return ConstraintBuilder(self, [self.eos_id], **options)


SMALL = Pieces('a', 'b', 'ab', 'ba', 'aab', 'é'.encode()[:1], 'é'.encode()[1:], 'aé', '', 'a')


@pytest.mark.parametrize('pattern', [
    'ab?', '(ab)*', 'a(a|b)b*', 'aé|é', '[^a]b', '', 'a{2,3}|b', '^ab$', r'a\$?', 'é+'])
def test_allowed_are_the_tokens_that_some_match_goes_on_with(pattern):
  constraint = SMALL.builder().regex(pattern)
  ids = [i for i, piece in enumerate(SMALL.pieces) if piece]
  depth, prefixes, texts = 5, set(), set()
  for length in range(depth + 1):
    for row in itertools.product(ids, repeat=length):
      data = b''.join(SMALL.pieces[i] for i in row)
      try:
        matches = re.fullmatch(pattern, data.decode())
      except UnicodeDecodeError:
        continue
      if matches:
        texts.add(row)
        prefixes |= {row[:n] for n in range(length + 1)}
  for row in itertools.chain.from_iterable(itertools.product(ids, repeat=n) for n in range(3)):
    if row not in prefixes:
      continue
    state = 0
    for i in row:
      state = constraint.next[state, constraint.class_of[i]]
    allowed = set(np.flatnonzero(constraint.next[state][constraint.class_of] >= 0).tolist())
    assert allowed == {i for i in ids if (*row, i) in prefixes} | (
        {SMALL.eos_id} if row in texts else set()), row


def walk(constraint, end_id, rng, longest=30):
  """Ids of one random output; after `longest` it takes the shortest way to an end."""
  class_end = constraint.class_of[end_id]
  far = np.where(constraint.next[:, class_end] >= 0, 0, 10 ** 6)
  for _ in range(len(far)):
    step = np.where(constraint.next >= 0, far[constraint.next], 10 ** 6).min(1) + 1
    far = np.minimum(far, step)
  members = [np.flatnonzero(constraint.class_of == c) for c in range(constraint.next.shape[1])]
  state, ids = 0, []
  while True:
    classes = np.flatnonzero(constraint.next[state] >= 0)
    assert len(classes), 'a dead end'
    if len(ids) > longest:
      classes = classes[[far[constraint.next[state, c]] <= far[state] - (c != class_end)
                         for c in classes]]
    if class_end in classes and (rng.random() < 0.3 or len(ids) > longest):
      return ids
    classes = classes[classes != class_end]
    if not len(classes):
      return ids
    c = rng.choice(classes)
    ids.append(int(rng.choice(members[c])))
    state = constraint.next[state, c]


NAMES = ['byte', 'gpt2', 't5/tokenizer.json', 't5/spiece.model', 'mistral/tokenizer.model.v1',
         'sentencepiece_test/test_model.model']


@pytest.fixture(scope='module')
def load(tmp_path_factory):
  """Makes the SeqioTokenizer of one of NAMES."""
  def make(name):
    folder = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nowhere')) / 'tokenizers'
    path = folder / name
    if name != 'byte' and not path.exists():
      pytest.skip('T5X_LITE_TEST_DATA has tokenizers')
    if name == 'gpt2':
      made = tokenizers.Tokenizer(models.BPE.from_file(
          str(path / 'encoder.json'), str(path / 'vocab.bpe')))
      made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
      made.decoder = decoders.ByteLevel()
      made.add_special_tokens(['<|endoftext|>'])
      path = tmp_path_factory.mktemp('gpt2') / 'tokenizer.json'
      made.save(str(path))
    elif not name.endswith(('model', 'json', 'byte')):
      path = shutil.copyfile(path, tmp_path_factory.mktemp('it') / 'tokenizer.model')
    return tokenizer_of(name if name == 'byte' else path)
  return functools.cache(make)


def tokenizer_of(path):
  return SeqioTokenizer(seqio.Feature(vocabularies.load_vocabulary(str(path))))


@pytest.mark.parametrize('name', NAMES)
def test_random_walks_match_the_pattern(name, load):
  tokenizer = load(name)
  builder, rng = ConstraintBuilder(tokenizer, [tokenizer.eos_id]), random.Random(0)
  patterns = [r'[a-z]{1,9}( [0-9]+)*\.', r' ?[ab ]+', 'yes|no|maybe', '[A-Z][a-z]*(-?[0-9])?',
              r'-?[0-9]+(\.[0-9]+)?', ' *x']
  for pattern in patterns + ['[A-Z][a-zé]*\n?', '.{1,4}'] * (name in ('byte', 'gpt2')):
    constraint = builder.regex(pattern)
    for _ in range(60):
      ids = walk(constraint, tokenizer.eos_id, rng)
      assert re.fullmatch(pattern, tokenizer.decode(ids)), (pattern, ids)
      assert re.fullmatch(pattern, tokenizer.decode([*ids, tokenizer.eos_id]))


SCHEMAS = [
    {'type': 'object', 'properties': {
        'name': {'type': 'string', 'maxLength': 5, 'title': 'who'}, 'age': {'type': 'integer'},
        'tags': {'type': 'array', 'items': {'enum': ['a"b', 'é', 'x\\d', 1.5, None, [1, {}]]},
                 'minItems': 1, 'maxItems': 3}}, 'required': ['name', 'tags'],
     'additionalProperties': False},
    {'type': ['string', 'null', 'number'], 'minLength': 2},
    {'anyOf': [{'$ref': '#/$defs/point'}, {'const': {'at': [1, 'b|c']}}], '$defs': {'point': {
        'type': 'array', 'prefixItems': [{'type': 'number'}, {'type': 'boolean'}]}}},
    {'type': 'string', 'pattern': '^a|b+|[c-e]{2}$'}, {'type': 'string', 'format': 'date'},
    {'type': 'string', 'format': 'date-time'}, {'type': 'string', 'format': 'uuid'},
    {'type': 'object', 'additionalProperties': {'type': 'boolean'}},
    {'type': 'object', 'additionalProperties': False}, {'type': 'array', 'items': {
        'type': 'object', 'properties': {}}, 'maxItems': 2},
    {'enum': ['a', 1, True, None], 'type': ['integer', 'null']}, {'const': 'a.b*'},
    {'type': 'array', 'items': {'type': 'integer'}, 'maxItems': 0},
]


@pytest.mark.parametrize('schema', SCHEMAS, ids=lambda s: json.dumps(s)[:40])
def test_random_walks_meet_the_schema(schema, load):
  tokenizer, rng = load('byte'), random.Random(1)
  constraint = ConstraintBuilder(tokenizer, [tokenizer.eos_id]).json_schema(schema)
  check = jsonschema.Draft202012Validator(
      schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
  same = ConstraintBuilder(tokenizer, [tokenizer.eos_id]).json_schema(json.dumps(schema))
  np.testing.assert_array_equal(same.next, constraint.next)
  seen = set()
  for _ in range(200):
    text = tokenizer.decode(walk(constraint, tokenizer.eos_id, rng))
    try:
      check.validate(json.loads(text))
    except jsonschema.ValidationError as e:
      # The library's dates have a year 0, and 31 days each month.
      assert e.validator == 'format' and re.search(r'"0000|-(02-(29|3\d)|\d\d-31)', text), text
    seen.add(text)
  assert len(seen) > 1 or 'const' in schema or schema.get('additionalProperties') is False or (
      schema.get('maxItems') == 0)


def test_a_choice_is_of_the_texts_to_the_letter(load):
  tokenizer, rng = load('byte'), random.Random(2)
  texts = ['a.b', 'a*', '[x]{2}', '\\d', 'line\nbreak\t', '世界 ^$', '#-~&', "it's <b>", '(?i)']
  constraint = ConstraintBuilder(tokenizer, [tokenizer.eos_id]).choice(texts)
  assert {tokenizer.decode(walk(constraint, tokenizer.eos_id, rng)) for _ in range(300)} == {*texts}


def test_rows_of_several_constraints_and_of_none():
  builder = SMALL.builder()
  first, second = builder.regex('(ab)*'), builder.choice(['b', 'aab'])
  rows = constraint_rows([first, None, second, first], vocab_size=16)   # as of a padded table
  allowed = jax.jit(lambda rows, state: rows.allowed(state))
  advance = jax.jit(lambda rows, state, token: rows.advance(state, token))
  states, texts, rng = rows.start(), [[] for _ in range(4)], random.Random(3)
  for _ in range(6):
    may = np.asarray(allowed(rows, states))
    assert may[1].all() and not may[[0, 2, 3], len(SMALL.pieces):].any() and may.any(1).all()
    tokens = [int(rng.choice(np.flatnonzero(row))) for row in may]
    for text, token in zip(texts, tokens):
      text.append(token)
    states = advance(rows, states, np.asarray(tokens, np.int32))
  for constraint, text in zip([first, None, second, first], texts):
    state = 0
    for i in text if constraint is not None else []:
      state = constraint.next[state, constraint.class_of[i]]
      assert state >= 0
  other = constraint_rows([None, second, builder.regex('a|b{3}'), None], vocab_size=16)
  allowed(other._replace(which=other.which), other.start())
  assert jax.tree.map(np.shape, other) != () and allowed._cache_size() <= 2
  nothing = constraint_rows([None, None], vocab_size=16)
  assert np.asarray(allowed(nothing, nothing.start())).all()


def test_rows_of_two_constraints_are_of_one_shape():
  builder = SMALL.builder()
  shapes = [jax.tree.map(np.shape, constraint_rows([one, None], 16)) for one in (
      builder.regex('a*'), builder.regex('(ab|b)*a{4}'), None)]
  assert shapes[0] == shapes[1] == shapes[2]


def test_states_from_which_no_end_is_reached_are_left_out():
  """The vocabulary writes an a, and then only pairs: an odd number of b has no end."""
  builder = Pieces('a', 'bb', 'c').builder()
  constraint = builder.regex('a(bb)*c')
  rng = random.Random(0)
  assert all(walk(constraint, 4, rng)[-1] == 3 for _ in range(20))
  with pytest.raises(UserError, match='no '):
    Pieces('a', 'bb').builder().regex('ab(bb)*')


def test_forbidden_ids_are_no_way_on():
  constraint = SMALL.builder(forbidden=(1, 10)).regex('ab')
  assert np.flatnonzero(constraint.next[0][constraint.class_of] >= 0).tolist() == [3]
  with pytest.raises(UserError, match='ends the output'):
    SMALL.builder(forbidden=(SMALL.eos_id,))


BAD_REGEX = ['[', '(?=a)b', r'(a)\1', r'\bword', 'a{3', 'z', 'a^b', '*', '(?P<a', '\ud800',
             '(a{1000}){100}', r'((\d{9,}[(]){40,50}){90}x', 'a)(b', 'a)|(b']


@pytest.mark.parametrize('pattern', BAD_REGEX)
def test_a_regular_expression_that_cannot_be_followed_is_one_line(pattern):
  with pytest.raises(UserError) as e:
    SMALL.builder().regex(pattern)
  assert '\n' not in str(e.value) and len(str(e.value)) < 500


BAD_SCHEMAS = [
    ('{', 'is not JSON'), (True, 'an object of keywords'), ({}, 'give it a type'),
    ({'type': 'what'}, 'type'), ({'type': 'strin'}, "did you mean 'string'"),
    ({'type': 'integer', 'minimum': 3}, 'minimum'),
    ({'type': 'string', 'format': 'ipv9'}, 'format'),
    ({'allOf': [{'type': 'null'}]}, 'allOf'), ({'oneOf': [{'type': 'null'}]}, 'oneOf'),
    ({'not': {}}, 'not'), ({'type': 'array', 'items': {'type': 'null'}, 'uniqueItems': True},
     'uniqueItems'),
    ({'type': 'string', 'minLength': 3, 'maxLength': 2}, 'cannot be met'),
    ({'type': 'array', 'items': {'type': 'null'}, 'minItems': 3, 'maxItems': 2}, 'cannot be met'),
    ({'enum': []}, 'cannot be met'), ({'enum': ['a'], 'type': 'integer'}, 'cannot be met'),
    ({'const': True, 'type': 'integer'}, 'cannot be met'), ({'anyOf': []}, 'cannot be met'),
    ({'type': 'object', 'properties': {'a': {'type': 'null'}}, 'required': ['b']}, 'requires'),
    ({'type': 'object', 'required': ['b']}, 'requires'), ({'type': 'object'}, 'of anything'),
    ({'type': 'array'}, 'of anything'), ({'type': 'string', 'pattern': '.*'}, 'quote'),
    ({'type': 'string', 'pattern': '['}, 'pattern'), ({'type': 'string', 'pattern': 3}, 'pattern'),
    ({'type': 'string', 'pattern': 'a', 'maxLength': 3}, 'more than one'),
    ({'type': 'string', 'maxLength': -1}, 'whole number'), ({'type': []}, 'cannot be met'),
    ({'type': 'object', 'properties': {'a"': {'type': 'null'}}}, 'rename'),
    ({'type': 'object', 'properties': {'a': {'type': 'integer', 'maximum': 3}}}, r'\$\.a '),
    ({'$ref': '#/$defs/x', '$defs': {'x': {'type': 'array', 'items': {'$ref': '#/$defs/x'}}}}, ''),
    ({'$ref': '#/$defs/x'}, ''), ({'$ref': 3}, ''), ({'type': [['a']]}, ''), ({'type': {}}, '')]


@pytest.mark.parametrize('schema, message', BAD_SCHEMAS, ids=lambda x: str(x)[:40])
def test_a_schema_that_cannot_be_followed_is_one_line(schema, message, load):
  tokenizer = load('byte')
  with pytest.raises(UserError, match=message) as e:
    ConstraintBuilder(tokenizer, [tokenizer.eos_id]).json_schema(schema)
  assert '\n' not in str(e.value)


def test_a_choice_of_nothing_and_a_tokenizer_of_words_are_refused(tmp_path):
  for texts in ([], [3]):
    with pytest.raises(UserError, match='one or more texts'):
      SMALL.builder().choice(texts)
  words = tokenizers.Tokenizer(models.WordPiece({'[UNK]': 0, 'a': 1, '[SEP]': 2},
                                                unk_token='[UNK]'))
  words.decoder = decoders.WordPiece()
  words.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(UserError, match='of words'):
    ConstraintBuilder(tokenizer_of(tmp_path / 'tokenizer.json'), [2])


@pytest.mark.parametrize('name', NAMES)
def test_the_bytes_of_ids_add_up_to_their_text(name, load):
  tokenizer = load(name)
  pieces = tokenizer.token_bytes()
  for text in ('Hello, world', *['is 世界 é\n'] * (name in ('byte', 'gpt2'))):
    data = b''.join(pieces[i] or b'' for i in tokenizer.encode(text))
    assert data.decode().removeprefix(' ') == text
  assert [len(p or b'') for p in pieces] == tokenizer.byte_lengths().tolist()

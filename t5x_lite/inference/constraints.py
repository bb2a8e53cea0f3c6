"""Constraints on a text: tables by which a program allows the next tokens, a state for each row.

outlines-core makes an automaton over tokens of a regular expression. Tokens that lead to the same
states from every state are of one class, so its table is small: [states, classes].

Shape letters: B batch, N constraints, S states, C classes, V vocabulary.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Tokenizer
from t5x_lite.inference.json_schema import (
  byte_index,
  check_size,
  reason,
  schema_regex,
  without_anchors,
)

_END = '\U0010ffff'   # a character that no text has


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
  """What may be written, as an automaton that starts in state 0 and has no dead end.

  Attributes:
    class_of: int32 [vocab], the class of each id.
    next: int32 [states, classes], the state that follows; -1: not allowed. An end id is allowed
      where the text may end.
  """
  class_of: np.ndarray
  next: np.ndarray

  def allows(self, ids: Sequence[int]) -> bool:
    """Whether an output may begin with these ids."""
    state = 0
    for i in ids:
      state = self.next[state, self.class_of[i]]
      if state < 0:
        return False
    return True


class ConstraintBuilder:
  """Makes the constraints of outputs in a tokenizer's ids; it is used for many of them."""

  def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int], forbidden: Sequence[int] = ()):
    """Raises UserError for a tokenizer that is not of bytes, or without outlines-core.

    Args:
      end_ids: each of which ends an output; at least one.
      forbidden: ids that no output has for another reason.
    """
    try:
      import outlines_core
    except ImportError:
      raise UserError("constraints need outlines-core: pip install -e '.[constrain]'") from None
    self._index = outlines_core.Index
    self._end_ids = [i for i in end_ids if i >= 0 and i not in forbidden]
    if not self._end_ids:
      raise UserError('a constraint needs a token that ends the output: the vocabulary has none, '
                      'or it is forbidden')
    pieces = tokenizer.token_bytes()
    ids_of = {}
    for i, piece in enumerate(pieces):
      if piece and i not in end_ids and i not in forbidden:
        ids_of.setdefault(piece, []).append(i)
    self._size, self._pieces = len(pieces), pieces
    # An end that is a token of its own: where a text may end and go on, too, the library drops
    # tokens. Its own end token is one more.
    self._vocabulary = outlines_core.Vocabulary(
        self._size + 1, ids_of | {_END.encode(): [self._size]})
    self._first, self._strips, self._kept = _leading_spaces(tokenizer, ids_of)

  def regex(self, pattern: str) -> Constraint:
    """The whole text matches a regular expression, in the syntax of Rust's crate regex.

    That has no look-around and no back-references. Raises UserError for one that is malformed, or
    that no text in this vocabulary matches.
    """
    what = f'the regular expression {pattern!a:.80}'
    pattern = without_anchors(pattern)
    try:   # alone: in brackets an a)(b would be balanced
      byte_index(pattern)
    except UserError as e:
      raise UserError(f'{what} cannot be followed: {e}') from e
    return self._build(pattern, what)

  def choice(self, texts: Sequence[str]) -> Constraint:
    """The text is one of several. Raises UserError where there are none, or one is no text."""
    if not texts or not all(isinstance(text, str) for text in texts):
      raise UserError(f'a choice is of one or more texts, not {texts!r:.80}')
    escaped = [re.sub(r'[\\.+*?()|\[\]{}^$#&~-]', r'\\\g<0>', text) for text in texts]
    return self._build('|'.join(escaped), f'the choice of {list(texts)!r:.80}')

  def json_schema(self, schema: dict[str, Any] | str) -> Constraint:
    """The text is JSON by a schema. Raises UserError for a keyword that is not supported, and for
    a schema that nothing meets."""
    return self._build(schema_regex(schema), 'the JSON schema')

  def _build(self, pattern: str, what: str) -> Constraint:
    try:
      check_size(pattern)
      index = self._index(f'{self._first}(?:{pattern}){_END}', self._vocabulary)
    except (ValueError, UnicodeEncodeError, UserError) as e:
      raise UserError(f'{what} cannot be followed: {reason(e)}') from e
    moves, start = index.get_transitions(), index.get_initial_state()
    last = set(index.get_final_states())
    ends = {state for state, to in moves.items() if to.get(self._size) in last}
    moves = {state: {i: s for i, s in to.items() if i < self._size}
             for state, to in moves.items()}
    moves[start] = {i: s for i, s in moves.get(start, {}).items() if i not in self._kept}
    if self._strips:
      ends |= self._forbid_leading_spaces(moves, start, ends)
    alive = _leading_to(ends, moves)
    if start not in alive:
      raise UserError(f'{what} has no text in this vocabulary: no sequence of its tokens matches')
    number = {state: n for n, state in enumerate([start, *sorted(alive - {start})])}
    table = np.full((len(number), self._size), -1, np.int32)
    for state, n in number.items():
      to = {i: number[s] for i, s in moves.get(state, {}).items() if s in number}
      table[n, list(to)] = list(to.values())
      if state in ends:
        table[n, self._end_ids] = n
    return _merge_columns(table)

  def _forbid_leading_spaces(self, moves: dict, start: int, ends: set[int]) -> set[int]:
    """Changes `moves` where decoding strips all spaces before a text: the text has none there.

    Returns the states added, if the text may end in them: the one after a space alone.
    """
    spaces = lambda i: len(self._pieces[i]) - len(self._pieces[i].lstrip(b' '))
    alone = {s for i, s in moves[start].items() if self._pieces[i] == b' '}
    new = {state: -1 - state for state in alone}
    moves |= {new[state]: {i: s for i, s in moves.get(state, {}).items() if not spaces(i)}
              for state in alone}
    moves[start] = {i: new[s] if self._pieces[i] == b' ' else s
                    for i, s in moves[start].items() if spaces(i) == 1}
    return {new[state] for state in alone & ends}


def _leading_spaces(tokenizer: Tokenizer, ids_of: dict[bytes, list[int]]
                    ) -> tuple[str, bool, set[int]]:
  """(the space that the first piece has and decoding takes away, whether it takes away further
  ones, ids of a space, such as that of its byte, that it does not)."""
  first = lambda pattern: next((ids[0] for piece, ids in ids_of.items()
                                if re.match(pattern, piece)), None)
  starts = lambda *ids: tokenizer.decode(list(ids)).startswith(' ')
  word, inner = first(rb' \w'), first(rb'\w')
  if word is None or inner is None or starts(word):
    return '', False, set()
  kept = {i for i in ids_of.get(b' ', ()) if starts(i, inner)}
  stripped = [i for i in ids_of.get(b' ', ()) if i not in kept]
  return ' ', bool(stripped) and not starts(stripped[0], word), kept


def _leading_to(final: set[int], moves: dict[int, dict[int, int]]) -> set[int]:
  """The states from which some tokens lead to one of the final ones."""
  before = {}
  for state, to in moves.items():
    for other in set(to.values()):
      before.setdefault(other, set()).add(state)
  found, queue = set(final), list(final)
  while queue:
    new = before.get(queue.pop(), set()) - found
    found |= new
    queue += new
  return found


def _merge_columns(table_SV: np.ndarray) -> Constraint:
  """The table with equal columns merged; they are found by a random weight of each state."""
  weight_S = np.random.default_rng(0).integers(1, 2 ** 63, len(table_SV), np.uint64)
  sum_V = np.zeros(table_SV.shape[1], np.uint64)
  for weight, row in zip(weight_S, table_SV):
    sum_V += weight * (row + 1).astype(np.uint64)
  _, first_C, class_V = np.unique(sum_V, return_index=True, return_inverse=True)
  next_SC = table_SV[:, first_C]
  if not all(np.array_equal(row[class_V], whole) for row, whole in zip(next_SC, table_SV)):
    raise AssertionError('two unlike columns have one sum of 64 bits')
  return Constraint(class_V.astype(np.int32), np.ascontiguousarray(next_SC))


class ConstraintRows(NamedTuple):
  """The constraints of the rows of a batch, as arrays padded to few sizes.

  A state is where its row of a table begins, from the beginning of this table: it stays as it is
  when the constraints of other rows change.

  Attributes:
    class_of: [constraints, vocab] int32.
    next: [cells] int32, the tables one after the other; the constraint 0 allows everything.
    which: [batch] int32, the constraint of each row.
    offset: [batch] int32, where its table begins.
  """
  class_of: jax.Array
  next: jax.Array
  which: jax.Array
  offset: jax.Array

  def start(self) -> jax.Array:
    """The states [batch] of outputs without a token yet."""
    return jnp.zeros(self.which.shape, jnp.int32)

  def allowed(self, state_B: jax.Array) -> jax.Array:
    """bool [batch, vocab]: the tokens that may come next."""
    row_B1 = (self.offset + state_B)[:, None]
    return self.next[row_B1 + self.class_of[self.which]] >= 0

  def advance(self, state_B: jax.Array, token_B: jax.Array) -> jax.Array:
    """The states after one token more; as before where it is not allowed, in a row that ended."""
    next_B = self.next[self.offset + state_B + self.class_of[self.which, token_B]]
    return jnp.where(next_B < 0, state_B, next_B)


def constraint_rows(constraints: Sequence[Constraint | None], vocab_size: int,
                    least: int = 2) -> ConstraintRows:
  """The constraints of a batch, one a row, None for a row that may write anything.

  Args:
    vocab_size: of the logits; ids beyond the vocabulary of a constraint are not allowed.
    least: unlike constraints that there is room for; more are padded to a power of two, and cells
      to a power of 16, so that few programs are compiled.
  """
  different = list({id(c): c for c in constraints if c is not None}.values())
  N = max(least, 1 << len(different).bit_length())
  class_of, tables = np.zeros((N, vocab_size), np.int32), [np.zeros(1, np.int32)]
  for n, one in enumerate(different, 1):
    width = one.next.shape[1] + 1   # one class more: of no constraint's ids
    class_of[n] = width - 1
    class_of[n, :len(one.class_of)] = one.class_of[:vocab_size]
    table = np.where(one.next < 0, -1, one.next * width)
    tables.append(np.pad(table, ((0, 0), (0, 1)), constant_values=-1).reshape(-1))
  offsets = np.cumsum([0, *map(len, tables)])
  cells = 4096
  while cells < offsets[-1]:
    cells *= 16
  flat = np.pad(np.concatenate(tables), (0, cells - offsets[-1]), constant_values=-1)
  number = {id(c): n for n, c in enumerate(different, 1)} | {id(None): 0}
  which = np.asarray([number[id(c)] for c in constraints], np.int32)
  return ConstraintRows(class_of, flat.astype(np.int32), which, offsets[which].astype(np.int32))

"""The tokenizer of a run as fields of a GGUF file, as llama.cpp reads them.

llama.cpp has three that are of use here: 'llama' (SentencePiece BPE: pieces joined by their scores,
bytes for what has no piece), 't5' (SentencePiece Unigram) and 'gpt2' (byte-level BPE with its list
of merges, before which text is split as `pre` says).
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.interop import tiktoken_ranks
from t5x_lite.interop.json_files import read_optional
from t5x_lite.interop.tokenizer_files import TokenizerFile

# gguf.TokenType; SentencePiece numbers its types alike.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_NO_SCORE = -1000.0   # of a token that no merge gives
_QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
          r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')
# How text is split -> llama.cpp's name of it, where a text that is a piece is merged all the same.
PRE = {tiktoken_ranks.GPT2: 'gpt-2', tiktoken_ranks.CL100K: 'dbrx', _QWEN2: 'qwen2',
       tiktoken_ranks.O200K: 'gpt-4o'}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What llama.cpp reads of a tokenizer.

  Attributes:
    model: 'llama', 't5', 'gpt2', or 'none' where there is no tokenizer.
    tokens: the text of each id, no two alike.
    types: of gguf.TokenType, one an id.
    scores: one an id; empty in 'gpt2'.
    merges: two pieces with a space between them, first ones first; of 'gpt2' alone.
    pre: how text is split before pieces are merged.
    space: whether a space is put before a text.
    trim: whether several spaces are one.
    charsmap: SentencePiece's compiled table of normalised characters.
    notes: lines for the user, of where llama.cpp's ids differ.
  """
  model: str
  tokens: list[str] = dataclasses.field(default_factory=list)
  types: list[int] = dataclasses.field(default_factory=list)
  scores: list[float] = dataclasses.field(default_factory=list)
  merges: list[str] = dataclasses.field(default_factory=list)
  pre: str = 'default'
  space: bool = False
  trim: bool = False
  charsmap: bytes = b''
  notes: tuple[str, ...] = ()


def read_vocabulary(path: str | None, size: int) -> Vocabulary:
  """The tokenizer of a run, with a token for each row of the embedding table.

  Args:
    path: a SentencePiece model, a tokenizer.json or a rank file; 'byte'; None: there is none.
    size: rows of the embedding table; those without a token get one that no text gives.

  Raises:
    UserError: llama.cpp has no such tokenizer, or the table has too few rows.
  """
  if path is None:
    return Vocabulary('none', notes=('There is no tokenizer: llama.cpp reads ids alone',))
  if path == 'byte':
    made = _bytes()
  elif tiktoken_ranks.is_tokenizer(path):
    made = _from_json(TokenizerFile(path))
  else:
    made = _from_sentencepiece(pathlib.Path(path))
  return _fit(made, size)


def _fit(made: Vocabulary, size: int) -> Vocabulary:
  """The same with `size` tokens."""
  number = len(made.tokens)
  if any(kind != UNUSED for kind in made.types[size:]):
    raise UserError(f'The tokenizer has {number} tokens and the model {size} rows of embeddings: '
                    'llama.cpp needs a row for each')
  count = max(size - number, 0)
  return dataclasses.replace(
      made, tokens=made.tokens[:size] + [_unused(i) for i in range(number, size)],
      types=made.types[:size] + [UNUSED] * count,
      scores=made.scores and made.scores[:size] + [_NO_SCORE] * count)


def _unused(i: int) -> str:
  return f'[PAD{i}]'


def _bytes() -> Vocabulary:
  """seqio's ByteVocabulary: padding, end, unknown, then the bytes.

  llama.cpp makes a '▁' of each space before it looks for pieces, so that is the piece of one.
  """
  tokens = ['<pad>', '</s>', '<unk>', *(f'<0x{b:02X}>' for b in range(256))]
  types = [CONTROL, CONTROL, UNKNOWN] + [BYTE] * 256
  tokens[3 + ord(' ')], types[3 + ord(' ')] = '▁', NORMAL
  return Vocabulary('llama', tokens, types, [0.0] * len(tokens),
                    notes=("llama.cpp reads a '▁' in a text as a space",))


def _from_sentencepiece(path: pathlib.Path) -> Vocabulary:
  """Of a SentencePiece model, with what tokenizer_config.json beside it adds."""
  from sentencepiece import sentencepiece_model_pb2
  proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
  trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
  kind = trainer.ModelType.Name(trainer.model_type)
  if kind not in ('BPE', 'UNIGRAM'):
    raise UserError(f'{path} is a SentencePiece model of the kind {kind}, which llama.cpp has not: '
                    'it has BPE and UNIGRAM')
  if trainer.treat_whitespace_as_suffix:
    raise UserError(f'{path} puts a space after a word, and llama.cpp before it')
  notes = []
  if kind == 'BPE' and (normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces):
    notes.append(f'{path.name} normalises text ({normalizer.name}), which llama.cpp does not with '
                 'BPE: ids of such text differ')
  made = Vocabulary(
      'llama' if kind == 'BPE' else 't5', [p.piece for p in proto.pieces],
      [int(p.type) for p in proto.pieces], [p.score for p in proto.pieces],
      space=normalizer.add_dummy_prefix, trim=normalizer.remove_extra_whitespaces,
      charsmap=normalizer.precompiled_charsmap, notes=tuple(notes))
  if kind == 'UNIGRAM' and trainer.byte_fallback:
    made = _with_ascii(made)
  added = read_optional(path.with_name('tokenizer_config.json')).get('added_tokens_decoder') or {}
  return _add(made, ((int(i), token['content'], bool(token.get('special')))
                     for i, token in added.items()))


def _with_ascii(made: Vocabulary) -> Vocabulary:
  """The same with the bytes of ASCII that have no piece as pieces, at SentencePiece's penalty.

  llama.cpp has no bytes in its Unigram tokenizer: what has no piece is unknown there.
  """
  tokens, types, scores = list(made.tokens), list(made.types), list(made.scores)
  known = set(tokens)
  penalty = min((score for score, t in zip(scores, types) if t == NORMAL), default=0.0) - 10
  for i, (token, kind) in enumerate(zip(made.tokens, made.types)):
    if kind == BYTE and (byte := int(token[3:5], 16)) < 128:
      piece = '▁' if chr(byte) == ' ' else chr(byte)
      if piece not in known and byte:
        tokens[i], types[i], scores[i] = piece, NORMAL, penalty
  note = 'llama.cpp reads a character beyond ASCII that has no piece as the unknown token'
  return dataclasses.replace(made, tokens=tokens, types=types, scores=scores,
                             notes=(*made.notes, note))


def is_same(model: pathlib.Path, file: pathlib.Path) -> bool:
  """Whether a SentencePiece model has all pieces of a tokenizer.json but those that it adds."""
  made, spec = _from_sentencepiece(model), TokenizerFile(str(file)).spec
  vocab = spec['model'].get('vocab')
  return isinstance(vocab, dict) and dict(zip(made.tokens, range(len(made.tokens)))) == {
      token: i for token, i in vocab.items() if i < len(made.tokens)}


def _from_json(file: TokenizerFile) -> Vocabulary:
  """Of a tokenizer.json: byte-level BPE, or SentencePiece's BPE as transformers writes it."""
  model = file.spec['model']
  if (kind := model.get('type', 'BPE')) != 'BPE':
    raise UserError(f'{file.path} is of the kind {kind}, which is not written as GGUF: BPE is, and '
                    'SentencePiece models are')
  if not model['merges']:
    raise UserError(f'{file.path} has no merges, without which llama.cpp reads no BPE')
  ids = {i: token for token, i in model['vocab'].items()}
  tokens = [ids.get(i, _unused(i)) for i in range(file.size)]
  types = [NORMAL if i in ids else UNUSED for i in range(file.size)]
  merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
  if model.get('byte_fallback'):
    rank = {merge.replace(' ', ''): -float(i) for i, merge in reversed([*enumerate(merges)])}
    space, notes = _puts_space(file), ()
    if space and 'Metaspace' in [p['type'] for p in _parts(
        file.spec.get('pre_tokenizer'), 'pretokenizers')]:
      notes = ('llama.cpp puts a space before a text that begins with one, too',)
    made = Vocabulary(
        'llama', tokens, [BYTE if _is_byte(t) else kind for t, kind in zip(tokens, types)],
        [rank.get(token, _NO_SCORE) for token in tokens], space=space, notes=notes)
  else:
    notes = ()
    if (normalizer := file.spec.get('normalizer')) is not None:
      notes = (f'{file.path.name} normalises text ({normalizer.get("type")}), which llama.cpp does '
               'not: ids of such text differ',)
    made = Vocabulary('gpt2', tokens, types, merges=merges, pre=_pre(file), notes=notes)
  special = {t['id']: (t['content'], t.get('special', False))
             for t in file.spec.get('added_tokens') or ()}
  special |= {i: (token, True) for i, token in file.control.items()}
  made = _add(made, ((i, *token) for i, token in special.items()))
  if file.unk_id is not None and made.model == 'llama':
    made.types[file.unk_id] = UNKNOWN
  return made


def _is_byte(token: str) -> bool:
  return len(token) == 6 and token.startswith('<0x') and token.endswith('>')


def _add(made: Vocabulary, added: Iterator[tuple[int, str, bool]]) -> Vocabulary:
  """The same with tokens (id, text, special) that are matched in a text, or that none gives."""
  known = {made.tokens[i]: i for i in range(len(made.tokens))}
  for i, text, special in added:
    if known.get(text, i) != i:
      raise UserError(f'{text!r} is the token of two ids, {known[text]} and {i}, which llama.cpp '
                      'does not read')
    for j in range(len(made.tokens), i + 1):
      made.tokens.append(_unused(j))
      made.types.append(UNUSED)
      made.scores.extend([_NO_SCORE] * bool(made.scores))
    if made.types[i] not in (CONTROL, UNKNOWN):
      made.types[i] = CONTROL if special else USER_DEFINED
    made.tokens[i] = text
    known[text] = i
  return made


def _parts(node: Any, name: str) -> list[dict[str, Any]]:
  """A normaliser or pre-tokenizer as the list of those that it is made of."""
  return [] if node is None else node[name] if name in node else [node]


def _puts_space(file: TokenizerFile) -> bool:
  """Whether SentencePiece's BPE, as a tokenizer.json has it, puts a space before a text.

  Raises UserError for a form that is none of those that transformers writes.
  """
  normalizer = _parts(file.spec.get('normalizer'), 'normalizers')
  before = _parts(file.spec.get('pre_tokenizer'), 'pretokenizers')
  kinds = [part['type'] for part in (*normalizer, *before)]
  if kinds in (['Prepend', 'Replace'], ['Replace'], ['Replace', 'Split']):   # LLaMA; Gemma
    return 'Prepend' in kinds
  if kinds == ['Metaspace']:
    return before[0].get('prepend_scheme', 'always') != 'never'
  raise UserError(f'{file.path} prepares text by {", ".join(kinds) or "nothing"}: llama.cpp has no '
                  'such SentencePiece tokenizer')


def _pre(file: TokenizerFile) -> str:
  """llama.cpp's name of how a byte-level BPE splits text; UserError if it has none."""
  parts = _parts(file.spec.get('pre_tokenizer'), 'pretokenizers')
  if any(part.get('add_prefix_space') for part in parts):
    raise UserError(f'{file.path} puts a space before a text, which llama.cpp does not with '
                    'byte-level BPE: set add_prefix_space to false if it is wrong')
  regex = [part['pattern'].get('Regex') for part in parts if part['type'] == 'Split']
  if not regex and [p['type'] for p in parts] == ['ByteLevel'] and parts[0].get('use_regex', True):
    return 'gpt-2'
  known = PRE.get(regex[0]) if len(regex) == 1 else None
  if known is None:
    raise UserError(f'{file.path} splits text by {regex or [p["type"] for p in parts]!r:.80}, for '
                    f'which llama.cpp has no name that is known here: {", ".join(PRE.values())} '
                    'are')
  merged = not file.spec['model'].get('ignore_merges')
  return known if merged or known != 'dbrx' else 'llama-bpe'

"""The tokenizer of a Hugging Face folder: a tokenizer.json for a run, and how prompts are framed.

A folder may hold a tokenizer.json, a SentencePiece model, vocab.json and merges.txt of GPT-2 or of
GPT-1, or BERT's vocab.txt. Which of them it is, and what is added around a text, follows from
tokenizer_config.json and config.json, as transformers' AutoTokenizer reads them.
"""

import dataclasses
import json
import pathlib
import re
import shutil
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.interop import sentencepiece_settings, tiktoken_ranks
from t5x_lite.interop.json_files import Json, read_object, read_optional, token_text

_BERT, _GPT2, _GPT1, _T5, _BYTES = (
    'BertTokenizer', 'GPT2Tokenizer', 'OpenAIGPTTokenizer', 'T5Tokenizer', 'ByT5Tokenizer')
_CLASS_OF = {'gpt2': _GPT2, 'openai-gpt': _GPT1, 'bert': _BERT, 't5': _T5, 'mt5': _T5}
_BERT_KIN = (_BERT, 'DistilBertTokenizer', 'ElectraTokenizer')
_NAMED = ('bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token',
          'mask_token')
# Settings of generation_config.json that do not change a greedy output.
_HARMLESS = {'bos_token_id', 'eos_token_id', 'pad_token_id', 'decoder_start_token_id',
             'transformers_version', '_from_model_config', 'use_cache', 'max_length',
             'max_new_tokens', 'cache_implementation', 'output_attentions', 'output_scores',
             'output_hidden_states', 'return_dict_in_generate'}
_IDLE = {'num_beams': 1, 'do_sample': False, 'temperature': 1.0, 'top_p': 1.0, 'top_k': 50,
         'repetition_penalty': 1.0, 'length_penalty': 1.0, 'no_repeat_ngram_size': 0,
         'num_return_sequences': 1, 'min_length': 0, 'num_beam_groups': 1, 'early_stopping': False,
         'diversity_penalty': 0.0, 'encoder_no_repeat_ngram_size': 0, 'typical_p': 1.0,
         'epsilon_cutoff': 0.0, 'eta_cutoff': 0.0, 'encoder_repetition_penalty': 1.0}


@dataclasses.dataclass(frozen=True)
class ImportedTokenizer:
  """How a model that was imported reads and ends text.

  Attributes:
    file: the name of the file to read the vocabulary from, 'byte', or None if there is none.
    prompt_prefix, prompt_suffix: ids that its tokenizer puts before and after a text.
    end_ids: those that end a text; empty: as the vocabulary has it.
    notes: lines for the user, of what is not used.
  """
  file: str | None
  prompt_prefix: tuple[int, ...] | None = None
  prompt_suffix: tuple[int, ...] = ()
  end_ids: tuple[int, ...] = ()
  notes: tuple[str, ...] = ()


def prepare(folder: pathlib.Path, hf: Json) -> ImportedTokenizer:
  """Finds the tokenizer of a folder, or makes its tokenizer.json there.

  Beside a SentencePiece model, whose sentinels come after its pieces, tokenizer_config.json is told
  how many the model has rows for.

  Args:
    folder: holds the files that came with a model; a tokenizer.json may be written there.
    hf: config.json.

  Raises:
    UserError: a file of settings is damaged, or a decoder starts with another id than padding.
  """
  settings = _read_settings(folder)
  generation = read_optional(folder / 'generation_config.json')
  start = generation.get('decoder_start_token_id', hf.get('decoder_start_token_id'))
  if hf['model_type'] in ('t5', 'mt5') and start not in (None, 0):
    raise UserError(f'decoder_start_token_id = {start!r} is not supported: a T5 decoder starts '
                    'with the padding id 0 here')
  _check_settings(settings)
  name = settings.get('tokenizer_class') or hf.get('tokenizer_class') or _CLASS_OF.get(
      hf['model_type'], '')
  name = str(name).removesuffix('Fast')
  end_ids, notes = _end_ids(generation, hf), _unused(generation)
  if name == _BYTES or hf.get('t5x_lite_vocabulary') == 'byte':
    return ImportedTokenizer('byte', end_ids=end_ids, notes=notes)
  try:
    file = _find_file(folder, name, settings)
    prefix, suffix = None, ()
    if file is not None and tiktoken_ranks.is_tokenizer(str(folder / file)):
      prefix, suffix = _frame(folder / file, settings)
    elif file is not None:
      frame = sentencepiece_settings.read_frame(
          folder / file, settings, read_optional(folder / 'added_tokens.json'), hf)
      prefix, suffix, notes = frame.prefix, frame.suffix, (*notes, *frame.notes)
      _count_sentinels(folder / file, hf)
  except UserError as e:
    return ImportedTokenizer(None, notes=(*notes, f'The tokenizer cannot be read: {e}'))
  return ImportedTokenizer(file, prefix, suffix, end_ids, notes)


def _read_settings(folder: pathlib.Path) -> Json:
  """tokenizer_config.json; tokens of special_tokens_map.json win over it, as in transformers.

  That file is of older versions, and is not read where the newer one lists the added tokens.
  """
  settings = read_optional(folder / 'tokenizer_config.json')
  older = read_optional(folder / 'special_tokens_map.json')
  return settings if 'added_tokens_decoder' in settings else settings | older


def _check_settings(settings: Json) -> None:
  """Raises UserError for a setting that is read here and is not of its type."""
  optional = {'additional_special_tokens': list, 'extra_special_tokens': (list, dict),
              'added_tokens_decoder': dict, 'tokenizer_class': str, 'extra_ids': int}
  optional |= dict.fromkeys(('add_bos_token', 'add_eos_token', 'add_prefix_space', 'do_lower_case',
                             'strip_accents', 'tokenize_chinese_chars'), bool)
  wrong = [name for name, kind in optional.items()
           if settings.get(name) is not None and not isinstance(settings[name], kind)]
  wrong += [name for name in _NAMED
            if settings.get(name) is not None and not isinstance(token_text(settings[name]), str)]
  added = settings.get('added_tokens_decoder') or {}
  if not wrong and not all(i.isdigit() and isinstance(t, dict) and isinstance(
      t.get('content'), str) for i, t in added.items()):
    wrong = ['added_tokens_decoder']
  for name in wrong:
    raise UserError(f'tokenizer_config.json: {name} = {settings[name]!r:.80} is of no type that it '
                    'has: fetch the file again')


def _end_ids(generation: Json, hf: Json) -> tuple[int, ...]:
  value = generation.get('eos_token_id', hf.get('eos_token_id'))
  ids = value if isinstance(value, list) else [] if value is None else [value]
  if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
    raise UserError(f'eos_token_id = {value!r} is neither an id nor a list of ids')
  return tuple(ids)


def _unused(generation: Json) -> tuple[str, ...]:
  used = [f'{name} = {value!r}' for name, value in generation.items()
          if name not in _HARMLESS and value is not None and value != _IDLE.get(name)]
  if not used:
    return ()
  return (f'generation_config.json: {", ".join(used)}: not used, t5x-lite infer is greedy unless '
          '--gin.Sampling.temperature is set',)


def _find_file(folder: pathlib.Path, name: str, settings: Json) -> str | None:
  """The name of the file to read; a tokenizer.json is made of other files, or of its settings."""
  has = lambda *names: all((folder / n).is_file() for n in names)
  path = folder / 'tokenizer.json'
  if has('tokenizer.json'):
    _apply_settings(path, name, settings)
    return path.name
  if name == _GPT2 and has('vocab.json', 'merges.txt'):
    made = _gpt2(folder, settings)
  elif name == _GPT1 and has('vocab.json', 'merges.txt'):
    made = _gpt1(folder, settings)
  elif name in _BERT_KIN and has('vocab.txt'):
    made = _bert(folder, settings)
  else:
    return next((n for n in ('spiece.model', 'tokenizer.model') if has(n)), None)
  _add_tokens(made, folder, settings)
  path.write_text(made.to_str(), encoding='utf-8')
  return path.name


def _gpt2(folder: pathlib.Path, settings: Json) -> tokenizers.Tokenizer:
  made = tokenizers.Tokenizer(_bpe(folder))
  space = bool(settings.get('add_prefix_space', False))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
  made.decoder = decoders.ByteLevel()
  _add_named(made, settings, bos_token='<|endoftext|>', eos_token='<|endoftext|>',
             unk_token='<|endoftext|>')
  return made


def _gpt1(folder: pathlib.Path, settings: Json) -> tokenizers.Tokenizer:
  unknown = token_text(settings.get('unk_token')) or '<unk>'
  made = tokenizers.Tokenizer(_bpe(folder, end_of_word_suffix='</w>', unk_token=unknown))
  made.normalizer = normalizers.BertNormalizer(lowercase=True)
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.decoder = decoders.BPEDecoder(suffix='</w>')
  _add_named(made, settings, unk_token=unknown)
  return made


def _bpe(folder: pathlib.Path, **options) -> models.BPE:
  path = folder / 'merges.txt'
  lines = [line for line in _text(path).split('\n') if line.strip()]
  merges = [tuple(line.split(' ')) for line in lines if not line.startswith('#version')]
  if any(len(merge) != 2 for merge in merges):
    raise UserError(f'{path}: a line is not two pieces with a space between them')
  vocab = read_object(folder / 'vocab.json')
  try:
    return models.BPE(vocab=vocab, merges=merges, **options)
  except Exception as e:   # tokenizers raises Exception itself
    raise UserError(f'{path} does not fit vocab.json ({e}): fetch both again') from e


def _bert(folder: pathlib.Path, settings: Json) -> tokenizers.Tokenizer:
  usual = {f'{kind}_token': f'[{kind.upper()}]' for kind in ('unk', 'sep', 'pad', 'cls', 'mask')}
  named = {name: token_text(settings.get(name)) or token for name, token in usual.items()}
  pieces = {piece: i for i, piece in enumerate(
      _text(folder / 'vocab.txt').removesuffix('\n').split('\n'))}
  for name in ('unk_token', 'cls_token', 'sep_token'):
    if named[name] not in pieces:
      raise UserError(f'{folder / "vocab.txt"} lacks the {name} {named[name]!r}')
  made = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=named['unk_token']))
  made.normalizer = normalizers.BertNormalizer(clean_text=True, **_bert_normalizer(settings))
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.decoder = decoders.WordPiece(prefix='##')
  cls, sep = named['cls_token'], named['sep_token']
  made.post_processor = processors.TemplateProcessing(
      single=f'{cls}:0 $A:0 {sep}:0', pair=f'{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1',
      special_tokens=[(cls, pieces[cls]), (sep, pieces[sep])])
  _add_named(made, settings, **named)
  return made


def _bert_normalizer(settings: Json) -> dict[str, Any]:
  return {'handle_chinese_chars': settings.get('tokenize_chinese_chars', True),
          'strip_accents': settings.get('strip_accents'),
          'lowercase': settings.get('do_lower_case', True)}


def _apply_settings(path: pathlib.Path, name: str, settings: Json) -> None:
  """Writes into a tokenizer.json what transformers' class takes from tokenizer_config.json."""
  content = read_object(path)
  before = json.dumps(content)
  parts = lambda node, kind: [p for p in (node or {}, *(node or {}).get('pretokenizers', ()))
                              if p.get('type') == kind]
  if name in _BERT_KIN:
    for part in parts(content.get('normalizer'), 'BertNormalizer'):
      part |= _bert_normalizer(settings)
  if name == _GPT2 and 'add_prefix_space' in settings:
    for part in parts(content.get('pre_tokenizer'), 'ByteLevel'):
      part['add_prefix_space'] = bool(settings['add_prefix_space'])
  if json.dumps(content) != before:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')


def _add_named(made: tokenizers.Tokenizer, settings: Json, **usual: str) -> None:
  """Makes the tokens that have a role special."""
  tokens = [token_text(settings.get(name)) or usual.get(name) for name in _NAMED]
  extra = settings.get('additional_special_tokens') or settings.get('extra_special_tokens') or []
  tokens += [token_text(token) for token in extra]
  made.add_special_tokens([t for t in dict.fromkeys(tokens)
                           if t and made.token_to_id(t) is not None])


def _add_tokens(made: tokenizers.Tokenizer, folder: pathlib.Path, settings: Json) -> None:
  """Adds the tokens that a folder lists beside its vocabulary, each at its id."""
  decoder = settings.get('added_tokens_decoder') or {}
  added = {int(i): t for i, t in decoder.items()} | {
      i: {'content': token} for token, i in read_optional(folder / 'added_tokens.json').items()}
  for i, token in sorted(added.items()):
    known = {k: token[k] for k in ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
             if k in token}
    (made.add_special_tokens if token.get('special') else made.add_tokens)(
        [tokenizers.AddedToken(token['content'], **known)])
    if made.token_to_id(token['content']) != i:
      raise UserError(f'{folder} has the token {token["content"]!r} at the id {i}, and its '
                      f'vocabulary at {made.token_to_id(token["content"])}')


def _frame(path: pathlib.Path, settings: Json) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """(ids before a text, ids after it), as a tokenizer.json or a tiktoken file adds them."""
  from t5x_lite.interop.tokenizer_files import TokenizerFile
  flags = [settings.get(flag) for flag in ('add_bos_token', 'add_eos_token')]
  file = TokenizerFile(str(path))
  try:   # also a text that no vocabulary has
    file.tokenizer.encode('\u2603\U0001d11e', add_special_tokens=True)
  except Exception as e:   # tokenizers raises Exception itself
    raise UserError(f'{path} cannot encode every text ({e})') from e
  if flags == [None, None]:
    text, framed = (file.tokenizer.encode('a', add_special_tokens=add).ids
                    for add in (False, True))
    for i in range(len(framed) - len(text) + 1):
      if framed[i:i + len(text)] == text:
        return tuple(framed[:i]), tuple(framed[i + len(text):])
    raise UserError(f'{path}: its post-processor changes a text')
  prefix, suffix = ((i,) if flag and i is not None and i >= 0 else ()
                    for flag, i in zip(flags, (file.bos_id, file.eos_id)))
  return prefix, suffix


def _count_sentinels(path: pathlib.Path, hf: Json) -> None:
  settings = read_optional(path.with_name('tokenizer_config.json'))
  if 'extra_ids' in settings or 'vocab_size' not in hf:
    return
  import sentencepiece
  pieces = sentencepiece.SentencePieceProcessor(str(path)).get_piece_size()
  settings['extra_ids'] = min(max(hf['vocab_size'] - pieces, 0), 100)
  path.with_name('tokenizer_config.json').write_text(json.dumps(settings, indent=2))


def _text(path: pathlib.Path) -> str:
  try:
    return re.sub('\r\n?', '\n', path.read_text(encoding='utf-8'))
  except UnicodeDecodeError as e:
    raise UserError(f'{path} is not UTF-8 ({e}): fetch it again') from e


def take_file(name: str, folder: pathlib.Path) -> str:
  """Copies a tokenizer file, and the settings beside it, into a folder; returns its name there.

  'byte' is no file. Raises UserError if there is none.
  """
  if name == 'byte':
    return name
  path = local_path(name)
  if not path.is_file():
    raise UserError(f'--vocabulary: no file {path}')
  target = 'tokenizer.json' if path.suffix == '.json' else 'tokenizer.model'
  folder.mkdir(parents=True, exist_ok=True)
  shutil.copyfile(path, folder / target)
  beside = path.with_name('tokenizer_config.json')
  if beside.is_file():
    shutil.copyfile(beside, folder / beside.name)
  return target

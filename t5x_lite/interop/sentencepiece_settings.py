"""The settings beside a SentencePiece model: each is honoured, idle, or refused by name.

transformers rebuilds such a model as its tokenizer_class and its settings have it; here the model
file itself splits a text. Where both give the same ids the folder is read, else it is refused.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import Json, listed, token_text

_CODE_LLAMA = 'CodeLlamaTokenizer'   # adds a beginning of text unless told otherwise
# Kinds of tokenizer_class, and the algorithm of the model files that each reads.
_KINDS = {'T5Tokenizer': 't5', 'MT5Tokenizer': 't5', 'LlamaTokenizer': 'llama',
          'LLaMATokenizer': 'llama', _CODE_LLAMA: 'llama', 'GemmaTokenizer': 'gemma'}
_ALGORITHM = {'t5': 'UNIGRAM', 'llama': 'BPE', 'gemma': 'BPE'}
# These take the model file as it is.
_ANY = ('PreTrainedTokenizer', 'TokenizersBackend', 'PythonBackend', 'SentencePieceBackend')
_KIND_OF = {'llama': 'llama', 'mistral': 'llama', 'gemma': 'gemma', 'gemma2': 'gemma', 't5': 't5',
            'mt5': 't5'}
# Settings that change neither the ids of a single text nor the text of ids: bookkeeping, padding,
# truncation on demand, chats, and what only tokens that are spelled in a text meet.
_IDLE = """
    _commit_hash backend chat_template device_map extra_ids files_loaded fix_mistral_regex from_slow
    init_inputs is_local legacy local_files_only max_len max_length model_input_names
    model_max_length name_or_path pad_to_multiple_of pad_token_type_id padding_side processor_class
    response_schema response_template slow_tokenizer_class spaces_between_special_tokens
    special_tokens_map_file split_special_tokens stride tokenizer_class tokenizer_file
    transformers_version truncation_side truncation_strategy unsloth_fixed use_default_system_prompt
    use_fast verbose vocab_file""".split()
_READ = """
    add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens
    auto_map clean_up_tokenization_spaces extra_special_tokens sp_model_kwargs""".split()
_CURE = ('write a tokenizer.json, which is read first, by transformers: AutoTokenizer'
         '.from_pretrained(FOLDER).save_pretrained(FOLDER)')


@dataclasses.dataclass(frozen=True)
class Frame:
  """The ids before and after a text, and lines for the user about settings that are not used."""
  prefix: tuple[int, ...]
  suffix: tuple[int, ...]
  notes: tuple[str, ...] = ()


def read_frame(path: pathlib.Path, settings: Json, added: Json, hf: Json) -> Frame:
  """The frame of a text under the settings beside a SentencePiece model.

  Args:
    path: of the model.
    settings: tokenizer_config.json with special_tokens_map.json.
    added: added_tokens.json, {token: id}.
    hf: config.json.

  Raises:
    UserError: the file is no such model, or transformers makes another tokenizer of the settings.
  """
  model = _Model(path)
  name = settings.get('tokenizer_class') or hf.get('tokenizer_class') or ''
  name = str(name).removesuffix('Fast')
  kind = _check_class(name, model, hf) if name else _KIND_OF.get(hf['model_type'])
  for setting in ('sp_model_kwargs', 'auto_map'):
    if settings.get(setting):
      _refuse(setting, settings[setting], 'it makes another tokenizer of the model file')
  _check_space(model, settings.get('add_prefix_space'), kind, name)
  beyond = _check_tokens(model, settings, added)
  eos = _named_id('eos_token', settings, model, beyond)
  bos = _named_id('bos_token', settings, model, beyond)
  begins, ends = settings.get('add_bos_token', name == _CODE_LLAMA), settings.get('add_eos_token')
  if kind == 't5':   # which frames a text itself
    begins, ends = False, True
  for flag, i, token in ((begins, bos, 'bos_token'), (ends, eos, 'eos_token')):
    if flag and i is None and settings.get(token) is not None:
      _refuse(token, settings[token], f'{path.name} has no such piece to put around a text')
  return Frame((bos,) if begins and bos is not None else (),
               (eos,) if ends and eos is not None else (),
               tuple(_notes(model, settings, beyond)))


class _Model:
  """What settings are compared with: {piece: id}, {piece: type} and the specs of a model file."""

  def __init__(self, path: pathlib.Path):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    try:
      processor = sentencepiece.SentencePieceProcessor(str(path))
      proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    except Exception as e:   # of SentencePiece and of protobuf
      raise UserError(f'{path} is not a SentencePiece model ({e})') from e
    types = proto.SentencePiece.Type
    self.name, self.pieces = path.name, [p.piece for p in proto.pieces]
    self.ids = {piece: i for i, piece in enumerate(self.pieces)}
    self.types = {p.piece: types.Name(p.type) for p in proto.pieces}
    self.algorithm = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
    self.prefix_space = proto.normalizer_spec.add_dummy_prefix
    self.named_ids = {'bos_token': processor.bos_id(), 'eos_token': processor.eos_id()}


def _check_class(name: str, model: _Model, hf: Json) -> str | None:
  """The kind of a tokenizer_class; UserError if it splits a text as the model file does not."""
  usual = _KIND_OF.get(hf['model_type'])
  if name in _ANY:
    return None
  kind = _KINDS.get(name)
  if kind is None or usual not in (None, kind):
    wanted = [n for n, k in _KINDS.items() if usual in (None, k)]
    _refuse('tokenizer_class', name, f'for model_type {hf["model_type"]!r} and {model.name}, '
            f'{" or ".join(wanted)} is')
  if _ALGORITHM[kind] != model.algorithm:
    _refuse('tokenizer_class', name, f'it reads {_ALGORITHM[kind]} models, and {model.name} is a '
            f'{model.algorithm} model')
  return kind


def _check_space(model: _Model, setting: bool | None, kind: str | None, name: str) -> None:
  """Raises UserError if a space before a text is put by one of settings and model file alone."""
  reason = f'{model.name} puts {"a" if model.prefix_space else "no"} space before a text'
  if setting not in (None, model.prefix_space):
    _refuse('add_prefix_space', setting, reason)
  usual = False if kind == 'gemma' else True if kind == 'llama' and name else None
  if setting is None and usual not in (None, model.prefix_space):
    _refuse('tokenizer_class', name or 'GemmaTokenizer', f'unlike it, {reason}')


def _check_tokens(model: _Model, settings: Json, added: Json) -> dict[str, int | None]:
  """{token: id} of special tokens that are no pieces; UserError for one that is matched in text."""
  beyond = {}
  special = {token for _, _, token in _special_tokens(settings)}
  for setting, i, token in _listed_tokens(settings, added):
    text = token['content']
    value = {str(i): token}
    if i < len(model.pieces) and model.pieces[i] != text:
      _refuse(setting, value, f'{model.name} has the piece {model.pieces[i]!r} at that id')
    if model.ids.get(text, i) != i:
      _refuse(setting, value, f'{model.name} has that piece at the id {model.ids[text]}')
    if text in model.ids:
      _check_piece(model, setting, value, text)
      matched = not token.get('special') and model.types[text] == 'USER_DEFINED'
      if matched and any(token.get(k) for k in ('lstrip', 'rstrip', 'single_word')):
        _refuse(setting, value, 'a piece is matched without regard to what is around it')
    elif token.get('special') or text in special:
      beyond[text] = i
    else:
      _refuse(setting, value, f'it is found in a text, and is no piece of {model.name}')
  for setting, value, text in _special_tokens(settings):
    if text in model.ids:
      _check_piece(model, setting, value, text)
    elif text:
      beyond.setdefault(text, None)
  return beyond


def _check_piece(model: _Model, setting: str, value: Any, text: str) -> None:
  if model.types[text] not in ('CONTROL', 'UNKNOWN', 'USER_DEFINED'):
    _refuse(setting, value, f'{text!r} is a piece of text in {model.name}, and would be found in a '
            'text, or left out of it, as a token of its own')


def _listed_tokens(settings: Json, added: Json) -> Iterator[tuple[str, int, Json]]:
  """(setting, id, token) of the tokens that have an id; transformers reads the older file last."""
  decoder = settings.get('added_tokens_decoder')
  if decoder is not None:
    for i, token in decoder.items():
      yield 'added_tokens_decoder', int(i), token
    return
  for text, i in added.items():
    if not isinstance(i, int) or isinstance(i, bool) or i < 0:
      raise UserError(f'added_tokens.json: {text!r} = {i!r} is no id: fetch the file again')
    yield 'added_tokens.json', i, {'content': text}


def _special_tokens(settings: Json) -> Iterator[tuple[str, Any, str]]:
  """(setting, its value, token) of all tokens that have a role or are called special."""
  for name, value in settings.items():
    if name in ('additional_special_tokens', 'extra_special_tokens'):
      for token in value.values() if isinstance(value, dict) else value or ():
        if isinstance(text := token_text(token), str):
          yield name, token, text
    elif name.endswith('_token') and isinstance(text := token_text(value), str):
      yield name, value, text


def _named_id(name: str, settings: Json, model: _Model, beyond: dict[str, int | None]
              ) -> int | None:
  """The id of bos_token or eos_token: as the settings name it, else the model's own."""
  if name not in settings:
    i = model.named_ids[name]
    return i if i >= 0 else None
  text = token_text(settings[name])
  return model.ids.get(text, beyond.get(text))


def _notes(model: _Model, settings: Json, beyond: dict[str, int | None]) -> Iterator[str]:
  tokens = [token for token in beyond if not token.startswith('<extra_id_')]
  if tokens:
    yield (f'Special tokens that are no pieces of {model.name}: {listed(map(repr, tokens))}: text '
           'that spells them is split as any other')
  if settings.get('clean_up_tokenization_spaces') and model.algorithm == 'UNIGRAM':
    yield ('tokenizer_config.json: clean_up_tokenization_spaces = True: not used, a text keeps its '
           'spaces before punctuation')
  unknown = [f'{name} = {value!r:.60}' for name, value in settings.items()
             if name not in (*_IDLE, *_READ) and not name.endswith('_token') and value is not None]
  if unknown:
    yield f'tokenizer_config.json: {listed(unknown)}: not known, and not used'


def _refuse(name: str, value: Any, reason: str):
  where = name if name.endswith('.json') else f'tokenizer_config.json: {name}'
  raise UserError(f'{where} = {value!r:.120} is not supported beside a SentencePiece model '
                  f'({reason}): remove it if it is wrong, else {_CURE}')

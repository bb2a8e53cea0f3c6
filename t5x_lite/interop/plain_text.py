"""Tokenizers that take all text for text: the spelling of a control token is split as any other."""

from collections.abc import Callable, Collection, Iterable, Mapping
import json
from typing import Any

import tokenizers


def text_tokenizer(spec: dict[str, Any], control: Iterable[str], named: Iterable[str] = ()
                   ) -> tokenizers.Tokenizer:
  """The tokenizer of a tokenizer.json with the same ids, to encode text alone.

  The `encode_special_tokens` of the tokenizers library does not do, as the pieces of a Unigram
  model or a vocabulary of words match such spellings too. Here no control token has its spelling,
  so that nothing in the text can match it.

  Args:
    spec: the content of the file.
    control: tokens that text never stands for.
    named: those of them that it does, such as the mask in a prompt that is to be filled.
  """
  names = _aliases(set(control) - {*named})
  tokenizer = _renamed(spec, names, special=lambda token: token not in {*named})
  tokenizer.encode_special_tokens = True
  return tokenizer


def aliased_tokenizer(spec: dict[str, Any], control: Iterable[str]
                      ) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
  """The same, and an alias of each control token, which stands for it in a text.

  So one text may hold control tokens, by their aliases, beside the same spellings as text.
  """
  control = {*control}
  names = _aliases(control)
  return _renamed(spec, names, special=lambda token: token not in control, match=control), names


def _aliases(control: Iterable[str]) -> dict[str, str]:
  return {token: f'\uffff{i}\uffff' for i, token in enumerate(sorted(control))}


def _renamed(spec: dict[str, Any], names: Mapping[str, str], special: Callable[[str], bool],
             match: Collection[str] = ()) -> tokenizers.Tokenizer:
  """The tokenizer with other spellings of some tokens.

  Args:
    spec: the content of the file.
    names: {token: its new spelling}.
    special: whether a token that is special stays so, and so out of the text.
    match: tokens that are found in a text by their new spelling, whatever the file says of them.
  """
  name = lambda token: names.get(token, token)
  model = dict(spec['model'])
  if isinstance(model['vocab'], dict):
    model['vocab'] = {name(piece): i for piece, i in model['vocab'].items()}
  else:   # Unigram: (piece, score), by id
    model['vocab'] = [[name(piece), *score] for piece, *score in model['vocab']]
  if model.get('unk_token') is not None:
    model['unk_token'] = name(model['unk_token'])
  if model.get('merges'):
    model['merges'] = [merge for merge in model['merges'] if not _names_any(merge, names)]
  added = [token | {'content': name(token['content']),
                    'special': token['special'] and special(token['content'])}
           | ({'normalized': False} if token['content'] in match else {})
           for token in spec.get('added_tokens') or ()]
  unused = dict.fromkeys(('truncation', 'padding', 'post_processor'))
  tokenizer = tokenizers.Tokenizer.from_str(
      json.dumps(spec | unused | {'model': model, 'added_tokens': added}))
  listed = {token['content'] for token in spec.get('added_tokens') or ()}
  tokenizer.add_tokens([tokenizers.AddedToken(names[token], normalized=False)
                        for token in sorted({*match} - listed)])
  return tokenizer


def _names_any(merge: Any, names: dict[str, str]) -> bool:
  """Whether a merge, 'a b' or ['a', 'b'], makes a piece of these, or one of its parts is."""
  first, second = merge.split(' ') if isinstance(merge, str) else merge
  return first + second in names or first in names or second in names

"""What seqio trims: how many tokens of an example do not fit the length of a feature."""

from collections.abc import Mapping
from typing import Any

import seqio


def tokens_cut(example: Mapping[str, Any], name: str, feature: seqio.Feature, length: int) -> int:
  """How many tokens of a feature of an example are beyond `length`.

  Some preprocessors trim by themselves, and say so (`<feature>_cut`), or the text, where the
  example has it (`<feature>_pretokenized`), is tokenised again if the ids fill their length.
  """
  if f'{name}_cut' in example:
    return int(example[f'{name}_cut'])
  ids = example[name].tolist()
  whole = len(ids)
  text = example.get(f'{name}_pretokenized')
  if text is not None and whole >= length:
    own = list(feature.vocabulary.encode(text.decode()))
    begun = bool(own) and ids[:1] != own[:1]   # by a token before the text, such as a class id
    whole = max(whole, begun + len(own) + feature.add_eos)
  return max(whole - length, 0)

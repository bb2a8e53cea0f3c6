"""Words of a text in any script, for metrics that count them."""

import re
import unicodedata

# Scripts that put no space between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Chinese
# characters. Each character counts as a word there, as sacrebleu has it for Chinese.
_UNSPACED = re.compile(
    '[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff'
    '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]')


def spaced(text: str) -> str:
  """The text with a space around each character of a script that has none between words."""
  return _UNSPACED.sub(r' \g<0> ', text)


class WordTokenizer:
  """Words as rouge-score has them, lower-cased runs of letters and digits, in any script.

  Of ASCII text they are rouge-score's own. A text of signs alone, such as emoji, is split into
  these.
  """

  def tokenize(self, text: str) -> list[str]:
    text = unicodedata.normalize('NFC', text).lower()
    kept = ''.join(c if unicodedata.category(c)[0] in 'LNM' else ' ' for c in text)
    return spaced(kept).split() or [c for c in text if not c.isspace()]

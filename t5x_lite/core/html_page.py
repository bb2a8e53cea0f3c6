"""Pages of one HTML file: a template with a title, and data that its script writes out as text."""

import html
import json
import pathlib
import re
from typing import Any


def render_page(template: pathlib.Path, title: str, data: Any) -> str:
  """The template with __TITLE__ and __DATA__, which is JSON, filled in: nothing of it is markup.

  Raises ValueError for numbers that are not finite, which JSON does not have.
  """
  text = json.dumps(data, ensure_ascii=True, allow_nan=False)
  for char in '<>&':
    text = text.replace(char, f'\\u{ord(char):04x}')   # ends no element that holds it
  values = {'TITLE': html.escape(title), 'DATA': text}
  return re.sub('__(TITLE|DATA)__', lambda match: values[match[1]],
                template.read_text(encoding='utf-8'))

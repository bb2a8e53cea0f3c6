"""Texts with slots: '{name}' stands for a value."""

import re


def fill(template: str, **values: str) -> str:
  """The template with each `{name}` of `values` filled in; other braces, and those of the values,
  stand for themselves."""
  return re.sub(rf'\{{({"|".join(values)})\}}', lambda match: values[match[1]], template)

"""What answers must match, as requests say it: a JSON schema, a regular expression, a choice.

Automata of some short expressions have millions of states. One is made over bytes first, in a
process that is given little time and memory; what is larger than the server follows is refused.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import json
import subprocess
import sys
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Tokenizer
from t5x_lite.inference.constraints import Constraint, ConstraintBuilder
from t5x_lite.inference.json_schema import schema_regex, without_anchors

_SECONDS, _BYTES = 5, 2 ** 31   # that an automaton over bytes may take
_CELLS = 2 ** 27                # states times vocabulary
_COUNT = f"""
import os, resource, sys
os.nice(10)
resource.setrlimit(resource.RLIMIT_AS, ({_BYTES}, {_BYTES}))
from outlines_core import Index, Vocabulary
bytes_of = {{bytes([b]): [b] for b in range(256)}}
index = Index(sys.stdin.buffer.read().decode(), Vocabulary(256, bytes_of))
print(len(index.get_transitions()))
"""


class Structures:
  """Constraints by what requests say, the newest of which are kept."""

  def __init__(self, tokenizer: Tokenizer, end_ids: Mapping[str, Sequence[int]]):
    """`end_ids` are those of each model, by its name."""
    self._builder = functools.cache(lambda model: ConstraintBuilder(tokenizer, end_ids[model]))
    self._states = _CELLS // tokenizer.vocab_size
    self._kept = functools.lru_cache(32)(self._build)

  def build(self, model: str, kind: str, value: Any) -> Constraint:
    """The constraint of a model's answers.

    Args:
      kind: 'json', 'regex' or 'choice'.
      value: a schema, a pattern or texts.

    Raises:
      UserError: it is malformed, unsupported, too large, or nothing meets it.
    """
    return self._kept(model, kind, json.dumps(value, sort_keys=False))

  def _build(self, model: str, kind: str, text: str) -> Constraint:
    builder, value = self._builder(model), json.loads(text)
    if kind == 'choice':
      return builder.choice(value)
    self._check(schema_regex(value) if kind == 'json' else without_anchors(value))
    return builder.json_schema(value) if kind == 'json' else builder.regex(value)

  def _check(self, pattern: str) -> None:
    try:
      done = subprocess.run([sys.executable, '-c', _COUNT], input=pattern.encode(),
                            capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
      raise UserError(f'its automaton takes more than {_SECONDS} s to make: simplify it') from None
    except UnicodeEncodeError as error:
      raise UserError('has half of a surrogate pair, which no text has') from error
    if done.returncode == 0 and int(done.stdout) > self._states:
      raise UserError(f'its automaton has {int(done.stdout)} states, and the server follows '
                      f'{self._states}: simplify it')
    if b'MemoryError' in done.stderr or done.returncode < 0:
      raise UserError('its automaton takes too much memory: simplify it')
    # What is malformed is said by the builder.


def asks_structure(body: Any) -> bool:
  """Whether a body may ask for an automaton, which may take seconds to make."""
  return isinstance(body, dict) and (
      body.get('response_format') not in (None, {'type': 'text'})
      or body.get('structured_outputs') is not None)


def structure_of(body: Mapping[str, Any], error: Callable[[str, str], Exception]
                 ) -> tuple[str, str, Any] | None:
  """(parameter, kind, value): `response_format` of OpenAI's or `structured_outputs` of vLLM's.

  None where neither asks for anything.

  Raises `error(message, parameter)` for what is neither.
  """
  if not asks_structure(body):
    return None
  found = []
  form = body.get('response_format', {'type': 'text'})
  if form != {'type': 'text'}:
    schema = form.get('json_schema') if isinstance(form, dict) else None
    if not isinstance(schema, dict) or form.get('type') != 'json_schema' or not isinstance(
        schema.get('schema'), dict):
      raise error('response_format: {"type": "json_schema", "json_schema": {"schema": …}}, or '
                  '{"type": "text"}: JSON without a schema is not followed', 'response_format')
    found.append(('response_format', 'json', schema['schema']))
  outputs = body.get('structured_outputs')
  if outputs is not None:
    name = 'structured_outputs'
    if not isinstance(outputs, dict) or len(outputs) != 1 or (kind := next(iter(outputs))) not in (
        'json', 'regex', 'choice'):
      raise error(f'{name}: an object with one of json, regex and choice', name)
    types = {'json': dict, 'regex': str, 'choice': list}
    if not isinstance(outputs[kind], types[kind]):
      wanted = {'json': 'an object', 'regex': 'a string', 'choice': 'a list'}[kind]
      raise error(f'{name}.{kind}: {outputs[kind]!r:.60} is not {wanted}', name)
    found.append((name, kind, outputs[kind]))
  if len(found) > 1:
    raise error('structured_outputs: response_format is there too: give one', 'structured_outputs')
  return found[0]

"""JSON schemas as regular expressions: outlines-core's, of what it follows to the letter.

It overlooks the keywords that it does not know, and some combinations of those that it does: these
are refused here.
"""

import json
import re
from typing import Any

from t5x_lite.core.dataclass_checks import nearest
from t5x_lite.core.errors import UserError

Schema = dict[str, Any]
_NOTES = {'title', 'description', 'default', 'examples', '$schema', '$id', '$comment', 'deprecated',
          'readOnly', 'writeOnly', '$defs', 'definitions'}
_KEYWORDS = {
    'string': ('minLength', 'maxLength', 'pattern', 'format'), 'integer': (), 'number': (),
    'boolean': (), 'null': (), 'array': ('items', 'prefixItems', 'minItems', 'maxItems'),
    'object': ('properties', 'required', 'additionalProperties')}
_FORMATS = ('date', 'time', 'date-time', 'uuid')
_IS_A = {'string': str, 'integer': int, 'number': (int, float), 'boolean': bool, 'null': type(None),
         'array': list, 'object': dict}
_LONGEST = 10_000   # regular expression
_TOO_DEEP = 'the JSON schema is nested too deeply: flatten it'
_NOT_PLAIN = {ord('"'), ord('\\'), *range(32)}   # characters that JSON has to escape


def schema_regex(schema: Schema | str) -> str:
  """A regular expression of JSON texts that meet a schema, each with its keys in their order.

  Raises:
    UserError: the schema is not JSON, has a keyword or a combination that is not supported, or is
      one that nothing meets.
  """
  try:
    return _schema_regex(schema)
  except RecursionError as e:
    raise UserError(_TOO_DEEP) from e


def _schema_regex(schema: Schema | str) -> str:
  from outlines_core import json_schema
  if isinstance(schema, str):
    try:
      schema = json.loads(schema)
    except ValueError as e:
      raise UserError(f'the JSON schema is not JSON ({e})') from e
  clean = _clean(schema, '$')
  for name in ('$defs', 'definitions'):
    if name in schema:
      clean[name] = {key: _clean(one, f'$.{name}.{key}')
                     for key, one in _mapping(schema[name], f'$.{name}').items()}
  try:
    regex = json_schema.build_regex_from_schema(json.dumps(clean, ensure_ascii=False))
  except ValueError as e:
    raise UserError(f'the JSON schema cannot be followed: {reason(e)}') from e
  except TypeError as e:   # its reader of JSON follows 128 levels
    raise UserError(_TOO_DEEP) from e
  # \d is of all scripts, and JSON has digits of one; \\ and what follows it are no \d.
  return re.sub(r'\\(.)', lambda m: '[0-9]' if m[1] == 'd' else m[0], regex, flags=re.DOTALL)


def without_anchors(pattern: str) -> str:
  """A regular expression of whole texts without the ^ and $ around it, which mean nothing there."""
  pattern = pattern.removeprefix('^')
  backslashes = len(pattern) - 1 - len(pattern[:-1].rstrip('\\'))
  return pattern[:-1] if pattern.endswith('$') and backslashes % 2 == 0 else pattern


def byte_index(pattern: str):
  """outlines-core's automaton over bytes of a regular expression; UserError for a malformed one."""
  from outlines_core import Index, Vocabulary
  check_size(pattern)
  try:
    return Index(pattern, Vocabulary(256, {bytes([b]): [b] for b in range(256)}))
  except (ValueError, UnicodeEncodeError) as e:
    raise UserError(reason(e)) from e


def check_size(pattern: str) -> None:
  """Raises UserError for a regular expression whose repetitions take minutes to write out."""
  sizes, last = [0], 0   # of the groups that are open, and of what a repetition repeats
  parts = r'\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(?:,(\d*))?\}|.'
  for part in re.finditer(parts, pattern, re.DOTALL):
    if part[0] == '(':
      sizes.append(0)
    elif part[0] == ')' and len(sizes) > 1:
      last = sizes.pop()
      sizes[-1] += last
    elif part[1]:
      count = max(int(part[2] or part[1]), 1)
      sizes[-1] += last * (count - 1)
      last *= count
    else:
      last = 1
      sizes[-1] += 1
  if sum(sizes) > _LONGEST:
    raise UserError(f'it has {sum(sizes):,} characters where its repetitions are written out, and '
                    f'at most {_LONGEST:,} are followed: lower their counts')


def reason(error: Exception) -> str:
  """One line of what outlines-core says, in our words where it leaves the cure out."""
  if isinstance(error, UnicodeEncodeError):
    return 'it has half of a surrogate pair, which no text has'
  message = ' '.join(str(error).split()).removeprefix('Failed to build DFA ')
  missing = re.search(r'at least one of the following characters: (\[.*?\])', message)
  if missing:
    return (f'the vocabulary has no token for one of {missing[1]:.80}: use one of bytes, or with '
            'byte fallback')
  if message == 'error building NFA':
    return ('it is malformed, or has look-around or a back-reference, which the crate regex of '
            'Rust does not take')
  if 'universal start state' in message:
    return 'it has ^, $ or \\b inside: leave them out, the whole text is matched'
  return message.replace('recusion', 'recursion')[:300]


def _clean(schema: Any, where: str) -> Schema:
  """A schema of what is supported alone; annotations are left out."""
  schema = _mapping(schema, where)
  keys = {key for key in schema if key not in _NOTES}
  for name in ('enum', 'const'):
    if name in keys:
      return _clean_values(schema, name, keys, where)
  kind = schema.get('type')
  if isinstance(kind, list):
    of = lambda kind: {'type', *(_KEYWORDS[kind] if kind in _KEYWORDS else ())}
    _refuse(keys - {'type'}.union(*map(of, filter(_is_text, kind))), where, 'of none of its types')
    return {'anyOf': [_clean({key: schema[key] for key in keys & of(one)} | {'type': one}, where)
                      for one in _some([*filter(_is_text, kind)], where, 'type')]}
  for name in ('anyOf', '$ref'):
    if name in keys:
      _refuse(keys - {name}, where, f'beside {name}: move them into its schemas')
      if name == '$ref':
        return {name: schema[name]}
      return {name: [_clean(one, f'{where}.anyOf[{i}]')
                     for i, one in enumerate(_some(schema[name], where, name))]}
  if not _is_text(kind) or kind not in _KEYWORDS:
    cure = nearest(str(kind), _KEYWORDS) if 'type' in schema else 'give it a type'
    _refuse(keys - {'type'}, where, 'without a type: give it one')
    raise UserError(f'the JSON schema at {where} is of type {kind!r:.40}: {cure}')
  _refuse(keys - {'type', *_KEYWORDS[kind]}, where,
          f'of a {kind}: leave them out, and check the output instead')
  clean = {'string': _clean_string, 'array': _clean_array, 'object': _clean_object}
  return clean.get(kind, lambda *_: {'type': kind})(schema, where)


def _clean_values(schema: Schema, name: str, keys: set[str], where: str) -> Schema:
  _refuse(keys - {name, 'type'}, where, f'beside {name}: leave out values that do not meet them')
  values = [schema[name]] if name == 'const' else _some(schema[name], where, name)
  kinds = schema.get('type', list(_IS_A))
  kinds = kinds if isinstance(kinds, list) else [kinds]
  is_a = lambda value, kind: isinstance(value, _IS_A.get(kind, ())) and (
      kind == 'boolean' or not isinstance(value, bool))
  right = [value for value in values if any(is_a(value, kind) for kind in kinds if _is_text(kind))]
  return {'enum': _some(right, where, f'{name} of its type')}


def _clean_string(schema: Schema, where: str) -> Schema:
  clean = {'type': 'string'}
  for name in ('minLength', 'maxLength'):
    if name in schema:
      clean[name] = _count(schema, name, where)
  if len({'pattern', 'format', 'length'} & {
      name if name in _KEYWORDS['string'][2:] else 'length' for name in schema
      if name in _KEYWORDS['string']}) > 1:
    raise UserError(f'the JSON schema at {where} has more than one of pattern, format and lengths: '
                    'put the lengths into the pattern')
  if 'format' in schema:
    if schema['format'] not in _FORMATS:
      raise UserError(f'the JSON schema at {where} has the format {schema["format"]!r:.40}: '
                      f'choose from {", ".join(_FORMATS)}, or write it as a pattern')
    clean['format'] = schema['format']
  if 'pattern' in schema:
    _check_pattern(schema['pattern'], where)
    clean['pattern'] = f'^(?:{without_anchors(schema["pattern"])})$'
  if clean.get('minLength', 0) > clean.get('maxLength', clean.get('minLength', 0)):
    raise UserError(f'the JSON schema at {where} cannot be met: its minLength is above its '
                    'maxLength')
  return clean


def _check_pattern(pattern: Any, where: str) -> None:
  """Raises UserError for a pattern of texts that cannot stand in a JSON string as they are."""
  if not _is_text(pattern):
    raise UserError(f'the JSON schema at {where} has the pattern {pattern!r:.40}: expected a text')
  try:
    index = byte_index(without_anchors(pattern))
  except UserError as e:
    raise UserError(f'the JSON schema at {where} has a pattern that cannot be followed: {e}') from e
  if any(_NOT_PLAIN & to.keys() for to in index.get_transitions().values()):
    raise UserError(f'the JSON schema at {where} has a pattern that lets a quote, a backslash or a '
                    r'control character into a string: exclude them, as in [^"\\\x00-\x1f]*')


def _clean_array(schema: Schema, where: str) -> Schema:
  clean = {'type': 'array'}
  if 'prefixItems' in schema:
    _refuse(schema.keys() & {'items', 'minItems', 'maxItems'}, where, 'beside prefixItems')
    parts = _some(schema['prefixItems'], where, 'prefixItems')
    return clean | {'prefixItems': [_clean(one, f'{where}.prefixItems[{i}]')
                                    for i, one in enumerate(parts)]}
  if 'items' not in schema:
    raise UserError(f'the JSON schema at {where} is an array of anything: give it items')
  clean['items'] = _clean(schema['items'], f'{where}.items')
  for name in ('minItems', 'maxItems'):
    if name in schema:
      clean[name] = _count(schema, name, where)
  if clean.get('minItems', 0) > clean.get('maxItems', clean.get('minItems', 0)):
    raise UserError(f'the JSON schema at {where} cannot be met: its minItems is above its maxItems')
  return clean


def _clean_object(schema: Schema, where: str) -> Schema:
  more = schema.get('additionalProperties', True)
  if 'properties' not in schema:
    if schema.get('required'):
      raise UserError(f'the JSON schema at {where} requires {schema["required"]!r:.60}, and has no '
                      'properties: list them')
    if more is False:
      return {'type': 'object', 'properties': {}}
    if more is True:
      raise UserError(f'the JSON schema at {where} is an object of anything: give it properties, '
                      'or additionalProperties with a type')
    return {'type': 'object', 'additionalProperties': _clean(
        more, f'{where}.additionalProperties')}
  properties = _mapping(schema['properties'], f'{where}.properties')
  for name in properties:
    if json.dumps(name, ensure_ascii=False) != f'"{name}"':
      raise UserError(f'the JSON schema at {where} has the property {name!r:.60}, in which a '
                      'character is to be escaped: rename it')
  required = schema.get('required', [])
  if not isinstance(required, list) or not all(name in properties for name in required):
    raise UserError(f'the JSON schema at {where} requires {required!r:.60}: list each of them in '
                    'properties')
  return {'type': 'object', 'required': required, 'properties': {
      name: _clean(one, f'{where}.{name}') for name, one in properties.items()}}


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _mapping(schema: Any, where: str) -> Schema:
  if not isinstance(schema, dict):
    raise UserError(f'the JSON schema at {where} is {schema!r:.40}: expected an object of keywords')
  return schema


def _some(values: Any, where: str, name: str) -> list:
  if not isinstance(values, list) or not values:
    raise UserError(f'the JSON schema at {where} cannot be met: it has no {name}')
  return values


def _count(schema: Schema, name: str, where: str) -> int:
  value = schema[name]
  if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10_000:
    raise UserError(f'the JSON schema at {where} has {name} = {value!r:.40}: it is a whole number, '
                    '0 to 10,000')
  return value


def _refuse(keys, where: str, why: str) -> None:
  if keys:
    raise UserError(f'the JSON schema at {where} has {", ".join(sorted(keys))} {why}')

"""Bodies of OpenAI's API -> requests of the engine. What is not known is refused by name.

https://platform.openai.com/docs/api-reference/completions, .../chat; the settings that are not
theirs have vLLM's names.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

from t5x_lite.core.dataclass_checks import FieldError, nearest, short_repr
from t5x_lite.core.errors import UserError
from t5x_lite.inference.constraints import Constraint
from t5x_lite.inference.sampling import Sampling
from t5x_lite.serving.engine import Request
from t5x_lite.serving.served import Served, TooLong
from t5x_lite.serving.slots import ALTERNATIVES
from t5x_lite.serving.structure import structure_of

# Name in a body -> (field of Sampling, types).
SAMPLING = {
    'temperature': ('temperature', (int, float)), 'top_p': ('top_p', (int, float)),
    'presence_penalty': ('presence_penalty', (int, float)),
    'frequency_penalty': ('frequency_penalty', (int, float)), 'seed': ('seed', (int,)),
    'top_k': ('top_k', (int,)), 'min_p': ('min_p', (int, float)),
    'typical_p': ('typical_p', (int, float)),
    'repetition_penalty': ('repetition_penalty', (int, float)),
    'no_repeat_ngram_size': ('no_repeat_ngram_size', (int,)),
    'min_tokens': ('min_new_tokens', (int,))}
_COMMON = {*SAMPLING, 'model', 'n', 'stream', 'stream_options', 'stop', 'logit_bias', 'logprobs',
           'max_tokens', 'response_format', 'structured_outputs'}
_LABELS = {'user', 'metadata', 'store', 'service_tier', 'safety_identifier', 'prompt_cache_key'}
# What says nothing but that the default is meant.
_IDLE = {'echo': (False,), 'best_of': (1,), 'suffix': ('',),
         'tools': ([],), 'parallel_tool_calls': (True,), 'modalities': (['text'],)}
_MAX_STOPS, _MAX_PROMPTS = 16, 64
_ROLES = {'system': 'system', 'developer': 'system', 'user': 'user', 'assistant': 'assistant',
          'tool': 'tool'}
_COMPLETION_TOKENS = 16   # OpenAI's default of completions


class ApiError(Exception):
  """An answer of 4xx or 5xx, with the body that OpenAI's clients read."""

  def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
    super().__init__(message)
    self.status = status
    # Names of a body may have what no UTF-8 has.
    message = message.encode(errors='backslashreplace').decode()
    param = param and param.encode(errors='backslashreplace').decode()
    kind = 'invalid_request_error' if status < 500 else 'server_error'
    self.body = {'error': {'message': message, 'type': kind, 'param': param, 'code': code}}


@dataclasses.dataclass(frozen=True)
class Call:
  """What a body asks for.

  Attributes:
    requests: one for each prompt.
    chat: whether it is a conversation.
    stream: whether the answer comes in events.
    include_usage: whether the last event counts tokens.
  """
  requests: tuple[Request, ...]
  chat: bool
  stream: bool
  include_usage: bool


def parse_call(body: Any, served: Served, chat: bool) -> Call:
  """The call of a body of /v1/completions, or of /v1/chat/completions.

  Raises ApiError: 400 for what is malformed, unknown or out of range, 404 for another model.
  """
  if not isinstance(body, dict):
    raise ApiError(400, 'the body must be a JSON object')
  body = {name: value for name, value in body.items() if value is not None}
  known = _COMMON | ({'messages', 'max_completion_tokens', 'top_logprobs'} if chat else {'prompt'})
  for name, value in body.items():
    if name not in known | _LABELS and value not in _IDLE.get(name, ()):
      idle = name in _IDLE
      raise ApiError(400, f'{name}: {value!r:.60} is not supported here' if idle else
                     f'{name}: not a parameter; {nearest(name, sorted(known))}', name)
  model = _field(body, 'model', (str,), served.engine.models[0])
  if model not in served.engine.models:
    raise ApiError(404, f'there is no model {model!r}: {nearest(model, served.engine.models)}',
                   'model', 'model_not_found')
  samples = _count(body, 'n', 1, 1, served.engine.slots.slots)
  stream = _field(body, 'stream', (bool,), False)
  options = _field(body, 'stream_options', (dict,), {})
  if options and not stream:
    raise ApiError(400, 'stream_options: only where stream is true', 'stream_options')
  for name in options:
    if name != 'include_usage':
      raise ApiError(400, f'stream_options.{name}: not a parameter', 'stream_options')
  sampling, alternatives = _sampling(body), _alternatives(body, chat)
  max_tokens = _max_tokens(body, chat)
  prompts = [_conversation(body, served, model)] if chat else _prompts(body, served)
  constraint = _constraint(body, served, model)
  try:
    requests = tuple(served.request(
        ids, framed, model=model, sampling=sampling, max_tokens=max_tokens, samples=samples,
        alternatives=alternatives, constraint=constraint) for ids, framed in prompts)
  except TooLong as error:
    raise ApiError(400, str(error), 'messages' if chat else 'prompt',
                   'context_length_exceeded') from error
  except FieldError as error:   # min_tokens above the maximum
    raise setting_error(error) from error
  return Call(requests, chat, stream, _field(options, 'include_usage', (bool,), False))


def setting_error(error: FieldError) -> ApiError:
  """That of a field of Sampling, by the name that it has in a body."""
  name = {field: name for name, (field, _) in SAMPLING.items()}.get(error.field, error.field)
  name = {'max_new_tokens': 'max_tokens'}.get(name, name)
  value = short_repr(getattr(error.owner, error.field))
  return ApiError(400, f'{name}: {value}: {error.rule}', name)


def _field(body: Mapping[str, Any], name: str, types: tuple[type, ...], default: Any) -> Any:
  value = body.get(name, default)
  if not isinstance(value, types) or isinstance(value, bool) and bool not in types:
    wanted = ' or '.join({bool: 'true or false', str: 'a string', int: 'an integer', dict:
                          'an object', float: 'a number', list: 'a list'}[t] for t in types)
    raise ApiError(400, f'{name}: {value!r:.60} is not {wanted}', name)
  return value


def _count(body: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
  value = default if name not in body else _field(body, name, (int,), default)
  if value is not None and not low <= value <= high:
    raise ApiError(400, f'{name}: {value} is not from {low} to {high}', name)
  return value


def _max_tokens(body: Mapping[str, Any], chat: bool) -> int | None:
  high = 2 ** 31 - 1
  if not chat:
    return _count(body, 'max_tokens', _COMPLETION_TOKENS, 1, high)
  new, old = (_count(body, name, None, 1, high) for name in ('max_completion_tokens', 'max_tokens'))
  if None not in (new, old) and new != old:
    raise ApiError(400, f'max_completion_tokens: {new}, and max_tokens is {old}: give one',
                   'max_completion_tokens')
  return new or old


def _sampling(body: Mapping[str, Any]) -> Sampling:
  fields = {'temperature': 1.0, 'seed': int.from_bytes(os.urandom(4))}
  for name, (field, types) in SAMPLING.items():
    if name in body:
      value = _field(body, name, types, None)
      fields[field] = float(value) if float in types else value
  stop = _field(body, 'stop', (str, list), [])
  stop = [stop] if isinstance(stop, str) else stop
  if len(stop) > _MAX_STOPS or not all(isinstance(text, str) for text in stop):
    raise ApiError(400, f'stop: a string, or a list of at most {_MAX_STOPS}', 'stop')
  bias = _field(body, 'logit_bias', (dict,), {})
  try:
    bias = {int(i): float(_field(bias, i, (int, float), None)) for i in bias}
  except ValueError:
    raise ApiError(400, f'logit_bias: {bias!r:.60}: names are ids of tokens',
                   'logit_bias') from None
  try:
    return Sampling(**fields, stop=tuple(stop), logit_bias=bias)
  except FieldError as error:
    raise setting_error(error) from error


def _constraint(body: Mapping[str, Any], served: Served, model: str) -> Constraint | None:
  wanted = structure_of(body, lambda message, name: ApiError(400, message, name))
  if wanted is None:
    return None
  name, kind, value = wanted
  try:
    return served.structures.build(model, kind, value)
  except UserError as error:
    raise ApiError(400, f'{name}: {error}', name) from error


def _alternatives(body: Mapping[str, Any], chat: bool) -> int | None:
  """How many are reported beside each token; None: no log-probabilities."""
  if not chat:
    return _count(body, 'logprobs', None, 0, ALTERNATIVES)
  wanted = _field(body, 'logprobs', (bool,), False)
  number = _count(body, 'top_logprobs', None, 0, ALTERNATIVES)
  if number is not None and not wanted:
    raise ApiError(400, 'top_logprobs: only where logprobs is true', 'top_logprobs')
  return (number or 0) if wanted else None


def _prompts(body: Mapping[str, Any], served: Served) -> list[tuple[list[int], bool]]:
  prompt = body.get('prompt')
  is_ids = lambda x: isinstance(x, list) and bool(x) and all(type(i) is int for i in x)
  prompts = [prompt] if isinstance(prompt, str) or is_ids(prompt) else prompt
  if not isinstance(prompts, list) or not 0 < len(prompts) <= _MAX_PROMPTS or not all(
      isinstance(one, str) or is_ids(one) for one in prompts):
    raise ApiError(400, f'prompt: a string, a list of ids, or at most {_MAX_PROMPTS} of them',
                   'prompt')
  return [_encoded(served.text_ids, one, 'prompt') if isinstance(one, str) else
          (_checked(one, served), served.reader.frame is not None) for one in prompts]


def _checked(ids: list[int], served: Served) -> list[int]:
  size = served.reader.inputs.vocab_size
  wrong = [i for i in ids if not 0 <= i < size]
  if wrong:
    raise ApiError(400, f'prompt: {wrong[0]} is no id of the vocabulary, which has {size}',
                   'prompt')
  return ids


def _conversation(body: Mapping[str, Any], served: Served, model: str) -> tuple[list[int], bool]:
  messages = _field(body, 'messages', (list,), None)
  if not messages:
    raise ApiError(400, 'messages: is empty', 'messages')
  return _encoded(functools.partial(served.chat_ids, model),
                  [_message(n, m) for n, m in enumerate(messages)], 'messages')


def _message(number: int, message: Any) -> dict[str, str]:
  """role and content of a message; the parts of a content are joined."""
  name = f'messages[{number}]'
  if not isinstance(message, dict):
    raise ApiError(400, f'{name}: {message!r:.60} is not an object', 'messages')
  message = {key: value for key, value in message.items() if value not in (None, [], '')
             or key == 'content'}
  extra = set(message) - {'role', 'content'}
  if extra:
    raise ApiError(400, f'{name}.{min(extra)}: not supported here', 'messages')
  content = message.get('content')
  if isinstance(content, list) and all(
      isinstance(part, dict) and part.get('type') == 'text' and isinstance(part.get('text'), str)
      for part in content):
    content = ''.join(part['text'] for part in content)
  if not isinstance(content, str):
    raise ApiError(400, f'{name}.content: a string, or parts of type text: no images, no audio',
                   'messages')
  role = message.get('role')
  if not isinstance(role, str) or role not in _ROLES:
    raise ApiError(400, f'{name}.role: {role!r:.60}: choose from {", ".join(_ROLES)}', 'messages')
  return {'role': _ROLES[role], 'content': content}


def _encoded(encode: Callable, text: str | Sequence, param: str) -> tuple[list[int], bool]:
  try:
    return encode(text)
  except UnicodeEncodeError as error:
    raise ApiError(400, f'{param}: has half of a surrogate pair, which no text has',
                   param) from error
  except TooLong as error:
    raise ApiError(400, str(error), param, 'context_length_exceeded') from error
  except UserError as error:
    raise ApiError(400, str(error), param) from error

"""A client of OpenAI-compatible chat completions, by the standard library: text in, text out."""

import dataclasses
import http.client
import json
import time
import urllib.error
import urllib.request

from t5x_lite.core.dataclass_checks import Count, NonNegative, Positive, check_types
from t5x_lite.core.errors import UserError

_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)   # which may be gone at the next try
_LONGEST_WAIT = 60.0   # seconds between two tries


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """A redirect is an error: the key is for the host that was named."""

  def redirect_request(self, *args, **kwargs):
    return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatClient:
  """Asks a model of an endpoint greedily, one message at a time.

  Attributes:
    url: up to the version, such as http://localhost:8000/v1.
    model: its name there.
    key: for the header Authorization; None for none. It is in no message.
    timeout: seconds without an answer after which a request has failed.
    tries: of a request that fails for a reason that may pass: busy, down, too slow.
    backoff: seconds before the second try; doubled before each further one.
    max_tokens: of a reply.
  """
  url: str
  model: str
  key: str | None = dataclasses.field(default=None, repr=False)
  timeout: Positive[float] = 120.0
  tries: Count = 5
  backoff: NonNegative[float] = 1.0
  max_tokens: Count = 1024

  def __post_init__(self):
    check_types(self)
    if not self.url.startswith(('http://', 'https://')):
      raise UserError(f'--url={self.url}: must begin with http:// or https://')
    if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
      raise UserError('the key has characters that no header has: set it again')

  def __call__(self, prompt: str) -> str:
    """The reply to a message; raises UserError with what the endpoint said last."""
    wait = self.backoff
    for left in reversed(range(self.tries)):
      try:
        return self._ask(prompt)
      except _Passing as error:
        if not left:
          raise UserError(f'{self.url}: {error} ({self.tries} tries)') from error
        time.sleep(min(max(wait, error.wait), _LONGEST_WAIT))
        wait *= 2
    raise AssertionError   # tries is positive

  def _ask(self, prompt: str) -> str:
    body = json.dumps({
        'model': self.model, 'messages': [{'role': 'user', 'content': prompt}], 'temperature': 0,
        'max_tokens': self.max_tokens}).encode()
    headers = {'Content-Type': 'application/json'}
    if self.key is not None:
      headers['Authorization'] = f'Bearer {self.key}'
    request = urllib.request.Request(f'{self.url.rstrip("/")}/chat/completions', body, headers)
    try:
      with _OPENER.open(request, timeout=self.timeout) as response:
        content = response.read()
    except urllib.error.HTTPError as error:
      with error:
        message = f'{error.code} {error.reason}: {_message_of(error)}'
      if error.code in _PASSING:
        raise _Passing(message, _retry_after(error)) from error
      raise UserError(f'{self.url}: {message}') from error
    except TimeoutError as error:
      raise _Passing(f'no answer in {self.timeout:g} s') from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
      reason = getattr(error, 'reason', error)
      if isinstance(reason, TimeoutError):
        raise _Passing(f'no answer in {self.timeout:g} s') from error
      raise _Passing(f'cannot be asked: {getattr(reason, "strerror", None) or reason}') from error
    return self._reply_of(content)

  def _reply_of(self, content: bytes) -> str:
    try:
      reply = json.loads(content)['choices'][0]['message']['content']
      if not isinstance(reply, str | None):
        raise TypeError('its content is no text')
    except (ValueError, KeyError, IndexError, TypeError) as error:
      raise UserError(f'{self.url}: does not answer as OpenAI\'s API does '
                      f'({content[:100].decode(errors="replace")!r}): name an endpoint up to its '
                      'version, such as http://localhost:8000/v1') from error
    return reply or ''   # null: a refusal, or reasons alone


class _Passing(Exception):
  """A failure that may pass; `wait`: seconds the endpoint asks to wait."""

  def __init__(self, message: str, wait: float = 0.0):
    super().__init__(message)
    self.wait = wait


def _message_of(error: urllib.error.HTTPError) -> str:
  """What the body of an error says, in one line."""
  try:
    text = error.read(10_000).decode(errors='replace')
  except (OSError, http.client.HTTPException):
    return ''
  try:
    text = str(json.loads(text)['error']['message'])
  except (ValueError, KeyError, TypeError):
    pass
  return ' '.join(text.split())[:300]


def _retry_after(error: urllib.error.HTTPError) -> float:
  try:
    return max(float(error.headers.get('Retry-After', 0)), 0.0)
  except ValueError:   # a date
    return 0.0

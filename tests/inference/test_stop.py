"""Where texts end, however they are split: against a scan of every prefix."""

import random

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.inference.stop import StopStrings

BYTES = lambda ids: bytes(ids).decode('utf-8', errors='replace')


def first_end(text, stops):
  """(start, stop string) of what is complete first, the longest of several; or None."""
  for end in range(1, len(text) + 1):
    found = [stop for stop in stops if text[:end].endswith(stop)]
    if found:
      return end - len(max(found, key=len)), max(found, key=len)
  return None


@pytest.mark.parametrize('stops', [('ab',), ('aab', 'b'), ('é', 'bé', 'a\n'), ('xyz', 'aaa'), ()])
def test_a_text_ends_before_the_stop_string_that_is_complete_first(stops):
  rng = random.Random(str(stops))
  for _ in range(300):
    text = ''.join(rng.choice('abé\nx𝄞') for _ in range(rng.randrange(12)))
    data, shown = list(text.encode()), ''
    matcher = StopStrings(BYTES, stops)
    while data:
      size = rng.randint(1, 3)
      shown += matcher.push(data[:size])
      data = data[size:]
      assert text.startswith(shown) and shown == matcher.shown
    shown += matcher.finish()
    want = first_end(text, stops)
    assert (shown, matcher.ended) == ((text[:want[0]], want[1]) if want else (text, None))
    assert matcher.push(list(b'more')) == '' or not want


def test_what_may_begin_a_stop_string_or_lacks_bytes_is_held_back():
  matcher = StopStrings(BYTES, ('END',))
  assert matcher.push(list(b'x E')) == 'x '
  assert matcher.push(list(b'N')) == ''
  assert matcher.push(list('é'.encode()[:1])) == ''
  assert matcher.push(list('é'.encode()[1:])) == 'ENé'
  assert matcher.push([0xc3]) == '' and matcher.finish() == '\ufffd'


@pytest.mark.parametrize('bad', ['', '\ud83d', 'a\udc00'])
def test_a_stop_string_that_no_text_has_is_refused(bad):
  with pytest.raises(UserError) as e:
    StopStrings(BYTES, ('ok', bad))
  assert str(e.value).isprintable()

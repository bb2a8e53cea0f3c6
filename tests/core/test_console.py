"""Durations and the progress line."""

import io
import math

import pytest

from t5x_lite.core import console


@pytest.mark.parametrize('seconds, text', [
    (0, '0 s'), (59.9, '59 s'), (60, '1 min 00 s'), (3599, '59 min 59 s'), (3600, '1 h 00 min'),
    (7384, '2 h 03 min'), (-1, '0 s')])
def test_duration(seconds, text):
  assert console.duration(seconds) == text


def test_progress_prints_plain_lines_at_intervals_and_always_the_last():
  stream = io.StringIO()
  progress = console.Progress(3, stream, every=1000)
  values = {'loss': 1.2345, 'tokens_per_second': 12345.6, 'mfu': math.nan}
  for step in (1, 2, 3):
    progress.show(step, values, 75)
  assert stream.getvalue() == ('step 1/3  loss 1.234  12,346 tokens/s  1 min 15 s left\n'
                               'step 3/3  loss 1.234  12,346 tokens/s  1 min 15 s left\n')


def test_progress_shows_utilisation_where_the_peak_is_known():
  stream = io.StringIO()
  console.Progress(1, stream).show(1, {'loss': 1, 'tokens_per_second': 1, 'mfu': 0.4567}, 0)
  assert 'MFU 45.7 %' in stream.getvalue()


def test_progress_rewrites_its_line_on_a_terminal():
  stream = io.StringIO()
  stream.isatty = lambda: True
  progress = console.Progress(2, stream)
  progress.show(2, {'loss': 1, 'tokens_per_second': 1}, 0)
  progress.say('done')
  assert stream.getvalue() == '\r\033[Kstep 2/2  loss 1.000  1 tokens/s  0 s left\ndone\n'

"""Programs that are right, wrong, hang, crash, print or fork: none harms the one that asks."""

import time

import pytest

from t5x_lite.data.source import NoData
from t5x_lite.rewards.reward import Completion
from t5x_lite.rewards.unit_tests import UnitTests

TESTS = 'assert double(2) == 4\nassert double(-1) == -2\nassert double("a") == "aa"\n'


def rate(text, reference=TESTS, prompt='', **settings):
  rating, = UnitTests(**settings).make(NoData({}))([Completion(prompt, text, reference, True)])
  return rating


@pytest.mark.parametrize('text, reward', [
    ('def double(x):\n  return x + x', 1.0),
    ('Here it is:\n```python\ndef double(x):\n  return x + x\n```\nIt doubles.', 1.0),
    ('```\ndef double(x):\n  return 4 if x == 2 else -2\n', 2 / 3),
    ('def double(x):\n  return 0', 0.0),
    ('def double(x)', 0.0),
    ('', 0.0),
    ('print("x" * 10_000_000)\ndef double(x): return x + x', 1.0),
    ('raise SystemExit(0)', 0.0),
])
def test_the_reward_is_the_share_of_tests_that_pass(text, reward):
  rating = rate(text)
  assert (rating.reward, rating.fault) == (pytest.approx(reward), None)


def test_all_or_nothing_and_a_program_that_begins_with_the_prompt():
  text = 'def double(x):\n  return 4 if x == 2 else -2\n'
  assert rate(text, all_or_nothing=True).reward == 0
  assert rate('  return x + x\n', prompt='def double(x):\n', with_prompt=True).reward == 1


@pytest.mark.parametrize('text, fault', [
    ('while True: pass', 'it ran for more than 1 s'),
    ('import time\ntime.sleep(60)', 'it ran for more than 1 s'),
    ('import os\nos._exit(3)', 'it ended by exit 3 without a result'),
    ('import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)', 'it ended by SIGSEGV'),
    ('import os\nos.write(1, b"garbage")\nos._exit(0)', 'it ended by exit 0 without a result'),
])
def test_a_program_that_hangs_or_ends_itself_has_0_and_says_so(text, fault):
  start = time.monotonic()
  rating = rate(text, seconds=1.0)
  assert (rating.reward, rating.fault) == (0.0, fault)
  assert time.monotonic() - start < 20


def test_memory_is_limited():
  assert rate('x = bytearray(2 ** 30)\ndef double(x): return x + x', megabytes=256).reward == 0


def test_what_a_program_starts_ends_with_it(tmp_path):
  mark = tmp_path / 'alive'
  text = (f'import subprocess, sys\nsubprocess.Popen([sys.executable, "-c", "import time\\n'
          f'time.sleep(1)\\nopen({str(mark)!r}, \'w\')"])\ndef double(x): return x + x')
  assert rate(text).reward == 1
  time.sleep(2)
  assert not mark.exists()


def test_the_environment_is_not_handed_on(monkeypatch):
  monkeypatch.setenv('SECRET_TOKEN', 'x')
  assert rate('import os\nseen = "SECRET_TOKEN" in os.environ', 'assert not seen').reward == 1


def test_a_reference_without_tests_is_a_fault():
  assert 'has no tests in Python' in rate('x = 1', 'the answer is 4').fault

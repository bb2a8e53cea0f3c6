"""A reward of programs: the share of unit tests that pass, run in a process with limits.

The process has limits of time, memory, file sizes and processes, an empty folder of its own, and
none of the environment. This keeps a model's mistakes from a machine; it does not keep out a
program that means harm: run untrusted models in a container without a network besides.
"""

import ast
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import ClassVar

from t5x_lite.core.dataclass_checks import Count, FieldError, Positive, check_types
from t5x_lite.data.source import Source
from t5x_lite.rewards.reward import Completion, Rater, Rating

_FENCED = re.compile(r'```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)', re.DOTALL)
# Sets its limits, runs the program of stdin, then each test, and writes {the secret: results} to
# the real stdout, which the program does not have.
_DRIVER = r'''
import io, json, os, resource, sys
given = json.load(sys.stdin)
for name, value in given['limits'].items():
  try:
    resource.setrlimit(getattr(resource, name), (value, value))
  except (ValueError, OSError):   # macOS has no limit of memory
    pass
out = os.fdopen(os.dup(1), 'w')
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
  os.dup2(null, number)
sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
passed, names = [], {'__name__': 'program'}
try:
  exec(compile(given['program'], 'program', 'exec'), names)
  for test in given['tests']:
    try:
      exec(compile(test, 'test', 'exec'), names)
      passed.append(True)
    except BaseException:
      passed.append(False)
except BaseException as error:
  passed = [False] * len(given['tests'])
json.dump({given['secret']: passed}, out)
out.flush()
os._exit(0)
'''


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitTests:
  """The share of the reference's tests that a program passes; 0 where it hangs or crashes.

  The reference is Python: each of its statements is a test, such as `assert f(2) == 4`. The
  program is the first block of a completion between ``` and ```, or all of it.
  """
  name: ClassVar[str] = 'unit_tests'
  seconds: Positive[float] = 5.0     # of processor and of time, for all tests of a program
  megabytes: Count = 512             # of memory
  all_or_nothing: bool = False       # 1 if all tests pass, else 0
  with_prompt: bool = False          # whether a program begins with the prompt
  parallel: Count = 2                # programs that run at a time

  def __post_init__(self):
    check_types(self)
    if sys.platform not in ('linux', 'darwin'):
      raise FieldError(self, 'seconds', f'limits of a process are not set on {sys.platform}')

  def make(self, data: Source) -> Rater:
    """See Reward."""

    def rater(completions: Sequence[Completion]) -> list[Rating]:
      with ThreadPoolExecutor(self.parallel) as pool:
        return list(pool.map(self._rate, completions))

    return rater

  def _rate(self, one: Completion) -> Rating:
    tests = _statements(one.reference)
    if not tests:
      return Rating(0.0, f'the reference {one.reference!r:.40} has no tests in Python')
    fenced = _FENCED.search(one.text)
    program = (one.prompt if self.with_prompt else '') + (fenced[1] if fenced else one.text)
    passed, fault = self._run(program, tests)
    if passed is None:
      return Rating(0.0, fault)
    share = sum(passed) / len(tests)
    return Rating(float(share == 1) if self.all_or_nothing else share)

  def _run(self, program: str, tests: list[str]) -> tuple[list[bool] | None, str | None]:
    """(whether each test passes, None), or (None, why that is not known)."""
    secret = secrets.token_hex(16)
    limits = {'RLIMIT_CPU': int(self.seconds) + 1, 'RLIMIT_AS': self.megabytes * 2 ** 20,
              'RLIMIT_FSIZE': 2 ** 20, 'RLIMIT_NOFILE': 64, 'RLIMIT_CORE': 0}
    given = json.dumps({'program': program, 'tests': tests, 'secret': secret, 'limits': limits})
    with tempfile.TemporaryDirectory() as folder:
      process = subprocess.Popen(
          [sys.executable, '-I', '-S', '-c', _DRIVER], cwd=folder, env={'PATH': os.defpath},
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
          start_new_session=True)
      try:
        out, _ = process.communicate(given.encode('utf-8', 'surrogatepass'), self.seconds)
      except subprocess.TimeoutExpired:
        return None, f'it ran for more than {self.seconds:g} s'
      finally:
        _kill(process)
    try:
      passed = json.loads(out)[secret]
    except (ValueError, KeyError, TypeError):
      return None, f'it ended by {_end(process.returncode)}'
    return passed, None


def _kill(process: subprocess.Popen) -> None:
  """The process and all that it started."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.wait()
  process.stdout.close()


def _end(code: int) -> str:
  return signal.Signals(-code).name if code < 0 else f'exit {code} without a result'


def _statements(source: str) -> list[str]:
  """Each statement of Python source, [] if it is none."""
  try:
    return [ast.unparse(node) for node in ast.parse(source).body]
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return []

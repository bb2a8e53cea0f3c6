"""Two processes evaluate as one does, and one of them writes."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from tests.commands.test_infer import trained

WORKER = '''
import sys
import jax
rank, count, port = map(int, sys.argv[1:4])
if count > 1:
  jax.distributed.initialize(f'localhost:{port}', count, rank)
from t5x_lite import cli
sys.exit(cli.main(sys.argv[4:]))
'''


def run_processes(count, tmp_path, *argv):
  """What each of `count` processes prints."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  script = tmp_path / 'worker.py'
  script.write_text(WORKER)
  flags = re.sub(r'(device_count)=\d+', rf'\1={2 // count}', os.environ['XLA_FLAGS'])
  env = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(pathlib.Path.cwd())}
  started = [subprocess.Popen([sys.executable, script, str(rank), str(count), str(port), *argv],
                              env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for rank in range(count)]
  outputs = [process.communicate(timeout=300) for process in started]
  assert [process.returncode for process in started] == [0] * count, outputs
  return ['\n'.join(line for line in out.splitlines() if not line.startswith('[Gloo]'))
          for out, _ in outputs]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path):
  config = trained(tmp_path, 'tiny_lm', 'TARGETS_LENGTH=64')
  run = pathlib.Path(config).parent
  rows = [{'question': f'{i} + 1?',
           'choices': {'text': ['odd', 'even', 'both'], 'label': [*'ABC']},
           'answerKey': 'AB'[i % 2]}
          for i in range(5)]
  (tmp_path / 'arc_easy_test.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  argv = ['evaluate', str(run), '--tasks=arc_easy', f'--data={tmp_path}', '--shots=0',
          '--json', '--gin.MeshConfig.data=2', '--batch_size=8']
  one, = run_processes(1, tmp_path, *argv, '--fresh')
  items = {path.name: path.read_text() for path in (run / 'evaluations').glob('*.jsonl')}
  two, other = run_processes(2, tmp_path, *argv)
  assert not other
  assert [x['metrics'] for x in json.loads(two)] == [x['metrics'] for x in json.loads(one)]
  found = (run / 'evaluations/arc_easy-0shot-2.jsonl').read_text().splitlines()
  for a, b in zip(found, items['arc_easy-0shot-2.jsonl'].splitlines(), strict=True):
    assert json.loads(a)['logprobs'] == pytest.approx(json.loads(b)['logprobs'], abs=1e-4)

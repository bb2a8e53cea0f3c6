"""Runs of t5x-lite for the scripts beside this one; none is trained twice."""

import json
import pathlib
import subprocess
import sys


def run(*args: str) -> None:
  """A command of t5x-lite; what it prints goes to stderr."""
  subprocess.run([sys.executable, '-m', 't5x_lite', *args], check=True, stdout=sys.stderr)


def train(folder: pathlib.Path, *args: str) -> pathlib.Path:
  """Trains with these flags, unless it has been done; returns the folder."""
  done = folder.with_suffix('.done')
  if not done.exists():
    run('train', *args, f'--gin.MODEL_DIR={folder}')
    done.touch()
  return folder


def last_metrics(folder: pathlib.Path) -> dict[str, float]:
  """The newest value of each metric of a run's evaluations."""
  records = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  return {name: value for record in records if record['kind'] == 'eval'
          for name, value in record.items()}


def loss_of(*args: str) -> float:
  """The loss of a run, whose configuration `args` are, by `t5x-lite eval`."""
  done = subprocess.run([sys.executable, '-m', 't5x_lite', 'eval', '--json', *args], check=True,
                        stdout=subprocess.PIPE, text=True)
  return next(x for name, x in json.loads(done.stdout).items() if name.endswith('/loss'))


def spread(values: list[float]) -> str:
  """'2.50 (2.48 to 2.53)': the mean and the range."""
  return f'{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})'

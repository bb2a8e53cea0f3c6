"""A small ladder, a stand-in for training processes that obey a law, and quicker fits."""

import functools
import json
import os
import pathlib
import threading
import types

import numpy as np
import pytest

from scaling.fitting import parametric, solver
from scaling.ladder import design, launch
from t5x_lite.cost import accounting
from t5x_lite.experiment import gin_config

BASE = 'experiments/stdlib_ladder.gin'
SETTINGS = dict(target_flops=1e15, largest=4e13, budgets=4, sizes=5, spread=8.0, multiple=16)
# What the made-up runs obey.
LAW = dict(e=0.8, a=20.0, alpha=0.3, b=60.0, beta=0.35)


@pytest.fixture(scope='session')
def settings():
  """Of `ladder`, for make_ladder."""
  return dict(gin_files=[BASE], bindings=[], **SETTINGS)


@pytest.fixture(scope='session')
def ladder():
  return design.make_ladder([BASE], [], **SETTINGS)


def made_up_loss(run, noise=1e-3):
  """A loss by a law, and noise that depends on the run's figures alone."""
  rng = np.random.default_rng(abs(run.parameters * 31 + run.tokens) % 2 ** 32)
  value = (LAW['e'] + LAW['a'] * run.parameters ** -LAW['alpha']
           + LAW['b'] * run.tokens ** -LAW['beta'])
  return value * float(np.exp(noise * rng.normal()))


@pytest.fixture
def trainer(monkeypatch):
  """`subprocess.run` writes what a finished run writes, at once, and records what was launched.

  `failing` end with status 1, `spoilt` have their loss changed by so much, `diverged` have none.
  """
  launched, gins, failing, spoilt, diverged = [], {}, set(), {}, set()
  lock = threading.Lock()

  def run(command, stdout=None, **_):
    gin_file = next(word for word in command if word.startswith('--gin_file=')).split('=')[1]
    folder = next(word for word in command if word.startswith('--gin.MODEL_DIR=')).split('=')[1]
    name = os.path.basename(folder)
    launched.append(name)
    if name in failing:
      print('error: no space left', file=stdout, flush=True)
      return types.SimpleNamespace(returncode=1)
    with lock:   # gin has one state for the whole process
      experiment, text = gin_config.load_experiment([gin_file], [f'MODEL_DIR={folder!r}'])
    gins[name] = experiment
    made = types.SimpleNamespace(parameters=accounting.parameters(experiment.model).total,
                                 tokens=experiment.train.steps * 512)
    loss = None if name in diverged else made_up_loss(made) + spoilt.get(name, 0.0)
    step = experiment.train.checkpoint_every
    for saved in range(step, experiment.train.steps + 1, step):
      (pathlib.Path(folder) / 'checkpoints' / str(saved)).mkdir(parents=True, exist_ok=True)
    (pathlib.Path(folder) / 'config.gin').write_text(text)
    record = {'step': experiment.train.steps, 'kind': 'eval', 'stdlib_lm/loss': loss}
    (pathlib.Path(folder) / 'metrics.jsonl').write_text(json.dumps(record) + '\n')
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(launch.subprocess, 'run', run)
  return types.SimpleNamespace(launched=launched, gins=gins, failing=failing, spoilt=spoilt,
                               diverged=diverged)


@pytest.fixture
def fewer_starts(monkeypatch):
  """Fits from a tenth of the starts, and a tenth of the resamples: these tests are of the loop."""
  starts = solver.standard_starts()[::10]
  monkeypatch.setattr(solver, 'standard_starts', lambda: starts)
  monkeypatch.setattr(parametric, 'bootstrap', functools.partial(parametric.bootstrap, count=100))

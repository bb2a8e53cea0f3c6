"""What is imported when: TensorFlow and JAX stay out of paths that do not need them."""

import subprocess
import sys
import time

import pytest


def modules_after(code: str) -> set[str]:
  got = subprocess.run(
      [sys.executable, '-c', f'{code}\nimport sys\nprint(*sys.modules)'], check=True,
      capture_output=True, text=True, timeout=120)
  return set(got.stdout.split())


@pytest.mark.parametrize('code', [
    'import t5x_lite, scaling', 'import t5x_lite.cost.accounting, t5x_lite.cost.hardware',
    'from t5x_lite.experiment import gin_config; '
    'gin_config.load_experiment(["experiments/tiny_lm.gin"], ["MODEL_DIR=x"])',
    'import t5x_lite.commands.train, t5x_lite.training.hooks, t5x_lite.inference.generator, '
    't5x_lite.cost.summary',
    'import tasks, tasks.files, tasks.pipeline.seqio_data, tasks.pipeline.evaluator, '
    'tasks.pipeline.mixtures',
])
def test_tensorflow_is_not_imported(code):
  loaded = modules_after(code)
  assert not {'tensorflow', 'seqio', 'tensorflow_datasets'} & loaded


def test_help_is_fast_and_imports_no_jax():
  code = ('from t5x_lite import cli\ntry: cli.main(["--help"])\nexcept SystemExit: pass')
  assert 'jax' not in modules_after(code)
  began = time.monotonic()
  subprocess.run([sys.executable, '-m', 't5x_lite', '--help'], check=True, capture_output=True)
  assert time.monotonic() - began < 1.5

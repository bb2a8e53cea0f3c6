"""A data set of a few lines for runs of adaptations."""

import json

import pytest


@pytest.fixture(scope='session')
def gin_file(tmp_path_factory):
  """An experiment of `tiny_lm.gin` on sums, whose bindings may name any adaptation."""
  folder = tmp_path_factory.mktemp('text')
  (folder / 'lines.jsonl').write_text('\n'.join(
      json.dumps({'answer': f'{i} + {j} = {i + j}'}) for i in range(20) for j in range(10)))
  (folder / 'lm.gin').write_text(f"""
from __gin__ import dynamic_registration
from t5x_lite import experiment
from t5x_lite.adaptation import lora
from t5x_lite.adaptation import partial
from t5x_lite.adaptation import prefix
from t5x_lite.adaptation.quantization import quantized
from tasks import files
include 'experiments/tiny_lm.gin'
TASK = @files.FileTask()
files.FileTask.train = '{folder}/lines.jsonl'
files.FileTask.validation = '{folder}/lines.jsonl'
files.FileTask.objective = 'lm'
files.FileTask.targets = 'answer'
""")
  return str(folder / 'lm.gin')

"""A run of few steps on conversations, with an adapter."""

import json

import pytest

from t5x_lite.commands import train
from t5x_lite.experiment import gin_config

TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=60', 'WARMUP_STEPS=1',
        'LEARNING_RATE=0.02', 'TARGETS_LENGTH=256', 'Experiment.eval=None']


@pytest.fixture(scope='session')
def chat_run(tmp_path_factory):
  """The folder of 'run', whose answers follow the system message, and of 'lora', an adapter."""
  folder = tmp_path_factory.mktemp('served')
  user = lambda n: {'role': 'user', 'content': f'{n} and {n}?'}
  said = lambda text: {'role': 'assistant', 'content': text}
  brief = {'role': 'system', 'content': 'Be brief.'}
  rows = {'run': [[user(n), said(str(n))] for n in range(8)] + [
      [brief, user(n), said('no')] for n in range(8)],
          'lora': [[user(n), said('yes, it is')] for n in range(16)]}
  for name, conversations in rows.items():
    (folder / f'{name}.jsonl').write_text(''.join(
        json.dumps({'messages': messages}) + '\n' for messages in conversations))
  (folder / 'run.gin').write_text("""
from __gin__ import dynamic_registration
from tasks import instruction
include 'experiments/tiny_lm.gin'
TASK = @instruction.ConversationTask()
instruction.ConversationTask.template = 'plain'
""")
  for name, files, more in (
      ('run', [], []),
      ('lora', ['runs/finetune.gin', 'runs/lora.gin'], [f"INIT_FROM='{folder}/run'",
                                                        'LEARNING_RATE=0.05'])):
    experiment, text = gin_config.load_experiment(
        [str(folder / 'run.gin'), *files], [
            *TINY, f"MODEL_DIR='{folder}/{name}'",
            f"ConversationTask.train='{folder}/{name}.jsonl'", *more])
    train.train(experiment, text)
  return folder

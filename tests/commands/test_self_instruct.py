"""`self-instruct` with the model of a run, from the command line."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.commands import train
from t5x_lite.experiment import gin_config
from tasks.commands.self_instruct import RunModel
from tasks.instruction.self_instruct import bootstrap

TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=1', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=2', 'WARMUP_STEPS=1',
        'InferConfig.batch_size=4', 'InferConfig.max_tokens=16', 'TARGETS_LENGTH=256',
        'Experiment.eval=None']
SEEDS = [{'id': f's{i}', 'instruction': f'Name {word} in a few words.', 'is_classification': i < 2,
          'instances': [{'input': word, 'output': 'a thing'}]}
         for i, word in enumerate(['rain', 'snow', 'wind', 'hail', 'fog'])]


@pytest.fixture(scope='module')
def chat(tmp_path_factory):
  """The folder of seed tasks, and of a run of two steps on them as conversations."""
  folder = tmp_path_factory.mktemp('self_instruct')
  (folder / 'seeds.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in SEEDS))
  (folder / 'run.gin').write_text(f"""
from __gin__ import dynamic_registration
from tasks import instruction
include 'experiments/tiny_lm.gin'
TASK = @instruction.ConversationTask()
instruction.ConversationTask.train = '{folder}/seeds.jsonl'
instruction.ConversationTask.template = 'plain'
""")
  experiment, text = gin_config.load_experiment(
      [str(folder / 'run.gin')], [*TINY, f"MODEL_DIR='{folder}/run'"])
  train.train(experiment, text)
  return folder


def command(chat, output, *more):
  return cli.main(['self-instruct', f'--gin_file={chat}/run/config.gin', f'--output={output}',
                   f'--seed_tasks={chat}/seeds.jsonl', '--number=1', '--human=2', '--generated=1',
                   '--classifications=1', '--generations=1', *more])


def test_a_model_of_two_steps_writes_no_task_and_what_it_wrote_is_kept(
    chat, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(bootstrap, 'PATIENCE', 2)
  assert command(chat, tmp_path / 'out') == 1
  out, err = capsys.readouterr()
  assert out.startswith('round 1: 0 of 1 tasks') and err.count('\n') == 1
  assert err.startswith('error: 2 rounds in a row gave no new task (')
  rows = [json.loads(line) for line in (tmp_path / 'out/refused.jsonl').read_text().splitlines()]
  assert {row['round'] for row in rows} == {0, 1}
  before = (tmp_path / 'out/refused.jsonl').read_text()
  assert command(chat, tmp_path / 'out') == 1   # goes on where it stopped
  after = (tmp_path / 'out/refused.jsonl').read_text()
  assert after.startswith(before)
  assert {json.loads(line)['round'] for line in after.splitlines()} == {0, 1, 2, 3}
  capsys.readouterr()
  assert command(chat, tmp_path / 'out', '--temperature=1.0') == 1
  assert 'begun with temperature 0.7, and now it is 1.0' in capsys.readouterr().err


def test_the_model_of_a_run_is_asked_by_its_chat_template(chat):
  experiment, _ = gin_config.load_experiment([f'{chat}/run/config.gin'])
  model = RunModel(experiment, 0.7)
  prompts = ['Come up with', 'a series of tasks']
  assert model.fits('x' * 200) and not model.fits('x' * 260)
  assert model.sample(prompts) == model.sample(prompts) != model.answer(prompts)
  words = [text for text, _ in model.word(prompts)]
  assert [text[:len(word)] for (text, _), word in zip(model.answer(prompts), words)] == words
  assert model.answer(['Come up with']) == model.answer(prompts)[:1]


@pytest.mark.parametrize('flags, message', [
    (['--number=0'], '--number=0: must be at least 1'),
    (['--temperature=0'], '--temperature=0: must be 0.01 to 100'),
    (['--human=0'], '--human=0: must be above 0'),
    (['--similarity=1.5'], '--similarity=1.5: must be'),
    (['--seed_tasks=/no/file.jsonl'], "--seed_tasks: no file matches '/no/file.jsonl'"),
    (['--gin.Sampling.temperature=1.0'], 'set --temperature'),
    (['--gin.InferConfig.input="x.txt"'], 'InferConfig.input'),
    (['--human=4', '--gin.TARGETS_LENGTH=32'], 'does not read the whole of a prompt: lower --h'),
])
def test_a_mistake_is_one_line(flags, message, chat, tmp_path, capsys):
  assert command(chat, tmp_path / 'out', *flags) == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and message in err and err.count('\n') == 1
  assert not (tmp_path / 'out').exists()

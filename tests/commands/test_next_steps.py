"""What training prints at its end."""

import types

import pytest

from t5x_lite.commands import next_steps
from t5x_lite.models import ModelConfig


def experiment(folder, splits=('train',), evaluated=None, num_texts=1, **model):
  data = types.SimpleNamespace(splits=lambda: list(splits), num_texts=num_texts)
  config = ModelConfig(**dict(family='decoder_only', vocab_size=8, embed_dim=4, num_layers=1,
                              num_heads=1, mlp_dim=4) | model)
  return types.SimpleNamespace(folder=folder, data=data, model=config, eval=evaluated)


def commands(capsys) -> list[str]:
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith('Commands worth trying next:')
  return [line.split(None, 1)[1] for line in lines[1:]]


def test_the_commands_are_those_that_the_run_can_take(tmp_path, capsys):
  folder = tmp_path / 'a run'
  folder.mkdir()
  config = f"--gin_file='{folder}/config.gin'"
  plot = f"plot '{folder}'   # of several runs: name them all"
  next_steps.show(experiment(folder, ('train', 'test'), object()), ['mine', 'other'])
  trusted = f'{config} --trusted_modules=mine,other'
  assert commands(capsys) == [
      f"infer {trusted} --prompt='your text'", f'eval {trusted} --gin.EvalConfig.split=test', plot]
  next_steps.show(experiment(folder))
  assert commands(capsys) == [f"infer {config} --prompt='your text'", plot]
  next_steps.show(experiment(folder, family='encoder_only'))
  assert commands(capsys) == [plot]   # a byte has no mask
  next_steps.show(experiment(folder, num_classes=2, num_texts=2))
  assert not any('--prompt' in command for command in commands(capsys))   # which is one text


@pytest.mark.parametrize('logged', [False, True])
def test_the_picture_is_drawn_where_a_loss_is_logged(tmp_path, capsys, logged):
  if logged:
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "kind": "train", "loss": 2.0}\n')
  next_steps.show(experiment(tmp_path))
  assert ('loss.png' in capsys.readouterr().out) == logged == (tmp_path / 'loss.png').exists()

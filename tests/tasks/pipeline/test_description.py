"""`data describe` beside counts by hand."""

import dataclasses
import json
import re

import pytest

from t5x_lite import cli
from t5x_lite.experiment import gin_config
from tasks.files import FileTask
from tasks.pipeline import description
from tasks.pipeline.mixtures import Mixture


@pytest.fixture
def experiment(tmp_path):
  """A decoder on two files of bytes at length 16: 30 lines of 7 letters, 10 of 20."""
  (tmp_path / 'short.txt').write_text('abcdefg\n' * 30)
  (tmp_path / 'long.txt').write_text('0123456789abcdefghij\n' * 10)
  tasks = tuple(FileTask(train=str(tmp_path / f'{n}.txt'), name=n) for n in ('short', 'long'))
  experiment = gin_config.load_described(['experiments/tiny_lm.gin'])
  data = dataclasses.replace(experiment.data, task=Mixture(tasks=tasks, rates=(3, 1)),
                             targets_length=16, batch_size=4)
  train = dataclasses.replace(experiment.train, steps=100)
  return dataclasses.replace(experiment, data=data, train=train)


def test_every_column_is_what_a_person_would_count(experiment):
  short, long = description.describe(experiment)
  assert (short.name, long.name) == ('short_lm', 'long_lm')
  assert (short.share, long.share) == (0.75, 0.25)
  # With its end, a short line is one example of 8 ids, a long one two, of 16 and of 5.
  assert short.mean_length == {'targets': 8} and long.mean_length == {'targets': 10.5}
  assert long.p95_length == {'targets': 16}
  tokens = 0.75 * 8 + 0.25 * 10.5
  assert short.token_share == pytest.approx(6 / tokens)
  assert (short.examples, short.tokens, long.tokens) == (30, 240, 210)
  assert short.truncated == long.truncated == 0
  # Two short ones fill a row; of the long ones' 10 rows of 16 and 10 of 5, three to a row.
  assert short.filled == 1 and long.filled == pytest.approx(210 / (16 * 14))
  filled = 1 / (short.token_share / 1 + long.token_share / long.filled)
  assert short.epochs == pytest.approx(100 * 4 * 16 * filled * short.token_share / 240)


def test_the_table_warns_of_repetition_and_shows_examples(experiment):
  members = description.describe(experiment)
  plain = description.as_text(members, colour=False)
  assert re.search(r'short_lm +75.00% +69.57% +30 +240 +\d+\.\d\d', plain)
  assert 'warning: short_lm is seen' in plain and '\033' not in plain
  assert '\n⟦abcdefg</s>⟧' in plain
  assert '\033[32mabcdefg</s>\033[0m' in description.as_text(members, colour=True)


def test_what_is_no_loss_is_grey(tmp_path):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'q': 'ask', 'text': 'say'}) + '\n')
  task = FileTask(train=str(tmp_path / 'a.jsonl'), objective='text_to_text', inputs='q')
  for family, shown in (('tiny_lm', '\033[90mask</s>\033[0m\n\033[32msay</s>\033[0m'),
                        ('tiny_span_corruption', '\033[90mask</s>\033[0m\n\033[32msay</s>\033[0m')):
    experiment = gin_config.load_described([f'experiments/{family}.gin'])
    data = dataclasses.replace(experiment.data, task=task, inputs_length=8, targets_length=8)
    (member,) = description.describe(dataclasses.replace(experiment, data=data))
    assert member.rendered == (shown,)


def test_masked_tokens_are_shown_with_their_place(tmp_path):
  (tmp_path / 'a.txt').write_text('abcdefghij\n')
  experiment = gin_config.load_described(['experiments/tiny_mlm.gin'])
  data = dataclasses.replace(
      experiment.data, task=FileTask(train=str(tmp_path / 'a.txt'), objective='mlm'),
      inputs_length=16, targets_length=16)
  (member,) = description.describe(dataclasses.replace(experiment, data=data))
  (shown,) = member.rendered
  context, guess = shown.split('\n')
  assert context.startswith('\033[90m<382>') and context.endswith('</s>\033[0m')
  assert 2 <= len(re.findall(r'\033\[32m[a-j]+\033\[0m', guess)) or re.search('[a-j]{2}', guess)


def test_the_command_prints_json(experiment, tmp_path, capsys):
  bindings = [f"--gin.FileTask.train='{tmp_path}/short.txt'", '--gin.TASK=@files.FileTask()']
  gin = tmp_path / 'x.gin'
  gin.write_text('from __gin__ import dynamic_registration\nfrom tasks import files\n'
                 "include 'experiments/tiny_lm.gin'\n")
  assert cli.main(['data', 'describe', f'--gin_file={gin}', *bindings, '--json']) == 0
  (member,) = json.loads(capsys.readouterr().out)
  assert member['name'] == 'files_lm' and member['examples'] == 30

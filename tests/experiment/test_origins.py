"""Errors of a user's data and mixtures name the gin file and line, also when found later."""

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config

HEAD = """from __gin__ import dynamic_registration
from tasks import files
from tasks.pipeline import mixtures
include 'experiments/tiny_lm.gin'
"""


def load(tmp_path, body):
  """The experiment of a file whose line 5 is the first of `body`."""
  path = tmp_path / 'mine.gin'
  path.write_text(HEAD + body)
  return gin_config.load_experiment([str(path)], [f"MODEL_DIR='{tmp_path / 'run'}'"])[0]


@pytest.mark.parametrize('body, message', [
    ("files.FileTask.train = 'a'\nTASK = @files.FileTask()\nfiles.FileTask.objective = 'lmm'\n",
     r"FileTask.objective = 'lmm': did you mean 'lm'\? \(\S*mine.gin:7\)"),
    ("TASK = @mixtures.Mixture()\nmixtures.Mixture.tasks = ('a',)\n"
     'mixtures.Mixture.rates = (1, 2)\n',
     r'Mixture.rates = .*: expected 1 numbers.* \(\S*mine.gin:7\)'),
    # Of two tasks, the one that is wrong.
    ("a/files.FileTask.train = 'a'\na/files.FileTask.name = '1'\nb/files.FileTask.train = 'b'\n"
     "b/files.FileTask.name = 'b'\nmixtures.Mixture.tasks = (@a/files.FileTask(), "
     "@b/files.FileTask())\nTASK = @mixtures.Mixture()\n",
     r"FileTask.name = '1': must be letters.* \(\S*mine.gin:6\)"),
])
def test_a_wrong_field_is_named_with_its_line(body, message, tmp_path):
  with pytest.raises(UserError, match=f'^{message}$'):
    load(tmp_path, body)


def test_what_is_found_when_data_is_read_is_named_with_its_line_too(tmp_path):
  experiment = load(tmp_path, "TASK = @files.FileTask()\nfiles.FileTask.train = '/no/such/*.txt'\n")
  with pytest.raises(UserError, match=r'^FileTask.train \(\S*mine.gin:6\): no file matches'):
    experiment.data.task.register()
  (tmp_path / 'a.txt').write_text('one\ntwo\n')
  experiment = load(tmp_path, 'TASK = @files.FileTask()\n'
                    f"files.FileTask.train = '{tmp_path}/a.txt'\n"
                    'files.FileTask.validation = 0.0001\n')
  with pytest.raises(UserError, match=r'FileTask.validation = 0.0001: .* \(\S*mine.gin:7\)$'):
    experiment.data.task.register()


def test_the_command_line_is_a_place_too(tmp_path, capsys):
  argv = ['describe', '--gin_file=experiments/tiny_lm.gin', '--gin.AdamW.beta1=2']
  assert cli.main(argv) == 1
  assert capsys.readouterr().err == (
      'error: AdamW.beta1 = 2: must be at least 0 and below 1 (the command line)\n')


@pytest.mark.parametrize('line, message', [
    ('import os', 'os is not part of this project'),
    ('import subprocess', 'subprocess is not part of this project'),
    ('import numpy.ctypeslib', 'numpy.ctypeslib is not part of this project'),
    ('import no_such_module', 'is not part of this project: pass --trusted_modules=no_such_module'),
    ('from t5x_lite import __main__', 'is not part of this project'),
    ('from t5x_lite import nothing', 'cannot import t5x_lite.nothing'),
])
def test_imports_of_a_gin_file(line, message, tmp_path):
  """Those of this project, whatever this process has imported already."""
  with pytest.raises(UserError, match=rf'mine.gin:5: .*{message}'):
    load(tmp_path, f'{line}\n')

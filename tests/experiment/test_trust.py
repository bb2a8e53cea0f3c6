"""What a gin file may import and call, and that the config of a run is compared as data."""

import os
import pathlib
import subprocess
import sys

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config

HEAD = """from __gin__ import dynamic_registration
from t5x_lite import experiment
include 'experiments/tiny_lm.gin'
"""
OWN = '''import dataclasses
import pathlib
import subprocess
from collections import namedtuple
from t5x_lite.training.loop import Hook

pathlib.Path(__file__).with_suffix('.imported').touch()

@dataclasses.dataclass(frozen=True, kw_only=True)
class Quiet(Hook):
  """Does nothing."""
  every: int = 1

  def __post_init__(self):
    pathlib.Path(__file__).with_suffix('.made').touch()

class NoDataclass(Hook):
  pass
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A working directory with a module `own_part` that tells when it is imported or used."""
  (tmp_path / 'own_part.py').write_text(OWN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  sys.modules.pop('own_part', None)


def load(text, *trusted, **options):
  pathlib.Path('mine.gin').write_text(HEAD + text)
  return gin_config.load_experiment(['mine.gin'], ['MODEL_DIR=run'], trusted, **options)


HOOK = ('import own_part\nexperiment.Experiment.hooks = (@own_part.Quiet(),)\n'
        'own_part.Quiet.every = 3\n')


def test_a_module_is_imported_only_if_it_is_trusted(folder, capsys):
  with pytest.raises(UserError, match=r'mine.gin:4: own_part is not part of this project: pass '
                     r'--trusted_modules=own_part to let gin import it'):
    load(HOOK)
  assert not list(folder.glob('own_part.*ed*')) and not (folder / 'own_part.made').exists()
  experiment, text = load(HOOK, 'own_part')
  assert experiment.hooks[0].every == 3
  pathlib.Path('config.gin').write_text(text)
  assert gin_config.load_experiment(['config.gin'], (), ['own_part'])[0] == experiment
  # What this process has imported is not trusted for that.
  with pytest.raises(UserError, match='own_part is not part of this project'):
    load(HOOK)


@pytest.mark.parametrize('text, message', [
    ('import subprocess\nexperiment.Experiment.data = @subprocess.getoutput()\n',
     'subprocess is not part of this project'),
    ('experiment.Experiment.data = @subprocess.getoutput()\n', 'is not imported'),
    ('from t5x_lite import cli\nexperiment.Experiment.data = @cli.main()\n', 'unknown name'),
    ('from t5x_lite.core import process\nprocess.os.system.command = "x"\n', 'cannot import'),
    ('from t5x_lite.core import process\nexperiment.Experiment.data = @process.set_up_process()\n',
     'unknown name'),
    ('from t5x_lite import __main__\n', 'is not part of this project'),
    ('import own_part\nexperiment.Experiment.hooks = (@own_part.subprocess.Popen(),)\n',
     'cannot import own_part.subprocess'),
    ('import own_part\nexperiment.Experiment.hooks = (@own_part.NoDataclass(),)\n',
     'own_part.NoDataclass is not a frozen dataclass'),
    ('import own_part\nexperiment.Experiment.hooks = (@own_part.namedtuple(),)\n', 'unknown name'),
    ('import own_part\nexperiment.Experiment.hooks = (@own_part.Quiet,)\n',
     'mine.gin:5: @own_part.Quiet is a class: write @own_part.Quiet()'),
])
def test_only_frozen_dataclasses_are_called(text, message, folder):
  with pytest.raises(UserError, match=message) as error:
    load(text, 'own_part')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('module', ['os', 'antigravity', 'own_part', 'tests.conftest'])
def test_a_task_module_is_imported_only_if_it_is_trusted(module, folder):
  text = f'from tasks.pipeline import seqio_data\nseqio_data.DataConfig.task_module = {module!r}\n'
  with pytest.raises(UserError, match=rf'DataConfig.task_module: {module} is not part of this '
                     r'project: pass --trusted_modules=\w+ .*\(mine.gin:5\)'):
    load(text)
  if module == 'own_part':
    assert load(text, 'own_part')[0].data.task_module == 'own_part'


@pytest.mark.parametrize('flag', ['own_pat', '', 'a..b', 'own_part,nothing_here', 'own_part.x'])
def test_a_trusted_module_that_is_none_is_refused(flag, folder, capsys):
  argv = ['describe', '--gin_file=experiments/tiny_lm.gin', f'--trusted_modules={flag}']
  assert cli.main(argv) == 1
  said = capsys.readouterr().err
  assert 'there is no module' in said and said.count('\n') == 1


def test_an_error_in_a_trusted_module_names_the_line_that_imports_it(folder):
  (folder / 'broken_part.py').write_text('import nothing_of_this_name\n')
  with pytest.raises(ModuleNotFoundError) as error:
    load('import broken_part\n', 'broken_part')
  assert error.value.__notes__ == ['imported by mine.gin:4']


def test_the_config_of_a_run_is_compared_without_running_its_code(folder):
  run = folder / 'run'
  run.mkdir()
  _, text = load(HOOK, 'own_part')
  (run / 'config.gin').write_text(text)
  for name in ('imported', 'made'):
    (folder / f'own_part.{name}').unlink()
  sys.modules.pop('own_part')
  plain, _ = load('')
  gin_config.check_same_run(run / 'config.gin', plain)   # hooks may change
  assert not list(folder.glob('own_part.imported')) and not list(folder.glob('own_part.made'))
  assert 'own_part' not in sys.modules


def test_a_part_of_ones_own_is_compared_field_by_field(folder):
  run = folder / 'run'
  run.mkdir()
  text = ('import own_part\nexperiment.Experiment.adaptation = @own_part.Frozen()\n'
          'own_part.Frozen.prefix = {!r}\n')
  (folder / 'own_part.py').write_text(OWN + '''
@dataclasses.dataclass(frozen=True)
class Frozen:
  prefix: str
  def adapt(self, network):
    return network
''')
  one, config = load(text.format('a'), 'own_part')
  (run / 'config.gin').write_text(config)
  gin_config.check_same_run(run / 'config.gin', one)
  other, _ = load(text.format('b'), 'own_part')
  with pytest.raises(UserError, match="adaptation.prefix: 'a' → 'b'"):
    gin_config.check_same_run(run / 'config.gin', other)
  plain, _ = load('')
  with pytest.raises(UserError, match=r'adaptation: own_part.Frozen → None'):
    gin_config.check_same_run(run / 'config.gin', plain)


def test_a_config_that_imports_what_is_not_there_is_compared_too(folder):
  run = folder / 'run'
  run.mkdir()
  experiment, text = load('')
  (run / 'config.gin').write_text(
      'import os\nimport gone_part\n' + text + 'experiment.Experiment.hooks = (@gone_part.X(), '
      '@os.system())\nos.system.command = "touch ran"\n')
  gin_config.check_same_run(run / 'config.gin', experiment)
  (run / 'config.gin').write_text('import os\n' + text + 'experiment.Experiment.data = '
                                  '@os.system()\nos.system.command = "touch ran"\n')
  with pytest.raises(UserError, match=r'another config \(data: os.system → DataConfig'):
    gin_config.check_same_run(run / 'config.gin', experiment)
  assert not (folder / 'ran').exists()


def test_a_folder_of_our_name_in_the_working_directory_is_not_ours(folder):
  (folder / 'tasks').mkdir()
  (folder / 'tasks/__init__.py').write_text('import pathlib\npathlib.Path("ran").touch()\n')
  root = str(pathlib.Path(cli.__file__).parents[1])
  code = (f'import sys; sys.path.append({root!r}); from t5x_lite import cli; '
          'cli.main(["describe", "--gin_file=experiments/tiny_lm.gin"])')
  done = subprocess.run([sys.executable, '-P', '-c', code], capture_output=True, text=True,
                        check=True)
  assert 'parameters' in done.stdout and not (folder / 'ran').exists()


@pytest.mark.parametrize('name', ['numpy', 'wandb'])
def test_files_of_the_working_directory_are_not_imported(name, tmp_path):
  """Whatever library they are named after, by any command that names no module of one's own."""
  (tmp_path / f'{name}.py').write_text('open("ran", "w")\n')
  root = str(pathlib.Path(cli.__file__).parents[1])
  done = subprocess.run(
      [sys.executable, '-m', 't5x_lite', 'describe', '--gin_file=models/tiny_decoder.gin'],
      cwd=tmp_path, capture_output=True, text=True, env=os.environ | {'PYTHONPATH': root})
  assert done.returncode == 0, done.stderr
  assert not (tmp_path / 'ran').exists()

"""What the README and the docs say can be done can be done.

The slow test runs every command of the README's ```sh blocks, in order, in one folder, with the
files that its other labelled blocks (```gin mydata.gin) show, and then its ```python blocks. Each
command is run as printed, in a fork of one process that has imported what they need
(fork_server.py), with the words of SMALL for its subcommand appended, so that it takes seconds, and
compiled without optimization, as everything here but
tests/commands/test_quickstart.py. Data sets and compiled programs lie in the folders of the tests.
"""

import dataclasses
import importlib
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config, gin_reader

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/architecture.md',
             'docs/adaptation.md', 'docs/export.md', 'docs/scaling.md', 'docs/seams.md',
             'docs/data.md', 'docs/instruction.md', 'docs/settings.md', 'docs/quantization.md',
             'docs/contamination.md', 'docs/dialogue.md', 'docs/evaluation.md',
             'docs/generation.md',
             'docs/objectives.md', 'docs/preferences.md', 'docs/rewards.md', 'docs/serving.md',
             'docs/statistics.md',
             'docs/troubleshooting.md', 'docs/trust.md', 'benchmarks/README.md']
SMALL = {
    'train': '--gin.STEPS=2 --gin.WARMUP_STEPS=1 --gin.BATCH_SIZE=8 --gin.ModelConfig.num_layers=1 '
             '--gin.EvalConfig.num_examples=4',
    'eval': '--gin.EvalConfig.num_examples=4',
    'infer': '--gin.InferConfig.num_examples=4 --gin.InferConfig.max_tokens=4',
    'describe': '',
    'data': '',
    'data cache': '--processes=1',
    'train-vocab': '--split=validation',
    'import': '',
    'export': '',
    'merge': '',
    'scaling': '',
}
NOT_RUN = {
    'git clone https://github.com/OWNER/t5x_lite && cd t5x_lite': 'needs a network',
    'make quickstart': 'installs and trains for minutes; see test_make_quickstart_is_a_command',
    '. .venv/bin/activate': 'is for a shell in which a person types',
}
OWN_FILES = {'config.gin', 'mydata.gin', 'plan.gin'}   # gin files that a reader or a run makes


def _blocks(text: str) -> list[tuple[str, str]]:
  """[(info string, content)] of the fenced blocks."""
  return re.findall(r'^```(\S[^\n]*)\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def _commands(text: str) -> list[str]:
  return [line for info, body in _blocks(text) if info == 'sh'
          for line in body.splitlines() if line and not line.startswith('#')]


def _read(name: str) -> str:
  return (ROOT / name).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def run(tmp_path_factory, stdlib_data_dir):
  """(shell command, folder) -> CompletedProcess, `t5x-lite` as this Python's, on one device."""
  folder = tmp_path_factory.mktemp('bin')
  env = os.environ | {'PATH': f'{folder}:{os.environ["PATH"]}', 'PYTHONPATH': str(ROOT),
                      'TFDS_DATA_DIR': stdlib_data_dir}
  env['XLA_FLAGS'] = re.sub(r'--xla_force_host_platform_device_count=\d+', '', env['XLA_FLAGS'])
  server = runpy.run_path(str(ROOT / 'tests/fork_server.py'))['ForkServer']
  with server(folder, env):
    yield lambda command, cwd: subprocess.run(
        ['sh', '-c', command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path, run):
  text = _read('README.md')
  for info, body in _blocks(text):
    _, _, name = info.partition(' ')
    if name:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).write_text(body, encoding='utf-8')
  for command in _commands(text):
    if command in NOT_RUN:
      continue
    subcommand = re.search(r'\bt5x-lite (data cache|\S+)', command)[1]
    small = '' if '--help' in command else f' {SMALL[subcommand]}'
    done = run(command + small, tmp_path)
    assert done.returncode == 0, f'$ {command}{small}\n{done.stdout}\n{done.stderr}'
    assert not re.search('oneDNN|cudart|absl::Init|normalizer.cc', done.stderr), done.stderr
  for body in (body for info, body in _blocks(text) if info == 'python'):
    done = run(f'{sys.executable} -c {shlex.quote(body)}', tmp_path)
    assert done.returncode == 0, f'{body}\n{done.stderr}'
  for run in ('lm', 'mlm', 'span', 'mine', 'operator', 'pieces', 'mesh', 'tuned'):
    assert (tmp_path / 'runs' / run / 'checkpoints/2').is_dir(), run
  assert len(list(tmp_path.glob('runs/*/inferences-*.jsonl'))) == 4


@pytest.mark.slow
def test_every_command_of_the_adaptation_page_runs(tmp_path, run):
  for command in _commands(_read('docs/adaptation.md')):
    small = SMALL[re.search(r'\bt5x-lite (\S+)', command)[1]]
    done = run(f'{command} {small}', tmp_path)
    assert done.returncode == 0, f'$ {command}\n{done.stdout}\n{done.stderr}'
  assert (tmp_path / 'runs/back/checkpoints/0').is_dir()


@pytest.mark.slow
def test_every_command_of_the_export_page_runs(tmp_path, run):
  pytest.importorskip('gguf', reason="pip install -e '.[gguf]'")
  text = _read('docs/export.md')
  for command in _commands(text):
    small = SMALL[re.search(r'\bt5x-lite (\S+)', command)[1]]
    done = run(f'{command} {small}', tmp_path)
    assert done.returncode == 0, f'$ {command}\n{done.stdout}\n{done.stderr}'
  (body,) = [body for info, body in _blocks(text) if info == 'python']
  done = run(f'{sys.executable} -c {shlex.quote(body)}', tmp_path / 'exports/lm-jax')
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_command_of_the_pages_on_preferences_and_rewards_runs(tmp_path, run):
  small = SMALL['train'].partition(' --gin.Eval')[0]
  first = 't5x-lite train --gin_file=experiments/tiny_lm.gin --gin.MODEL_DIR=runs/lm'
  pages = [_read(f'docs/{name}.md') for name in ('preferences', 'rewards')]
  for info, body in _blocks(pages[0]):
    if ' ' in info:
      (tmp_path / info.partition(' ')[2]).write_text(body)
  for command in [first, *_commands(pages[0]), *_commands(pages[1])]:
    size = f' {small}' if ' train ' in command else ''
    size = size.replace('=8', '=2') if 'reward.gin' in command or 'dpo.gin' in command else size
    done = run(command + size, tmp_path)
    assert done.returncode == 0, f'$ {command}{size}\n{done.stdout}\n{done.stderr}'
  assert (tmp_path / 'rated.jsonl').is_file()
  assert (tmp_path / 'rollouts.html').is_file()


@pytest.mark.slow
def test_every_command_of_the_page_on_dialogue_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for command in _commands(_read('docs/dialogue.md')):
    assert cli.main(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)
  assert {'dialogues.jsonl', 'more.jsonl', 'structure', 'simulated.jsonl'} <= {
      path.name for path in tmp_path.iterdir()}


def test_the_glossary_of_gin_is_gin(tmp_path):
  (body,) = [body for info, body in _blocks(_read('README.md')) if info == 'gin']
  path = tmp_path / 'glossary.gin'
  path.write_text(body)
  assert len(body.splitlines()) == 10
  with pytest.raises(UserError, match='SEED is required'):
    gin_config.load_experiment([str(path)], ['MODEL_DIR=run'])
  experiment, _ = gin_config.load_experiment([str(path)], ['MODEL_DIR=run', 'SEED=7'])
  assert (experiment.train.steps, experiment.train.checkpoint_every) == (1000, 1000)
  assert (experiment.seed, experiment.train.log_every) == (7, 50)
  (objective,) = experiment.objectives
  assert objective.z_loss == 1e-4


def test_the_experiments_of_the_page_on_preferences_are_gin(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for info, body in _blocks(_read('docs/preferences.md')):
    if ' ' in info:
      pathlib.Path(info.partition(' ')[2]).write_text(body)
  found = {}
  for name in ('reward', 'dpo', 'kto', 'orpo'):
    experiment, _ = gin_config.load_experiment([f'{name}.gin'], ['MODEL_DIR=run', 'INIT_FROM=lm'])
    (objective,) = experiment.objectives
    found[name] = type(objective).__name__, type(experiment.data).__name__
  assert found == {'reward': ('RewardModel', 'PreferenceData'),
                   'dpo': ('DirectPreference', 'WithReference'), 'kto': ('KTO', 'WithReference'),
                   'orpo': ('ORPO', 'PreferenceData')}


def test_make_quickstart_is_a_command():
  done = subprocess.run(['make', '-n', 'quickstart'], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '-m t5x_lite quickstart' in done.stdout


def test_commands_that_are_not_run_are_in_the_readme():
  assert set(NOT_RUN) <= set(_commands(_read('README.md')))


@pytest.mark.parametrize('name', DOCUMENTS)
def test_gin_files_exist(name):
  own = OWN_FILES | {info.partition(' ')[2] for info, _ in _blocks(_read(name))}
  for path in set(re.findall(r"[\w./-]*\w\.gin\b", _read(name))):
    if pathlib.PurePath(path).name not in own:
      known = [path, f'experiments/{path}', path.removeprefix('configs/')]
      assert any((gin_config.CONFIGS / p).is_file() for p in known), path


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links_and_paths_exist(name):
  text = _read(name)
  links = [(ROOT / name).parent / link for link in re.findall(r'\]\((?!https?:)([^)#]+)\)', text)]
  named = [ROOT / path for path in re.findall(
      r'`((?:t5x_lite|tasks|configs|scaling|colab|benchmarks|tests|docs)/[\w/.]*)`', text)]
  missing = [str(path) for path in links + named if not path.exists()]
  assert not missing


@pytest.mark.parametrize('name', DOCUMENTS)
def test_flags_and_commands_exist(name):
  text = _read(name)
  first = {command.split()[0] for command in cli.COMMANDS}
  for command in re.findall(r'\bt5x-lite ([a-z][a-z-]*)', text):
    assert command in first, command
  flag = r'(?<![\w-])--(?!gin\.)[a-z][\w-]+'
  names = [command.split() for command in cli.COMMANDS]
  known = {'--help', '--xla_force_host_platform_device_count',   # and those of other programs:
           '--apply_chat_template', '--durations', '--local-dir', '--logdir', '--long'}
  known |= {found for argv in names for found in re.findall(flag, _help(argv))}
  assert set(re.findall(flag, text)) <= known


@pytest.mark.parametrize('name', DOCUMENTS)
def test_settings_exist(name):
  macros = set(re.findall(r'^([A-Z_]+) = ', ''.join(
      path.read_text() for path in gin_config.CONFIGS.rglob('*.gin')), re.MULTILINE))
  text = _read(name)
  for binding in set(re.findall(r'--gin\.([\w.]+)=', text)) - {'NAME'}:
    assert '.' in binding or binding in macros, binding
  modules = (*gin_reader.MODULES, 'tasks.files', 'tasks.pipeline.mixtures',
             'tasks.pipeline.seqio_data', 'tasks.pipeline.evaluator')
  known = {name: cls for module in modules for name, cls in vars(
      importlib.import_module(module)).items()
           if dataclasses.is_dataclass(cls) and all(f.kw_only for f in dataclasses.fields(cls))}
  for owner, field in set(re.findall(rf'\b({"|".join(known)})\.(\w+)', text)):
    assert field in [f.name for f in dataclasses.fields(known[owner])] + ['register'], (
        f'{owner}.{field}')


def _help(command: list[str]) -> str:
  with pytest.MonkeyPatch.context() as patch:
    lines = []
    patch.setattr(sys.stdout, 'write', lines.append)
    with pytest.raises(SystemExit):
      cli.main([*command, '--help'])
  return ''.join(lines)

"""Mixtures from gin: what is drawn, beside what the rates say."""

import collections
import re

import pytest
import scipy.stats
import seqio

from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from tasks.files import FileTask
from tasks.pipeline import description, provider
from tasks.pipeline.mixtures import Mixture
from tasks.pipeline.seqio_data import DataConfig


@pytest.fixture
def tasks(tmp_path):
  """Three FileTasks of 10, 40 and 160 examples, each of a word of its own."""
  made = []
  for name, number in (('few', 10), ('some', 40), ('many', 160)):
    (tmp_path / f'{name}.txt').write_text(''.join(f'{name}\n' for _ in range(number)))
    made.append(FileTask(train=str(tmp_path / f'{name}.txt'), name=name))
  return tuple(made)


def drawn(name: str, number: int) -> dict[str, int]:
  """How many of so many examples are from each task."""
  dataset = seqio.get_mixture_or_task(name).get_dataset(
      {'targets': 8}, 'train', seed=3, num_epochs=None)
  rows = dataset.map(lambda ex: ex['targets'][0]).batch(1000).take(number // 1000)
  letters = {ord(x[0]) + 3: x for x in ('few', 'some', 'many')}
  return collections.Counter(letters[i] for batch in rows.as_numpy_iterator() for i in batch)


@pytest.mark.parametrize('options, want', [
    pytest.param(dict(rates='equal'), [1, 1, 1], marks=pytest.mark.slow),
    pytest.param(dict(), [10, 40, 160], marks=pytest.mark.slow),
    pytest.param(dict(cap=40), [10, 40, 40], marks=pytest.mark.slow),
    pytest.param(dict(temperature=2.0), [10 ** 0.5, 40 ** 0.5, 160 ** 0.5],
                 marks=pytest.mark.slow),
    pytest.param(dict(rates=(5.0, 0.5, 4.5)), [5, 0.5, 4.5], marks=pytest.mark.slow),
    (dict(rates=(1, 0, 3)), [1, 0, 3]),
])
@pytest.mark.sweep
def test_examples_are_drawn_by_their_rates(tasks, options, want):
  counts = drawn(Mixture(tasks=tasks, **options).register(), 2_000)
  got = [counts.get(task.name, 0) for task in tasks]
  expected = [2_000 * w / sum(want) for w in want]
  held = [(g, e) for g, e in zip(got, expected) if e]
  assert sum(got) == sum(g for g, _ in held)
  assert scipy.stats.chisquare(*zip(*held)).pvalue > 1e-3


def test_a_mixture_registers_once_and_its_name_follows_its_parts(tasks):
  name = Mixture(tasks=tasks).register()
  assert Mixture(tasks=tasks).register() == name != Mixture(tasks=tasks[:2]).register()
  assert Mixture(tasks=tasks, rates='equal').register() != name


@pytest.mark.parametrize('change, message', [
    (dict(tasks=()), r'Mixture.tasks = \(\): expected tasks in brackets'),
    (dict(tasks='lm'), "Mixture.tasks = 'lm': expected tasks in brackets"),
    (dict(tasks=(3,)), r'Mixture.tasks = \(3,\): 3 is neither the name of a task nor a FileTask'),
    (dict(rates='even'), "Mixture.rates = 'even': expected 'equal' or 'proportional' or a number"),
    (dict(rates=(1.0,)), r'Mixture.rates = \(1.0,\): expected 3 numbers'),
    (dict(rates=(1.0, -1.0, 2.0)), 'at least 0 and not all 0'),
    (dict(rates=(0, 0, 0)), 'at least 0 and not all 0'),
])
def test_wrong_fields(tasks, change, message):
  with pytest.raises(UserError, match=message):
    Mixture(**{'tasks': tasks, **change})


def test_parts_that_do_not_belong_together(tasks, tmp_path):
  with pytest.raises(UserError, match="no task or mixture 'nothing' is registered"):
    Mixture(tasks=('nothing',)).register()
  with pytest.raises(UserError, match='is listed twice: raise its rate'):
    Mixture(tasks=(tasks[0], tasks[0])).register()
  other = FileTask(train=str(tmp_path / 'few.txt'), objective='span_corruption')
  with pytest.raises(UserError, match='has the features inputs, targets.* choose one objective'):
    Mixture(tasks=(tasks[0], other)).register()


def test_a_mixture_of_files_from_gin(tasks, tmp_path):
  gin = tmp_path / 'mixed.gin'
  gin.write_text('''
from __gin__ import dynamic_registration
from tasks import files
from tasks.pipeline import mixtures
include 'experiments/tiny_lm.gin'
a/files.FileTask.train = 'TMP/few.txt'
a/files.FileTask.name = 'few'
b/files.FileTask.train = 'TMP/many.txt'
b/files.FileTask.name = 'many'
mixtures.Mixture:
  tasks = (@a/files.FileTask(), @b/files.FileTask())
  rates = (3, 1)
TASK = @mixtures.Mixture()
'''.replace('TMP', str(tmp_path)))
  experiment, _ = gin_config.load_experiment([str(gin)], ["MODEL_DIR='x'"])
  assert experiment.data.task == Mixture(tasks=(tasks[0], tasks[2]), rates=(3, 1))
  assert experiment.data.name == 'mixture'
  task = provider.get_task(experiment.data)
  assert [experiment.data.display_name(t.name) for t in task.tasks] == ['few_lm', 'many_lm']
  assert [task.get_rate(t) for t in task.tasks] == [3.0, 1.0]


def llama(folder, tokens: dict[str, int], *bindings: str):
  """LLaMA's experiment over files of lines of 100 tokens, so many tokens of each subset."""
  paths = []
  for name, number in tokens.items():
    (folder / f'{name}.txt').write_text(('x' * 99 + '\n') * (number // 100))
    paths.append(f"{name}='{folder / name}.txt'")
  return gin_config.load_described(['experiments/llama_mixture.gin'], [*paths, *bindings])


# Touvron et al. 2023, table 1: share, and times read in 1.4 trillion tokens.
LLAMA = {'COMMON_CRAWL': (67, 1.10), 'C4': (15, 1.06), 'GITHUB': (4.5, 0.64),
         'WIKIPEDIA': (4.5, 2.45), 'BOOKS': (4.5, 2.23), 'ARXIV': (2.5, 1.06),
         'STACK_EXCHANGE': (2, 1.03)}


def test_llamas_mixture_has_its_published_shares(tmp_path):
  experiment = llama(tmp_path, dict.fromkeys(LLAMA, 200))
  task = provider.get_task(experiment.data)
  got = {experiment.data.display_name(t.name): task.get_rate(t) for t in task.tasks}
  assert got == {f'{name.lower()}_lm': share for name, (share, _) in LLAMA.items()}
  assert all(re.fullmatch(r'\w+', t.name) for t in task.tasks)


@pytest.mark.slow
def test_llamas_mixture_implies_the_published_epochs(tmp_path):
  """A ten-millionth of LLaMA's data and of its budget, then six times that budget."""
  tokens = {name: round(1.4e5 * share / 100 / epochs) for name, (share, epochs) in LLAMA.items()}
  shape = ('TARGETS_LENGTH=100', 'BATCH_SIZE=7')
  members = description.describe(llama(tmp_path, tokens, *shape, 'STEPS=200', 'WARMUP_STEPS=100'))
  assert {m.name: m.epochs for m in members} == pytest.approx(
      {f'{name.lower()}_lm': epochs for name, (_, epochs) in LLAMA.items()}, rel=0.03)
  assert 'warning' not in description.as_text(members, colour=False)
  members = description.describe(llama(tmp_path, tokens, *shape, 'STEPS=1200', 'WARMUP_STEPS=100'))
  text = description.as_text(members, colour=False)
  warned = dict(re.findall(r'warning: (\w+)_lm is seen ([\d.]+) times', text))
  assert {name: float(times) for name, times in warned.items()} == pytest.approx(
      {name.lower(): 6 * epochs for name, (_, epochs) in LLAMA.items() if 6 * epochs > 4}, rel=0.03)


def test_the_digest_of_a_mixture_follows_the_files_of_its_parts(tmp_path):
  path, more = tmp_path / 'a.txt', tmp_path / 'b.txt'
  path.write_text('one\n')
  more.write_text('two\n')
  parts = (FileTask(train=str(path), name='a'), FileTask(train=str(more), name='b'))
  data = lambda tasks: DataConfig(task=Mixture(tasks=tasks), targets_length=8, batch_size=1)
  digest = data(parts).data_digest()
  assert digest == data(parts).data_digest()
  assert data((*parts, 'stdlib_lm')).data_digest() != digest
  assert data(('stdlib_lm',)).data_digest() is None
  more.write_text('too\n')
  assert data(parts).data_digest() != digest

"""The shares that `data describe` prints, beside examples drawn from the same mixture."""

import collections
import dataclasses
import importlib.util
import pathlib

import numpy as np
import pytest
import scipy.stats
import seqio

from t5x_lite.experiment import gin_config
from tasks.datasets.prepared import PreparedSource
from tasks.pipeline import description, provider

# Training examples, as TFDS has them.
SIZES = {'squad/v1.1:3.0.0': 87_599, 'cnn_dailymail:3.4.0': 287_113,
         'wmt_t2t_translate/de-en:1.0.0': 4_592_289, 'wmt15_translate/fr-en:1.0.0': 40_853_298,
         'wmt16_translate/ro-en:1.0.0': 610_320}


def drawn(experiment, begin: int, draws: int) -> collections.Counter:
  """How many of so many examples begin with the same `begin` bytes."""
  data = experiment.data
  dataset = provider.get_task(data).get_dataset(
      provider.feature_lengths(provider.get_task(data), data), data.split, seed=7,
      num_epochs=None)
  feature = 'inputs' if 'inputs' in data.lengths else 'targets'
  starts = dataset.map(lambda ex: ex[feature][:begin]).padded_batch(500, begin).take(draws // 500)
  rows = np.concatenate(list(starts.as_numpy_iterator()))
  found, counts = np.unique(rows, axis=0, return_counts=True)
  text = seqio.ByteVocabulary(extra_ids=125)
  return collections.Counter(
      dict(zip([text.decode([int(i) for i in row if i > 2]) for row in found], counts.tolist())))


def accepts(shares: dict[str, float], counts: dict[str, int]) -> None:
  names, draws = sorted(shares), sum(counts.values())
  assert sorted(counts) == names
  expected = [draws * shares[name] for name in names]
  assert sum(expected) == pytest.approx(draws)
  assert scipy.stats.chisquare([counts[n] for n in names], expected).pvalue > 1e-3
  # The test can tell: it refuses a share that is a tenth off.
  expected[np.argmax(expected)] *= 0.9
  wrong = [e * draws / sum(expected) for e in expected]
  assert scipy.stats.chisquare([counts[n] for n in names], wrong).pvalue < 1e-3


@pytest.mark.slow
@pytest.mark.sweep
def test_llamas_mixture(tmp_path):
  names = ['COMMON_CRAWL', 'C4', 'GITHUB', 'WIKIPEDIA', 'BOOKS', 'ARXIV', 'STACK_EXCHANGE']
  for i, name in enumerate(names):
    (tmp_path / f'{name}.txt').write_text(f'{name.lower()[:3]}\n' * (5 + i))
  experiment = gin_config.load_described(
      ['experiments/llama_mixture.gin'], [f"{n}='{tmp_path / n}.txt'" for n in names])
  members = description.describe(experiment)
  assert {m.name: round(m.share, 4) for m in members} == {
      'common_crawl_lm': .67, 'c4_lm': .15, 'github_lm': .045, 'wikipedia_lm': .045,
      'books_lm': .045, 'arxiv_lm': .025, 'stack_exchange_lm': .02}
  # No chunking: each line is one example.
  accepts({m.name[:3].replace('c4_', 'c4'): m.share for m in members}, drawn(experiment, 3, 20_000))


@pytest.mark.slow
@pytest.mark.sweep
def test_the_mixture_of_t5s_supervised_tasks(monkeypatch):
  from tasks.datasets import glue, super_glue, t5

  path = pathlib.Path(__file__).parents[1] / 'data/make_t5_supervised.py'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  maker = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(maker)
  name_of = {t.source: t.name for t in (*glue.TASKS, *super_glue.TASKS, *t5.TASKS)
             if not t.name.startswith('glue_mnli_')}

  def made(self, split, shuffle=True, seed=None, shard_info=None, **unused):
    return maker.dataset(maker.rows(name_of[self.tfds_dataset.name]))

  # Texts are made of each row once: a draw then costs a fifth of what it would.
  text_of = seqio.Task.preprocess_precache
  monkeypatch.setattr(seqio.Task, 'preprocess_precache',
                      lambda self, dataset, seed=None: text_of(self, dataset, seed).cache())
  monkeypatch.setattr(PreparedSource, 'get_dataset', made)
  monkeypatch.setattr(PreparedSource, 'num_input_examples',
                      lambda self, split: SIZES.get(self.tfds_dataset.name, 24))
  experiment = gin_config.load_described(['experiments/tiny_span_corruption.gin'])
  data = dataclasses.replace(experiment.data, task='t5_supervised', task_module='tasks.datasets.t5',
                             inputs_length=64, targets_length=16)
  members = description.describe(dataclasses.replace(experiment, data=data))
  assert len(members) == 20, 'all but the mismatched validation split of MNLI'

  # How the inputs of each task begin; 25 letters tell all of them from one another.
  begin = lambda text: text[:25].split(':')[0]
  begins = {}
  for member in members:
    task = seqio.TaskRegistry.get(member.name)
    rows = task.preprocess_precache(made(task.source, 'train')).as_numpy_iterator()
    begins |= dict.fromkeys((begin(row['inputs_pretokenized'].decode()) for row in rows),
                            member.name)
  counts = collections.Counter()
  for text, number in drawn(dataclasses.replace(experiment, data=data), 25, 40_000).items():
    counts[begins[begin(text)]] += number
  accepts({m.name: m.share for m in members}, counts)

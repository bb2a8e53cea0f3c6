"""Tokenised data on disk, in the layout of seqio's own caches.

A cache is a folder for each task: the files `<split>.tfrecord-…`, `info.<split>.json`,
`stats.<split>.json` with what was counted, `provenance.json`, and `COMPLETED`, written last.
Examples are in the order in which the task's source shuffles them.
"""

from collections.abc import Iterator
import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import os
from typing import Any

from etils import epath  # local folders and gs:// alike
import seqio
import tensorflow as tf

from t5x_lite.core.errors import UserError
from tasks import vocabularies
from tasks.pipeline import one_line
from tasks.pipeline.provider import get_task
from tasks.pipeline.worker import set_up_worker

SHARDS = 16   # files of a split, or more if more processes write them
_SEED = 0     # of the order, which all shards share
_PROVENANCE = 'provenance.json'
_DTYPES = (tf.int32, tf.int64, tf.float32, tf.bool, tf.string)   # those that seqio reads back


def write_cache(data: Any, processes: int) -> Iterator[tuple[str, dict[str, int]]]:
  """Writes the split `data.split` of every task of `data` that is not in `data.cache_dir` yet.

  Args:
    data: as of a training run.
    processes: how many tokenise side by side.

  Yields:
    (task, counts), the counts as seqio has them: `examples`, and for each feature
    `<feature>_tokens` and `<feature>_max_tokens`.

  Raises:
    UserError: as provider.get_task; no cache_dir; or a task that cannot be tokenised ahead.
  """
  if data.cache_dir is None:
    raise UserError('DataConfig.cache_dir is not set: pass '
                    '--gin.DataConfig.cache_dir=FOLDER')
  tasks = [t for t in seqio.get_subtasks(get_task(data)) if data.split in t.splits]
  for task in tasks:
    _check_supported(task)
  finished = [task for task in tasks if (_folder(data, task) / 'COMPLETED').exists()]
  for task in finished:
    _check(task, data)
  shards = max(SHARDS, processes)
  context = multiprocessing.get_context('spawn')   # TensorFlow does not survive a fork
  pool = concurrent.futures.ProcessPoolExecutor(
      processes, context, initializer=set_up_worker, initargs=(data,))
  try:
    jobs = {}
    for task in tasks:
      if task not in finished:
        folder = _folder(data, task)
        if folder.exists():   # of an interrupted run
          folder.rmtree()
        folder.mkdir(parents=True)
        jobs[task] = [pool.submit(_write_shard, task.name, data.split, (i, shards), str(folder))
                      for i in range(shards)]
    for task, parts in jobs.items():
      counts = _sum([part.result() for part in parts])
      folder = _folder(data, task)
      (folder / f'stats.{data.split}.json').write_text(json.dumps(counts))
      (folder / _PROVENANCE).write_text(json.dumps(_provenance(task, data.split)))
      (folder / 'COMPLETED').touch()
      yield data.display_name(task.name), counts
  except concurrent.futures.process.BrokenProcessPool as error:
    raise UserError('a process that tokenises was killed, for memory perhaps: give fewer of them, '
                    f'as --processes={max(processes // 2, 1)}') from error
  except BaseException:   # shards that are being written need not be finished
    for process in multiprocessing.active_children():
      process.terminate()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


def use_cache(task: seqio.Task | seqio.Mixture, data: Any) -> None:
  """Has seqio read the tasks of `data` from its cache, if it has one.

  Raises:
    UserError: a task is not there, or was made with another vocabulary or of other data.
  """
  if data.cache_dir is None:
    return
  parts = [part for part in seqio.get_subtasks(task) if data.split in part.splits]
  for part in parts:
    _check_supported(part)
    _check(part, data)
    part._cache_dir, part._stats = None, {}   # seqio keeps those of a folder that it once read
  seqio.set_global_cache_dirs([os.path.expanduser(data.cache_dir)])


def cached_counts(task: seqio.Task, data: Any) -> dict[str, int] | None:
  """What the cache counts of the split that `data` trains on; None without a cache."""
  if data.cache_dir is None:
    return None
  return json.loads((_folder(data, task) / f'stats.{data.split}.json').read_text())


def content_digest(task: seqio.Task | seqio.Mixture, data: Any) -> str:
  """Identifies what the cache of a task holds: its provenance, its counts, its files and sizes.

  Raises:
    UserError: as use_cache.
  """
  use_cache(task, data)
  digest = hashlib.sha256()
  for part in seqio.get_subtasks(task):
    if data.split in part.splits:
      folder = _folder(data, part)
      sizes = sorted((path.name, path.stat().length)
                     for path in folder.glob(f'{data.split}.tfrecord-*'))
      texts = [(folder / name).read_text() for name in (_PROVENANCE, f'stats.{data.split}.json')]
      digest.update(repr((part.name, sizes, texts)).encode())
  return digest.hexdigest()[:24]


def total_tokens(counts: dict[str, int]) -> int:
  """The tokens of all features together."""
  return sum(n for key, n in counts.items()
             if key.endswith('_tokens') and not key.endswith('_max_tokens'))


def _folder(data: Any, task: seqio.Task) -> epath.Path:
  return (epath.Path(data.cache_dir).expanduser()
          / seqio.utils.get_task_dir_from_name(task.name))


def _check_supported(task: seqio.Task) -> None:
  if not task.supports_caching:
    raise UserError(f'task {task.name} has no seqio.CacheDatasetPlaceholder among its '
                    'preprocessors: leave DataConfig.cache_dir out')


def _check(task: seqio.Task, data: Any) -> None:
  folder = _folder(data, task)
  if not (folder / f'stats.{data.split}.json').exists() or not (folder / 'COMPLETED').exists():
    raise UserError(f'{folder} is not a finished cache of the {data.split} split of task '
                    f'{task.name}: write it with t5x-lite data cache, with the gin files and '
                    'settings of the run and a cache_dir for each split, or set '
                    'DataConfig.cache_dir to None')
  written, present = json.loads((folder / _PROVENANCE).read_text()), _provenance(task, data.split)
  for what, value in present.items():
    old = written.get(what, {} if what == 'pad_aliases' else None)
    if old != value:
      raise UserError(f'{folder} was written with {what} {old}, and the run has {value}: '
                      'use the same, or another DataConfig.cache_dir')


def _provenance(task: seqio.Task, split: str) -> dict[str, Any]:
  """What a cache depends on, as JSON has it."""
  before = task.preprocessors[:task._cache_step_idx]
  return {
      'vocabularies': {name: vocabularies.fingerprint(feature.vocabulary)
                       for name, feature in task.output_features.items()},
      # Which id stands in the files for the tokenizer's 0, where that is no padding.
      'pad_aliases': {name: alias for name, feature in task.output_features.items()
                      if (alias := getattr(feature.vocabulary, 'pad_alias', None)) is not None},
      'preprocessors': [_step_name(step) for step in before],
      'examples': task.num_input_examples(split),
  }


def _step_name(step: Any) -> str:
  """A preprocessor and its settings; of functions and the like among these, the names."""
  if isinstance(step, functools.partial):
    settings = ', '.join(f'{k}={_step_name(v)}' for k, v in sorted(step.keywords.items()))
    return f'{_step_name(step.func)}({settings})'
  if isinstance(step, list | tuple):
    return f'[{", ".join(map(_step_name, step))}]'
  if step is None or isinstance(step, str | int | float | dict):
    return repr(step)
  return getattr(step, '__name__', type(step).__name__)


@one_line.user_errors()
def _write_shard(name: str, split: str, shard: tuple[int, int], folder: str) -> dict[str, int]:
  """Writes shard (index, of how many); returns what it counts."""
  task = seqio.TaskRegistry.get(name)
  index, shards = shard
  read = functools.partial(task.source.get_dataset, split, shuffle=True, seed=_SEED)
  if task.source.supports_arbitrary_sharding or len(task.source.list_shards(split)) >= shards:
    ds = read(shard_info=seqio.ShardInfo(index=index, num_shards=shards))
  else:
    ds = read().shard(shards, index)
  ds = task.preprocess_precache(ds, seed=_SEED)
  _check_examples(ds, name)
  found = {'examples': 0}
  path = epath.Path(folder) / f'{split}.tfrecord-{index:05d}-of-{shards:05d}'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for example in ds:
      writer.write(seqio.utils.dict_to_tfexample(example).SerializeToString())
      found['examples'] += 1
      for feature in task.output_features:
        if feature in example and example[feature].dtype.is_integer:
          tokens = int(tf.size(example[feature]))
          total, longest = f'{feature}_tokens', f'{feature}_max_tokens'
          found[total] = found.get(total, 0) + tokens
          found[longest] = max(found.get(longest, 0), tokens)
  if index == 0:
    features = {key: {'shape': spec.shape.as_list(), 'dtype': spec.dtype.name}
                for key, spec in ds.element_spec.items()}
    (path.parent / f'info.{split}.json').write_text(json.dumps({
        'num_shards': shards, 'features': features, 'seqio_version': seqio.__version__}))
  return found


def _check_examples(ds: tf.data.Dataset, name: str) -> None:
  """Raises UserError for data without end, and for features that seqio cannot read back."""
  if ds.cardinality() == tf.data.INFINITE_CARDINALITY:
    raise UserError(f'task {name} has no end: leave DataConfig.cache_dir out')
  for key, spec in ds.element_spec.items():
    if spec.dtype not in _DTYPES or spec.shape.rank is None:
      raise UserError(f'task {name}: the feature {key!r} ({spec.dtype.name}, shape {spec.shape}) '
                      'cannot be cached: cast it in a preprocessor, or leave it out')


def _sum(shards: list[dict[str, int]]) -> dict[str, int]:
  """The counts of all shards: sums, and the largest of the longest."""
  keys = dict.fromkeys(key for shard in shards for key in shard)
  combine = lambda key: max if key.endswith('_max_tokens') else sum
  return {key: combine(key)([shard.get(key, 0) for shard in shards]) for key in keys}

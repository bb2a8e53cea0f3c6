"""Eight virtual devices, a tiny model of each kind, random packed batches, compiled functions.

The compiled functions are cached for the whole session by their config: compiling is what these
tests cost.
"""

import atexit
import dataclasses
import functools
import gc
from importlib.metadata import version
import math
import os
import shutil
import sys
import tempfile
import time
import zlib

# Before anything imports jax. LLVM without optimization compiles these tests in a quarter of the
# time, without the fusion emitters, which later releases cannot do without, in half of that, and a
# program in one piece, as a worker has one core, in an eighth less. Eight devices share what cores
# there are: XLA ends a process in which one comes to a collective 40 s after another, which a busy
# machine has done. Flags set outside come after these and win.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = ' '.join([
    '--xla_backend_optimization_level=0',
    '--xla_cpu_parallel_codegen_split_count=1',
    *['--xla_cpu_use_fusion_emitters=false'] * version('jaxlib').startswith('0.10.'),
    '--xla_cpu_collective_call_terminate_timeout_seconds=300',
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8'])

# Several tests compile the same tiny run or read Python's library as a data set, some in processes
# of their own. The workers of pytest-xdist inherit the folders, .ci/run sets them for all it runs.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='t5x_lite_test_')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
if 'T5X_LITE_TEST_STDLIB' not in os.environ:
  os.environ['T5X_LITE_TEST_STDLIB'] = tempfile.mkdtemp(prefix='t5x_lite_test_')
  atexit.register(shutil.rmtree, os.environ['T5X_LITE_TEST_STDLIB'], ignore_errors=True)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.models import ModelConfig
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.next_sentence import NextSentenceLoss
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.training.step import loss_and_gradients

# Tracing makes objects by the million, which a collection after each 700 looks through too often.
gc.set_threshold(10_000, 10, 10)

# Arrays of unlike ranks are an error: a shape that fits by chance hides mistakes.
jax.config.update('jax_numpy_rank_promotion', 'raise')

LENGTH = 16
OBJECTIVES = CrossEntropy(), RouterLoss(), NextSentenceLoss()   # of every run
VOCAB = 64
_SIZES = dict(vocab_size=VOCAB, embed_dim=32, num_layers=2, num_heads=4, mlp_dim=64)
# init_std is ten times the usual one, so that what attention reads shows in the loss.
CONFIGS = {
    'decoder': ModelConfig(family='decoder_only', num_kv_heads=2, init_std=0.2, **_SIZES),
    'prefix_lm': ModelConfig(family='decoder_only', num_kv_heads=2, init_std=0.2, prefix_lm=True,
                             **_SIZES),
    'gpt': ModelConfig(family='decoder_only', norm='layer_norm', activation='gelu',
                       gated_mlp=False, bias=True, position_embedding='learned', max_length=LENGTH,
                       init_std=0.2, **_SIZES),
    'encoder_decoder': ModelConfig(family='encoder_decoder', activation='gelu',
                                   position_embedding='relative', relative_buckets=8,
                                   relative_max_distance=16, attention_scale=1.0,
                                   tied_embeddings=False, init_std=None, **_SIZES),
    'encoder': ModelConfig(family='encoder_only', norm='layer_norm', norm_epsilon=1e-12,
                           norm_placement='post', embedding_norm=True, activation='gelu_exact',
                           gated_mlp=False, bias=True, position_embedding='learned',
                           max_length=LENGTH, init_std=0.2, **_SIZES),
}


# The files whose tests take longest, which begin first; the others follow as they are found. The
# slow tests of test_readme.py and test_shares.py are half of all.
LONGEST = ('tests/test_readme.py', 'tests/tasks/pipeline/test_shares.py',
           'tests/commands/test_quickstart.py', 'tests/commands/test_train.py',
           'tests/colab/test_quickstart.py', 'tests/colab/test_adapt.py',
           'tests/colab/test_scaling.py',
           'tests/models/test_variants.py', 'tests/training/test_step.py',
           'tests/interop/test_huggingface.py')


# Slow tests that would begin after this (seconds since 1970) are left out and counted, so that the
# gate ends in time on slow machines, too; each time these are others.
UNTIL = float(os.environ.get('T5X_LITE_TEST_UNTIL', 'inf'))


@pytest.hookimpl(tryfirst=True)   # before they are chosen by their marks
def pytest_collection_modifyitems(items):
  """Orders files, and adds to the sweeps the slow values of tests whose first values are fast."""
  place = {name: i for i, name in enumerate(LONGEST)}

  def order(item):
    name = item.nodeid.split('::')[0]
    drawn = 0 if math.isinf(UNTIL) else zlib.crc32(f'{UNTIL} {name}'.encode())
    return place.get(name, len(LONGEST)), drawn

  items.sort(key=order)
  for item in items:
    if any(mark.name == 'slow' for mark in getattr(getattr(item, 'callspec', None), 'marks', ())):
      item.add_marker('sweep')


@pytest.hookimpl(tryfirst=True)   # before the fixtures
def pytest_runtest_setup(item):
  if time.time() > UNTIL and item.get_closest_marker('slow'):
    pytest.skip('left out, as the time is up: make test-slow')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
  """In scaling/fitting/solver.py alone arrays of unlike ranks may still meet.

  What a file leaves, such as programs that others share, the garbage collector is not to look
  through again and again: that took a tenth of the time of all.
  """
  ranks = 'allow' if item.nodeid.startswith('tests/scaling/') else 'raise'
  jax.config.update('jax_numpy_rank_promotion', ranks)   # of all threads: the solver has its own
  result = yield
  if nextitem is None or nextitem.path != item.path:
    gc.collect()
    gc.freeze()
  return result


@pytest.fixture(scope='session')
def configs() -> dict[str, ModelConfig]:
  """A tiny config of each kind: `decoder` (LLaMA), `prefix_lm`, `gpt`, `encoder_decoder` (T5),
  `encoder` (BERT); embed 32, 2 layers, 4 heads of 8, vocabulary 64, at most 16 tokens."""
  return CONFIGS


def random_examples(config: ModelConfig, lengths, seed: int = 0) -> list[dict[str, np.ndarray]]:
  """One unpadded example for each length: features as the model reads them, none for packing."""
  rng = np.random.default_rng(seed)
  ids = lambda n: rng.integers(2, config.vocab_size, n)
  # Weights other than 0 and 1, and rows of very unequal weight: a mean of means would differ.
  weights = lambda n: rng.choice([0.0, 0.5, 1.0, 2.0], n)
  examples = []
  for n in lengths:
    side = config.target_side
    example = {f'{side}_input_tokens': ids(n), f'{side}_target_tokens': ids(n),
               f'{side}_loss_weights': weights(n)}
    if config.family == 'encoder_decoder':
      example['encoder_input_tokens'] = ids(n // 2 + 1)
    if config.prefix_lm:
      example['decoder_causal_attention'] = (np.arange(n) < n // 2).astype(int)
    examples.append(example)
  return examples


def pack_rows(rows, length: int = LENGTH, num_rows: int | None = None) -> dict[str, np.ndarray]:
  """A batch of lists of examples, one list a row; rows beyond them hold padding alone."""
  num_rows = num_rows or len(rows)
  batch = {}
  for name in rows[0][0]:
    side = name.split('_')[0]
    dtype = np.float32 if name.endswith('weights') else np.int32
    features = [name, f'{side}_segment_ids', f'{side}_positions']
    out = {f: batch.get(f, np.zeros((num_rows, length), np.int32)) for f in features[1:]}
    out[name] = np.zeros((num_rows, length), dtype)
    for r, row in enumerate(rows):
      start = 0
      for segment, example in enumerate(row, 1):
        end = start + len(example[name])
        assert end <= length, 'the examples of a row do not fit'
        out[name][r, start:end] = example[name]
        out[features[1]][r, start:end] = segment
        out[features[2]][r, start:end] = np.arange(end - start)
        start = end
    batch.update(out)
  return batch


@functools.cache
def random_params(config: ModelConfig, seed: int = 0) -> dict:
  """Parameters drawn by numpy: no two layers alike, no scale of 1 or bias of 0 to hide behind.

  Unrolled layers get the slices of what scanned layers get.
  """
  rng = np.random.default_rng(seed)
  scanned = dataclasses.replace(config, scan_layers=True)
  std = config.init_std or config.embed_dim ** -0.5

  def draw(path, x):
    noise = rng.normal(size=x.shape).astype(np.float32)
    name = path[-1].key
    if name == 'tokens' and not config.init_std:
      return noise
    return 1 + 0.1 * noise if name == 'scale' else 0.1 * noise if name == 'bias' else std * noise

  shapes = jax.eval_shape(lambda: models.build_network(scanned).init(jax.random.key(0)))
  params = jax.tree_util.tree_map_with_path(draw, shapes)
  return params if config.scan_layers else unstack(params)


def unstack(params: dict) -> dict:
  """Parameters, or their gradients, of scanned layers -> those of unrolled ones."""
  split = lambda blocks: {i: jax.tree.map(lambda x: x[i], blocks)
                          for i in range(len(jax.tree.leaves(blocks)[0]))}
  return {name: value | {'blocks': split(value['blocks'])} if 'blocks' in value else value
          for name, value in params.items()}


@functools.cache
def forward(config: ModelConfig):
  """Jitted (params, batch) -> logits."""
  network = models.build_network(config)
  return jax.jit(lambda params, batch: network.bind(params)(batch))


@functools.cache
def gradients(config: ModelConfig, microbatches: int = 1):
  """Jitted (params, batch) -> (sums by name, gradients), without dropout."""
  network = models.build_network(config)

  def compute(params, batch):
    sums, grads = loss_and_gradients(network, OBJECTIVES, params, batch, None,
                                     microbatches=microbatches)
    return {'weight': sums.weight, 'objective': sums.total} | {
        name: total for name, (total, _) in sums.metrics.items()}, grads

  return jax.jit(compute)


def assert_gradients_close(got, want, tolerance: float = 1e-5) -> None:
  """Every leaf, to `tolerance` of its largest value.

  The gradient of a bias of keys is zero but for rounding, as softmax ignores a constant; so a
  leaf's largest value counts for no less than a hundredth of the largest of all.
  """
  assert jax.tree.structure(got) == jax.tree.structure(want)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)):
    atol = tolerance * max(np.abs(b).max(), 1e-2 * largest)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))


def fixture_of(function):
  """A session fixture that gives `function` itself: test folders cannot import each other."""
  return pytest.fixture(scope='session', name=function.__name__)(lambda: function)


_random_examples = fixture_of(random_examples)
_pack_rows = fixture_of(pack_rows)
_random_params = fixture_of(random_params)
_unstack = fixture_of(unstack)
_forward = fixture_of(forward)
_gradients = fixture_of(gradients)
_assert_gradients_close = fixture_of(assert_gradients_close)


@pytest.fixture(scope='session')
def packed_examples():
  """(config, seed=0) -> 8 lists of one to three examples; a list fits into a row of 16."""
  lengths = [(9, 5), (4, 7, 3), (12, 2), (8, 8), (3, 3, 4), (10, 6), (16,), (1, 13)]

  def make(config, seed=0):
    examples = iter(random_examples(config, [n for row in lengths for n in row], seed))
    return [[next(examples) for _ in row] for row in lengths]

  return make


@pytest.fixture(scope='session')
def packed_batch(packed_examples):
  """(config, seed=0) -> the batch of `packed_examples`, 8 rows of 16."""
  return lambda config, seed=0: pack_rows(packed_examples(config, seed))


@pytest.fixture(autouse=True)
def _path_of_modules():
  """The working directory of a test is no longer searched in the next."""
  before = list(sys.path)
  yield
  sys.path[:] = before


@pytest.fixture(scope='session')
def stdlib_data_dir(tmp_path_factory):
  """Returns a folder with `python_stdlib` prepared.

  It is TFDS_DATA_DIR where that is set, with the whole library; otherwise a temporary folder of all
  processes of a run, with the library less its largest packages, which takes a third of the time.
  """
  from tasks.datasets import python_stdlib, stdlib_sources

  folder = os.environ.get('TFDS_DATA_DIR')
  with pytest.MonkeyPatch.context() as patch:
    if not folder:
      folder = os.environ['T5X_LITE_TEST_STDLIB']
      library = tmp_path_factory.mktemp('python') / 'lib'
      left_out = shutil.ignore_patterns(
          'test', 'tests', 'lib2to3', 'encodings', 'site-packages', '__pycache__', 'config-*'
      )
      shutil.copytree(stdlib_sources.library_root(), library, ignore=left_out)
      patch.setattr(stdlib_sources, 'library_root', lambda: library)
    for config in ('modules', 'functions', 'operators'):
      python_stdlib.prepared_builder(config, folder)
  return folder


@pytest.fixture
def stdlib(stdlib_data_dir):
  """The module `tasks.datasets.stdlib`, its sources reading from the prepared folder."""
  import seqio

  from tasks.datasets import stdlib as module

  before = seqio.utils._TFDS_DATA_DIR_OVERRIDE
  seqio.set_tfds_data_dir_override(stdlib_data_dir)
  yield module
  seqio.set_tfds_data_dir_override(before)

"""A TFDS data set made of the running interpreter's standard library; nothing is downloaded.

The version of the data set is that of Python, since the text is. Its files are ArrayRecords, so
that any example can be read by its index.
"""

import collections
import sys

import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_lite.core.errors import UserError
from tasks.datasets import stdlib_sources
from tasks.files import random_access

SPLITS = ('train', 'validation', 'test')

_FEATURES = {
    'modules': {'module': tfds.features.Text(), 'text': tfds.features.Text()},
    'functions': {
        'module': tfds.features.Text(),
        'name': tfds.features.Text(),
        'code': tfds.features.Text(),
        'docstring': tfds.features.Text(),
        'package': tfds.features.Text(),
        'package_rank': tfds.features.Scalar(tf.int64),
    },
    'operators': {
        'module': tfds.features.Text(),
        'code': tfds.features.Text(),
        'operator': tfds.features.ClassLabel(names=stdlib_sources.OPERATORS),
    },
    'expressions': {
        'module': tfds.features.Text(),
        'beginning': tfds.features.Text(),
        'rest': tfds.features.Text(),
    },
}


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
  """Sources of Python's standard library.

  Config `modules` holds whole files: `module`, `text`. Config `functions` holds the functions
  and methods that have a docstring: `module`, `name` (qualified), `code` (without the
  docstring), `docstring` (its first line), `package` (first component of `module`) and
  `package_rank` (0 for the package with most functions in the training split). Config `operators`
  holds pieces of code without one of their operators: `module`, `code`, `operator`. Config
  `expressions` holds short expressions in two parts: `module`, `beginning`, `rest`.

  A module and all that is of it are in one split, chosen by a hash of the module's name: 90 %
  train, 5 % validation, 5 % test.
  """

  VERSION = tfds.core.Version('.'.join(map(str, sys.version_info[:3])))
  BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name='modules', description='Whole modules.'),
      tfds.core.BuilderConfig(name='functions', description='Functions with a docstring.'),
      tfds.core.BuilderConfig(name='operators', description='Code without an operator.'),
      tfds.core.BuilderConfig(name='expressions', description='Expressions in two parts.'),
  ]
  # Nothing is downloaded. TFDS would look for checksums beside this file, by way of a package
  # (importlib_resources) that it does not depend upon.
  url_infos = None

  def __init__(self, *, file_format='array_record', **kwargs):
    super().__init__(file_format=file_format, **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description='The Python standard library, read from the running interpreter.',
        features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
        homepage='https://docs.python.org/3/library/',
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    examples = {split: [] for split in SPLITS}
    # Syntax trees are large: a module is turned into examples before the next one is read.
    extract = {'modules': _module_examples, 'functions': _function_examples,
               'operators': _operator_examples,
               'expressions': _expression_examples}[self.builder_config.name]
    for module in stdlib_sources.read_modules(stdlib_sources.library_root()):
      examples[stdlib_sources.split_of(module.name)].extend(extract(module))
    if self.builder_config.name == 'functions':
      _add_package_ranks(examples)
    return {split: self._generate_examples(examples[split]) for split in SPLITS}

  def _generate_examples(self, examples):
    yield from examples

  def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
    """Reads by index, since TFDS has no tf.data reader of ArrayRecord files.

    `shuffle_files` is a permutation of all examples, and `read_config.input_context` may have
    any number of pipelines.
    """
    read_config = read_config or tfds.ReadConfig()
    features = self.info.features
    if isinstance(decoders, tfds.decode.PartialDecoding):
      features, decoders = decoders.extract_features(features), decoders.decoders
    context = read_config.input_context or tf.distribute.InputContext()
    records = self.as_data_source(
        split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    indices = random_access.index_dataset(
        len(records),
        shuffle=shuffle_files,
        seed=read_config.shuffle_seed,
        num_shards=context.num_input_pipelines,
        shard_index=context.input_pipeline_id,
        reshuffle_each_iteration=read_config.shuffle_reshuffle_each_iteration,
    )

    def read(index):
      record = tf.numpy_function(lambda i: bytes(records[int(i)]), [index], tf.string)
      return features.deserialize_example(tf.ensure_shape(record, []), decoders=decoders)

    dataset = indices.map(read, num_parallel_calls=read_config.num_parallel_calls_for_decode)
    return dataset.with_options(read_config.options)

  # The next two replace TFDS's prints to standard output, which speak of downloading.

  def _log_download_bytes(self):
    print(
        f'Preparing {self.name}/{self.builder_config.name} from {stdlib_sources.library_root()} '
        f'in {self.data_dir_root}: once, within a minute', file=sys.stderr, flush=True,
    )

  def _log_download_done(self):
    pass


def prepared_builder(config: str, data_dir: str | None = None) -> PythonStdlib:
  """Returns the builder of a data set that is on disk, writing it there first if it is not.

  Any number of processes may call this at once: each prepares in a folder of its own, the first
  to finish gives it the final name, and the others use that one.

  Args:
    config: 'modules', 'functions', 'operators' or 'expressions'.
    data_dir: TFDS's data directory; None is its default, which TFDS_DATA_DIR sets.

  Raises:
    UserError: the data directory cannot be written.
  """
  tfds.disable_progress_bar()
  builder = PythonStdlib(config=config, data_dir=data_dir)
  if builder.data_path.exists():
    return builder
  try:
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  except (OSError, tf.errors.OpError) as error:
    if not builder.data_path.exists():  # Otherwise another process was first.
      if isinstance(error, (PermissionError, tf.errors.PermissionDeniedError)):
        raise UserError(
            f'cannot write {builder.data_dir_root}: {error}; set TFDS_DATA_DIR to a folder that '
            'can be written'
        ) from error
      raise
  return PythonStdlib(config=config, data_dir=data_dir)  # Reads the splits of what is on disk.


def _module_examples(module: stdlib_sources.Module):
  yield module.path, {'module': module.name, 'text': module.text}


def _function_examples(module: stdlib_sources.Module):
  for index, function in enumerate(stdlib_sources.documented_functions(module)):
    yield f'{module.path}:{index}', {
        'module': module.name,
        'name': function.name,
        'code': function.code,
        'docstring': function.docstring,
        'package': module.name.split('.')[0],
    }


def _operator_examples(module: stdlib_sources.Module):
  for gap in stdlib_sources.operator_gaps(module):
    yield f'{module.path}:{gap.offset}', {
        'module': module.name, 'code': gap.code, 'operator': gap.operator}


def _expression_examples(module: stdlib_sources.Module):
  for index, found in enumerate(stdlib_sources.cut_expressions(module)):
    yield f'{module.path}:{index}', {
        'module': module.name, 'beginning': found.beginning, 'rest': found.rest}


def _add_package_ranks(examples) -> None:
  """Ranks packages by their number of training functions, ties broken by name."""
  counts = collections.Counter(
      {example['package']: 0 for split in SPLITS for _, example in examples[split]}
  )
  counts.update(example['package'] for _, example in examples['train'])
  ordered = sorted(counts, key=lambda package: (-counts[package], package))
  ranks = {package: rank for rank, package in enumerate(ordered)}
  for split in SPLITS:
    for _, example in examples[split]:
      example['package_rank'] = ranks[example['package']]

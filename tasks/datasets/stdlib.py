"""seqio tasks over Python's standard library. Importing this file registers them:

stdlib_lm                language modelling of modules
stdlib_lm_shuffled       the same, in an order of rows over the whole corpus
stdlib_span_corruption   T5's denoising of modules
stdlib_mlm               BERT's masked language modelling of modules
stdlib_docstring         function -> the first line of its docstring
stdlib_cipher            the first line of a docstring -> the same in a made language
stdlib_cipher_tlm        translation language modelling of these pairs
stdlib_package           function -> which of the 20 largest packages it is from
stdlib_operator          code without one of its operators -> which operator
stdlib_package_decoder_classification, stdlib_operator_decoder_classification
                         the same two, for decoders with a head
stdlib_mixture           span corruption and docstrings, 3 : 1

The data set is written under TFDS's data directory when one of them is first read.
"""

import functools

import seqio
import tensorflow as tf

from tasks import metrics, vocabularies
from tasks.datasets import python_stdlib
from tasks.datasets.stdlib_sources import OPERATORS
from tasks.preprocessors import classification, pretraining
from tasks.preprocessors.cipher import cipher_pairs
from tasks.preprocessors.text import keep_frequent

VOCABULARY = vocabularies.BYTE_VOCABULARY
NUM_PACKAGES = 20


class StdlibSource(seqio.TfdsDataSource):
  """A source over `python_stdlib` that prepares it on first use and shards by example.

  seqio.TfdsDataSource cannot read it: given a version, as seqio demands, TFDS takes a prepared
  data set to be files without code, and it has no tf.data reader of ArrayRecord files. seqio
  also keeps builders for the life of the process, among them those made before preparation.
  """

  def __init__(self, config: str):
    version = python_stdlib.PythonStdlib.VERSION
    super().__init__(
        f'python_stdlib/{config}:{version}', splits=python_stdlib.SPLITS, read_only=True
    )
    self._config = config
    self._builders = {}

  @property
  def builder(self) -> python_stdlib.PythonStdlib:
    """The builder for the data directory that is in force now, prepared."""
    # A loader keeps the first override that it meets; a new one sees the present one.
    data_dir = seqio.LazyTfdsLoader(self.tfds_dataset.name).data_dir
    if data_dir not in self._builders:
      self._builders[data_dir] = python_stdlib.prepared_builder(self._config, data_dir)
    return self._builders[data_dir]

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def get_dataset(
      self,
      split='train',
      shuffle=True,
      seed=None,
      shard_info=None,
      *,
      sequence_length=None,
      use_cached=False,
      num_epochs=1,
  ) -> tf.data.Dataset:
    """See seqio.DataSource; any number of shards partition one order that the seed fixes."""
    del sequence_length, use_cached, num_epochs
    read_config = self.tfds_dataset.read_config
    read_config.shuffle_seed = seed
    read_config.skip_prefetch = True
    if shard_info:
      read_config.input_context = tf.distribute.InputContext(
          num_input_pipelines=shard_info.num_shards, input_pipeline_id=shard_info.index
      )
    return self.builder.as_dataset(split=split, shuffle_files=shuffle, read_config=read_config)

  def num_input_examples(self, split: str) -> int:
    return self.builder.info.splits[split].num_examples

  def list_shards(self, split: str) -> list[str]:
    return [f.filename for f in self.builder.info.splits[split].file_instructions]


_MODULES = StdlibSource('modules')
_FUNCTIONS = StdlibSource('functions')

# Short rows of a long module follow each other through a buffer of 5,000, so that a short run is
# trained on few modules, and its loss depends on which: too much for the runs of a ladder.
_WHOLE_CORPUS = 1_000_000

for _name, _objective, _buffer in (
    ('lm', 'lm', pretraining.SHUFFLE_BUFFER_SIZE),
    ('lm_shuffled', 'lm', _WHOLE_CORPUS),
    ('span_corruption', 'span_corruption', pretraining.SHUFFLE_BUFFER_SIZE),
    ('mlm', 'mlm', pretraining.SHUFFLE_BUFFER_SIZE),
):
  seqio.TaskRegistry.add(
      f'stdlib_{_name}',
      source=_MODULES,
      shuffle_buffer_size=_buffer,
      **pretraining.task_parts(_objective, VOCABULARY, before=(
          functools.partial(seqio.preprocessors.rekey, key_map={'targets': 'text'}),
      )),
  )

seqio.TaskRegistry.add(
    'stdlib_docstring',
    source=_FUNCTIONS,
    preprocessors=(
        functools.partial(
            seqio.preprocessors.preprocess_tensorflow_examples,
            inputs_format='docstring: {code}',
            targets_format='{docstring}',
        ),
        *pretraining.PREPROCESSORS['text_to_text'],
    ),
    output_features=pretraining.output_features('text_to_text', VOCABULARY),
    metric_fns=(metrics.exact_match, metrics.rouge_l, metrics.bleu),
)

for _name, _objective in (('cipher', 'text_to_text'), ('cipher_tlm', 'tlm')):
  seqio.TaskRegistry.add(
      f'stdlib_{_name}',
      source=_FUNCTIONS,
      **pretraining.task_parts(_objective, VOCABULARY, before=(
          functools.partial(cipher_pairs, text='docstring'),
      )),
  )

_PACKAGES = functools.partial(keep_frequent, rank='package_rank', num_classes=NUM_PACKAGES)
for _name, _source, _label, _classes, _options in (
    ('package', _FUNCTIONS, 'package_rank', NUM_PACKAGES, dict(before=(_PACKAGES,))),
    ('operator', StdlibSource('operators'), 'operator', len(OPERATORS), dict(labels=OPERATORS)),
):
  seqio.TaskRegistry.add(
      f'stdlib_{_name}',
      source=_source,
      **classification.task_parts(VOCABULARY, _classes, text='code', label=_label, **_options),
  )
  seqio.TaskRegistry.add(
      f'stdlib_{_name}_decoder_classification',
      source=_source,
      **classification.text_task_parts(
          VOCABULARY, _classes, texts=('code',), label=_label, **_options),
  )

seqio.MixtureRegistry.add(
    'stdlib_mixture', [('stdlib_span_corruption', 3.0), ('stdlib_docstring', 1.0)]
)

"""Dialogues of data sets of TFDS, such as schema_guided_dialogue."""

from collections.abc import Iterator

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.schema import Dialogue, Turn
from tasks.dialogue.records import SPLITS
from tasks.pipeline.imports import import_seqio

PREFIX = 'tfds:'   # before a name, where a file or folder may be named


def read_prepared(name: str, split: str | None) -> Iterator[Dialogue]:
  """The dialogues of a prepared data set: texts and domains, as TFDS has no states, acts or spans.

  Args:
    name: of TFDS, with `utterances`, `first_speaker` and `metadata`, such as
      'schema_guided_dialogue:1.0.0'.
    split: one of SPLITS; None: all of them.

  Raises UserError for a data set that is not prepared in TFDS's data directory, or is of another
  form.
  """
  import_seqio()
  import tensorflow_datasets as tfds

  from tasks.datasets.prepared import PreparedSource
  builder = PreparedSource(name, ()).tfds_dataset.builder
  features = builder.info.features
  if missing := {'utterances', 'first_speaker', 'metadata'} - {*features}:
    raise UserError(f'{PREFIX}{name}: its examples have no {", ".join(sorted(missing))}: name a '
                    'data set of dialogues, such as schema_guided_dialogue')
  found = [one for kind, names in SPLITS.items() if split in (None, kind)
           for one in names if one in builder.info.splits]
  if not found:
    raise UserError(f'{PREFIX}{name}: has no split {split}: it has '
                    f'{", ".join(builder.info.splits)}')
  for part in found:
    for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=part))):
      first = features['first_speaker'].int2str(int(example['first_speaker']))
      order = ('user', 'system') if first.lower() == 'user' else ('system', 'user')
      services = example['metadata']['services']['name']
      yield Dialogue(id=f'{part}-{number}', domains=tuple(x.decode() for x in services),
                     turns=tuple(Turn(order[i % 2], text.decode())
                                 for i, text in enumerate(example['utterances'])))

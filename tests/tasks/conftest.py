"""Small data sets that lie prepared as TFDS has them."""

from collections.abc import Mapping, Sequence

import pytest


@pytest.fixture
def tfds_dir(tmp_path):
  """An empty TFDS data directory, in force for one test."""
  import seqio

  before = seqio.utils._TFDS_DATA_DIR_OVERRIDE
  seqio.set_tfds_data_dir_override(str(tmp_path))
  yield tmp_path
  seqio.set_tfds_data_dir_override(before)


@pytest.fixture
def prepare(tfds_dir):
  """(name, {split: rows}, features) -> None, which writes a data set to `tfds_dir`."""
  import tensorflow_datasets as tfds

  from tasks.datasets import prepared

  prepared.make_tfds_ready()

  def write(name: str, splits: Mapping[str, Sequence[dict]], features: Mapping) -> None:
    dataset, _, version = name.partition(':')
    dataset, _, config = dataset.partition('/')
    tfds.dataset_builders.store_as_tfds_dataset(
        name=dataset, config=config or None, version=version, data_dir=str(tfds_dir),
        features=tfds.features.FeaturesDict(features), disable_shuffling=True,
        split_datasets={split: list(enumerate(rows)) for split, rows in splits.items()},
    )

  return write

"""TFDS data sets that are read only where they are prepared: no run downloads anything.

`python -m tasks.datasets.prepared glue/sst2:2.0.0` downloads and prepares one in TFDS_DATA_DIR,
else in ~/tensorflow_datasets.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import importlib.resources.abc
import importlib.util
import sys

import seqio
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, read_only_builder

from t5x_lite.core.errors import UserError


class PreparedSource(seqio.TfdsDataSource):
  """A TFDS data set that must be prepared in the data directory when it is first read.

  Making one touches no file, so that any number of tasks can be registered. seqio.TfdsDataSource
  downloads what is missing, and keeps what it found for the life of the process.
  """

  def __init__(
      self, name: str, splits: Iterable[str] | Mapping[str, str], *, made_from: str | None = None
  ):
    """Names a data set.

    Args:
      name: with config and version, such as 'glue/sst2:2.0.0'.
      splits: what the task calls its splits; or a map from that to TFDS's splits and slices.
      made_from: what `prepare` calls the data set if not `name`, for the error message.
    """
    if not isinstance(splits, Mapping):
      splits = {split: split for split in splits}
    super().__init__(name, splits=splits, read_only=True)
    self._tfds_dataset = _PreparedLoader(name, splits, made_from or name)

  def list_shards(self, split: str) -> list[str]:
    """Returns the files of a split; seqio's own remembers those of another data directory."""
    return [file.filename for file in self.tfds_dataset.files(split)]


class _PreparedLoader(seqio.LazyTfdsLoader):
  """Finds the builder of a prepared data set, and never the one that would make it."""

  def __init__(self, name: str, split_map: Mapping[str, str], made_from: str):
    super().__init__(name, split_map=split_map, read_only=True)
    self._made_from = made_from
    self._builders = {}

  @property
  def data_dir(self) -> str | None:
    # A loader keeps the first override that it meets; a new one sees the present one.
    return seqio.LazyTfdsLoader(self.name).data_dir

  @property
  def read_config(self) -> tfds.ReadConfig:
    # Else a data set that was written in an order of its own refuses to be shuffled.
    return dataclasses.replace(super().read_config, enable_ordering_guard=False)

  def _get_builder(self, split: str | None = None) -> tfds.core.DatasetBuilder:
    """Returns the builder of the data directory that is in force now.

    Raises:
      UserError: the data set is not prepared there.
    """
    del split
    data_dir = self.data_dir
    if data_dir not in self._builders:
      try:
        # Through the module, where tfds.testing.mock_data replaces it.
        builder = read_only_builder.builder_from_files(self.name, data_dir=data_dir)
      except tfds.core.DatasetNotFoundError as error:
        folder = data_dir or constants.DATA_DIR
        raise UserError(
            f'the data set {self.name} is not prepared in {folder}: run `TFDS_DATA_DIR={folder} '
            f'python -m tasks.datasets.prepared {self._made_from}`, or set DataConfig.data_dir to '
            'the folder that has it'
        ) from error
      self._builders[data_dir] = builder
    return self._builders[data_dir]


def prepare(name: str, data_dir: str | None = None) -> None:
  """Downloads a data set and prepares it in `data_dir`, None for TFDS's own default.

  The program `tfds build` does the same, but starts only where Apache Beam is installed.
  """
  make_tfds_ready()
  tfds.builder(name, data_dir=data_dir).download_and_prepare()


def make_tfds_ready() -> None:
  """Lets TFDS prepare where the package importlib_resources is missing.

  TFDS 4.9.10 imports it without depending on it; the standard library's twin will do.
  """
  if importlib.util.find_spec('importlib_resources') is None:
    sys.modules['importlib_resources'] = importlib.resources


if __name__ == '__main__':
  if not sys.argv[1:]:
    sys.exit('usage: python -m tasks.datasets.prepared NAME:VERSION [...], such as glue/sst2:2.0.0')
  for _name in sys.argv[1:]:
    prepare(_name)

"""The prepared standard library, shared by the tests of this folder."""

import os
import shutil

import pytest


@pytest.fixture(scope='session')
def stdlib_data_dir(tmp_path_factory):
  """Returns a folder with `python_stdlib` prepared.

  It is TFDS_DATA_DIR where that is set, with the whole library; otherwise a temporary folder, with
  the library less its largest packages, which takes a third of the time.
  """
  from tasks import python_stdlib, stdlib_sources

  folder = os.environ.get('TFDS_DATA_DIR')
  with pytest.MonkeyPatch.context() as patch:
    if not folder:
      folder = str(tmp_path_factory.mktemp('tfds'))
      library = tmp_path_factory.mktemp('python') / 'lib'
      left_out = shutil.ignore_patterns(
          'test', 'tests', 'lib2to3', 'encodings', 'site-packages', '__pycache__', 'config-*'
      )
      shutil.copytree(stdlib_sources.library_root(), library, ignore=left_out)
      patch.setattr(stdlib_sources, 'library_root', lambda: library)
    for config in ('modules', 'functions'):
      python_stdlib.prepared_builder(config, folder)
  return folder


@pytest.fixture
def stdlib(stdlib_data_dir):
  """The module `tasks.stdlib`, its sources reading from the prepared folder."""
  import seqio

  from tasks import stdlib as module

  before = seqio.utils._TFDS_DATA_DIR_OVERRIDE
  seqio.set_tfds_data_dir_override(stdlib_data_dir)
  yield module
  seqio.set_tfds_data_dir_override(before)

"""A notebook's run, in a folder and a kernel of its own."""

import os
import pathlib
import re
from typing import Any, NamedTuple

import pytest


class Executed(NamedTuple):
  """A notebook after its run, and the folder it ran in."""
  notebook: Any
  folder: pathlib.Path

  def outputs(self, source: str) -> list:
    """The outputs of the one cell that contains `source`."""
    cell, = [c for c in self.notebook.cells if c.cell_type == 'code' and source in c.source]
    return cell.outputs

  def printed(self, source: str) -> str:
    """What that cell wrote to stdout."""
    return ''.join(o.text for o in self.outputs(source)
                   if o.output_type == 'stream' and o.name == 'stdout')


@pytest.fixture(scope='session')
def execute_notebook(tmp_path_factory):
  """(path, timeout in seconds, environment) -> Executed.

  A cell that fails raises CellExecutionError, with its traceback.
  """
  nbclient = pytest.importorskip('nbclient')
  import nbformat

  def execute(path: pathlib.Path, timeout: int, **environment: str) -> Executed:
    folder = tmp_path_factory.mktemp('notebook')
    with pytest.MonkeyPatch.context() as patch:   # the kernel inherits this process's environment
      for name, value in environment.items():
        patch.setenv(name, value)
      patch.setenv('JAX_PLATFORMS', 'cpu')
      patch.setenv('PYTHONPATH', str(path.parents[1]))
      # As tests/conftest.py compiles, but for one device.
      patch.setenv('XLA_FLAGS', re.sub(r'--xla_force_host_platform_device_count=\d+', '',
                                       os.environ['XLA_FLAGS']))
      client = nbclient.NotebookClient(
          nbformat.read(path, as_version=4), timeout=timeout, kernel_name='python3',
          resources={'metadata': {'path': str(folder)}})
      return Executed(client.execute(), folder)

  return execute

"""A notebook's run, in a folder and a kernel of its own."""

import pathlib

import pytest


@pytest.fixture(scope='session')
def execute_notebook(tmp_path_factory):
  """(path, timeout in seconds, environment) -> (the notebook after its run, its folder).

  A cell that fails raises CellExecutionError, with its traceback.
  """
  nbclient = pytest.importorskip('nbclient')
  import nbformat

  def execute(path: pathlib.Path, timeout: int, **environment: str):
    folder = tmp_path_factory.mktemp('notebook')
    with pytest.MonkeyPatch.context() as patch:   # the kernel inherits this process's environment
      for name, value in environment.items():
        patch.setenv(name, value)
      patch.setenv('JAX_PLATFORMS', 'cpu')
      patch.setenv('PYTHONPATH', str(path.parents[1]))
      patch.delenv('XLA_FLAGS', raising=False)    # tests/conftest.py asks for eight devices
      client = nbclient.NotebookClient(
          nbformat.read(path, as_version=4), timeout=timeout, kernel_name='python3',
          resources={'metadata': {'path': str(folder)}})
      return client.execute(), folder

  return execute

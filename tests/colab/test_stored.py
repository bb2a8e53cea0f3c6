"""What holds of every notebook as it is stored."""

import json
import pathlib

import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[2].glob('colab/*.ipynb'))
QUICKSTART = pathlib.Path(__file__).parents[2] / 'colab/quickstart.ipynb'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_without_outputs_and_each_code_cell_follows_a_sentence(path):
  nbformat = pytest.importorskip('nbformat')
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  code = [c for c in notebook.cells if c.cell_type == 'code']
  assert code and not any(c.outputs or c.execution_count for c in code)
  kinds = [c.cell_type for c in notebook.cells]
  assert all(before == 'markdown' for before, kind in zip(kinds, kinds[1:]) if kind == 'code')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_as_the_quickstart_is(path):
  """The same metadata, indentation, ids in order, and installation."""
  text = path.read_text()
  own, other = json.loads(text), json.loads(QUICKSTART.read_text())
  assert own | {'cells': []} == other | {'cells': []}
  assert text == json.dumps(own, indent=1, ensure_ascii=False) + '\n'
  assert [c['id'] for c in own['cells']] == [f'cell-{i + 1:02d}' for i in range(len(own['cells']))]
  assert own['cells'][2]['source'] == other['cells'][2]['source']   # the installation

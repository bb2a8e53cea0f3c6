"""The quickstart notebook runs from its first cell to its last, in a folder of its own."""

import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/quickstart.ipynb'
STEPS = 2


@pytest.fixture(scope='module')
def executed(execute_notebook):
  """The notebook after a run of few steps, and the folder it ran in."""
  return execute_notebook(NOTEBOOK, 500, T5X_LITE_NOTEBOOK_STEPS=str(STEPS))


@pytest.mark.slow
def test_training_shows_a_figure_and_finishes(executed):
  folder = executed.folder
  outputs = executed.outputs('train.train(')
  pictures = [o.data['image/png'] for o in outputs if 'image/png' in o.get('data', {})]
  assert len(pictures) == 1 and len(pictures[0]) > 5_000
  assert f'Result(step={STEPS}, finished=True' in str(outputs[-1].data['text/plain'])
  assert (folder / f'runs/notebook-{STEPS}/checkpoints/{STEPS}').is_dir()


@pytest.mark.slow
def test_data_is_shown_in_three_forms(executed):
  assert 'decoder_segment_ids' in executed.printed('for name, array in batch.items()')
  for experiment in ('tiny_span_corruption', 'tiny_mlm'):
    text = executed.printed(f'experiments/{experiment}.gin')
    assert text.startswith('inputs :') and '⟨0⟩' in text and 'targets:' in text


@pytest.mark.slow
def test_evaluation_and_samples_are_printed(executed):
  assert 'stdlib_lm/bits_per_byte' in executed.printed('scores = evaluate(')
  samples = executed.printed('infer.load_generator(')
  assert 'def __init__(self' in samples and samples.count('--- log-likelihood') == 3

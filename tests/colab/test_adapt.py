"""The notebook of adaptation runs to its last cell: masks, three tunings, files, chat."""

import json
import pathlib
import re

import pytest
from safetensors import safe_open

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'colab/adapt.ipynb'
STEPS = 2
FOLDER = f'runs/adapt-{STEPS}'


@pytest.fixture(scope='module')
def executed(execute_notebook, stdlib_data_dir):
  """The notebook after a run of few steps, and the folder it ran in."""
  return execute_notebook(NOTEBOOK, 900, T5X_LITE_NOTEBOOK_STEPS=str(STEPS),
                          TFDS_DATA_DIR=str(stdlib_data_dir))


@pytest.mark.slow
def test_what_is_learned_is_shown_in_colour_for_four_templates(executed):
  shown, = [o.data['text/html'] for o in executed.outputs('render_answers(')]
  learned = re.findall(r'<b style="color:#\w+">(.*?)</b>', shown, re.DOTALL)
  assert len(learned) == 4 * 2
  assert learned[:2] == ['Paris.&lt;/s&gt;', 'Lima.&lt;/s&gt;']
  assert learned[2:4] == ['Paris.&lt;|im_end|&gt;', 'Lima.&lt;|im_end|&gt;']
  described = executed.printed('data describe')
  assert '<|assistant|>\n⟦' in described and '</s>⟧' in described


@pytest.mark.slow
def test_three_ways_are_side_by_side(executed):
  rows = {line.split()[0]: line.split()[1:]
          for line in executed.printed('told, table = ').splitlines()[1:]}
  assert list(rows) == ['base', 'full', 'LoRA', 'QLoRA']
  trained = {way: int(rows[way][3].replace(',', '')) for way in ('full', 'LoRA', 'QLoRA')}
  assert trained['full'] > 5 * trained['LoRA'] == 5 * trained['QLoRA']
  state = {way: float(rows[way][5]) for way in trained}
  assert state['full'] > 2 * state['LoRA'] > 2 * state['QLoRA']
  assert all(0 < float(row[0]) < 12 for row in rows.values())
  assert re.search(r'parameters of the largest that fits +[\d.]+B +[\d.]+B +[\d.]+B',
                   executed.printed('format_tuning'))


@pytest.mark.slow
def test_adapters_are_merged_and_written_for_peft(executed):
  said = executed.printed('t5x_lite(f\'merge')
  assert re.search(
      rf'step {STEPS} of \S+/LoRA, merged in float32; the largest difference of logits', said)
  adapter = executed.folder / FOLDER / 'adapter'
  config = json.loads((adapter / 'adapter_config.json').read_text())
  with safe_open(adapter / 'adapter_model.safetensors', 'np') as file:
    ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if '.lora_A.' in name}
  assert ranks == {config['r']} and 'adapter_model.safetensors' in said


@pytest.mark.slow
def test_the_merged_model_is_asked_and_answers_are_shown(executed):
  chat = executed.printed('def chat(')
  assert chat.count('> Explain the arguments of this function.') == 1
  assert chat.count('> Write a docstring for this function.') == 1
  answers = executed.printed('chosen = min(')
  assert re.findall('^--- (.*)$', answers, re.MULTILINE) == [
      'base', 'full', 'LoRA', 'QLoRA', 'as it stands in the library']

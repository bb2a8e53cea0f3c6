"""`t5x-lite dialogue convert` and `generate`: what they write, count and refuse."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.dialogue.schema import read_dialogues, to_json
from tasks.dialogue.generated import generate


@pytest.fixture
def source(tmp_path):
  """Three generated dialogues, of which the second shrinks and the third has an empty turn."""
  records = [to_json(one) for one in generate(3)]
  records[1]['turns'][2]['state'] = {}
  records[2]['turns'][0]['text'] = ' '
  records[2]['turns'][0]['spans'] = []
  path = tmp_path / 'source.jsonl'
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return path


def _convert(source, tmp_path, *flags):
  output = tmp_path / 'out.jsonl'
  code = cli.main(['dialogue', 'convert', str(source), '--form=dialogues',
                   f'--output={output}', *flags])
  return code, [one.id for one in read_dialogues(output)] if output.exists() else None


def test_faults_are_counted_named_and_skipped(source, tmp_path, capsys):
  assert _convert(source, tmp_path) == (0, ['generated-0-0', 'generated-0-1', 'generated-0-2'])
  kept = capsys.readouterr().out.splitlines()
  assert kept[0].startswith('3 dialogues, ') and kept[1] == '       3  restaurant'
  assert 'fault: empty turn: 1 in 1 dialogue(s): generated-0-2' in kept
  assert any(line.startswith('fault: state shrinks: 1 in 1') for line in kept)
  assert _convert(source, tmp_path, '--policy=skip') == (0, ['generated-0-0'])
  assert '2 of 3 left out' in capsys.readouterr().out.splitlines()
  assert _convert(source, tmp_path, '--policy=skip', '--ignore=state shrinks') == (
      0, ['generated-0-0', 'generated-0-1'])


def test_stop_names_dialogue_turn_and_fault_and_writes_nothing(source, tmp_path, capsys):
  assert _convert(source, tmp_path, '--policy=stop') == (1, None)
  assert capsys.readouterr().err.startswith(
      'error: dialogue generated-0-1, turn 2: state shrinks (restaurant-food)')


def test_a_schema_of_services_finds_unknown_names(source, tmp_path, capsys):
  path = tmp_path / 'schema.json'
  path.write_text(json.dumps([{'service_name': 'restaurant', 'slots': [
      {'name': 'food', 'is_categorical': False}]}]))
  assert _convert(source, tmp_path, f'--schema={path}')[0] == 0
  assert 'fault: unknown slot: ' in capsys.readouterr().out
  for content, message in (('[{}]', "KeyError: 'service_name'"), ('{', 'cannot be read')):
    path.write_text(content)
    assert _convert(source, tmp_path, f'--schema={path}')[0] == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('flags, message', [
    (['--ignore=typos'], "--ignore: 'typos' is no fault"),
    (['--policy=mend'], "invalid choice: 'mend'"),
])
def test_flags_that_are_wrong(source, tmp_path, capsys, flags, message):
  assert _convert(source, tmp_path, *flags) == (1, None)
  assert message in capsys.readouterr().err


def test_generated_dialogues_are_written(tmp_path, capsys):
  output = tmp_path / 'made.jsonl'
  assert cli.main(['dialogue', 'generate', '--number=4', '--seed=2', '--noise=0.5',
                   f'--output={output}']) == 0
  assert [*read_dialogues(output)] == generate(4, seed=2, noise=0.5)
  assert capsys.readouterr().out.startswith('4 dialogues, ')
  assert cli.main(['dialogue', 'generate', '--number=0', f'--output={output}']) == 1
  assert '--number=0: must be at least 1' in capsys.readouterr().err

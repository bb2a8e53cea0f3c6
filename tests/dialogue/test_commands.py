"""`t5x-lite dialogue convert` and `generate`: what they write, count and refuse."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.dialogue.domains import derive_schema
from t5x_lite.dialogue.schema import read_dialogues, to_json
from tasks.dialogue.generated import generate

SERVICES = {'dialogue_id': 'S1', 'services': ['hotel'], 'turns': [
    {'speaker': 'USER', 'utterance': 'A hotel.', 'frames': []}]}


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
  for content, message in (('[{}]', "KeyError: 'slots'"), ('{', 'cannot be read')):
    path.write_text(content)
    assert _convert(source, tmp_path, f'--schema={path}')[0] == 1
    assert message in capsys.readouterr().err


def test_a_schema_of_multiwoz_22_names_slots_as_dialogues_do(source, tmp_path, capsys):
  path = tmp_path / 'schema.json'
  path.write_text(json.dumps([{'service_name': 'restaurant', 'slots': [
      {'name': f'restaurant-{slot}', 'is_categorical': False}
      for slot in derive_schema(generate(3))['restaurant'].slots]}]))
  assert _convert(source, tmp_path, f'--schema={path}')[0] == 0
  told = capsys.readouterr().out
  assert 'unknown slot' not in told, told


def test_what_is_read_is_not_written_over(source, capsys):
  before = source.read_bytes()
  assert cli.main(['dialogue', 'convert', str(source), '--form=dialogues', '--policy=skip',
                   f'--output={source}']) == 1
  assert 'is read, and would be written over' in capsys.readouterr().err
  assert source.read_bytes() == before


@pytest.mark.parametrize('edit, message', [
    (lambda turn: turn.pop('text'), 'turn 0 lacks text'),
    (lambda turn: turn.update(colour='red'), 'turn 0 has an unknown colour')])
def test_a_turn_that_is_none_is_named(source, tmp_path, capsys, edit, message):
  first, *others = source.read_text().splitlines()
  record = json.loads(first)
  edit(record['turns'][0])
  source.write_text('\n'.join([json.dumps(record), *others]))
  assert _convert(source, tmp_path) == (1, None)
  assert message in capsys.readouterr().err
  source.write_text('\n'.join([first, others[0][:40]]))
  assert _convert(source, tmp_path) == (1, None)
  assert 'is not JSON: line 2, column ' in capsys.readouterr().err
  source.write_bytes(first.encode() + b'\n\x1f\x8b')
  assert cli.main(['dialogue', 'discover', str(source), f'--output={tmp_path / "out"}']) == 1
  assert f"{source}, line 2: 'utf-8' codec" in capsys.readouterr().err


@pytest.mark.parametrize('flags, message', [
    (['--ignore=typos'], "--ignore: 'typos' is no fault"),
    (['--policy=mend'], "invalid choice: 'mend'"),
])
def test_flags_that_are_wrong(source, tmp_path, capsys, flags, message):
  assert _convert(source, tmp_path, *flags) == (1, None)
  assert message in capsys.readouterr().err


CAMREST = {'dialogue_id': 1, 'goal': {'constraints': {}, 'request-slots': [], 'text': ''}, 'dial': [
    {'usr': {'transcript': transcript, 'slu': [
        {'act': 'inform', 'slots': [pair]} for pair in said]}, 'sys': {'sent': 'Yes.', 'DA': []}}
    for transcript, said in (
        ('Hello.', []), ('The north.', [['area', 'north']]),
        ('Thai.', [['area', 'north'], ['food', 'thai']]),
        ('Any food.', [['area', 'north'], ['food', 'dontcare']]))]}


def test_a_database_says_how_many_entries_match_each_state(tmp_path, capsys):
  entries = [{'id': str(i), 'name': f'n{i}', 'area': area} | food for i, (area, food) in enumerate([
      ('north', {'food': 'thai'}), ('north', {'food': 'french'}), ('north', {}),
      ('south', {'food': 'thai'})])]
  source, database, output = tmp_path / 'c.json', tmp_path / 'db.json', tmp_path / 'out.jsonl'
  source.write_text(json.dumps([CAMREST]))
  database.write_text(json.dumps(entries))
  flags = ['dialogue', 'convert', str(source), f'--output={output}', '--form=camrest']
  assert cli.main([*flags, f'--database={database}']) == 0
  (one,) = read_dialogues(output)
  # What an entry does not tell, as the third's food, may be as it is wanted.
  assert [turn.results for turn in one.turns] == [None, None] + [
      x for number in (3, 2, 3) for x in (None, {'restaurant': number})]
  for path, message in ((tmp_path / 'none', 'is no JSON list'), (tmp_path, 'is no JSON list')):
    assert cli.main([*flags, f'--database={path}']) == 1
    assert message in capsys.readouterr().err
  source.write_text(json.dumps([SERVICES]))
  flags[-1] = '--form=multiwoz22'
  assert cli.main([*flags, f'--database={database}']) == 1
  assert 'name the folder with restaurant_db.json' in capsys.readouterr().err


def test_generated_dialogues_are_written(tmp_path, capsys):
  output = tmp_path / 'made.jsonl'
  assert cli.main(['dialogue', 'generate', '--number=4', '--seed=2', '--noise=0.5',
                   f'--output={output}']) == 0
  assert [*read_dialogues(output)] == generate(4, seed=2, noise=0.5)
  assert capsys.readouterr().out.startswith('4 dialogues, ')
  assert cli.main(['dialogue', 'generate', '--number=0', f'--output={output}']) == 1
  assert '--number=0: must be at least 1' in capsys.readouterr().err

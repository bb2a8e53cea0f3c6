"""`t5x-lite dialogue convert tfds:NAME`: a data set as TFDS prepares it, and what is refused."""

import tensorflow_datasets as tfds

from t5x_lite import cli
from t5x_lite.dialogue.schema import Dialogue, Turn, read_dialogues

NAME = 'schema_guided_dialogue'
ROWS = [
    {'utterances': ['A cheap place?', 'Which town?', 'Café Town.'], 'first_speaker': 'USER',
     'metadata': {'services': [{'name': 'Restaurants_1'}, {'name': 'Taxi_2'}]}},
    {'utterances': ['Hello, may I help?', 'No.'], 'first_speaker': 'SYSTEM',
     'metadata': {'services': []}}]


def _convert(tmp_path, *flags, source=f'tfds:{NAME}:1.0.0'):
  output = tmp_path / 'out.jsonl'
  code = cli.main(['dialogue', 'convert', source, f'--output={output}', *flags])
  return code, [*read_dialogues(output)] if output.exists() else None


def test_dialogues_of_the_data_set_as_tfds_declares_it(prepare, tmp_path, capsys):
  features = tfds.builder(NAME, data_dir=str(tmp_path / 'empty')).info.features
  prepare(f'{NAME}:1.0.0', {'train': ROWS, 'dev': ROWS[:1]}, dict(features))
  first = (Turn('user', 'A cheap place?'), Turn('system', 'Which town?'),
           Turn('user', 'Café Town.'))
  train = [Dialogue('train-0', first, ('Restaurants_1', 'Taxi_2')),
           Dialogue('train-1', (Turn('system', 'Hello, may I help?'), Turn('user', 'No.')))]
  assert _convert(tmp_path, '--split=train') == (0, train)
  told = capsys.readouterr().out
  assert '2 dialogues, 5 turns' in told and 'speakers: 2 in 1 dialogue(s): train-1' in told
  assert 'no states, acts or spans' in told
  assert _convert(tmp_path)[1] == [*train, Dialogue('dev-0', first, ('Restaurants_1', 'Taxi_2'))]
  (tmp_path / 'out.jsonl').unlink()
  assert _convert(tmp_path, '--split=test') == (1, None)
  assert 'has no split test: it has train, dev' in capsys.readouterr().err
  assert _convert(tmp_path, '--form=sgd') == (1, None)
  assert '--form is of files' in capsys.readouterr().err


def test_what_is_not_prepared_or_has_no_dialogues_is_refused(prepare, tmp_path, capsys):
  assert _convert(tmp_path) == (1, None)
  assert f'{NAME}:1.0.0 is not prepared' in capsys.readouterr().err
  prepare('lines:1.0.0', {'train': [{'text': 'x'}]}, {'text': tfds.features.Text()})
  assert _convert(tmp_path, source='tfds:lines:1.0.0') == (1, None)
  assert 'have no first_speaker, metadata, utterances' in capsys.readouterr().err


def test_a_file_needs_a_form(tmp_path, capsys):
  assert _convert(tmp_path, source='x.jsonl') == (1, None)
  assert '--form is missing: one of dialogues, multiwoz21' in capsys.readouterr().err

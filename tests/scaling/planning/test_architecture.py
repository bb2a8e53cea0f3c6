"""From a number of parameters to a model."""

import dataclasses
import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from scaling.planning import architecture
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting
from t5x_lite.experiment import gin_config


def published(name):
  return gin_config.load_described([f'models/{name}.gin'], []).model


@pytest.mark.parametrize('name', [
    'gpt2_small', 'gpt3_1_3b', 'gpt3_6_7b', 'gpt3_13b', 'gpt3_175b', 'llama_7b', 'llama_13b',
    'llama3_8b', 'mistral_7b', 'bert_base', 't5_small', 't5_base', 't5_1_1_small', 'gemma_2b',
    'tiny_encoder_decoder', 'mixtral_8x7b'])
def test_the_size_of_a_published_model_gives_that_model(name):
  base = published(name)
  assert architecture.config_for_size(base, accounting.parameters(base).total) == base


@pytest.mark.parametrize('name, tensor', [('llama_7b', 1), ('llama3_8b', 4), ('t5_1_1_base', 4),
                                          ('bert_base', 2), ('gpt2_small', 1)])
def test_widths_and_heads_fit_hardware_and_mesh(name, tensor):
  base = published(name)
  for wanted in (2e9, 67e9):
    found = architecture.config_for_size(base, wanted, tensor=tensor)
    assert found.embed_dim % 128 == 0 and found.mlp_dim % 128 == 0
    assert found.num_kv_heads % tensor == 0 and found.mlp_dim % tensor == 0
    assert found.num_heads // found.num_kv_heads == base.num_heads // base.num_kv_heads
    assert found.head_dim == base.head_dim
    assert accounting.parameters(found).total == pytest.approx(wanted, rel=0.1)


def brute_force(base, wanted, multiple):
  """The best score over all widths to 2,048 and depths to 64, by building each model."""
  best = math.inf
  aspect = min(max(64 * (wanted / 125e6) ** 0.15, 16), 128)
  for width, layers in itertools.product(range(multiple, 1025, multiple), range(1, 33)):
    config = dataclasses.replace(
        base, embed_dim=width, num_layers=layers, num_heads=width // base.head_dim,
        num_kv_heads=width // base.head_dim, mlp_dim=width * 3)
    off = math.log(accounting.parameters(config).total / wanted)
    best = min(best, 25 * off ** 2 + math.log(width / layers / aspect) ** 2)
  return best


@pytest.mark.slow
def test_no_other_width_and_depth_scores_better():
  base = dataclasses.replace(published('ladder_128'), scan_layers=True)
  for wanted in (5e6, 4e7):
    found = architecture.config_for_size(base, wanted)
    aspect = 64 * (wanted / 125e6) ** 0.15
    off = math.log(accounting.parameters(found).total / wanted)
    score = 25 * off ** 2 + math.log(found.embed_dim / found.num_layers / aspect) ** 2
    assert score == pytest.approx(brute_force(base, wanted, 128), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(6, 12))
def test_every_size_is_met_to_a_few_percent(log10):
  config = architecture.config_for_size(published('llama_7b'), 10 ** log10 * 30, multiple=128)
  assert abs(math.log(accounting.parameters(config).total / (10 ** log10 * 30))) < 0.15


def test_a_size_below_one_layer_is_refused_with_the_least_there_is():
  with pytest.raises(UserError, match=r'the nearest model has 8,4\d\d,\d+'):
    architecture.config_for_size(published('llama_7b'), 1e5)

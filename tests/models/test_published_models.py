"""The gin files of published models: each builds the network its paper counts; no arrays."""

import dataclasses
import functools
import math
import re

import jax
import pytest

from t5x_lite import models
from t5x_lite.commands import describe
from t5x_lite.core.errors import UserError
from t5x_lite.cost import summary
from t5x_lite.experiment import gin_config
from t5x_lite.models.positions import RopeScaling

MODELS = gin_config.CONFIGS / 'models'
NAMES = sorted(path.stem for path in MODELS.glob('*.gin'))
POOLER = 'ModelConfig.head=pooler'   # BERT without the heads of its pre-training
# Parameters of the released checkpoints; of GPT-3 and Chinchilla there are none.
PUBLISHED = {
    'bert_base': 110_106_428, 'bert_large': 336_226_108,
    't5_small': 60_506_624, 't5_base': 222_903_552, 't5_large': 737_668_096,
    't5_3b': 2_851_598_336, 't5_11b': 11_307_321_344,
    't5_1_1_small': 76_961_152, 't5_1_1_base': 247_577_856, 't5_1_1_large': 783_150_080,
    't5_1_1_xl': 2_849_757_184, 't5_1_1_xxl': 11_135_332_352,
    'gpt1': 116_534_784, 'gpt2_small': 124_439_808, 'gpt2_medium': 354_823_168,
    'gpt2_large': 774_030_080, 'gpt2_xl': 1_557_611_200,
    'llama_7b': 6_738_415_616, 'llama_13b': 13_015_864_320, 'llama_33b': 32_528_943_616,
    'llama_65b': 65_285_660_672, 'llama2_7b': 6_738_415_616, 'llama2_70b': 68_976_648_192,
    'llama3_8b': 8_030_261_248, 'llama3_70b': 70_553_706_496, 'llama3_1_8b': 8_030_261_248,
    'mistral_7b': 7_241_732_096, 'mixtral_8x7b': 46_702_792_704,
    'gemma_2b': 2_506_172_416, 'gemma2_2b': 2_614_341_888,
}
# Millions, of Brown et al. 2020, table 2.1 (the names) and D.1.
GPT3 = {'125m': (125, 125), '350m': (350, 356), '760m': (760, 760), '1_3b': (1300, 1320),
        '2_7b': (2700, 2650), '6_7b': (6700, 6660), '13b': (13_000, 12_850),
        '175b': (175_000, 174_600)}
WIDTHS = (128, 256, 512, 1024, 2048)


def load(name, *bindings, files=()):
  return gin_config.load_described([f'models/{name}.gin', *files], bindings)


@functools.cache
def table(name, *bindings):
  return describe.summarize(load(name, *bindings))


def tree_count(config) -> int:
  shapes = jax.eval_shape(lambda: models.build_network(config).init(jax.random.key(0)))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


# One of each architecture, whose parameters are counted in the network itself, too.
COUNTED = ('bert_base', 't5_small', 't5_1_1_small', 'gpt1', 'gpt2_small', 'gpt3_125m',
           'chinchilla_70b', 'llama_7b', 'llama3_8b', 'mistral_7b', 'mixtral_8x7b', 'gemma_2b',
           'gemma2_2b', 'ladder_128', 'tiny_classifier')


@pytest.mark.parametrize('name', NAMES)
def test_every_model_is_described_and_says_its_own_count(name):
  described = table(name)
  count = described['parameters']
  assert count == sum(described['modules'].values())
  assert name not in COUNTED or count == tree_count(load(name).model)
  assert f'{count:,}' in summary.as_text(described)
  comment = re.match(r'(# .*\n)+', (MODELS / f'{name}.gin').read_text())[0]
  if not name.startswith('tiny_'):
    assert f'{count:,} parameters' in ' '.join(comment.replace('#', '').split())


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_are_the_published_ones(name):
  assert table(name)['parameters'] == PUBLISHED[name]


@pytest.mark.parametrize('name, count', [('bert_base', 109_482_240)])
def test_bert_without_its_pretraining_heads(name, count):
  assert table(name, POOLER)['parameters'] == count == tree_count(load(name, POOLER).model)


@pytest.mark.parametrize('name', GPT3)
def test_gpt3_is_near_its_names(name):
  millions = table(f'gpt3_{name}')['parameters'] / 1e6
  assert millions == pytest.approx(GPT3[name][0], rel=0.03)
  assert millions == pytest.approx(GPT3[name][1], rel=0.004)   # two or three digits are printed


def test_chinchilla_lacks_only_the_projections_of_relative_positions():
  billions = (table('chinchilla_70b')['parameters'] + 80 * 8192 * 8192) / 1e9
  assert billions == pytest.approx(70, rel=0.002)


def test_active_parameters_of_mixtral():
  assert table('mixtral_8x7b')['active_parameters'] == 12_879_925_248   # 12.9B, as published
  assert table('mistral_7b')['active_parameters'] == 7_241_732_096


def test_embeddings_are_counted_apart():
  assert table('gpt2_small')['embedding_parameters'] == (50257 + 1024) * 768
  assert table('llama_7b')['embedding_parameters'] == 2 * 32000 * 4096   # and the output layer
  assert '6,476,271,616' in summary.as_text(table('llama_7b'))          # all but those


def test_flops_a_token_by_hand():
  layers, embed, mlp, vocab, length = 32, 4096, 11008, 32000, 2048
  weights = layers * (4 * embed ** 2 + 3 * embed * mlp) + vocab * embed   # no lookup, no norms
  described = table('llama_7b')
  assert described['tokens_per_row'] == length
  assert described['train_flops_per_token'] == 6 * weights + 12 * layers * embed * length
  assert described['train_flops_per_token_causal'] == 6 * weights + 6 * layers * embed * length
  # nanoGPT's count of a row of GPT-2 small, of 1,024 tokens.
  assert table('gpt2_small')['train_flops_per_token'] * 1024 == 874_944_921_600


def test_memory_by_hand():
  count = PUBLISHED['gpt2_small']
  counters = 2 * 4   # of AdamW's and its schedule's steps
  memory = table('gpt2_small')['memory']
  assert memory['total'] == memory['per_device'] == {
      'parameters': 4 * count, 'gradients': 4 * count, 'optimizer': 8 * count + counters,
      'sum': 16 * count + counters, 'host': 0}


def test_memory_of_a_device_of_a_mesh_that_is_not_there():
  experiment = load('llama_7b', 'FSDP=64', 'TENSOR=8', files=['hardware/accelerator.gin'])
  assert jax.device_count() < 64 * 8
  memory = describe.summarize(experiment)['memory']
  norms = (2 * 32 + 1) * 4096   # whole on every device
  held = 4 * ((PUBLISHED['llama_7b'] - norms) // (64 * 8) + norms)
  assert memory['mesh'] == {'data': 1, 'fsdp': 64, 'tensor': 8}
  assert memory['per_device'] == {'parameters': held, 'gradients': held, 'optimizer': 2 * held + 8,
                                  'sum': 4 * held + 8, 'host': 0}
  assert memory['total'] == table('llama_7b')['memory']['total']


def test_memory_of_an_experiments_own_optimizer():
  experiment = gin_config.load_described(
      ['experiments/tiny_lm.gin'], ['AdamW.moment_dtype=bfloat16'])
  described = describe.summarize(experiment)
  assert described['memory']['total']['optimizer'] == (2 + 4) * described['parameters'] + 8


def test_paged_moments_are_counted_of_the_host():
  experiment = gin_config.load_described(['experiments/tiny_lm.gin'], ['AdamW.paged=True'])
  described = describe.summarize(experiment)
  total = described['memory']['total']
  assert (total['optimizer'], total['host']) == (8, 8 * described['parameters'])
  assert total['sum'] == 8 * described['parameters'] + 8
  assert "optimizer state in the host's memory" in summary.as_text(described)


def test_layers_that_are_not_stacked_make_the_same_table():
  bindings = ('ModelConfig.num_layers=2', 'ModelConfig.num_decoder_layers=2')
  stacked = describe.summarize(load('t5_small', *bindings))
  assert stacked == describe.summarize(load('t5_small', 'ModelConfig.scan_layers=False', *bindings))


def test_a_published_model_in_an_experiment_survives_its_operative_config(tmp_path):
  experiment, text = gin_config.load_experiment(
      ['experiments/tiny_lm.gin', 'models/llama3_1_8b.gin'], ['MODEL_DIR=x'])
  assert experiment.model.rope_scaling == RopeScaling(
      factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=8192)
  (tmp_path / 'config.gin').write_text(text)
  assert gin_config.load_experiment([str(tmp_path / 'config.gin')])[0] == experiment


def test_on_the_ladder_only_the_width_changes():
  steps = [load(f'ladder_{width}').model for width in WIDTHS]
  assert [config.embed_dim for config in steps] == list(WIDTHS)
  for config in steps:
    by_width = dict(embed_dim=128, num_heads=2, num_kv_heads=2, mlp_dim=3 * 128)
    assert dataclasses.replace(config, **by_width) == steps[0]
    assert config.num_heads * config.head_dim * 3 == config.mlp_dim == config.embed_dim * 3


@pytest.mark.parametrize('files, binding, message', [
    (['models/gpt1.gin'], 'AdamW.beta1=0.5', 'AdamW is set, and no file binds the Experiment'),
    (['models/gpt1.gin'], 'ModelConfig.num_heads=7', 'must divide embed_dim 768'),
    ([], 'STEPS=1', 'No gin file'),
])
def test_mistakes_in_describing_a_model_alone(files, binding, message):
  with pytest.raises(UserError) as error:
    gin_config.load_described(files, [binding])
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_model_alone_cannot_be_trained():
  with pytest.raises(UserError, match='No file binds an Experiment: pass one that does'):
    gin_config.load_experiment(['models/gpt1.gin'], ['MODEL_DIR=x'])

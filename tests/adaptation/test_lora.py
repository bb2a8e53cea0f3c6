"""LoRA: what it adds, that it begins as the base, and runs that train it, resume and are read."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.commands import describe, eval, infer, train
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.training import initial_params, run_folder
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params

CONFIG = models.ModelConfig(
    family='decoder_only', vocab_size=32, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
    mlp_dim=24)
BATCH = {'decoder_input_tokens': jax.random.randint(jax.random.key(1), (2, 8), 1, 32)}
BATCH['decoder_target_tokens'] = BATCH['decoder_input_tokens']
LORA = Lora(rank=4)


def logits(network, params, key=None):
  return jax.jit(lambda params: network.bind(params, key)(BATCH))(params)


def with_values(network, params):
  """The parameters with every trained one drawn anew: B is not 0."""
  draw = lambda path, x: 0.3 * jax.random.normal(jax.random.key(len(path) + x.size), x.shape) if (
      network.is_trained(path)) else x
  return trees.fill(params, {path: draw(path, x) for path, x in trees.flatten(params).items()})


@pytest.mark.parametrize('config, lora', [
    (CONFIG, Lora(targets=('all_linear', 'embeddings'), rank=4)),
    (CONFIG, Lora(rank=3, rank_stabilized=True, dora=True)),
    (dataclasses.replace(CONFIG, scan_layers=False), Lora(targets=('attention',), rank=2)),
    (dataclasses.replace(CONFIG, num_experts=4, experts_per_token=2), LORA),
    (dataclasses.replace(CONFIG, num_experts=4, expert_capacity=2.0), Lora(targets=('mlp',))),
    (dataclasses.replace(CONFIG, full_attention_interval=2, sliding_window=4), LORA)],
    ids=['embeddings', 'dora', 'unrolled', 'experts', 'capacity', 'windows'])
def test_it_begins_as_the_base_and_equals_its_merged_kernels(config, lora):
  base = models.build_network(config)
  network = lora.adapt(base)
  plain = jax.jit(base.init)(jax.random.key(0))
  params = jax.jit(network.init)(jax.random.key(0))
  want = logits(base, plain)
  np.testing.assert_array_equal(logits(network, params), want)
  params = with_values(network, params)
  got = logits(network, params)
  assert np.abs(got - want).max() > 0.1
  np.testing.assert_allclose(got, logits(base, lora.merge(network, params)), atol=1e-4)


def test_a_is_uniform_and_b_is_zero():
  params = trees.flatten(jax.jit(LORA.adapt(models.build_network(CONFIG)).init)(jax.random.key(0)))
  a = params['decoder/blocks/mlp/down/kernel_lora_a']
  assert a.shape == (2, 24, 4)
  assert 0.9 / math.sqrt(24) < np.abs(a).max() <= 1 / math.sqrt(24) * (1 + 1e-6)
  assert np.std(a) == pytest.approx(1 / math.sqrt(3 * 24), rel=0.15)
  assert not np.any(params['decoder/blocks/mlp/down/kernel_lora_b'])


def test_dropout_is_drawn_for_each_layer_and_only_with_a_key():
  outs = []
  for scan in (True, False):
    config = dataclasses.replace(CONFIG, scan_layers=scan)
    network = Lora(rank=4, dropout=0.5).adapt(models.build_network(config))
    params = with_values(network, jax.jit(network.init)(jax.random.key(0)))
    if scan:
      stacked = trees.flatten(params)
    else:   # the same values, unrolled
      take = lambda path: stacked[path] if 'blocks' not in path else stacked[
          path.replace('/0/', '/').replace('/1/', '/')][int(path.split('/')[2])]
      params = trees.fill(params, {path: take(path) for path in trees.flatten(params)})
    outs.append((logits(network, params), logits(network, params, jax.random.key(3)),
                 logits(network, params, jax.random.key(4))))
  for stacked, unrolled in zip(*outs):
    np.testing.assert_allclose(stacked, unrolled, atol=1e-5)
  plain, first, second = outs[0]
  assert np.abs(plain - first).max() > 1e-2 < np.abs(first - second).max()


def test_gpt3_with_rank_4_on_queries_and_values_trains_18874368_parameters():
  config = models.ModelConfig(family='decoder_only', vocab_size=50257, embed_dim=12288,
                              num_layers=96, num_heads=96, mlp_dim=4 * 12288)
  network = Lora(targets=('attention/(query|value)',), rank=4).adapt(models.build_network(config))
  assert sum(math.prod(x.shape) for path, x in trees.flatten(network.shapes).items()
             if network.is_trained(path)) == 18_874_368


def test_adapters_are_sharded_as_their_kernel():
  axes = trees.flatten(LORA.adapt(models.build_network(CONFIG)).logical_axes,
                       is_leaf=lambda x: isinstance(x, tuple))
  assert axes['decoder/blocks/attention/out/kernel_lora_a'] == ('layers', 'heads', 'head_dim', None)
  assert axes['decoder/blocks/attention/key/kernel_lora_b'] == ('layers', None, 'kv', 'head_dim')


@pytest.mark.parametrize('lora, message', [
    (dict(rank=17), r'Lora.rank = 17: above the smaller dimension of decoder/.*16 x'),
    (dict(targets=('attn/query',)), r"Lora.targets = .*'attn/query' matches no kernel.*attention"),
    (dict(targets=('norm',)), "'norm' matches no kernel"),
    (dict(targets=('embeddings',), dora=True), 'Lora.dora = True: not supported for embedder'),
    (dict(trained='head'), "Lora.trained = 'head': matches no parameter"),
    (dict(targets=('(',)), 'not a regular expression'),
    (dict(targets=()), 'names no kernel'),
    (dict(rank=0), 'Lora.rank = 0'), (dict(alpha=-1.0), 'Lora.alpha'),
    (dict(dropout=1.0), 'Lora.dropout')])
def test_what_does_not_fit_is_refused(lora, message):
  with pytest.raises(UserError, match=message):
    Lora(**lora).adapt(models.build_network(CONFIG))


# Runs.
TINY = ['ModelConfig.embed_dim=32', 'ModelConfig.num_layers=2', 'ModelConfig.num_heads=2',
        'ModelConfig.mlp_dim=32', 'BATCH_SIZE=8', 'STEPS=4', 'WARMUP_STEPS=1', 'TARGETS_LENGTH=16',
        'TrainConfig.log_every=1', 'EvalConfig.num_examples=8', 'EvalConfig.batch_size=8']
ADAPTED = ['Experiment.adaptation=@lora.Lora()', 'Lora.rank=2', 'Lora.dropout=0.1']


def run(gin_file, model_dir, *bindings):
  experiment, text = gin_config.load_experiment(
      [gin_file], [*TINY, f"MODEL_DIR='{model_dir}'", *bindings])
  return experiment, train.train(experiment, text)


@pytest.fixture(scope='module')
def base(gin_file, tmp_path_factory):
  return run(gin_file, tmp_path_factory.mktemp('base') / 'run', 'STEPS=2')[0]


def from_base(base):
  return [*ADAPTED, 'Experiment.init_from=@experiment.InitFrom()',
          f"InitFrom.model_dir='{base.folder}'"]


@pytest.fixture(scope='module')
def adapted(gin_file, base, tmp_path_factory):
  """A finished run of LoRA on a base run."""
  return run(gin_file, tmp_path_factory.mktemp('lora') / 'run', *from_base(base))


def test_a_run_trains_and_saves_its_adapters_alone(adapted, base):
  experiment, result = adapted
  network, partitioner = experiment.build_network(experiment.mesh.make(jax.devices()[:1]))
  params, step = load_params(experiment.folder, network, partitioner, None)
  plain, partitioner = base.build_network(base.mesh.make(jax.devices()[:1]))
  before = trees.flatten(load_params(base.folder, plain, partitioner, None)[0])
  assert step == 4
  for path, x in trees.flatten(params).items():
    if path in before:
      np.testing.assert_array_equal(x, before[path])
    else:
      assert np.any(x), path
  source = reader_of(experiment.folder)
  saved = set(trees.flatten(source.param_shapes(4)))
  assert saved == {path for path in trees.flatten(params) if '_lora_' in path}
  assert eval.evaluate(experiment) == pytest.approx(result.metrics)


def test_a_stopped_run_resumes_exactly(adapted, base, gin_file, tmp_path):
  run(gin_file, tmp_path / 'run', *from_base(base), 'TrainConfig.steps=2')
  experiment, _ = run(gin_file, tmp_path / 'run', *from_base(base))
  losses = lambda experiment: [r['loss'] for r in run_folder.read_metrics(
      experiment.folder / 'metrics.jsonl') if r['kind'] == 'train']
  assert losses(experiment) == losses(adapted[0])


def test_it_is_described_and_answers(adapted):
  table = describe.summarize(adapted[0])
  network, _ = adapted[0].build_network(adapted[0].mesh.abstract())
  trained = sum(math.prod(x.shape) for path, x in trees.flatten(network.shapes).items()
                if '_lora_' in path)
  assert table['trained_parameters'] == trained
  assert table['memory']['total']['gradients'] == 4 * trained
  assert len(infer.answer(adapted[0], ['1 + 2 ='])) == 1


@pytest.mark.parametrize('key', [initial_params.ADDED, 'what an older version did not write'])
def test_a_plain_run_does_not_start_from_an_adapter(key, adapted, gin_file, tmp_path, monkeypatch):
  monkeypatch.setattr(initial_params, 'ADDED', key)
  with pytest.raises(UserError, match='is of an adapter, .*t5x-lite merge'):
    run(gin_file, tmp_path / 'run', 'Experiment.init_from=@experiment.InitFrom()',
        f"InitFrom.model_dir='{adapted[0].folder}'")


@pytest.mark.slow
def test_losses_are_the_same_on_any_mesh(adapted, base, gin_file, tmp_path):
  experiment, _ = run(gin_file, tmp_path / 'run', *from_base(base), 'MeshConfig.data=2',
                      'MeshConfig.fsdp=2', 'MeshConfig.tensor=2')
  losses = lambda experiment: [r['loss'] for r in run_folder.read_metrics(
      experiment.folder / 'metrics.jsonl') if r['kind'] == 'train']
  np.testing.assert_allclose(losses(experiment), losses(adapted[0]), rtol=1e-4)

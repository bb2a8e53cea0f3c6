"""LoRA: what it adds, that it begins as the base, and runs that train it, resume and are read."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.commands import describe, eval, infer
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import initial_params, run_folder
from t5x_lite.training.checkpoints import reader_of
from t5x_lite.training.initial_params import load_params
from t5x_lite.training.state import abstract_params

CONFIG = models.ModelConfig(
    family='decoder_only', vocab_size=32, embed_dim=16, num_layers=2, num_heads=4, num_kv_heads=2,
    mlp_dim=24)
BATCH = {'decoder_input_tokens': jax.random.randint(jax.random.key(1), (2, 8), 1, 32)}
BATCH['decoder_target_tokens'] = BATCH['decoder_input_tokens']
LORA = Lora(rank=4)


def forward(network):
  """Jitted (params, key=None) -> logits."""
  return jax.jit(lambda params, key=None: network.bind(params, key)(BATCH))


@functools.cache
def base_of(config):
  """(network, its first parameters, its jitted logits)"""
  base = models.build_network(config)
  return base, jax.jit(base.init)(jax.random.key(0)), forward(base)


def with_values(network, params):
  """The parameters with every trained one drawn anew: B is not 0."""
  draw = lambda path, x: np.float32(np.random.default_rng(len(path) + x.size).normal(
      0, 0.3, x.shape)) if network.is_trained(path) else x
  return trees.fill(params, {path: draw(path, x) for path, x in trees.flatten(params).items()})


@pytest.mark.parametrize('config, lora', [
    (dataclasses.replace(CONFIG, full_attention_interval=2, sliding_window=4),
     Lora(targets=('all_linear', 'embeddings'), rank=4)),
    (dataclasses.replace(CONFIG, scan_layers=False),
     Lora(rank=3, rank_stabilized=True, dora=True)),
    (dataclasses.replace(CONFIG, num_experts=4, experts_per_token=2), LORA),
    (dataclasses.replace(CONFIG, num_experts=4, expert_capacity=2.0), Lora(targets=('mlp',)))],
    ids=['windows and embeddings', 'unrolled dora', 'experts', 'capacity'])
def test_it_begins_as_the_base_and_equals_its_merged_kernels(config, lora):
  base, plain, of_base = base_of(config)
  network = lora.adapt(base)
  logits = forward(network)
  params = jax.jit(network.init)(jax.random.key(0))
  want = of_base(plain)
  np.testing.assert_array_equal(logits(params), want)
  params = with_values(network, params)
  got = logits(params)
  assert np.abs(got - want).max() > 0.1
  np.testing.assert_allclose(got, of_base(lora.merge(network, params)), atol=1e-4)


def test_a_is_uniform_and_b_is_zero():
  params = trees.flatten(jax.jit(LORA.adapt(models.build_network(CONFIG)).init)(jax.random.key(0)))
  a = params['decoder/blocks/mlp/down/kernel_lora_a']
  assert a.shape == (2, 24, 4)
  assert 0.9 / math.sqrt(24) < np.abs(a).max() <= 1 / math.sqrt(24) * (1 + 1e-6)
  assert np.std(a) == pytest.approx(1 / math.sqrt(3 * 24), rel=0.15)
  assert not np.any(params['decoder/blocks/mlp/down/kernel_lora_b'])


@pytest.mark.parametrize('config, lora', [
    (dataclasses.replace(CONFIG, num_experts=4, experts_per_token=2), Lora(
        targets=('all_linear', 'embeddings'), rank=4, start='pissa', rank_stabilized=True)),
    (dataclasses.replace(CONFIG, scan_layers=False), Lora(rank=3, start='pissa', alpha=6.0))],
    ids=['stacked experts', 'unrolled'])
def test_pissa_begins_with_the_largest_singular_values(config, lora):
  base, plain, of_base = base_of(config)
  network = lora.adapt(base)
  logits = forward(network)
  params = begun(network)
  flat, kernels = trees.flatten(params), trees.flatten(plain)
  np.testing.assert_allclose(logits(params), of_base(plain), atol=1e-4)
  for path in kernels:
    if path + '_lora_a' not in flat:
      continue
    inputs = 2 if path.endswith('out/kernel') else 1
    kernel, a, b = (np.asarray(x) for x in (
        kernels[path], flat[path + '_lora_a'], flat[path + '_lora_b']))
    lead = a.ndim - 1 - inputs
    matrices = kernel.reshape(-1, math.prod(kernel.shape[lead:lead + inputs]),
                              math.prod(kernel.shape[lead + inputs:]))
    u, s, v = np.linalg.svd(matrices, full_matrices=False)
    want = (u[..., :lora.rank] * s[:, None, :lora.rank]) @ v[:, :lora.rank]
    a, b = a.reshape(*matrices.shape[:2], -1), b.reshape(len(matrices), lora.rank, -1)
    np.testing.assert_allclose(lora.scale * a @ b, want, atol=1e-5)
    np.testing.assert_allclose(np.square(a).sum(1), np.square(b).sum(2), rtol=1e-4)
  # What is trained moves; what was taken off stays.
  assert not any('pissa' in path for path in flat if network.is_trained(path))
  params = with_values(network, params)
  np.testing.assert_allclose(logits(params), of_base(lora.merge(network, params)), atol=1e-3)


def begun(network):
  """Drawn parameters, with those that follow from them."""
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  return initial_params.begin(network, abstract_params(network, partitioner),
                              jax.jit(network.init)(jax.random.key(0)), ())


def test_dropout_is_drawn_for_each_layer_and_only_with_a_key():
  outs = []
  for scan in (True, False):
    config = dataclasses.replace(CONFIG, scan_layers=scan)
    network = Lora(rank=4, dropout=0.5).adapt(models.build_network(config))
    if scan:
      params = with_values(network, jax.jit(network.init)(jax.random.key(0)))
      stacked = trees.flatten(params)
    else:   # the same values, unrolled
      take = lambda path: stacked[path] if 'blocks' not in path else stacked[
          path.replace('/0/', '/').replace('/1/', '/')][int(path.split('/')[2])]
      params = trees.fill(network.shapes, {
          path: take(path) for path in trees.flatten(network.shapes)})
    logits = forward(network)
    outs.append([logits(params, key) for key in (None, jax.random.key(3), jax.random.key(4))])
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
  axes = LORA.adapt(models.build_network(CONFIG)).axes_by_path
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
    (dict(start='pissa', dora=True), "Lora.start = 'pissa': not supported with Lora.dora"),
    (dict(rank=0), 'Lora.rank = 0'), (dict(alpha=-1.0), 'Lora.alpha'),
    (dict(dropout=1.0), 'Lora.dropout')])
def test_what_does_not_fit_is_refused(lora, message):
  with pytest.raises(UserError, match=message):
    Lora(**lora).adapt(models.build_network(CONFIG))


# Runs.
ADAPTED = ['Experiment.adaptation=@lora.Lora()', 'Lora.rank=2', 'Lora.dropout=0.1']


def from_base(base):
  return [*ADAPTED, 'Experiment.init_from=@experiment.InitFrom()',
          f"InitFrom.model_dir='{base.folder}'"]


@pytest.fixture(scope='module')
def adapted(run, base, tmp_path_factory):
  """A finished run of LoRA on a base run."""
  return run(tmp_path_factory.mktemp('lora') / 'run', *from_base(base))


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


def test_it_is_described_and_answers(adapted):
  table = describe.summarize(adapted[0])
  network, _ = adapted[0].build_network(adapted[0].mesh.abstract())
  trained = sum(math.prod(x.shape) for path, x in trees.flatten(network.shapes).items()
                if '_lora_' in path)
  assert table['trained_parameters'] == trained
  assert table['memory']['total']['gradients'] == 4 * trained
  assert len(infer.answer(adapted[0], ['1 + 2 ='])) == 1


@pytest.mark.parametrize('key', [initial_params.ADDED, 'what an older version did not write'])
def test_a_plain_run_does_not_start_from_an_adapter(key, adapted, run, tmp_path, monkeypatch):
  monkeypatch.setattr(initial_params, 'ADDED', key)
  with pytest.raises(UserError, match='is of an adapter, .*t5x-lite merge'):
    run(tmp_path / 'run', 'Experiment.init_from=@experiment.InitFrom()',
        f"InitFrom.model_dir='{adapted[0].folder}'")


@pytest.mark.slow
def test_losses_are_the_same_on_any_mesh(adapted, base, run, tmp_path):
  experiment, _ = run(tmp_path / 'run', *from_base(base), 'MeshConfig.data=2',
                      'MeshConfig.fsdp=2', 'MeshConfig.tensor=2')
  losses = lambda experiment: [r['loss'] for r in run_folder.read_metrics(
      experiment.folder / 'metrics.jsonl') if r['kind'] == 'train']
  np.testing.assert_allclose(losses(experiment), losses(adapted[0]), rtol=1e-4)


PISSA = ["Lora.start='pissa'", 'Lora.dropout=0.0']


@pytest.mark.slow
def test_a_pissa_run_keeps_what_it_took_off_and_resumes_exactly(base, run, resumed, tmp_path):
  whole, result = run(tmp_path / 'whole', *from_base(base), *PISSA)
  again = resumed(whole, tmp_path / 'again', *from_base(base), *PISSA)
  losses = lambda experiment: [r['loss'] for r in run_folder.read_metrics(
      experiment.folder / 'metrics.jsonl') if r['kind'] == 'train']
  assert losses(again) == losses(whole)
  assert eval.evaluate(whole) == pytest.approx(result.metrics)
  network, partitioner = whole.build_network(whole.mesh.make(jax.devices()[:1]))
  params = trees.flatten(load_params(whole.folder, network, partitioner, None)[0])
  plain, _ = base.build_network(base.mesh.make(jax.devices()[:1]))
  before = trees.flatten(load_params(base.folder, plain, partitioner, None)[0])
  for path, x in params.items():
    if path.endswith('_lora_a'):
      assert not np.array_equal(x, params[path.replace('lora', 'pissa')])
    elif path in before:
      np.testing.assert_array_equal(x, before[path])
  # Another run goes on from it, and one of LoRA's own start does not.
  start = ['Experiment.init_from=@experiment.InitFrom()', f"InitFrom.model_dir='{whole.folder}'"]
  third, _ = run(tmp_path / 'third', *ADAPTED, *start, *PISSA, 'STEPS=1')
  read = trees.flatten(load_params(third.folder, network, partitioner, None)[0])
  for path in params:
    if 'pissa' in path:
      np.testing.assert_array_equal(read[path], params[path])
  with pytest.raises(UserError, match='is of an adapter, decoder/blocks'):
    run(tmp_path / 'lora', *ADAPTED, *start)


def test_pissa_does_not_start_from_another_adapter(adapted, run, tmp_path):
  with pytest.raises(UserError, match='would not fit what begins anew here, decoder/blocks'):
    run(tmp_path / 'run', *ADAPTED, *PISSA,
        'Experiment.init_from=@experiment.InitFrom()', f"InitFrom.model_dir='{adapted[0].folder}'")


def test_pissa_of_a_drawn_base_begins_as_the_base(base, run, tmp_path):
  """Which is drawn from the same seed."""
  pissa, _ = run(tmp_path / 'run', *ADAPTED, *PISSA, 'TrainConfig.steps=1')
  losses = [run_folder.read_metrics(experiment.folder / 'metrics.jsonl')[0]['loss']
            for experiment in (pissa, base)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)

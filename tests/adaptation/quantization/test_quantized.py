"""Runs on a quantised base, end to end: gin, training, resuming, evaluation, memory, refusals."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.partial import Partial
from t5x_lite.adaptation.quantization.leaf import QuantizedLeaf
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.commands import describe, eval
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.cost import memory
from t5x_lite.models import weights
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import checkpoints, initial_params, run_folder
from t5x_lite.training.state import abstract_params, abstract_state, quantize_frozen
from t5x_lite.training.step import loss_and_gradients

NORMS = ['Experiment.adaptation=@partial.Partial()', "Partial.trained='norm'"]
QUANTIZED = ['Experiment.adaptation=@quantized.Quantized()', 'Quantized.block=32',
             'Quantized.adaptation=@lora.Lora()', 'Lora.rank=4', 'Lora.dropout=0.1']


@pytest.fixture(scope='module')
def tuned(run, base, tmp_path_factory):
  """A run that starts from it quantised, and trains adapters: QLoRA."""
  return run(tmp_path_factory.mktemp('tuned') / 'run', *from_run(base))


def from_run(base):
  return [*QUANTIZED, 'Experiment.init_from=@experiment.InitFrom()',
          f"InitFrom.model_dir='{base.folder}'"]


def network_of(experiment):
  return experiment.build_network(experiment.mesh.make(jax.devices()[:1]))


def losses(experiment):
  records = run_folder.read_metrics(experiment.folder / 'metrics.jsonl')
  return [r['loss'] for r in records if r['kind'] == 'train']


def kernels(params):
  return {name: x for name, x in trees.flatten(params, weights.is_structured).items()
          if isinstance(x, QuantizedLeaf)}


def test_the_base_is_read_quantised_and_only_what_is_trained_is_saved(tuned, base):
  experiment, _ = tuned
  params, _ = initial_params.load_params(experiment.folder, *network_of(experiment), None)
  whole, _ = initial_params.load_params(base.folder, *network_of(base), None)
  whole, held = trees.flatten(whole), kernels(params)
  assert held and all('/kernel' in name for name in held)
  assert {name for name in whole if name.endswith('kernel')} == set(held)
  for name, leaf in held.items():
    error = np.abs(leaf.value() - whole[name])
    assert 0 < error.mean() < 0.1 * np.abs(whole[name]).mean(), name
    assert sum(x.nbytes for x in jax.tree.leaves(leaf)) < whole[name].nbytes / 5
  source = checkpoints.reader_of(experiment.folder)
  saved = trees.flatten(source.param_shapes(source.find_step(None)))
  assert saved and all('_lora_' in name for name in saved)
  origin = source.read_meta(source.find_step(None))[initial_params.FROZEN_FROM]
  assert origin['fingerprint'] == checkpoints.reader_of(base.folder).fingerprint(origin['step'])
  assert all(np.isfinite(losses(experiment)))


def test_it_is_evaluated_and_resumed_as_it_was_trained(tuned, base, resumed, tmp_path):
  experiment, result = tuned
  assert eval.evaluate(experiment) == pytest.approx(result.metrics)
  again = resumed(experiment, tmp_path / 'run', *from_run(base))
  assert losses(again) == losses(experiment)


def test_a_base_that_is_drawn_from_the_seed_is_quantised_too(run, tmp_path):
  experiment, _ = run(tmp_path / 'run', *QUANTIZED, 'TrainConfig.steps=1')
  network, partitioner = network_of(experiment)
  params, _ = initial_params.load_params(experiment.folder, network, partitioner, None)
  fresh = trees.flatten(jax.jit(network.init)(jax.random.key(experiment.seed)))
  for name, leaf in kernels(params).items():
    want = network.quantized(name).quantize(fresh[name])
    np.testing.assert_allclose(leaf.value(), want.value(), atol=0.03 * np.abs(fresh[name]).max())


def test_tensors_are_quantised_one_at_a_time(base, load):
  experiment, _ = load('unused', *QUANTIZED)
  network, partitioner = network_of(experiment)
  abstract = {name: x for name, x in trees.flatten(abstract_params(network, partitioner)).items()
              if not network.is_added(name)}
  source, whole = checkpoints.reader_of(base.folder), []

  def watched():
    before = {id(x) for x in jax.live_arrays()}
    for name, x in source.restore_each(abstract, source.find_step(None)):
      live = [y for y in jax.live_arrays() if id(y) not in before and y.dtype == jnp.float32
              and network.quantized(name) and y.size >= 1024 and y.shape in shapes]
      whole.append(len(live))
      yield name, x
      del x, live

  shapes = {x.shape for name, x in abstract.items() if network.quantized(name)}
  held = initial_params.quantize_each(network, abstract, watched())
  assert set(held) == set(abstract) and max(whole) == 1


def random_values(network):
  """Parameters of which none is 0, adapters among them."""
  draw = lambda x: 0.2 * np.random.default_rng(x.size).normal(size=x.shape).astype(np.float32)
  return jax.tree.map(draw, network.shapes)


def codes_and_values(network, frozen):
  """Frozen parameters as the state holds them, and their values."""
  @jax.jit
  def hold(frozen):
    held = quantize_frozen(network, frozen)
    return held, jax.tree.map(weights.value, held, is_leaf=weights.is_structured)

  return hold(frozen)


@pytest.mark.parametrize('kind, scan, adaptation', [
    ('decoder', False, Lora(rank=4)),
    ('encoder_decoder', True, Lora(rank=4, dora=True)),
    ('encoder', True, Partial(trained='norm|bias|tokens'))])
def test_gradients_are_those_through_the_dequantised_weights(
    kind, scan, adaptation, configs, packed_batch, assert_gradients_close):
  config = dataclasses.replace(configs[kind], scan_layers=scan)
  network = Quantized(adaptation=adaptation, block=32).adapt(models.build_network(config))
  params, frozen = trees.partition(random_values(network), network.is_trained)
  held, whole = codes_and_values(network, frozen)
  assert len(kernels(held)) >= 6
  compute = jax.jit(lambda params, frozen, batch: loss_and_gradients(
      network, (CrossEntropy(),), params, batch, None, frozen=frozen))
  batch = packed_batch(config)
  got, got_grads = compute(params, held, batch)
  want, want_grads = compute(params, whole, batch)
  np.testing.assert_allclose(got.total, want.total, rtol=1e-5)
  assert_gradients_close(got_grads, want_grads, 1e-4)


def test_losses_on_a_mesh_are_those_of_one_device(configs, packed_batch):
  config = dataclasses.replace(configs['decoder'], embed_dim=128, mlp_dim=128, num_kv_heads=4)
  adaptation = Quantized(adaptation=Lora(rank=4), block=8)   # of 4 heads' 32 inputs, on each of 4
  totals = []
  for mesh in (MeshConfig(fsdp=2, tensor=4).make(), MeshConfig().make(jax.devices()[:1])):
    partitioner = Partitioner(mesh)
    network = adaptation.adapt(models.build_network(config, partitioner))
    abstract = abstract_params(network, partitioner)
    trained, frozen = trees.partition(abstract, network.is_trained)
    put = lambda params, like: jax.tree.map(lambda x, s: jax.device_put(x, s.sharding),
                                            params, like)
    values, rest = trees.partition(random_values(network), network.is_trained)
    structs = quantize_frozen(network, frozen)
    held = jax.jit(lambda x, network=network: quantize_frozen(network, x),
                   out_shardings=jax.tree.map(lambda x: x.sharding, structs))(put(rest, frozen))
    sums, _ = jax.jit(lambda params, frozen, batch, network=network: loss_and_gradients(
        network, (CrossEntropy(),), params, batch, None, frozen=frozen))(
            put(values, trained), held, partitioner.put_batch(packed_batch(config)))
    totals.append(sums.total)
  np.testing.assert_allclose(totals[0], totals[1], rtol=1e-4)


def test_describe_counts_the_bits_of_a_quantised_base(load):
  def parameters(*bindings):
    experiment, _ = load('unused', *bindings)
    network, _ = network_of(experiment)
    sizes = {name: math.prod(x.shape) for name, x in trees.flatten(network.shapes).items()}
    quantized = sum(n for name, n in sizes.items() if network.quantized(name))
    return describe.summarize(experiment)['memory']['total']['parameters'], quantized

  whole, none = parameters(*NORMS)
  held, quantized = parameters(*QUANTIZED[:2], 'Quantized.adaptation=@partial.Partial()',
                               *NORMS[1:])
  assert none == 0 and quantized > 0
  # Blocks of 32: 4 + 8 / 32 bits, and a little for the scales of scales.
  saved = quantized * (32 - 4.25) / 8
  assert whole - held == pytest.approx(saved, rel=0.01)


@pytest.mark.parametrize('capacity', [None, 2.0])
def test_experts_are_quantised_under_an_adapter(capacity, configs, packed_batch):
  config = dataclasses.replace(configs['decoder'], num_experts=4, experts_per_token=2,
                               expert_capacity=capacity)
  network = Quantized(adaptation=Lora(rank=4), block=32).adapt(models.build_network(config))
  params = random_values(network)
  trained, frozen = trees.partition(params, network.is_trained)
  held, whole = codes_and_values(network, frozen)
  assert {'decoder/blocks/mlp/gate', 'decoder/blocks/mlp/up', 'decoder/blocks/mlp/down'} <= set(
      kernels(held))
  run = lambda network, frozen: jax.jit(lambda frozen: network.bind(trees.combine(
      trained, frozen))(packed_batch(config)))(frozen)
  logits = functools.partial(run, network)
  np.testing.assert_allclose(logits(held), logits(whole), atol=1e-3)
  # In bfloat16 the kernels are rounded, and not their scales.
  half = Quantized(adaptation=Lora(rank=4), block=32).adapt(models.build_network(
      dataclasses.replace(config, dtype='bfloat16')))
  rounded = jax.tree.map(lambda x: weights.value(x).astype(jnp.bfloat16).astype(jnp.float32)
                         if weights.is_structured(x) else x, held, is_leaf=weights.is_structured)
  np.testing.assert_array_equal(run(half, held), run(half, rounded))


def test_65b_parameters_fit_a_device_of_48_gb():
  """LLaMA-65B, rank 16 beside all linear layers; the base at 4.127 bits a parameter."""
  config = models.ModelConfig(
      family='decoder_only', vocab_size=32000, embed_dim=8192, num_layers=80, num_heads=64,
      mlp_dim=22016, tied_embeddings=False, dtype='bfloat16', remat='full')
  held, whole = {}, 0
  for name, adaptation in (('lora', Lora(rank=16)),
                           ('qlora', Quantized(adaptation=Lora(rank=16)))):
    network = adaptation.adapt(models.build_network(config))
    held[name] = memory.per_device(
        config, mesh={}, rows=1, targets_length=2048, platform='gpu', network=network)
    whole = sum(math.prod(x.shape) for name, x in trees.flatten(network.shapes).items()
                if network.quantized(name))
  assert whole == pytest.approx(64.8e9, rel=0.01)
  saved = held['lora'].parameters - held['qlora'].parameters
  assert 32 - 8 * saved / whole == pytest.approx(4.127, abs=1e-3)
  assert held['qlora'].gradients == held['lora'].gradients
  assert held['qlora'].total < 48e9 < held['lora'].total


@pytest.mark.parametrize('change, message', [
    ({'block': 48}, r'Quantized.block = 48: decoder/blocks/attention/key/kernel has 32 inputs, '
     r'which blocks of 48 do not divide: choose a block of 32 or 16 or 8'),
    ({'block': 33}, r'Quantized.block = 33: must be even'),
    ({'block': -1}, r'Quantized.block = -1: must be at least 0'),
    ({'format': 'nf5'}, r"Quantized.format = 'nf5': "),
    ({'skip': '('}, r"Quantized.skip = '\(': not a regular expression"),
    ({'skip': '.'}, r"Quantized.skip = '.': leaves no frozen kernel to quantise"),
    ({'adaptation': Partial(trained='.')}, r'leaves no frozen kernel to quantise'),
    ({'adaptation': Quantized(adaptation=Partial(trained='norm'))}, r'is Quantized already'),
    ({'adaptation': Lora(start='pissa'), 'block': 32},
     r"Lora.start = 'pissa': not supported on a quantised"),
    ({'adaptation': 3}, r'Quantized.adaptation = 3')])
def test_what_cannot_be_quantised_is_refused_in_one_line(change, message, configs):
  settings = {'adaptation': Partial(trained='norm')} | change
  with pytest.raises(UserError, match=message) as error:
    Quantized(**settings).adapt(models.build_network(configs['decoder']))
  assert '\n' not in str(error.value)


def test_blocks_that_straddle_shards_are_refused_before_anything_is_allocated(configs):
  config = dataclasses.replace(configs['decoder'], embed_dim=128)
  network = Quantized(adaptation=Partial(trained='norm'), skip='embedder|norm|attention/out').adapt(
      models.build_network(config))
  with pytest.raises(UserError, match='has 128 inputs, 32 on each of 4 shards, which blocks of 64 '
                     'straddle'):
    abstract_state(network, optax.sgd(0.1), Partitioner(MeshConfig(data=1, fsdp=4).make()))


@pytest.mark.parametrize('adaptation', [
    Lora(rank=2, targets=('embeddings', 'attention')),
    Quantized(block=16, adaptation=Lora(rank=2))], ids=['embeddings', 'qlora'])
def test_embedding_noise_reaches_adapters_on_any_base(adaptation, configs, packed_batch):
  """It is of the model, so that what is adapted, or quantised, says nothing of it."""
  config = dataclasses.replace(configs['decoder'], embedding_noise=0.0)
  batch, grads = packed_batch(config), {}
  network = adaptation.adapt(models.build_network(config))
  params = jax.jit(lambda: quantize_frozen(network, network.init(jax.random.key(0))))()
  kept, frozen = trees.partition(params, network.is_trained)
  for alpha in (0.0, 10.0):
    network = adaptation.adapt(models.build_network(
        dataclasses.replace(config, embedding_noise=alpha)))
    compute = jax.jit(lambda params, frozen, key, network=network: loss_and_gradients(
        network, (CrossEntropy(),), params, batch, key, frozen=frozen)[1])
    grads[alpha] = [compute(kept, frozen, key) for key in (None, jax.random.key(1))]
  same = lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
  assert same(grads[0.0][0], grads[10.0][0])
  assert same(*grads[0.0]) and not same(*grads[10.0])

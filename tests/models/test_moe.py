"""The mixture of experts against loops over tokens, a dense form, one device, and in training."""

import dataclasses
import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.models import ModelConfig, layers
from t5x_lite.models.moe import ExpertMLP
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.objective import add_objectives, normalizers
from t5x_lite.objectives.router import RouterLoss
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import optimizers, schedules
from t5x_lite.training.state import init_state
from t5x_lite.training.step import loss_and_gradients, make_train_step

B, L, D, F, E = 8, 12, 8, 16, 5   # the last expert is chosen by none
BASE = ModelConfig(family='decoder_only', vocab_size=64, embed_dim=D, num_layers=2, num_heads=2,
                   mlp_dim=F, num_experts=E)
FORMS = {
    'dropless': {}, 'dropless, one choice': dict(experts_per_token=1),
    'dropless, three choices': dict(experts_per_token=3),
    'dropless, no gate': dict(gated_mlp=False, activation='relu'),
    'capacity': dict(expert_capacity=1.0),
    'capacity, one choice': dict(expert_capacity=0.8, experts_per_token=1),
    'capacity, three choices': dict(expert_capacity=0.6, experts_per_token=3),
}
MESHES = {'data=8': MeshConfig(data=8), 'fsdp=4 tensor=2': MeshConfig(fsdp=4, tensor=2)}


def flat(sums) -> dict:
  """The sums of LossSums by name."""
  return {'objective': sums.total, 'weight': sums.weight} | {
      name: total for name, (total, _) in sums.metrics.items()}


def config_of(form: str) -> ModelConfig:
  return dataclasses.replace(BASE, **FORMS[form])


def abstract_layer(config, shard=layers.unsharded):
  """(graph definition, abstract parameters) of the layer."""
  return nnx.split(nnx.eval_shape(lambda: ExpertMLP(config, None, shard)))


def draw_params(config, seed=0) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  _, params = abstract_layer(config)
  params = {name: 0.5 * rng.normal(size=x.shape).astype(np.float32)
            for name, x in nnx.to_pure_dict(params).items()}
  params['router'] *= 4
  params['router'][0] = [0, 1, 0, 0, -60]   # what x_BLD[..., 0] = 1 adds to the logits
  return params


def draw_inputs(seed=1):
  """x, which tokens are not padding, and a direction of the output."""
  rng = np.random.default_rng(seed)
  x_BLD, direction_BLD = rng.normal(size=(2, B, L, D)).astype(np.float32)
  x_BLD[..., 0] = 1
  length_B = rng.integers(3, L + 1, B)
  length_B[0], length_B[1] = L, 0
  return x_BLD, np.arange(L) < length_B[:, None], direction_BLD


def apply(config, params, x_BLD, valid_BL):
  graphdef, _ = abstract_layer(config)
  layer = lambda params, x, valid: nnx.merge(graphdef, params)(x, valid)
  return jax.jit(layer)(params, x_BLD, valid_BL)


def loop(config, params, x_BLD, valid_BL):
  """Float64, token after token -> output, losses, [B, L, E] whether an expert took a token."""
  E, X = config.num_experts, config.experts_per_token
  act = {'silu': lambda x: x / (1 + np.exp(-x)), 'relu': lambda x: np.maximum(x, 0)}
  act = act[config.activation]
  p = {name: np.asarray(x, np.float64) for name, x in params.items()}
  x_BLD = np.asarray(x_BLD, np.float64)
  slots = math.inf
  if config.expert_capacity is not None:
    slots = math.ceil(config.expert_capacity * x_BLD.shape[1] * X / E)
  out, taken = np.zeros_like(x_BLD), np.zeros((*x_BLD.shape[:2], E), bool)
  balance = z = 0.0
  for b, x_LD in enumerate(x_BLD):
    logits = x_LD @ p['router']
    prob = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    ranked = np.argsort(-prob, axis=-1)
    full = np.zeros(E)
    for choice in range(X):
      for t in np.flatnonzero(valid_BL[b]):
        e = ranked[t, choice]
        full[e] += 1
        if full[e] > slots:
          continue
        weight = prob[t, e] / (1 if X == 1 else prob[t, ranked[t, :X]].sum())
        h = x_LD[t] @ p['up'][e]
        h = act(x_LD[t] @ p['gate'][e]) * h if config.gated_mlp else act(h)
        out[b, t] += weight * h @ p['down'][e]
        taken[b, t, e] = True
    n = valid_BL[b].sum()
    for e in range(E):
      share = sum(e in ranked[t, :X] for t in np.flatnonzero(valid_BL[b])) / max(n * X, 1)
      balance += n * E * share * prob[valid_BL[b], e].sum() / max(n, 1)
    z += (np.log(np.exp(logits).sum(-1)) ** 2)[valid_BL[b]].sum()
  return out, {'load_balance': balance, 'router_z': z}, taken


def dense(config, params, x_BLD, valid_BL, taken_BLE):
  """Every expert of every token, weighted by zero where not chosen or not taken."""
  X = config.experts_per_token
  logits = x_BLD @ params['router']
  prob = jax.nn.softmax(logits)
  chosen = (prob[..., None, :] > prob[..., :, None]).sum(-1) < X   # fewer than X are above
  weight = prob * chosen
  if X > 1:
    weight /= weight.sum(-1, keepdims=True)
  act = layers.ACTIVATIONS[config.activation]
  up = lambda name: jnp.einsum('bld,edf->blef', x_BLD, params[name])
  h = act(up('gate')) * up('up') if config.gated_mlp else act(up('up'))
  y = jnp.einsum('blef,efd,ble->bld', h, params['down'], weight * taken_BLE)
  count = jnp.maximum(valid_BL.sum(1), 1)[:, None]
  mean = lambda x: (x * valid_BL[..., None]).sum(1) / count
  balance = prob.shape[-1] / X * (mean(chosen) * mean(prob)).sum(-1) * valid_BL.sum(1)
  z = jax.nn.logsumexp(logits, -1) ** 2 * valid_BL
  return y, {'load_balance': balance.sum(), 'router_z': z.sum()}


def objective_of(run, direction_BLD, valid_BL):
  """(params, x) -> a scalar that the output of all but padding and both losses enter."""
  def scalar(params, x_BLD):
    y_BLD, router_losses = run(params, x_BLD)
    return ((y_BLD * direction_BLD * valid_BL[..., None]).sum() +
            0.3 * router_losses['load_balance'] + 0.2 * router_losses['router_z'])
  return scalar


@pytest.mark.parametrize('form', FORMS)
def test_output_and_losses_are_those_of_a_loop_over_tokens(form):
  config = config_of(form)
  params, (x_BLD, valid_BL, _) = draw_params(config), draw_inputs()
  got, got_losses = apply(config, params, x_BLD, valid_BL)
  want, want_losses, taken_BLE = loop(config, params, x_BLD, valid_BL)
  np.testing.assert_allclose(got[valid_BL], want[valid_BL], atol=1e-5)
  for name in want_losses:
    assert got_losses[name] == pytest.approx(want_losses[name], rel=1e-5), name
  assert not taken_BLE[..., -1].any()
  dropped = taken_BLE.sum() < config.experts_per_token * valid_BL.sum()
  assert dropped == (config.expert_capacity is not None)


@pytest.mark.parametrize('form', FORMS)
def test_gradients_are_those_of_every_expert_computed_for_every_token(form, assert_gradients_close):
  config = config_of(form)
  params, (x_BLD, valid_BL, direction_BLD) = draw_params(config), draw_inputs()
  _, _, taken_BLE = loop(config, params, x_BLD, valid_BL)
  graphdef, _ = abstract_layer(config)
  layer = lambda params, x: nnx.merge(graphdef, params)(x, valid_BL)
  twin = functools.partial(dense, config, valid_BL=valid_BL, taken_BLE=taken_BLE)
  got, want = (
      jax.jit(jax.grad(objective_of(run, direction_BLD, valid_BL), argnums=(0, 1)))(params, x_BLD)
      for run in (layer, twin))
  assert_gradients_close(got, want)
  assert not np.any(got[0]['up'][-1]) and np.all(np.abs(got[0]['router'][:, :-1]).max(0) > 1e-2)


def test_one_choice_leaves_the_router_the_gradient_of_its_weight():
  """Scaled to 1 it would have none but that of its losses."""
  config = config_of('dropless, one choice')
  params, (x_BLD, _, direction_BLD) = draw_params(config), draw_inputs()
  graphdef, _ = abstract_layer(config)

  def output(params):
    return (nnx.merge(graphdef, params)(jnp.asarray(x_BLD), None)[0] * direction_BLD).sum()

  assert np.abs(jax.jit(jax.grad(output))(params)['router']).max() > 1


def test_room_for_all_is_no_capacity_and_padding_left_out_is_no_padding():
  params, (x_BLD, valid_BL, _) = draw_params(BASE), draw_inputs()
  dropless, losses = apply(BASE, params, x_BLD, valid_BL)
  roomy = dataclasses.replace(BASE, expert_capacity=float(E))   # each expert could take all
  got, got_losses = apply(roomy, params, x_BLD, valid_BL)
  np.testing.assert_allclose(got[valid_BL], dropless[valid_BL], atol=1e-5)
  assert got_losses == losses
  everything, _ = apply(BASE, params, x_BLD, None)
  np.testing.assert_allclose(everything[valid_BL], dropless[valid_BL], atol=1e-6)
  row = np.flatnonzero((valid_BL.sum(1) > 0) & (valid_BL.sum(1) < L))[:1]
  _, padded = apply(BASE, params, x_BLD[row], valid_BL[row])
  _, own = apply(BASE, params, x_BLD[row, :valid_BL[row].sum()], None)
  for name in own:
    assert float(own[name]) == pytest.approx(float(padded[name]), rel=1e-5)


@pytest.mark.parametrize('form', ['capacity', 'capacity, three choices'])
def test_what_padding_holds_takes_no_token_from_its_expert(form):
  config = config_of(form)
  params, (x_BLD, valid_BL, direction_BLD) = draw_params(config), draw_inputs()
  other = np.where(valid_BL[..., None], x_BLD, direction_BLD)
  a, b = (apply(config, params, x, valid_BL)[0] for x in (x_BLD, other))
  np.testing.assert_array_equal(a[valid_BL], b[valid_BL])


def test_the_order_of_tokens_decides_who_is_dropped():
  """By hand: four tokens, two experts that multiply by 1 and by 3, two slots each."""
  config = dataclasses.replace(BASE, embed_dim=4, num_experts=2, expert_capacity=0.5,
                               gated_mlp=False, activation='relu')
  eye = np.eye(4, F, dtype=np.float32)
  params = {'router': np.float32([[1, 0], [0, 1], [1, 0], [0, 1]]),
            'up': np.stack([eye, 3 * eye]), 'down': np.stack([eye.T, eye.T])}
  first = np.exp(1) / (np.exp(1) + 1)

  def factors(tokens):   # even ones choose the first expert, odd ones the other
    x = np.eye(4, dtype=np.float32)[tokens][None]
    y, _ = apply(config, params, x, None)
    np.testing.assert_array_equal(y * (x == 0), 0)
    return (y * x).sum(-1)[0]

  # First choices take every slot, though the second choice of the first token was there sooner.
  np.testing.assert_allclose(factors([1, 3, 0, 2]), [3 * first, 3 * first, first, first], rtol=1e-5)
  # The third token finds its expert full, and the other too: its last slot has gone to the first
  # token, as second choices come in order as well.
  np.testing.assert_allclose(factors([0, 2, 0, 1]),
                             [first + 3 * (1 - first), first, 0, 3 * first], rtol=1e-5)


@pytest.mark.parametrize('choices', [1, 2])
def test_balance_is_one_for_an_even_load_and_the_number_of_experts_for_a_collapse(choices):
  config = dataclasses.replace(BASE, embed_dim=4, num_experts=4, experts_per_token=choices)
  params = draw_params(dataclasses.replace(config, num_experts=5))
  params = {n: p[:4] for n, p in params.items()} | {'router': 50 * np.eye(4, dtype=np.float32)}
  even = np.tile(np.eye(4, dtype=np.float32), (2, 3, 1))
  # Of two choices each a half, the second being another expert for each.
  even += 0.9 * np.roll(even, 1, axis=-1) * (choices - 1)
  _, losses = apply(config, params, even, None)
  assert losses['load_balance'] == pytest.approx(2 * 12, rel=1e-6)
  valid = np.tile(np.arange(12) < 8, (2, 1))
  _, losses = apply(config, params, even, valid)
  assert losses['load_balance'] == pytest.approx(2 * 8, rel=1e-6)
  collapsed = np.tile(even[:, :1], (1, 12, 1))
  _, losses = apply(config, params, collapsed, valid)
  # With two choices each of the two experts has half of the load and their probabilities are 1.
  assert losses['load_balance'] == pytest.approx(2 * 8 * 4 / choices, rel=1e-2)
  if choices == 1:
    assert losses['load_balance'] == 2 * 8 * 4


def test_bfloat16_changes_little_and_keeps_its_dtype():
  config = dataclasses.replace(BASE, dtype='bfloat16', expert_capacity=1.0)
  params, (x_BLD, valid_BL, _) = draw_params(config), draw_inputs()
  x_BLD = jnp.asarray(x_BLD, jnp.bfloat16)
  for changes in ({}, dict(expert_capacity=None)):
    changed = dataclasses.replace(config, **changes)
    got, _ = apply(changed, params, x_BLD, valid_BL)
    assert got.dtype == jnp.bfloat16
    want, _, _ = loop(changed, params, x_BLD, valid_BL)
    error = np.abs(np.float64(got) - want)[valid_BL]
    assert error.max() < 0.03 * np.abs(want).max()


@pytest.mark.parametrize('form, mesh', [
    ('dropless', 'fsdp=4 tensor=2'), ('capacity', 'fsdp=4 tensor=2'),
    ('capacity, one choice', 'data=8')])
def test_on_a_mesh_the_layer_computes_what_it_does_on_one_device(
    form, mesh, assert_gradients_close):
  config = config_of(form)
  params, (x_BLD, valid_BL, direction_BLD) = draw_params(config), draw_inputs()
  partitioner = Partitioner(MESHES[mesh].make())
  _, abstract = abstract_layer(config)
  shardings = {path[0]: partitioner.sharding(v.axes, v.get_value().shape)
               for path, v in nnx.to_flat_state(abstract)}
  if mesh != 'data=8':
    assert tuple(shardings['up'].spec) == (None, 'fsdp', 'tensor')

  def compute(shard, valid_BL):
    graphdef, _ = abstract_layer(config, shard)
    layer = lambda params, x: nnx.merge(graphdef, params)(x, valid_BL)

    def with_output(params, x_BLD):
      output = layer(params, x_BLD)
      return objective_of(lambda *_: output, direction_BLD, valid_BL)(params, x_BLD), output

    return jax.jit(jax.value_and_grad(with_output, argnums=(0, 1), has_aux=True))

  (_, want), want_grads = compute(layers.unsharded, valid_BL)(params, x_BLD)
  placed = partitioner.put_batch({'x': x_BLD, 'valid': valid_BL})
  (_, got), grads = jax.device_get(compute(partitioner, placed['valid'])(
      jax.device_put(params, shardings), placed['x']))
  np.testing.assert_allclose(got[0], want[0], atol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), got[1], want[1])
  assert_gradients_close(grads, jax.device_get(want_grads))


@pytest.fixture(scope='module')
def mixture(configs):
  """(**changes) -> the tiny decoder with four experts, whose losses are not negligible."""
  return lambda **changes: dataclasses.replace(
      configs['decoder'], num_experts=4, **changes)


@pytest.mark.parametrize('capacity', [None, 1.25])
def test_a_decoder_of_experts_learns_a_batch(capacity, mixture, packed_batch):
  config = mixture(expert_capacity=capacity, init_std=0.05)
  optimizer = optimizers.AdamW(learning_rate=schedules.Constant(rate=0.01)).make()
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  network = models.build_network(config, partitioner)
  state, batch = init_state(network, optimizer, 0), packed_batch(config)
  objectives = CrossEntropy(), RouterLoss(load_balance=0.5, router_z=0.1)
  step = make_train_step(network, objectives, optimizer, partitioner, seed=0)
  step = step.lower(state, batch).compile()
  history = []
  for _ in range(20):
    state, metrics = step(state, batch)
    history.append({name: float(x) for name, x in flat(metrics).items()})
  loss = [m['loss'] / m['weight'] for m in history]
  assert loss[-1] < 0.7 * loss[0] and np.all(np.isfinite(loss))
  tokens = (batch['decoder_segment_ids'] > 0).sum()
  for m in history:
    assert 0.9 < m['load_balance'] / (config.num_layers * tokens) < 2   # E / X, if it collapsed
    share = m['weight'] / tokens
    assert m['objective'] == pytest.approx(
        m['loss'] + share * (0.5 * m['load_balance'] + 0.1 * m['router_z']), rel=1e-5)
  assert history[-1]['router_z'] < history[0]['router_z']


def test_parts_of_unequal_weight_give_the_routers_losses_of_one_batch(
    mixture, packed_examples, pack_rows, random_params, assert_gradients_close):
  config = mixture(expert_capacity=1.0)
  # The odd rows hold fewer tokens, or none, and more weight for each.
  rows = [row if i % 2 == 0 else row[:1] for i, row in enumerate(packed_examples(config)[:7])]
  batch = pack_rows(rows, num_rows=8)
  batch['decoder_loss_weights'][1::2] *= 3
  weight, tokens = batch['decoder_loss_weights'], batch['decoder_segment_ids'] > 0
  each = [weight[i::4].sum() / tokens[i::4].sum() for i in range(4)]
  assert max(each) > 2 * min(each), 'the share of a part would be that of the batch'
  network = models.build_network(config)
  objectives = CrossEntropy(), RouterLoss(load_balance=0.5, router_z=0.1)
  compute = lambda parts: jax.jit(lambda params, batch: loss_and_gradients(
      network, objectives, params, batch, None, microbatches=parts))(random_params(config), batch)
  sums, grads = compute(1)
  assert sums.total > 1.05 * sums.metrics['loss'][0]
  part_sums, part_grads = compute(4)
  jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5),
               part_sums, sums)
  assert_gradients_close(part_grads, grads)


def test_the_routers_losses_of_two_stacks_are_means_over_the_tokens_of_both(
    configs, packed_batch, random_params):
  config = dataclasses.replace(configs['encoder_decoder'], num_experts=4)
  batch = packed_batch(config)
  tokens = sum((batch[f'{side}_segment_ids'] > 0).sum() for side in ('encoder', 'decoder'))
  share = normalizers(batch)
  assert float(share['token']) == pytest.approx(batch['decoder_loss_weights'].sum() / tokens)
  network = models.build_network(config)
  loss_fn = add_objectives([CrossEntropy(), RouterLoss(load_balance=1.0, router_z=0.0)])
  compute = jax.jit(lambda params, batch: loss_fn(network.bind(params), batch, None, share))
  sums = compute(random_params(config), batch)
  balance, counted = sums.metrics['load_balance']
  assert counted == tokens and 0.9 < balance / (config.num_layers * tokens) < 2
  assert float(sums.total) == pytest.approx(
      float(sums.metrics['loss'][0] + share['token'] * balance))


@pytest.mark.parametrize('changes, field', [
    (dict(experts_per_token=3, num_experts=2), 'experts_per_token'),
    (dict(experts_per_token=2, num_experts=1), 'experts_per_token'), (dict(bias=True), 'bias'),
    (dict(num_experts=0), 'num_experts'), (dict(expert_capacity=0.0), 'expert_capacity')])
def test_experts_that_do_not_fit_together_are_refused_by_name(changes, field):
  with pytest.raises(FieldError) as error:
    dataclasses.replace(BASE, **changes)
  assert str(error.value).startswith(f'ModelConfig.{field} = ') and '\n' not in str(error.value)


def test_parameters_of_a_mixture_are_one_router_and_as_many_mlps(mixture):
  count = lambda config: sum(
      math.prod(x.shape) for x in jax.tree.leaves(models.build_network(config).shapes))
  config = mixture()
  mlp = 3 * config.embed_dim * config.mlp_dim
  one = dataclasses.replace(config, num_experts=None)
  assert count(config) - count(one) == config.num_layers * (3 * mlp + 4 * config.embed_dim)

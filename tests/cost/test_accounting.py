"""Parameters against closed forms; FLOPs against the products of the program itself, and XLA's."""

import dataclasses
import math

from flax import nnx
import jax
from jax.interpreters import partial_eval
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.partial import Partial
from t5x_lite.core import trees
from t5x_lite.cost import accounting
from t5x_lite.experiment import gin_config
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.objectives.objective import normalizers

LENGTH = 12
MODELS = gin_config.CONFIGS / 'models'


def abstract_batch(config, rows=1):
  tokens = jax.ShapeDtypeStruct((rows, LENGTH), np.int32)
  short = jax.ShapeDtypeStruct((rows, LENGTH // 2), np.int32)
  if config.family == 'decoder_only':
    return {'decoder_input_tokens': tokens}, (0, LENGTH)
  if config.family == 'encoder_only':
    return {'encoder_input_tokens': tokens}, (LENGTH, 0)
  batch = {'encoder_input_tokens': tokens, 'decoder_input_tokens': short}
  return batch, (LENGTH, LENGTH // 2)


def program(config, rows=1):
  """(function of parameters and a batch, its abstract arguments, tokens of a row)."""
  network = models.build_network(config)
  batch, lengths = abstract_batch(config, rows)
  run = lambda params, batch: network.bind(params)(batch)
  return run, (network.shapes, batch), lengths


def products(jaxpr) -> int:
  """2 x rows x columns x contracted size of every dot_general, loops counted as often as run."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      size = math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
      total += 2 * size * math.prod(eqn.outvars[0].aval.shape)
    times = eqn.params.get('length', 1) if eqn.primitive.name == 'scan' else 1
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += times * products(inner)
  return total


def variants(configs):
  decoders = dataclasses.replace(configs['encoder_decoder'], num_decoder_layers=3)
  heads = {head: dataclasses.replace(configs['encoder'], head=head, num_classes=classes)
           for head, classes in (('mlm_nsp', None), ('classifier', 5), ('tagger', 5),
                                 ('pooler', None))}
  return configs | heads | {'encoder_decoder of 2 and 3 layers': decoders}


@pytest.mark.parametrize('name', [
    'decoder', 'gpt', 'encoder_decoder', 'encoder_decoder of 2 and 3 layers', 'encoder', 'mlm_nsp',
    'classifier', 'tagger', 'pooler'])
def test_forward_flops_are_the_products_of_the_program(name, configs):
  config = variants(configs)[name]
  run, arguments, lengths = program(config)
  want = products(jax.make_jaxpr(run)(*arguments).jaxpr)
  assert accounting.forward_flops(config, *lengths) == want


@pytest.mark.parametrize('head, classes', [('classifier', 5), ('choice', None)])
def test_a_head_of_texts_costs_a_product_a_row(head, classes, configs):
  plain = configs['gpt']
  config = dataclasses.replace(plain, head=head, num_classes=classes)
  network = models.build_network(config)
  batch = {'decoder_input_tokens': jax.ShapeDtypeStruct((1, 16), np.int32),
           'text_positions': jax.ShapeDtypeStruct((1, 1), np.int32)}

  def run(params, batch):
    outputs = network.bind(params).outputs(batch)
    return outputs.logits(), outputs.class_logits()

  flops = accounting.forward_flops(config, 0, 16)
  assert products(jax.make_jaxpr(run)(network.shapes, batch).jaxpr) == flops
  assert flops - accounting.forward_flops(plain, 0, 16) == 2 * 32 * (classes or 1)


@pytest.mark.parametrize('name', ['decoder', 'encoder_decoder', 'encoder'])
def test_forward_flops_are_most_of_what_xla_counts(name, configs):
  """XLA counts norms, softmax and activations too: few where the model is wide."""
  config = dataclasses.replace(
      configs[name], embed_dim=512, mlp_dim=1024, head_dim=128, vocab_size=2048,
      scan_layers=False)
  run, arguments, lengths = program(config)
  counted = jax.jit(run).lower(*arguments).cost_analysis()['flops']
  assert 0.96 * counted < accounting.forward_flops(config, *lengths) <= counted


def test_a_decoder_without_grouped_queries_costs_6n_and_12lds_a_token(configs):
  """N are the weights of matrices, the output layer among them and the lookup not."""
  config = dataclasses.replace(configs['gpt'], bias=False, position_embedding='rope')
  n = sum(x.size for x in jax.tree.leaves(models.build_network(config).shapes) if x.ndim > 1)
  norms = 2 * 2 * 2 * 32   # scales and biases of two norms in two layers are stacked, so 2-D
  n -= norms
  want = LENGTH * (6 * n + 12 * config.num_layers * config.embed_dim * LENGTH)
  assert accounting.train_flops(config, 0, LENGTH) == want


def test_causal_counts_half_of_decoder_self_attention_and_all_of_the_rest(configs):
  scores = lambda layers, q, k: layers * 4 * 32 * q * k
  saved = lambda name, *lengths: (accounting.forward_flops(configs[name], *lengths)
                                  - accounting.forward_flops(configs[name], *lengths, causal=True))
  assert saved('decoder', 0, 12) == scores(2, 12, 12) // 2
  assert saved('encoder_decoder', 12, 6) == scores(2, 6, 6) // 2
  assert saved('encoder', 12, 0) == 0


def test_causal_counts_only_what_a_window_leaves(configs):
  """Of 11 keys a query sees the 4 nearest before it, and on an encoder's side those after it."""
  for name, lengths, sides in (('decoder', (0, 11), 1), ('encoder', (11, 0), 2)):
    config = dataclasses.replace(configs[name], sliding_window=4, full_attention_interval=2)
    pairs = sides * (11 * 4 - 4 ** 2 / 2) + sides * 11 ** 2 / 2   # of a layer with and one without
    saved = (accounting.forward_flops(config, *lengths)
             - accounting.forward_flops(config, *lengths, causal=True))
    assert saved == 4 * 32 * (2 * 11 ** 2 - pairs)
    wide = dataclasses.replace(config, sliding_window=11)
    assert (accounting.forward_flops(wide, *lengths, causal=True)
            == accounting.forward_flops(configs[name], *lengths, causal=True))


def test_idle_parameters_are_those_of_the_experts_not_chosen(configs):
  for name, stacks in (('decoder', 2), ('encoder_decoder', 4)):
    config = dataclasses.replace(configs[name], num_experts=5, experts_per_token=2)
    params = models.build_network(config).abstract
    flat = nnx.to_flat_state(params)
    experts = sum(math.prod(v.get_value().shape) for path, v in flat
                  if 'experts' in v.axes and path[-1] != 'router')
    assert accounting.idle_parameters(config) == experts * 3 // 5
    assert experts == stacks * 5 * 3 * 32 * 64
    assert accounting.idle_parameters(configs[name]) == 0


def test_training_costs_three_forward_passes(configs):
  for config in configs.values():
    assert (accounting.train_flops(config, 8, 4, causal=True)
            == 3 * accounting.forward_flops(config, 8, 4, causal=True))


def loss_of(config, lengths):
  """(gradient of the loss over a row, as a step computes it; its abstract arguments)."""
  network = models.build_network(config)
  target = config.target_side
  inputs, targets = lengths
  batch = {'encoder_input_tokens': inputs, 'decoder_input_tokens': targets,
           f'{target}_target_tokens': targets or inputs}
  batch = {name: jax.ShapeDtypeStruct((1, length), np.int32)
           for name, length in batch.items() if length}
  weights = jax.ShapeDtypeStruct((1, targets or inputs), np.float32)

  def loss(params, batch):
    objective = CrossEntropy(loss_tokens=2 * LENGTH * 16)
    return objective(network.bind(params), batch, None, normalizers(batch)).total

  return jax.grad(loss), (network.shapes,
                          batch | {f'{target}_loss_weights': weights})


@pytest.mark.parametrize('name, change, lengths', [
    ('decoder', {}, (0, 128)), ('gpt', {}, (0, 128)), ('encoder', {}, (128, 0)),
    ('encoder_decoder', {}, (128, 64)), ('decoder', {'num_experts': 4, 'expert_capacity': 1.0},
                                         (0, 128))],
    ids=['llama', 'gpt', 'bert', 't5', 'experts'])
def test_train_flops_are_what_xla_counts_of_the_gradient(name, change, lengths, configs):
  """Compiled, unrolled, all scores computed: to 2 %.

  The products of the program are the count, exactly. What XLA counts besides is elementwise, a
  FLOP for each number: softmax, norms, activations and residuals, forwards and backwards. It grows
  with the width where products grow with its square.
  """
  config = dataclasses.replace(
      configs[name], embed_dim=512, mlp_dim=2048, head_dim=128, vocab_size=4096, num_layers=1,
      scan_layers=False, attention='reference', max_length=128, **change, **(
          {'num_decoder_layers': 1} if name == 'encoder_decoder' else {}))
  gradient, arguments = loss_of(config, lengths)
  want = accounting.train_flops(config, *lengths)
  assert products(jax.make_jaxpr(gradient)(*arguments).jaxpr) == want
  counted = jax.jit(gradient).lower(*arguments).compile().cost_analysis()['flops']
  assert want <= counted <= 1.02 * want


@pytest.mark.parametrize('name, adaptation', [
    ('decoder', Lora(rank=4)), ('decoder', Lora(targets=('attention/(query|value)',), rank=4)),
    ('encoder_decoder', Lora(targets=('mlp', 'cross/'), rank=4)),
    ('decoder', Partial(trained='mlp')),
    ('gpt', Partial(trained='bias')), ('decoder', Partial(trained='embedder/tokens')),
    ('encoder_decoder', Partial(trained='embedder/output|decoder/final_norm')),
    ('tagger', Partial(trained='classifier'))])
def test_frozen_kernels_have_no_gradient_of_their_own(name, adaptation, configs):
  config = dataclasses.replace(variants(configs)[name], attention='reference')
  network = adaptation.adapt(models.build_network(config))
  trained, frozen = trees.partition(network.shapes, network.is_trained)
  batch, lengths = abstract_batch(config)
  loss = lambda trained, frozen, batch: jnp.square(network.bind(
      trees.combine(trained, frozen))(batch)).sum()
  program = jax.make_jaxpr(jax.grad(loss))(trained, frozen, batch).jaxpr
  used, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
  want = accounting.train_flops(config, *lengths, network=network)
  unused = 0
  if name == 'tagger':   # nothing reads the gradient of what the head reads
    unused = 2 * config.embed_dim * config.num_classes * LENGTH
  assert products(used) == want - unused
  assert want < accounting.train_flops(config, *lengths)
  assert accounting.train_flops(config, *lengths, network=models.build_network(config)) == (
      accounting.train_flops(config, *lengths))


def test_a_decoder_that_classifies_has_its_output_layer_besides(configs):
  """Its frozen head adds a product forwards and one backwards to what LoRA takes without it."""
  config = dataclasses.replace(configs['decoder'], tied_embeddings=True)
  count = lambda config: accounting.train_flops(
      config, 0, 128, network=Lora(rank=4).adapt(models.build_network(config)))
  assert count(dataclasses.replace(config, num_classes=3)) - count(config) == (
      2 * 2 * config.embed_dim * 3)


def test_a_kernel_that_skips_what_the_mask_hides_costs_between_the_two_conventions(configs):
  """`rows` computes the scores of the keys up to its last query, in slices of 64 queries."""
  config = dataclasses.replace(
      configs['decoder'], embed_dim=128, mlp_dim=128, num_heads=4, num_kv_heads=4, head_dim=32,
      num_layers=1, scan_layers=False, attention='query_chunked')
  gradient, arguments = loss_of(config, (0, 256))
  run = products(jax.make_jaxpr(gradient)(*arguments).jaxpr)
  whole = accounting.train_flops(config, 0, 256)
  masked = accounting.train_flops(config, 0, 256, causal=True)
  scores = 3 * 4 * 128 * 256 * 256
  assert (whole - scores, masked) == (run - scores * (1 + 2 + 3 + 4) // 16, whole - scores // 2)


def closed_form(c) -> tuple[int, int, int]:
  """(all, of the embedder, active) parameters, from the formulas that papers print."""
  d, h, e, kv, f, v = (c.embed_dim, c.num_heads, c.head_dim, c.num_kv_heads, c.mlp_dim,
                       c.vocab_size)
  gates = 3 if c.gated_mlp else 2
  norm = d * (2 if c.norm == 'layer_norm' else 1)
  norms = norm * (2 if c.norm_placement == 'both' else 1)
  attention = 2 * d * h * e + 2 * d * kv * e + c.bias * (h * e + 2 * kv * e + d)
  expert = gates * d * f
  mlp = expert + c.bias * ((gates - 1) * f + d)
  if c.num_experts:
    mlp = c.num_experts * expert + d * c.num_experts
  final = 0 if c.norm_placement == 'post' else norm
  relative = c.relative_buckets * h if c.position_embedding == 'relative' else 0
  layers = c.num_layers + (c.num_decoder_layers or 0)
  stacks = 2 if c.family == 'encoder_decoder' else 1
  blocks = layers * (attention + mlp + 2 * norms) + stacks * (final + relative)
  blocks += (c.num_decoder_layers or 0) * (attention + norms)
  heads = {'mlm': d * d + c.bias * d + norm + v, 'classifier': d * d + d + d * (c.num_classes or 0)
           + (c.num_classes or 0), 'tagger': (d + 1) * (c.num_classes or 0), 'pooler': d * d + d,
           'mlm_nsp': d * d + c.bias * d + norm + v + d * d + d + 2 * d + 2, None: 0}
  rows = v + (c.max_length if c.position_embedding == 'learned' else 0) + (c.num_token_types or 0)
  output = 0 if c.tied_embeddings or c.head not in (None, 'mlm', 'mlm_nsp') else v
  embedder = (rows + output) * d + (norm if c.embedding_norm else 0)
  total = embedder + blocks + heads[c.head]
  idle = layers * (c.num_experts - c.experts_per_token) * expert if c.num_experts else 0
  return total, embedder, total - idle


@pytest.mark.parametrize('name', sorted(path.stem for path in MODELS.glob('*.gin')))
def test_parameters_of_every_config_are_those_of_the_formulas(name):
  config = gin_config.load_described([f'models/{name}.gin'], []).model
  counted = accounting.parameters(config)
  assert (counted.total, counted.embedding, counted.active) == closed_form(config)
  assert counted.non_embedding == counted.total - counted.embedding


def test_shapes_are_those_of_the_parameters_drawn(configs):
  for config in configs.values():
    for scan_layers in (True, False):
      config = dataclasses.replace(config, scan_layers=scan_layers)
      network = models.build_network(config)
      drawn = jax.eval_shape(lambda network=network: network.init(jax.random.key(0)))
      assert accounting.shapes(config) == {
          name: x.shape for name, x in trees.flatten(drawn).items()}

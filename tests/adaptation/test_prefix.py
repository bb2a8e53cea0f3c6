"""Prefix tuning, prompt tuning and LLaMA-Adapter: what they compute, start from, train and save."""

import dataclasses
import functools
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.llama_adapter import LlamaAdapter
from t5x_lite.adaptation.prefix import PrefixTuning, PromptTuning
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.commands import export, infer, merge
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.inference.generate import make_greedy
from t5x_lite.interop import huggingface
from t5x_lite.models.attention.kernels import AttentionSpec
from t5x_lite.models.attention.masks import Mask
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import run_folder
from t5x_lite.training.checkpoints import reader_of

CONFIG = models.ModelConfig(
    family='decoder_only', vocab_size=32, embed_dim=16, num_layers=3, num_heads=4, num_kv_heads=2,
    mlp_dim=24, init_std=0.3)
BLOCKWISE = dataclasses.replace(CONFIG, attention='blockwise')
UNROLLED = dataclasses.replace(CONFIG, scan_layers=False)
ALIBI = dataclasses.replace(UNROLLED, position_embedding='alibi')
WINDOWS = dataclasses.replace(UNROLLED, sliding_window=3)
IDS = jax.random.randint(jax.random.key(0), (2, 8), 1, 32)
START = (5, 6, 7, 8)


def batch_of(ids, **more):
  return {'decoder_input_tokens': ids, 'decoder_target_tokens': ids, **more}


def logits(network, params, batch):
  return jax.jit(lambda params: network.bind(params)(batch))(params)


def beginning(network):
  """Jitted key -> first parameters, with those that follow from others."""
  def begin(key):
    flat = trees.flatten(network.init(key))
    return trees.fill(network.shapes, flat | (network.begin(flat) if network.begin else {}))

  return jax.jit(begin)


@functools.cache
def base_of(config):
  """(network, its first parameters, its logits of IDS)"""
  base = models.build_network(config)
  params = jax.jit(base.init)(jax.random.key(0))
  return base, params, logits(base, params, batch_of(IDS))


@functools.cache
def after_start(config):
  """The base's logits of IDS after the tokens of START."""
  base, plain, _ = base_of(config)
  before = jnp.concatenate([jnp.tile(jnp.asarray(START)[None], (2, 1)), IDS], 1)
  return logits(base, plain, batch_of(before))[:, 4:]


@functools.cache
def opened(adaptation, config):
  """(network, parameters) of an adaptation as it begins, but that its gates are open."""
  network = adaptation.adapt(models.build_network(config))
  return network, trees.fill(network.shapes, {
      path: x + 0.5 if 'adapter_gate' in path else x
      for path, x in trees.flatten(beginning(network)(jax.random.key(0))).items()})


@pytest.mark.parametrize('adaptation, config', [
    (PrefixTuning, CONFIG), (PrefixTuning, BLOCKWISE), (PrefixTuning, ALIBI),
    (PromptTuning, BLOCKWISE), (PromptTuning, ALIBI)],
    ids=['prefix-stacked', 'prefix-blockwise', 'prefix-unrolled alibi', 'prompt-blockwise',
         'prompt-unrolled alibi'])
def test_it_starts_as_the_base_that_reads_the_tokens_before_the_text(adaptation, config):
  network, params = opened(adaptation(length=4, tokens=START), config)
  want = after_start(config)
  np.testing.assert_allclose(logits(network, params, batch_of(IDS)), want, atol=2e-5)
  assert np.abs(want - base_of(config)[2]).max() > 0.1


@pytest.mark.parametrize('adaptation', [
    PromptTuning(length=3), PrefixTuning(length=3), LlamaAdapter(length=3, layers=2)])
def test_each_example_of_a_packed_row_sees_it(adaptation):
  network, params = opened(adaptation, CONFIG)
  packed = logits(network, params, batch_of(
      IDS.reshape(1, 16), decoder_segment_ids=jnp.repeat(jnp.array([[1, 2]]), 8, 1),
      decoder_positions=jnp.tile(jnp.arange(8), 2)[None]))
  alone = logits(network, params, batch_of(IDS))
  np.testing.assert_allclose(packed.reshape(alone.shape), alone, atol=2e-5)


@pytest.mark.parametrize('adaptation, config', [
    (PrefixTuning(length=3), CONFIG), (LlamaAdapter(length=3, layers=2), CONFIG),
    (PrefixTuning(length=3), WINDOWS), (PromptTuning(length=3), WINDOWS)],
    ids=['prefix-stacked', 'llama_adapter-stacked', 'prefix-windows', 'prompt-windows'])
def test_decoding_with_a_cache_gives_the_same_logits(adaptation, config):
  network, params = opened(adaptation, config)
  one = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  greedy = make_greedy(network, one, max_tokens=5, eos_id=0, pad_id=0, num_ids=32)

  def run(params):
    model = network.bind(params)
    ids, logprobs, _ = greedy(params, batch_of(IDS), IDS, jnp.ones(IDS.shape, bool))
    score = logprobs.sum(1)
    whole = jnp.concatenate([IDS, ids], 1)
    log_p = jax.nn.log_softmax(model(batch_of(whole)))[:, 7:-1]
    return ids, score, jnp.take_along_axis(log_p, ids[..., None], -1)[..., 0]

  ids, score, log_p = jax.jit(run)(params)
  ended = np.cumsum(np.asarray(ids) == 0, 1) - (np.asarray(ids) == 0) > 0
  np.testing.assert_allclose(score, np.where(ended, 0, log_p).sum(1), rtol=1e-4)


@pytest.mark.parametrize('config', [CONFIG, UNROLLED], ids=['stacked', 'unrolled'])
def test_llama_adapter_begins_as_the_base_bit_for_bit_and_adds_gated_rows(config):
  base, _, want = base_of(config)
  network = LlamaAdapter(length=3, layers=1).adapt(base)
  params = beginning(network)(jax.random.key(0))
  run = jax.jit(lambda params: network.bind(params)(batch_of(IDS)))
  np.testing.assert_array_equal(run(params), want)
  flat = trees.flatten(params)
  flat['decoder/adapter_gate'] = np.full((1, 4), 0.7, np.float32)
  assert np.abs(run(trees.fill(params, flat)) - want).max() > 0.1
  # The gradient of the gates is not 0 where they are.
  grads = jax.jit(jax.grad(lambda params: jnp.square(run(params)).sum()))(params)
  assert np.all(np.abs(trees.flatten(grads)['decoder/adapter_gate']) > 0)


def test_gated_rows_are_those_of_the_papers_code():
  """adapter_k = wk(adapter), tanh(gate) softmax(q k / sqrt(d)) v, without rotation, by head."""
  torch = pytest.importorskip('torch')
  config = dataclasses.replace(CONFIG, num_layers=1, num_kv_heads=4)
  network = LlamaAdapter(length=3, layers=1).adapt(models.build_network(config))
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, k, v = draw(2, 4, 8, 4), draw(2, 4, 8, 4), draw(2, 4, 8, 4)
  params = trees.fill(network.shapes, {n: draw(*x.shape) for n, x in trees.flatten(
      network.shapes).items()})
  block = network.bind(params).decoder.blocks.attention
  leaf = jax.tree.map(lambda x: x[0], block.key.kernel.get_value())
  zeros = lambda q, k, v, spec: jnp.zeros_like(q)
  got = leaf.attend(q, k, v, AttentionSpec(mask=Mask(causal=True), scale=0.5), zeros)
  flat = {n: torch.tensor(np.asarray(x)) for n, x in trees.flatten(params).items()}
  rows = flat['decoder/adapter_rows'][0]
  project = lambda name: torch.einsum('pd,dnh->nph', rows, flat[
      f'decoder/blocks/attention/{name}/kernel'][0])[None]
  scores = torch.tensor(q) @ project('key').transpose(2, 3) / math.sqrt(4)
  gate = flat['decoder/adapter_gate'][0][None, :, None, None].tanh()
  np.testing.assert_allclose(got, gate * scores.softmax(-1) @ project('value'), atol=1e-5)


def test_llama_adapter_of_7b_trains_1228800_numbers_and_960_gates():
  config = models.ModelConfig(family='decoder_only', vocab_size=32000, embed_dim=4096,
                              num_layers=32, num_heads=32, mlp_dim=11008, tied_embeddings=False)
  network = LlamaAdapter(length=10).adapt(models.build_network(config))
  trained = {n: math.prod(x.shape) for n, x in trees.flatten(network.shapes).items()
             if network.is_trained(n)}
  assert trained == {'decoder/adapter_rows': 10 * 4096 * 30, 'decoder/adapter_gate': 30 * 32}


@pytest.mark.parametrize('name, adaptation', [
    ('encoder_decoder', PrefixTuning(length=3)), ('gpt', LlamaAdapter(length=3, layers=2))])
def test_other_families_and_a_quantised_base(name, adaptation, configs, packed_batch):
  config = configs[name]
  plain = adaptation.adapt(models.build_network(config))
  network = Quantized(adaptation=adaptation, block=32).adapt(models.build_network(config))
  params = beginning(plain)(jax.random.key(0))
  held = jax.jit(lambda params: trees.fill(params, {
      n: network.quantized(n).quantize(x) if network.quantized(n) else x
      for n, x in trees.flatten(params).items()}))(params)
  batch = packed_batch(config)
  got, want = logits(network, held, batch), logits(plain, params, batch)
  assert 0 < np.abs(got - want).mean() < 0.3 * np.abs(want).mean()


def test_rows_start_from_words_that_the_seed_draws():
  base, plain, _ = base_of(CONFIG)
  begin = beginning(PromptTuning(length=6).adapt(base))
  rows = [np.asarray(trees.flatten(begin(jax.random.key(seed)))['decoder/prompt_rows'])
          for seed in (0, 0, 1)]
  np.testing.assert_array_equal(rows[0], rows[1])
  table = np.asarray(plain['embedder']['tokens'])
  assert all(any(np.array_equal(row, x) for x in table) for row in rows[0])
  assert not np.array_equal(rows[0], rows[2]) and len({row.tobytes() for row in rows[0]}) > 2


@pytest.mark.parametrize('adaptation, change, message', [
    (lambda: PromptTuning(length=2, tokens=(1, 2, 3)), {}, r'PromptTuning.tokens = .*3 are more'),
    (lambda: PromptTuning(tokens=(32,)), {}, r'PromptTuning.tokens = .*: ids are 0 to 31'),
    (lambda: PrefixTuning(), {'prefix_lm': True}, 'PrefixTuning.length = 10: not supported with'),
    (lambda: PromptTuning(), {'family': 'encoder_decoder'}, 'a prompt of encoder_decoder is not'),
    (lambda: LlamaAdapter(layers=4), {}, r'LlamaAdapter.layers = 4: the decoder has 3'),
    (lambda: LlamaAdapter(trained='('), {}, r'LlamaAdapter.trained = .*regular expression'),
    (lambda: PrefixTuning(trained='head'), {}, r'PrefixTuning.trained = .*matches no parameter'),
    (lambda: PromptTuning(length=0), {}, 'PromptTuning.length = 0')])
def test_what_does_not_fit_is_refused(adaptation, change, message):
  with pytest.raises(UserError, match=message):
    adaptation().adapt(models.build_network(dataclasses.replace(CONFIG, **change)))


def test_shared_keys_are_seen_by_all_and_shift_the_others():
  segments = jnp.array([[1, 1, 2, 2]])
  mask = Mask(q_segments_BL=segments, k_segments_BS=segments, causal=True, sliding_window=2)
  got = mask.with_shared(3).block(0, 4, 0, 7)
  np.testing.assert_array_equal(got[..., 3:], mask.block(0, 4, 0, 4))
  assert got[..., :3].all() and mask.with_shared(3).key_range(2, 2, 7)[0] == 0


# Runs.
PROMPT = ['Experiment.adaptation=@prefix.PromptTuning()', 'PromptTuning.length=4']


@pytest.mark.slow
def test_a_run_saves_its_rows_alone_resumes_and_answers(base, run, resumed, tmp_path):
  start = [*PROMPT, 'Experiment.init_from=@experiment.InitFrom()',
           f"InitFrom.model_dir='{base.folder}'"]
  whole, _ = run(tmp_path / 'whole', *start)
  again = resumed(whole, tmp_path / 'again', *start)
  losses = lambda experiment: [r['loss'] for r in run_folder.read_metrics(
      experiment.folder / 'metrics.jsonl') if r['kind'] == 'train']
  assert losses(again) == losses(whole)
  assert set(trees.flatten(reader_of(whole.folder).param_shapes(4))) == {'decoder/prompt_rows'}
  assert len(infer.answer(whole, ['1 + 2 ='])) == 1
  with pytest.raises(UserError, match='what PromptTuning adds cannot be merged into kernels'):
    merge.merge_run(whole.folder, tmp_path / 'merged')
  with pytest.raises(UserError, match='has parameters that no model of transformers has: '
                     'decoder/prompt_rows'):
    export.export_run(whole.folder, tmp_path / 'out', None, 'float32')
  with pytest.raises(UserError, match='is of an adapter, decoder/prompt_rows'):
    run(tmp_path / 'plain', 'Experiment.init_from=@experiment.InitFrom()',
        f"InitFrom.model_dir='{whole.folder}'")


PEER = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '')) / 'peers/lora/llama/base'


@pytest.mark.skipif(not PEER.is_dir(), reason='T5X_LITE_TEST_DATA/peers/lora is unset')
def test_prompts_and_gated_rows_are_those_of_peft():
  peft = pytest.importorskip('peft')
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  mesh = MeshConfig(data=1, fsdp=1).make(jax.devices()[:1])
  config, base = huggingface.load_model(PEER, Partitioner(mesh))
  ids = np.random.default_rng(0).integers(1, 61, (2, 12))
  theirs = lambda settings: peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(
      PEER, dtype=torch.float32), settings).eval()

  def ours(adaptation, **added):
    network = adaptation.adapt(models.build_network(config))
    flat = trees.flatten(base) | {f'decoder/{name}': x for name, x in added.items()}
    return logits(network, trees.fill(network.shapes, flat), batch_of(jnp.asarray(ids, jnp.int32)))

  model = theirs(peft.PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=5))
  rows = model.prompt_encoder['default'].embedding.weight.detach().numpy()
  with torch.no_grad():
    want = model(input_ids=torch.tensor(ids), attention_mask=torch.ones(2, 12)).logits[:, 5:]
  np.testing.assert_allclose(ours(PromptTuning(length=5), prompt_rows=rows), want, atol=1e-5)
  model = theirs(peft.AdaptionPromptConfig(task_type='CAUSAL_LM', adapter_len=4, adapter_layers=1))
  (layer,) = [x for x in model.modules() if type(x).__name__ == 'AdaptedAttention']
  layer.adaption_gate.data.fill_(0.8)   # theirs is the factor itself, one for all heads
  with torch.no_grad():
    want = model(input_ids=torch.tensor(ids)).logits
  gate = np.full((1, config.num_heads), np.arctanh(0.8), np.float32)
  got = ours(LlamaAdapter(length=4, layers=1), adapter_gate=gate,
             adapter_rows=layer.adaption_prompt.detach().numpy())
  np.testing.assert_allclose(got, want, atol=1e-5)

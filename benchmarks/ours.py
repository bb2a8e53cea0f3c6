"""A worker of speed.py, decode.py and tuning.py: our train step, and our cached greedy decoding."""

import time

import harness


def config_of(family: str, size: str, **changes):
  """The ModelConfig of a family at a size; layers unrolled, as they are few."""
  from t5x_lite.models import ModelConfig

  c = harness.SIZES[size]
  usual = dict(vocab_size=c['vocab'], embed_dim=c['width'], num_layers=c['layers'],
               num_heads=c['heads'], scan_layers=False)
  biased = dict(norm='layer_norm', gated_mlp=False, bias=True, position_embedding='learned',
                max_length=c['length'], mlp_dim=4 * c['width'])
  families = {
      'gpt2': biased | dict(family='decoder_only', norm_epsilon=1e-5, activation='gelu'),
      'llama': dict(family='decoder_only', mlp_dim=c['gated_mlp'], tied_embeddings=False),
      't5': dict(family='encoder_decoder', mlp_dim=c['gated_mlp'], activation='gelu',
                 position_embedding='relative', attention_scale=1.0, tied_embeddings=False,
                 init_std=None),
      'bert': biased | dict(family='encoder_only', norm_epsilon=1e-12, norm_placement='post',
                            embedding_norm=True, activation='gelu_exact', num_token_types=2)}
  return ModelConfig(**usual | families[family] | changes)


def features(family: str, batch):
  """A batch of the harness in the names of ours."""
  import numpy as np

  side = 'encoder' if family == 'bert' else 'decoder'
  result = {f'{side}_input_tokens': batch['inputs'], f'{side}_target_tokens': batch['targets'],
            f'{side}_loss_weights': batch['weights']}
  if family == 't5':
    result['encoder_input_tokens'] = batch['inputs']
    result['decoder_input_tokens'] = np.pad(batch['targets'][:, :-1], ((0, 0), (1, 0)))
  return result


def adaptation_of(tune: str):
  """None, LoRA or QLoRA, as tuning.py compares them."""
  from t5x_lite.adaptation.lora import Lora
  from t5x_lite.adaptation.quantization.quantized import Quantized

  if tune == 'full':
    return None
  lora = Lora(targets=('all_linear',), rank=harness.RANK, alpha=harness.RANK)
  return lora if tune == 'lora' else Quantized(adaptation=lora)


def decoding(case, network, partitioner, info):
  """(Steps that write all new tokens, and one; what is reported) of a network in float32 or codes.
  """
  import jax
  import numpy as np

  from t5x_lite.adaptation.quantization.quantized import Quantized
  from t5x_lite.core import trees
  from t5x_lite.inference import generate
  from t5x_lite.training.state import quantize_frozen

  family, rows = case['family'], case['rows']
  params = jax.jit(lambda: network.init(jax.random.key(0), True))()
  if settings := case.get('quantized'):
    network = Quantized(**settings).adapt(network)
    params = quantize_frozen(network, params)
  tokens = harness.prompt(family, case['size'], rows, case.get('prompt', harness.PROMPT))
  batch = {'encoder_input_tokens' if family == 't5' else 'decoder_input_tokens': tokens}
  start = np.zeros((rows, 1), np.int32) if family == 't5' else tokens
  args = params, batch, start, np.ones(start.shape, bool)

  def step(new):
    run = generate.make_greedy(network, partitioner, max_tokens=new, eos_id=-1, pad_id=0,
                               num_ids=network.config.vocab_size)
    compiled = run.lower(*args).compile()
    return lambda: jax.block_until_ready(compiled(*args))

  begun, new = time.perf_counter(), case.get('new', harness.NEW)
  steps = {'': step(new)}
  info['compile_s'] = time.perf_counter() - begun
  if case.get('apart'):
    steps |= {'first': step(1), 'memory': memory_reader()}
    config = network.config
    looked_up = 'position' if config.tied_embeddings else 'embedder'
    info['read_mb'] = sum(x.nbytes for name, x in trees.flatten(params).items()
                          if looked_up not in name) / 1e6
    cache = 2 * 4 * config.num_layers * config.num_kv_heads * config.head_dim
    info['read_mb'] += rows * (tokens.shape[1] + new / 2) * cache / 1e6
  return steps, info


def memory_reader():
  """A step that reads an array of READ_MB, too large for any cache, on all threads."""
  from concurrent import futures
  import os

  import numpy as np

  threads = int(os.environ['NPROC'])
  parts = np.ones((threads, harness.READ_MB * 250_000 // threads), np.float32)
  pool = futures.ThreadPoolExecutor(threads)
  return lambda: sum(pool.map(np.max, parts))


def prepare(case):
  import jax

  from t5x_lite import models
  from t5x_lite.objectives.language_model import CrossEntropy
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.parallel.partitioner import Partitioner
  from t5x_lite.training import optimizers, schedules
  from t5x_lite.training.state import abstract_state, init_state, shardings_of
  from t5x_lite.training.step import make_train_step

  family, size = case['family'], case['size']
  config = config_of(family, size, **case.get('config', {}))
  partitioner = Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))
  network = models.build_network(config, partitioner)
  if adaptation := adaptation_of(case.get('tune', 'full')):
    network = adaptation.adapt(network)
  info = {'jax': jax.__version__}
  if case['task'] == 'decode':
    return decoding(case, network, partitioner, info)

  optimizer = optimizers.AdamW(learning_rate=schedules.Constant(rate=1e-4), clip_norm=None).make()
  abstract = abstract_state(network, optimizer, partitioner)
  state = jax.jit(lambda: init_state(network, optimizer, 0, one_device=True),
                  out_shardings=shardings_of(abstract))()
  info['parameters'] = sum(x.size for x in jax.tree.leaves(state['params']))
  answers = case.get('answers', 1.0)
  data = [partitioner.put_batch(features(family, b))
          for b in harness.batches(family, size, answers=answers)]
  begun = time.perf_counter()
  step_fn = make_train_step(network, [CrossEntropy()], optimizer, partitioner, seed=0)
  lowered = step_fn.lower(state, data[0])
  info['trace_s'] = time.perf_counter() - begun
  begun = time.perf_counter()
  compiled = lowered.compile()
  info['compile_s'] = time.perf_counter() - begun
  info['temporary_mb'] = compiled.memory_analysis().temp_size_in_bytes / 2 ** 20
  held, count = [state], iter(range(10 ** 9))

  def step():
    held[0], sums = compiled(held[0], data[next(count) % len(data)])
    jax.block_until_ready(held[0])
    return float(sums.metrics['loss'][0])

  return step, info


if __name__ == '__main__':
  harness.serve(prepare)

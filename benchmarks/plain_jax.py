"""A worker of speed.py: what plain JAX does, written by hand for these four shapes alone.

Nothing can be configured, nothing is packed, masked or sharded. It has the tricks known to help on
a CPU: weight gradients whose transposition is done for real, attention of 64 queries at a time,
cross-entropy in chunks with the gradient taken in the forward pass.

Letters: B batch, L length, S keys, D width, N heads, H head size, V vocabulary.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

CHUNK, ROWS = 512, 64   # tokens whose logits are held at once; queries of a slice of attention


@jax.custom_vjp
def dot(x, w):
  return x @ w


def _dot_backward(saved, dy):
  x, w = saved
  flat = lambda a: a.reshape(-1, a.shape[-1])
  return dy @ w.T, jax.lax.optimization_barrier(flat(x).T) @ flat(dy)


dot.defvjp(lambda x, w: (x @ w, (x, w)), _dot_backward)


@jax.custom_vjp
def cross_entropy(x, w, y, weight):
  return _chunks(x, w, y, weight)[0]


def _chunks(x, w, y, weight):
  """Mean loss, and its gradients with respect to x [tokens, D] and w [D, V]."""
  total = weight.sum()

  def chunk(dw, parts):
    x, y, weight = parts
    logits = x @ w
    highest = logits.max(-1, keepdims=True)
    p = jnp.exp(logits - highest)
    z = p.sum(-1, keepdims=True)
    hit = jnp.arange(logits.shape[-1]) == y[:, None]
    loss = (jnp.log(z) + highest)[:, 0] - jnp.where(hit, logits, 0).sum(-1)
    dlogits = (p / z - hit) * (weight / total)[:, None]
    dw = dw + jax.lax.optimization_barrier(x.T) @ dlogits
    return dw, ((loss * weight).sum() / total, dlogits @ w.T)

  split = lambda a: a.reshape(-1, CHUNK, *a.shape[1:])
  dw, (loss, dx) = jax.lax.scan(chunk, jnp.zeros_like(w), (split(x), split(y), split(weight)))
  return loss.sum(), (dx.reshape(x.shape), dw)


cross_entropy.defvjp(lambda *args: _chunks(*args), lambda saved, d: (
    *(d * s for s in saved), None, None))


def layer_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * p['g'] + p['b']


def rms_norm(x, p):
  return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p['g']


def linear(x, p):
  y = dot(x, p['w'])
  return y + p['b'] if 'b' in p else y


def rope(x_BNLH, place_L):
  half = x_BNLH.shape[-1] // 2
  angle = place_L[:, None] * 10_000.0 ** (-np.arange(half) / half)
  a, b = x_BNLH[..., :half], x_BNLH[..., half:]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def relative_bias(table_RN, query_L, key_S, both_ways):
  distance = key_S[None] - query_L[:, None]
  number, bucket = 32, 0
  if both_ways:
    number, bucket = 16, jnp.where(distance > 0, 16, 0)
    distance = -jnp.abs(distance)
  distance, exact = jnp.maximum(-distance, 0), number // 2
  far = exact + (jnp.log(jnp.maximum(distance, 1) / exact) / np.log(128 / exact) * (
      number - exact)).astype(int)
  bucket += jnp.where(distance < exact, distance, jnp.minimum(far, number - 1))
  return jnp.moveaxis(table_RN[bucket], -1, 0)


def attend(q, k, v, scale, causal, bias=None):
  """[B, N, L, H] each -> [B, L, N H]."""
  B, N, L, H = q.shape

  def some(start, end, seen):
    s = jnp.einsum('bnlh,bnsh->bnls', q[:, :, start:end], k[:, :, :seen]) * scale
    if bias is not None:
      s = s + bias[:, start:end, :seen]
    if causal:
      s = jnp.where(np.arange(start, end)[:, None] >= np.arange(seen), s, -1e9)
    return jnp.einsum('bnls,bnsh->bnlh', jax.nn.softmax(s, -1), v[:, :, :seen])

  if causal:
    y = jnp.concatenate([some(i, i + ROWS, i + ROWS) for i in range(0, L, ROWS)], 2)
  else:
    y = some(0, L, k.shape[2])
  return jnp.swapaxes(y, 1, 2).reshape(B, L, N * H)


class Net:
  """One of the four families at one size."""

  def __init__(self, family: str, size: str):
    self.family, self.c = family, harness.SIZES[size]
    self.heads = self.c['heads']
    self.scale = 1.0 if family == 't5' else (self.c['width'] / self.heads) ** -0.5

  def init(self, key):
    c, family, keys = self.c, self.family, iter(jax.random.split(key, 999))
    D, V = c['width'], c['vocab']
    biased = family in ('gpt2', 'bert')
    table = lambda *shape: 0.02 * jax.random.normal(next(keys), shape)
    dense = lambda i, o: {'w': table(i, o)} | ({'b': jnp.zeros(o)} if biased else {})
    norm = lambda: {'g': jnp.ones(D)} | ({'b': jnp.zeros(D)} if biased else {})

    def block(cross=False):
      hidden = 4 * D if biased else c['gated_mlp']
      p = {'n1': norm(), 'qkv': dense(D, 3 * D), 'o': dense(D, D), 'n2': norm(),
           'up': dense(D, hidden if biased else 2 * hidden), 'down': dense(hidden, D)}
      if cross:
        p |= {'n3': norm(), 'cq': dense(D, D), 'ckv': dense(D, 2 * D), 'co': dense(D, D)}
      return p

    p = {'embed': table(V, D), 'norm': norm(),
         'blocks': [block(cross=family == 't5') for _ in range(c['layers'])]}
    if biased:
      p['place'] = table(c['length'], D)
    else:
      p['head'] = table(D, V)
    if family == 'bert':
      p |= {'type': table(2, D), 'transform': dense(D, D), 'head_norm': norm(),
            'bias': jnp.zeros(V)}
    if family == 't5':
      p |= {'encoder': [block() for _ in range(c['layers'])], 'encoder_norm': norm(),
            'relative': table(32, self.heads), 'encoder_relative': table(32, self.heads)}
    return p

  def split(self, x, number):
    """[B, L, number D] -> `number` arrays [B, N, L, H]."""
    B, L, _ = x.shape
    x = x.reshape(B, L, number, self.heads, -1)
    return [jnp.swapaxes(x[:, :, i], 1, 2) for i in range(number)]

  def mlp(self, x, p):
    h = linear(x, p['up'])
    if self.family in ('gpt2', 'bert'):
      return linear(jax.nn.gelu(h, approximate=self.family == 'gpt2'), p['down'])
    gate, up = jnp.split(h, 2, -1)
    return linear((jax.nn.silu if self.family == 'llama' else jax.nn.gelu)(gate) * up, p['down'])

  def block(self, x, p, causal, bias=None, encoded=None):
    norm = layer_norm if self.family in ('gpt2', 'bert') else rms_norm
    post = self.family == 'bert'
    q, k, v = self.split(linear(x if post else norm(x, p['n1']), p['qkv']), 3)
    if self.family == 'llama':
      place = np.arange(x.shape[1])
      q, k = rope(q, place), rope(k, place)
    x = x + linear(attend(q, k, v, self.scale, causal, bias), p['o'])
    if post:
      x = norm(x, p['n1'])
      return norm(x + self.mlp(x, p), p['n2'])
    if encoded is not None:
      q, = self.split(linear(norm(x, p['n3']), p['cq']), 1)
      k, v = self.split(linear(encoded, p['ckv']), 2)
      x = x + linear(attend(q, k, v, self.scale, False), p['co'])
    return x + self.mlp(norm(x, p['n2']), p)

  def encode(self, p, tokens):
    x, place = p['embed'][tokens], jnp.arange(tokens.shape[1])
    bias = relative_bias(p['encoder_relative'], place, place, True)
    for block in p['encoder']:
      x = self.block(x, block, False, bias)
    return rms_norm(x, p['encoder_norm'])

  def loss(self, p, batch):
    tokens, y, weight = batch['inputs'], batch['targets'], batch['weights']
    place, bias, encoded = jnp.arange(tokens.shape[1]), None, None
    if self.family == 't5':
      encoded = self.encode(p, tokens)
      tokens = jnp.pad(y[:, :-1], ((0, 0), (1, 0)))
      bias = relative_bias(p['relative'], place, place, False)
    x = p['embed'][tokens]
    if 'place' in p:
      x = x + p['place'][place]
    if self.family == 'bert':
      x = layer_norm(x + p['type'][0], p['norm'])
    for block in p['blocks']:
      x = self.block(x, block, self.family != 'bert', bias, encoded)
    if self.family == 'bert':   # as many places a row as hold the most masked tokens there may be
      most = tokens.shape[1] // 4
      order = jnp.argsort(weight == 0, axis=1, stable=True)[:, :most]
      x, y, weight = (jnp.take_along_axis(a, order.reshape(order.shape + (1,) * (a.ndim - 2)), 1)
                      for a in (x, y, weight))
      x = layer_norm(jax.nn.gelu(linear(x, p['transform']), approximate=False), p['head_norm'])
      logits = dot(x, p['embed'].T) + p['bias']
      log_p = jax.nn.log_softmax(logits)
      return -(jnp.take_along_axis(log_p, y[..., None], -1)[..., 0] * weight).sum() / weight.sum()
    x = (layer_norm if self.family == 'gpt2' else rms_norm)(x, p['norm'])
    head = p['head'] if 'head' in p else p['embed'].T
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    return cross_entropy(flat(x), head, flat(y), flat(weight))

  def generate(self, p, tokens):
    """Greedy: [B, NEW] after the prompt, with a key-value cache [B, N, L, H] of each layer."""
    B, family, c = tokens.shape[0], self.family, self.c
    first = jnp.zeros((B, 1), jnp.int32) if family == 't5' else tokens
    size = first.shape[1] + harness.NEW
    shape = B, self.heads, size, c['width'] // self.heads
    caches = [(jnp.zeros(shape), jnp.zeros(shape)) for _ in p['blocks']]
    cross = [None] * len(caches)
    if family == 't5':
      encoded = self.encode(p, tokens)
      cross = [self.split(linear(encoded, block['ckv']), 2) for block in p['blocks']]

    def see(x, caches, i):
      """Logits after `x` [B, L] written at place i."""
      place, seen = i + jnp.arange(x.shape[1]), jnp.arange(size)
      bias = relative_bias(p['relative'], place, seen, False) if family == 't5' else 0.0
      hidden = jnp.where(seen <= place[:, None], 0.0, -1e9) + bias
      x = p['embed'][x]
      x = x + p['place'][place] if 'place' in p else x
      norm = layer_norm if family == 'gpt2' else rms_norm
      mix = lambda q, k, v, hidden: jnp.swapaxes(jnp.einsum('bnls,bnsh->bnlh', jax.nn.softmax(
          jnp.einsum('bnlh,bnsh->bnls', q, k) * self.scale + hidden, -1), v), 1, 2).reshape(x.shape)
      new = []
      for block, (ks, vs), read in zip(p['blocks'], caches, cross):
        q, k, v = self.split(linear(norm(x, block['n1']), block['qkv']), 3)
        if family == 'llama':
          q, k = rope(q, place), rope(k, place)
        ks, vs = (jax.lax.dynamic_update_slice_in_dim(a, b, i, 2) for a, b in ((ks, k), (vs, v)))
        new.append((ks, vs))
        x = x + linear(mix(q, ks, vs, hidden), block['o'])
        if read:
          q, = self.split(linear(norm(x, block['n3']), block['cq']), 1)
          x = x + linear(mix(q, *read, 0.0), block['co'])
        x = x + self.mlp(norm(x, block['n2']), block)
      x = norm(x[:, -1], p['norm'])
      return x @ (p['head'] if 'head' in p else p['embed'].T), new

    def step(i, carry):
      logits, caches, out = carry
      token = logits.argmax(-1).astype(jnp.int32)[:, None]
      out = jax.lax.dynamic_update_slice_in_dim(out, token, i, 1)
      return *see(token, caches, first.shape[1] + i), out

    start = *see(first, caches, 0), jnp.zeros((B, harness.NEW), jnp.int32)
    return jax.lax.fori_loop(0, harness.NEW, step, start)[2]


def prepare(case):
  net = Net(case['family'], case['size'])
  params = jax.jit(net.init)(jax.random.key(0))
  info = {'parameters': sum(x.size for x in jax.tree.leaves(params)), 'jax': jax.__version__}
  if case['task'] == 'decode':
    tokens = harness.prompt(case['family'], case['size'], case['rows'])
    compiled = jax.jit(net.generate).lower(params, tokens).compile()
    return lambda: compiled(params, tokens).block_until_ready(), info
  optimizer = optax.adamw(1e-4, 0.9, 0.95, weight_decay=0.1)

  def update(state, batch):
    params, opt = state
    loss, grads = jax.value_and_grad(net.loss)(params, batch)
    updates, opt = optimizer.update(grads, opt, params)
    return (optax.apply_updates(params, updates), opt), loss

  data = [jax.device_put(b) for b in harness.batches(case['family'], case['size'])]
  state = params, optimizer.init(params)
  compiled = jax.jit(update, donate_argnums=0).lower(state, data[0]).compile()
  info['temporary_mb'] = compiled.memory_analysis().temp_size_in_bytes / 2 ** 20
  held, count = [state], iter(range(10 ** 9))

  def step():
    held[0], loss = compiled(held[0], data[next(count) % len(data)])
    jax.block_until_ready(held[0])
    return float(loss)

  return step, info


if __name__ == '__main__':
  harness.serve(prepare)

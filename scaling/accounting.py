"""FLOPs of a model, by a stated convention; only multiplications of matrices are counted.

A multiply-add is 2 FLOPs; a backward pass costs twice its forward pass; recomputation (remat) is
not counted, as in PaLM's model-FLOPs utilisation (Chowdhery et al. 2022, appendix B).
"""


def _layer(config, cross: bool) -> tuple[int, int]:
  """Weights of a block's matrices: (what its own tokens pass, what the encoder's tokens pass)."""
  query_out = 2 * config.embed_dim * config.num_heads * config.head_dim
  key_value = 2 * config.embed_dim * config.num_kv_heads * config.head_dim
  mlp = (3 if config.gated_mlp else 2) * config.embed_dim * config.mlp_dim
  if config.num_experts is not None:   # those a token is sent to, and the router
    mlp = mlp * config.experts_per_token + config.embed_dim * config.num_experts
  own = query_out + key_value + mlp
  return (own + query_out, key_value) if cross else (own, 0)


def _attention(config, length: int, keys: int, causal: bool) -> int:
  """FLOPs of q·k and p·v of one layer and `length` queries; causal counts half."""
  return 4 * config.num_heads * config.head_dim * length * keys // (2 if causal else 1)


def forward_flops(config, inputs_length: int, targets_length: int, *, causal: bool = False) -> int:
  """FLOPs of the forward pass over one row.

  Embedding lookups cost nothing; the output layer counts for every position it is applied to. An
  encoder-decoder pays each stack for its own tokens only (6·N·D would charge both stacks for all).

  Args:
    config: a ModelConfig (any object with its fields).
    inputs_length: tokens of the row that an encoder reads; 0 if there is no encoder.
    targets_length: tokens of the row that a decoder reads; 0 if there is no decoder.
    causal: count only the half of causal self-attention that is not masked; the usual convention
      (False) counts all of it, which gives 6N + 12·L·D·S a token for training.
  """
  def stack(layers, length, causal, cross_length=0):
    own, read = _layer(config, bool(cross_length))
    flops = 2 * (own * length + read * cross_length) + _attention(config, length, length, causal)
    if cross_length:
      flops += _attention(config, length, cross_length, False)
    return layers * flops

  head = 2 * config.embed_dim * config.vocab_size
  if config.family == 'decoder_only':
    return stack(config.num_layers, targets_length, causal) + head * targets_length
  flops = stack(config.num_layers, inputs_length, False)
  if config.family == 'encoder_decoder':
    decoder = stack(config.num_decoder_layers, targets_length, causal, inputs_length)
    return flops + decoder + head * targets_length
  transform = 2 * config.embed_dim ** 2
  classes = 2 * config.embed_dim * (config.num_classes or 2)
  return flops + {
      'mlm': (head + transform) * inputs_length,
      'mlm_nsp': (head + transform) * inputs_length + transform + classes,
      'classifier': transform + classes, 'tagger': classes * inputs_length,
      'pooler': transform}[config.head]


def train_flops(config, inputs_length: int, targets_length: int, *, causal: bool = False) -> int:
  """FLOPs of the forward and backward pass over one row: three times `forward_flops`."""
  return 3 * forward_flops(config, inputs_length, targets_length, causal=causal)

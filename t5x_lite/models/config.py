"""What a network is: one frozen dataclass for the three families."""

import dataclasses
from typing import Literal

from t5x_lite.validation import FieldError, check_positive, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Architecture of an encoder-only, encoder-decoder or decoder-only Transformer.

  Raises FieldError (one line, naming the field) when built with values that do not fit together.
  """
  family: Literal['encoder_only', 'encoder_decoder', 'decoder_only']
  vocab_size: int               # rows of the embedding table; a multiple of 128 shards well
  embed_dim: int                # width of the residual stream (d_model)
  num_layers: int               # blocks of the stack; of each stack in encoder-decoder
  num_heads: int                # query heads
  mlp_dim: int                  # width of the MLP's hidden layer
  num_decoder_layers: int | None = None   # encoder-decoder only; None: as many as num_layers
  num_kv_heads: int | None = None         # key-value heads (grouped queries); None: num_heads
  head_dim: int | None = None             # None: embed_dim / num_heads
  max_length: int | None = None           # longest sequence; None: no limit (not with learned)

  norm: Literal['rms_norm', 'layer_norm'] = 'rms_norm'
  norm_epsilon: float = 1e-6
  norm_placement: Literal['pre', 'post'] = 'pre'   # post: after the residual sum (BERT)
  embedding_norm: bool = False            # a norm straight after the embeddings (BERT)
  activation: Literal['relu', 'gelu', 'gelu_exact', 'silu'] = 'silu'   # gelu: the tanh form
  gated_mlp: bool = True                  # act(x W_gate) * (x W_up), as in T5 1.1 and LLaMA
  bias: bool = False                      # biases in every linear layer
  position: Literal['learned', 'rope', 'relative', 'none'] = 'rope'
  rope_theta: float = 10_000.0
  relative_buckets: int = 32              # T5's relative position buckets
  relative_max_distance: int = 128
  attention_scale: float | None = None    # factor of q·k; None: 1 / sqrt(head_dim); T5: 1.0
  prefix_lm: bool = False                 # decoder-only: the inputs see each other both ways

  tied_embeddings: bool = True            # the output layer is the embedding table
  num_classes: int | None = None          # encoder-only: a classifier in place of the MLM head
  pooling: Literal['first', 'mean'] = 'first'      # what the classifier reads
  init_std: float | None = 0.02           # None: 1/sqrt(fan in), embeddings of std 1 (T5)
  dropout_rate: float = 0.0

  dtype: Literal['float32', 'bfloat16'] = 'float32'   # activations; parameters are float32
  scan_layers: bool = True                # one compiled block looped over stacked parameters
  remat: Literal['none', 'dots', 'full'] = 'none'     # what the backward pass recomputes

  def __post_init__(self):
    check_types(self)
    check_positive(self, 'vocab_size', 'embed_dim', 'num_layers', 'num_heads', 'mlp_dim',
                   'num_decoder_layers', 'num_kv_heads', 'head_dim', 'max_length', 'norm_epsilon',
                   'rope_theta', 'relative_max_distance', 'num_classes', 'init_std')
    if self.head_dim is None:
      if self.embed_dim % self.num_heads:
        raise FieldError(self, 'num_heads', f'must divide embed_dim {self.embed_dim}, or set '
                         'head_dim')
      object.__setattr__(self, 'head_dim', self.embed_dim // self.num_heads)
    if self.num_kv_heads is None:
      object.__setattr__(self, 'num_kv_heads', self.num_heads)
    if self.num_heads % self.num_kv_heads:
      raise FieldError(self, 'num_kv_heads', f'must divide num_heads {self.num_heads}')
    if self.attention_scale is None:
      object.__setattr__(self, 'attention_scale', self.head_dim ** -0.5)
    if self.position == 'learned' and self.max_length is None:
      raise FieldError(self, 'max_length', 'learned positions need a length')
    if self.position == 'rope' and self.head_dim % 2:
      raise FieldError(self, 'head_dim', 'rotary positions need an even head size')
    if self.position == 'relative' and (self.relative_buckets < 4 or self.relative_buckets % 2):
      raise FieldError(self, 'relative_buckets', 'must be even and at least 4')
    if not 0 <= self.dropout_rate < 1:
      raise FieldError(self, 'dropout_rate', 'must be at least 0 and below 1')
    self._check_family()

  def _check_family(self):
    if self.family == 'encoder_decoder':
      if self.num_decoder_layers is None:
        object.__setattr__(self, 'num_decoder_layers', self.num_layers)
    elif self.num_decoder_layers is not None:
      raise FieldError(self, 'num_decoder_layers', 'only family encoder_decoder has two stacks')
    if self.num_classes is not None and self.family != 'encoder_only':
      raise FieldError(self, 'num_classes', 'only family encoder_only has a classifier')
    if self.prefix_lm and self.family != 'decoder_only':
      raise FieldError(self, 'prefix_lm', 'only family decoder_only has prefixes')

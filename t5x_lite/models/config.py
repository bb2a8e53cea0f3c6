"""What a network is: one frozen dataclass for the three families."""

import dataclasses
from typing import Annotated, Literal

from t5x_lite.core.dataclass_checks import (
  FieldError,
  Fraction,
  Length,
  NonNegative,
  Positive,
  Range,
  check_types,
)
from t5x_lite.models.positions import RopeScaling

Width = Annotated[int, Range(above=0, max=2 ** 24)]
Layers = Annotated[int, Range(above=0, max=2 ** 12)]
MAX_UNROLLED = 64   # layers
HEADS = {'encoder_only': ('mlm', 'mlm_nsp', 'pooler', 'classifier', 'tagger'),
         'decoder_only': ('classifier', 'choice', 'value'), 'encoder_decoder': ('value',)}
# Activations that the backward pass may keep rather than recompute (jax.ad_checkpoint names).
CHECKPOINT_NAMES = ('query', 'key', 'value', 'attention', 'attention_out', 'mlp_hidden', 'mlp_out')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Architecture of an encoder-only, encoder-decoder or decoder-only Transformer.

  Raises FieldError (one line, naming the field) when built with values that do not fit together.
  """
  family: Literal['encoder_only', 'encoder_decoder', 'decoder_only']   # which stacks it has
  vocab_size: Width               # rows of the embedding table; a multiple of 128 shards well
  embed_dim: Width                # width of the residual stream (d_model)
  num_layers: Layers               # blocks of the stack; of each stack in encoder-decoder
  num_heads: Width                # query heads
  mlp_dim: Width                  # width of the MLP's hidden layer; of each expert's
  num_decoder_layers: Layers | None = None   # encoder-decoder only; None: as many as num_layers
  num_kv_heads: Width | None = None       # key-value heads (grouped queries); None: num_heads
  head_dim: Width | None = None           # None: embed_dim / num_heads
  max_length: Length | None = None        # longest sequence; None: no limit (not with learned)

  norm: Literal['rms_norm', 'layer_norm'] = 'rms_norm'   # rms_norm: no mean is taken off
  norm_epsilon: Positive[float] = 1e-6    # added to the variance
  norm_unit_offset: bool = False          # the norm's scale is 1 + its parameter (Gemma)
  # post: after the residual sum (BERT, GPT-1); both: before and after each layer (Gemma 2)
  norm_placement: Literal['pre', 'post', 'both'] = 'pre'
  embedding_norm: bool = False            # a norm straight after the embeddings (BERT)
  activation: Literal['relu', 'gelu', 'gelu_exact', 'silu'] = 'silu'   # gelu: the tanh form
  gated_mlp: bool = True                  # act(x W_gate) * (x W_up), as in T5 1.1 and LLaMA
  bias: bool = False                      # biases in every linear layer

  position_embedding: Literal['learned', 'sinusoidal', 'rope', 'relative', 'alibi', 'none'] = 'rope'
  rope_theta: Positive[float] = 10_000.0  # of whose powers the wavelengths are
  rope_scaling: RopeScaling | None = None   # for texts longer than those of pre-training
  relative_buckets: Width = 32            # T5's relative position buckets
  relative_max_distance: Length = 128     # farther tokens share the last bucket
  num_token_types: Width | None = None    # encoder-only: rows of BERT's token type table

  # factor of q·k; None: 1 / sqrt(head_dim); T5: 1.0
  attention_scale: NonNegative[float] | None = None
  # scores become cap * tanh(scores / cap) (Gemma 2: 50)
  attention_softcap: Positive[float] | None = None
  sliding_window: Length | None = None    # self-attention reaches tokens less than this far away
  full_attention_interval: Layers | None = None      # every n-th layer has no window (Gemma 2: 2)
  prefix_lm: bool = False                 # decoder-only: the inputs see each other both ways

  num_experts: Width | None = None        # MLPs of a mixture of experts; None: one MLP
  experts_per_token: Width = 2            # experts of a token (top-k routing)
  expert_capacity: Positive[float] | None = None     # most tokens of an expert, in mean loads

  tied_embeddings: bool = True            # the output layer is the embedding table
  scale_embeddings: bool = False          # embeddings times sqrt(embed_dim) (Gemma)
  scale_logits: bool = False              # logits divided by sqrt(embed_dim) (T5 1.0)
  # as attention_softcap, of the logits (Gemma 2: 30)
  logits_softcap: Positive[float] | None = None
  # None: classifier if num_classes is set, else mlm of an encoder. A decoder's classifier or choice
  # reads the last token of texts (GPT-1), beside the output layer; `value` gives a number a token,
  # which is a reward (InstructGPT) or the value of PPO.
  head: Literal['mlm', 'mlm_nsp', 'pooler', 'classifier', 'tagger', 'choice',
                'value'] | None = None
  num_classes: Width | None = None        # of the classifier (a row) or the tagger (a token)
  pooling: Literal['first', 'mean'] = 'first'      # what the pooler reads
  pooler_transform: bool = True           # a linear layer and tanh after it (BERT)
  init_std: Positive[float] | None = 0.02   # None: 1/sqrt(fan in), embeddings of std 1 (T5)
  dropout_rate: Fraction = 0.0            # of activations, in training
  # NEFTune's alpha (Jain et al. 2023: 5, 10 or 15): uniform noise on the embeddings of tokens, in
  # training, of at most alpha / sqrt(tokens of the example * embed_dim)
  embedding_noise: NonNegative[float] = 0.0

  dtype: Literal['float32', 'bfloat16'] = 'float32'   # activations; parameters are float32
  attention: Literal['auto', 'reference', 'query_chunked', 'blockwise', 'fused', 'splash'] = 'auto'
  scan_layers: bool = True                # one compiled block looped over stacked parameters
  # What the backward pass recomputes: nothing, all but products of matrices, or all but the
  # activations named here (of CHECKPOINT_NAMES; `full` names none). On a CPU only scanned layers
  # save memory: XLA removes the recomputation of unrolled ones.
  remat: Literal['none', 'dots', 'full'] | tuple[str, ...] = 'none'

  def __post_init__(self):
    check_types(self)
    if self.head_dim is None:
      if self.embed_dim % self.num_heads:
        raise FieldError(self, 'num_heads', f'must divide embed_dim {self.embed_dim}, or set '
                         'head_dim')
      self._set(head_dim=self.embed_dim // self.num_heads)
    if self.num_kv_heads is None:
      self._set(num_kv_heads=self.num_heads)
    if self.num_heads % self.num_kv_heads:
      raise FieldError(self, 'num_kv_heads', f'must divide num_heads {self.num_heads}')
    if self.attention_scale is None:
      self._set(attention_scale=self.head_dim ** -0.5)
    if isinstance(self.remat, (tuple, list)):
      self._set(remat=tuple(self.remat))
      for name in self.remat:
        if name not in CHECKPOINT_NAMES:
          raise FieldError(self, 'remat', f'{name!r} is none of {", ".join(CHECKPOINT_NAMES)}')
    layers = max(self.num_layers, self.num_decoder_layers or 0)
    if not self.scan_layers and layers > MAX_UNROLLED:
      raise FieldError(self, 'scan_layers', f'{layers} unrolled layers compile for hours: set it '
                       f'to True, or at most {MAX_UNROLLED} layers')
    self._check_positions()
    self._check_family()
    self._check_experts()

  def _check_positions(self):
    if self.position_embedding == 'learned' and self.max_length is None:
      raise FieldError(self, 'max_length', 'learned positions need a length')
    if self.position_embedding == 'rope' and self.head_dim % 2:
      raise FieldError(self, 'head_dim', 'rotary positions need an even head size')
    if self.position_embedding == 'sinusoidal' and self.embed_dim % 2:
      raise FieldError(self, 'embed_dim', 'sinusoidal positions need an even width')
    if self.position_embedding == 'relative' and (
        self.relative_buckets < 4 or self.relative_buckets % 2):
      raise FieldError(self, 'relative_buckets', 'must be even and at least 4')
    if self.rope_scaling is not None and self.position_embedding != 'rope':
      raise FieldError(self, 'rope_scaling',
                       f'position_embedding is {self.position_embedding!r}, not rope')
    if self.full_attention_interval is not None:
      if self.sliding_window is None:
        raise FieldError(self, 'full_attention_interval', 'has no use without sliding_window')
      for layers in (self.num_layers, self.num_decoder_layers):
        if self.scan_layers and layers is not None and layers % self.full_attention_interval:
          raise FieldError(self, 'full_attention_interval', 'must divide the number of layers '
                           f'{layers}, or set scan_layers = False')

  def _check_family(self):
    if self.family == 'encoder_decoder':
      if self.num_decoder_layers is None:
        self._set(num_decoder_layers=self.num_layers)
    elif self.num_decoder_layers is not None:
      raise FieldError(self, 'num_decoder_layers', 'only family encoder_decoder has two stacks')
    heads = HEADS[self.family]
    if self.head is None and 'classifier' in heads and self.num_classes is not None:
      self._set(head='classifier')
    elif self.head is None and self.family == 'encoder_only':
      self._set(head='mlm')
    if self.num_classes is not None and 'classifier' not in heads:
      raise FieldError(self, 'num_classes', f'family {self.family} has no classes')
    if self.head is not None and self.head not in heads:
      raise FieldError(self, 'head', f'family {self.family} has {", ".join(heads)}')
    if (self.head in ('classifier', 'tagger')) != (self.num_classes is not None):
      raise FieldError(self, 'num_classes', f'head {self.head!r} ' + (
          'needs a number of classes' if self.num_classes is None else 'has no classes'))
    if self.num_token_types is not None and self.family != 'encoder_only':
      raise FieldError(self, 'num_token_types', 'only for family encoder_only')
    if self.prefix_lm and self.head is not None:
      raise FieldError(self, 'prefix_lm', f'head {self.head!r} reads texts from left to right')
    if self.prefix_lm and self.family != 'decoder_only':
      raise FieldError(self, 'prefix_lm', 'only family decoder_only has prefixes')

  def _check_experts(self):
    if self.num_experts is None:
      return
    if self.experts_per_token > self.num_experts:
      raise FieldError(self, 'experts_per_token', f'num_experts is {self.num_experts}')
    if self.bias:
      raise FieldError(self, 'bias', 'experts have no biases')

  def _set(self, **fields):
    for name, value in fields.items():
      object.__setattr__(self, name, value)

  @property
  def is_random(self) -> bool:
    """Whether its forward pass in training draws anything."""
    return bool(self.dropout_rate or self.embedding_noise)

  @property
  def target_side(self) -> str:
    """'encoder' or 'decoder': whose target tokens and loss weights belong to the logits."""
    return 'encoder' if self.family == 'encoder_only' else 'decoder'

  @property
  def classifies_texts(self) -> bool:
    """Whether a decoder has a head that reads the last token of texts."""
    return self.family == 'decoder_only' and self.head in ('classifier', 'choice')

  @property
  def has_classes(self) -> bool:
    """Whether what it predicts are classes, not tokens."""
    return self.num_classes is not None or self.classifies_texts

  @property
  def predicts_tokens(self) -> bool:
    """Whether it has an output layer over the vocabulary."""
    return self.family != 'encoder_only' or self.head in ('mlm', 'mlm_nsp')

  def sliding_window_of(self, layer: int) -> int | None:
    """The window of the layer of this index, or None for full attention."""
    if self.full_attention_interval is not None and (layer + 1) % self.full_attention_interval == 0:
      return None
    return self.sliding_window

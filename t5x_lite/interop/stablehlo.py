"""The functions of a model as StableHLO, by jax.export: a folder that runs without this project.

Shape letters: B rows, L length, S length of an encoder's inputs, T new tokens, V vocabulary. Of
these V alone is fixed in what is exported.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from t5x_lite import __version__, models
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.interop import stablehlo_loader
from t5x_lite.models import Model, ModelConfig

PLATFORMS = ('cpu', 'cuda', 'tpu')
PARAMS, DESCRIPTION, LOADER = 'params.safetensors', 'model.json', 'load.py'
_TYPES = {'tokens': jnp.int32, 'valid': jnp.bool_, 'types': jnp.int32, 'prompt': jnp.int32,
          'inputs': jnp.int32, 'room': jnp.int32}


class Function(NamedTuple):
  """What is exported: a function of a model, and the shape of each argument by name.

  `limit` is an inequality that its lengths keep, 'l + t <= 512'; None: there is none.
  """
  compute: Callable[..., jax.Array]
  shapes: dict[str, str]
  limit: str | None


def functions_of(config: ModelConfig, num_ids: int, end_ids: Sequence[int]) -> dict[str, Function]:
  """{name: function} of a model: `score`, and `generate` where it has a decoder.

  score: logits, or what the model's head gives, of all tokens: [rows, length, vocab].
  generate: the likeliest tokens after prompts, which are padded on the left, int32 [rows, new
    tokens]: as many as `room` is long, 0 after the end of a row.

  Args:
    config: of the model.
    num_ids: size of the vocabulary; rows of the embedding table beyond it are never written.
    end_ids: each ends a row.

  Raises:
    UserError: the model needs to know its lengths, or has a head that reads several texts.
  """
  _check(config)
  limit = lambda length: None if config.max_length is None else f'{length} <= {config.max_length}'
  if config.family == 'encoder_only':
    shapes = {'tokens': 'b, l', 'valid': 'b, l'}
    shapes |= {'types': 'b, l'} if config.num_token_types else {}
    return {'score': Function(_score_encoder, shapes, limit('l'))}

  def generate(model: Model, prompt_BL, valid_BL, room_T):
    return _generate(model, {'decoder_input_tokens': prompt_BL}, prompt_BL, valid_BL,
                     room_T.shape[0], num_ids, end_ids)

  def answer(model: Model, inputs_BS, valid_BS, prompt_BL, room_T):
    batch = {'encoder_input_tokens': inputs_BS, 'encoder_segment_ids': valid_BS.astype(jnp.int32)}
    return _generate(model, batch, prompt_BL, jnp.ones(prompt_BL.shape, bool), room_T.shape[0],
                     num_ids, end_ids)

  if config.family == 'encoder_decoder':
    inputs = {'inputs': 'b, s', 'valid': 'b, s'}
    return {'score': Function(_score_pair, inputs | {'tokens': 'b, l'}, limit('l')),
            'generate': Function(answer, inputs | {'prompt': 'b, l', 'room': 't'}, limit('l + t'))}
  return {'score': Function(lambda model, tokens_BL: model({'decoder_input_tokens': tokens_BL}),
                            {'tokens': 'b, l'}, limit('l')),
          'generate': Function(generate, {'prompt': 'b, l', 'valid': 'b, l', 'room': 't'},
                               limit('l + t'))}


def _check(config: ModelConfig) -> None:
  if config.classifies_texts:
    raise UserError(f'ModelConfig.head = {config.head!r} of a decoder is not exported as '
                    'StableHLO: it reads the texts of an example, which tasks put together')
  if config.expert_capacity is not None:
    raise UserError(f'ModelConfig.expert_capacity = {config.expert_capacity} is not exported as '
                    'StableHLO: what it leaves out follows from lengths, which are left open')


def _score_encoder(model: Model, tokens_BL, valid_BL, types_BL=None) -> jax.Array:
  batch = {'encoder_input_tokens': tokens_BL, 'encoder_segment_ids': valid_BL.astype(jnp.int32)}
  return model(batch | ({} if types_BL is None else {'encoder_token_types': types_BL}))


def _score_pair(model: Model, inputs_BS, valid_BS, tokens_BL) -> jax.Array:
  return model({'encoder_input_tokens': inputs_BS, 'decoder_input_tokens': tokens_BL,
                'encoder_segment_ids': valid_BS.astype(jnp.int32)})


def _generate(model: Model, batch: dict[str, jax.Array], prompt_BL, valid_BL, T: int,
              num_ids: int, end_ids: Sequence[int]) -> jax.Array:
  """inference.generate of greedy rows, for lengths that are not known."""
  cache = model.start(batch, prompt_BL.shape[1] + T)
  logits_B1V, cache = model.decode(prompt_BL, cache, valid_BL, prompt=True)

  def step(carry):
    i, logits_BV, cache, tokens_BT, done_B = carry
    token_B = jnp.argmax(logits_BV[:, :num_ids], -1).astype(jnp.int32)
    tokens_BT = jax.lax.dynamic_update_slice_in_dim(
        tokens_BT, jnp.where(done_B, 0, token_B)[:, None], i, axis=1)
    done_B = done_B | (token_B[:, None] == jnp.asarray(end_ids, jnp.int32)[None]).any(1)
    logits_B1V, cache = model.decode(token_B[:, None], cache, ~done_B[:, None])
    return i + 1, logits_B1V[:, 0], cache, tokens_BT, done_B

  B = prompt_BL.shape[0]
  start = 0, logits_B1V[:, 0], cache, jnp.zeros((B, T), jnp.int32), jnp.zeros(B, bool)
  return jax.lax.while_loop(lambda c: (c[0] < T) & ~c[-1].all(), step, start)[3]


def save_functions(folder: pathlib.Path, config: ModelConfig, params: dict[str, Any], num_ids: int,
                   end_ids: Sequence[int]) -> dict[str, Any]:
  """Writes functions, parameters, what they are, and the program that loads them.

  Attention is by the formula, whose memory grows with the square of a prompt's length: other
  kernels need to know it.

  Args:
    folder: to write into.
    config: of the model.
    params: all of its parameters, which the functions take as their first argument.
    num_ids: size of the vocabulary.
    end_ids: each ends what is generated.

  Returns what is written as JSON: versions, platforms, and the arguments of each function.
  """
  from safetensors.numpy import save_file
  config = dataclasses.replace(config, attention='reference', remat='none')
  network, flat = models.build_network(config), trees.flatten(params)
  abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in flat.items()}
  described = {'t5x_lite': __version__, 'jax': jax.__version__, 'platforms': PLATFORMS,
               'end_ids': list(end_ids), 'functions': {}}
  for name, function in functions_of(config, num_ids, end_ids).items():
    scope = export.SymbolicScope([function.limit] if function.limit else ())
    args = {argument: jax.ShapeDtypeStruct(
        export.symbolic_shape(shape, scope=scope), _TYPES[argument])
            for argument, shape in function.shapes.items()}

    def run(flat, *args, function=function):
      return function.compute(network.bind(trees.fill(network.shapes, flat)), *args)

    exported = export.export(jax.jit(run), platforms=PLATFORMS)(abstract, *args.values())
    (folder / f'{name}.stablehlo').write_bytes(exported.serialize())
    described['calling_convention_version'] = exported.calling_convention_version
    version = re.search(rb'StableHLO_v([\d.]+)', exported.mlir_module_serialized)
    described['stablehlo'] = version and version[1].decode()
    described['functions'][name] = {
        'arguments': {n: [str(x.dtype), *map(str, x.shape)] for n, x in args.items()},
        'result': [str(exported.out_avals[0].dtype), *map(str, exported.out_avals[0].shape)],
        'limit': function.limit}
  save_file({name: np.ascontiguousarray(x) for name, x in flat.items()}, folder / PARAMS)
  shutil.copyfile(stablehlo_loader.__file__, folder / LOADER)
  return described

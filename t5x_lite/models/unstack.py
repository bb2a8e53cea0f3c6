"""A scanned model taken apart for decoding: each block with parameters of its own.

A scan copies the parameters of a block, and its cache, before it multiplies by them. In training
that is nothing; of a token at a time it is as much as all else.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.models.config import MAX_UNROLLED
from t5x_lite.models.layers import Shard
from t5x_lite.models.network import Network, build_network

Parts = Callable[[jax.Array], tuple[jax.Array, ...]]   # of a stacked array, one a block


def unstack(network: Network, params: Sequence[dict], shard: Shard) -> tuple[Network, list[dict]]:
  """The network with unrolled blocks, and trees of parameters as it binds them.

  They are as they were where the blocks are unrolled already, or too many to be compiled so. Else
  stacked arrays are given up one by one, so that no more than one is in memory twice; trees may
  share them.

  Args:
    network: whose adaptation, if there is one, is in the trees that come back.
    params: trees that `network` binds.
    shard: of the new network.
  """
  if not _comes_apart(network):
    return network, [*params]
  taken: dict[int, tuple[jax.Array, ...]] = {}
  stacked = []   # whose ids are those of `taken`

  def parts(x: jax.Array) -> tuple[jax.Array, ...]:
    if id(x) not in taken:
      taken[id(x)] = _split(x)
      stacked.append(x)
      x.delete()
    return taken[id(x)]

  assembled = [network.assemble(tree, None) for tree in params]
  return _unrolled(network, shard), [_walk(tree, parts) for tree in assembled]


def unstacking(network: Network, shard: Shard) -> Network:
  """The network of the same parameters, which takes its blocks apart where it is bound.

  In a compiled function that writes many tokens that is once, and the parts, as large as the
  blocks, are held only while it runs. The network itself comes back where `unstack` leaves it.
  """
  if not _comes_apart(network):
    return network
  unrolled = _unrolled(network, shard)
  return dataclasses.replace(
      network, config=unrolled.config, graphdef=unrolled.graphdef,
      assemble=lambda params, key: _walk(network.assemble(params, key), tuple))


def _comes_apart(network: Network) -> bool:
  config = network.config
  layers = max(config.num_layers, config.num_decoder_layers or 0)
  return config.scan_layers and layers <= MAX_UNROLLED


def _unrolled(network: Network, shard: Shard) -> Network:
  return build_network(dataclasses.replace(network.config, scan_layers=False), shard)


def _walk(tree: Any, parts: Parts) -> Any:
  """An assembled tree with the blocks of each stack apart."""
  if not isinstance(tree, dict):
    return tree
  return {name: _blocks(node, parts) if name == 'blocks' else _walk(node, parts)
          for name, node in tree.items()}


def _blocks(stacked: Any, parts: Parts) -> dict[int, Any]:
  """{block: its parameters}; leaves that stand for arrays are made of those of the block."""
  arrays, structure = jax.tree.flatten(stacked)
  return {i: structure.unflatten(block) for i, block in enumerate(zip(*map(parts, arrays)))}


def _split(x: jax.Array) -> tuple[jax.Array, ...]:
  sharding = x.sharding
  if isinstance(sharding, NamedSharding):
    sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
  else:
    sharding = None
  return jax.jit(lambda x: tuple(x[i] for i in range(len(x))), out_shardings=sharding)(x)

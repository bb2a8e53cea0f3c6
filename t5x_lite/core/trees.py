"""Nested dicts of arrays and the paths into them, written 'a/b/c'."""

from collections.abc import Callable, Iterable
from typing import Any

import jax


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
  """{'a/b/0': leaf} of nested dicts, tuples and named tuples."""
  return {path_name(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)}


def path_name(path) -> str:
  """'a/b/0' of a path into nested dicts, tuples and named tuples."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
  """Nested dicts of {'a/b': leaf}."""
  tree = {}
  for name, leaf in flat.items():
    *path, last = name.split('/')
    node = tree
    for key in path:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def fill(tree: Any, flat: dict[str, Any], is_leaf: Callable[[Any], bool] | None = None) -> Any:
  """The tree with the leaves of {'a/b': leaf}, its keys as they are: those of layers are ints."""
  return jax.tree_util.tree_map_with_path(lambda path, _: flat[path_name(path)], tree,
                                          is_leaf=is_leaf)


def partition(tree: dict[str, Any], chosen: Callable[[str], bool]
              ) -> tuple[dict[str, Any], dict[str, Any]]:
  """(leaves whose path is `chosen`, the others), each a nested dict without empty dicts."""
  keep, rest = {}, {}
  for key, value in tree.items():
    if isinstance(value, dict):
      inner = partition(value, lambda path, key=key: chosen(f'{key}/{path}'))
    else:
      inner = (value, None) if chosen(str(key)) else (None, value)
    for part, target in zip(inner, (keep, rest)):
      if part is not None and not (isinstance(part, dict) and not part):
        target[key] = part
  return keep, rest


def combine(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
  """The nested dict with the leaves of both; those of `b` are not in `a`."""
  merged = dict(a)
  for key, value in b.items():
    merged[key] = combine(a[key], value) if key in a else value
  return merged


def summarize(paths: Iterable[str], most: int = 4) -> str:
  """'a/b, c'; more than `most` paths are counted by their longest prefixes: 'a (9), c'."""
  paths = sorted(paths)
  depth = max((path.count('/') for path in paths), default=0) + 1
  groups = {path: [path] for path in paths}
  while len(groups) > most and depth > 1:
    depth -= 1
    groups = {}
    for path in paths:
      groups.setdefault('/'.join(path.split('/')[:depth]), []).append(path)
  named = [group[0] if len(group) == 1 else f'{prefix} ({len(group)})'
           for prefix, group in groups.items()]
  return ', '.join(named[:most]) + (f' and {len(named) - most} more' if len(named) > most else '')

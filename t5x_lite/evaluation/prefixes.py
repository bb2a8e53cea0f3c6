"""Which contexts begin alike, so that what they share is read once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SHORTEST = 32   # tokens of a prefix that is worth a call of its own


class Shared(NamedTuple):
  """Contexts that begin with the same tokens.

  Attributes:
    prefix: how many tokens they share, 0 for none; each has at least one more.
    members: their indices.
  """
  prefix: int
  members: list[int]


def share_prefixes(contexts: Sequence[np.ndarray]) -> list[Shared]:
  """Groups of contexts, int32 [length] each, such that the tokens read are about the fewest.

  In lexicographic order contexts that begin alike are neighbours. They are cut where neighbours
  share fewer tokens than some length; of such lengths, powers of two, the best is taken. A group
  has batches of its own, the last of which is rarely full: one that saves fewer tokens than its
  members have besides is none.
  """
  order = sorted(range(len(contexts)), key=lambda i: contexts[i].tolist())
  common = np.asarray([_common(contexts[a], contexts[b]) for a, b in zip(order, order[1:])], int)
  best, saved = [Shared(0, [i]) for i in order], 0
  length = _SHORTEST
  while length <= common.max(initial=0):
    groups, total = [], 0
    for members, shared in _cut(order, common, length):
      spared = shared * (len(members) - 1)
      if spared < sum(len(contexts[i]) - shared for i in members):
        groups += [Shared(0, [i]) for i in members]
        continue
      groups.append(Shared(shared, members))
      total += spared
    if total > saved:
      best, saved = groups, total
    length *= 2
  alone = [group.members[0] for group in best if not group.prefix]
  return [group for group in best if group.prefix] + ([Shared(0, alone)] if alone else [])


def _cut(order: list[int], common: np.ndarray, length: int):
  """(members, what all of them share) of the runs of neighbours that share at least `length`."""
  ends = [*np.flatnonzero(common < length) + 1, len(order)]
  start = 0
  for end in ends:
    inside = common[start:end - 1]
    yield order[start:end], int(inside.min()) if len(inside) else 0
    start = end


def _common(a: np.ndarray, b: np.ndarray) -> int:
  """How many tokens two contexts begin with alike, leaving one of each."""
  size = min(len(a), len(b)) - 1
  differ = np.flatnonzero(a[:size] != b[:size])
  return int(differ[0]) if len(differ) else max(size, 0)

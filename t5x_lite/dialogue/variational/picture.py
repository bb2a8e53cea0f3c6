"""The picture of a latent space: a point an utterance, coloured by its dialogue act."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

Projection = Literal['pca', 'tsne']
NAMED = 9   # acts that have a colour of their own, the most frequent


def project(means_NZ: np.ndarray, by: Projection, seed: int = 0) -> np.ndarray:
  """Latents in two dimensions [N, 2]."""
  if by == 'pca':
    from sklearn.decomposition import PCA
    found = PCA(min(2, means_NZ.shape[1]), random_state=seed).fit_transform(means_NZ)
    return np.pad(found, ((0, 0), (0, 2 - found.shape[1])))   # of one dimension: on a line
  from sklearn.manifold import TSNE
  return TSNE(2, perplexity=min(30, (len(means_NZ) - 1) / 3), init='random',
              random_state=seed).fit_transform(means_NZ)


def draw_latents(points_N2: np.ndarray, acts: Sequence[str], title: str):
  """A matplotlib Figure; acts that are not among the most frequent are grey."""
  from matplotlib import colormaps
  from matplotlib.figure import Figure  # not pyplot, which has a state of its own
  named = [act for act, _ in Counter(acts).most_common(NAMED)]
  groups = [(act or 'no act', colormaps['tab10'](n if n < 7 else n + 1),   # 7 is grey
             [a == act for a in acts]) for n, act in enumerate(named)]
  others = [act not in named for act in acts]
  if any(others):
    groups.insert(0, ('others', '#bbbbbb', others))
  figure = Figure(figsize=(9, 5.5), layout='constrained')
  axes = figure.subplots()
  for name, color, chosen in groups:
    axes.scatter(*points_N2[np.array(chosen)].T, s=10, color=color, alpha=0.7, linewidths=0,
                 label=f'{name if len(name) < 40 else name[:38] + " …"} ({sum(chosen):,})')
  axes.set(title=title, xticks=[], yticks=[])
  figure.legend(loc='outside right upper', frameon=False, fontsize=9, markerscale=2)
  return figure

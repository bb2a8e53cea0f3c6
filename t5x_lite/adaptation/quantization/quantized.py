"""A quantised base under another adaptation: QLoRA is Quantized around a LoRA."""

import dataclasses
import re
from typing import Annotated, Literal

import jax

from t5x_lite.adaptation.adaptation import Adaptation
from t5x_lite.adaptation.quantization.leaf import Layout
from t5x_lite.core import trees
from t5x_lite.core.dataclass_checks import FieldError, Range, check_types
from t5x_lite.core.errors import UserError
from t5x_lite.models import Network

# What layers multiply by: kernels of linear layers, and those of experts.
KERNEL = re.compile(r'/kernel$|/mlp/(gate|up|down)$|embedder/output$')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
  """Holds the frozen kernels that an adaptation leaves in 4 or 8 bits (Dettmers et al. 2023)."""
  # Which freezes them: what it trains stays as it is. None: nothing is trained, and all kernels are
  # held so, as those of a base, or of a run that only answers.
  adaptation: Adaptation | None = None
  # nf4, fp4 and int4: two codes a byte. int8: a code a byte. llm_int8: products in 8 bits, too.
  format: Literal['nf4', 'fp4', 'int4', 'int8', 'llm_int8'] = 'nf4'
  block: Annotated[int, Range(min=0, max=2 ** 20)] = 64   # inputs with one scale; 0: all of them
  double: bool = True                      # scales in 8 bits, too; not of llm_int8
  skip: str = 'embedder|norm|pooler|head'  # a regular expression: kernels that stay in float32

  def __post_init__(self):
    check_types(self)
    try:
      re.compile(self.skip)
    except re.error as e:
      raise FieldError(self, 'skip', f'not a regular expression: {e}') from e
    if isinstance(self.adaptation, Quantized):
      raise FieldError(self, 'adaptation', 'is Quantized already: name what it wraps')
    if self.block % 2 and self.format in ('nf4', 'fp4', 'int4'):
      raise FieldError(self, 'block', 'must be even: two codes fill a byte')

  def adapt(self, network: Network) -> Network:
    """The adapted network, whose frozen kernels a state holds quantised.

    Raises FieldError if there is none, or blocks do not divide one.
    """
    adapted = self.adaptation.adapt(network) if self.adaptation is not None else (
        dataclasses.replace(network, is_trained=lambda path: False))
    shapes, axes = trees.flatten(adapted.shapes), adapted.axes_by_path
    layouts = {name: self._layout(name, axes[name], len(shapes[name].shape)) for name in shapes
               if KERNEL.search(name) and not re.search(self.skip or r'(?!)', name)
               and not adapted.is_trained(name)}
    if not layouts:
      raise FieldError(self, 'skip', 'leaves no frozen kernel to quantise, of '
                       + trees.summarize(filter(KERNEL.search, shapes)))
    for name, layout in layouts.items():
      try:
        layout.struct(shapes[name])
      except UserError as e:
        raise FieldError(self, 'block', str(e)) from e
    if adapted.begin is not None:   # which may need what is held in codes
      jax.eval_shape(adapted.begin, {
          name: layouts[name].struct(x) if name in layouts else x for name, x in shapes.items()})
    return dataclasses.replace(adapted, quantized=layouts.get)

  def _layout(self, name: str, axes: tuple, rank: int) -> Layout:
    axes = axes[1:] if axes[0] == 'layers' else axes
    if self.format == 'llm_int8':
      return Layout(name, axes, 'int8', None, False, threshold=6.0)
    return Layout(name, axes, self.format, self.block or None, self.double)

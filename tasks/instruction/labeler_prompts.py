"""The three kinds of prompt that labelers wrote for InstructGPT (Ouyang et al. 2022, appendix A.1).

A row has an instruction and instances of it, each an input and its output.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import random
from typing import Any

from t5x_lite.core.dataclass_checks import Count, FieldError, Seed, check_types, nearest
from t5x_lite.data.files.templates import BadExample

KINDS = ('plain', 'few_shot', 'user_based')
_OF_FEW_SHOT = ('shots', 'samples', 'seed')   # fields that nothing else reads


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelerPrompts:
  """Which prompts are made of an instruction with instances.

  * plain: the instruction and an input.
  * few_shot: the instruction, other instances as queries and responses, and an input as the query
    that is to be responded to. An instance with the query that is asked is never among them.
  * user_based: as plain, after a system message with the use case that it was written for.
  """

  kind: str = 'plain'           # or 'few_shot', 'user_based'
  shots: Count | None = None   # of few_shot, at most; None: all others
  samples: Count = 1            # of few_shot: draws of shots for each instance; equal ones are one
  use_case: str = 'motivation_app'   # of user_based: the field of a row that names it
  seed: Seed = 0                # of the shots, which depend on it and the row alone

  def __post_init__(self):
    check_types(self)
    if self.kind not in KINDS:
      raise FieldError(self, 'kind', nearest(self.kind, KINDS))
    if not self.use_case:
      raise FieldError(self, 'use_case', 'must name a field')
    defaults = {field.name: field.default for field in dataclasses.fields(self)}
    for name in (*_OF_FEW_SHOT * (self.kind != 'few_shot'),
                 *['use_case'] * (self.kind != 'user_based')):
      if getattr(self, name) != defaults[name]:
        raise FieldError(self, name, f'has no use where LabelerPrompts.kind is {self.kind!r}')

  def rows(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of instruction, input and output a prompt, with `system` of a use case.

    Args:
      row: with `instruction` and `instances`, a list of objects.

    Raises BadExample for a row that has no prompt of the kind.
    """
    plain = [{'instruction': row['instruction'], **instance} for instance in row['instances']]
    if self.kind == 'plain':
      return plain
    if self.kind == 'user_based':
      use_case = row.get(self.use_case)
      if not isinstance(use_case, str) or not use_case.strip():
        raise BadExample(f'names no use case in a field {self.use_case!r}: set '
                         'LabelerPrompts.use_case to the field that does')
      return [prompt | {'system': f'Use case: {use_case.strip()}'} for prompt in plain]
    return [prompt for asked in plain for prompt in self._few_shot(asked, plain)]

  def _few_shot(self, asked: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]
                ) -> list[dict[str, Any]]:
    others = {}
    for number, instance in enumerate(instances, 1):
      for name in ('input', 'output'):
        if not isinstance(instance.get(name), str) or not instance[name].strip():
          raise BadExample(f'instance {number} has no {name}, and a shot is an input with its '
                           "output: set LabelerPrompts.kind = 'plain'")
      others.setdefault(_query(instance), instance)
    others.pop(_query(asked))
    if not others:
      raise BadExample('has one query alone, so that there is no shot beside it: give it more '
                       "instances, or set LabelerPrompts.kind = 'plain'")
    number = min(self.shots or len(others), len(others))
    found = {}
    for sample in range(self.samples):
      draw = random.Random(f'{self.seed} {sample} {asked["instruction"]} {_query(asked)}')
      shots = draw.sample([*others.values()], number)
      text = ''.join(f'Query: {shot["input"]}\nResponse: {shot["output"]}\n\n' for shot in shots)
      found[f'{text}Query: {asked["input"]}\nResponse:'] = None
    return [{**asked, 'input': text} for text in found]


def _query(instance: Mapping[str, Any]) -> str:
  """What is the same of two instances that ask the same."""
  return ' '.join(instance['input'].split()).casefold()

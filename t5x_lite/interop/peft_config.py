"""adapter_config.json of a LoRA of PEFT: each key is read, irrelevant, or refused by name."""

from collections.abc import Iterable
import dataclasses
import math
import pathlib
import re
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import Json, listed, read_object

CONFIG, TENSORS = 'adapter_config.json', 'adapter_model.safetensors'
_READ = """
    peft_type r lora_alpha lora_dropout use_rslora use_dora rank_pattern alpha_pattern bias
    init_lora_weights target_modules exclude_modules layers_to_transform modules_to_save""".split()
# What does not change what a trained adapter computes. fan_in_fan_out is the layout of the base:
# A is [rank, in] and B [out, rank] either way.
_IRRELEVANT = """
    auto_mapping base_model_name_or_path fan_in_fan_out inference_mode layers_pattern loftq_config
    megatron_core peft_version qalora_group_size revision runtime_config task_type""".split()
# Ways to begin that change the base too: the adapter alone does not say by how much.
_CHANGES_BASE = re.compile(r'pissa|olora|corda|loftq|lora_ga|cordainit', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class PeftConfig:
  """The options of an adapter that matter here."""
  rank: int
  alpha: float
  dropout: float
  rank_stabilized: bool
  dora: bool
  rank_pattern: dict[str, int]
  alpha_pattern: dict[str, float]
  target_modules: Any                        # names, or a regular expression
  exclude_modules: Any
  layers: tuple[int, ...] | None             # None: all
  modules_to_save: tuple[str, ...]

  def rank_of(self, module: str) -> int:
    """The rank of a module's adapter."""
    return _of(self.rank_pattern, module, self.rank)

  def scale_of(self, module: str) -> float:
    """The scale of a module's A B."""
    rank = self.rank_of(module)
    alpha = _of(self.alpha_pattern, module, self.alpha)
    return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

  def targets(self, modules: Iterable[str]) -> list[str]:
    """Those of a model's linear modules that the adapter must have."""
    found = [m for m in modules if _matches(self.target_modules, m)
             and not (self.exclude_modules and _matches(self.exclude_modules, m))]
    if self.layers is None:
      return found
    layer = lambda m: next((int(part) for part in m.split('.') if part.isdigit()), None)
    return [m for m in found if layer(m) in self.layers]


def _of(pattern: dict[str, Any], module: str, default: Any) -> Any:
  """As PEFT: the first key that is the module's name, or the end of it."""
  return next((value for key, value in pattern.items()
               if re.match(rf'(.*\.)?({key})$', module)), default)


def _matches(names: Any, module: str) -> bool:
  if isinstance(names, str):
    return bool(re.fullmatch(names, module)) or names == 'all-linear' and bool(
        re.search(r'\.\d+\.', module))
  return any(module == name or module.endswith(f'.{name}') for name in names)


def read_config(folder: pathlib.Path) -> PeftConfig:
  """The options of an adapter's folder; UserError for any that is active and not supported."""
  path = folder / CONFIG
  if not path.is_file():
    raise UserError(f'{folder} holds no {CONFIG}: give the folder of a PEFT adapter, whole')
  hf = read_object(path)
  if hf.get('peft_type') != 'LORA':
    raise UserError(f'{path}: peft_type {hf.get("peft_type")!r} is not supported: only LORA is')
  active = [key for key, value in hf.items() if key not in (*_READ, *_IRRELEVANT) and value]
  if hf.get('bias') not in (None, 'none'):
    active.append('bias')
  if isinstance(begins := hf.get('init_lora_weights'), str) and _CHANGES_BASE.match(begins):
    active.append('init_lora_weights')
  if active:
    named = listed(f'{key} = {hf[key]!r}' for key in active)
    raise UserError(f'{path}: {named} {"is" if len(active) == 1 else "are"} not supported: merge '
                    "the adapter with peft's merge_and_unload, then save_pretrained")
  return _parse(path, hf)


def _parse(path: pathlib.Path, hf: Json) -> PeftConfig:
  def get(key, kinds, default):
    value = hf.get(key)
    value = default if value is None else value
    if not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool):
      raise UserError(f'{path}: {key} is {value!r}: fetch the file again')
    return value

  rank, alpha = get('r', int, 8), get('lora_alpha', (int, float), 8)
  ranks, alphas = get('rank_pattern', dict, {}), get('alpha_pattern', dict, {})
  for key, values in (('r', [rank]), ('lora_alpha', [alpha]), ('rank_pattern', ranks.values()),
                      ('alpha_pattern', alphas.values())):
    if not all(isinstance(v, (int, float)) and v > 0 for v in values):
      raise UserError(f'{path}: {key} is {hf.get(key)!r}, and must be above 0')
  targets, excluded = get('target_modules', (str, list), []), get(
      'exclude_modules', (str, list), [])
  saved, layers = get('modules_to_save', list, []), hf.get('layers_to_transform')
  if layers is not None:
    layers = get('layers_to_transform', (int, list), None)
  as_list = lambda names: [names] if isinstance(names, str) else names
  for name in (*ranks, *alphas, *as_list(targets), *as_list(excluded), *saved):
    try:
      re.compile(name)
    except (re.error, TypeError) as e:
      raise UserError(f'{path}: {name!r} is no name of modules ({e}): fetch the file again') from e
  return PeftConfig(
      rank, float(alpha), float(get('lora_dropout', (int, float), 0.0)),
      get('use_rslora', bool, False), get('use_dora', bool, False), ranks, alphas,
      targets, excluded,
      None if layers is None else tuple([layers] if isinstance(layers, int) else layers),
      tuple(saved))

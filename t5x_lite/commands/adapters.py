"""The parameters that `infer` and `eval` read: of a run, and of the adapter chosen for it."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from t5x_lite.core.console import note
from t5x_lite.core.dataclass_checks import FieldError, short_repr
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

# Fields of a ModelConfig that do not tell one base from another.
_FREE = ('dropout_rate', 'embedding_noise', 'init_std', 'remat', 'attention', 'dtype')


def load_chosen(experiment, network, partitioner, step: int | None, vocabulary: str | None,
                trusted_modules: Sequence[str] = ()) -> tuple[Any, int]:
  """(all parameters, step of the base) of a run, with Experiment.adapter if that is set."""
  from t5x_lite.training.initial_params import load_params
  if experiment.adapters is None:
    params, step = load_params(experiment.folder, network, partitioner, step, vocabulary)
    _check_init_from(experiment, step)
    return params, step
  loaded, step = load_adapters(experiment, network, partitioner, step, vocabulary, trusted_modules)
  return loaded.params(experiment.adapter), step


def _check_init_from(experiment, step: int) -> None:
  """Raises UserError if INIT_FROM is another base than that of the frozen parameters of a step."""
  from t5x_lite.training import initial_params
  from t5x_lite.training.checkpoints import reader_of
  origin = reader_of(experiment.folder).read_meta(step).get(initial_params.FROZEN_FROM, {})
  if experiment.init_from is None or 'model_dir' not in origin:
    return
  other = local_path(experiment.init_from.model_dir)
  # It may name the same folder from elsewhere, or one that has moved.
  if not (other / 'checkpoints').is_dir() or other.absolute() == pathlib.Path(origin['model_dir']):
    return
  found = reader_of(other)
  at = origin['step'] if origin['step'] in found.steps() else found.find_step(None)
  want, got = initial_params.origin_fingerprint(origin), initial_params.base_fingerprint(other, at)
  if None not in (want, got) and want != got:
    raise UserError(f'{experiment.folder} was trained on step {origin["step"]} of '
                    f'{origin["model_dir"]}, whose parameters are not those of INIT_FROM, {other}: '
                    'leave INIT_FROM as it is in its config.gin')


def load_adapters(experiment, network, partitioner, step: int | None, vocabulary: str | None,
                  trusted_modules: Sequence[str] = ()) -> tuple[Any, int]:
  """(the AdapterSet of Experiment.adapters, step of the base), the base in memory once.

  Args:
    experiment: of the base.
    network, partitioner: of the experiment.
    step: of the base's checkpoint, newest if None; of the adapters the newest is read.
    vocabulary: the fingerprint of the base's.
    trusted_modules: modules outside this project that config.gin of adapters may import.

  Raises:
    FieldError: a folder holds no adapter, or one for another base.
  """
  from t5x_lite.adaptation.adapter_set import AdapterSet
  from t5x_lite.training.initial_params import load_params
  base, step = load_params(experiment.folder, network, partitioner, step, vocabulary)
  found = AdapterSet(network, base, {})
  for name, folder in experiment.adapters.items():
    try:
      own = _load(experiment, found, partitioner, local_path(folder), step, vocabulary,
                  trusted_modules)
      found.add(name, *own)
    except UserError as e:
      raise FieldError(experiment, 'adapters', f'{name!r}: {e}') from e
  return found, step


def _load(experiment, base, partitioner, folder: pathlib.Path, step: int, vocabulary: str | None,
          trusted_modules: Sequence[str]) -> tuple[Any, dict]:
  """(adaptation, its own parameters) of the folder of a run, or of PEFT."""
  from t5x_lite.interop.peft_config import CONFIG
  from t5x_lite.training.run_folder import RunFolder
  if RunFolder(folder).config.is_file():
    return _load_run(experiment, base, partitioner, folder, step, vocabulary, trusted_modules)
  if (folder / CONFIG).is_file():
    return _load_peft(experiment, base, partitioner, folder)
  raise UserError(f'{folder} holds neither the config.gin of a run nor the {CONFIG} of PEFT')


def _load_peft(experiment, base, partitioner, folder: pathlib.Path) -> tuple[Any, dict]:
  import jax

  from t5x_lite.core import trees
  from t5x_lite.interop import peft
  from t5x_lite.training.state import abstract_params
  lora, values = peft.load_adapter(folder, experiment.model, base.base)
  network = lora.adapt(base.network)
  own, _ = trees.partition(abstract_params(network, partitioner), network.is_trained)
  put = lambda path, x: jax.device_put(values[trees.path_name(path)], x.sharding)
  return lora, jax.tree_util.tree_map_with_path(put, own)


def _load_run(experiment, base, partitioner, folder: pathlib.Path, step: int,
              vocabulary: str | None, trusted_modules: Sequence[str]) -> tuple[Any, dict]:
  from t5x_lite.adaptation.adaptation import innermost
  from t5x_lite.experiment import gin_config
  from t5x_lite.training import initial_params
  from t5x_lite.training.run_folder import RunFolder
  from t5x_lite.training.state import abstract_params
  run = gin_config.load_described([str(RunFolder(folder).config)], (), trusted_modules)
  adaptation = innermost(run.adaptation)
  if adaptation is None:
    raise UserError(f'{folder} is a run without an adapter: its Experiment.adaptation is '
                    f'{run.adaptation}')
  _check_config(run.model, experiment.model)
  adapted = adaptation.adapt(base.network)
  own, meta, _ = initial_params.load_own(
      folder, adapted, abstract_params(adapted, partitioner), None, vocabulary)
  _check_base(experiment.folder, step, folder, meta.get(initial_params.FROZEN_FROM, {}))
  _compare_codes(folder, run.adaptation.adapt(base.network), base.network)
  return adaptation, own


def _compare_codes(folder: pathlib.Path, trained, served) -> None:
  """Notes that an adapter was trained on a base in other codes: the run's outputs differ."""
  from t5x_lite.core import trees
  text = lambda layout: 'float32' if layout is None else ', '.join(
      f'{name} {value}' for name, value in layout.settings.items() if value is not None)
  for path in trees.flatten(served.shapes):
    was, now = trained.quantized(path), served.quantized(path)
    if was != now and not trained.is_trained(path):
      note(f'the adapter of {folder} was trained on kernels in {text(was)}, and answers here on '
           f'kernels in {text(now)}, such as {path}: outputs are not exactly those of its run')
      return


def _check_config(adapter, base) -> None:
  """Raises UserError if the model of an adapter has not the architecture of the base."""
  for field in dataclasses.fields(base):
    of_adapter, of_base = getattr(adapter, field.name), getattr(base, field.name)
    if field.name not in _FREE and of_adapter != of_base:
      raise UserError(f'the adapter is for another base: of ModelConfig.{field.name} '
                      f'{short_repr(of_adapter)}, where this one has {short_repr(of_base)}')


def _check_base(model_dir: pathlib.Path, step: int, folder: pathlib.Path, origin: dict[str, Any]
                ) -> None:
  """Raises UserError if an adapter was trained on other parameters than those of this step."""
  from t5x_lite.training import initial_params
  if not origin:   # the whole of it is in its checkpoint
    return
  want, got = (initial_params.origin_fingerprint(origin),
               initial_params.base_fingerprint(model_dir, step))
  where = f'drawn from seed {origin["seed"]}' if 'seed' in origin else (
      f'step {origin["step"]} of {origin["model_dir"]}')
  if None in (want, got):
    note(f'the base of {folder} is {where}, which is not there, or of an older version: whether '
         f'{model_dir} has the same parameters is not known')
  elif want != got:
    raise UserError(f'the adapter is for another base, {where}, whose parameters are not those of '
                    f'step {step} of {model_dir}: give the config.gin of that one, and its step '
                    '(InferConfig.step, EvalConfig.step)')

"""`t5x-lite import --base`: a run folder from a LoRA of PEFT and the run of its base."""

import contextlib
import dataclasses
import pathlib


def import_adapter(source: pathlib.Path, base: pathlib.Path, model_dir: pathlib.Path) -> list[str]:
  """Makes a run of step 0 that adapts another run; returns lines of summary.

  Its config.gin is that of the base with a Lora, its checkpoint the adapter alone.

  Args:
    source: a folder of adapter_config.json and adapter_model.safetensors.
    base: a run of the model that it adapts, such as an imported one.
    model_dir: must not exist, or be empty.

  Raises:
    UserError: the adapter is damaged, has unsupported options, or is for another base.
  """
  import jax

  from t5x_lite import models
  from t5x_lite.adaptation.adaptation import innermost
  from t5x_lite.core import trees
  from t5x_lite.core.errors import UserError
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.experiment import gin_config
  from t5x_lite.interop import peft
  from t5x_lite.models import weights
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.checkpoints import Checkpoints, reader_of
  from t5x_lite.training.initial_params import (
    ADDED,
    FROZEN_FROM,
    added_paths,
    load_params,
    origin_of,
  )
  from t5x_lite.training.run_folder import RunFolder
  config_gin = RunFolder(base).config
  if not config_gin.is_file():
    raise UserError(f'{base} holds no config.gin: name the run of the adapter\'s base, as t5x-lite '
                    'import made it')
  experiment = gin_config.load_described([str(config_gin)])
  if innermost(experiment.adaptation) is not None:
    raise UserError(f'{base} is adapted itself: merge it first (t5x-lite merge)')
  devices = jax.devices()
  if experiment.adaptation is not None:   # codes fit one device, which cuts no block of theirs
    devices = devices[:1]
  network, partitioner = experiment.build_network(
      MeshConfig(data=1, fsdp=len(devices)).make(devices))
  params, step = load_params(base, network, partitioner, None)
  lora, values = peft.load_adapter(source, experiment.model, params)
  adapted = lora.adapt(models.build_network(experiment.model))
  flat = trees.flatten(params, weights.is_structured) | values
  trained, _ = trees.partition(trees.fill(adapted.shapes, flat), adapted.is_trained)
  changed = {f.name: getattr(lora, f.name) for f in dataclasses.fields(lora)
             if getattr(lora, f.name) != f.default}
  holder = 'Experiment' if experiment.adaptation is None else 'Quantized'
  with atomic_folder(model_dir) as folder:
    text = gin_config.load_experiment([str(config_gin)], [
        f'MODEL_DIR={str(model_dir.absolute())!r}', f'{holder}.adaptation=@lora.Lora()',
        *(f'Lora.{name}={value!r}' for name, value in changed.items())], trains=False)[1]
    RunFolder(folder).config.write_text(text, encoding='utf-8')
    meta = {'imported_from': str(source), ADDED: added_paths(adapted),
            FROZEN_FROM: origin_of(base, step)}
    fingerprint = reader_of(base).read_meta(step).get('vocabulary')
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
      checkpoints.save_params(trained, 0, meta | {'vocabulary': fingerprint})
  size = sum(x.size for x in jax.tree.leaves(trained))
  return [f'{model_dir}: an adapter of {size:,} parameters, of rank {lora.rank}, from {source}, on '
          f'{base}, step {step}']

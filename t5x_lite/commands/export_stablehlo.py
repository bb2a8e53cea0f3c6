"""The export that needs jax alone: compiled functions of a model as StableHLO."""

import pathlib

from t5x_lite.commands.export_huggingface import copy_tokenizer
from t5x_lite.commands.export_source import ExportSource, write_json


def export_stablehlo(source: ExportSource, folder: pathlib.Path, step: int | None, dtype: str
                     ) -> str:
  """Writes functions, parameters, tokenizer and a program that runs them; a summary line.

  Args:
    source: the run.
    folder: must not exist, or be empty.
    step: of the checkpoint, newest if None.
    dtype: of the parameters: float32, as they are.
  """
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import stablehlo
  config, data = source.experiment.model, source.experiment.data
  num_ids, end_ids = config.vocab_size, source.end_ids
  if source.vocabulary not in (None, 'none'):
    num_ids = data.tokenizer('targets').vocab_size
  stablehlo.functions_of(config, num_ids, end_ids)   # before parameters are read
  with atomic_folder(folder) as partial:
    _, params, step = source.load(step)
    about = stablehlo.save_functions(partial, config, params, num_ids, end_ids)
    copy_tokenizer(source, partial, '')
    write_json(partial / stablehlo.DESCRIPTION, about)
  functions = ' and '.join(about['functions'])
  return (f'{folder}: step {step} of {source.experiment.folder} as StableHLO '
          f'{about["stablehlo"]}, {functions}, {dtype}')

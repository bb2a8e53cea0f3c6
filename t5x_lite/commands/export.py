"""`t5x-lite export`: a checkpoint of a run as transformers reads it, an adapter as peft does."""

import argparse
from collections.abc import Sequence
import json
import pathlib
import shutil
from typing import Any

from t5x_lite.commands import gin_flags
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.interop.json_files import read_object, read_optional

EXAMPLE = 't5x-lite export --from=runs/gpt2 --to=exports/gpt2'
# What is copied from the config.json of an imported run.
_SPECIAL = ('bos_token_id', 'eos_token_id', 'pad_token_id', 'decoder_start_token_id')
_BYTES = {'t5x_lite_vocabulary': 'byte'}   # a key of config.json that import reads
_NO_FILE = (None, 'byte', 'none')   # values of VOCABULARY that name no file


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='MODEL_DIR', type=local_path)
  add('--to', required=True, dest='target', metavar='FOLDER', type=local_path,
      help='a folder to write; must not exist, or be empty')
  add('--step', type=int, help='of the checkpoint; default: the newest')
  add('--dtype', choices=('float32', 'bfloat16'), default='float32')
  gin_flags.add_trusted_modules(parser)


def run(args: argparse.Namespace) -> int:
  print(export_run(args.source, args.target, args.step, args.dtype, args.trusted_modules))
  return 0


def export_run(model_dir: pathlib.Path, folder: pathlib.Path, step: int | None, dtype: str,
               trusted_modules: Sequence[str] = ()) -> str:
  """Writes a run's checkpoint as transformers reads it; returns a summary line.

  Of a run of an adapter that alone is written, as peft reads it.

  Tokenizer files, chat template and generation config are copied from the imported run, which this
  one is or started from; else the vocabulary of the run, if it has one from a file. What ends an
  answer of the chat template that the run was trained on is in the generation config.

  Args:
    model_dir: the folder of the run.
    folder: must not exist, or be empty.
    step: of the checkpoint, newest if None.
    dtype: of the tensors, float32 or bfloat16.
    trusted_modules: modules outside this project that config.gin may import.
  """
  import jax

  from t5x_lite.adaptation.adaptation import Adapter, innermost
  from t5x_lite.core import trees
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.experiment import gin_config
  from t5x_lite.interop import huggingface, tokenizer_files
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.initial_params import load_params
  from t5x_lite.training.run_folder import RunFolder
  run = RunFolder(model_dir)
  if not run.config.is_file():
    raise UserError(f'{model_dir} holds no config.gin: name the folder of a run')
  experiment = gin_config.load_described([str(run.config)], (), trusted_modules)
  if isinstance(innermost(experiment.adaptation), Adapter):
    return _export_adapter(experiment, folder, step, dtype)
  if experiment.adaptation is not None and innermost(experiment.adaptation) is None:
    raise UserError(f'{model_dir} holds its kernels in codes, which are not exported: export an '
                    'import of the model without --quantize')
  if innermost(experiment.adaptation) is not experiment.adaptation:
    raise UserError(f'{model_dir} has a quantised base: merge it (t5x-lite merge), and export that')
  config, vocabulary = experiment.model, experiment.data.vocabulary
  network, partitioner = experiment.build_network(
      MeshConfig(data=1, fsdp=jax.device_count()).make())
  if added := [path for path in trees.flatten(network.shapes) if network.is_added(path)]:
    raise UserError(f'{model_dir} has parameters that no model of transformers has: '
                    f'{trees.summarize(added)}: its adaptation is not exported')
  kept = _imported_files(run, experiment)
  with atomic_folder(folder) as partial:
    params, step = load_params(model_dir, network, partitioner, step)
    extra = _token_ids(kept, vocabulary) | _labels(experiment)
    model_type = huggingface.save_model(partial, config, params, extra=extra, dtype=dtype)
    names = tokenizer_files.copy_files(kept, partial) if kept else []
    if run.chat_template.is_file():   # which it was trained on, whatever its base came with
      shutil.copyfile(run.chat_template, partial / run.chat_template.name)
      _write_end_ids(partial, experiment.data.chat(str(run.chat_template)).end_ids)
    if not set(names) & set(tokenizer_files.READABLE) and vocabulary not in _NO_FILE:
      _export_vocabulary(pathlib.Path(vocabulary), partial, model_type)
  return f'{folder}: step {step} of {model_dir} as {model_type!r}, {dtype}'


def _write_end_ids(folder: pathlib.Path, end_ids: Sequence[int]) -> None:
  """Lets what ends an answer of the chat template end one in transformers: generation_config.json.

  Nothing is written where config.json's eos_token_id, or a file that is there, says the same.
  """
  path = folder / 'generation_config.json'
  generation = read_optional(path)
  known = generation.get('eos_token_id', read_object(folder / 'config.json').get('eos_token_id'))
  known = known if isinstance(known, list) else [known]
  if not set(end_ids) <= set(known):
    ids = list(dict.fromkeys((*end_ids, *(i for i in known if i is not None))))
    path.write_text(json.dumps(generation | {
        'eos_token_id': ids if len(ids) > 1 else ids[0]}, indent=2) + '\n')


def _export_adapter(experiment, folder: pathlib.Path, step: int | None, dtype: str) -> str:
  """Writes the adapter of a run; returns a summary line."""
  import jax

  from t5x_lite.adaptation.adaptation import innermost
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import peft
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.checkpoints import reader_of
  from t5x_lite.training.initial_params import FROZEN_FROM, load_params
  adapter = innermost(experiment.adaptation)
  devices = jax.devices()
  if adapter is not experiment.adaptation:   # codes fit one device, which cuts no block of theirs
    devices = devices[:1]
  network, partitioner = experiment.build_network(
      MeshConfig(data=1, fsdp=len(devices)).make(devices))
  params, step = load_params(experiment.folder, network, partitioner, step)
  base = reader_of(experiment.folder).read_meta(step).get(FROZEN_FROM, {}).get('model_dir')
  if base is None:
    raise UserError(f'{experiment.folder} is an adapter of a base that was drawn from a seed: '
                    'merge it (t5x-lite merge), and export that')
  meta = reader_of(pathlib.Path(base)).read_meta(reader_of(pathlib.Path(base)).find_step(None))
  with atomic_folder(folder) as partial:
    model_type = peft.save_adapter(partial, experiment.model, adapter, params,
                                   meta.get('imported_from', base), dtype)
  return (f'{folder}: the adapter of step {step} of {experiment.folder} for {model_type!r}, '
          f'{dtype}; its base is {base}')


def _imported_files(run, experiment) -> pathlib.Path | None:
  """The files that came with the imported run that this is, or that it started from."""
  from t5x_lite.training.run_folder import RunFolder
  vocabulary, origin = experiment.data.vocabulary, experiment.init_from
  folders = [run.huggingface]
  if vocabulary not in _NO_FILE:
    folders.append(pathlib.Path(vocabulary).parent)
  if origin is not None:
    folders.append(RunFolder(local_path(origin.model_dir)).huggingface)
  return next((f for f in folders if (f / 'config.json').is_file()), None)


def _labels(experiment) -> dict[str, Any]:
  """The names of a model's classes: of its task, else those that it was imported with."""
  task = getattr(experiment.data, 'task', None)
  names = getattr(task, 'labels', None) or experiment.infer.labels
  if len(names) != experiment.model.num_classes:
    return {}
  return {'id2label': {str(i): name for i, name in enumerate(names)},
          'label2id': {name: i for i, name in enumerate(names)}}


def _export_vocabulary(path: pathlib.Path, folder: pathlib.Path, model_type: str) -> None:
  """Copies the vocabulary of a run under the name that transformers looks for."""
  from t5x_lite.interop import tiktoken_ranks
  if tiktoken_ranks.is_tokenizer(str(path)):
    text = tiktoken_ranks.tokenizer_json(str(path))
    (folder / 'tokenizer.json').write_text(text, encoding='utf-8')
    beside = path.with_name('tokenizer_config.json')
    if beside.is_file():
      shutil.copyfile(beside, folder / beside.name)
  else:
    shutil.copyfile(path, folder / ('spiece.model' if model_type == 't5' else 'tokenizer.model'))


def _token_ids(kept: pathlib.Path | None, vocabulary: str | None) -> dict[str, Any]:
  """Ids of special tokens: those the model came with, else those of its vocabulary."""
  from t5x_lite.interop import tokenizer_files
  if kept is not None:
    hf = read_object(kept / 'config.json')
    ids = {name: hf[name] for name in _SPECIAL if name in hf}
    return ids | _BYTES if vocabulary == 'byte' else ids
  if vocabulary in _NO_FILE:
    return {'pad_token_id': 0, 'eos_token_id': 1} | _BYTES   # of seqio's ByteVocabulary
  return tokenizer_files.special_ids(vocabulary)

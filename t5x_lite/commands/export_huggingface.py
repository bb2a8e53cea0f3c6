"""Exports that transformers reads: of models, with layers plain or in integers, and of adapters."""

from collections.abc import Sequence
import pathlib
import shutil

from t5x_lite.commands.export_source import ExportSource, write_json
from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import read_object, read_optional

_OF_MODELS = ('generation_config.json',)   # which an adapter has not


def export_model(source: ExportSource, folder: pathlib.Path, step: int | None, dtype: str) -> str:
  """Writes a folder that from_pretrained reads; returns a summary line.

  Tokenizer files, chat template and generation config are copied from the imported run, which this
  one is or started from; else the vocabulary of the run, if it has one from a file. What ends an
  answer of the chat template that the run was trained on is in the generation config.

  Args:
    source: the run.
    folder: must not exist, or be empty.
    step: of the checkpoint, newest if None.
    dtype: of the tensors, float32 or bfloat16.
  """
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import huggingface
  with atomic_folder(folder) as partial:
    _, params, step = source.load(step)
    model_type = huggingface.save_model(
        partial, source.experiment.model, params, extra=source.token_ids | source.labels,
        dtype=dtype)
    write_tokenizer(source, partial, model_type)
  return f'{folder}: step {step} of {source.experiment.folder} as {model_type!r}, {dtype}'


def export_compressed(source: ExportSource, folder: pathlib.Path, step: int | None, dtype: str
                      ) -> str:
  """Writes the same with its linear layers as compressed-tensors packs them: int4 or int8."""
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import compressed_tensors, hf_configs, huggingface
  config = source.experiment.model
  packing = compressed_tensors.packing_of(config, dtype)
  layers = compressed_tensors.linear_layers(hf_configs.model_type_of(config), config)
  with atomic_folder(folder) as partial:
    _, params, step = source.load(step)
    model_type = huggingface.save_model(
        partial, config, params, dtype=compressed_tensors.DTYPE, packed=(layers, packing.pack),
        extra=source.token_ids | source.labels | {'quantization_config': packing.config})
    write_tokenizer(source, partial, model_type)
  scales = 'an output' if packing.group is None else f'{packing.group} inputs'
  return (f'{folder}: step {step} of {source.experiment.folder} as {model_type!r}, linear layers '
          f'in {dtype} with a scale for {scales}, for vLLM')


def write_tokenizer(source: ExportSource, folder: pathlib.Path, model_type: str) -> None:
  """Writes tokenizer, chat template and generation config beside config.json."""
  copy_tokenizer(source, folder, model_type)
  path = folder / 'generation_config.json'
  config, generation = read_object(folder / 'config.json'), read_optional(path)
  if model_type in ('t5', 'mt5') and not generation:   # which other readers look for there alone
    generation = {name: config[name] for name in (
        'decoder_start_token_id', 'eos_token_id', 'pad_token_id') if config.get(name) is not None}
    write_json(path, generation)
  if source.chat is not None:   # what ends its answers ends them in transformers
    known = generation.get('eos_token_id', config.get('eos_token_id'))
    known = known if isinstance(known, list) else [known]
    if not set(source.chat.end_ids) <= set(known):
      ids = list(dict.fromkeys((*source.chat.end_ids, *(i for i in known if i is not None))))
      write_json(path, generation | {'eos_token_id': ids if len(ids) > 1 else ids[0]})


def copy_tokenizer(source: ExportSource, folder: pathlib.Path, model_type: str,
                   without: Sequence[str] = ()) -> None:
  """Copies tokenizer and chat template as transformers looks for them, `without` some files."""
  from t5x_lite.interop import tokenizer_files
  names = [name for name in tokenizer_files.NAMES if name not in without]
  names = tokenizer_files.copy_files(source.kept, folder, names) if source.kept else []
  if source.run.chat_template.is_file():   # which it was trained on, whatever its base came with
    shutil.copyfile(source.run.chat_template, folder / source.run.chat_template.name)
  if not set(names) & set(tokenizer_files.READABLE) and source.vocabulary_file is not None:
    copy_vocabulary(source.vocabulary_file, folder, model_type)


def copy_vocabulary(path: pathlib.Path, folder: pathlib.Path, model_type: str) -> None:
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


def export_adapter(source: ExportSource, folder: pathlib.Path, step: int | None, dtype: str) -> str:
  """Writes the adapter of a run, as peft reads it; returns a summary line.

  Tokenizer and chat template are with it where it was trained on conversations.
  """
  import jax

  from t5x_lite.adaptation.adaptation import innermost
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.interop import peft
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.training.checkpoints import reader_of
  from t5x_lite.training.initial_params import FROZEN_FROM, load_params
  experiment = source.experiment
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
    if source.run.chat_template.is_file():
      copy_tokenizer(source, partial, model_type, without=_OF_MODELS)
  return (f'{folder}: the adapter of step {step} of {experiment.folder} for {model_type!r}, '
          f'{dtype}; its base is {base}')

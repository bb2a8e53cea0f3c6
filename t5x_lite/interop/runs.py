"""`t5x-lite import` and `export`: checkpoints of others <-> run folders."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax

from t5x_lite import checkpointing, configuration
from t5x_lite.errors import UserError
from t5x_lite.interop import huggingface, t5x
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import RopeScaling
from t5x_lite.partitioning import MeshConfig, Partitioner
from tasks import tiktoken_ranks

# Where an imported run keeps what is neither parameter nor architecture.
KEPT = 'huggingface'
_TOKENIZER_FILES = (
    'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json',
    'spiece.model', 'tokenizer.model', 'vocab.json', 'merges.txt', 'vocab.txt',
    'chat_template.jinja', 'generation_config.json')
_SPECIAL = ('bos_token_id', 'eos_token_id', 'pad_token_id', 'decoder_start_token_id', 'id2label',
            'label2id')


def import_run(source: pathlib.Path, model_dir: pathlib.Path, overrides: dict[str, Any]) -> str:
  """Makes a run folder of a Hugging Face folder or a T5X checkpoint; returns a line on it.

  The run has step 0: its config.gin names the architecture, its checkpoint the parameters. The
  parameters lie on all devices of this process while they are read.

  Args:
    source: as huggingface.load or t5x.load.
    model_dir: must not exist, or be empty.
    overrides: fields of the ModelConfig.
  """
  if not source.exists():
    raise UserError(f'{source}: no such file or folder')
  with _appearing(model_dir) as folder:
    partitioner = Partitioner(MeshConfig(data=1, fsdp=jax.device_count()).make())
    load = huggingface.load if (source / 'config.json').exists() else t5x.load
    config, params = load(source, partitioner, **overrides)
    with contextlib.closing(checkpointing.Checkpoints(folder, keep=1)) as checkpoints:
      checkpoints.save_params(params, 0, {'imported_from': str(source)})
    vocabulary = _keep(source, folder)
    if vocabulary:
      vocabulary = str(model_dir.absolute() / KEPT / vocabulary)
    (folder / 'config.gin').write_text(_gin(config, source, vocabulary))
  size = sum(x.size for x in jax.tree.leaves(params))
  return f'{model_dir}: {config.family} of {size:,} parameters from {source}'


@contextlib.contextmanager
def _appearing(folder: pathlib.Path):
  """A folder that is filled under another name, and is there whole or not at all."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f'{folder} exists and is not empty: name another folder')
  partial = folder.with_name(f'{folder.name}.partial')
  if partial.exists():
    raise UserError(f'{partial} exists, left by a run that was cut off or is going on: remove it '
                    'if nothing writes there')
  partial.mkdir(parents=True)
  try:
    yield partial
    if folder.exists():
      folder.rmdir()
    partial.rename(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def _keep(source: pathlib.Path, folder: pathlib.Path) -> str | None:
  """Copies tokenizer files and config.json; returns the name of the one to read, if any."""
  kept = folder / KEPT
  for name in ('config.json', *_TOKENIZER_FILES):
    if (source / name).is_file():
      kept.mkdir(exist_ok=True)
      shutil.copyfile(source / name, kept / name)
  readable = (name for name in ('tokenizer.json', 'spiece.model', 'tokenizer.model')
              if (kept / name).exists())
  return next(readable, None)


def _gin(config: ModelConfig, source, vocabulary: str | None) -> str:
  """config.gin: the architecture alone, for a run that starts from it to include."""
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  derived = {'head_dim': config.embed_dim // config.num_heads, 'num_kv_heads': config.num_heads,
             'num_decoder_layers': config.num_layers, 'attention_scale': config.head_dim ** -0.5}
  fields = {name: getattr(config, name) for name in defaults}
  scaling = fields.pop('rope_scaling')
  lines = [f'  {name} = {value!r}' for name, value in fields.items()
           if value not in (defaults[name], derived.get(name, defaults[name]))]
  text = [f'# Imported from {source}.', 'from __gin__ import dynamic_registration',
          'from t5x_lite import models', 'from t5x_lite.models import positions', '']
  if vocabulary:
    text.append(f'VOCABULARY = {vocabulary!r}')
  text += ['', 'models.ModelConfig:', *lines]
  if scaling is not None:
    text.append('  rope_scaling = @positions.RopeScaling()')
    text += ['', 'positions.RopeScaling:', *(
        f'  {f.name} = {getattr(scaling, f.name)!r}' for f in dataclasses.fields(RopeScaling))]
  return '\n'.join(text) + '\n'


def export_run(model_dir: pathlib.Path, folder: pathlib.Path, step: int | None, dtype: str) -> str:
  """Writes a run's checkpoint as transformers reads it; returns a line on it.

  Tokenizer files go along if the run was imported with them, or has a vocabulary from a file.

  Args:
    model_dir: the folder of the run.
    folder: must not exist, or be empty.
    step: of the checkpoint, newest if None.
    dtype: of the tensors, float32 or bfloat16.
  """
  if not (model_dir / 'config.gin').is_file():
    raise UserError(f'{model_dir} holds no config.gin: name the folder of a run')
  experiment = configuration.load_described([str(model_dir / 'config.gin')])
  config, vocabulary = experiment.model, experiment.data.vocabulary
  partitioner = Partitioner(MeshConfig(data=1, fsdp=jax.device_count()).make())
  with _appearing(folder) as partial:
    params, step = checkpointing.load_params(model_dir, config, partitioner, step)
    kept = model_dir / KEPT
    extra = _token_ids(kept, vocabulary)
    model_type = huggingface.save(partial, config, params, extra=extra, dtype=dtype)
    names = [name for name in _TOKENIZER_FILES if (kept / name).is_file()]
    for name in names:
      shutil.copyfile(kept / name, partial / name)
    if not names and vocabulary not in (None, 'byte'):
      _export_vocabulary(pathlib.Path(vocabulary), partial, model_type)
  return f'{folder}: step {step} of {model_dir} as {model_type!r}, {dtype}'


def _export_vocabulary(path: pathlib.Path, folder: pathlib.Path, model_type: str) -> None:
  """Copies the vocabulary of a run under the name that transformers looks for."""
  if tiktoken_ranks.is_tokenizer(str(path)):
    text = tiktoken_ranks.tokenizer_json(str(path))
    (folder / 'tokenizer.json').write_text(text, encoding='utf-8')
    beside = path.with_name('tokenizer_config.json')
    if beside.is_file():
      shutil.copyfile(beside, folder / beside.name)
  else:
    shutil.copyfile(path, folder / ('spiece.model' if model_type == 't5' else 'tokenizer.model'))


def _token_ids(kept: pathlib.Path, vocabulary: str | None) -> dict[str, Any]:
  """Ids of special tokens: those the model came with, else those of its vocabulary."""
  if (kept / 'config.json').is_file():
    hf = json.loads((kept / 'config.json').read_text())
    return {name: hf[name] for name in _SPECIAL if name in hf}
  if vocabulary in (None, 'byte'):
    ids = {'pad_token_id': 0, 'eos_token_id': 1}   # of seqio's ByteVocabulary
  elif tiktoken_ranks.is_tokenizer(vocabulary):
    from tasks.tokenizer_vocabulary import TokenizerVocabulary  # imports TensorFlow
    read = TokenizerVocabulary(vocabulary)
    ids = {'eos_token_id': read.eos_id, 'bos_token_id': -1 if read.bos_id is None else read.bos_id,
           'pad_token_id': 0 if read.stand_in is None else read.eos_id}
  else:
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(vocabulary)
    ids = {'pad_token_id': model.pad_id(), 'eos_token_id': model.eos_id(),
           'bos_token_id': model.bos_id()}
  return {name: i for name, i in ids.items() if i >= 0}

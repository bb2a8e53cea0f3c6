"""`t5x-lite import`: a run from a Hugging Face folder, a T5X checkpoint or a PEFT adapter."""

import argparse
from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from t5x_lite.commands import codes as kernel_codes
from t5x_lite.commands import import_adapter
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite import --from=downloads/gpt2 --to=runs/gpt2'
FLAG = '--quantize'   # a format of codes
NO_TOKENIZER = 'none'   # VOCABULARY of a run that was imported without one


def add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--from', required=True, dest='source', metavar='FOLDER', type=local_path)
  add('--to', required=True, dest='target', metavar='MODEL_DIR', type=local_path,
      help='a folder to write; must not exist, or be empty')
  add('--vocabulary', metavar='FILE',
      help="of a folder without a tokenizer: a tokenizer.json, a SentencePiece model, or 'byte'")
  add('--base', metavar='MODEL_DIR', type=local_path,
      help='of an adapter of PEFT: the imported run that it is for')
  kernel_codes.add_flags(parser, FLAG, required=False)
  add('--activation', help='of a T5X checkpoint that is not T5 (UL2: silu)')


def run(args: argparse.Namespace) -> int:
  codes = kernel_codes.read_flags(args, FLAG)
  if args.base is not None:
    if codes:
      raise UserError('--quantize is of a model and not of an adapter: import its base so')
    for line in import_adapter.import_adapter(args.source, args.base, args.target):
      print(line)
    return 0
  overrides = {'activation': args.activation} if args.activation else {}
  for line in import_run(args.source, args.target, overrides, args.vocabulary, codes):
    print(line)
  print(f'Look at it: t5x-lite describe --gin_file={args.target}/config.gin')
  return 0


def import_run(source: pathlib.Path, model_dir: pathlib.Path, overrides: dict[str, Any],
               vocabulary: str | None = None, codes: dict[str, Any] | None = None) -> list[str]:
  """Makes a run folder from a Hugging Face folder or a T5X checkpoint; returns lines of summary.

  The run has step 0: its config.gin names the architecture and the tokenizer, its checkpoint the
  parameters and the vocabulary's fingerprint. The parameters are sharded over all devices of this
  process while they are read.

  Args:
    source: as huggingface.load_model or t5x.load_checkpoint.
    model_dir: must not exist, or be empty.
    overrides: fields of the ModelConfig.
    vocabulary: a file to read the tokenizer from, or 'byte'; None: the folder's own.
    codes: fields of the Quantized that holds the kernels; none: they are float32.
  """
  from t5x_lite.adaptation.quantization.quantized import Quantized
  from t5x_lite.core.files import atomic_folder
  from t5x_lite.experiment import gin_config
  from t5x_lite.interop import hf_tokenizers
  from t5x_lite.training.checkpoints import UNKNOWN_VOCABULARY
  from t5x_lite.training.run_folder import RunFolder
  source, model_dir, lines = local_path(source), local_path(model_dir), []
  quantized = Quantized(**codes) if codes else None
  with atomic_folder(model_dir) as folder:
    kept = RunFolder(folder).huggingface
    config, params, tokenizer, labels = _read(
        source, kept, quantized, overrides, lines.append)
    if vocabulary is not None:
      tokenizer = dataclasses.replace(
          tokenizer, file=hf_tokenizers.take_file(vocabulary, kept), prompt_prefix=None,
          prompt_suffix=())
    final = RunFolder(model_dir.absolute()).huggingface
    path_in = lambda folder: tokenizer.file if tokenizer.file in (None, 'byte') else str(
        folder / tokenizer.file)
    RunFolder(folder).config.write_text(
        _gin(config, source, model_dir, path_in(final) or NO_TOKENIZER, tokenizer, labels, codes),
        encoding='utf-8')
    fingerprint = UNKNOWN_VOCABULARY
    if tokenizer.file is not None:   # as the runs that will compare it compute it
      experiment = gin_config.load_described(
          [str(RunFolder(folder).config)], [f'VOCABULARY={path_in(kept)!r}'])
      fingerprint = experiment.data.fingerprint()
    kernel_codes.save(folder, config, quantized, params,
                      {'imported_from': str(source), 'vocabulary': fingerprint})
  size, stored = kernel_codes.sizes(params)
  lines.insert(0, f'{model_dir}: {config.family} of {size:,} parameters from {source}'
               + (f', at {8 * stored / size:.3f} bits each' if codes else ''))
  lines += tokenizer.notes
  lines.append('No tokenizer: text is refused until one is named with --gin.VOCABULARY=FILE' if (
      tokenizer.file is None) else f'Text is read with {tokenizer.file}' if (
          tokenizer.file != 'byte') else 'Text is read as bytes')
  return lines


def _read(source: pathlib.Path, kept: pathlib.Path, quantized, overrides: dict[str, Any],
          log: Callable[[str], None]) -> tuple[Any, dict[str, Any], Any, tuple[str, ...]]:
  """(config, parameters, tokenizer, labels) of what is imported; its files are copied to `kept`."""
  import jax

  from t5x_lite.interop import folders, hf_configs, hf_tokenizers, huggingface, t5x, tokenizer_files
  from t5x_lite.parallel.mesh import MeshConfig
  from t5x_lite.parallel.partitioner import Partitioner
  # Codes fit one device, which cuts no block of theirs.
  devices = jax.devices() if quantized is None else jax.devices()[:1]
  partitioner = Partitioner(MeshConfig(data=1, fsdp=len(devices)).make(devices))
  options = overrides | {'quantized': quantized}
  from_huggingface = folders.is_huggingface(source)
  with kernel_codes.flag_errors(vars(quantized) if quantized else {}, FLAG):
    if not from_huggingface:
      config, params = t5x.load_checkpoint(source, partitioner, **options)
      return config, params, hf_tokenizers.ImportedTokenizer(None), ()
    config, params = huggingface.load_model(source, partitioner, log=log, **options)
  tokenizer_files.copy_files(source, kept, ('config.json', *tokenizer_files.NAMES))
  hf = huggingface.read_config(source)
  return config, params, hf_tokenizers.prepare(kept, hf), hf_configs.labels_of(hf, config)


def _gin(config, source: pathlib.Path, model_dir: pathlib.Path, vocabulary: str, tokenizer,
         labels: tuple[str, ...] = (), codes: dict[str, Any] | None = None) -> str:
  """config.gin: the architecture and the tokenizer, for `infer` and for a run that starts from it.

  Includes what every run is made of first, so that files given after this one keep what it sets.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  derived = {'num_kv_heads': config.num_heads, 'num_decoder_layers': config.num_layers,
             'attention_scale': config.head_dim ** -0.5}
  if config.embed_dim % config.num_heads == 0:
    derived['head_dim'] = config.embed_dim // config.num_heads
  fields = {name: getattr(config, name) for name in defaults}
  scaling = fields.pop('rope_scaling')
  text = [f'# Imported from {str(source)!r}.', 'from __gin__ import dynamic_registration',
          'from t5x_lite import experiment', 'from t5x_lite import models',
          'from t5x_lite.models import positions', '', "include 'runs/experiment.gin'", '',
          f'MODEL_DIR = {str(model_dir.absolute())!r}', f'VOCABULARY = {vocabulary!r}', '']
  if codes:
    text[5:5] = ['from t5x_lite.adaptation.quantization import quantized']
    text += ['experiment.Experiment.adaptation = @quantized.Quantized()', 'quantized.Quantized:',
             *(f'  {name} = {value!r}' for name, value in codes.items()), '']
  framed = {'prompt_prefix': tokenizer.prompt_prefix, 'prompt_suffix': tokenizer.prompt_suffix,
            'end_ids': tokenizer.end_ids, 'labels': labels}
  if any(framed.values()) or tokenizer.prompt_prefix is not None:
    text += ['# Ids around a prompt and at the end of an answer, as the tokenizer has them.',
             'experiment.InferConfig:', *(f'  {n} = {v!r}' for n, v in framed.items()), '']
  text += ['models.ModelConfig:', *(
      f'  {name} = {value!r}' for name, value in fields.items()
      if value not in (defaults[name], derived.get(name, defaults[name])))]
  if scaling is not None:
    text.append('  rope_scaling = @positions.RopeScaling()')
    text += ['', 'positions.RopeScaling:', *(
        f'  {f.name} = {getattr(scaling, f.name)!r}' for f in dataclasses.fields(scaling))]
  return '\n'.join(text) + '\n'

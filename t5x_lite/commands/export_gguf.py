"""The export that llama.cpp reads: one GGUF file."""

import pathlib
import sys

from t5x_lite.commands.export_source import ExportSource
from t5x_lite.commands.infer import frame_of


def export_gguf(source: ExportSource, path: pathlib.Path, step: int | None, dtype: str) -> str:
  """Writes model, tokenizer and chat template as one file; returns a summary line.

  What llama.cpp does otherwise than `infer` is said on stderr.

  Args:
    source: the run.
    path: must not exist.
    step: of the checkpoint, newest if None.
    dtype: float32, float16, q8_0 or q4_0.
  """
  from t5x_lite.interop import gguf_files, gguf_layout, gguf_tokenizer
  gguf_files.check_target(path)
  config = source.experiment.model
  gguf_layout.model_type_of(config)   # before anything is read
  vocabulary = gguf_tokenizer.read_vocabulary(_tokenizer(source), config.vocab_size)
  prompting, notes = _prompting(source)
  _, params, step = source.load(step)
  notes += gguf_files.save_gguf(path, config, params, vocabulary, prompting, dtype)
  for note in notes:
    print(f'note: {note}', file=sys.stderr)
  return (f'{path}: step {step} of {source.experiment.folder} as GGUF, {dtype}, '
          f'{path.stat().st_size:,} bytes')


def _tokenizer(source: ExportSource) -> str | None:
  """'byte', None, or the vocabulary's file: the SentencePiece model that a tokenizer.json was made
  of, if it lies beside."""
  from t5x_lite.interop import gguf_tokenizer
  file, data = source.vocabulary_file, source.experiment.data
  if file is None:
    of_bytes = source.vocabulary == 'byte' or (
        source.vocabulary is None and data.name and data.fingerprint().startswith('bytes'))
    return 'byte' if of_bytes else None
  models = [file.with_name(name) for name in ('tokenizer.model', 'spiece.model')]
  return next((str(model) for model in models if model.is_file() and file.suffix == '.json'
               and gguf_tokenizer.is_same(model, file)), str(file))


def _prompting(source: ExportSource):
  """(how llama.cpp is to begin and end a text, lines for the user)."""
  from t5x_lite.interop.gguf_files import Prompting
  ids, settings = source.token_ids, source.experiment.infer
  frame, data = frame_of(settings, source.experiment.data), source.experiment.data
  eos, notes = ids.get('eos_token_id'), []
  eos = eos[0] if isinstance(eos, list) else eos
  if frame is None:   # as the tasks train
    start = ids.get('bos_token_id')
    start = ids.get('pad_token_id') if start is None else start
    reads_end = 'inputs' in data.lengths and data.tokenizer('inputs').add_eos
    frame = (start,) * (start is not None), (eos,) * reads_end
  prefix, suffix = frame
  if len(prefix) > 1 or suffix not in ((), (eos,)):
    notes.append(f'llama.cpp puts one id before a text and none but the end after it: {prefix} and '
                 f'{suffix} are what the model reads')
  first, second = [*source.end_ids, None, None][:2]
  return Prompting(
      bos=prefix[0] if prefix else ids.get('bos_token_id'), eos=first, eot=second,
      pad=ids.get('pad_token_id'), add_bos=bool(prefix), add_eos=suffix == (eos,),
      chat_template=source.chat_template), notes

"""Inference: a task's split or a user's file in, a JSONL file of inputs, outputs and scores out."""

from collections.abc import Iterator, Sequence
import importlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from t5x_lite import checkpointing, decoding, input_pipeline
from t5x_lite.errors import UserError
from t5x_lite.evaluation import make_predict
from t5x_lite.experiment import Experiment
from t5x_lite.partitioning import Partitioner
from t5x_lite.validation import FieldError, nearest


class Generator:
  """A trained model that turns texts into texts."""

  def __init__(self, experiment: Experiment, params: Any = None):
    """Reads the newest checkpoint (or infer.step) of the run unless `params` are given."""
    self.config, self.settings, self.seed = experiment.model, experiment.infer, experiment.seed
    self.data = experiment.data
    mesh = experiment.mesh.make()
    self.partitioner = Partitioner(mesh, experiment.mesh.rules)
    self.task = input_pipeline.get_task(self.data)
    self.partitioner.check_rows(self.settings)
    self.targets = self.task.output_features['targets'].vocabulary
    self.inputs = self.task.output_features.get('inputs', self.task.output_features['targets'])
    self.step = None
    if params is None:
      params, self.step = checkpointing.load_params(
          experiment.folder, self.config, self.partitioner, self.settings.step,
          input_pipeline.fingerprint(self.task))
    self.params = params
    if self.config.family == 'encoder_only':
      self._predict = make_predict(self.config, self.partitioner)
    else:
      self._generate = decoding.make_generate(
          self.config, self.partitioner, temperature=self.settings.temperature,
          max_tokens=self.settings.max_tokens or self.data.targets_length,
          eos_id=self.targets.eos_id, pad_id=self.targets.pad_id,
          num_ids=self.targets.vocab_size)

  def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
    """[{'inputs', 'output', 'score'}] for texts; score: log-likelihood of the output."""
    return [{'inputs': text} | got for text, got in zip(texts, self.from_ids(
        [self.encode(text) for text in texts]))]

  def encode(self, text: str) -> list[int]:
    """The ids a model of this family reads for a text, cut to the inputs' length."""
    ids = list(self.inputs.vocabulary.encode(text))
    if self.config.family == 'encoder_only':
      cls_id = importlib.import_module('tasks.vocabularies').cls_id(self.inputs.vocabulary)
      ids = [cls_id, *ids]
    elif 'inputs' in self.task.output_features and self.inputs.add_eos:
      return ids[:self.data.inputs_length - 1] + [self.inputs.vocabulary.eos_id]
    return ids[:self.data.inputs_length or self.data.targets_length]

  def from_ids(self, inputs: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """{'output', 'score'} for each sequence of input ids, in order."""
    size = self.settings.batch_size
    for start in range(0, len(inputs), size):
      chunk = [np.asarray(ids, np.int32) for ids in inputs[start:start + size]]
      filled = chunk + [chunk[-1]] * (size - len(chunk))
      if self.config.family == 'encoder_only':
        outputs, scores = self._fill(filled)
      else:
        outputs, scores = self._continue(filled, start)
      for output, score, _ in zip(outputs, scores, chunk):
        yield {'output': output, 'score': float(score)}

  def _continue(self, inputs: list[np.ndarray], start: int):
    """Generated texts and their log-likelihoods."""
    first = np.asarray([input_pipeline.start_id(self.targets)], np.int32)
    pad_id = self.targets.pad_id
    if self.config.family == 'encoder_decoder':
      batch = self._encoder_batch(inputs)
      prompt, valid = decoding.left_pad([first] * len(inputs), pad_id)
    else:
      self._check_length(1 + max(map(len, inputs)))
      own_ids = importlib.import_module('tasks.vocabularies').own_ids
      prompt, valid = decoding.left_pad([
          own_ids(self.targets, np.concatenate([first, i])) for i in inputs], pad_id)
      batch = {'decoder_input_tokens': prompt}
    put = self.partitioner.put_batch(batch | {'prompt': prompt, 'valid': valid})
    key = jax.random.fold_in(jax.random.key(self.seed), start)
    ids, scores = jax.device_get(self._generate(
        self.params, put, put.pop('prompt'), put.pop('valid'), key))
    return [self.targets.decode(row.tolist()) for row in ids], scores

  def _encoder_batch(self, inputs: list[np.ndarray]) -> input_pipeline.Batch:
    """The encoder's features of unpacked rows, padded on the right to the inputs' length."""
    length, pad_id = self.data.inputs_length, self.inputs.vocabulary.pad_id
    tokens = np.stack([np.pad(i, (0, length - len(i)), constant_values=pad_id) for i in inputs])
    return input_pipeline.for_model({'encoder_input_tokens': tokens}, self.inputs.vocabulary)

  def _check_length(self, prompt: int):
    limit, new = self.config.max_length, self.settings.max_tokens or self.data.targets_length
    if limit is not None and prompt + new > limit:
      raise UserError(f'A prompt of {prompt} tokens and {new} new ones are more than the model '
                      f'takes (ModelConfig.max_length {limit}): lower InferConfig.max_tokens or '
                      'shorten the prompts')

  def _fill(self, inputs: list[np.ndarray]):
    """Classes, or texts with every masked position filled in, and their log-likelihoods."""
    batch = self._encoder_batch(inputs)
    tokens = batch['encoder_input_tokens']
    best, log_p = jax.device_get(self._predict(self.params, self.partitioner.put_batch(batch)))
    if self.config.num_classes is not None:
      return best[:, 0].tolist(), log_p[:, 0]
    mask_id = importlib.import_module('tasks.vocabularies').mask_id(self.inputs.vocabulary)
    masked = tokens == mask_id
    filled = np.where(masked, best, tokens)
    return ([self.inputs.vocabulary.decode(row.tolist()) for row in filled],
            (log_p * masked).sum(1))


def read_texts(path: pathlib.Path, field: str) -> list[str]:
  """The lines of a .txt file, or `field` of each line of a .jsonl file; blank lines are skipped.

  Raises UserError naming file and line.
  """
  if not path.is_file():
    raise UserError(f'InferConfig.input: no file {path}')
  if path.suffix not in ('.txt', '.jsonl'):
    raise UserError(f'InferConfig.input: {path} is neither .txt nor .jsonl')
  texts = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    if not line.strip():
      continue
    if path.suffix == '.jsonl':
      try:
        record = json.loads(line)
      except json.JSONDecodeError as e:
        raise UserError(f'{path}:{number}: not JSON: {e}') from e
      if not isinstance(record, dict) or not isinstance(record.get(field), str):
        known = record if isinstance(record, dict) else ()
        raise UserError(f'{path}:{number}: no text in field {field!r}: set InferConfig.field; '
                        + nearest(field, known))
      line = record[field]
    texts.append(line)
  if not texts:
    raise UserError(f'InferConfig.input: {path} is empty')
  return texts


def _task_examples(generator: Generator, split: str, limit: int | None):
  """(ids, texts, targets) of a task's split."""
  task = generator.task
  if 'inputs' not in task.output_features:
    raise UserError(f'Task {task.name!r} has no inputs to infer from: pass '
                    '--gin.InferConfig.input=FILE with a prompt on each line')
  if split not in task.splits:
    raise FieldError(generator.settings, 'split',
                     f'task {task.name!r}: {nearest(split, task.splits)}')
  ds = task.get_dataset(generator.data.lengths, split=split, shuffle=False, num_epochs=1,
                        seed=generator.seed)
  examples = list(ds.take(limit or -1).as_numpy_iterator())
  decode = lambda ex, name: task.output_features[name].vocabulary.decode(ex[name].tolist())
  return ([ex['inputs'].tolist() for ex in examples], [decode(ex, 'inputs') for ex in examples],
          [decode(ex, 'targets') for ex in examples])


def infer(experiment: Experiment) -> tuple[pathlib.Path, list[dict[str, Any]]]:
  """Writes the outputs of the run's model; returns the file and its records.

  A record has `inputs`, `output`, `score` and, if a task was read, `targets`. Raises UserError for
  a missing input or checkpoint; the file appears when it is whole.
  """
  settings = experiment.infer
  texts = read_texts(pathlib.Path(settings.input).expanduser(), settings.field) if (
      settings.input) else None
  generator = Generator(experiment)
  if texts is not None:
    name = pathlib.Path(settings.input).stem
    records = generator(texts[:settings.num_examples])
  else:
    name = f'{experiment.data.name}-{settings.split}'
    ids, inputs, targets = _task_examples(generator, settings.split, settings.num_examples)
    records = [{'inputs': text} | got | {'targets': target} for text, got, target in zip(
        inputs, generator.from_ids(ids), targets)]
  output = pathlib.Path(settings.output).expanduser() if settings.output else (
      experiment.folder / f'inferences-{name}-{generator.step}.jsonl')
  output.parent.mkdir(parents=True, exist_ok=True)
  temporary = output.with_suffix('.tmp')
  temporary.write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records),
                       encoding='utf-8')
  temporary.replace(output)
  return output, records

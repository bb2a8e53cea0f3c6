"""Texts in, texts out: a trained model with its tokenizer."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, for_model
from t5x_lite.data.source import Source
from t5x_lite.inference.generate import left_pad, make_generate
from t5x_lite.inference.predict import make_predict
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner


class Generator:
  """A trained model that turns texts into texts: continuations, masked tokens, or classes."""

  def __init__(self, network: Network, params: Any, partitioner: Partitioner, data: Source, *,
               batch_size: int, max_tokens: int | None = None, temperature: float = 0.0,
               seed: int = 0):
    """Does not compile.

    Args:
      network, params: the model; all its parameters.
      partitioner: of the mesh of `params`; it divides `batch_size`.
      data: whose tokenizers and lengths are used.
      batch_size: texts at a time.
      max_tokens: maximum of new tokens; None: the length of the targets.
      temperature: 0 is greedy.
      seed: of the tokens drawn.
    """
    self.config, self.params, self.partitioner = network.config, params, partitioner
    self.lengths, self.batch_size, self.seed = data.lengths, batch_size, seed
    self.inputs, self.targets = data.tokenizer('inputs'), data.tokenizer('targets')
    self.max_tokens = max_tokens or self.lengths['targets']
    if self.config.family == 'encoder_only':
      self._predict = make_predict(network, partitioner)
    else:
      self._generate = make_generate(
          network, partitioner, temperature=temperature, max_tokens=self.max_tokens,
          eos_id=self.targets.eos_id, pad_id=self.targets.pad_id, num_ids=self.targets.vocab_size)

  def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
    """[{'inputs', 'output', 'score'}] for texts; score: log-likelihood of the output."""
    return [{'inputs': text} | got for text, got in zip(texts, self.from_ids(
        [self.encode(text) for text in texts]))]

  def encode(self, text: str) -> list[int]:
    """The ids a model of this family reads for a text, truncated to the inputs' length."""
    ids = self.inputs.encode(text)
    length = self.lengths.get('inputs')
    if self.config.family == 'encoder_only':
      ids = [self.inputs.cls_id, *ids]
    elif length is not None and self.inputs.add_eos:
      return ids[:length - 1] + [self.inputs.eos_id]
    return ids[:length or self.lengths['targets']]

  def from_ids(self, inputs: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
    """{'output', 'score'} for each sequence of input ids, in order."""
    size = self.batch_size
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
    first = np.asarray([self.targets.start_id], np.int32)
    pad_id = self.targets.pad_id
    if self.config.family == 'encoder_decoder':
      batch = self._encoder_batch(inputs)
      prompt, valid = left_pad([first] * len(inputs), pad_id)
    else:
      self._check_length(1 + max(map(len, inputs)))
      prompt, valid = left_pad([
          self.targets.model_ids(np.concatenate([first, i])) for i in inputs], pad_id)
      batch = {'decoder_input_tokens': prompt}
    put = self.partitioner.put_batch(batch | {'prompt': prompt, 'valid': valid})
    key = jax.random.fold_in(jax.random.key(self.seed), start)
    ids, scores = jax.device_get(self._generate(
        self.params, put, put.pop('prompt'), put.pop('valid'), key))
    return [self.targets.decode(row.tolist()) for row in ids], scores

  def _encoder_batch(self, inputs: list[np.ndarray]) -> Batch:
    """The encoder's features of unpacked rows, padded on the right to the inputs' length."""
    length, pad_id = self.lengths['inputs'], self.inputs.pad_id
    tokens = np.stack([np.pad(i, (0, length - len(i)), constant_values=pad_id) for i in inputs])
    return for_model({'encoder_input_tokens': tokens}, self.inputs)

  def _check_length(self, prompt: int):
    limit = self.config.max_length
    if limit is not None and prompt + self.max_tokens > limit:
      raise UserError(f'A prompt of {prompt} tokens and {self.max_tokens} new ones are more than '
                      f'the model takes (ModelConfig.max_length {limit}): lower '
                      'InferConfig.max_tokens or shorten the prompts')

  def _fill(self, inputs: list[np.ndarray]):
    """Classes, or texts with every masked position filled in, and their log-likelihoods."""
    batch = self._encoder_batch(inputs)
    tokens = batch['encoder_input_tokens']
    best, log_p = jax.device_get(self._predict(self.params, self.partitioner.put_batch(batch)))
    if self.config.num_classes is not None:
      return best[:, 0].tolist(), log_p[:, 0]
    masked = tokens == self.inputs.mask_id
    filled = np.where(masked, best, tokens)
    return [self.inputs.decode(row.tolist()) for row in filled], (log_p * masked).sum(1)

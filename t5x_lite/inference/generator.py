"""Texts in, texts out: a trained model with its tokenizer."""

import collections
from collections.abc import Callable, Iterator, Sequence
import copy
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, text_features, text_spans
from t5x_lite.data.source import Source
from t5x_lite.inference.generate import left_pad, make_generate
from t5x_lite.inference.predict import make_predict
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner

FILL = 0   # what stands on padding, which segment ids and masks tell from tokens


class Read(NamedTuple):
  """What is read of a text.

  Attributes:
    ids: what the model reads.
    cut: how many tokens were cut off.
    masks: how many masks or sentinels the text names.
  """
  ids: list[int]
  cut: int
  masks: int


class Generator:
  """A trained model that turns texts into texts: continuations, masked tokens, or classes."""

  def __init__(self, network: Network, params: Any, partitioner: Partitioner, data: Source, *,
               batch_size: int, max_tokens: int | None = None, temperature: float = 0.0,
               seed: int = 0, placeholders: bool = True,
               frame: tuple[Sequence[int], Sequence[int]] | None = None,
               end_ids: Sequence[int] = (), labels: Sequence[str] = (),
               prompt_ids: Callable[[str], list[int]] | None = None):
    """Does not compile.

    Args:
      network, params: the model; all its parameters.
      partitioner: of the mesh of `params`; it divides `batch_size`.
      data: whose tokenizers, lengths and labels are used.
      batch_size: texts at a time; no output depends on it.
      max_tokens: maximum of new tokens; None: the length of the targets.
      temperature: 0 is greedy.
      seed: of the tokens drawn.
      placeholders: whether [MASK] in a text, of a masked language model, or <extra_id_0>, of an
        encoder-decoder, stands for the mask or the sentinel; else all text is text.
      frame: ids before and after a text; None: as the tasks train.
      end_ids: that end an output; none: the vocabulary's end of text.
      labels: names of the classes where `data` has none.
      prompt_ids: ids of a text after the one that starts decoding, as of a message of a
        conversation; None: those of the tokenizer in their `frame`.
    """
    self.config, self.params, self.partitioner = network.config, params, partitioner
    self.lengths, self.labels = data.lengths, data.labels or labels
    self.batch_size, self.key = batch_size, jax.random.key(seed)
    self.inputs, self.targets = data.tokenizer('inputs'), data.tokenizer('targets')
    self.max_tokens = max_tokens or self.lengths['targets']
    self.frame, self._prompt_ids = (None if prompt_ids else frame), prompt_ids
    self.num_texts = data.num_texts
    classes = self.config.has_classes
    kinds = {'encoder_only': None if classes else 'mask', 'encoder_decoder': 'sentinels'}
    self.named = kinds.get(self.config.family) if placeholders else None
    self._predict = None
    if self.config.family == 'encoder_only' or classes:
      self._predict = make_predict(network, partitioner, num_ids=(
          len(self.labels) or self.config.num_classes if classes else self.inputs.vocab_size))
    else:
      self.end_ids = tuple(end_ids) or (self.targets.eos_id,)
      self._generate = make_generate(
          network, partitioner, temperature=temperature, max_tokens=self.max_tokens,
          eos_id=self.end_ids, pad_id=FILL, num_ids=self.targets.vocab_size)

  def with_params(self, params: Any) -> 'Generator':
    """The same with other parameters of its network, such as an adapter's of an AdapterSet.

    What is compiled is shared: parameters of the same structure and shapes compile nothing.
    """
    other = copy.copy(self)
    other.params = params
    return other

  def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
    """[{'inputs', 'output', 'score'}] for texts; score: log-likelihood of the output.

    Where a text is longer than the inputs' length, `inputs_read` is what was read of it and
    `tokens_cut` how many tokens were not: the first ones of a decoder's prompt, which is continued
    from its end, else the last ones. Raises UserError where an example is several texts.
    """
    if self.num_texts > 1:
      raise UserError(f'the task has {self.num_texts} texts an example, and a prompt is one: leave '
                      'prompts and InferConfig.input out, to infer from a split of the task')
    reads = [self.read(text) for text in texts]
    outputs = self.from_ids([read.ids for read in reads], framed=self.frame is not None)
    return [{'inputs': text, **self.cut_fields(read.ids, read.cut), **got}
            for text, read, got in zip(texts, reads, outputs)]

  def read(self, text: str) -> Read:
    """What a model of this family reads of a text; raises UserError for too long a message."""
    if self._prompt_ids is not None:
      return self._read_message(text)
    ids, masks = (self.inputs.encode(text), 0) if self.named is None else (
        self.inputs.encode_prompt(text, self.named))
    length = self.lengths.get('inputs')
    encoder = self.config.family == 'encoder_only'
    before = [self.inputs.cls_id] if encoder else []
    after = [self.inputs.eos_id] if length is not None and self.inputs.add_eos else []
    if self.config.classifies_texts:
      before, after = [self.inputs.start_id], [self.inputs.eos_id]
    if encoder:
      after = getattr(self.inputs, 'end_ids', None) or after
    if self.frame is not None:
      before, after = self.frame
    room = (length or self.lengths['targets']) - len(before) - len(after)
    cut = max(len(ids) - room, 0)
    kept = ids[cut:] if self.continues else ids[:room]
    return Read([*before, *kept, *after], cut, masks)

  def fits(self, text: str) -> bool:
    """Whether the model reads all of a text, with room for as many new tokens as it may write."""
    if self._prompt_ids is not None:
      size = len(self._prompt_ids(text))
      cut = max(size - self._message_length, 0)
    else:
      ids, cut, _ = self.read(text)
      size = len(ids)
    limit = self.config.max_length if self.continues else None
    return not cut and (limit is None or 1 + size + self.max_tokens <= limit)

  @property
  def _message_length(self) -> int:
    """Tokens of a message, with what its template puts around it, that the model reads."""
    return self.lengths['inputs' if 'inputs' in self.lengths else 'targets']

  def _read_message(self, text: str) -> Read:
    ids = self._prompt_ids(text)
    if len(ids) > self._message_length:
      name = 'inputs' if 'inputs' in self.lengths else 'targets'
      raise UserError(f'{text!r:.60} is a prompt of {len(ids)} tokens, and the model reads '
                      f'{self._message_length}: shorten it, or raise {name}_length')
    return Read(ids, 0, 0)

  @property
  def continues(self) -> bool:
    """Whether an output continues its prompt, of which the end is kept."""
    return self.config.family == 'decoder_only' and not self.config.classifies_texts

  @property
  def mask(self) -> str:
    """How a text spells the mask."""
    return self.inputs.mask_spelling

  def cut_fields(self, ids: Sequence[int], cut: int) -> dict[str, Any]:
    """What a record says of inputs `ids` that `cut` tokens were cut off; nothing if none were."""
    return {'inputs_read': self._input_text(list(ids)), 'tokens_cut': cut} if cut else {}

  def _input_text(self, ids: list[int]) -> str:
    """The text of an input, without the class id that begins an encoder's; the texts that a decoder
    classifies a line each, without what begins them."""
    if self.config.classifies_texts:
      spans = text_spans(ids, self.inputs.eos_id) or [(-1, len(ids))]   # a frame has another end
      return '\n'.join(self.inputs.decode(ids[start + 1:end]) for start, end in spans)
    begun = self.config.family == 'encoder_only' and ids[:1] == [self.inputs.cls_id]
    return self.inputs.decode(ids[begun:])

  def from_ids(self, inputs: Sequence[Sequence[int]], framed: bool = False
               ) -> Iterator[dict[str, Any]]:
    """{'output', 'score'} for each sequence of input ids, in order.

    What a decoder writes has `ended`, too: whether it came to its end, not to `max_tokens`.
    `framed` says that the sequences begin as decoding does.
    """
    if self.continues and inputs:
      self._check_length(1 + max(map(len, inputs)))
    size, keys = self.batch_size, self._keys(inputs)
    for start in range(0, len(inputs), size):
      chunk = [np.asarray(ids, np.int32) for ids in inputs[start:start + size]]
      rows = np.minimum(start + np.arange(size), len(inputs) - 1)   # the last one fills the batch
      filled = chunk + [chunk[-1]] * (size - len(chunk))
      more = [{}] * size
      if self.config.has_classes:
        outputs, scores = self._classify(filled, framed)
      elif self._predict is not None:
        outputs, scores = self._fill(filled)
      else:
        outputs, scores, ended = self._continue(filled, keys[rows], framed)
        more = [{'ended': end} for end in ended]
      for output, score, fields, _ in zip(outputs, scores, more, chunk):
        yield {'output': output, 'score': float(score), **fields}

  def _keys(self, inputs: Sequence[Sequence[int]]) -> jax.Array:
    """A key for each example [number]: it follows from its ids, and how often they came before.

    So what is drawn for an example depends neither on the batch size nor on other examples.
    """
    seen = collections.Counter()
    folds = []
    for ids in inputs:
      number = zlib.crc32(np.asarray(ids, np.int32).tobytes())
      folds.append((number, seen[number]))
      seen[number] += 1
    fold = lambda pair: jax.random.fold_in(jax.random.fold_in(self.key, pair[0]), pair[1])
    return jax.vmap(fold)(np.asarray(folds, np.uint32).reshape(-1, 2))

  def _continue(self, inputs: list[np.ndarray], keys: jax.Array, framed: bool):
    """Generated texts, their log-likelihoods, and whether each came to its end."""
    first = np.asarray([self.targets.start_id], np.int32)
    if self.config.family == 'encoder_decoder':
      batch = self._encoder_batch(inputs)
      prompt, valid = left_pad([first] * len(inputs), FILL)
    else:
      prompt, valid = left_pad([
          ids if framed and len(ids) else np.concatenate([first, ids]) for ids in inputs], FILL)
      batch = {'decoder_input_tokens': prompt}
    put = self.partitioner.put_batch(batch | {'prompt': prompt, 'valid': valid})
    ids, scores = jax.device_get(self._generate(
        self.params, put, put.pop('prompt'), put.pop('valid'), keys))
    rows = ids.tolist()
    return ([self._text(row) for row in rows], scores,
            [any(i in self.end_ids for i in row) for row in rows])

  def _text(self, ids: list[int]) -> str:
    """The text of new ids, up to the first that ends them."""
    end = next((n for n, i in enumerate(ids) if i in self.end_ids), len(ids))
    return self.targets.decode(ids[:end + 1])

  def _encoder_batch(self, inputs: list[np.ndarray]) -> Batch:
    """The encoder's features of unpacked rows, padded on the right to the inputs' length."""
    length = self.lengths['inputs']
    pad = lambda row: np.pad(row, (0, length - len(row)), constant_values=FILL)
    return {'encoder_input_tokens': np.stack([pad(ids) for ids in inputs]),
            'encoder_segment_ids': np.stack([pad(np.ones_like(ids)) for ids in inputs])}

  def _check_length(self, prompt: int):
    limit = self.config.max_length
    if limit is not None and prompt + self.max_tokens > limit:
      raise UserError(f'A prompt of {prompt} tokens and {self.max_tokens} new ones are more than '
                      f'the model takes (ModelConfig.max_length {limit}): lower '
                      'InferConfig.max_tokens or shorten the prompts')

  def _classify(self, inputs: list[np.ndarray], framed: bool):
    """Names of classes, or their numbers, and their log-likelihoods."""
    if self.config.family == 'encoder_only':
      batch = self._encoder_batch(inputs)
    else:   # a frame may end with another token, or none
      spans = [[(0, len(ids))] if framed else text_spans(ids, self.inputs.eos_id)
               for ids in inputs]
      batch = text_features(inputs, spans, self.lengths['inputs'])
    best, log_p, _ = jax.device_get(self._predict(self.params, self.partitioner.put_batch(batch)))
    return [self.labels[i] if self.labels else i for i in best[:, 0].tolist()], log_p[:, 0]

  def _fill(self, inputs: list[np.ndarray]):
    """Texts with every masked position filled in, and their log-likelihoods."""
    batch = self._encoder_batch(inputs)
    tokens = batch['encoder_input_tokens']
    best, log_p, _ = jax.device_get(self._predict(self.params, self.partitioner.put_batch(batch)))
    masked = (tokens == self.inputs.mask_id) & (batch['encoder_segment_ids'] > 0)
    filled = np.where(masked, best, tokens)
    texts = [self._input_text(row[:len(ids)].tolist()) for row, ids in zip(filled, inputs)]
    return texts, (log_p * masked).sum(1)

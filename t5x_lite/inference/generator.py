"""Texts in, texts out: a trained model with its tokenizer."""

import collections
from collections.abc import Callable, Iterator, Sequence
import copy
import functools
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.data.features import Batch, text_features, text_spans
from t5x_lite.data.source import Source
from t5x_lite.inference.beam import Beams, make_beam_search
from t5x_lite.inference.constrained import OutputConstraint
from t5x_lite.inference.constraints import Constraint, ConstraintBuilder, constraint_rows
from t5x_lite.inference.generate import Generated, left_pad, make_generate
from t5x_lite.inference.predict import make_predict
from t5x_lite.inference.sampling import Sampling, sampling_rows
from t5x_lite.inference.speculative import Draft, make_speculate
from t5x_lite.inference.stop import StopStrings
from t5x_lite.models import Network
from t5x_lite.parallel.partitioner import Partitioner

GREEDY = Sampling()
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
               batch_size: int, max_tokens: int | None = None,
               decoding: Sampling | Beams = GREEDY, samples: int = 1,
               constraint: OutputConstraint | None = None,
               draft: tuple[Callable[[Any], Draft], Any] | None = None, int8_cache: bool = False,
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
      decoding: how tokens are drawn, or outputs searched.
      samples: outputs of each text that are drawn; Beams.num_return says how many are found.
      constraint: of every output that is drawn.
      draft: makes the Draft of parameters, and these; one output a text is drawn with it.
      int8_cache: whether keys and values are held in 8 bits.
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
    self._multiple = 32   # of a decoder's prompt lengths
    self._predict = None
    if self.config.family == 'encoder_only' or classes:
      self._predict = make_predict(network, partitioner, num_ids=(
          len(self.labels) or self.config.num_classes if classes else self.inputs.vocab_size))
    else:
      self.end_ids = tuple(end_ids) or (self.targets.eos_id,)
      self.decoding, self.samples = decoding, samples
      common = dict(max_tokens=self.max_tokens, pad_id=FILL, num_ids=self.targets.vocab_size,
                    int8_cache=int8_cache)
      if isinstance(decoding, Beams):
        self._search = make_beam_search(network, partitioner, decoding, eos_id=self.end_ids,
                                        **common)
      else:
        self._rows([decoding])   # whose ids are checked
        self._constraint = constraint and self._constrained(constraint)
        if draft is None:
          self._generate = make_generate(network, partitioner, samples=samples, **common)
        else:
          self._generate = self._speculate(make_speculate(network, partitioner, draft[0], **common),
                                           draft[1])

  def with_params(self, params: Any) -> 'Generator':
    """The same with other parameters of its network, such as an adapter's of an AdapterSet.

    What is compiled is shared: parameters of the same structure and shapes compile nothing.
    """
    other = copy.copy(self)
    other.params = params
    return other

  def padded_to(self, multiple: int) -> 'Generator':
    """The same, whose prompts of a decoder are padded to multiples of so many tokens.

    Of a small model, each further length costs more to compile than padding costs to read.
    """
    other = copy.copy(self)
    other._multiple = multiple
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

  def read(self, text: str, room: int | None = None) -> Read:
    """What a model of this family reads of a text; raises UserError for too long a message.

    `room` is how many tokens are read; None: as many as the data has.
    """
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
    room = (room or length or self.lengths['targets']) - len(before) - len(after)
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

    What a decoder writes has `ended`, too: whether it came to its end, not to `max_tokens`; and
    `outputs`, where there are several, of which the first stands in the record itself.
    `framed` says that the sequences begin as decoding does.
    """
    if self.continues and inputs:
      self._check_length(1 + max(map(len, inputs)))
    size = self.batch_size
    drawn = self._predict is None and isinstance(self.decoding, Sampling)
    keys = self._keys(inputs) if drawn else None
    for start in range(0, len(inputs), size):
      chunk = [np.asarray(ids, np.int32) for ids in inputs[start:start + size]]
      rows = np.minimum(start + np.arange(size), len(inputs) - 1)   # the last one fills the batch
      filled = chunk + [chunk[-1]] * (size - len(chunk))
      if self._predict is None:
        found = self._continue(filled, keys[rows] if drawn else None, framed)
      else:
        outputs, scores = (
            self._classify(filled, framed) if self.config.has_classes else self._fill(filled))
        found = ({'output': output, 'score': float(score)}
                 for output, score in zip(outputs, scores))
      for record, _ in zip(found, chunk):
        yield record

  def _rows(self, settings: Sequence[Sampling]):
    """The arrays of settings, one a row; raises FieldError for an id beyond the vocabulary."""
    return sampling_rows(settings, num_ids=self.targets.vocab_size, end_ids=self.end_ids,
                         max_tokens=self.max_tokens)

  def _constrained(self, constraint: OutputConstraint) -> Constraint:
    """Raises FieldError for a constraint that nothing meets, or that forbids the forced ids."""
    built = constraint.build(ConstraintBuilder(self.targets, self.end_ids, self.decoding.forbidden))
    if not built.allows(self.decoding.forced):
      raise FieldError(self.decoding, 'forced', 'begins no output that the constraint allows')
    return built

  @staticmethod
  def _speculate(program: Callable, draft_params: Any) -> Callable:
    """A program of `make_speculate` as one of `make_generate`."""
    return lambda params, *args: program(params, draft_params, *args[:-1])[0]   # no constraints

  def _keys(self, inputs: Sequence[Sequence[int]]) -> jax.Array:
    """A key for each sample [number, samples]: it follows from the ids of its example, and how
    often they came before.

    So what is drawn for an example depends neither on the batch size nor on other examples.
    """
    seen = collections.Counter()
    folds = []
    for ids in inputs:
      number = zlib.crc32(np.asarray(ids, np.int32).tobytes())
      folds += [(self.decoding.seed, number, seen[number], n) for n in range(self.samples)]
      seen[number] += 1
    fold = lambda row: functools.reduce(jax.random.fold_in, row, self.key)
    keys = jax.vmap(fold)(np.asarray(folds, np.uint32).reshape(-1, 4))
    return keys.reshape(-1, self.samples)

  def _continue(self, inputs: list[np.ndarray], keys: jax.Array | None, framed: bool):
    """Generated texts of each input, the best or first one alone or all in `outputs`."""
    if keys is None:
      ids, scores = jax.device_get(self._search(*self._prompted(inputs, framed)))
    else:
      found = self.sample(inputs, keys, framed)
      ids, scores = (x.reshape(*keys.shape, -1) for x in (found.tokens, found.logprobs))
      scores = scores.sum(-1)
    for rows, row_scores in zip(ids, scores.tolist()):
      outputs = [self.output(row, score) for row, score in zip(rows.tolist(), row_scores)
                 if score > -np.inf]   # a search may find fewer
      yield outputs[0] | ({'outputs': outputs} if len(rows) > 1 else {})

  def _prompted(self, inputs: Sequence[Sequence[int]], framed: bool) -> tuple:
    """(parameters, what `model.start` reads, prompts, where they are) of rows of input ids."""
    prompts, batch = self.begin(inputs, framed)
    prompt, valid = left_pad(prompts, FILL, multiple=self._multiple if self.continues else 1)
    put = self.partitioner.put_whole(batch | {'prompt': prompt, 'valid': valid})
    return self.params, put, put.pop('prompt'), put.pop('valid')

  def sample(self, inputs: Sequence[Sequence[int]], keys: jax.Array, framed: bool = False
             ) -> Generated:
    """What is drawn after each of rows of input ids, as NumPy arrays, the samples of a row one
    after the other; `keys` [rows, samples] draw them."""
    rows = self._rows([self.decoding] * keys.size)
    held = self._constraint and constraint_rows([self._constraint] * keys.size,
                                                self.config.vocab_size)
    return jax.device_get(self._generate(*self._prompted(inputs, framed), rows, keys.reshape(-1),
                                         held))

  def begin(self, inputs: Sequence[Sequence[int]], framed: bool = False
            ) -> tuple[list[np.ndarray], Batch]:
    """(what a decoder reads before it writes, what `model.start` reads) of rows of input ids."""
    first = np.asarray([self.targets.start_id], np.int32)
    if self.config.family == 'encoder_decoder':
      return [first] * len(inputs), self.encoder_batch(inputs)
    prompts = [np.asarray(ids, np.int32) if framed and len(ids) else
               np.concatenate([first, np.asarray(ids, np.int32)]) for ids in inputs]
    return prompts, {'decoder_input_tokens': np.zeros((len(inputs), 1), np.int32)}

  def output(self, ids: list[int], score: float) -> dict[str, Any]:
    """The record of new ids: the text up to what ends it, and whether anything does."""
    end = next((n for n, i in enumerate(ids) if i in self.end_ids), None)
    ids = ids[:self._longest if end is None else end + 1]
    text = StopStrings(self.targets.decode, getattr(self.decoding, 'stop', ()))
    output = text.push(ids) + text.finish()
    return {'output': output, 'score': score,
            'ended': end is not None or text.ended is not None}

  @property
  def _longest(self) -> int:
    """The most new tokens of an output."""
    return getattr(self.decoding, 'max_new_tokens', None) or self.max_tokens

  def encoder_batch(self, inputs: list[np.ndarray]) -> Batch:
    """The encoder's features of unpacked rows, padded on the right to the inputs' length."""
    length = self.lengths['inputs']
    pad = lambda row: np.pad(row, (0, length - len(row)), constant_values=FILL)
    return {'encoder_input_tokens': np.stack([pad(ids) for ids in inputs]),
            'encoder_segment_ids': np.stack([pad(np.ones_like(ids)) for ids in inputs])}

  def class_batch(self, inputs: list[np.ndarray], framed: bool = False) -> Batch:
    """What a model with classes reads of rows of input ids."""
    if self.config.family == 'encoder_only':
      return self.encoder_batch(inputs)
    spans = [[(0, len(ids))] if framed else text_spans(ids, self.inputs.eos_id)
             for ids in inputs]   # a frame may end with another token, or none
    return text_features(inputs, spans, self.lengths['inputs'])

  def _check_length(self, prompt: int):
    limit = self.config.max_length
    if limit is not None and prompt + self.max_tokens > limit:
      raise UserError(f'A prompt of {prompt} tokens and {self.max_tokens} new ones are more than '
                      f'the model takes (ModelConfig.max_length {limit}): lower '
                      'InferConfig.max_tokens or shorten the prompts')

  def _classify(self, inputs: list[np.ndarray], framed: bool):
    """Names of classes, or their numbers, and their log-likelihoods."""
    batch = self.class_batch(inputs, framed)
    best, log_p, _ = jax.device_get(self._predict(self.params, self.partitioner.put_whole(batch)))
    return [self.labels[i] if self.labels else i for i in best[:, 0].tolist()], log_p[:, 0]

  def _fill(self, inputs: list[np.ndarray]):
    """Texts with every masked position filled in, and their log-likelihoods."""
    batch = self.encoder_batch(inputs)
    tokens = batch['encoder_input_tokens']
    best, log_p, _ = jax.device_get(self._predict(self.params, self.partitioner.put_whole(batch)))
    masked = (tokens == self.inputs.mask_id) & (batch['encoder_segment_ids'] > 0)
    filled = np.where(masked, best, tokens)
    texts = [self._input_text(row[:len(ids)].tolist()) for row, ids in zip(filled, inputs)]
    return texts, (log_p * masked).sum(1)

"""A model as lm-evaluation-harness asks it (extra `eval`); commands/harness.py makes it of a run.

It is asked for all documents at once: what prompts share is read once.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from lm_eval.api.model import TemplateLM

from t5x_lite.core.errors import UserError
from t5x_lite.data.source import Chat
from t5x_lite.evaluation.likelihood import Request
from t5x_lite.evaluation.text_model import NEW_TOKENS, TextModel
from t5x_lite.inference.sampling import Sampling


class HarnessModel(TemplateLM):
  """A TextModel, as lm-evaluation-harness asks it."""

  def __init__(self, model: TextModel, chat: Chat | None = None, name: str = 't5x_lite'):
    """Makes one; `chat` writes conversations, and `name` is of the model, in caches."""
    super().__init__()
    self._model, self._reader, self._chat, self._name = model, model.reader, chat, name
    self.backend = 'seq2seq' if self._reader.family == 'encoder_decoder' else 'causal'
    self._rendered: dict[str, list[int]] = {}   # conversations, by the text they are shown as

  @property
  def eot_token_id(self) -> int:
    return self._reader.end_id

  @property
  def prefix_token_id(self) -> int:
    return self._reader.start_id

  @property
  def max_length(self) -> int:
    return self._model.max_length

  @property
  def tokenizer_name(self) -> str:
    return self._name

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused) -> list[int]:
    """Ids of a text, with those that begin it unless `add_special_tokens` is False."""
    if string in self._rendered:
      return self._rendered[string]
    return (self._reader.plain(string) if add_special_tokens is False
            else self._reader.read(string))

  def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
    if context in self._rendered:
      return self._rendered[context], self._reader.plain(continuation)
    request = self._reader.pair(context, continuation)
    return [*request.context], [*request.continuation]

  def _loglikelihood_tokens(self, requests: Sequence[tuple], disable_tqdm: bool = False, **unused
                            ) -> list[tuple[float, bool]]:
    scored = self._model.score([Request(context, ids) for _, context, ids in requests])
    for (asked, *_), found in zip(requests, scored):
      if asked is not None:
        self.cache_hook.add_partial('loglikelihood', asked, (found.total, found.greedy))
    return [(found.total, found.greedy) for found in scored]

  def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False
                            ) -> list[float]:
    """Of whole texts, the first token after the one that starts decoding."""
    windows = [[*self._reader.windows(request.args[0], self.max_length, score_start=True)]
               for request in requests]
    scored = iter(self._model.score([window for own in windows for window in own]))
    totals = [sum(next(scored).total for _ in own) for own in windows]
    for request, total in zip(requests, totals):
      self.cache_hook.add_partial('loglikelihood_rolling', request.args, total)
    return totals

  def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
    """What is written after contexts, by the settings of each."""
    outputs: list[str | None] = [None] * len(requests)
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
      groups.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(i)
    for members in groups.values():
      until, max_new, sampling = _settings(requests[members[0]].args[1])
      asked = [requests[i].args[0] for i in members]
      ids = [self._rendered.get(text) or self._reader.read(text) for text in asked]
      for i, output in zip(members, self._model.write_after(ids, until, max_new, sampling)):
        outputs[i] = output
        self.cache_hook.add_partial('generate_until', requests[i].args, output)
    return outputs

  def apply_chat_template(self, chat_history: list[dict[str, str]],
                          add_generation_prompt: bool = True) -> str:
    """Messages as a text, which stands for the ids of the run's own chat template."""
    if self._chat is None:
      raise UserError('the model was trained on no conversations: leave --apply_chat_template out, '
                      'or name a template by chat_template=NAME')
    if not add_generation_prompt:
      raise UserError('answers that the prompt begins (gen_prefix) are not rendered')
    text = '\n'.join(f'[{m["role"]}] {m["content"]}' for m in chat_history)
    self._rendered[text] = self._reader.framed(self._chat.prompt(chat_history))
    return text

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    """The source of the template, by which caches tell one from another."""
    return self._chat.source if chat_template and self._chat is not None else None


def _settings(given: Mapping[str, Any]) -> tuple[list[str], int, Sampling]:
  """(strings that end an answer, new tokens, how they are drawn) of a task's generation_kwargs."""
  settings = dict(given)
  until = settings.pop('until', None) or []
  until = [until] if isinstance(until, str) else [text for text in until if text]
  max_new = settings.pop('max_gen_toks', None) or settings.pop('max_new_tokens', NEW_TOKENS)
  draws = settings.pop('do_sample', bool(settings.get('temperature')))
  settings = {name: value for name, value in settings.items() if value is not None}
  if not draws:
    settings = {name: settings[name] for name in settings if name not in (
        'temperature', 'top_p', 'top_k')}
  known = {field.name for field in dataclasses.fields(Sampling)}
  if unknown := sorted(settings.keys() - known):
    raise UserError(f'generation_kwargs of the task: {", ".join(unknown)} is no setting of '
                    'Sampling; take it out')
  settings = {name: float(value) if name in ('temperature', 'top_p') else value
              for name, value in settings.items()}
  return until, max_new, Sampling(**({'temperature': 1.0} if draws else {}) | settings)

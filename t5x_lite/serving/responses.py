"""Pieces of the engine -> bodies and events of OpenAI's API."""

from collections.abc import Sequence
import json
import time
from typing import Any
import uuid

from t5x_lite.serving.output import Piece, Token
from t5x_lite.serving.protocol import Call
from t5x_lite.serving.served import Served

DONE = 'data: [DONE]\n\n'


class Response:
  """The answer to one call, whole or event by event."""

  def __init__(self, call: Call, served: Served):
    self._call, self._served = call, served
    self._logprobs = call.requests[0].alternatives is not None
    samples = sum(request.samples for request in call.requests)
    self._text, self._tokens = [''] * samples, [()] * samples
    self._counts, self._finish = [0] * samples, [None] * samples
    self._head = {
        'id': f'{"chatcmpl" if call.chat else "cmpl"}-{uuid.uuid4().hex}',
        'created': int(time.time()), 'model': call.requests[0].model,
        'system_fingerprint': served.fingerprint}

  @property
  def finished(self) -> bool:
    """Whether every sample has ended."""
    return None not in self._finish

  def add(self, index: int, piece: Piece) -> None:
    """Takes what came of the choice `index`."""
    self._text[index] += piece.text
    self._tokens[index] += piece.tokens
    self._counts[index], self._finish[index] = piece.count, piece.finish

  def whole(self) -> dict[str, Any]:
    """The body of an answer that has ended."""
    choices = []
    for index, text in enumerate(self._text):
      said = {'message': {'role': 'assistant', 'content': text}} if self._call.chat else {
          'text': text}
      choices.append(self._choice(index, said, self._tokens[index], self._finish[index]))
    kind = 'chat.completion' if self._call.chat else 'text_completion'
    return {**self._head, 'object': kind, 'choices': choices, 'usage': self._usage()}

  def begin(self) -> str:
    """The events before anything is written: of a conversation the role of each choice."""
    if not self._call.chat:
      return ''
    return ''.join(self._event([self._choice(index, {
        'delta': {'role': 'assistant', 'content': ''}}, (), None)])
                   for index in range(len(self._text)))

  def event(self, index: int, piece: Piece) -> str:
    """The event of a piece that was added."""
    said = {'delta': {'content': piece.text} if piece.text else {}} if self._call.chat else {
        'text': piece.text}
    return self._event([self._choice(index, said, piece.tokens, piece.finish)])

  def end(self) -> str:
    """The last events."""
    usage = self._event([], usage=self._usage()) if self._call.include_usage else ''
    return usage + DONE

  def _event(self, choices: Sequence[dict], **fields: Any) -> str:
    kind = 'chat.completion.chunk' if self._call.chat else 'text_completion'
    return as_event({**self._head, 'object': kind, 'choices': choices, **fields})

  def _choice(self, index: int, said: dict, tokens: Sequence[Token], finish: str | None
              ) -> dict[str, Any]:
    logprobs = None
    if self._logprobs and (tokens or finish is not None):
      logprobs = self._chat_logprobs(tokens) if self._call.chat else self._lists(tokens)
    return {'index': index, **said, 'logprobs': logprobs, 'finish_reason': finish}

  def _chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
    def entry(i, logprob):
      piece = self._served.token_bytes[i]
      return {'token': _spelled(piece), 'logprob': logprob, 'bytes': list(piece)}
    return {'content': [{**entry(token.id, token.logprob),
                         'top_logprobs': [entry(*one) for one in token.top]} for token in tokens]}

  def _lists(self, tokens: Sequence[Token]) -> dict[str, Any]:
    """Those of completions; offsets are from the beginning of what is written."""
    spell = lambda i: _spelled(self._served.token_bytes[i])
    return {'tokens': [spell(token.id) for token in tokens],
            'token_logprobs': [token.logprob for token in tokens],
            'top_logprobs': [{spell(i): logprob for i, logprob in token.top} for token in tokens],
            'text_offset': [token.start for token in tokens]}

  def _usage(self) -> dict[str, int]:
    prompt = sum(len(request.ids) for request in self._call.requests)
    written = sum(self._counts)
    return {'prompt_tokens': prompt, 'completion_tokens': written,
            'total_tokens': prompt + written}


def as_event(body: dict[str, Any]) -> str:
  """A body as an event of a stream."""
  return f'data: {json.dumps(body, ensure_ascii=False)}\n\n'


def _spelled(piece: bytes) -> str:
  """The text of a token; bytes that are no text of their own as \\xNN."""
  return piece.decode(errors='backslashreplace')

"""The web application: OpenAI's API, health, metrics, and a page to try prompts on."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
import functools
import hmac
import importlib.resources
import json
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from t5x_lite.core.dataclass_checks import FieldError
from t5x_lite.core.errors import UserError
from t5x_lite.serving.engine import Closed, QueueFull, Ticket
from t5x_lite.serving.metrics import Metrics
from t5x_lite.serving.output import CANCELLED, FAILED, Piece
from t5x_lite.serving.protocol import ApiError, Call, parse_call, setting_error
from t5x_lite.serving.responses import Response as Answer
from t5x_lite.serving.responses import as_event
from t5x_lite.serving.served import Served
from t5x_lite.serving.structure import asks_structure

MAX_BODY = 2 ** 20     # bytes
BODY_SECONDS = 30      # in which a body has to come
JSON_TYPE = 'application/json'


def make_app(served: Served, key: str | None = None, hosts: list[str] | None = None) -> Starlette:
  """The application.

  Args:
    key: what clients of /v1 send as `Authorization: Bearer KEY`; None: nothing.
    hosts: names by which it may be asked; None: any. On the loopback address, its own names keep
      out pages of other sites whose names lead there.
  """
  app = _App(served, Metrics(served.engine), key)
  routes = [Route('/', app.page), Route('/health', app.health), Route('/metrics', app.scrape),
            Route('/v1/models', app.list_models),
            Route('/v1/models/{name:path}', app.show_model),
            Route('/v1/completions', app.complete, methods=['POST']),
            Route('/v1/chat/completions', app.chat, methods=['POST'])]
  middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)] if hosts else []
  return Starlette(routes=routes, middleware=middleware, exception_handlers={
      ApiError: app.refuse, HTTPException: app.refuse_route, Exception: app.fail})


class _App:
  """The handlers of the routes."""

  def __init__(self, served: Served, metrics: Metrics, key: str | None):
    self._served, self._metrics, self._key = served, metrics, key
    # Hard constraints keep their like waiting, and no one else.
    self._builders = ThreadPoolExecutor(2, 'constraints')

  async def page(self, request: Request) -> Response:
    page = importlib.resources.files('t5x_lite.serving').joinpath('page.html').read_text()
    return HTMLResponse(page)

  async def health(self, request: Request) -> Response:
    failure = self._served.engine.failure
    return JSONResponse({'status': failure or 'ok'}, 503 if failure else 200)

  async def scrape(self, request: Request) -> Response:
    return Response(self._metrics.text(), media_type='text/plain; version=0.0.4')

  async def list_models(self, request: Request) -> Response:
    self._authorise(request)
    names = self._served.engine.models
    return JSONResponse({'object': 'list', 'data': [self._model(name) for name in names]})

  async def show_model(self, request: Request) -> Response:
    self._authorise(request)
    name = request.path_params['name']
    if name not in self._served.engine.models:
      raise ApiError(404, f'there is no model {name!r}', 'model', 'model_not_found')
    return JSONResponse(self._model(name))

  def _model(self, name: str) -> dict[str, Any]:
    served = self._served
    return {'id': name, 'object': 'model', 'created': served.created, 'owned_by': 't5x_lite',
            'max_model_len': served.context, 'chat': served.chats[name] is not None}

  async def complete(self, request: Request) -> Response:
    return await self._answer(request, chat=False)

  async def chat(self, request: Request) -> Response:
    return await self._answer(request, chat=True)

  async def refuse(self, request: Request, error: ApiError) -> Response:
    self._count(request, error.status)
    headers = {'Retry-After': '1'} if error.status == 503 else None
    return JSONResponse(error.body, error.status, headers)

  async def refuse_route(self, request: Request, error: HTTPException) -> Response:
    self._metrics.requests.labels('other', error.status_code).inc()
    return JSONResponse(ApiError(error.status_code, error.detail).body, error.status_code)

  async def fail(self, request: Request, error: Exception) -> Response:
    self._count(request, 500)
    return JSONResponse(ApiError(500, 'an error of the server, which its log shows').body, 500)

  def _count(self, request: Request, status: int) -> None:
    path = request.url.path   # of few: a label is kept for ever
    path = '/v1/models' if path.startswith('/v1/models/') else path
    self._metrics.requests.labels(path, status).inc()

  def _authorise(self, request: Request) -> None:
    scheme, _, given = request.headers.get('authorization', '').partition(' ')
    if self._key is not None and not (scheme.lower() == 'bearer' and hmac.compare_digest(
        given.strip().encode(), self._key.encode())):
      raise ApiError(401, 'the key is missing or wrong: send Authorization: Bearer KEY', None,
                     'invalid_api_key')

  async def _answer(self, request: Request, chat: bool) -> Response:
    self._authorise(request)
    body = await _read_json(request)
    began = time.monotonic()
    # In a thread: long prompts take their time to tokenise.
    call = await asyncio.get_running_loop().run_in_executor(
        self._builders if asks_structure(body) else None, parse_call, body, self._served, chat)
    writing = _Writing(call, self._served, functools.partial(self._time, began))
    if call.stream:
      self._count(request, 200)
      return _Stream(writing)
    try:
      answer = await _until_gone(request, writing.whole())
    finally:
      writing.cancel()
    self._count(request, 499 if answer is None else 200)
    return Response(status_code=499) if answer is None else JSONResponse(answer)

  def _time(self, began: float, ended: bool) -> None:
    histogram = self._metrics.seconds if ended else self._metrics.first_token
    histogram.observe(time.monotonic() - began)


class _Writing:
  """The samples of one call as the engine writes them."""

  def __init__(self, call: Call, served: Served, timed):
    """Submits the requests; raises ApiError where one is not taken."""
    self._answer, self._pieces = Answer(call, served), asyncio.Queue()
    self._timed, self._tickets, first = timed, [], 0
    loop = asyncio.get_running_loop()
    try:
      for request in call.requests:
        self._tickets.append(self._submit(served, request, loop, first))
        first += request.samples
    except (QueueFull, Closed) as error:
      self.cancel()
      raise ApiError(503, str(error)) from error
    except FieldError as error:
      self.cancel()
      raise setting_error(error) from error
    except UserError as error:
      self.cancel()
      raise ApiError(400, str(error)) from error

  def _submit(self, served: Served, request, loop, first: int) -> Ticket:
    def sink(piece: Piece):
      try:
        loop.call_soon_threadsafe(self._pieces.put_nowait, (first + piece.sample, piece))
      except RuntimeError:   # the loop has ended, and with it the client's connection
        pass
    return served.engine.submit(request, sink)

  async def _added(self) -> AsyncIterator[tuple[int, Piece]]:
    first = True
    while not self._answer.finished:
      index, piece = await self._pieces.get()
      if piece.finish == FAILED:
        raise ApiError(500, piece.text)
      if piece.finish == CANCELLED:
        raise ClientDisconnect
      self._answer.add(index, piece)
      if first:
        self._timed(ended=False)
      first = False
      yield index, piece
    self._timed(ended=True)

  async def whole(self) -> dict[str, Any]:
    """The body of the answer."""
    async for _ in self._added():
      pass
    return self._answer.whole()

  async def events(self) -> AsyncIterator[str]:
    """The events of the answer."""
    yield self._answer.begin()
    try:
      async for index, piece in self._added():
        yield self._answer.event(index, piece)
    except ApiError as error:
      yield as_event(error.body)
      return
    yield self._answer.end()

  def cancel(self) -> None:
    """Frees the slots, if they are still taken."""
    for ticket in self._tickets:
      ticket.cancel()


class _Stream(StreamingResponse):
  """Events; when they end, or the client leaves, even before the first, the slots are free."""

  def __init__(self, writing: _Writing):
    super().__init__(writing.events(), media_type='text/event-stream',
                     headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'})
    self._writing = writing

  async def __call__(self, scope, receive, send) -> None:
    try:
      await super().__call__(scope, receive, send)
    finally:
      self._writing.cancel()


async def _read_json(request: Request) -> Any:
  """The body; raises ApiError if it is not JSON of at most MAX_BODY bytes."""
  if request.headers.get('content-type', '').split(';')[0].strip().lower() != JSON_TYPE:
    # Which a page of another site cannot send without asking.
    raise ApiError(415, f'the body must be JSON: send Content-Type: {JSON_TYPE}')
  too_large = ApiError(413, f'the body has more than {MAX_BODY} bytes')
  length = request.headers.get('content-length', '')
  if length.isdigit() and int(length) > MAX_BODY:
    raise too_large
  body = b''
  try:
    async with asyncio.timeout(BODY_SECONDS):
      async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
          raise too_large
  except TimeoutError:
    raise ApiError(408, f'the body did not come within {BODY_SECONDS} seconds') from None
  try:
    return json.loads(body, parse_constant=_refuse_constant)
  except (ValueError, RecursionError) as error:
    raise ApiError(400, f'the body is not JSON: {error}') from None


def _refuse_constant(name: str):
  raise ValueError(f'{name} is not JSON')


async def _until_gone(request: Request, waits) -> dict[str, Any] | None:
  """The result of a coroutine, or None if the client leaves before."""
  async def leave():
    while (await request.receive())['type'] != 'http.disconnect':
      pass

  answer, gone = asyncio.ensure_future(waits), asyncio.ensure_future(leave())
  try:
    await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
    return await answer if answer.done() else None
  finally:
    answer.cancel()
    gone.cancel()

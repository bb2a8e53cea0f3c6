"""The local page of a study, and what it asks the server for."""

import functools
import html
import importlib.resources

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from t5x_lite.core.errors import UserError
from t5x_lite.dialogue.talk.study import QUESTIONS, Study

MAX_BODY = 2 ** 16   # bytes


def make_app(study: Study, hosts: list[str]) -> Starlette:
  """The application; `hosts` are the names by which it may be asked."""
  say = lambda asked: {'text': study.say(str(asked['session']), str(asked['text']))}
  rate = lambda asked: {'done': study.rate(str(asked['session']), dict(asked['answers']))}
  routes = [Route('/', _page), *(
      Route(f'/api/{name}', functools.partial(_answer, handler), methods=['POST'])
      for name, handler in (('start', lambda asked: study.start()), ('say', say), ('rate', rate)))]
  return Starlette(routes=routes, middleware=[
      Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


async def _page(request: Request) -> Response:
  page = importlib.resources.files('t5x_lite.dialogue.talk').joinpath('page.html').read_text()
  asked = ''.join(
      f'<fieldset><legend>{html.escape(question)}</legend>' + ''.join(
          f'<label><input type="radio" name="{html.escape(name)}" value="{value}"> {word}</label>'
          for value, word in ((1, 'Yes'), (0, 'No'))) + '</fieldset>'
      for name, question in QUESTIONS.items())
  return HTMLResponse(page.replace('<!-- questions -->', asked))


async def _answer(handler, request: Request) -> Response:
  """JSON in and out; a UserError is one line with status 400."""
  if request.headers.get('content-type') != 'application/json':   # no form of another site
    return JSONResponse({'error': 'send application/json'}, 415)
  body = b''
  async for chunk in request.stream():
    body += chunk
    if len(body) > MAX_BODY:
      return JSONResponse({'error': f'at most {MAX_BODY} bytes'}, 413)
  request._body = body
  try:
    asked = await request.json()
    return JSONResponse(await run_in_threadpool(handler, asked))
  except UserError as error:
    return JSONResponse({'error': str(error)}, 400)
  except (ValueError, KeyError, TypeError):
    return JSONResponse({'error': 'the page and the server do not fit: load the page again'}, 400)

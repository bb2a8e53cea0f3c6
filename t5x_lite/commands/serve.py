"""`t5x-lite serve`: a model behind OpenAI's API, and a page to try prompts on."""

import argparse
import importlib.util
import os
import signal
import socket
import time

from t5x_lite.commands import served_model
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path

EXAMPLE = 't5x-lite serve runs/lm --port=8000'
KEY = 'T5X_LITE_API_KEY'
_NEEDS = ('starlette', 'uvicorn', 'prometheus_client')
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


def add_flags(parser: argparse.ArgumentParser) -> None:
  served_model.add_flags(parser)
  add = parser.add_argument
  add('--host', default='127.0.0.1', help='address to serve on (default 127.0.0.1: this machine)')
  add('--port', type=int, default=8000, help='port (default 8000; 0: one that is free)')
  add('--slots', type=int, default=8, help='outputs that are written at once (default 8)')
  add('--queue', type=int, default=256, help='requests that may wait for slots (default 256)')
  add('--drain', type=int, default=60, metavar='SECONDS',
      help='what is being answered has so long to end after SIGTERM (default 60)')
  add('--key_file', metavar='FILE',
      help=f'a file with the key that clients must send (default: ${KEY}, if it is set)')


def run(args: argparse.Namespace) -> int:
  if any(importlib.util.find_spec(name) is None for name in _NEEDS):
    raise UserError("the server needs Starlette, uvicorn and prometheus_client: pip install "
                    "-e '.[serve]'")
  for name, low, high in (('port', 0, 65535), ('slots', 1, 4096), ('queue', 1, 10 ** 6),
                          ('drain', 0, 10 ** 6)):
    if not low <= getattr(args, name) <= high:
      raise UserError(f'--{name}={getattr(args, name)}: give from {low} to {high}')
  key = _read_key(args.key_file)
  experiment = served_model.load_experiment(args)
  listener = bind(args.host, args.port)   # a port that is taken is said before the model is read
  with listener:
    served = served_model.load_served(
        experiment, slots=args.slots, context=args.context, max_queue=args.queue,
        trusted_modules=args.trusted_modules)
    seconds = _compile(served)
    try:
      listener.listen(1024)
    except OSError as error:   # another program took the port in the meantime
      raise _taken(args.host, args.port, error) from error
    _serve(served, listener, args, key, seconds)
  served.engine.close()
  print('Stopped: every request that was taken has been answered')
  return 0


def _read_key(file: str | None) -> str | None:
  if file is None:
    return os.environ.get(KEY) or None
  key = local_path(file).read_text().strip()
  if not key or not key.isprintable() or ' ' in key or not key.isascii():
    raise UserError(f'--key_file={file}: holds no key: one line of printable ASCII')
  return key


def bind(host: str, port: int) -> socket.socket:
  """A socket that refuses connections until it listens: nobody waits while the model compiles."""
  listener = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
  try:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
  except OSError as error:
    listener.close()
    raise _taken(host, port, error) from error
  return listener


def _taken(host: str, port: int, error: OSError) -> UserError:
  return UserError(f'--host={host} --port={port}: {error.strerror or error}; give another port, '
                   'or 0')


def _compile(served) -> float:
  """Compiles what requests run, so that none waits for it; returns the seconds that it took."""
  import queue

  from t5x_lite.inference.sampling import Sampling
  from t5x_lite.serving.slots import PARTS
  began, pieces = time.monotonic(), queue.Queue()
  longest = served.context - 1 if served.reader.continues else 1
  sizes = sorted({min(size, longest) for size in PARTS})
  for model in served.engine.models:
    for size, constraint in [*((size, None) for size in sizes), *(
        (1, constraint) for constraint in _some_constraint(served, model))]:
      request = served.request(
          [served.reader.inputs.vocab_size - 1] * size, True, model=model, max_tokens=1,
          sampling=Sampling(temperature=1.0), constraint=constraint)
      served.engine.submit(request, pieces.put)
      if pieces.get().finish == 'failed':
        raise UserError(served.engine.failure)
  return time.monotonic() - began


def _some_constraint(served, model: str) -> list:
  """One that answers may be held to, unless the extra or the tokenizer allows none."""
  try:
    return [served.structures.build(model, 'regex', '.')]
  except UserError:
    return []


def outlive_uvicorn() -> None:
  """Lets a command go on where its server was ended: uvicorn raises its signals again then."""
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)


def _serve(served, listener: socket.socket, args: argparse.Namespace, key: str | None,
           seconds: float) -> None:
  import uvicorn

  from t5x_lite.serving.app import make_app
  loopback = args.host in _LOOPBACK
  app = make_app(served, key, [*_LOOPBACK] if loopback else None)
  server = uvicorn.Server(uvicorn.Config(
      app, log_level='warning', access_log=False, lifespan='off',
      timeout_graceful_shutdown=args.drain))
  outlive_uvicorn()
  host = f'[{args.host}]' if ':' in args.host else args.host
  address = f'http://{host}:{listener.getsockname()[1]}'
  print(f'{", ".join(served.engine.models)}: {args.slots} slots of {served.context} tokens, '
        f'compiled in {seconds:.0f} s')
  if not loopback and key is None:
    print(f'warning: everyone who reaches {args.host} may ask: set ${KEY}, or --key_file')
  print(f'Serving {address}/v1, and a page at {address}: Ctrl-C ends it', flush=True)
  server.run(sockets=[listener])

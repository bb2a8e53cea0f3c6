"""`t5x-lite chat`: a conversation with a model on the terminal."""

import argparse
import signal
import sys

from t5x_lite.commands import served_model
from t5x_lite.core.console import note
from t5x_lite.core.dataclass_checks import FieldError, has_surrogate
from t5x_lite.core.errors import UserError

EXAMPLE = 't5x-lite chat runs/chat --gin.Sampling.temperature=0.7'
HELP = """/system TEXT   another system message, and a new conversation
/clear         a new conversation
/exit          ends, as does Ctrl-D; Ctrl-C ends an answer"""


def add_flags(parser: argparse.ArgumentParser) -> None:
  served_model.add_flags(parser)


def run(args: argparse.Namespace) -> int:
  from t5x_lite.inference.sampling import Sampling
  from t5x_lite.serving.conversation import Conversation
  experiment = served_model.load_experiment(args)
  settings = experiment.infer
  if not isinstance(settings.decoding, Sampling):
    raise FieldError(settings, 'decoding', 'is a search, and what is said is drawn: leave it out')
  served = served_model.load_served(experiment, slots=1, context=args.context, max_queue=1,
                                    trusted_modules=args.trusted_modules)
  model = experiment.adapter or served.engine.models[0]
  talk = Conversation(served, model, settings.decoding, system=settings.system,
                      max_tokens=settings.max_tokens)
  served.chat_ids(model, [{'role': 'user', 'content': ''}])   # a model without template is refused
  signal.signal(signal.SIGINT, signal.default_int_handler)   # each Ctrl-C, not the first alone
  if sys.stdin.isatty():
    # Lines can be edited, and come again.
    import readline  # noqa: F401
    print(f'{model}, with a context of {served.context} tokens. /help lists commands.')
  return converse(talk)


def converse(talk) -> int:
  """Asks for lines until the end of input; returns the exit status.

  A line that cannot be answered is an error line; where no terminal asks, it ends the command.
  """
  terminal = sys.stdin.isatty()
  while True:
    try:
      line = input('> ' if terminal else '')
    except (EOFError, KeyboardInterrupt):
      print(end='\n' if terminal else '')
      return 0
    except UnicodeDecodeError as error:
      raise UserError('the input is not UTF-8') from error
    if line.strip() == '/exit':
      return 0
    try:
      _answer(talk, line)
    except UserError as error:
      if not terminal:
        raise
      print(f'error: {error}', file=sys.stderr)


def _answer(talk, line: str) -> None:
  word, _, rest = line.partition(' ')
  if has_surrogate(line):
    raise UserError('the line is not UTF-8')   # as Python reads it in the locale C
  if not line.strip():
    return
  if word == '/help':
    print(HELP)
  elif word == '/clear':
    talk.clear()
  elif word == '/system':
    talk.clear()
    talk.system = rest.strip() or None
  elif line.startswith('/'):
    raise UserError(f'{word}: no command; /help lists them, and a space before it makes it text')
  else:
    answer = talk.ask(line, lambda text: print(text, end='', flush=True))
    print()
    if answer.forgotten:
      note(f'the first {answer.forgotten} messages have no room in the context, and were forgotten')
    if answer.finish == 'length':
      note('the answer is as long as there is room for, and may go on')

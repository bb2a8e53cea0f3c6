"""What the boxes of the page have in common: their frame, and threads for long computations."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import logging
from typing import Any

from nicegui import core, ui

from t5x_lite.core.errors import UserError

PLANS, FITS = ThreadPoolExecutor(1), ThreadPoolExecutor(1)   # gin has global state


async def run_in(pool: ThreadPoolExecutor, function: Callable, *args) -> tuple[Any, str]:
  """(the result, '') or (None, an error message)."""
  try:
    return await core.loop.run_in_executor(pool, functools.partial(function, *args)), ''
  except UserError as e:
    return None, str(e)
  except Exception as e:   # our bug: one line on the page, the traceback in the terminal
    logging.exception('the page failed to compute a result')
    return None, f'This cannot be computed: {type(e).__name__}, see the terminal of the app'


def box(title: str):
  frame = ui.element('section').classes('box')
  with frame:
    ui.html(f'<h2>{title}</h2>', sanitize=False)
  return frame


def mark(element, name: str) -> None:
  """Names an element for browser automation."""
  element.props(f'data-name={name}')

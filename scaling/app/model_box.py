"""The box of the page that says what training a model of `configs/models` costs, as `budget`."""

import argparse
from collections.abc import Callable

from nicegui import ui

from scaling.app import parts
from scaling.app.elements import PLANS, box, mark, run_in
from scaling.app.fields import explain_message
from scaling.planning.amounts import parse_amount
from scaling.planning.estimate import estimate, format_estimate
from scaling.planning.request import Request
from t5x_lite.experiment.gin_config import CONFIGS

MODEL, TOKENS = 'llama3_8b', '15T'


class ModelBox:
  """The box; hardware, chips, price, MFU and length are those of `request`."""

  def __init__(self, request: Callable[[], Request]):
    self.request = request
    with box('Cost of a given model'):
      ui.label('On the hardware, chips, price, MFU and row length of this page.').classes('note')
      with ui.element('div').classes('buttons'):
        models = sorted(path.stem for path in (CONFIGS / 'models').glob('*.gin'))
        self.model = ui.select(models, value=MODEL, label='Model', with_input=True).classes('grow')
        self.tokens = ui.input('Training tokens', value=TOKENS).classes('grow')
        self.button = ui.button('Estimate', on_click=self.estimate).props('no-caps unelevated')
      for name in ('model', 'tokens'):
        mark(getattr(self, name), name)
      mark(self.button, 'estimate')
      self.alert = ui.label().classes('alert').props('role=alert id=model-alert')
      self.alert.visible = False
      self.result = ui.html('', sanitize=False)

  async def estimate(self) -> None:
    """Shows the estimate, or why there is none."""
    self.button.disable()
    text, why = await run_in(PLANS, lambda: estimate_text(
        self.model.value, self.tokens.value or '', self.request()))
    self.button.enable()
    self.alert.visible, self.alert.text = bool(why), explain_message(why)[0]
    self.result.content = parts.text_html(text, 'estimate') if text else ''


def estimate_text(model: str, tokens: str, request: Request) -> str:
  """What `t5x-lite scaling budget` prints; UserError as that."""
  shared = {name: getattr(request, name) for name in (
      'hardware', 'prices', 'price', 'chips', 'mfu', 'pue', 'length', 'carbon', 'fit',
      'served_tokens', 'prompt', 'generated')}
  unset = dict.fromkeys(('flops', 'dollars', 'kwh', 'hours', 'deadline', 'rows', 'microbatches',
                         'runs', 'tune'))
  args = argparse.Namespace(model=model, gin_file=[], tokens=parse_amount(tokens), **shared,
                            **unset)
  return '\n'.join(format_estimate(args, estimate(args)))

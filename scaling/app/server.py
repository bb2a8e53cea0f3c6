"""The web page: a budget in, a plan and its gin out; a CSV of runs in, a law out. Needs NiceGUI.

The page contacts no other host. Each visitor has a `Page`; long computations run in two threads
beside the server's, one for plans (gin has global state), one for fits.
"""

from collections.abc import Callable
import json
import math
import pathlib
import shutil
import socket
import tempfile
from typing import Any

from nicegui import app, ui

from scaling.app import charts, parts
from scaling.app.elements import PLANS, box, mark, run_in
from scaling.app.fields import (
  ALWAYS,
  BUDGETS,
  CHOICES,
  DETAILS,
  FIELDS,
  OF_BUDGET,
  explain_message,
  format_link,
  read_link,
  read_request,
  shown_fields,
)
from scaling.app.fit_box import FitBox
from scaling.app.model_box import ModelBox
from scaling.app.parts import Tiles
from scaling.laws.hyperparameters import RECIPES
from scaling.planning import plan_gin, plan_text, planner, predictions
from scaling.planning.planner import Plan
from scaling.planning.request import PRESETS, Request
from t5x_lite.core.errors import UserError, why
from t5x_lite.cost import hardware

_RECONNECT_TIMEOUT = 60    # seconds of silence of a busy server before a page reloads
# A handler that copies TEXT, and says whether it could.
_COPY = """async () => {
  const text = TEXT;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // not allowed, or a page that is neither local nor https
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    copied = document.execCommand('copy');
    area.remove();
  }
  emit(copied);
}"""


class Page:
  """The page of one visitor."""

  def __init__(self, prices: str | None, folder: str):
    self.prices = prices
    self.asked = 0             # requests so far; results of older ones are dropped
    self.gin_text, self.shown = '', None
    self.kept: tuple[str, Tiles] | None = None   # a plan to compare with
    self.inputs: dict[str, ui.input] = {}
    self.sliders: dict[str, ui.slider] = {}
    self.choices: dict[str, ui.element] = {}
    self.folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
    client = ui.context.client
    client.on_delete(lambda: shutil.rmtree(self.folder, ignore_errors=True))
    self.chips = hardware.load_catalogue(prices)
    self.texts, unknown = read_link(client.request.query_params, self.chips,
                                    predictions.load_laws())
    ui.add_css(pathlib.Path(__file__).parent / 'app.css')
    ui.colors(primary='#1f5f99')
    with ui.element('header').classes('top'):
      ui.html('<h1>t5x-lite scaling</h1><p>From a compute budget to a run</p>', sanitize=False)
    self.answer = ui.html('', sanitize=False).classes('answer').props('id=answer role=status')
    with ui.element('main').classes('sides'):
      with ui.element('div').classes('side'):
        self._budget_box()
        self._model_box()
      with ui.element('div').classes('side'):
        for line in unknown:
          ui.label(f'This link has {line}').classes('warn').props('role=alert')
        self._result_boxes()
        self.model_box = ModelBox(self._request)
        self.fit_box = FitBox(self.folder, self._took_fit)
    self._show_fields()
    ui.timer(0.01, self.refresh, once=True)

  def _budget_box(self) -> None:
    with box('Budget'):
      self.choices['budget'] = ui.toggle(
          BUDGETS, value=self.texts['budget'], on_change=self._changed_budget).props(
              'spread no-caps unelevated color=grey-3 text-color=grey-9')
      for name in OF_BUDGET:
        self._field(name)
      self._choice('hardware', {name: chip.title for name, chip in self.chips.items()}, 'Hardware')
      for name in ALWAYS:
        self._field(name)
      self.chip = ui.label().classes('note')

  def _model_box(self) -> None:
    with box('Model and law'):
      self._choice('family', list(PRESETS), 'Family')
      self._choice('law', list(predictions.load_laws()), 'Law')
      self.provenance = ui.html('', sanitize=False).classes('note').props('id=provenance')
      with ui.expansion('Constraints and details').props('dense header-class="q-px-none"') as more:
        for name in DETAILS:
          self._field(name)
        self._choice('recipe', list(RECIPES), 'Batch and rate by')
      more.value = any(self.texts[name] for name in DETAILS)

  def _choice(self, name: str, options: Any, label: str) -> None:
    self.choices[name] = ui.select(options, value=self.texts[name], label=label,
                                   on_change=self.refresh).classes('full-width')
    mark(self.choices[name], name)

  def _field(self, name: str) -> None:
    """A text field, with a slider where it has one."""
    field = FIELDS[name]
    entry = ui.input(field.label, value=self.texts[name]).props(
        f'debounce=500 hint="{field.hint}" autocomplete=off').classes('full-width')
    entry.on_value_change(lambda: self._changed_text(name))
    mark(entry, name)
    self.inputs[name] = entry
    if field.decades:
      low, high = field.decades
      slider = ui.slider(min=low, max=high, step=0.05, value=self._decade(name)).props(
          f'aria-label="{field.label}"').classes('q-px-sm')
      slider.on('update:model-value', lambda: self._moved(name), throttle=0.2)
      mark(slider, f'{name}-slider')
      self.sliders[name] = slider

  def _decade(self, name: str) -> float | None:
    """Where the slider of a field is for its text; None for a text that is no such number."""
    try:
      return math.log10(float(self.inputs[name].value))
    except (ValueError, OverflowError, TypeError):   # the refresh reports it
      return None

  def _result_boxes(self) -> None:
    self.alert = ui.label().classes('alert').props('role=alert id=alert')
    self.alert.visible = False
    with box('Plan'):
      self.busy = ui.linear_progress(show_value=False).props('indeterminate')
      self.plan = ui.html('', sanitize=False)
      with ui.element('div').classes('buttons'):
        self._button('keep', 'Keep to compare', 'push_pin', self._keep)
        link = self._button('link', 'Copy link', 'link')
        link.on('click', self._copied, js_handler=_COPY.replace('TEXT', 'location.href'))
      self.comparison = ui.html('', sanitize=False)
    with box('Prediction of each law'):
      self.predictions = ui.html('', sanitize=False)
      self.notes = ui.html('', sanitize=False).classes('note')
    with box('Figures') as self.figures:
      self.charts = {}
      for title in parts.CHARTS:
        ui.label(title).classes('note')
        self.charts[title] = ui.echart({'series': []}).classes('chart')
      with ui.element('div').classes('buttons'):
        self._button('csv', 'Download as CSV', 'download', lambda: ui.download.content(
            charts.format_csv({title: self.charts[title].options for title in parts.CHARTS[:2]}),
            'figures.csv'))
    with box('Gin experiment'):
      ui.label('Launch it: t5x-lite train --gin_file=plan.gin --gin.MODEL_DIR=FOLDER').classes(
          'note')
      with ui.element('div').classes('buttons'):
        self.copy = self._button('copy', 'Copy gin', 'content_copy')
        self.copy.on('click', self._copied, js_handler=_COPY.replace(
            'TEXT', "document.getElementById('gin').textContent"))
        self.download = self._button('download', 'Download', 'download', lambda: (
            ui.download.content(self.gin_text, 'plan.gin')))
      self.gin = ui.html('', sanitize=False)

  def _button(self, name: str, label: str, icon: str, on_click: Callable | None = None):
    button = ui.button(label, icon=icon, on_click=on_click).props('no-caps outline')
    mark(button, name)
    return button

  def _known(self):
    fitted = self.fit_box.fitted
    return predictions.load_laws(str(fitted.path) if fitted else None)

  async def _took_fit(self) -> None:
    """The visitor has a law of his own: the plan follows it."""
    law = self.choices['law']
    if law.value == 'fit':
      await self.refresh()
    else:
      law.set_options([*self._known()], value='fit')

  def _show_fields(self) -> None:
    names = shown_fields(self.choices['budget'].value)
    for name in OF_BUDGET:
      for element in filter(None, (self.inputs[name], self.sliders.get(name))):
        element.visible = name in names

  async def _changed_budget(self) -> None:
    self._show_fields()
    await self.refresh()

  def _moved(self, name: str) -> None:
    """Copies a slider to its field, which refreshes the page."""
    self.inputs[name].value = f'{10 ** self.sliders[name].value:.3g}'.replace('e+', 'e')

  async def _changed_text(self, name: str) -> None:
    if name in self.sliders and (decade := self._decade(name)) is not None:
      self.sliders[name].value = decade
    await self.refresh()

  def _request(self) -> Request:
    texts = {name: entry.value for name, entry in self.inputs.items()}
    fitted = self.fit_box.fitted
    chosen = {name: self.choices[name].value for name in CHOICES if name != 'budget'}
    return read_request(texts, self.choices['budget'].value, prices=self.prices,
                        fit=str(fitted.path) if fitted else None, **chosen)

  async def refresh(self) -> None:
    """Computes the predictions of the fields' request, then the plan, then memory by mesh."""
    self.asked += 1
    turn = self.asked
    law = self.choices['law'].value
    elements = {**self.inputs, **self.choices}
    link = format_link({name: element.value for name, element in elements.items()})
    ui.run_javascript('history.replaceState(null, "", location.pathname + '
                      f'{json.dumps(link and f"?{link}")})')
    self.provenance.content = parts.provenance_html(law, self._known()[law])
    for entry in self.inputs.values():
      entry.error = None
    try:
      request = self._request()
    except UserError as e:
      message, field = explain_message(str(e))
      self._failed(message, getattr(e, 'field', field))
      return
    self.busy.visible = True
    predicted, why = await run_in(PLANS, planner.predict_request, request)
    if turn != self.asked:
      return
    if predicted is None:
      self._failed(*explain_message(why))
      return
    budget, known, found = predicted
    self.chip.text = plan_text.hardware_lines(budget)[0]
    self.predictions.content = parts.predictions_html(found, request.law, budget.loss is not None)
    latest = lambda: planner.make_plan(request) if turn == self.asked else None
    plan, why = await run_in(PLANS, latest)
    if turn != self.asked:
      return
    if plan is None:
      self._failed(*explain_message(why), keep_laws=True)
      return
    self._show(plan, known)
    meshes, why = await run_in(PLANS, lambda: parts.memory_by_mesh(plan) if turn == self.asked
                               else None)
    if meshes and turn == self.asked:
      self._show_chart(parts.CHARTS[2], charts.memory_chart(meshes, budget.chip.device_memory))

  def _show(self, plan: Plan, known) -> None:
    self.alert.visible = self.busy.visible = False
    self.figures.visible = True
    self.plan.content, self.notes.content = parts.plan_html(plan), parts.notes_html(plan)
    self.answer.content = parts.answer_html(plan)
    self.gin_text = plan_gin.format_gin(plan)
    self.shown = parts.name_of(plan), parts.tiles_of(plan)
    for title, chart in zip(parts.CHARTS, parts.plan_charts(plan, known)):
      self._show_chart(title, chart)
    self._compare()
    self._show_gin()

  def _show_chart(self, title: str, chart: dict[str, Any]) -> None:
    self.charts[title].options.clear()
    self.charts[title].options.update(chart)
    self.charts[title].update()

  def _keep(self) -> None:
    self.kept = self.shown
    self._compare()

  def _compare(self) -> None:
    self.comparison.content = parts.comparison_html(self.kept, self.shown)

  def _failed(self, message: str, field: str | None, keep_laws: bool = False) -> None:
    """Shows a message, also at its field, and clears the results."""
    self.alert.text = message
    self.alert.visible, self.busy.visible, self.figures.visible = True, False, False
    if field in self.inputs:
      self.inputs[field].error = message
    self.plan.content = self.notes.content = self.gin_text = ''
    self.answer.content = parts.failed_html(message)
    if not keep_laws:
      self.predictions.content = ''
    self.shown = None
    self._compare()
    self._show_gin()

  def _show_gin(self) -> None:
    self.gin.content = parts.text_html(self.gin_text, 'gin') if self.gin_text else ''
    for button in (self.copy, self.download):
      button.set_enabled(bool(self.gin_text))

  def _copied(self, event) -> None:
    ui.notify('Copied' if event.args else 'The browser forbids copying: select the text below')


def serve(host: str, port: int, prices: str | None) -> None:
  """Serves the page until interrupted; UserError if the address is not available."""
  hardware.load_catalogue(prices)
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((host, port))
    except (OSError, OverflowError) as e:
      raise UserError(f'--host={host} --port={port}: {why(e)}: give another, e.g. '
                      f'--port={port + 1}') from e
  folder = tempfile.TemporaryDirectory(prefix='t5x_lite_app_')   # of uploaded files
  app.on_shutdown(folder.cleanup)
  app.on_startup(lambda: print(f'http://{host}:{port}  (Ctrl+C ends it)', flush=True))
  ui.run(lambda: Page(prices, folder.name), host=host, port=port, title='t5x-lite scaling',
         reload=False, show=False, tailwind=False, show_welcome_message=False, language='en-US',
         favicon='📈', reconnect_timeout=_RECONNECT_TIMEOUT)

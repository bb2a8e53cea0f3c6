"""The web page: a budget in, a plan and its gin out; a CSV of runs in, a law out. Needs NiceGUI.

The page contacts no other host. Each visitor has a `Page`; long computations run in two threads
beside the server's, one for plans (gin has global state), one for fits.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import logging
import math
import pathlib
import shutil
import socket
import tempfile
from typing import Any

from nicegui import app, core, ui

from scaling.app import parts
from scaling.app.parts import (
  BUDGETS,
  DETAILS,
  FIELDS,
  OF_BUDGET,
  Fitted,
  explain_message,
  fit_csv,
  read_request,
  shown_fields,
)
from scaling.laws.hyperparameters import RECIPES
from scaling.planning import plan_text
from scaling.planning.request import HARDWARE, LAW, PRESETS, Request
from t5x_lite.core.errors import UserError
from t5x_lite.cost import hardware

MAX_BYTES = 5_000_000      # of a CSV file
_RECONNECT_TIMEOUT = 60    # seconds of silence of a busy server before a page reloads
_PLANS, _FITS = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
_COPY = """async () => {
  const text = document.getElementById('gin').textContent;
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


async def _run(pool: ThreadPoolExecutor, function: Callable, *args) -> tuple[Any, str]:
  """(the result, '') or (None, an error message)."""
  try:
    return await core.loop.run_in_executor(pool, functools.partial(function, *args)), ''
  except UserError as e:
    return None, str(e)
  except Exception as e:   # our bug: one line on the page, the traceback in the terminal
    logging.exception('the page failed to compute a result')
    return None, f'This cannot be computed: {type(e).__name__}, see the terminal of the app'


class Page:
  """The page of one visitor."""

  def __init__(self, prices: str | None, folder: str):
    self.prices = prices
    self.asked = 0             # requests so far; results of older ones are dropped
    self.fitted: Fitted | None = None
    self.csv: tuple[str, bytes] | None = None
    self.gin_text = ''
    self.inputs: dict[str, ui.input] = {}
    self.sliders: dict[str, ui.slider] = {}
    self.folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
    ui.context.client.on_delete(lambda: shutil.rmtree(self.folder, ignore_errors=True))
    ui.add_css(pathlib.Path(__file__).parent / 'app.css')
    ui.colors(primary='#1f5f99')
    with ui.element('header').classes('top'):
      ui.html('<h1>t5x-lite scaling</h1><p>From a compute budget to a run</p>', sanitize=False)
    with ui.element('main').classes('sides'):
      with ui.element('div').classes('side'):
        self._budget_box()
        self._model_box()
      with ui.element('div').classes('side'):
        self._result_boxes()
        self._fit_box()
    self._show_fields()
    ui.timer(0.01, self.refresh, once=True)

  def _budget_box(self) -> None:
    chips = hardware.load_catalogue(self.prices)
    with _box('Budget'):
      self.budget = ui.toggle(BUDGETS, value='flops', on_change=self._changed_budget).props(
          'spread no-caps unelevated color=grey-3 text-color=grey-9')
      for name in (*OF_BUDGET, 'chips'):
        self._field(name)
      self.hardware = ui.select({name: chip.title for name, chip in chips.items()},
                                value=HARDWARE, label='Hardware', on_change=self.refresh)
      _mark(self.hardware, 'hardware')
      self.chip = ui.label().classes('note')

  def _model_box(self) -> None:
    with _box('Model and law'):
      self.family = ui.select(list(PRESETS), value='llama', label='Family',
                              on_change=self.refresh)
      self.law = ui.select(list(self._known()), value=LAW, label='Law', on_change=self.refresh)
      _mark(self.family, 'family')
      _mark(self.law, 'law')
      self.provenance = ui.html('', sanitize=False).classes('note').props('id=provenance')
      with ui.expansion('Constraints and details').props('dense header-class="q-px-none"'):
        for name in DETAILS:
          self._field(name)
        self.recipe = ui.select(list(RECIPES), value='step_law', label='Batch and rate by',
                                on_change=self.refresh)

  def _field(self, name: str) -> None:
    """A text field, with a slider where it has one."""
    field = FIELDS[name]
    entry = ui.input(field.label, value=field.value).props(
        f'debounce=500 hint="{field.hint}" autocomplete=off').classes('full-width')
    entry.on_value_change(lambda: self._changed_text(name))
    _mark(entry, name)
    self.inputs[name] = entry
    if field.decades:
      low, high = field.decades
      slider = ui.slider(min=low, max=high, step=0.05, value=math.log10(float(field.value))).props(
          f'aria-label="{field.label}"').classes('q-px-sm')
      slider.on('update:model-value', lambda: self._moved(name), throttle=0.2)
      _mark(slider, f'{name}-slider')
      self.sliders[name] = slider

  def _result_boxes(self) -> None:
    self.alert = ui.label().classes('alert').props('role=alert id=alert')
    self.alert.visible = False
    with _box('Plan'):
      self.busy = ui.linear_progress(show_value=False).props('indeterminate')
      self.plan = ui.html('', sanitize=False)
    with _box('Prediction of each law'):
      self.predictions = ui.html('', sanitize=False)
      self.notes = ui.html('', sanitize=False).classes('note')
    with _box('Figures'):
      self.pictures = ui.html('', sanitize=False).props('id=pictures')
    with _box('Gin experiment'):
      ui.label('Launch it: t5x-lite train --gin_file=plan.gin --gin.MODEL_DIR=FOLDER').classes(
          'note')
      with ui.element('div').classes('buttons'):
        self.copy = ui.button('Copy gin', icon='content_copy').props('no-caps unelevated')
        self.copy.on('click', self._copied, js_handler=_COPY)
        self.download = ui.button('Download', icon='download', on_click=lambda: ui.download.content(
            self.gin_text, 'plan.gin')).props('no-caps outline')
      _mark(self.copy, 'copy')
      self.gin = ui.html('', sanitize=False)

  def _fit_box(self) -> None:
    with _box('Fit a law to your own runs'):
      ui.label('A CSV file with a header and a run on each line: two of parameters, tokens and '
               'flops, and the final loss. It stays on this machine; the law is then available '
               'above as fit.').classes('note')
      upload = ui.upload(label='CSV file', auto_upload=True, max_files=1, max_file_size=MAX_BYTES,
                         on_upload=self._uploaded, on_rejected=lambda: self._fit_failed(
                             f'Upload one CSV file of up to {MAX_BYTES / 1e6:g} MB'))
      upload.props('flat bordered accept=.csv')
      _mark(upload, 'upload')
      self.upload = upload
      self.file = ui.label().classes('note')
      with ui.element('div').classes('buttons'):
        self.columns = ui.input('Columns, if not recognised', placeholder='loss=val_loss').classes(
            'grow')
        self.fit_loss = ui.select({'huber': 'Huber, delta 1e-3', 'lad': 'absolute deviations'},
                                  value='huber', label='Loss of the fit').style('min-width: 160px')
        self.resamples = ui.input('Resamples', value='200').style('width: 90px')
        self.fit_button = ui.button('Fit', on_click=self.fit).props('no-caps unelevated')
      for name in ('columns', 'resamples'):
        _mark(getattr(self, name), name)
      _mark(self.fit_button, 'fit')
      self.fit_alert = ui.label().classes('alert').props('role=alert id=fit-alert')
      self.fit_busy = ui.linear_progress(show_value=False).props('indeterminate')
      self.fit_alert.visible = self.fit_busy.visible = False
      self.fit_result = ui.html('', sanitize=False).props('id=fitted')
      self.fit_pictures = ui.html('', sanitize=False)

  def _known(self):
    from scaling.planning import predictions
    return predictions.load_laws(str(self.fitted.path) if self.fitted else None)

  def _show_fields(self) -> None:
    names = shown_fields(self.budget.value)
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
    if name in self.sliders:
      try:
        self.sliders[name].value = math.log10(float(self.inputs[name].value))
      except (ValueError, OverflowError):
        pass   # the refresh reports it
    await self.refresh()

  def _request(self) -> Request:
    texts = {name: entry.value for name, entry in self.inputs.items()}
    return read_request(texts, self.budget.value, hardware=self.hardware.value, prices=self.prices,
                family=self.family.value, law=self.law.value, recipe=self.recipe.value,
                fit=str(self.fitted.path) if self.fitted else None)

  async def refresh(self) -> None:
    """Computes the predictions of the fields' request, then the plan."""
    from scaling.planning import planner
    self.asked += 1
    turn = self.asked
    self.provenance.content = parts.provenance_html(self.law.value, self._known()[self.law.value])
    for entry in self.inputs.values():
      entry.error = None
    try:
      request = self._request()
    except UserError as e:
      message, field = explain_message(str(e))
      self._failed(message, getattr(e, 'field', field))
      return
    self.busy.visible = True
    predicted, why = await _run(_PLANS, planner.predict_request, request)
    if turn != self.asked:
      return
    if predicted is None:
      self._failed(*explain_message(why))
      return
    budget, known, found = predicted
    self.chip.text = plan_text.hardware_lines(budget)[0]
    self.predictions.content = parts.predictions_html(found, request.law, budget.loss is not None)
    latest = lambda: _planned(request, known, self.fitted) if turn == self.asked else None
    planned, why = await _run(_PLANS, latest)
    if turn != self.asked:
      return
    if planned is None:
      self._failed(*explain_message(why), keep_laws=True)
      return
    self.alert.visible = self.busy.visible = False
    self.plan.content, self.notes.content, self.pictures.content, self.gin_text = planned
    self._show_gin()

  def _failed(self, message: str, field: str | None, keep_laws: bool = False) -> None:
    """Shows a message, also at its field, and clears the results."""
    self.alert.text = message
    self.alert.visible, self.busy.visible = True, False
    if field in self.inputs:
      self.inputs[field].error = message
    self.plan.content = self.notes.content = self.pictures.content = self.gin_text = ''
    if not keep_laws:
      self.predictions.content = ''
    self._show_gin()

  def _show_gin(self) -> None:
    self.gin.content = parts.text_html(self.gin_text, 'gin') if self.gin_text else ''
    for button in (self.copy, self.download):
      button.set_enabled(bool(self.gin_text))

  def _copied(self, event) -> None:
    ui.notify('Copied' if event.args else 'The browser forbids copying: select the text below')

  async def _uploaded(self, event) -> None:
    self.csv = event.file.name, await event.file.read()
    self.file.text = f'{event.file.name}, {len(self.csv[1]):,} bytes'
    self.upload.reset()
    await self.fit()

  async def fit(self) -> None:
    """Fits a law to the last uploaded file."""
    if self.csv is None:
      self._fit_failed('No runs: choose a CSV file first')
      return
    self.fit_button.disable()
    self.fit_alert.visible, self.fit_busy.visible = False, True
    found, why = await _run(_FITS, _fitted, self.folder, *self.csv,
                            self.columns.value, self.fit_loss.value, self.resamples.value.strip())
    self.fit_button.enable()
    self.fit_busy.visible = False
    if found is None:
      self._fit_failed(explain_message(why)[0])
      return
    self.fitted, self.fit_result.content, self.fit_pictures.content = found
    if self.law.value == 'fit':
      await self.refresh()
    else:
      self.law.set_options([*self._known()], value='fit')

  def _fit_failed(self, message: str) -> None:
    self.fit_alert.text, self.fit_alert.visible = message, True
    self.fit_result.content = self.fit_pictures.content = ''


def _planned(request: Request, known, found: Fitted | None) -> tuple[str, str, str, str]:
  """(plan, notes, pictures) as HTML, and the gin file."""
  from scaling.planning import plan_gin, planner
  plan = planner.make_plan(request)
  return (parts.plan_html(plan), parts.notes_html(plan),
          parts.plan_pictures(plan, known, found and found.fit), plan_gin.format_gin(plan))


def _fitted(*args) -> tuple[Fitted, str, str]:
  """A fitted law, its report and its pictures as HTML."""
  found = fit_csv(*args)
  return found, parts.fit_html(found.report, found.text), parts.fit_pictures(found.fit)


def _box(title: str):
  box = ui.element('section').classes('box')
  with box:
    ui.html(f'<h2>{title}</h2>', sanitize=False)
  return box


def _mark(element, name: str) -> None:
  """Names an element for browser automation."""
  element.props(f'data-name={name}')


def serve(host: str, port: int, prices: str | None) -> None:
  """Serves the page until interrupted; UserError if the address is not available."""
  hardware.load_catalogue(prices)
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((host, port))
    except (OSError, OverflowError) as e:
      why = getattr(e, 'strerror', None) or e
      raise UserError(f'--host={host} --port={port}: {why}: give another, e.g. '
                      f'--port={port + 1}') from e
  folder = tempfile.TemporaryDirectory(prefix='t5x_lite_app_')   # of uploaded files
  app.on_shutdown(folder.cleanup)
  app.on_startup(lambda: print(f'http://{host}:{port}  (Ctrl+C ends it)', flush=True))
  ui.run(lambda: Page(prices, folder.name), host=host, port=port, title='t5x-lite scaling',
         reload=False, show=False, tailwind=False, show_welcome_message=False, language='en-US',
         favicon='📈', reconnect_timeout=_RECONNECT_TIMEOUT)

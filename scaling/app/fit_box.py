"""The box of the page in which a visitor fits a law to an uploaded CSV file of runs."""

from collections.abc import Awaitable, Callable
import pathlib

from nicegui import ui

from scaling.app import parts
from scaling.app.elements import FITS, box, mark, run_in
from scaling.app.fields import explain_message
from scaling.app.parts import Fitted, fit_csv

MAX_BYTES = 5_000_000      # of a CSV file


class FitBox:
  """The box; `fitted` is the last law, for which it awaits `on_fitted`."""

  def __init__(self, folder: pathlib.Path, on_fitted: Callable[[], Awaitable[None]]):
    self.folder, self.on_fitted = folder, on_fitted
    self.fitted: Fitted | None = None
    self.csv: tuple[str, bytes] | None = None
    with box('Fit a law to your own runs'):
      ui.label('A CSV file with a header and a run on each line: two of parameters, tokens and '
               'flops, and the final loss. It stays on this machine; the law is then available '
               'above as fit.').classes('note')
      upload = ui.upload(label='CSV file', auto_upload=True, max_files=1, max_file_size=MAX_BYTES,
                         on_upload=self._uploaded, on_rejected=lambda: self._fit_failed(
                             f'Upload one CSV file of up to {MAX_BYTES / 1e6:g} MB'))
      upload.props('flat bordered accept=.csv')
      mark(upload, 'upload')
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
        mark(getattr(self, name), name)
      mark(self.fit_button, 'fit')
      self.fit_alert = ui.label().classes('alert').props('role=alert id=fit-alert')
      self.fit_busy = ui.linear_progress(show_value=False).props('indeterminate')
      self.fit_alert.visible = self.fit_busy.visible = False
      self.fit_result = ui.html('', sanitize=False).props('id=fitted')
      self.fit_pictures = ui.html('', sanitize=False)

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
    found, why = await run_in(FITS, _fitted, self.folder, *self.csv,
                              self.columns.value, self.fit_loss.value, self.resamples.value.strip())
    self.fit_button.enable()
    self.fit_busy.visible = False
    if found is None:
      self._fit_failed(explain_message(why)[0])
      return
    self.fitted, self.fit_result.content, self.fit_pictures.content = found
    await self.on_fitted()

  def _fit_failed(self, message: str) -> None:
    self.fit_alert.text, self.fit_alert.visible = message, True
    self.fit_result.content = self.fit_pictures.content = ''


def _fitted(*args) -> tuple[Fitted, str, str]:
  """A fitted law, its report and its pictures as HTML."""
  found = fit_csv(*args)
  return found, parts.fit_html(found.report, found.text), parts.fit_pictures(found.fit)

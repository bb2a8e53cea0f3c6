"""A calculator in one file of HTML, which any host can serve: laws, chips, and arithmetic."""

import dataclasses
import datetime
import json
import pathlib
from typing import Any

from scaling.laws.laws import LAWS, Allocation, FixedRatio, Kaplan, Law, ParametricLaw
from scaling.planning import goodput
from scaling.planning.budget import MFU
from scaling.planning.request import HARDWARE, LAW
from t5x_lite.cost import hardware
from t5x_lite.cost.hardware import Chip

_FORMS = {ParametricLaw: 'parametric', Kaplan: 'kaplan', Allocation: 'allocation',
          FixedRatio: 'fixed_ratio'}   # as calculator.html has them; the first that fits


def calculator_page(prices: str | None = None) -> str:
  """The HTML, with the chips of hardware.load_catalogue(prices) and the published laws in it."""
  data = {'laws': {name: _law(law) for name, law in LAWS.items()},
          'chips': {name: _chip(chip) for name, chip in hardware.load_catalogue(prices).items()},
          'hardware': HARDWARE, 'law': LAW, 'mfu': MFU, 'date': str(datetime.date.today()),
          'stale_days': hardware.STALE_DAYS, 'nearest': goodput.NEAREST,
          'other_kind': goodput.OTHER_KIND,
          'runs': [{'parameters': run.parameters, 'kind': goodput.kind_of(run.chip),
                    'utilisation': run.hardware_utilisation} for run in goodput.load_runs()]}
  template = pathlib.Path(__file__).with_name('calculator.html').read_text(encoding='utf-8')
  return template.replace('__DATA__', json.dumps(data, allow_nan=False).replace('<', '\\u003c'))


def _law(law: Law) -> dict[str, Any]:
  form = next(name for kind, name in _FORMS.items() if isinstance(law.form, kind))
  return {'form': form, **dataclasses.asdict(law.form), 'fitted': law.fitted,
          'source': law.source, 'counts': law.counts, 'text': law.text, 'note': law.note}


def _chip(chip: Chip) -> dict[str, Any]:
  price = '' if chip.price is None else (
      f', ${chip.price:g} an hour on {chip.price_date} ({chip.price_source})')
  return {'title': chip.title, 'flops': chip.flops, 'power': chip.power, 'price': chip.price,
          'price_date': chip.price and str(chip.price_date), 'kind': goodput.kind_of(chip.name),
          'about': f'{chip.title}: {chip.flops / 1e12:.4g} TFLOP/s dense{price}'}

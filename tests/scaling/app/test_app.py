"""The web page, driven in headless Chromium, and what it makes of the texts in its fields."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest

from scaling.app import charts, fields, model_box, parts
from scaling.fitting import parametric
from scaling.fitting.runs import read_csv
from scaling.laws.laws import LAWS
from scaling.planning import amounts, plan_gin, plan_text, planner
from scaling.planning.budget import MFU
from scaling.planning.goodput import utilisation_range
from scaling.planning.request import LAW, Request
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.cost import hardware
from t5x_lite.experiment import gin_config

pytest.importorskip('nicegui', reason='the web page needs the extra app')

CHROMIUM, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
FLAGS = ('--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run '
         '--disable-background-networking --disable-component-update --disable-sync')
PATIENCE = 240   # seconds for an answer; others may use this machine
LOCAL = {'127.0.0.1', 'localhost'}


@pytest.mark.parametrize('budget, texts, expected', [
    ('flops', {'flops': ' 5.76e23 ', 'hours': '24', 'dollars': '9'}, {'flops': 5.76e23}),
    ('flops', {'flops': '1,000T', 'price': '$2.50', 'served_tokens': '10T'},
     {'flops': 1e15, 'price': 2.5, 'served_tokens': 1e13}),
    ('chips', {'chips': '8', 'hours': '2d', 'flops': '1e21'}, {'chips': 8, 'hours': 48.0}),
    ('dollars', {'dollars': '1000', 'chips': '16', 'mfu': '0.3'},
     {'dollars': 1000.0, 'chips': 16, 'mfu': 0.3}),
    ('loss', {'loss': '2.5', 'unique_tokens': '1e11', 'deadline': '90m'},
     {'loss': 2.5, 'unique_tokens': 1e11, 'deadline': 1.5}),
])
def test_only_the_fields_of_a_budget_count(budget, texts, expected):
  assert fields.read_request(texts, budget) == Request(**expected)


@pytest.mark.parametrize('name, text, words', [
    ('flops', 'many', "Training FLOPs: 'many': expected a number, e.g. 1e12"),
    ('chips', '8.5', "Chips: '8.5': expected a whole number"), ('deadline', 'soon', 'Deadline:'),
    ('chips', '1' + 20 * '0', 'Chips=1.*: give 1,048,576 or less')])
def test_a_text_that_cannot_be_read_names_its_field(name, text, words):
  with pytest.raises(fields.TextError, match='^' + words) as raised:
    fields.read_request({'flops': '1e21', name: text}, 'flops')
  assert raised.value.field == name and '\n' not in str(raised.value)


def test_flags_of_the_command_line_are_called_as_on_the_page():
  assert fields.explain_message('--flops=-1: give a number above 0, or --chips') == (
      'Training FLOPs=-1: give a number above 0, or Chips', 'flops')
  assert fields.explain_message('the price is old: pass --prices=FILE') == (
      'the price is old: pass --prices=FILE', None)


def test_a_link_restores_all_fields():
  initial, unknown = fields.read_link({}, {'h100': None}, LAWS)
  assert fields.format_link(initial) == '' and not unknown
  assert fields.read_request(initial, 'flops', law=initial['law']) == Request(
      flops=1e21, law='besiroglu')
  texts = {**initial, 'budget': 'dollars', 'dollars': '5 & 6', 'chips': '8', 'flops': '',
           'law': 'kaplan'}
  link = fields.format_link(texts)
  query = dict(urllib.parse.parse_qsl(link, keep_blank_values=True))
  assert query == {'budget': 'dollars', 'dollars': '5 & 6', 'chips': '8', 'flops': '',
                   'law': 'kaplan'}
  assert fields.read_link(query, {'h100': None}, LAWS) == (texts, [])
  restored, unknown = fields.read_link(
      {'law': 'fit', 'hardware': 'h1000', 'colour': 'red', 'chips': '8'}, {'h100': None}, LAWS)
  assert restored == {**initial, 'chips': '8'}
  assert unknown == ['law=fit: upload its runs again', 'hardware=h1000: choose from h100',
                     'colour=red: there is no such field']


def test_charts_hold_the_laws_numbers():
  chart = charts.frontier_chart(LAWS, 1e21, 2.8e9, 100)
  assert json.loads(json.dumps(chart, allow_nan=False)) == chart
  for name, law in LAWS.items():
    solid, dotted = [s['data'] for s in chart['series'] if s['name'] == name]
    for c, n in (point for point in solid + dotted if point[1] is not None):
      assert n == pytest.approx(law.form.optimum(c)[0], rel=2e-3)
    inside = [law.fitted is not None and law.fitted[0] <= c <= law.fitted[1] for c, _ in solid]
    assert [n is not None for _, n in solid] == inside
    # Each stretch between two budgets is drawn by one of the two lines.
    drawn = [[a[1] is not None and b[1] is not None for a, b in zip(line, line[1:])]
             for line in (solid, dotted)]
    assert all(map(any, zip(*drawn)))
  overheads = charts.overhead_chart(charts.overheads_of(LAWS), 1e21)
  assert {s['name'] for s in overheads['series']} == {
      'hoffmann_3', 'hoffmann_3_unrounded', 'besiroglu', 'muennighoff', 'gadre_c4',
      'gadre_redpajama', 'gadre_refinedweb'}
  law = LAWS['besiroglu'].form
  for factor, multiple in overheads['series'][2]['data']:
    assert multiple == pytest.approx(law.compute_overhead(1e21, factor), rel=2e-3)
  rows = charts.format_csv({'a': chart, 'b': overheads}).splitlines()
  assert rows[0] == 'chart,series,x,y' and 'a,this budget,1e+21,2800000000.0' in rows
  assert len(rows) == 1 + sum(y is not None for c in (chart, overheads) for s in c['series']
                              for _, y in s['data'])


@pytest.mark.parametrize('flags, words', [
    (['--export=page.txt'], 'a name that ends in .html'),
    (['--export=/proc/page.html'], '--export=/proc/page.html: '),
    (['--export=page.html', '--prices=nowhere.toml'], '--prices=nowhere.toml')])
def test_an_export_that_cannot_be_written_is_refused(flags, words, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['scaling', 'app', *flags]) == 1
  assert words in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_what_a_file_says_is_no_html():
  assert '<script' not in parts.table_html(['<script>'], [['<script>(']]) + parts.text_html(
      '<script>', 'gin')


def test_a_port_in_use_is_refused_in_a_line(capsys):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    assert cli.main(['scaling', 'app', f'--port={port}']) == 1
  said = capsys.readouterr().err
  assert re.fullmatch(f'error: .*--port={port}: .*: give another.*\n', said)


@pytest.mark.parametrize('flags, words', [
    (['--port=0'], '--port=0'), (['--host=no.such.host.invalid'], '--host=no.such'),
    (['--prices=nowhere.toml'], '--prices=nowhere.toml')])
def test_flags_that_cannot_be_met_are_refused(flags, words, capsys):
  assert cli.main(['scaling', 'app', *flags]) == 1
  assert words in capsys.readouterr().err


def test_without_the_extra_the_cure_is_named(monkeypatch, capsys):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  assert cli.main(['scaling', 'app']) == 1
  assert "pip install -e '.[app]'" in capsys.readouterr().err


@pytest.fixture(scope='module')
def address(tmp_path_factory):
  """The page's, served by a process of its own."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  root = pathlib.Path(__file__).parents[3]
  # NiceGUI serves other pages where it sees that pytest runs; XLA's flags here make slow code.
  env = {key: value for key, value in os.environ.items()
         if not key.startswith('PYTEST') and key != 'XLA_FLAGS'}
  env['PYTHONPATH'] = os.pathsep.join([str(root), env.get('PYTHONPATH', '')])
  folder = tmp_path_factory.mktemp('app')
  env['TMPDIR'] = str(folder)
  with open(folder / 'log', 'w') as log:
    process = subprocess.Popen(
        [sys.executable, '-m', 't5x_lite', 'scaling', 'app', f'--port={port}'],
        stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=folder)
    line = process.stdout.readline()
    assert line.startswith(f'http://127.0.0.1:{port}'), (folder / 'log').read_text()
    yield line.split()[0]
    process.terminate()
    process.wait(30)
  assert 'Traceback' not in (folder / 'log').read_text()
  assert [path.name for path in folder.iterdir()] == ['log'], 'the app left files behind'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  """A desktop's browser."""
  webdriver = pytest.importorskip('selenium.webdriver')
  if not (CHROMIUM and DRIVER):
    pytest.skip('there is no chromium with chromedriver on this machine')
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  profile = tmp_path_factory.mktemp('chromium')
  for flag in (*FLAGS.split(), f'--user-data-dir={profile}', '--window-size=1280,900'):
    options.add_argument(flag)
  options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  yield browser
  browser.quit()


@pytest.fixture(scope='module')
def page(address, browser):
  """The page in a desktop's browser."""
  browser.execute_cdp_cmd('Browser.grantPermissions', {
      'origin': address, 'permissions': ['clipboardReadWrite', 'clipboardSanitizedWrite']})
  browser.get(address)
  shown = Page(browser)
  shown.wait(lambda: shown.text('#gin'), 'the page shows no plan of its own')
  return shown


class Page:
  """The page as a person uses it."""

  def __init__(self, browser):
    self.browser = browser

  def find(self, selector: str):
    return self.browser.find_element('css selector', selector)

  def wait(self, condition, what: str):
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait
    # What is replaced while it is read is read again.
    return WebDriverWait(self.browser, PATIENCE, ignored_exceptions=[
        NoSuchElementException, StaleElementReferenceException]).until(lambda _: condition(), what)

  def write(self, name: str, text: str) -> None:
    from selenium.webdriver.common.keys import Keys
    found = lambda: self.find(f'input[data-name={name}]')
    self.wait(lambda: found().is_displayed(), f'{name} is not shown')
    found().send_keys(Keys.CONTROL, 'a')
    found().send_keys(Keys.DELETE, text)

  def choose(self, label: str) -> None:
    """A kind of budget."""
    self.wait(lambda: [button for button in self.browser.find_elements(
        'css selector', '.q-btn-toggle button') if button.text == label], label)[0].click()

  def text(self, selector: str) -> str:
    found = self.browser.find_elements('css selector', selector)
    return found[0].get_attribute('textContent') if found else ''

  def table(self, name: str) -> dict[str, list[str]]:
    """First cell of a row -> the other cells."""
    rows = self.browser.execute_script(
        'return [...document.querySelectorAll(arguments[0])].map('
        'row => [...row.cells].map(cell => cell.innerText))', f'#{name} tbody tr')
    return {row[0]: row[1:] for row in rows}

  def message(self, words: str, name: str = 'alert') -> str:
    """Waits for a message with these words."""
    return self.wait(lambda: self.find(f'#{name}').is_displayed() and words in self.text(
        f'#{name}') and self.text(f'#{name}'), f'{words!r} is not said')


def cell(value: float, interval, show) -> str:
  return show(value) + ('' if interval is None else f'\n{show(interval[0])}–{show(interval[1])}')


def in_units(page: Page) -> list[float]:
  """The units of N and D in the table of laws."""
  return [{'M': 1e6, 'B': 1e9, 'T': 1e12}[letter] for letter in re.findall(
      r'[ND] \((\w)\)', page.text('#predictions thead'))]


def check_shown(page: Page, plan: planner.Plan) -> None:
  """Waits for the plan, and compares the numbers shown with the planner's."""
  page.wait(lambda: plan_gin.format_gin(plan) == page.text('#gin'), 'the plan is not shown')
  table = page.table('predictions')
  assert list(table) == [prediction.law for prediction in plan.predictions]
  in_n, in_d = in_units(page)
  for prediction in plan.predictions:
    size, tokens, *others = table[prediction.law]
    shown = [prediction.parameters, *(prediction.parameters_interval or ())]
    for text, value in zip(re.split('[\n–]', size), shown, strict=True):
      assert float(text.replace(',', '')) == pytest.approx(value / in_n, rel=6e-3)
    assert float(tokens.replace(',', '')) == pytest.approx(prediction.tokens / in_d, rel=6e-3)
    assert others == [
        cell(prediction.tokens / prediction.parameters, prediction.ratio_interval,
             lambda x: f'{x:.1f}'),
        '-' if prediction.loss is None else cell(prediction.loss, prediction.loss_interval,
                                                 lambda x: f'{x:.3f}'),
        plan_text.format_extrapolation(prediction.extrapolation)]
  tiles = page.text('#tiles')
  for part in (amounts.format_amount(plan.total_parameters), amounts.format_amount(plan.tokens),
               f'{plan.loss:.3f}', amounts.format_money(plan.dollars),
               str(plan.budget.chip.price_date)):
    assert part in tiles
  run = page.table('run')
  assert f'{plan.steps:,} steps of {plan.layout.rows} rows' in run['tokens'][0]
  assert f'{plan.learning_rate:g}' in run['AdamW'][0]


@pytest.mark.slow
def test_the_numbers_are_the_planners(page):
  from selenium.webdriver.common.keys import Keys
  page.write('flops', '3e18')
  check_shown(page, planner.make_plan(Request(flops=3e18)))
  slider = page.find('[data-name=flops-slider] [tabindex]')
  slider.send_keys(Keys.ARROW_RIGHT)   # one press: of two, a busy page may show each in turn
  page.wait(lambda: page.find('input[data-name=flops]').get_attribute('value') != '3e18',
            'the slider moves nothing')
  flops = float(page.find('input[data-name=flops]').get_attribute('value'))
  assert 3e18 < flops < 4e18
  check_shown(page, planner.make_plan(Request(flops=flops)))
  page.choose('Chips')
  page.write('chips', '1')
  page.write('hours', '90m')
  check_shown(page, planner.make_plan(Request(chips=1, hours=1.5)))
  page.wait(lambda: page.browser.execute_script(
      'return [...document.querySelectorAll(".chart canvas")].map(c => c.width > 100)'
      ) == [True, True, True], 'three charts are not shown')


@pytest.mark.slow
def test_a_reload_keeps_the_fields_and_two_plans_are_compared(page):
  page.choose('FLOPs')
  page.write('flops', '-1')
  page.message('above 0')
  page.write('flops', '')   # an empty field is no longer wrong, though the budget is not given
  page.message('no budget is given')
  assert not page.browser.find_elements('css selector', '.q-field--error')
  page.write('flops', '3e18')
  page.write('chips', '1')
  plan = planner.make_plan(Request(flops=3e18, chips=1))
  page.wait(lambda: plan_gin.format_gin(plan) == page.text('#gin'), 'the plan is not shown')
  page.find('[data-name=keep]').click()
  page.wait(lambda: page.table('comparison'), 'no plan is kept')
  size = amounts.format_amount(plan.total_parameters)
  assert page.table('comparison')['Parameters'] == [size, size]
  page.write('chips', '2')
  other = planner.make_plan(Request(flops=3e18, chips=2))
  page.wait(lambda: plan_gin.format_gin(other) == page.text('#gin'), 'the plan is not shown')
  times = [amounts.format_hours(p.budget.hours) for p in (plan, other)]
  assert page.table('comparison')['Time'] == times and times[0] != times[1]
  query = lambda: dict(urllib.parse.parse_qsl(
      urllib.parse.urlsplit(page.browser.current_url).query))
  page.wait(lambda: {('flops', '3e18'), ('chips', '2')} <= query().items(),
            'the link has not the fields')
  page.browser.refresh()
  page.wait(lambda: plan_gin.format_gin(other) == page.text('#gin'), 'the fields are lost')
  page.write('chips', '')


@pytest.mark.slow
def test_bad_values_are_named_in_a_line(page):
  page.write('chips', '')
  page.choose('FLOPs')
  for text, words in (('many', "Training FLOPs: 'many': expected a number"),
                      ('-1', 'Training FLOPs=-1: give a number above 0'),
                      ('nan', "Training FLOPs: 'nan': expected a number"),
                      ('1', 'FLOPs are too few for any model'),
                      ('', 'no budget is given')):
    page.write('flops', text)
    said = page.message(words)
    assert '\n' not in said and 'Traceback' not in page.browser.page_source
    assert not page.text('#gin') and not page.find('[data-name=copy]').is_enabled()
  page.write('flops', '-1')
  page.wait(lambda: 'above 0' in page.text('.q-field--error .q-field__messages'),
            'the field itself says nothing')
  page.find('.q-expansion-item .q-item').click()
  page.write('flops', '3e18')
  page.write('length', '1')
  page.message('Row length=1: give 8 to 1,048,576')
  page.write('length', '')
  page.choose('Loss')
  page.write('loss', '1.5')
  page.message('no budget gets below')
  page.write('loss', '4')
  page.wait(lambda: page.text('#gin'), 'there is no way back from a mistake')
  assert not page.find('#alert').is_displayed()
  assert page.text('#predictions th:nth-child(2)') == 'FLOPs'


def test_the_cost_of_a_given_model_is_that_of_the_command(capsys):
  request = Request(flops=1e21, hardware='a100_80', chips=2048, mfu=0.5, price=1.5)
  assert cli.main(['scaling', 'budget', 'llama_65b', '--tokens=1.4T', '--hardware=a100_80',
                   '--chips=2048', '--mfu=0.5', '--price=1.5']) == 0
  assert capsys.readouterr().out == model_box.estimate_text('llama_65b', '1.4T', request) + '\n'
  with pytest.raises(UserError, match="'many': expected a number"):
    model_box.estimate_text('llama_65b', 'many', request)


@pytest.mark.slow
def test_a_given_model_is_estimated_on_the_page(page):
  page.wait(lambda: page.text('#gin'), 'there is no plan')
  page.find('[data-name=estimate]').click()
  page.wait(lambda: '15T tokens' in page.text('#estimate'), 'nothing is estimated')
  page.write('tokens', 'many')
  page.find('[data-name=estimate]').click()
  page.message("'many': expected a number", 'model-alert')


@pytest.mark.slow
def test_gin_is_copied_and_loads(page, tmp_path):
  page.choose('$')
  page.write('dollars', '20')
  plan = planner.make_plan(Request(dollars=20))
  page.wait(lambda: plan_gin.format_gin(plan) == page.text('#gin'), 'the plan is not shown')
  page.find('[data-name=copy]').click()
  page.wait(lambda: 'Copied' in page.text('.q-notifications'), 'nobody says that it was copied')
  copied = page.browser.execute_async_script(
      'navigator.clipboard.readText().then(arguments[arguments.length - 1])')
  (tmp_path / 'plan.gin').write_text(copied)
  experiment, _ = gin_config.load_experiment([str(tmp_path / 'plan.gin')],
                                     [f"MODEL_DIR='{tmp_path / 'run'}'", 'TASK=t', 'VOCABULARY=v'])
  assert experiment.model == plan.config
  assert experiment.train.steps == plan.steps


@pytest.mark.slow
def test_a_law_is_fitted_to_a_csv_and_planned_by(page, tmp_path):
  bad = tmp_path / 'bad.csv'
  bad.write_text('params,tokens,val_loss\n1e8,2e9,3.1\n2e8,4e9,nan\n')
  upload = page.wait(lambda: page.find('input[type=file]'), 'there is no upload')
  upload.send_keys(str(bad))
  assert page.message('bad.csv, line 3: loss is nan', 'fit-alert').startswith('bad.csv')
  rng = np.random.default_rng(0)
  n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
  loss = (1.8 + 480 / n ** 0.35 + 2100 / d ** 0.37) * np.exp(0.002 * rng.normal(size=n.size))
  good = tmp_path / 'good.csv'
  good.write_text('N,D,what it ended at\n' + ''.join(
      f'{n:.6g},{d:.6g},{loss:.6g}\n' for n, d, loss in zip(n, d, loss)))
  page.write('resamples', '20')
  page.find('input[type=file]').send_keys(str(good))
  page.message('no known column of losses', 'fit-alert')
  page.write('columns', 'loss=what it ended at')
  page.find('[data-name=fit]').click()
  page.wait(lambda: page.table('constants'), 'no law is shown')
  truth = np.array([[np.log(480), np.log(2100), np.log(1.8), 0.35, 0.37]])
  found = parametric.fit_law(read_csv(good, {'loss': 'what it ended at'}), starts=truth)
  table = page.table('constants')
  for name, shown in (('e', 'E'), ('a', 'A'), ('alpha', 'alpha'), ('b', 'B'), ('beta', 'beta')):
    value, low, high = map(float, re.split('[\n–]', table[shown][0]))
    assert value == pytest.approx(getattr(found.law, name), rel=1e-3)
    assert low < value < high
  page.choose('FLOPs')
  page.write('flops', '1e18')
  best, _ = found.law.optimum(1e18)
  size = lambda: page.table('predictions').get('fit', ['0'])[0].split('\n')[0]
  page.wait(lambda: 'Law: fit' in page.text('#gin') and float(
      size().replace(',', '')) * in_units(page)[0] == pytest.approx(best, rel=6e-3),
            'the plan does not follow the fit')


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone(page):
  width = 'return [document.documentElement.scrollWidth, window.innerWidth]'
  page.wait(lambda: page.text('#gin'), 'there is no plan')
  for size in ({'width': 390, 'height': 844, 'mobile': True},
               {'width': 1280, 'height': 900, 'mobile': False}):
    page.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                                 {'deviceScaleFactor': 1, **size})
    page.wait(lambda: page.browser.execute_script('return innerWidth') == size['width'], 'size')
    wide, screen = page.browser.execute_script(width)
    assert wide <= screen
    # The answer is in sight, wherever on the page a phone is.
    page.browser.execute_script('scrollTo(0, 1200)')
    box = page.find('#answer').rect if size['mobile'] else None
    assert page.find('#answer').is_displayed() == size['mobile']
    if size['mobile']:
      top = page.browser.execute_script('return document.getElementById("answer")'
                                        '.getBoundingClientRect().top')
      assert top == 0 and 'parameters' in page.text('#answer') and box['height'] < 100
    # Nor is anything cut off at the edge: what is wide scrolls in a box of its own.
    assert page.browser.execute_script(
        'return [...document.querySelectorAll(".box, .box h2, .tile, img, button, input")]'
        '.filter(e => e.getBoundingClientRect().right > innerWidth).length') == 0


@pytest.mark.slow
def test_no_other_host_is_asked(page):
  """Of all that the page has done so far."""
  page.wait(lambda: page.text('#gin'), 'there is no plan')
  asked = set()
  for entry in page.browser.get_log('performance'):
    message = json.loads(entry['message'])['message']
    if message['method'] == 'Network.requestWillBeSent':
      asked.add(message['params']['request']['url'])
    elif message['method'] == 'Network.webSocketCreated':
      asked.add(message['params']['url'])
  hosts = {urllib.parse.urlsplit(url).hostname for url in asked
           if urllib.parse.urlsplit(url).scheme in ('http', 'https', 'ws', 'wss')}
  assert hosts and hosts <= LOCAL
  severe = [entry['message'] for entry in page.browser.get_log('browser')
            if entry['level'] == 'SEVERE']
  assert not severe


@pytest.mark.slow
def test_the_exported_calculator_has_the_planners_numbers(browser, tmp_path):
  """Leaves the page; run last."""
  file = tmp_path / 'page.html'
  assert cli.main(['scaling', 'app', f'--export={file}']) == 0
  shown = Page(browser)
  chip = hardware.find_chip('a100_80')
  for query, given in ((dict(flops='5.76e23'), dict(flops=5.76e23)),
                       (dict(budget='dollars', dollars='500', price='2', hardware='a100_80'),
                        dict(flops=250 * 3600 * chip.flops * MFU)),
                       (dict(budget='chips', hours='2d', mfu='30%'),
                        dict(chips=8, hours=48, mfu=0.3))):
    browser.get('about:blank')
    browser.get(f'{file.as_uri()}#{urllib.parse.urlencode(query)}')
    _, known, found = planner.predict_request(Request(**given))
    table = shown.table('laws')
    assert list(table) == list(known)
    letters = {'M': 1e6, 'B': 1e9, 'T': 1e12}
    for prediction in found:
      size, tokens, ratio, loss, outside = table[prediction.law]
      for text, value in ((size, prediction.parameters), (tokens, prediction.tokens)):
        assert float(text[:-1]) * letters[text[-1]] == pytest.approx(value, rel=6e-3)
      assert float(ratio) == pytest.approx(prediction.tokens / prediction.parameters, rel=6e-3)
      assert loss == ('-' if prediction.loss is None else f'{prediction.loss:.3f}')
      factor = prediction.extrapolation
      if factor is None or factor <= 1:
        assert outside == ('?' if factor is None else 'no')
      else:
        assert float(outside.removesuffix(' times')) == pytest.approx(factor, rel=6e-3)
  for query, text in (
      ('flops=many', 'Training FLOPs: "many" is not a number above 0, plain or with k, m, b, t'),
      ('chips=0.3', 'Chips: "0.3" is not a whole number above 0, plain or with k, m, b, t'),
      ('mfu=40', 'MFU, of the peak: "40" is not a number above 0, up to 1, plain or with %'),
      ('budget=chips&hours=2y', 'Time: "2y" is not a number above 0, plain or with h, m, d, w')):
    browser.get('about:blank')
    browser.get(f'{file.as_uri()}#{query}')
    assert shown.text('#answer') == text
  browser.get('about:blank')   # the price and the hours are those of the chip of the link
  browser.get(f'{file.as_uri()}#flops=1e21&hardware=tpu_v5p&chips=1')
  chip = hardware.find_chip('tpu_v5p')
  estimate = 1e21 / chip.flops / MFU / 3600
  low, high = utilisation_range(LAWS[LAW].form.optimum(1e21)[0], chip.name, False).around(
      estimate, 1e21, chip)
  days = lambda hours: f'{float(f"{hours / 24:.3g}"):g} days, ${round(hours * chip.price):,}'
  assert days(estimate) in shown.text('#answer')
  assert f'{days(low)} to {days(high)},' in shown.text('#range')
  assert (chip.stale() is not None) == (f'is of {chip.price_date}' in shown.text('#warnings'))
  assert not [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']

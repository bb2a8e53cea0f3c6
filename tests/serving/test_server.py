"""The server under OpenAI's own client, under load, and under clients that behave badly."""

import concurrent.futures
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest

from t5x_lite import cli

pytestmark = pytest.mark.slow
KEY = 'a-key'
SLOTS = 4
SETTINGS = [dict(temperature=0), dict(temperature=1.0, seed=1), dict(temperature=0.7, top_p=0.9,
            seed=2), dict(temperature=1.0, seed=3, frequency_penalty=1.0),
            dict(temperature=1.0, seed=4, n=2)]


def start(run, *flags):
  """(process, port) of a server on a free port."""
  process = subprocess.Popen(
      [sys.executable, '-m', 't5x_lite', 'serve', str(run), '--port=0', f'--slots={SLOTS}', *flags],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env=os.environ | {'T5X_LITE_API_KEY': KEY, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''})
  for line in process.stdout:
    if found := re.search(r'Serving http://127\.0\.0\.1:(\d+)/v1', line):
      return process, int(found[1])
  raise AssertionError(process.stderr.read())


@pytest.fixture(scope='module')
def port(chat_run):
  process, port = start(
      chat_run / 'run', f'--gin.Experiment.adapters={{"lora": "{chat_run}/lora"}}', '--queue=100')
  yield port
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0 and not err
  assert 'every request that was taken has been answered' in out


@pytest.fixture(scope='module')
def client(port):
  return openai.OpenAI(base_url=f'http://127.0.0.1:{port}/v1', api_key=KEY, max_retries=0)


def complete(client, prompt, **settings):
  fields = {'model': 'run', 'max_tokens': 12} | settings
  return client.completions.create(prompt=prompt, **fields)


def ask(client, text, **settings):
  fields = {'model': 'run', 'max_tokens': 12} | settings
  return client.chat.completions.create(messages=[{'role': 'user', 'content': text}], **fields)


def test_models_are_the_base_and_its_adapters(client):
  assert [model.id for model in client.models.list()] == ['run', 'lora']
  assert client.models.retrieve('lora').id == 'lora'
  with pytest.raises(openai.NotFoundError, match="no model 'lor'"):
    client.models.retrieve('lor')


def test_a_conversation_is_answered_as_infer_answers_it(client, chat_run, capsys):
  for model, flags in (('run', []), ('lora', [
      f'--gin.Experiment.adapters={{"lora": "{chat_run}/lora"}}',
      '--gin.Experiment.adapter="lora"'])):
    assert cli.main(['infer', f'--gin_file={chat_run}/run/config.gin', '--prompt=3 and 3?',
                     '--gin.InferConfig.max_tokens=12', *flags]) == 0
    answer = ask(client, '3 and 3?', model=model, temperature=0)
    assert answer.choices[0].message.content + '\n' == capsys.readouterr().out
    assert answer.choices[0].message.role == 'assistant' and answer.model == model
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
  system = client.chat.completions.create(model='run', temperature=0, max_tokens=12, messages=[
      {'role': 'developer', 'content': 'Be brief.'},
      {'role': 'user', 'content': [{'type': 'text', 'text': '3 and 3?'}]}])
  assert system.choices[0].message.content == 'no' and system.choices[0].finish_reason == 'stop'
  assert system.usage.completion_tokens == 3   # with the token that ends it


def test_a_stream_says_what_the_whole_answer_says(client):
  for settings in SETTINGS:
    whole = ask(client, '2 and 2?', logprobs=True, top_logprobs=3, **settings)
    texts, tokens, ends = {}, {}, {}
    stream = ask(client, '2 and 2?', logprobs=True, top_logprobs=3, stream=True,
                 stream_options={'include_usage': True}, **settings)
    for event in stream:
      assert event.usage is None or not event.choices and event.usage == whole.usage
      for choice in event.choices:
        texts[choice.index] = texts.get(choice.index, '') + (choice.delta.content or '')
        if choice.logprobs:
          tokens.setdefault(choice.index, []).extend(choice.logprobs.content)
        assert choice.index not in ends
        if choice.finish_reason:
          ends[choice.index] = choice.finish_reason
    assert event.usage == whole.usage   # the last event
    for choice in whole.choices:
      assert texts[choice.index] == choice.message.content
      assert tokens.get(choice.index, []) == choice.logprobs.content
      assert ends[choice.index] == choice.finish_reason


def test_logprobs_are_those_of_the_text(client):
  choice = complete(client, '1 and', temperature=0, logprobs=4, max_tokens=6).choices[0]
  found = choice.logprobs
  assert ''.join(found.tokens) == choice.text and len(found.tokens) == len(found.token_logprobs)
  assert found.text_offset == [len(''.join(found.tokens[:n])) for n in range(len(found.tokens))]
  for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs):
    assert len(top) == 4 and top[token] == max(top.values()) == pytest.approx(logprob, abs=1e-5)
  assert complete(client, '1 and', temperature=0).choices[0].logprobs is None


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client):
  text = complete(client, '1 and', temperature=0, max_tokens=40,
                  logit_bias={'1': -100}).choices[0].text
  stop = text[5:8]
  cut = complete(client, '1 and', temperature=0, max_tokens=40, stop=[stop, 'never'], logprobs=0,
                 logit_bias={'1': -100}).choices[0]
  assert cut.text == text[:text.index(stop)] and cut.finish_reason == 'stop'
  assert ''.join(cut.logprobs.tokens) == cut.text
  stream = complete(client, '1 and', temperature=0, max_tokens=40, stop=stop, stream=True,
                    logit_bias={'1': -100})
  assert ''.join(event.choices[0].text for event in stream) == cut.text


def test_prompts_samples_and_seeds(client):
  several = complete(client, ['1 and', '2 and', [60, 70]], temperature=3.0, seed=7, n=2)
  assert [choice.index for choice in several.choices] == list(range(6))
  texts = [choice.text for choice in several.choices]
  alone = [choice.text for prompt in ('1 and', '2 and', [60, 70])
           for choice in complete(client, prompt, temperature=3.0, seed=7, n=2).choices]
  assert texts == alone and texts[0] != texts[1]
  draws = {complete(client, '1 and', temperature=3.0).choices[0].text for _ in range(3)}
  assert len(draws) == 3   # without a seed


SCHEMA = {'type': 'object', 'properties': {'n': {'type': 'integer'}, 'odd': {'type': 'boolean'}},
          'required': ['n', 'odd'], 'additionalProperties': False}


def test_answers_are_held_to_what_is_asked(client):
  form = {'type': 'json_schema', 'json_schema': {'name': 'number', 'strict': True,
                                                 'schema': SCHEMA}}
  free = ask(client, '1 and 1?', temperature=1.0, seed=2).choices[0].message.content
  for seed in range(5):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:   # beside others, held and free
      held = [pool.submit(ask, client, '1 and 1?', temperature=1.0, seed=seed, max_tokens=100,
                          response_format=form),
              pool.submit(ask, client, '1 and 1?', temperature=1.0, seed=seed, model='lora',
                          extra_body={'structured_outputs': {'regex': '[ab]{4}c?'}}),
              pool.submit(ask, client, '1 and 1?', temperature=1.0, seed=seed, extra_body={
                  'structured_outputs': {'choice': ['left', 'right [1]']}}),
              pool.submit(ask, client, '1 and 1?', temperature=1.0, seed=2)]
    texts = [one.result().choices[0].message.content for one in held]
    ends = [one.result().choices[0].finish_reason for one in held]
    if ends[0] == 'stop':   # an integer may go on to the limit
      found = json.loads(texts[0])
      assert type(found['n']) is int and type(found['odd']) is bool and len(found) == 2
    assert re.fullmatch('[ab]{4}c?', texts[1]) and texts[2] in ('left', 'right [1]')
    assert ends[1:3] == ['stop', 'stop'] and texts[3] == free


def test_answers_under_load_are_those_of_the_same_request_alone(client):
  """More clients than slots, with all settings, two models, streams and wholes."""
  def answer(n):
    settings = SETTINGS[n % len(SETTINGS)]
    model, text = ('run', 'lora')[n % 2], f'{n % 7} and {n % 7}?'
    if n % 3:
      return [c.message.content for c in ask(client, text, model=model, **settings).choices]
    texts = [''] * settings.get('n', 1)
    for event in ask(client, text, model=model, stream=True, **settings):
      for choice in event.choices:
        texts[choice.index] += choice.delta.content or ''
    return texts

  number = 70
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    together = list(pool.map(answer, range(number)))
  assert together == [answer(n) for n in range(number)]
  assert len({str(texts) for texts in together}) > 10


def metric(port, name):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
  connection.request('GET', '/metrics')
  text = connection.getresponse().read().decode()
  return float(re.search(rf'^{name} (.*)$', text, re.M)[1])


def post(port, body, path='/v1/completions', **headers):
  """(status, body, seconds) of a request by hand."""
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
  began = time.monotonic()
  connection.request('POST', path, body, {
      'Content-Type': 'application/json', 'Authorization': f'Bearer {KEY}'} | headers)
  response = connection.getresponse()
  text = response.read().decode()
  return response.status, json.loads(text) if text else None, time.monotonic() - began


def test_clients_that_leave_free_their_slots(port, client):
  long = json.dumps({'model': 'run', 'prompt': 'x', 'max_tokens': 200, 'temperature': 1,
                     'stream': True, 'logit_bias': {'1': -100}})
  head = (f'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n'
          f'Content-Type: application/json\r\nContent-Length: {len(long)}\r\n\r\n')
  whole = long.replace('true', 'false')
  for n in range(100):
    with socket.create_connection(('127.0.0.1', port)) as connection:
      if n % 3 == 2:   # which asks for the whole answer
        connection.sendall(head.replace(str(len(long)), str(len(whole))).encode() + whole.encode())
      else:
        connection.sendall((head + long).encode())
        if n % 3:
          connection.recv(300)   # in mid-stream
  until = time.monotonic() + 60
  while metric(port, 't5x_lite_running_slots') or metric(port, 't5x_lite_queued_requests'):
    assert time.monotonic() < until
    time.sleep(0.05)
  assert ask(client, '1 and 1?', temperature=0).choices[0].message.content


FORM = 'response_format'
HELD = 'structured_outputs'
NESTED = {'type': 'integer'}
for _ in range(400):
  NESTED = {'type': 'array', 'items': NESTED}
WRONG_STRUCTURES = [
    ({HELD: {'json': NESTED}}, 'nested too deeply: flatten it'),
    ({FORM: {'type': 'json_object'}}, '"type": "json_schema"'), ({HELD: {}}, 'with one of json'),
    ({HELD: {'regex': 'a', 'choice': ['b']}}, 'with one of json'), ({HELD: 3}, 'with one of json'),
    ({HELD: {'regex': 3}}, 'structured_outputs.regex: 3 is not a string'),
    ({HELD: {'regex': '(?=a)b'}}, 'cannot be followed'), ({HELD: {'choice': []}}, 'one or more'),
    ({HELD: {'json': {'type': 'object', 'if': {}}}}, 'if'),
    ({HELD: {'regex': '(a|b)*a(a|b){30}'}}, 'simplify it'),
    ({HELD: {'regex': r'(\w{400}){20}'}}, 'simplify it'),
    ({HELD: {'regex': 'a'}, FORM: {'type': 'json_schema', 'json_schema': {'schema': {
        'type': 'integer'}}}}, 'give one')]


@pytest.mark.parametrize('body, words', WRONG_STRUCTURES)
def test_a_structure_that_cannot_be_met_is_refused(port, body, words):
  status, answer, _ = post(port, json.dumps({'model': 'run', 'prompt': 'a'} | body))
  assert status == 400 and words in answer['error']['message'], answer
  assert '\n' not in answer['error']['message']


WRONG = [
    (b'{"model": ', 400, 'not JSON'), (b'[]', 400, 'must be a JSON object'), (b'\xff', 400, ''),
    (b'{"prompt": "a", "temperature": NaN}', 400, 'NaN is not JSON'),
    (b'[' * 100_000, 400, 'not JSON'),
    ({'prompt': 'a', 'model': 'x'}, 404, "no model 'x'"), ({}, 400, 'prompt: a string'),
    ({'prompt': []}, 400, 'prompt: a string'), ({'prompt': [1, 2 ** 40]}, 400, 'no id'),
    ({'prompt': [True]}, 400, 'prompt: a string'), ({'prompt': '\ud800'}, 400, 'surrogate'),
    ({'prompt': 'a', 'temperature': 'hot'}, 400, "temperature: 'hot' is not an integer or a num"),
    ({'prompt': 'a', 'temperature': -1}, 400, 'temperature: -1.0: '),
    ({'prompt': 'a', 'temperature': 1e999}, 400, 'not JSON'),
    ({'prompt': 'a', 'top_p': 1.5}, 400, 'top_p: 1.5: '), ({'prompt': 'a', 'n': 5}, 400, 'n: 5 is'),
    ({'prompt': 'a', 'seed': -1}, 400, 'seed'), ({'prompt': 'a', 'stop': ['']}, 400, 'stop'),
    ({'prompt': 'a', 'min_tokens': 99}, 400, 'min_tokens: 99: is more than max_new_tokens'),
    ({'prompt': 'a', 'max_tokens': 0}, 400, 'max_tokens: 0 is not from 1'),
    ({'prompt': 'a', 'max_tokens': 2 ** 20}, 400, 'more than the context of 256'),
    ({'prompt': 'a' * 300}, 400, 'the prompt has'), ({'prompt': 'a' * 900_000}, 400, 'at least'),
    ({'prompt': 'a' * (2 ** 20)}, 413, 'more than 1048576 bytes'),
    ({'prompt': 'a', 'logit_bias': {'999999': 1}}, 400, 'ids below'),
    ({'prompt': 'a', 'logit_bias': {'b': 1}}, 400, 'names are ids'),
    ({'prompt': 'a', 'logprobs': 21}, 400, 'logprobs: 21 is not from 0 to 20'),
    ({'prompt': 'a', 'echo': True}, 400, 'echo: True is not supported'),
    ({'prompt': 'a', '\ud800': 1}, 400, '\\ud800: not a parameter'),
    ({'prompt': 'a', 'temprature': 1}, 400, "did you mean 'temperature'?"),
    ({'prompt': 'a', 'stream_options': {'include_usage': True}}, 400, 'only where stream')]


@pytest.mark.parametrize('body, status, words', WRONG)
def test_what_is_malformed_or_too_large_is_refused_at_once(port, body, status, words):
  body = body if isinstance(body, bytes) else json.dumps({'model': 'run'} | body).encode()
  got, answer, seconds = min((post(port, body) for _ in range(3)), key=lambda x: x[2])
  assert got == status and words in answer['error']['message'], answer
  assert '\n' not in answer['error']['message'] and seconds < 0.1


def test_keys_types_paths_and_messages(port):
  body = json.dumps({'model': 'run', 'prompt': 'a'})
  assert post(port, body, Authorization='Bearer b')[0] == 401
  assert post(port, body, Authorization='')[:1] == (401,)
  assert post(port, body, Authorization=f'bearer {KEY}')[0] == 200   # RFC 9110: in any case
  assert post(port, body, **{'Content-Type': 'text/plain'})[0] == 415
  assert post(port, body, path='/v1/nothing')[0] == 404
  assert post(port, body, path='/v1/models')[0] == 405
  chat = lambda messages: post(port, json.dumps({'model': 'run', 'messages': messages}),
                               path='/v1/chat/completions')
  for messages, words in (
      ([], 'messages: is empty'), (['a'], "messages[0]: 'a' is not an object"),
      ([{'role': 'user'}], 'content: a string'), ([{'content': 'a'}], 'role: None: choose from'),
      ([{'role': 'king', 'content': 'a'}], "role: 'king': choose from system, "),
      ([{'role': 'user', 'content': [{'type': 'image_url'}]}], 'no images'),
      ([{'role': 'user', 'content': 'a', 'audio': 1}], 'messages[0].audio: not supported'),
      ([{'role': 'user', 'content': 'a' * 10_000}], 'longer than the 256 tokens'),
      ([{'role': 'user', 'content': 'a' * 255}], 'more than the context of 256')):
    status, answer, _ = chat(messages)
    assert status == 400 and words in answer['error']['message'], answer


def test_a_queue_that_is_full_is_said_and_sigterm_drains(chat_run):
  process, port = start(chat_run / 'run', '--queue=3')
  client = openai.OpenAI(base_url=f'http://127.0.0.1:{port}/v1', api_key=KEY, max_retries=0)
  long = dict(max_tokens=200, temperature=1.0, logit_bias={'1': -100})

  def answer(n):
    try:
      return complete(client, 'x', seed=n, **long)
    except openai.InternalServerError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(20) as pool:
    answers = list(pool.map(answer, range(20)))
    refused = [one for one in answers if isinstance(one, Exception)]
    assert 0 < len(refused) < 20
    assert all(error.status_code == 503 and 'wait already' in str(error) and
               error.response.headers['retry-after'] == '1' for error in refused)
    # In mid-stream and in the queue when the signal comes.
    streams = [complete(client, 'x', seed=n, stream=True, **long) for n in range(SLOTS + 2)]
    begun = [next(iter(stream)) for stream in streams[:1]]
    process.send_signal(signal.SIGTERM)
    read = lambda stream: ''.join(event.choices[0].text for event in stream)
    texts = list(pool.map(read, streams))
  texts[0] = begun[0].choices[0].text + texts[0]
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0 and not err
  done = {n: one.choices[0].text for n, one in enumerate(answers) if not isinstance(one, Exception)}
  assert [texts[n] for n in done if n < len(texts)] == [done[n] for n in done if n < len(texts)]
  assert all(len(text) > 20 for text in texts)
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(('127.0.0.1', port), timeout=5)


def test_what_cannot_be_served_is_one_line(chat_run, tmp_path, capsys):
  run = str(chat_run / 'run')
  (tmp_path / 'key').write_text('two words\n')
  with socket.create_server(('127.0.0.1', 0)) as taken:
    for flags, words in (
        (['nowhere'], 'nowhere is no run'), ([run, '--port=70000'], 'give from 0 to 65535'),
        ([run, '--slots=0'], '--slots=0: give from 1'),
        ([run, f'--key_file={tmp_path}/key'], 'holds no key'),
        ([run, f'--key_file={tmp_path}/none'], 'none'),
        ([run, f'--port={taken.getsockname()[1]}'], 'Address already in use'),
        ([run, '--port=0', '--context=1'], '--context=1'),
        ([run, '--port=0', f'--gin.Experiment.adapters={{"run": "{chat_run}/lora"}}'],
         'has the name of the base')):
      assert cli.main(['serve', *flags]) == 1
      err = capsys.readouterr().err
      assert err.startswith('error: ') and err.count('\n') == 1 and words in err


@pytest.fixture
def browser(tmp_path):
  webdriver = pytest.importorskip('selenium.webdriver')
  chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
  if not (chromium and driver):
    pytest.skip('there is no chromium with chromedriver on this machine')
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic',
               '--disable-background-networking', f'--user-data-dir={tmp_path}'):
    options.add_argument(flag)
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
  yield browser
  browser.quit()


def test_the_page_shows_what_the_api_answers(port, client, browser):
  from selenium.webdriver.support.ui import Select, WebDriverWait
  browser.get(f'http://127.0.0.1:{port}/')
  find = lambda name: browser.find_element('id', name)
  wait = lambda condition: WebDriverWait(browser, 60).until(lambda _: condition())
  wait(lambda: 'the key is missing or wrong' in find('status').text)
  find('key').send_keys(KEY + '\t')
  wait(lambda: [option.text for option in Select(find('model')).options] == ['run', 'lora'])
  assert Select(find('mode')).first_selected_option.text == 'a message'
  find('temperature').clear()
  find('temperature').send_keys('0')

  def write(prompt):
    find('prompt').clear()
    find('prompt').send_keys(prompt)
    find('run').click()
    wait(lambda: find('run').is_enabled() and ' in ' in find('status').text)
    return find('output').get_attribute('textContent')

  told = dict(model='run', temperature=0, max_tokens=100)
  assert write('3 and 3?') == ask(client, '3 and 3?', **told).choices[0].message.content
  find('system').send_keys('Be brief.')
  assert write('3 and 3?') == 'no' and '2 tokens in' in find('status').text
  Select(find('mode')).select_by_value('text')
  find('max_tokens').clear()
  find('max_tokens').send_keys('6')
  shown = write('1 and')
  top = complete(client, '1 and', temperature=0, max_tokens=6, logprobs=5).choices[0]
  assert shown == top.text
  browser.find_elements('css selector', '.token')[0].click()   # which gives it the focus
  browser.execute_script("document.querySelector('.token').focus()")
  lines = [row.text for row in browser.find_elements('css selector', '#tip tr')]
  likely = max(top.logprobs.top_logprobs[0].values())
  assert len(lines) == 5 and lines[0].startswith('▸')
  assert lines[0].endswith(f'{100 * math.exp(likely):.2f} %')
  find('max_tokens').clear()
  find('max_tokens').send_keys('100000')
  find('run').click()
  wait(lambda: 'more than the context of 256' in find('status').text)
  find('max_tokens').clear()
  find('max_tokens').send_keys('100')
  find('prompt').send_keys('\ue009\ue007\ue007')   # Control and Enter, twice: one is written
  wait(lambda: find('run').is_enabled() and ' in ' in find('status').text)
  told['max_tokens'] = 100
  assert find('output').get_attribute('textContent') == complete(client, '1 and', **told).choices[
      0].text
  errors = [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE'
            and 'status of 4' not in entry['message'] and 'favicon' not in entry['message']]
  assert not errors, errors

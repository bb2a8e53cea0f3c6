"""Verdicts of a scripted endpoint: both orders, ties, garbage, failures, and a log that goes on."""

import http.server
import json
import threading
import time

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.evaluation import chat_client, judge
from t5x_lite.evaluation.judge import Pair, Summary, Verdict


class Endpoint(http.server.ThreadingHTTPServer):
  """Answers a request as `reply(prompt, times this was asked)` says: text, or (status, body)."""
  daemon_threads = True

  def __init__(self):
    self.reply, self.requests, self.headers, self.now, self.most = None, [], [], 0, 0
    self.lock = threading.Lock()
    super().__init__(('127.0.0.1', 0), _Handler)
    threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}/v1'


class _Handler(http.server.BaseHTTPRequestHandler):

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    server, prompt = self.server, body['messages'][0]['content']
    with server.lock:
      times = sum(p == prompt for p in server.requests)
      server.requests.append(prompt)
      server.headers.append((self.path, self.headers['Authorization'], body))
      server.now += 1
      server.most = max(server.most, server.now)
    reply = server.reply(prompt, times)
    status, content = reply if isinstance(reply, tuple) else (
        200, {'choices': [{'message': {'role': 'assistant', 'content': reply}}]})
    with server.lock:
      server.now -= 1
    data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    try:
      self.send_response(status)
      if status == 302:
        self.send_header('Location', 'http://127.0.0.1:9/stolen')
      self.send_header('Retry-After', '0')
      self.send_header('Content-Length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)
    except OSError:   # a client that no longer waits
      pass

  def log_message(self, *args):
    pass


@pytest.fixture
def endpoint(monkeypatch):
  monkeypatch.setattr(time, 'sleep', lambda seconds: None)   # between two tries
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  server = Endpoint()
  yield server
  server.shutdown()
  server.server_close()


def write_outputs(folder, number: int):
  """Outputs of two models, that name themselves: 'P3 by base'."""
  for name in ('base', 'tuned'):
    (folder / f'{name}.jsonl').write_text(''.join(
        json.dumps({'inputs': f'P{i}?', 'output': f'P{i} by {name}'}) + '\n'
        for i in range(number)))
  return [str(folder / 'base.jsonl'), str(folder / 'tuned.jsonl')]


def run_judge(endpoint, folder, capsys, *flags, number=6):
  """(status, lines of the log, stdout, stderr)."""
  files = write_outputs(folder, number)
  status = cli.main(['judge', *files, f'--url={endpoint.url}', '--model=j',
                     f'--output={folder}/log.jsonl', *flags])
  out, err = capsys.readouterr()
  log = folder / 'log.jsonl'
  lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
  return status, lines, out, err


def shown(prompt: str) -> tuple[int, str]:
  """(number of the pair, the model whose answer is A) of a prompt."""
  first = prompt.split('<answer A>\n')[1].split('\n')[0]
  return int(first[1]), first.rsplit(' ', 1)[1]


def test_verdicts_of_both_orders_a_split_a_tie_and_garbage(endpoint, tmp_path, capsys):
  def reply(prompt, times):
    number, first = shown(prompt)
    prefers = {0: 'base', 1: 'tuned', 2: 'tie', 4: 'tuned'}
    if number == 3:
      return 'The first.\n\n[[A]]'    # whichever that is
    if number == 5:
      return 'I like [[A]] and [[B]].'
    if number == 4 and times == 0:
      return 'A is better'            # is asked once more
    want = prefers[number]
    return 'tie' if want == 'tie' else 'Reasons.\n[[A]]' if want == first else 'B'

  endpoint.reply = reply
  status, lines, out, err = run_judge(endpoint, tmp_path, capsys, '--json', '--concurrency=3')
  assert status == 0 and not err
  assert all((line['a'], line['b']) == ('base', 'tuned') for line in lines)
  verdicts = {(line['prompt'], line['swapped']): line['winner'] for line in lines}
  assert len(lines) == len(verdicts) == 12
  assert verdicts == {
      (0, False): 'a', (0, True): 'a', (1, False): 'b', (1, True): 'b', (2, False): 'tie',
      (2, True): 'tie', (3, False): 'a', (3, True): 'b', (4, False): 'b', (4, True): 'b',
      (5, False): 'unparsed', (5, True): 'unparsed'}
  assert json.loads(out) == {
      'a': 1, 'b': 2, 'tie': 1, 'split': 1, 'unparsed': 1, 'unfinished': 0, 'first': 5, 'second': 3,
      'win_rate': (1 + 2 / 2) / 5, 'names': ['base', 'tuned']}
  assert len(endpoint.requests) == 12 + 2 + 2   # pairs 4 and 5 again, in each order
  assert endpoint.most <= 3
  path, key, body = endpoint.headers[0]
  assert (path, key, body['model'], body['temperature']) == ('/v1/chat/completions', None, 'j', 0)
  status, again, out, _ = run_judge(endpoint, tmp_path, capsys)   # nothing is left to ask
  assert again == lines and len(endpoint.requests) == 16
  assert 'base wins 1, tuned wins 2, ties 1 of 5 pairs; win rate of base: 40.0%' in out
  assert 'position bias: 1 pairs had another winner in the other order' in out
  assert '1 pairs are left out: the judge gave no verdict' in out


def test_a_log_goes_on_after_a_failure_and_a_half_written_line(endpoint, tmp_path, capsys):
  endpoint.reply = lambda prompt, _: 'tie' if shown(prompt)[0] < 2 else (
      401, {'error': {'message': 'no such\nkey'}})
  status, lines, _, err = run_judge(endpoint, tmp_path, capsys, '--concurrency=1', number=4)
  assert (status, len(lines)) == (1, 4)
  assert err == f'error: {endpoint.url}: 401 Unauthorized: no such key\n'
  log = tmp_path / 'log.jsonl'
  log.write_text(log.read_text()[:-9])
  endpoint.reply = lambda *_: 'tie'
  before = len(endpoint.requests)
  status, lines, out, err = run_judge(endpoint, tmp_path, capsys, number=4)
  assert status == 0 and len(lines) == 8
  assert len({(line['prompt'], line['swapped']) for line in lines}) == 8
  assert len(endpoint.requests) - before == 5
  assert err.startswith('note: the last line of ') and 'is dropped' in err
  assert 'ties 4 of 4 pairs' in out


@pytest.mark.parametrize('failure, message', [
    ((429, {'error': {'message': 'slow down'}}), '429 Too Many Requests: slow down (3 tries)'),
    ((500, 'oops'), '500 Internal Server Error: oops (3 tries)'),
    ((503, ''), '503 Service Unavailable:  (3 tries)'),
])
def test_failures_that_may_pass_are_tried_again(failure, message, endpoint):
  client = chat_client.ChatClient(url=endpoint.url, model='j', tries=3)
  endpoint.reply = lambda _, times: 'B' if times == 2 else failure
  assert client('x') == 'B' and len(endpoint.requests) == 3
  endpoint.reply = lambda *_: failure
  with pytest.raises(UserError) as error:
    client('y')
  assert str(error.value) == f'{endpoint.url}: {message}' and len(endpoint.requests) == 6


@pytest.mark.parametrize('answer, message', [
    ((400, {'error': {'message': 'bad model'}}), '400 Bad Request: bad model'),
    ((302, ''), '302 Found'),
    ((200, '<html>'), "does not answer as OpenAI's API does ('<html>')"),
    ((200, {'choices': []}), "does not answer as OpenAI's API does"),
])
def test_other_failures_end_at_once(answer, message, endpoint):
  endpoint.reply = lambda *_: answer
  with pytest.raises(UserError) as error:
    chat_client.ChatClient(url=endpoint.url, model='j', key='secret')('x')
  assert message in str(error.value) and 'secret' not in str(error.value)
  assert len(endpoint.requests) == 1


def test_waiting_ends_and_is_tried_again(endpoint):
  release = threading.Event()
  endpoint.reply = lambda _, times: 'A' if times else (release.wait(5), 'late')[1]
  began = time.monotonic()
  client = chat_client.ChatClient(url=endpoint.url, model='j', timeout=0.2, tries=2)
  assert client('x') == 'A'
  assert 0.2 <= time.monotonic() - began < 3
  endpoint.reply = lambda *_: (release.wait(5), 'late')[1]
  with pytest.raises(UserError, match=r'no answer in 0.2 s \(2 tries\)'):
    client('y')
  release.set()


def test_the_key_is_sent_and_nothing_listens(endpoint, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('MY_KEY', 'k-1')
  endpoint.reply = lambda *_: 'A'
  assert run_judge(endpoint, tmp_path, capsys, '--key_env=MY_KEY', number=1)[0] == 0
  assert {key for _, key, _ in endpoint.headers} == {'Bearer k-1'}
  with pytest.raises(UserError, match=r'127.0.0.1:9/v1: cannot be asked: .* \(2 tries\)'):
    chat_client.ChatClient(url='http://127.0.0.1:9/v1', model='j', tries=2)('x')
  with pytest.raises(UserError, match='must begin with http'):
    chat_client.ChatClient(url='localhost:8000', model='j')
  assert 'k-1' not in repr(chat_client.ChatClient(url='http://x', model='j', key='k-1'))


@pytest.mark.parametrize('reply, verdict', [
    ('A', 'A'), (' B\n', 'B'), ('tie', 'tie'), ('Both fine.\n[[tie]]', 'tie'), ('[[A]]', 'A'),
    ('Because:\n\n  [[B]]  \n', 'B'), ('a', None), ('A.', None), ('A is better', None), ('', None),
    ('[[A]] is my verdict', None), ('My verdict: [[A]]', None), ('[[C]]', None), ('[[a]]', None),
    ('I say [[A]].\n[[B]]', None), ('[[A]]\nNo reasons.', None), ('[[A]][[A]]', None),
])
def test_a_verdict_is_parsed_to_the_letter(reply, verdict):
  assert judge.parse_verdict(reply) == verdict


def test_texts_are_put_in_once_and_in_both_orders():
  pair = Pair(0, 'What is {answer_a}?', 'one {prompt}', 'two')
  template = 'p {prompt} a {answer_a} b {answer_b} {other} {{x}}'
  assert judge.render_prompt(template, pair, False) == (
      'p What is {answer_a}? a one {prompt} b two {other} {{x}}')
  assert judge.render_prompt(template, pair, True).startswith('p What is {answer_a}? a two b one ')
  judge.check_template(judge.PROMPT, 'PROMPT')
  with pytest.raises(UserError, match='f.txt has no {prompt} and no {answer_b}: '):
    judge.check_template('{answer_a}', 'f.txt')


def test_pairs_are_of_equal_inputs(tmp_path):
  a, b = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
  line = lambda inputs, output: json.dumps({'inputs': inputs, 'output': output}) + '\n'
  a.write_text(line('x', '1') + line('y', '2') + '\n' + line('x', '3'))
  b.write_text(line('x', '4') + line('x', '5') + line('z', '6'))
  with pytest.raises(UserError, match="2 outputs have no partner .*/a.jsonl for 'y'"):
    judge.read_pairs(a, b)
  assert judge.read_pairs(a, b, matched_only=True) == (
      [Pair(0, 'x', '1', '4'), Pair(2, 'x', '3', '5')], 2)
  b.write_text(line('w', '1'))
  with pytest.raises(UserError, match='have no inputs in common'):
    judge.read_pairs(a, b, matched_only=True)
  for bad in ('{"inputs": "x"}', '[]', 'x', '{"inputs": "x", "output": 3}'):
    b.write_text(line('x', '1') + bad)
    with pytest.raises(UserError, match='b.jsonl:2 is no line with `inputs` and `output`'):
      judge.read_pairs(a, b)
  b.write_text('{"inputs": "x", "outputs": []}')
  with pytest.raises(UserError, match='b.jsonl:1 has several outputs'):
    judge.read_pairs(a, b)


def test_a_log_of_something_else_is_refused(tmp_path):
  log = judge.ComparisonLog(tmp_path / 'log.jsonl', 'x', 'y')
  pairs = [Pair(0, 'p', '1', '2')]
  settings = judge.settings_of('t', 'j', pairs)
  assert log.open(settings) == ([], False)
  log.append(Verdict(0, False, 'a'))
  log.append(Verdict(0, True, 'unparsed'))
  assert log.path.read_text().splitlines()[0] == (
      '{"a": "x", "b": "y", "winner": "a", "prompt": 0, "swapped": false}')
  assert log.open(settings) == ([(0, False, 'a'), (0, True, 'unparsed')], False)
  for name, other in (('model', judge.settings_of('t', 'k', pairs)),
                      ('prompt', judge.settings_of('u', 'j', pairs)),
                      ('outputs', judge.settings_of('t', 'j', [Pair(0, 'p', '1', '3')]))):
    with pytest.raises(UserError, match=f'was judged with another {name}: name another --output'):
      log.open(other)
  with pytest.raises(UserError, match='log.jsonl:1 is no verdict on x and z: it compares x with y'):
    judge.ComparisonLog(log.path, 'x', 'z').open(settings)
  log.path.write_text('{"a": "x", "b": "y", "winner": "x", "prompt": 0, "swapped": false}\n')
  with pytest.raises(UserError, match='its winner is none of a, b, tie, unparsed'):
    log.open(settings)
  log.settings_path.unlink()
  with pytest.raises(UserError, match='exists without log.settings.json'):
    log.open(settings)
  with pytest.raises(UserError, match="both models are called 'x'"):
    judge.ComparisonLog(log.path, 'x', 'x')


def test_a_summary_by_hand():
  verdicts = [Verdict(0, False, 'a'), Verdict(0, True, 'b'), Verdict(1, False, 'tie'),
              Verdict(1, True, 'b'), Verdict(2, False, 'b'), Verdict(3, False, 'a'),
              Verdict(3, True, 'unparsed')]
  found = judge.summarize(verdicts, 5)
  assert found == Summary(a=0, b=0, tie=0, split=2, unparsed=1, unfinished=2, first=4, second=1)
  assert found.win_rate == 0.5 and judge.summarize([], 0).win_rate is None
  assert '2 pairs are not judged yet' in judge.as_text(found, 'x', 'y')
  assert 'win rate of x: none' in judge.as_text(judge.summarize([], 0), 'x', 'y')


def test_another_prompt_and_other_names(endpoint, tmp_path, capsys):
  (tmp_path / 'prompt.txt').write_text('{prompt}|{answer_a}|{answer_b}')
  endpoint.reply = lambda prompt, _: 'A' if prompt.split('|')[1].endswith('base') else 'B'
  status, lines, out, _ = run_judge(
      endpoint, tmp_path, capsys, f'--prompt_file={tmp_path}/prompt.txt', '--names=x,y', number=2)
  assert status == 0 and {line['winner'] for line in lines} == {'a'}
  assert lines[0]['a'] == 'x' and 'x wins 2, y wins 0' in out
  for flag, message in (('--names=x', 'give two names'), ('--concurrency=0', 'give 1 or more'),
                        ('--names=x,z', 'it compares x with y')):
    status, _, _, err = run_judge(
        endpoint, tmp_path, capsys, flag, f'--prompt_file={tmp_path}/prompt.txt', number=2)
    assert status == 1 and message in err

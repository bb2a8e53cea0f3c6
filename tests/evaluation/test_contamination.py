"""Planted items are found, reworded ones as their longest unchanged run says, clean ones not."""

import gzip
import json
import math
import random
import statistics

import pytest

from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.data.files.texts import Text, TextStream
from t5x_lite.evaluation import contamination, results
from t5x_lite.evaluation.contamination import CONVENTIONS, Convention, Item, NgramIndex

WORDS = [f'{a}{b}' for a in ('bo', 'ta', 'ri', 'lu', 'ke', 'sha') for b in range(200)]


def sentence(rng: random.Random, size: int) -> list[str]:
  return rng.choices(WORDS, k=size)


def changed_every(words: list[str], k: int) -> list[str]:
  return ['zzz' if i % k == k - 1 else word for i, word in enumerate(words)]


def longest_common_run(a: list[str], b: list[str]) -> int:
  """By dynamic programming over all pairs, as no n-gram index does it."""
  best, before = 0, [0] * (len(b) + 1)
  for x in a:
    row = [0] * (len(b) + 1)
    for j, y in enumerate(b):
      if x == y:
        row[j + 1] = before[j] + 1
        best = max(best, row[j + 1])
    before = row
  return best


def dress(rng: random.Random, words: list[str]) -> str:
  """The same words in other letters, punctuation and white space."""
  spaces = [' ', ', ', '\n', ' \u2014 ', '! ', '  ', '\u00a0', '.\r\n']
  return ''.join(rng.choice([word, word.upper(), word.title()]) + rng.choice(spaces)
                 for word in words)


@pytest.fixture(scope='module')
def planted():
  """(items, {id: its form in the training text}, training documents)."""
  rng = random.Random(0)
  items = {i: sentence(rng, rng.randint(13, 40)) for i in range(200)}
  forms = dict(items)
  reworded = {i: sentence(rng, 40) for i in range(200, 240)}
  for i, words in reworded.items():
    how = i % 4
    if how == 0:      # a word changed every 7 to 25 words
      forms[i] = changed_every(words, 7 + 2 * ((i - 200) // 4))
    elif how == 1:    # the order of two parts changed
      cut = 8 + (i - 200) // 4
      words = reworded[i] = words[:2 * cut]
      forms[i] = words[cut:] + words[:cut]
    elif how == 2:    # a part left out
      forms[i] = words[:6 + (i - 200) // 4] + words[-(5 + (i - 200) // 4):]
    else:             # all in another order
      forms[i] = rng.sample(words, len(words))
  items |= reworded | {i: sentence(rng, 40) for i in range(240, 360)}
  documents = [sentence(rng, 50) + form + sentence(rng, 50) for form in forms.values()]
  rng.shuffle(documents)
  return items, forms, [dress(rng, words) for words in documents]


def test_planted_items_are_found_and_reworded_ones_as_the_limit_says(planted, tmp_path, capsys):
  items, forms, documents = planted
  score = lambda i: float(i % 3 == 0)
  result = results.TaskResult(task='made_up', shots=0, number=len(items), headline='acc',
                              metrics={'acc': results.Metric(0.5, None)}, step=7)
  path = results.write_result(tmp_path, result, [
      {'id': i, 'question': ' '.join(words), 'choices': ['yes', 'no'],
       'metrics': {'acc': score(i)}} for i, words in items.items()])
  with gzip.open(tmp_path / 'train.jsonl.gz', 'wt') as file:
    file.writelines(json.dumps({'text': text}) + '\n' for text in documents)
  assert cli.main(['contamination', str(path), f'--training={tmp_path}/*.jsonl.gz']) == 0
  shown = capsys.readouterr().out
  report = json.loads((tmp_path / 'contamination' / f'{path.stem}.json').read_text())
  assert results.find_results(tmp_path.parent) == []

  want = {i for i, form in forms.items() if longest_common_run(items[i], form) >= 13}
  assert set(range(200)) < want and 10 < len(want - set(range(200))) < 30
  assert {found['id'] for found in report['dirty']} == want
  assert all(found['share_ngrams'] == 1 for found in report['dirty'] if found['id'] < 200)
  assert (report['num_clean'], report['num_short'], report['short']) == (360 - len(want), 0, [])
  for found in report['dirty']:
    assert found['ngram'] in ' '.join(items[found['id']]) and len(found['ngram'].split()) == 13
    line = int(found['place'].rsplit(':', 1)[1])
    assert found['ngram'].split()[0] in documents[line - 1].lower()
  for part, chosen in (('all', items), ('clean', items.keys() - want), ('dirty', want)):
    values = [score(i) for i in chosen]
    got = report['scores']['acc'][part]
    assert got['number'] == len(values)
    assert got['mean'] == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert got['error'] == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
  assert f'{len(want)} of 360 items are dirty, {360 - len(want)} clean, 0 too short' in shown
  assert 'any of its 13-grams occurs' in shown and 'acc: all 0.3333' in shown


@pytest.mark.parametrize('text, words', [
    ('Hello, WORLD!\nThe\u00a0end', ['hello', 'world', 'the', 'end']),
    ('Stra\u00dfe \u201equoted\u201c caf\u00e9 cafe\u0301 \ufb01n', [
        'strasse', 'quoted', 'cafe', 'cafe', 'fin']),
    ("don't don\u2019t under_score 3.14", ['don', 't', 'don', 't', 'under', 'score', '3', '14']),
    ('\u6771\u4eac\u306f 2\u6708', ['\u6771', '\u4eac', '\u306f', '2', '\u6708']),
    ('\u041f\u0440\u0438\u0432\u0435\u0442', ['\u043f\u0440\u0438\u0432\u0435\u0442']),
    (' \u2014 !? ', []),
])
def test_words_are_compared_without_case_punctuation_and_accents(text, words):
  assert contamination.split_words(text) == words


def overlap_of(words: int, found: list[tuple[int, int]], n: int) -> contamination.Overlap:
  """Of an item of so many distinct words of which the training text has these ranges."""
  names = [f'w{i}' for i in range(words)]
  index = NgramIndex([Item('x', (' '.join(names),))], n)
  index.read(Text(str(i), ' '.join(names[a:b])) for i, (a, b) in enumerate(found))
  (overlap,) = index.overlaps()
  return overlap


def test_shares_by_hand_and_both_edges_of_the_published_thresholds():
  # 17 words are ten 8-grams; 14 of the words in a row are seven of them: PaLM's 70 %.
  assert overlap_of(17, [(0, 14)], 8)[1:4] == (10, 0.7, 14 / 17)
  assert overlap_of(17, [(0, 14)], 8).is_dirty(CONVENTIONS['palm'])
  assert not overlap_of(17, [(0, 13)], 8).is_dirty(CONVENTIONS['palm'])
  # 20 words, of which 16 in one run of 11-grams or more: Llama 2's 80 %.
  assert overlap_of(20, [(2, 18)], 11).share_words == 0.8
  assert overlap_of(20, [(2, 18)], 11).is_dirty(CONVENTIONS['llama2'])
  assert not overlap_of(20, [(2, 17)], 11).is_dirty(CONVENTIONS['llama2'])
  assert not overlap_of(20, [(0, 10), (10, 20)], 11).is_dirty(CONVENTIONS['llama2'])
  assert overlap_of(13, [(0, 13)], 13).is_dirty(CONVENTIONS['gpt3'])
  assert not overlap_of(30, [(0, 12), (12, 24)], 13).is_dirty(CONVENTIONS['gpt3'])
  assert overlap_of(12, [(0, 12)], 13) == ('x', 0, 0, 0, '', '')   # too short
  assert overlap_of(3, [(1, 2)], 1)[1:] == (3, 1 / 3, 1 / 3, 'w1', '0')


@pytest.mark.parametrize('n', [1, 2, 5])
def test_shares_equal_those_of_sets_of_tuples(n):
  rng = random.Random(n)
  texts = lambda number, size: [
      rng.choices('abcdef', k=rng.randint(0, size)) for _ in range(number)]
  training = texts(40, 9)
  items = [texts(rng.randint(1, 3), 12) for _ in range(60)]
  index = NgramIndex([Item(i, tuple(map(' '.join, item))) for i, item in enumerate(items)], n)
  index.read(Text(str(i), ' '.join(words)) for i, words in enumerate(training))
  grams = lambda words: [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
  known = {gram for words in training for gram in grams(words)}
  for item, overlap in zip(items, index.overlaps()):
    own = [gram for words in item for gram in grams(words)]
    covered = sum(any(tuple(words[j:j + n]) in known for j in range(max(i - n + 1, 0), i + 1)
                      if j + n <= len(words)) for words in item for i in range(len(words)))
    assert overlap.num_ngrams == len(own)
    assert overlap.share_ngrams == sum(gram in known for gram in own) / max(len(own), 1)
    assert overlap.share_words == covered / max(
        sum(len(words) for words in item if len(words) >= n), 1)
    found = [gram for gram in own if gram in known]
    assert overlap.ngram == (' '.join(found[0]) if found else '')
    if found:
      assert found[0] in grams(training[int(overlap.place)])


def test_no_ngram_goes_over_the_ends_of_texts_unless_these_go_on(tmp_path):
  words = [f'w{i}' for i in range(14)]
  index = lambda: NgramIndex([Item(0, (' '.join(words),)),
                              Item(1, (' '.join(words[:7]), ' '.join(words[7:])))], 13)
  apart = index()
  apart.read([Text('a', ' '.join(words[:7])), Text('b', ' '.join(words[7:]))])
  assert [o.ngram for o in apart.overlaps()] == ['', '']
  assert [o.num_ngrams for o in apart.overlaps()] == [2, 0]
  # The lines of a .txt file go on, blank ones and all; two files do not.
  (tmp_path / 'a.txt').write_text('other\n' + '\n\n'.join(words) + '\n')
  lines = index()
  lines.read(TextStream(f'{tmp_path}/a.txt', 'text', '--training'))
  assert [o.share_ngrams for o in lines.overlaps()] == [1, 0]
  assert lines.overlaps()[0].place.endswith('a.txt:26')   # where the first n-gram ends
  (tmp_path / 'b1.txt').write_text(' '.join(words[:7]))
  (tmp_path / 'b2.txt').write_text(' '.join(words[7:]))
  files = index()
  files.read(TextStream(f'{tmp_path}/b*.txt', 'text', '--training'))
  assert not any(o.ngram for o in files.overlaps())
  assert (files.num_texts, files.num_words) == (2, 14)


def test_items_name_their_fields_and_numbers():
  record = {'question': 'a b', 'choices': {'text': ['c', 'd e'], 'label': ['A', 'B']}, 'n': 3}
  (item,) = contamination.make_items([record], None, 'x.jsonl')
  assert item == (0, ('a b', 'c', 'd e', 'A', 'B'))
  assert contamination.make_items([record | {'id': 'q7'}], ['question'], '')[0] == ('q7', ('a b',))
  with pytest.raises(UserError, match="x.jsonl: item 0 has no field 'stem': .* question, choices"):
    contamination.make_items([record], ['stem'], 'x.jsonl')
  with pytest.raises(UserError, match='x.jsonl has no items'):
    contamination.make_items([], None, 'x.jsonl')
  with pytest.raises(UserError, match='item 0 has no text in question, choices, target'):
    contamination.make_items([{'a': 'b'}], None, 'x.jsonl')


def test_a_score_of_no_or_one_item_has_no_error():
  assert contamination.score_of([]) == (None, None, 0)
  assert contamination.score_of([0.25]) == (0.25, None, 1)


def test_short_items_are_counted_apart_and_named(tmp_path, capsys):
  (tmp_path / 'items.jsonl').write_text(
      '{"id": "long", "question": "a b c d", "metrics": {"acc": 1}}\n'
      '{"id": "short", "question": "a b", "metrics": {"acc": 0}}\n')
  (tmp_path / 'train.csv').write_text('title,body\nx,"A, B\nC"\n')
  argv = ['contamination', f'{tmp_path}/items.jsonl', f'--training={tmp_path}/train.csv',
          '--training_field={body} {title}', f'--output={tmp_path}/out.json', '--json']
  assert cli.main([*argv, '--n=3']) == 0
  report = json.loads(capsys.readouterr().out)
  assert report == json.loads((tmp_path / 'out.json').read_text())
  assert report['short'] == ['short'] and report['training']['words'] == 4
  assert [found['ngram'] for found in report['dirty']] == ['a b c']
  assert {part: score['number'] for part, score in report['scores']['acc'].items()} == {
      'all': 2, 'clean': 0, 'dirty': 1, 'short': 1}
  assert cli.main([*argv, '--n=3', '--rule=ngrams', '--threshold=0.6']) == 0
  assert json.loads(capsys.readouterr().out)['num_clean'] == 1   # one of two 3-grams


@pytest.mark.parametrize('flags, message', [
    (['--n=0'], '--n=0: give 1 or more'),
    (['--rule=most'], "Convention.rule = 'most'"),
    (['--threshold=0.5'], '--threshold is of the rules ngrams and words'),
    (['--convention=palm', '--threshold=1.5'],
     '--threshold=1.5: give a share above 0 and at most 1'),
    (['--fields=stem'], "items.jsonl: item 0 has no field 'stem'"),
    (['--training=none/*.txt'], "--training: no file matches 'none/*.txt'"),
    (['--gin_file=experiments/tiny_lm.gin'], 'files by --training, or a run by --gin_file'),
    (['--training_field={'], "--training: '{' is not a template"),
    (['--training_field=body'], "train.jsonl:1: no field 'body'; there are text"),
])
def test_mistakes_are_one_line(flags, message, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'items.jsonl').write_text('{"question": "a b c d"}\n')
  (tmp_path / 'train.jsonl').write_text('{"text": "a"}\n')
  assert cli.main(['contamination', 'items.jsonl', '--training=train.jsonl', *flags]) == 1
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1
  assert not (tmp_path / 'contamination').exists()


def test_training_text_that_is_empty_finds_nothing_clean(tmp_path, capsys):
  (tmp_path / 'items.jsonl').write_text('{"question": "a b c d"}\n')
  (tmp_path / 'train.txt').write_text('\n')
  assert cli.main(['contamination', str(tmp_path / 'items.jsonl'),
                   f'--training={tmp_path / "train.txt"}']) == 1
  assert 'error: the training text is empty' in capsys.readouterr().err
  assert not (tmp_path / 'contamination').exists()


def test_bad_lines_are_refused_or_counted(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'items.jsonl').write_text('{"question": "a b c d"}\n')
  (tmp_path / 'train.jsonl').write_text('{"text": "x"}\nnot json\n{"text": "a b c d"}\n')
  argv = ['contamination', 'items.jsonl', '--training=train.jsonl', '--n=4']
  assert cli.main(argv) == 1
  assert 'train.jsonl:2: ' in capsys.readouterr().err
  assert cli.main([*argv, '--skip_bad']) == 0
  out = capsys.readouterr()
  assert '1 examples are left out, the first: --training: ' in out.err
  assert '1 of 1 items are dirty' in out.out


def test_conventions_are_the_published_ones():
  assert CONVENTIONS == {'gpt3': Convention(n=13), 'palm': Convention(
      n=8, rule='ngrams', threshold=0.7), 'llama2': Convention(n=11, rule='words', threshold=0.8)}

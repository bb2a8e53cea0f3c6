"""`chat`: what is said, within the context, by lines of a pipe."""

import io
import queue
import sys

import pytest

from t5x_lite import cli
from t5x_lite.commands import infer, served_model
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from t5x_lite.inference.sampling import Sampling
from t5x_lite.serving import conversation
from t5x_lite.serving.conversation import Conversation

pytestmark = pytest.mark.slow
SHORT = '--gin.InferConfig.max_tokens=8'


def talk(run, lines, monkeypatch, *flags):
  monkeypatch.setattr(sys, 'stdin', io.StringIO(lines))
  return cli.main(['chat', str(run), SHORT, *flags])


def test_a_line_is_answered_as_infer_answers_it(chat_run, monkeypatch, capsys):
  assert talk(chat_run / 'run', '1 and 1?\n\n/clear\n5 and 5?\n/exit\nnot read\n', monkeypatch) == 0
  out = capsys.readouterr().out
  experiment, _ = gin_config.load_experiment(
      [f'{chat_run}/run/config.gin'], ['InferConfig.max_tokens=8'])
  first, second = infer.answer(experiment, ['1 and 1?', '5 and 5?'])
  assert out == f'{first["output"]}\n{second["output"]}\n'


def test_adapter_and_system_message_are_used(chat_run, monkeypatch, capsys):
  chosen = [f'--gin.Experiment.adapters={{"lora": "{chat_run}/lora"}}',
            '--gin.Experiment.adapter="lora"']
  assert talk(chat_run / 'run', '1 and 1?\n', monkeypatch, *chosen) == 0
  adapted = capsys.readouterr().out
  assert talk(chat_run / 'run', '1 and 1?\n', monkeypatch) == 0
  base = capsys.readouterr().out
  assert talk(chat_run / 'run', '/system Be brief.\n1 and 1?\n', monkeypatch) == 0
  system = capsys.readouterr().out
  assert len({adapted, base, system}) == 3
  assert talk(chat_run / 'run', '1 and 1?\n', monkeypatch,
              '--gin.InferConfig.system="Be brief."') == 0
  assert capsys.readouterr().out == system


def test_old_turns_are_forgotten_where_there_is_no_room(chat_run, monkeypatch):
  experiment, _ = gin_config.load_experiment([f'{chat_run}/run/config.gin'])
  served = served_model.load_served(experiment, slots=1, context=120, max_queue=1)
  asked = []

  submit = served.engine.submit

  def watched(request, sink):
    asked.append(''.join(served.reader.targets.decode([i]) for i in request.ids))
    return submit(request, sink)

  monkeypatch.setattr(served.engine, 'submit', watched)
  talk = Conversation(served, 'run', Sampling(), system='S', max_tokens=20)
  forgotten = [talk.ask(f'question {n} of many', lambda text: None).forgotten for n in range(5)]
  assert forgotten[0] == 0 and sum(forgotten) > 0 and all(n % 2 == 0 for n in forgotten)
  for n, text in enumerate(asked):
    assert f'question {n} of many' in text and 'S' in text
  assert 'question 0' in asked[1] and 'question 0' not in asked[-1]
  with pytest.raises(UserError, match='the context|more than'):
    talk.ask('x' * 200, lambda text: None)
  assert 'x' * 200 not in asked[-1]
  talk.ask('again', lambda text: None)   # the conversation goes on
  served.engine.close()


def test_ctrl_c_ends_the_answer_alone(chat_run, monkeypatch):
  experiment, _ = gin_config.load_experiment([f'{chat_run}/run/config.gin'])
  served = served_model.load_served(experiment, slots=1, context=None, max_queue=1)

  class Interrupted(queue.Queue):
    asked = 0

    def get(self):
      self.asked += 1
      if self.asked == 3:
        raise KeyboardInterrupt
      return super().get()

  monkeypatch.setattr(conversation.queue, 'SimpleQueue', Interrupted)
  talk, shown = Conversation(served, 'run', Sampling(logit_bias={1: -100.0})), []
  answer = talk.ask('1 and 1?', shown.append)
  assert answer.finish == 'cancelled' and answer.text == ''.join(shown)
  assert 0 < len(answer.text) < 200
  monkeypatch.undo()
  assert talk.ask('2 and 2?', shown.append).finish in ('stop', 'length')
  served.engine.close()


@pytest.mark.parametrize('line, words', [
    ('\udcff\n', 'the line is not UTF-8'), ('/cleer\n', '/cleer: no command'),
    ('a\n', 'more than the context of 256')])
def test_a_line_that_cannot_be_answered_ends_a_pipe(chat_run, monkeypatch, capsys, line, words):
  assert talk(chat_run / 'run', line, monkeypatch, '--gin.InferConfig.max_tokens=300') == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1 and words in err


@pytest.mark.parametrize('flags, words', [
    (['nowhere'], 'nowhere is no run: it has no config.gin'),
    (['RUN', '--context=1'], '--context=1: give from 2 to as many as fit memory'),
    (['RUN', '--gin.InferConfig.chat_template=""'], 'was trained on no conversations'),
    (['RUN', '--gin.InferConfig.decoding=@beam.Beams()'], 'is a search')])
def test_what_cannot_be_talked_with_is_one_line(chat_run, monkeypatch, capsys, flags, words):
  monkeypatch.setattr(sys, 'stdin', io.StringIO(''))
  assert cli.main(['chat', *(flag.replace('RUN', f'{chat_run}/run') for flag in flags)]) == 1
  err = capsys.readouterr().err
  assert err.startswith('error: ') and err.count('\n') == 1 and words in err

"""Prompts by the template of a run: as its training has them, ended by what ends its answers."""

import dataclasses
import json
import os
import pathlib

import pytest

from t5x_lite import cli
from t5x_lite.adaptation import lora
from t5x_lite.adaptation.quantization import quantized
from t5x_lite.commands.infer import load_generator
from t5x_lite.core.errors import UserError
from t5x_lite.experiment import gin_config
from tasks import vocabularies
from tasks.instruction.chat import VocabularyChat
from tasks.instruction.chat_template import ChatTemplate
from tasks.instruction.conversation import Conversation, Message
from tasks.instruction.examples import ExampleMaker
from tasks.instruction.named_templates import NAMES, load_template
from tasks.instruction.vocabulary_tokens import chat_tokens
from tasks.vocabularies.seqio_tokenizer import SeqioTokenizer

_ROOT = os.environ.get('T5X_LITE_TEST_DATA')
QUESTION = 'Say </s> and <|im_end|>, Zoë? '


def vocabulary(name: str):
  if name == 'byte':
    return vocabularies.BYTE_VOCABULARY
  if not _ROOT:
    pytest.skip('T5X_LITE_TEST_DATA is not set')
  return vocabularies.load_vocabulary(str(pathlib.Path(_ROOT, 'peers/chat/tokenizer', name)))


@pytest.mark.parametrize('kind', ['byte', 'tokenizer.json'])
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('system', [None, 'Be short.'])
def test_a_prompt_is_what_training_has_before_an_answer(kind, name, system):
  if kind == 'byte' and name in ('chatml', 'gemma', 'llama3') or (name == 'gemma' and system):
    pytest.skip('has no such token or message')
  found = vocabulary(kind)
  template, start_id = load_template(name), SeqioTokenizer(
      dataclasses.make_dataclass('Feature', ('vocabulary', 'add_eos'))(found, False)).start_id
  head = [] if system is None else [Message('system', system)]
  messages = (*head, Message('user', QUESTION), Message('assistant', 'Yes'))
  maker = ExampleMaker(template, chat_tokens(found), turns='last', too_long='refuse',
                       start_id=start_id)
  before, answer = maker.encode(Conversation(messages)).split()
  chat = VocabularyChat(template, found)
  # A token that the tokenizer makes of both, such as a space between them, is the answer's.
  prompt = chat.prompt([m.as_dict() for m in messages[:-1]])
  assert prompt[:len(before)] == before and len(prompt) - len(before) <= 1
  assert answer[-1] in chat.end_ids and found.eos_id in chat.end_ids


def test_without_an_end_nothing_is_generated():
  with pytest.raises(UserError, match='no special token of the tokenizer ends the answer'):
    _ = VocabularyChat(load_template('chatml'), vocabularies.BYTE_VOCABULARY).end_ids
  assert VocabularyChat(load_template('zephyr'), vocabularies.BYTE_VOCABULARY).end_ids == (1,)
  refuses = VocabularyChat(ChatTemplate("{{ raise_exception('no users') }}", 'mine'),
                           vocabularies.BYTE_VOCABULARY)
  with pytest.raises(UserError, match="the prompt 'Hi': mine does not render it: no users; mend"):
    refuses.prompt([{'role': 'user', 'content': 'Hi'}])


GIN = """
from __gin__ import dynamic_registration
from tasks import instruction
include 'models/tiny_{model}.gin'
include 'runs/pretrain.gin'
include 'hardware/cpu.gin'
TASK = @instruction.ConversationTask()
instruction.ConversationTask.train = '{rows}'
instruction.ConversationTask.validation = '{rows}'
instruction.ConversationTask.template = '{template}'
instruction.ConversationTask.objective = '{objective}'
{inputs}
TARGETS_LENGTH = 64
BATCH_SIZE = 8
STEPS = {steps}
MODEL_DIR = '{folder}'
LEARNING_RATE = 3e-3
"""
ROWS = [{'messages': [{'role': 'user', 'content': q}, {'role': 'assistant', 'content': a}]}
        for q, a in (('A colour?', 'Red.'), ('A number?', 'Seven.'))]


@pytest.fixture
def write_gin(tmp_path):
  """(model, objective, steps) -> a gin file of a run on ROWS by mine.jinja, which is zephyr's."""
  def write(model='decoder', objective='lm', steps=1):
    rows, mine = tmp_path / 'rows.jsonl', tmp_path / 'mine.jinja'
    rows.write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
    mine.write_text(load_template('zephyr').source)
    inputs = 'INPUTS_LENGTH = 64' if objective == 'text_to_text' else ''
    gin = tmp_path / 'chat.gin'
    gin.write_text(GIN.format(model=model, objective=objective, steps=steps, rows=rows,
                              inputs=inputs, template=mine, folder=tmp_path / 'run'))
    return str(gin)
  return write


def read(gin: str, text: str, **settings) -> str:
  """What a model of the run reads of a text, as text."""
  experiment = gin_config.load_described([gin])
  experiment = dataclasses.replace(
      experiment, infer=dataclasses.replace(experiment.infer, **settings))
  generator, _ = load_generator(experiment, params={})
  assert generator.end_ids == (*settings.get('end_ids', ()), 1)   # of an imported model, too
  return vocabularies.spell(vocabularies.BYTE_VOCABULARY, generator.read(text).ids)


@pytest.mark.parametrize('model, objective', [
    ('decoder', 'lm'), ('encoder_decoder', 'text_to_text')])
def test_texts_are_messages_of_the_template_that_the_run_was_trained_on(
    write_gin, tmp_path, model, objective):
  gin = write_gin(model, objective)
  asked = '<|user|>\nHi</s>\n<|assistant|>\n'
  assert read(gin, 'Hi') == read(gin, 'Hi', end_ids=(7,)) == asked
  assert read(gin, 'Hi', system='S') == f'<|system|>\nS</s>\n{asked}'
  assert read(gin, 'Hi', chat_template='') == 'Hi'
  assert read(gin, 'Hi', chat_template='alpaca', system='S') == (
      'S\n\n### Instruction:\nHi\n\n### Response:')
  # What the run keeps comes before the file of today.
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/chat_template.jinja').write_text(load_template('plain').source)
  assert read(gin, 'Hi') == 'Hi'
  assert read(gin, 'Hi', system='S') == 'SHi'


def test_texts_that_cannot_be_messages(write_gin):
  gin = write_gin()
  with pytest.raises(UserError, match=r"'xxx.* is a prompt of 95 tokens, and the model reads 64: "
                                      'shorten it, or raise targets_length'):
    read(gin, 'x' * 70)
  with pytest.raises(UserError, match="chat_template = 'zefyr': .*did you mean 'zephyr'"):
    read(gin, 'x', chat_template='zefyr')
  with pytest.raises(UserError, match='system = .S.: is part of a conversation'):
    read(gin, 'x', chat_template='', system='S')
  with pytest.raises(UserError, match="the prompt 'x': gemma does not render it: System role not"):
    template = load_template('gemma')
    VocabularyChat(template, vocabularies.BYTE_VOCABULARY).prompt(
        [{'role': 'system', 'content': 'S'}, {'role': 'user', 'content': 'x'}])


@pytest.mark.parametrize('model, objective', [
    ('decoder', 'lm'), ('decoder', 'text_to_text'), ('encoder_decoder', 'text_to_text')])
def test_held_out_prompts_are_all_before_the_last_answer(write_gin, model, objective):
  data = gin_config.load_described([write_gin(model, objective)]).data
  found = list(data.examples('validation'))
  spelled = [vocabularies.spell(vocabularies.BYTE_VOCABULARY, ex['ids']) for ex in found]
  questions, answers = zip(*[[m['content'] for m in row['messages']] for row in ROWS])
  assert spelled == [f'<|user|>\n{q}</s>\n<|assistant|>\n' for q in questions]
  assert [ex['inputs'] for ex in found] == spelled
  assert [ex['targets'] for ex in found] == list(answers)


SMALL = [f'--gin.ModelConfig.{name}={value}' for name, value in dict(
    num_layers=1, embed_dim=32, num_heads=2, num_kv_heads=2, mlp_dim=64).items()]


def outputs(gin: str, folder: pathlib.Path, *flags: str) -> list[dict]:
  assert cli.main(['train', f'--gin_file={gin}', *flags]) == 0
  assert cli.main(['infer', f'--gin_file={folder}/config.gin',
                   '--gin.InferConfig.max_tokens=8']) == 0
  (file,) = folder.glob('inferences-*.jsonl')
  return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_keeps_its_template_and_says_which_answers_ended(write_gin, tmp_path, monkeypatch):
  records = outputs(write_gin(), tmp_path / 'run', *SMALL)
  assert cli.main(['export', f'--from={tmp_path}/run', f'--to={tmp_path}/out']) == 0
  for folder in ('run', 'out'):
    kept = tmp_path / folder / 'chat_template.jinja'
    assert kept.read_text() == load_template('zephyr').source
  assert [set(record) for record in records] == [
      {'inputs', 'output', 'score', 'ended', 'targets'}] * 2
  assert all(isinstance(record['ended'], bool) for record in records)
  # Answers end by the end of text, which config.json names; or by a token of their own.
  assert not (tmp_path / 'out/generation_config.json').exists()
  monkeypatch.setattr(VocabularyChat, 'end_ids', (7, 1))
  assert cli.main(['export', f'--from={tmp_path}/run', f'--to={tmp_path}/own']) == 0
  assert json.loads((tmp_path / 'own/generation_config.json').read_text()) == {
      'eos_token_id': [7, 1]}
  assert cli.main(['import', f'--from={tmp_path}/own', f'--to={tmp_path}/back']) == 0
  assert 'end_ids = (7, 1)' in (tmp_path / 'back/config.gin').read_text()


@pytest.mark.parametrize('files, adaptation', [
    (['finetune_chat'], type(None)), (['lora_chat'], lora.Lora),
    (['qlora_chat'], quantized.Quantized), (['finetune_chat', '../runs/lora'], lora.Lora),
    (['finetune_chat', '../runs/qlora'], quantized.Quantized),
    (['tiny_span_corruption', '../runs/finetune', '../runs/chat'], type(None))])
def test_recipes_of_conversations_in_files(files, adaptation):
  folder = gin_config.CONFIGS / 'experiments'
  experiment = gin_config.load_described(
      [str((folder / f'{name}.gin').resolve()) for name in files],
      ["CONVERSATIONS='a.jsonl'", "TEMPLATE='chatml'", "INIT_FROM='base'"])
  task = experiment.data.task
  assert (task.train, task.validation, task.template) == ('a.jsonl', 0.05, 'chatml')
  assert type(experiment.adaptation) is adaptation
  if files == ['qlora_chat']:   # of the paper
    inner, optimizer = experiment.adaptation.adaptation, experiment.optimizer
    assert (inner.rank, inner.alpha, inner.targets) == (64, 16.0, ('all_linear',))
    assert (optimizer.beta2, optimizer.clip_norm, optimizer.learning_rate(10**6)) == (
        0.999, 0.3, 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize('model, objective', [
    ('decoder', 'lm'), ('encoder_decoder', 'text_to_text')])
def test_a_run_learns_its_answers_and_ends_them(write_gin, tmp_path, model, objective):
  records = outputs(write_gin(model, objective, steps=150), tmp_path / 'run', *SMALL,
                    '--gin.LEARNING_RATE=1e-2')
  assert [(r['output'], r['ended']) for r in records] == [('Red.', True), ('Seven.', True)]

"""A run that was imported is used as it is, and keeps its tokenizer; nothing falls to bytes."""

import dataclasses
import json

import jax
import tokenizers
from tokenizers import models as tokenizer_models

from t5x_lite import cli, models
from t5x_lite.experiment import gin_config
from t5x_lite.interop import huggingface
from t5x_lite.models import ModelConfig
from t5x_lite.training.checkpoints import reader_of

CONFIG = ModelConfig(
    family='decoder_only', vocab_size=384, embed_dim=16, num_layers=2, num_heads=2, mlp_dim=24,
    tied_embeddings=False, max_length=64, norm_epsilon=1e-5)
FINETUNE = ['hardware/cpu.gin']
MACROS = ['TASK=stdlib_lm', 'TARGETS_LENGTH=16', 'BATCH_SIZE=8', 'STEPS=2', 'LEARNING_RATE=1e-3',
          'WARMUP_STEPS=1']


def write(folder, tokenizer='abc', config=CONFIG, **extra):
  """A folder of a LLaMA, with a tokenizer of these letters if there are any."""
  folder.mkdir(parents=True)
  params = models.build_network(config).init(jax.random.key(0))
  huggingface.save_model(folder, config, params, extra=extra)
  if tokenizer:
    pieces = ['<unk>', '<s>', '</s>', *tokenizer]
    made = tokenizers.Tokenizer(tokenizer_models.WordLevel(
        {p: i for i, p in enumerate(pieces)}, unk_token='<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
    made.add_special_tokens(pieces[:3])
    made.save(str(folder / 'tokenizer.json'))
  return folder


def imported(tmp_path, tokenizer='abc', *flags, **extra):
  folder = write(tmp_path / 'hf', tokenizer, **extra)
  assert cli.main(['import', f'--from={folder}', f'--to={tmp_path / "run"}', *flags]) == 0
  return tmp_path / 'run'


def refused(args, capsys):
  capsys.readouterr()
  assert cli.main([*map(str, args)]) == 1
  error = capsys.readouterr().err
  assert error.splitlines()[-1].startswith('error: ')
  return error


def prompts(tmp_path, text='abca\n'):
  (tmp_path / 'prompts.txt').write_text(text)
  return f'--gin.InferConfig.input={tmp_path / "prompts.txt"}'


def test_the_tokenizer_is_kept_in_every_order_of_files(tmp_path):
  run = imported(tmp_path)
  files = [str(run / 'config.gin'), 'runs/finetune.gin', *FINETUNE]
  more = tmp_path / 'mine.gin'
  more.write_text("include 'runs/experiment.gin'\n")
  want = str(run / 'huggingface' / 'tokenizer.json')
  for order in (files, files[::-1], [files[1], files[0], files[2]], [*files, str(more)],
                [str(more), *files]):
    experiment, config = gin_config.load_experiment(
        order, [*MACROS, f'INIT_FROM={run}', f'MODEL_DIR={tmp_path / "tuned"}'])
    assert experiment.data.vocabulary == want and want in config
    assert experiment.model.vocab_size == 384
    assert experiment.infer.prompt_prefix == ()


def test_the_fingerprint_is_that_of_the_data_and_another_vocabulary_is_refused(tmp_path, capsys):
  run = imported(tmp_path)
  experiment = gin_config.load_described([str(run / 'config.gin')])
  checkpoints = reader_of(run)
  step = checkpoints.find_step(None)
  meta = checkpoints.read_meta(step)
  assert meta['vocabulary'] == experiment.data.fingerprint() and step == 0
  other = write(tmp_path / 'other', 'cba') / 'tokenizer.json'
  infer = ['infer', f'--gin_file={run / "config.gin"}', prompts(tmp_path),
           '--gin.InferConfig.batch_size=8', '--gin.InferConfig.max_tokens=4']
  assert 'was trained with the vocabulary' in refused([*infer, f'--gin.VOCABULARY={other}'], capsys)
  assert 'was trained with the vocabulary' in refused([*infer, '--gin.VOCABULARY=byte'], capsys)
  assert cli.main([*infer, f'--gin.VOCABULARY={tmp_path / "hf" / "tokenizer.json"}']) == 0
  # a run of its own settings, which would train it on bytes
  (tmp_path / 'texts.txt').write_text('a few words\n' * 20)
  model = (run / 'config.gin').read_text().split('models.ModelConfig:')[1]
  (tmp_path / 'own.gin').write_text('\n'.join([
      'from __gin__ import dynamic_registration', 'from t5x_lite import models',
      'from tasks import files', "include 'runs/finetune.gin'", "include 'hardware/cpu.gin'",
      'TASK = @files.FileTask()', f"files.FileTask.train = '{tmp_path / 'texts.txt'}'",
      "files.FileTask.objective = 'lm'", "files.FileTask.targets = 'text'",
      f'models.ModelConfig:{model}']))
  assert 'was trained with the vocabulary' in refused(
      ['train', f'--gin_file={tmp_path / "own.gin"}', f'--gin.MODEL_DIR={tmp_path / "tuned"}',
       f'--gin.INIT_FROM={run}', *(f'--gin.{m}' for m in MACROS[1:])], capsys)


def test_without_a_tokenizer_text_is_refused_until_one_is_named(tmp_path, capsys):
  run = imported(tmp_path, '')
  assert 'No tokenizer: text is refused until one is named with --gin.VOCABULARY=FILE' in (
      capsys.readouterr().out)
  infer = ['infer', f'--gin_file={run / "config.gin"}', prompts(tmp_path),
           '--gin.InferConfig.batch_size=8', '--gin.InferConfig.max_tokens=4']
  assert 'imported without a tokenizer: pass --gin.VOCABULARY=FILE' in refused(infer, capsys)
  tune = ['train', f'--gin_file={run / "config.gin"}', '--gin_file=runs/finetune.gin',
          *(f'--gin_file={f}' for f in FINETUNE), f'--gin.INIT_FROM={run}',
          f'--gin.MODEL_DIR={tmp_path / "tuned"}', *(f'--gin.{m}' for m in MACROS)]
  assert 'imported without a tokenizer' in refused(tune, capsys)
  assert 'was imported without a tokenizer: pass --gin.VOCABULARY=FILE, or import it again' in (
      refused([*infer, '--gin.VOCABULARY=byte'], capsys))
  # what reads no text goes on
  assert cli.main(['describe', f'--gin_file={run / "config.gin"}']) == 0
  assert cli.main(['export', f'--from={run}', f'--to={tmp_path / "out"}']) == 0
  given = write(tmp_path / 'given') / 'tokenizer.json'
  assert cli.main([*infer, f'--gin.VOCABULARY={given}']) == 0


def test_bytes_are_read_where_the_model_reads_bytes(tmp_path, capsys):
  run = imported(tmp_path, '', '--vocabulary=byte')
  assert "VOCABULARY = 'byte'" in (run / 'config.gin').read_text()
  assert cli.main(['infer', f'--gin_file={run / "config.gin"}', prompts(tmp_path),
                   '--gin.InferConfig.batch_size=8', '--gin.InferConfig.max_tokens=4']) == 0
  assert cli.main(['export', f'--from={run}', f'--to={tmp_path / "out"}']) == 0
  # and an export of such a run, imported again
  assert cli.main(['import', f'--from={tmp_path / "out"}', f'--to={tmp_path / "back"}']) == 0
  assert "VOCABULARY = 'byte'" in (tmp_path / 'back' / 'config.gin').read_text()
  checkpoints = reader_of(tmp_path / 'back')
  meta = checkpoints.read_meta(checkpoints.find_step(None))
  assert meta['vocabulary'].startswith('bytes')


def test_a_tokenizer_of_ones_own_comes_along(tmp_path, capsys):
  given = write(tmp_path / 'given', 'xyz') / 'tokenizer.json'
  run = imported(tmp_path, '', f'--vocabulary={given}')
  assert (run / 'huggingface' / 'tokenizer.json').read_bytes() == given.read_bytes()
  folder = write(tmp_path / 'hf2', '')
  error = refused(['import', f'--from={folder}', f'--to={tmp_path / "no"}',
                   '--vocabulary=nowhere.json'], capsys)
  assert '--vocabulary: no file nowhere.json' in error and not (tmp_path / 'no').exists()


def test_a_sentencepiece_model_has_as_many_sentinels_as_the_model_has_rows_for(tmp_path):
  import sentencepiece
  text = tmp_path / 'text.txt'
  text.write_text('a few words of a text\n' * 50 + 'and some more of them\n' * 50)
  sentencepiece.SentencePieceTrainer.train(
      input=str(text), model_prefix=str(tmp_path / 'sp'), vocab_size=30, pad_id=0, eos_id=1,
      unk_id=2, bos_id=-1, hard_vocab_limit=False)
  folder = write(tmp_path / 'hf', '', dataclasses.replace(CONFIG, vocab_size=64))
  (folder / 'tokenizer.model').write_bytes((tmp_path / 'sp.model').read_bytes())
  pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / 'sp.model')).get_piece_size()
  assert cli.main(['import', f'--from={folder}', f'--to={tmp_path / "run"}']) == 0
  experiment = gin_config.load_described([str(tmp_path / 'run' / 'config.gin')])
  tokenizer = experiment.data.tokenizer('targets')
  assert pieces < 64 == tokenizer.vocab_size and experiment.model.vocab_size == 64
  settings = json.loads((tmp_path / 'run/huggingface/tokenizer_config.json').read_text())
  assert settings == {'extra_ids': 64 - pieces}

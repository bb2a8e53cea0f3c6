"""Import, infer, fine-tune, infer, export: text in and text out are those of transformers."""

import json
import os
import pathlib
import shutil

import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from t5x_lite import cli  # noqa: E402

DATA = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'tokenizers'
pytestmark = pytest.mark.skipif(not DATA.exists(), reason='T5X_LITE_TEST_DATA is not set')
PROMPTS = ['The quick brown fox', 'Hello world, it is a café', 'x']
NEW = 8
_DECODER = dict(max_position_embeddings=256, hidden_size=32, intermediate_size=48,
                num_hidden_layers=2, num_attention_heads=4)
MODELS = {
    'gpt2': (lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=256)),
             {'gpt2/encoder.json': 'vocab.json', 'gpt2/vocab.bpe': 'merges.txt'}, {}),
    'gpt1': (lambda: transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(
        n_embd=32, n_layer=2, n_head=4, n_positions=256)),
             {'gpt1/encoder_bpe_40000.json': 'vocab.json', 'gpt1/vocab_40000.bpe': 'merges.txt'},
             {}),
    'llama': (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=32000, **_DECODER)),
              {'mistral/tokenizer.model.v1': 'tokenizer.model'}, {'add_bos_token': True}),
    't5': (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(
        d_model=32, d_kv=12, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)),
           {'t5/spiece.model': 'spiece.model'}, {}),
    'bert': (lambda: transformers.BertForMaskedLM(transformers.BertConfig(**_DECODER)),
             {'bert_uncased/vocab.txt': 'vocab.txt'}, {}),
    'classifier': (lambda: transformers.BertForSequenceClassification(transformers.BertConfig(
        **_DECODER, id2label={0: 'bad', 1: 'good', 2: 'so so'},
        label2id={'bad': 0, 'good': 1, 'so so': 2})), {'bert_uncased/vocab.txt': 'vocab.txt'}, {})}


def save(folder, name):
  """Writes a folder of Hugging Face with a real tokenizer and random weights."""
  make, files, settings = MODELS[name]
  model, generator = make(), torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter, p in model.named_parameters():
      centre = 1.0 if p.ndim == 1 and parameter.endswith('weight') else 0.0
      p.copy_(centre + 0.15 * torch.randn(p.shape, generator=generator))
  model.save_pretrained(folder)
  for source, target in files.items():
    shutil.copyfile(DATA / source, folder / target)
  if settings:
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return folder


def run(*args):
  assert cli.main([*map(str, args)]) == 0


def outputs(run_folder, prompts, tmp_path):
  """What `infer` writes for prompts, to a file that it does not overwrite."""
  (tmp_path / 'out.jsonl').unlink(missing_ok=True)
  (tmp_path / 'prompts.jsonl').write_text(''.join(json.dumps({'inputs': p}) + '\n'
                                                  for p in prompts))
  run('infer', f'--gin_file={run_folder / "config.gin"}',
      f'--gin.InferConfig.input={tmp_path / "prompts.jsonl"}', '--gin.InferConfig.max_tokens=8',
      '--gin.InferConfig.batch_size=8', f'--gin.InferConfig.output={tmp_path / "out.jsonl"}')
  return [json.loads(line)['output'] for line in open(tmp_path / 'out.jsonl')]


def texts_of_transformers(folder, name, prompts):
  if name == 'bert':
    pipe = transformers.pipeline('fill-mask', model=str(folder))
    return [pipe(p)[0]['sequence'] for p in prompts]
  if name == 'classifier':
    pipe = transformers.pipeline('text-classification', model=str(folder))
    return [pipe(p)[0]['label'] for p in prompts]
  if name == 't5':   # transformers 5 has no pipeline for it
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    generate = lambda p: model.generate(**tokenizer(p, return_tensors='pt'), max_new_tokens=NEW,
                                        do_sample=False)
    return [tokenizer.decode(generate(p)[0], skip_special_tokens=True) for p in prompts]
  pipe = transformers.pipeline('text-generation', model=str(folder))
  return [pipe(p, max_new_tokens=NEW, do_sample=False, return_full_text=False)[0][
      'generated_text'] for p in prompts]


def prompts_of(name):
  return [f'{p} [MASK] there.' for p in PROMPTS] if name == 'bert' else PROMPTS


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name == 'bert' else pytest.mark.slow) for name in MODELS])
def test_an_imported_run_answers_as_the_pipeline_does(name, tmp_path):
  folder = save(tmp_path / 'hf', name)
  run('import', f'--from={folder}', f'--to={tmp_path / "first"}')
  shutil.move(tmp_path / 'first', tmp_path / 'run')   # a run means its own folder
  want = texts_of_transformers(folder, name, prompts_of(name))
  got = outputs(tmp_path / 'run', prompts_of(name), tmp_path)
  assert got == want


@pytest.mark.slow
def test_several_ends_and_none_of_the_tokenizers_are_those_of_generation_config(tmp_path):
  folder = save(tmp_path / 'hf', 'gpt2')
  whole = texts_of_transformers(folder, 'gpt2', PROMPTS[:1])
  pipe = transformers.pipeline('text-generation', model=str(folder))
  ids = pipe(PROMPTS[0], max_new_tokens=NEW, do_sample=False, return_tensors=True)
  second, third = ids[0]['generated_token_ids'][1 - NEW:3 - NEW]
  generation = json.loads((folder / 'generation_config.json').read_text())
  (folder / 'generation_config.json').write_text(json.dumps(
      generation | {'eos_token_id': [third, second]}))
  run('import', f'--from={folder}', f'--to={tmp_path / "run"}')
  got = outputs(tmp_path / 'run', PROMPTS[:1], tmp_path)
  assert got == texts_of_transformers(folder, 'gpt2', PROMPTS[:1]) != whole


def fine_tune(tmp_path, name, settings):
  """The README's command, with a task of a file and the imported run's config before or after."""
  objective = {'t5': 'text_to_text', 'classifier': 'classification'}.get(name, 'lm')
  rows = [{'text': f'This is sentence {i} of several.', 'label': ['bad', 'good', 'so so'][i % 3]}
          for i in range(12)]
  (tmp_path / 'train.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  lines = ["from __gin__ import dynamic_registration", "from tasks import files",
           "TASK = @files.FileTask()", f"files.FileTask.train = '{tmp_path}/train.jsonl'",
           f"files.FileTask.objective = '{objective}'"]
  if objective != 'lm':
    lines += ["files.FileTask.inputs = 'text'", "files.FileTask.targets = 'label'",
              'INPUTS_LENGTH = 16', f'TARGETS_LENGTH = {1 if name == "classifier" else 8}']
  else:
    lines += ["files.FileTask.targets = 'text'", 'TARGETS_LENGTH = 16']
  if name == 'classifier':
    lines.append("files.FileTask.labels = ('bad', 'good', 'so so')")
  (tmp_path / 'task.gin').write_text('\n'.join(lines) + '\n')
  run('train', *[f'--gin_file={f}' for f in settings], '--gin_file=hardware/cpu.gin',
      f'--gin_file={tmp_path / "task.gin"}', f'--gin.INIT_FROM={tmp_path / "run"}',
      '--gin.BATCH_SIZE=8', '--gin.STEPS=3', '--gin.LEARNING_RATE=1e-2', '--gin.WARMUP_STEPS=1',
      '--gin.EvalConfig.split=train', '--gin.EvalConfig.num_examples=4',
      f'--gin.MODEL_DIR={tmp_path / "tuned"}')


@pytest.mark.slow
@pytest.mark.parametrize('name, order', [('gpt2', 0), ('llama', 0), ('t5', 1), ('classifier', 0)])
def test_fine_tuned_and_exported_it_answers_as_the_pipeline_does(name, order, tmp_path):
  folder = save(tmp_path / 'hf', name)
  template = {'chat_template': '{{ messages[0].content }}'}
  settings = folder / 'tokenizer_config.json'
  settings.write_text(json.dumps(template | (
      json.loads(settings.read_text()) if settings.exists() else {})))
  (folder / 'chat_template.jinja').write_text('{{ messages }}')
  run('import', f'--from={folder}', f'--to={tmp_path / "run"}')
  files = [tmp_path / 'run' / 'config.gin', 'runs/finetune.gin']
  fine_tune(tmp_path, name, files[::-1] if order else files)
  got = outputs(tmp_path / 'tuned', PROMPTS, tmp_path)
  assert got != outputs(tmp_path / 'run', PROMPTS, tmp_path) or name == 'classifier'
  run('export', f'--from={tmp_path / "tuned"}', f'--to={tmp_path / "out"}')
  want = texts_of_transformers(tmp_path / 'out', name, PROMPTS)
  assert got == want
  assert json.loads((tmp_path / 'out' / 'tokenizer_config.json').read_text())[
      'chat_template'] == template['chat_template']
  assert (tmp_path / 'out' / 'chat_template.jinja').read_text() == '{{ messages }}'
  for kept in ('generation_config.json',):
    if (folder / kept).exists():
      assert (tmp_path / 'out' / kept).read_text() == (folder / kept).read_text()

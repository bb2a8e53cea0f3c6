"""What is no folder of a model is named for what it is, with the cure."""

import pytest

from t5x_lite import cli


@pytest.mark.parametrize('files, line', [
    (['adapter_config.json', 'adapter_model.safetensors'], 'an adapter of PEFT, such as LoRA'),
    (['adapter_config.json', 'config.json', 'adapter_model.safetensors'], 'an adapter of PEFT'),
    (['model-Q4_K_M.gguf'], 'holds model-Q4_K_M.gguf, and is a model in GGUF'),
    (['model.safetensors'], 'tensors without the config.json that says what they are'),
    (['pytorch_model.bin'], 'a pickle without config.json'),
    (['consolidated.00.pth', 'params.json'], 'a checkpoint in the layout of its authors'),
    (['tf_model.h5'], 'a model of TensorFlow'), (['flax_model.msgpack'], 'a model of Flax'),
    (['model_index.json'], 'a pipeline of diffusers'), (['x.pt'], 'a pickle of PyTorch'),
    (['config.gin', 'metrics.jsonl'], 'a run of this project already: name it as INIT_FROM'),
    (['tokenizer.json'], 'a tokenizer without a model'),
    (['_CHECKPOINT_METADATA'], 'a checkpoint of Orbax'),
    (['gpt2/config.json'], 'gpt2/ in it holds one: name that'),
    (['snapshots/abc/config.json'], "a folder of the hub's cache"),
    ([], 'holds neither config.json, as a Hugging Face model does, nor the file checkpoint')])
def test_a_folder_is_named_for_what_it_is(files, line, tmp_path, capsys):
  folder = tmp_path / 'given'
  folder.mkdir()
  for name in files:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text('{}')
  assert cli.main(['import', f'--from={folder}', f'--to={tmp_path / "run"}']) == 1
  error = capsys.readouterr().err
  assert line in error and error.count('\n') == 1
  assert not (tmp_path / 'run').exists() and not list(tmp_path.glob('*.partial'))


@pytest.mark.parametrize('name, line', [
    ('model.gguf', 'is a model in GGUF'), ('model.safetensors', 'is tensors without'),
    ('pytorch_model.bin', 'is a pickle without'), ('m.pt', 'is a pickle of PyTorch'),
    ('config.json', 'is a file: name its folder'), ('checkpoint', 'cannot be read as one')])
def test_a_file_is_named_for_what_it_is(name, line, tmp_path, capsys):
  (tmp_path / name).write_text('{}')
  assert cli.main(['import', f'--from={tmp_path / name}', f'--to={tmp_path / "run"}']) == 1
  error = capsys.readouterr().err
  assert line in error and error.count('\n') == 1


def test_a_name_of_the_hub_says_how_to_fetch_it(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert cli.main(['import', '--from=openai-community/gpt2', '--to=run']) == 1
  assert 'no such file or folder; a model of the hub is fetched by' in capsys.readouterr().err

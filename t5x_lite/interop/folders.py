"""What a folder or file is that someone tries to import, and what to do with it."""

import pathlib

from t5x_lite.core.errors import UserError

_SAFETENSORS = 'save it with transformers, whose save_pretrained writes config.json and safetensors'
# The first pattern that a folder has names it.
_KINDS = (
    ('adapter_config.json', 'an adapter of PEFT, such as LoRA, without its model: import that '
     'first, and name its run as --base=MODEL_DIR'),
    ('config.gin', 'a run of this project already: name it as INIT_FROM'),
    ('*.gguf', 'a model in GGUF: give the folder of the Hugging Face model that it was made of'),
    ('model_index.json', 'a pipeline of diffusers, which this project has no model for'),
    ('modules.json', 'a model of sentence-transformers without config.json: name the folder of its '
     'Transformer in it'),
    ('consolidated*', "a checkpoint in the layout of its authors: convert it with transformers' "
     'convert_…_weights_to_hf.py'),
    ('*.nemo', f'a checkpoint of NeMo: {_SAFETENSORS}'),
    ('tf_model.h5', f'a model of TensorFlow: {_SAFETENSORS}'),
    ('flax_model.msgpack', f'a model of Flax: {_SAFETENSORS}'),
    ('model.onnx', f'a model in ONNX: {_SAFETENSORS}'),
    ('_CHECKPOINT_METADATA', 'a checkpoint of Orbax: name the folder of the run that wrote it as '
     'INIT_FROM'),
    ('*.ckpt*', f'a checkpoint of TensorFlow or PyTorch Lightning: {_SAFETENSORS}'),
    ('*.safetensors', 'tensors without the config.json that says what they are: fetch the whole '
     'folder'),
    ('*.bin', 'a pickle without config.json, and pickles are never opened here: fetch the whole '
     f'folder, and {_SAFETENSORS}'),
    ('*.pt', f'a pickle of PyTorch, which is never opened here: {_SAFETENSORS}'),
    ('*.pth', f'a pickle of PyTorch, which is never opened here: {_SAFETENSORS}'),
    ('tokenizer*.json', 'a tokenizer without a model: name it as VOCABULARY'),
    ('snapshots', 'a folder of the hub\'s cache: name one of the folders in its snapshots/'),
)


def is_huggingface(source: pathlib.Path) -> bool:
  """Whether it is a folder of Hugging Face, rather than a checkpoint of T5X.

  Raises:
    UserError: it is neither; says what it is instead, and what to do.
  """
  if not source.exists():
    raise UserError(f'{source}: no such file or folder; a model of the hub is fetched by '
                    f'huggingface-cli download NAME --local-dir FOLDER')
  if (source / 'config.json').is_file():
    if (source / 'adapter_config.json').is_file() and not list(source.glob('model*.safetensors')):
      raise UserError(f'{source} is {_KINDS[0][1]}')
    return True
  if source.is_dir():
    if (source / 'checkpoint').is_file():
      return False
    for pattern, what in _KINDS:
      if found := sorted(source.glob(pattern)):
        raise UserError(f'{source} holds {found[0].name}, and is {what}')
    inner = sorted(p.parent.name for p in source.glob('*/config.json'))
    cure = f'; {inner[0]}/ in it holds one: name that' if inner else ''
    raise UserError(f'{source} holds neither config.json, as a Hugging Face model does, nor the '
                    f'file checkpoint, as a T5X checkpoint does{cure}')
  for pattern, what in _KINDS:
    if source.match(pattern) and pattern.startswith('*.'):
      raise UserError(f'{source} is {what}')
  if (source.parent / 'config.json').is_file():
    raise UserError(f'{source} is a file: name its folder, {source.parent}')
  return False

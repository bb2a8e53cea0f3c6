"""What every export takes of a run: its model, its parameters, and the files that go with it."""

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

from t5x_lite.core.console import note
from t5x_lite.core.errors import UserError
from t5x_lite.core.paths import local_path
from t5x_lite.interop.json_files import read_object, read_optional

# What is copied from the config.json of an imported run.
_SPECIAL = ('bos_token_id', 'eos_token_id', 'pad_token_id', 'decoder_start_token_id')
_BYTES = {'t5x_lite_vocabulary': 'byte'}   # a key of config.json that import reads
_NO_FILE = (None, 'byte', 'none')   # values of VOCABULARY that name no file


@dataclasses.dataclass(frozen=True)
class ExportSource:
  """A run of which a checkpoint is exported.

  Attributes:
    run: its folder.
    experiment: of its config.gin, without a head of values.
    kept: the folder of files that came with the imported run that this is, or that it started
      from; None where there was none.
    has_values: whether the run has such a head, which is not exported.
  """
  run: Any
  experiment: Any
  kept: pathlib.Path | None
  has_values: bool = False

  @property
  def vocabulary(self) -> str | None:
    """The file of its vocabulary, 'byte', or 'none'."""
    return self.experiment.data.vocabulary

  @property
  def vocabulary_file(self) -> pathlib.Path | None:
    """The same, None where it is no file."""
    return None if self.vocabulary in _NO_FILE else pathlib.Path(self.vocabulary)

  def load(self, step: int | None) -> tuple[Any, Any, int]:
    """(network, all its parameters, the step of the checkpoint), newest if None.

    Raises UserError for an adaptation that no other library reads.
    """
    import jax

    from t5x_lite.core import trees
    from t5x_lite.models import build_network
    from t5x_lite.parallel.mesh import MeshConfig
    from t5x_lite.training.initial_params import load_params
    folder = self.experiment.folder
    experiment = _with_head(self.experiment, 'value') if self.has_values else self.experiment
    network, partitioner = experiment.build_network(
        MeshConfig(data=1, fsdp=jax.device_count()).make())
    if added := [path for path in trees.flatten(network.shapes) if network.is_added(path)]:
      raise UserError(f'{folder} has parameters that no model of transformers has: '
                      f'{trees.summarize(added)}: its adaptation is not exported')
    params, step = load_params(folder, network, partitioner, step)
    if self.has_values:
      network = build_network(self.experiment.model, partitioner)
      params = {name: x for name, x in params.items() if name != 'value'}
    return network, params, step

  @functools.cached_property
  def chat(self):
    """The Chat that the run was trained on; None without one."""
    file = self.run.chat_template
    return self.experiment.data.chat(str(file)) if file.is_file() else None

  @functools.cached_property
  def chat_template(self) -> str | None:
    """The text of its chat template, else of the one that the imported run came with."""
    if self.run.chat_template.is_file():
      return self.run.chat_template.read_text(encoding='utf-8')
    if self.kept is None:
      return None
    if (file := self.kept / self.run.chat_template.name).is_file():
      return file.read_text(encoding='utf-8')
    template = read_optional(self.kept / 'tokenizer_config.json').get('chat_template')
    return template if isinstance(template, str) else None

  @property
  def token_ids(self) -> dict[str, Any]:
    """Ids of special tokens as config.json has them."""
    return token_ids(self.kept, self.vocabulary)

  @property
  def end_ids(self) -> tuple[int, ...]:
    """Ids that end an output, as `infer` has them."""
    chat = self.chat.end_ids if self.chat is not None else ()
    ends = tuple(dict.fromkeys((*self.experiment.infer.end_ids, *chat)))
    eos = self.token_ids.get('eos_token_id')
    return ends or (tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,))

  @property
  def labels(self) -> dict[str, Any]:
    """The names of a model's classes: of its task, else those that it was imported with."""
    experiment = self.experiment
    task = getattr(experiment.data, 'task', None)
    names = getattr(task, 'labels', None) or experiment.infer.labels
    if len(names) != experiment.model.num_classes:
      return {}
    return {'id2label': {str(i): name for i, name in enumerate(names)},
            'label2id': {name: i for i, name in enumerate(names)}}


def open_source(model_dir: pathlib.Path, trusted_modules: Sequence[str] = ()) -> ExportSource:
  """The run of a folder; no parameters are read.

  Args:
    model_dir: the folder of the run.
    trusted_modules: modules outside this project that config.gin may import.
  """
  from t5x_lite.experiment import gin_config
  from t5x_lite.training.run_folder import RunFolder
  run = RunFolder(model_dir)
  experiment = gin_config.load_described([str(run.require_config())], (), trusted_modules)
  has_values = experiment.model.head == 'value'
  if has_values:
    note(f'{model_dir} has a head of values, which writes nothing and is left out')
    experiment = _with_head(experiment, None)
  return ExportSource(run, experiment, _imported_files(run, experiment), has_values)


def _with_head(experiment: Any, head: str | None) -> Any:
  return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, head=head))


def _imported_files(run, experiment) -> pathlib.Path | None:
  """The files that came with the imported run that this is, or that it started from."""
  from t5x_lite.training.run_folder import RunFolder
  vocabulary, origin = experiment.data.vocabulary, experiment.init_from
  folders = [run.huggingface]
  if vocabulary not in _NO_FILE:
    folders.append(pathlib.Path(vocabulary).parent)
  if origin is not None:
    folders.append(RunFolder(local_path(origin.model_dir)).huggingface)
  return next((f for f in folders if (f / 'config.json').is_file()), None)


def token_ids(kept: pathlib.Path | None, vocabulary: str | None) -> dict[str, Any]:
  """Ids of special tokens: those the model came with, else those of its vocabulary."""
  from t5x_lite.interop import tokenizer_files
  if kept is not None:
    hf = read_object(kept / 'config.json')
    ids = {name: hf[name] for name in _SPECIAL if name in hf}
    return ids | _BYTES if vocabulary == 'byte' else ids
  if vocabulary in _NO_FILE:
    return {'pad_token_id': 0, 'eos_token_id': 1} | _BYTES   # of seqio's ByteVocabulary
  return tokenizer_files.special_ids(vocabulary)


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
  """A JSON file, indented."""
  path.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')

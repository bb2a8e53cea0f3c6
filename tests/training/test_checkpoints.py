"""Checkpoints: bit for bit, onto another mesh, kept by count, and what is said of a broken one."""

import ast
import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training import optimizers, schedules
from t5x_lite.training.checkpoints import Checkpoints
from t5x_lite.training.initial_params import load_params, replace_from_run
from t5x_lite.training.state import abstract_state, shardings_of

OPTIMIZER = optimizers.AdamW(learning_rate=schedules.Constant(rate=0.01)).make()
META = {'seed': 3, 'place': {'next': [1, 2]}, 'name': 'é'}


def partitioner(**sizes):
  """Of a mesh of these sizes, or of one device."""
  mesh = MeshConfig(**sizes or dict(data=1))
  return Partitioner(mesh.make() if sizes else mesh.make(jax.devices()[:1]))


def state_on(config, params, mesh, step):
  """A state whose moments are not zero, placed on a mesh."""
  moments = jax.tree.map(lambda x: x + x.dtype.type(step), OPTIMIZER.init(params))
  state = {'step': np.int32(step), 'params': params, 'frozen': {}, 'opt_state': moments}
  abstract = abstract_state(models.build_network(config), OPTIMIZER, mesh)
  return jax.device_put(state, shardings_of(abstract)), abstract


def assert_same_bits(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def message_of(error) -> str:
  text = str(error.value)
  assert '\n' not in text
  return text


@pytest.fixture(scope='module')
def config(configs):
  return configs['decoder']


@pytest.fixture(scope='module')
def run(tmp_path_factory, config, random_params):
  """(model_dir with steps 2 and 4 of a run on fsdp=4 tensor=2, the state of step 4)."""
  folder, mesh = tmp_path_factory.mktemp('run'), partitioner(fsdp=4, tensor=2)
  checkpoints = Checkpoints(folder, keep=2)
  for step in (1, 2, 4):
    state, _ = state_on(config, random_params(config), mesh, step)
    checkpoints.save(state, step, META | {'step': step})
  checkpoints.close()
  return folder, state


@pytest.mark.parametrize('sizes', [{'fsdp': 4, 'tensor': 2}, {'data': 8}, {}])
def test_a_state_is_restored_bit_for_bit_onto_any_mesh(sizes, run, config):
  folder, state = run
  abstract = abstract_state(models.build_network(config), OPTIMIZER, partitioner(**sizes))
  checkpoints = Checkpoints(folder)
  got, meta = checkpoints.restore(abstract, 4)
  checkpoints.close()
  assert_same_bits(got | {'frozen': {}}, state)
  assert shardings_of(got | {'frozen': {}}) == shardings_of(abstract)
  assert meta == META | {'step': 4}


def test_the_newest_are_kept_and_found(run):
  checkpoints = Checkpoints(run[0])
  assert checkpoints.latest_step() == checkpoints.find_step(None) == 4
  assert checkpoints.find_step(2) == 2
  with pytest.raises(UserError) as error:
    checkpoints.find_step(1)
  checkpoints.close()
  assert message_of(error) == f'No checkpoint of step 1 in {run[0]}/checkpoints: there are [2, 4]'


def test_a_folder_without_checkpoints_is_named_with_the_cure(tmp_path, config):
  with pytest.raises(UserError, match='No checkpoint in .*: train that run first'):
    load_params(tmp_path, models.build_network(config), partitioner(), None)
  checkpoints = Checkpoints(tmp_path, keep=1)
  with pytest.raises(UserError, match='No checkpoint in .*: train first, or name another'):
    checkpoints.find_step(None)
  checkpoints.close()


def test_a_step_once_saved_stays_as_it_was(tmp_path, config, random_params):
  mesh, checkpoints = partitioner(), Checkpoints(tmp_path, keep=3)
  for value in (5, 6):
    state, abstract = state_on(config, random_params(config), mesh, value)
    checkpoints.save(state, 1, {'value': value})
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  got, meta = checkpoints.restore(abstract, 1)
  checkpoints.close()
  assert got['step'] == 5 and meta == {'value': 5}


def test_parameters_alone_are_loaded(run, config, random_params):
  params, step = load_params(run[0], models.build_network(config), partitioner(data=8), None)
  assert step == 4
  assert_same_bits(params, random_params(config))


@pytest.fixture
def broken(tmp_path, run):
  """A copy of the run whose newest step has lost the second half of its files."""
  import shutil
  shutil.copytree(run[0], tmp_path / 'run')
  files = [f for f in (tmp_path / 'run/checkpoints/4').rglob('*') if f.is_file()]
  assert len(files) > 5
  for file in files:
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
  return tmp_path / 'run'


def test_a_damaged_checkpoint_is_set_aside_and_the_newest_good_one_taken(broken, config, capsys):
  abstract = abstract_state(models.build_network(config), OPTIMIZER, partitioner())
  checkpoints = Checkpoints(broken, keep=2)
  got, _ = checkpoints.read_newest(None, lambda step: checkpoints.restore(abstract, step))
  assert got['step'] == 2
  text = capsys.readouterr().err
  assert text.startswith(f'note: The checkpoint {broken}/checkpoints/4 is damaged') and (
      'step 2 is read instead, and the damaged one is kept as 4.damaged' in text)
  assert sorted(p.name for p in checkpoints.folder.iterdir()) == ['2', '4.damaged']
  checkpoints.save(got | {'frozen': {}}, 4, META)   # the step is taken again
  checkpoints.close()
  assert checkpoints.restore(abstract, 4)[1] == META


def test_a_reader_leaves_a_damaged_checkpoint_where_it_is(broken, config, capsys):
  _, step = load_params(broken, models.build_network(config), partitioner(), None)
  assert step == 2 and 'checkpoints/4 is damaged' in capsys.readouterr().err
  assert {p.name for p in (broken / 'checkpoints').iterdir()} == {'2', '4'}


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_in_one_line(broken, config):
  with pytest.raises(UserError, match='is damaged .* other checkpoints: .2.') as error:
    load_params(broken, models.build_network(config), partitioner(), 4)
  message_of(error)


def test_where_no_checkpoint_is_good_none_is_moved(broken, config):
  (broken / 'checkpoints/2/meta/metadata').write_bytes(b'')
  abstract = abstract_state(models.build_network(config), OPTIMIZER, partitioner())
  checkpoints = Checkpoints(broken, keep=2)
  with pytest.raises(UserError, match='no checkpoint of this run is good') as error:
    checkpoints.read_newest(None, lambda step: checkpoints.restore(abstract, step))
  message_of(error)
  assert {p.name for p in checkpoints.folder.iterdir()} == {'2', '4'}


def test_a_checkpoint_of_another_model_is_refused_in_one_line(run, config):
  wider = dataclasses.replace(config, mlp_dim=128)
  with pytest.raises(UserError, match='4 is of another model config: params/.* there') as error:
    load_params(run[0], models.build_network(wider), partitioner(), None)
  message_of(error)


def start(run, config, random_params, missing_ok=()):
  """The parameters of `config`'s model, from the run, over fresh values of another seed."""
  fresh, network = random_params(config, 1), models.build_network(config)
  got, line, _ = replace_from_run(fresh, network.shapes, network, run[0], None, missing_ok)
  return fresh, got, line


def test_a_run_starts_from_the_parameters_of_another(run, config, random_params):
  _, got, line = start(run, config, random_params)
  assert_same_bits(got, random_params(config))
  assert line == f'Started from {run[0]}, step 4: 11 parameters'


def test_a_new_parameter_keeps_its_fresh_value_and_is_named(run, config, random_params):
  untied = dataclasses.replace(config, tied_embeddings=False)
  fresh, got, line = start(run, untied, random_params, ('embedder/output',))
  assert line.endswith('; new: embedder/output')
  np.testing.assert_array_equal(got['embedder']['output'], fresh['embedder']['output'])
  np.testing.assert_array_equal(got['embedder']['tokens'],
                                random_params(config)['embedder']['tokens'])


def test_a_new_parameter_that_was_not_announced_is_refused(run, config, random_params):
  untied = dataclasses.replace(config, tied_embeddings=False)
  with pytest.raises(UserError) as error:
    start(run, untied, random_params, ('decoder',))
  text = message_of(error)
  assert text.startswith(f'{run[0]}, step 4, lacks embedder/output: use the same model config, or')
  # The setting is ready to paste: gin reads a tuple as Python does.
  ready = ast.literal_eval(text.split('--gin.InitFrom.missing_ok=')[1].strip('"'))
  assert ready == ('decoder', 'embedder/output')
  start(run, untied, random_params, ready)


def test_many_new_parameters_are_summed_up_and_the_setting_names_what_they_share(run, config,
                                                                                random_params):
  other = dataclasses.replace(config, family='encoder_only', num_kv_heads=None, num_classes=3)
  with pytest.raises(UserError) as error:
    start(run, other, random_params)
  text = message_of(error)
  assert 'lacks classifier (2), encoder (10), pooler (2): ' in text, text
  ready = ast.literal_eval(text.split('--gin.InitFrom.missing_ok=')[1].strip('"'))
  assert ready == ('classifier', 'encoder', 'pooler')
  _, _, line = start(run, other, random_params, ready)
  assert '; new: classifier (2), encoder (10), pooler (2); not used: decoder' in line


def test_paths_are_counted_by_prefix_when_they_are_many():
  names = [f'a/b{i}/{j}' for i in range(3) for j in range(2)]
  assert trees.summarize(['x', 'a/b']) == 'a/b, x'
  assert trees.summarize([*names, 'c']) == 'a/b0 (2), a/b1 (2), a/b2 (2), c'
  assert trees.summarize([f'{i}/a' for i in range(9)]) == '0/a, 1/a, 2/a, 3/a and 5 more'
  assert trees.summarize([]) == ''


def test_a_parameter_without_a_place_is_left_out_and_named(run, config, random_params):
  ungated = dataclasses.replace(config, gated_mlp=False)
  _, got, line = start(run, ungated, random_params)
  assert line.endswith('; not used: decoder/blocks/mlp/gate/kernel')
  assert jax.tree.structure(got) == jax.tree.structure(models.build_network(ungated).shapes)


def test_a_parameter_of_another_shape_is_refused(run, config, random_params):
  wider = dataclasses.replace(config, mlp_dim=128)
  with pytest.raises(UserError) as error:
    start(run, wider, random_params)
  assert 'has shape (2, 64, 32), this model needs (2, 128, 32)' in message_of(error)


def test_unrolled_layers_start_from_another_run_with_the_same_tree(tmp_path, config, random_params):
  unrolled = dataclasses.replace(config, scan_layers=False)
  state, _ = state_on(unrolled, random_params(unrolled), partitioner(), 1)
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(state, 1, META)
  checkpoints.close()
  _, got, _ = start((tmp_path,), unrolled, random_params)
  assert_same_bits(got, random_params(unrolled))


def test_flatten_and_unflatten_are_inverse():
  tree = {'a': {'b': 1, 'c': {'d': 2}}, 'e': 3}
  assert trees.flatten(tree) == {'a/b': 1, 'a/c/d': 2, 'e': 3}
  assert trees.unflatten(trees.flatten(tree)) == tree


def test_reading_makes_no_folder(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest_step() is None
  checkpoints.close()
  assert list(pathlib.Path(tmp_path).iterdir()) == []


def test_parameters_that_are_not_finite_are_refused_without_blaming_training(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  with pytest.raises(UserError, match='There are values that are not finite in params/a/kernel'):
    checkpoints.save_params({'a': {'kernel': jax.numpy.array([1, np.nan])}}, 0, {})
  with pytest.raises(UserError, match='The update of step 3 left values .* lower the learning'):
    checkpoints.save({'params': {'a': jax.numpy.array([np.inf])}, 'opt_state': (),
                      'step': np.int32(3)}, 3, {})
  checkpoints.close()

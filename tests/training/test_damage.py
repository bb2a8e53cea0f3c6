"""Random damage to the files of a checkpoint: what is read is what was written, or refused."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from t5x_lite.core.errors import UserError
from t5x_lite.training.checkpoints import Checkpoints, DamagedCheckpoint
from t5x_lite.training.digests import digest_arrays

META = {'seed': 3, 'vocabulary': 'é', 'examples': 64}


def state_of(step):
  """A tiny state, unlike that of any other step."""
  rng = np.random.default_rng(step)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))
  params = {'embedder': {'tokens': draw(40, 8)}, 'blocks': {0: {'kernel': draw(8, 16)},
                                                            1: {'kernel': draw(8, 16)}}}
  moments = jax.tree.map(lambda x: x * 2, params)
  return {'step': jnp.int32(step), 'params': params, 'frozen': {},
          'opt_state': ({'mu': moments, 'count': jnp.int32(step)}, ())}


STATES = {step: state_of(step) for step in (2, 4)}
ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATES[2])


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  checkpoints = Checkpoints(folder, keep=2)
  for step, state in STATES.items():
    checkpoints.save(state, step, META | {'at': step})
  checkpoints.close()
  return folder


def damage(rng, folder):
  """Damages a file of step 4; returns what was done."""
  files = sorted(p for p in (folder / 'checkpoints/4').rglob('*') if p.is_file())
  file = rng.choice(files)
  content = bytearray(file.read_bytes())
  at = rng.randrange(max(len(content), 1))
  kind = rng.choice(['bit', 'bit', 'bit', 'byte', 'cut', 'empty', 'zeros', 'noise', 'longer',
                     'delete', 'swap', 'other step', 'folder'])
  if kind == 'bit' and content:
    content[at] ^= 1 << rng.randrange(8)
  elif kind == 'byte' and content:
    content[at] = rng.randrange(256)
  elif kind == 'cut':
    del content[at:]
  elif kind == 'empty':
    content.clear()
  elif kind == 'zeros':
    content[at:at + 64] = bytes(len(content[at:at + 64]))
  elif kind == 'noise':
    content[at:at + 64] = rng.randbytes(len(content[at:at + 64]))
  elif kind == 'longer':
    content += rng.randbytes(9)
  file.write_bytes(content)
  if kind == 'delete':
    file.unlink()
  elif kind == 'folder':
    file.unlink()
    file.mkdir()
  elif kind == 'swap':
    other = rng.choice(files)
    swapped = other.read_bytes()
    other.write_bytes(content)
    file.write_bytes(swapped)
  elif kind == 'other step':   # what the same file holds in an earlier checkpoint
    twin = folder / 'checkpoints/2' / file.relative_to(folder / 'checkpoints/4')
    if twin.exists():
      shutil.copyfile(twin, file)
  return f'{kind} at {at} of {file.relative_to(folder)}'


def check(folder, what):
  """Both ways of reading; the outcome of the newest."""
  checkpoints = Checkpoints(folder)
  try:
    state, meta = checkpoints.restore(ABSTRACT, 4)
  except DamagedCheckpoint as e:
    assert '\n' not in str(e), what
    state, meta = checkpoints.read_newest(None, lambda step: checkpoints.restore(ABSTRACT, step))
    assert meta['at'] == 2, what
  step = meta['at']
  assert meta == META | {'at': step}, what
  want = STATES[step]
  assert jax.tree.all(jax.tree.map(
      lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), state | {'frozen': {}}, want)), what
  return step


@pytest.mark.parametrize('seed', [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.sweep
def test_two_hundred_damages_never_give_a_wrong_value(seed, saved, tmp_path):
  outcomes = []
  for trial in range(200 if seed else 8):
    rng = random.Random(1000 * seed + trial)
    folder = tmp_path / str(trial)
    shutil.copytree(saved, folder)
    outcomes.append(check(folder, damage(rng, folder)))
  assert not seed or outcomes.count(2) > len(outcomes) / 8   # names of files, what is hit, differ


def test_a_run_saves_beside_damaged_checkpoints(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'run')
  for step, content in ((2, b'{"item_handlers": 3'), (4, b'')):
    (tmp_path / f'run/checkpoints/{step}/_CHECKPOINT_METADATA').write_bytes(content)
    (tmp_path / f'run/checkpoints/{step}/meta/metadata').unlink()
  checkpoints = Checkpoints(tmp_path / 'run', keep=2)
  checkpoints.save(state_of(6), 6, META)
  checkpoints.close()
  assert checkpoints.steps() == [4, 6]
  assert checkpoints.restore(ABSTRACT, 6)[1] == META


def test_a_checkpoint_under_the_name_of_another_step_is_refused(saved, tmp_path):
  shutil.copytree(saved / 'checkpoints/2', tmp_path / 'checkpoints/6')
  with pytest.raises(DamagedCheckpoint):
    Checkpoints(tmp_path).restore(ABSTRACT, 6)


def test_checkpoints_of_older_versions_are_read_and_it_is_said(saved, tmp_path, capsys):
  shutil.copytree(saved, tmp_path / 'run')
  meta = tmp_path / 'run/checkpoints/4/meta/metadata'
  meta.write_text(json.dumps(META))
  checkpoints = Checkpoints(tmp_path / 'run')
  state, got = checkpoints.restore(ABSTRACT, 4)
  assert got == META and np.array_equal(state['step'], 4)
  assert capsys.readouterr().err.count('older version, without digests') == 1
  assert checkpoints.param_shapes(4)['embedder']['tokens'].shape == (40, 8)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  checkpoints.save(STATES[2], 2, META)
  state = jax.tree.map(lambda x: x, STATES[4])
  state['params']['embedder']['tokens'] = state['params']['embedder']['tokens'].at[7, 3].set(np.inf)
  with pytest.raises(UserError, match='embedder/tokens: they are not saved, step 2 is the new'):
    checkpoints.save(state, 4, META)
  checkpoints.close()
  assert checkpoints.steps() == [2]


def test_a_step_that_orbax_declines_is_an_error(saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'run')
  checkpoints = Checkpoints(tmp_path / 'run', keep=2)
  with pytest.raises(UserError, match='Step 3 was not saved: .* holds newer steps'):
    checkpoints.save(state_of(3), 3, META)
  checkpoints.close()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8', 'bool', 'uint32'])
def test_digests_are_of_bits_and_not_of_shardings(dtype):
  mesh = jax.make_mesh((4, 2), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  x = jnp.asarray(np.random.default_rng(0).integers(0, 2 if dtype == 'bool' else 99, (8, 16, 6)))
  x = x.astype(dtype)
  specs = (PartitionSpec(), PartitionSpec('b', 'a'), PartitionSpec(('a', 'b')),
           PartitionSpec(None, 'b'))
  found = {digest_arrays(jax.device_put(x, NamedSharding(mesh, spec)))[0][''] for spec in specs}
  assert len(found) == 1 and found == {digest_arrays(np.asarray(x))[0]['']}
  for index in np.ndindex(2, 3, 2):   # one bit of one element; two elements that change places
    bits = np.array(x).view('uint8').reshape(*x.shape, -1)
    bits[index][0] ^= 1
    assert digest_arrays(bits.reshape(bits.size).view(x.dtype).reshape(x.shape))[0][''] not in found
  swapped = np.array(x)
  swapped[0, 0], swapped[0, 1] = np.array(x)[0, 1], np.array(x)[0, 0]
  assert digest_arrays(swapped)[0][''] not in found

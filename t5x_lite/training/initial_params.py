"""Sources of parameters: a seed, a checkpoint of the run, or another run's checkpoint."""

from collections.abc import Callable, Container, Iterable
import pathlib
from typing import Any

import jax

from t5x_lite.core import trees
from t5x_lite.core.errors import UserError
from t5x_lite.models import Network, weights
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.checkpoints import check_vocabulary, reader_of
from t5x_lite.training.state import (
  TrainState,
  abstract_params,
  all_params,
  init_state,
  quantize_frozen,
  saved_params,
  shardings_of,
  split_params,
)

FROZEN_FROM = 'frozen_from'   # in a checkpoint's meta: the seed, or the run and step
ADDED = 'added_parameters'    # the paths of what the adaptation added to its base
QUANTIZED = 'quantized'       # Layout.settings of the kernels that it holds in codes


def added_paths(network: Network) -> list[str]:
  """The parameters that the network's adaptation adds, as a checkpoint's meta names them."""
  return [path for path in trees.flatten(network.shapes) if network.is_added(path)]


def load_params(model_dir: pathlib.Path, network: Network, partitioner: Partitioner,
                step: int | None, vocabulary: str | None = None) -> tuple[Any, int]:
  """(all parameters, step) of a checkpoint of a run, newest if step is None, on the mesh.

  Frozen parameters come from the source that the checkpoint records. Raises UserError if it was
  trained with another vocabulary than the one of this fingerprint.
  """
  abstract = abstract_params(network, partitioner)
  frozen = split_params(network, abstract)[-1]
  source = reader_of(model_dir)
  meta = source.read_newest(step, source.read_meta)
  if QUANTIZED in meta or frozen and FROZEN_FROM not in meta:
    return _load_whole(model_dir, network, abstract, step, vocabulary)
  params, meta, step = load_own(model_dir, network, abstract, step, vocabulary)
  if frozen:
    params = trees.combine(params, load_frozen(network, quantize_frozen(network, frozen), meta))
  return params, step


def load_own(model_dir: pathlib.Path, network: Network, abstract: dict, step: int | None,
             vocabulary: str | None = None) -> tuple[dict, dict[str, Any], int]:
  """(the parameters that a checkpoint itself holds, its meta, its step); see load_params.

  `abstract` has all parameters' ShapeDtypeStructs, with their shardings.
  """
  trained, kept, _ = split_params(network, abstract)
  saved = saved_params({'params': trained, **kept})
  source = reader_of(model_dir)
  params, meta, step = source.read_newest(
      step, lambda step: (*source.restore_params(saved, step), step))
  check_vocabulary(meta, vocabulary, f'{model_dir}, step {step}')
  return params, meta, step


def _load_whole(model_dir, network, abstract, step, vocabulary) -> tuple[dict, int]:
  """(all parameters, step) of a checkpoint that holds what is frozen here, too."""
  found, _, meta, step = _read(model_dir, step, trees.flatten(abstract), network)
  check_vocabulary(meta, vocabulary, f'{model_dir}, step {step}')
  if len(found) < len(trees.flatten(abstract)):
    raise _no_source()
  return _fill(abstract, found), step


def _no_source() -> UserError:
  return UserError('The checkpoint does not record the source of its frozen parameters: it is of '
                   'a run without Experiment.adaptation, or with another')


def origin_of(model_dir: pathlib.Path, step: int, new_from_seed: int = 0) -> dict[str, Any]:
  """What FROZEN_FROM records of a base; what that lacks is drawn from the seed."""
  return {'model_dir': str(model_dir.absolute()), 'step': step, 'new_from_seed': new_from_seed,
          'fingerprint': base_fingerprint(model_dir, step)}


def base_fingerprint(model_dir: pathlib.Path, step: int) -> str | None:
  """Of what is frozen in a run that starts from this checkpoint: of the checkpoint, or its base.

  None if it is not known: an older version wrote a checkpoint, or its base is no longer there.
  """
  source = reader_of(model_dir)
  origin = source.read_meta(step).get(FROZEN_FROM)
  return source.fingerprint(step) if origin is None else origin_fingerprint(origin)


def origin_fingerprint(origin: dict[str, Any]) -> str | None:
  """As `base_fingerprint`, of FROZEN_FROM in the meta of a run."""
  if 'seed' in origin:
    return f'seed {origin["seed"]}'
  base = pathlib.Path(origin['model_dir'])
  if 'fingerprint' in origin:
    return origin['fingerprint']
  return base_fingerprint(base, origin['step']) if (base / 'checkpoints').is_dir() and (
      origin['step'] in reader_of(base).steps()) else None


def load_frozen(network: Network, abstract: dict, meta: dict[str, Any]) -> dict:
  """The frozen parameters of a checkpoint with this meta: of its base, or its seed.

  They are like `abstract`, the ShapeDtypeStructs of those in a state, some of them quantised.
  """
  origin = meta.get(FROZEN_FROM)
  if origin is None:
    raise _no_source()
  want = {name: network.quantized(name).full(x) if weights.is_structured(x) else x
          for name, x in trees.flatten(abstract, weights.is_structured).items()}
  if 'seed' in origin:
    return _fill(abstract, _draw(network, want, origin['seed']))
  found, *_ = _read(pathlib.Path(origin['model_dir']), origin['step'], want, network)
  if missing := sorted(set(want) - set(found)):
    missing = {name: want[name] for name in missing}   # what was new when the run began
    found |= _draw(network, missing, origin['new_from_seed'])
  return _fill(abstract, found)


def _fill(tree: dict, flat: dict[str, Any]) -> dict:
  return trees.fill(tree, flat, weights.is_structured)


def _draw(network: Network, want: dict[str, Any], seed: int) -> dict[str, Any]:
  """{path: initial value} of these parameters, drawn from a seed, as a state holds them."""
  held = {name: _layout(network, name).struct(x) if _layout(network, name) else x
          for name, x in want.items()}

  def pick():
    drawn = network.init(jax.random.key(seed), _on_one_device(shardings_of(held)))
    return {name: _layout(network, name).quantize(x) if _layout(network, name) else x
            for name, x in trees.flatten(drawn).items() if name in want}

  return jax.jit(pick, out_shardings=shardings_of(held))()


def _layout(network: Network, name: str) -> weights.Layout | None:
  return None if network.is_trained(name) else network.quantized(name)


def begin(network: Network, abstract: dict, params: dict, found: Container[str]) -> dict:
  """All parameters, of which those that follow from the base have their first values.

  Args:
    network: whose `begin` gives them.
    abstract: all parameters' ShapeDtypeStructs, with their shardings.
    params: all parameters, those as they were drawn or read.
    found: the paths of those that were read of another run, which stay as they are.

  Raises UserError if some of them were read, and others not.
  """
  if network.begin is None:
    return params
  flat = trees.flatten(params, weights.is_structured)
  new = jax.eval_shape(network.begin, flat)
  read = [name for name in new if name in found]
  if len(read) == len(new):
    return params
  if read:
    raise UserError(f'{trees.summarize(read)} of the run to start from would not fit what begins '
                    f'anew here, {trees.summarize(set(new) - set(read))}: start from a run of the '
                    'same Experiment.adaptation, or from one without (t5x-lite merge)')
  structs = trees.flatten(abstract)
  shardings = {name: structs[name].sharding for name in new}
  return _fill(abstract, flat | jax.jit(network.begin, out_shardings=shardings)(flat))


def quantize_each(network: Network, abstract: dict[str, jax.ShapeDtypeStruct],
                  arrays: Iterable[tuple[str, jax.Array]]) -> dict[str, Any]:
  """{path: parameter as a state holds it} of (path, array) one after another.

  Each is quantised before the next is asked for, so that no two whole arrays of those that are
  quantised are ever in memory. `abstract` has their ShapeDtypeStructs.
  """
  held = {}
  for name, x in arrays:
    layout = _layout(network, name)
    if layout is not None:
      shardings = shardings_of(layout.struct(abstract[name]))
      x = jax.block_until_ready(jax.jit(layout.quantize, out_shardings=shardings)(x))
    held[name] = x
  return held


def _on_one_device(shardings) -> bool:
  return all(len(s.device_set) == 1 for s in jax.tree.leaves(shardings))


def _read(model_dir: pathlib.Path, step: int | None, want: dict[str, Any], network: Network):
  """({path: value} of the wanted parameters that a run has, paths of all it holds, meta, step).

  Where some are to be quantised they are read one by one. Those that its checkpoint lacks, because
  they were frozen, are read from the source it records.
  """
  source = reader_of(model_dir)

  def read(step):
    have = trees.flatten(source.param_shapes(step))
    coded, have = _take_coded(have, want)
    for name in want:
      if name in have and tuple(have[name].shape) != want[name].shape:
        raise UserError(f'{model_dir}, step {step}: {name!r} has shape {tuple(have[name].shape)}, '
                        f'this model needs {want[name].shape}: use the same model config')
    if coded or any(_layout(network, name) for name in want):
      both = {name: x for name, x in want.items() if name in have}
      found = quantize_each(network, both, source.restore_each(both, step))
      found |= _read_coded(source, step, {name: want[name] for name in coded}, network)
      return have | coded, found, source.read_meta(step), step
    # Orbax restores whole items: unwanted parameters are read too, and dropped here.
    target = {n: want.get(n, jax.ShapeDtypeStruct(have[n].shape, have[n].dtype)) for n in have}
    return have, *source.restore_params(trees.unflatten(target), step), step

  have, restored, meta, step = source.read_newest(step, read)
  found = {n: x for n, x in trees.flatten(restored, weights.is_structured).items() if n in want}
  # What an adaptation adds here that run has only if its own did.
  missing = {n: x for n, x in want.items() if n not in have
             and (not network.is_added(n) or n in meta.get(ADDED, ()))}
  if missing and FROZEN_FROM in meta:
    frozen = trees.flatten(load_frozen(network, trees.unflatten(missing), meta),
                           weights.is_structured)
    found |= frozen
    have |= dict.fromkeys(frozen)
  return found, set(have), meta, step


def _take_coded(have: dict[str, Any], want: dict[str, Any]) -> tuple[dict, dict]:
  """({path: {}} of the wanted parameters that are held in codes, {path: struct} of the others)."""
  coded = {name: {} for name in want if name not in have and any(
      path.startswith(f'{name}/') for path in have)}
  inside = tuple(f'{name}/' for name in coded)
  return coded, {path: x for path, x in have.items() if not path.startswith(inside or '\0')}


def _read_coded(source, step: int, want: dict[str, jax.ShapeDtypeStruct], network: Network
                ) -> dict[str, Any]:
  """{path: leaf} of parameters that a checkpoint holds in codes: as they are, if they are to be."""
  held = source.read_meta(step).get(QUANTIZED, {})
  for name in want:
    layout = _layout(network, name)
    if layout is None or layout.settings != held:
      settings = ', '.join(f'{key} = {value}' for key, value in held.items() if value is not None)
      raise UserError(
          f'{source.folder.parent}, step {step}, holds {name} in codes alone, of {settings}: set '
          'Experiment.adaptation to @quantized.Quantized() of the same (--gin_file=runs/qlora.gin '
          'trains an adapter), or import the model without --quantize')
  structs = {name: _layout(network, name).struct(x) for name, x in want.items()}
  arrays = dict(source.restore_each(trees.flatten(structs), step))
  return trees.fill(structs, arrays)


def replace_from_run(params: dict, abstract: dict, network: Network, model_dir: pathlib.Path,
                     step: int | None, missing_ok: tuple[str, ...], vocabulary: str | None = None,
                     seed: int = 0) -> tuple[dict, str, int]:
  """(all parameters, with the values of another run's checkpoint, a summary line, its step).

  `params` has the fresh values of those that are saved; of others they are drawn from `seed`. A
  parameter that checkpoint lacks must begin with one of `missing_ok`, or be of an adaptation, and
  keeps its fresh value; one that only it has is left out and named. Raises UserError for any other
  difference, and for the run of an adapter that this network does not have.
  """
  want = trees.flatten(abstract)
  found, have, meta, step = _read(model_dir, step, want, network)
  missing = [n for n in want if n not in found and not network.is_added(n)
             and not n.startswith(missing_ok or ('\0',))]
  # An older version did not name what was added: all that its adapted runs trained may be.
  added = meta.get(ADDED, have if FROZEN_FROM in meta else ())
  if lost := sorted((set(added) & have) - set(want)):
    raise UserError(
        f'{model_dir}, step {step}, is of an adapter, {trees.summarize(lost)}: set the same '
        'Experiment.adaptation, or start from it merged: '
        f't5x-lite merge --from={model_dir} --to=FOLDER')
  if missing:
    raise UserError(
        f'{model_dir}, step {step}, lacks {trees.summarize(missing)}: use the same model config, '
        'or let them be new with '
        f'--gin.InitFrom.missing_ok="{(*missing_ok, *_prefixes(missing, found))}"')
  check_vocabulary(meta, vocabulary, f'{model_dir}, step {step}')
  kept = trees.flatten(params) | found
  if frozen := {name: x for name, x in want.items() if name not in kept}:
    kept |= _draw(network, frozen, seed)
  kept = begin(network, abstract, _fill(abstract, kept), found)
  fresh, unused = sorted(set(want) - set(found)), sorted(have - set(want))
  line = f'Started from {model_dir}, step {step}: {len(found)} parameters'
  line += f'; new: {trees.summarize(fresh)}' if fresh else ''
  line += f'; not used: {trees.summarize(unused)}' if unused else ''
  return kept, line, step


def _prefixes(missing: list[str], found: Iterable[str]) -> tuple[str, ...]:
  """The shortest paths, and so prefixes, that all of `missing` and none of `found` begin with."""
  prefixes = []
  for name in missing:
    parts = name.split('/')
    paths = ('/'.join(parts[:depth]) for depth in range(1, 1 + len(parts)))
    prefixes.append(next((path for path in paths
                          if not any(other.startswith(path) for other in found)), name))
  return tuple(dict.fromkeys(prefixes))


def fresh_state(network: Network, partitioner: Partitioner, optimizer, abstract: TrainState,
                seed: int, model_dir: pathlib.Path | None, step: int | None,
                missing_ok: tuple[str, ...], meta: dict[str, Any], log: Callable[[str], None]
                ) -> TrainState:
  """The state before step 0: drawn from the seed, or with the parameters of another run.

  Records the source of frozen parameters in `meta`; passes a summary of the other run to `log`.
  """
  shardings = shardings_of(abstract)
  # Frozen parameters follow: those of another run need not be drawn.
  state = jax.jit(lambda: init_state(network, optimizer, seed, _on_one_device(shardings))
                  | {'frozen': {}}, out_shardings=shardings | {'frozen': {}})()
  if model_dir is not None:
    params, line, step = replace_from_run(
        saved_params(state), abstract_params(network, partitioner),
        network, model_dir, step, missing_ok, meta['vocabulary'], seed)
    log(line)
    state = _with_params(state, network, params)
  else:
    if abstract['frozen']:   # as a run that resumes draws them: programs differ in the last bit
      state = state | {'frozen': load_frozen(network, abstract['frozen'],
                                             {FROZEN_FROM: {'seed': seed}})}
    state = _with_params(state, network, begin(
        network, abstract_params(network, partitioner), all_params(state), ()))
  if abstract['frozen']:
    meta[FROZEN_FROM] = {'seed': seed} if model_dir is None else origin_of(model_dir, step, seed)
  return state


def _with_params(state: TrainState, network: Network, params: dict) -> TrainState:
  trained, kept, frozen = split_params(network, params)
  return state | {'params': trained, 'frozen': frozen} | kept

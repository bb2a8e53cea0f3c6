"""An adapted model learns the same of the same examples in different batches, on any devices."""

import functools
import itertools

import jax
import numpy as np
import pytest

from t5x_lite import models
from t5x_lite.adaptation.llama_adapter import LlamaAdapter
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.prefix import PrefixTuning
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.core import trees
from t5x_lite.objectives.language_model import CrossEntropy
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner
from t5x_lite.training.state import abstract_params, quantize_frozen, shardings_of, split_params
from t5x_lite.training.step import loss_and_gradients

ADAPTATIONS = {
    'dora': Lora(rank=4, dora=True), 'prefix': PrefixTuning(length=3),
    'llama_adapter': LlamaAdapter(length=3), 'qlora': Quantized(adaptation=Lora(rank=4), block=8)}
ONE, MESH = MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope='module')
def gradients(configs, random_params, packed_examples, pack_rows):
  """(name, kind of batch, microbatches, mesh) -> (objective, weight, gradients by path) of an
  adapted decoder, whose added parameters are not 0. Batches are of 16 rows, so that one program
  computes all."""
  rows = [row for seed in (0, 1) for row in packed_examples(configs['decoder'], seed)]
  single = [[example] for example in itertools.chain(*rows[:6])]
  batches = {'packed': pack_rows(rows), 'six packed': pack_rows(rows[:6], num_rows=16),
             'six single': pack_rows(single, num_rows=16)}

  @functools.cache
  def built(name, mesh):
    config = configs['decoder']
    partitioner = Partitioner(mesh.make(jax.devices()[:1] if mesh is ONE else None))
    network = ADAPTATIONS[name].adapt(models.build_network(config, partitioner))
    base = trees.flatten(random_params(config))
    rng = np.random.default_rng(0)
    drawn = {path: base[path] if path in base else rng.normal(0, 0.2, x.shape).astype(np.float32)
             for path, x in trees.flatten(network.shapes).items()}
    abstract = abstract_params(network, partitioner)
    params = jax.device_put(trees.fill(network.shapes, drawn), shardings_of(abstract))
    trained, _, frozen = split_params(network, params)
    held = quantize_frozen(network, split_params(network, abstract)[2])
    quantize = jax.jit(lambda x: quantize_frozen(network, x), out_shardings=shardings_of(held))
    return network, partitioner, trained, quantize(frozen)

  @functools.cache
  def compiled(name, microbatches, mesh):
    network, partitioner, trained, frozen = built(name, mesh)
    step = jax.jit(lambda params, frozen, batch: loss_and_gradients(
        network, [CrossEntropy()], params, batch, None, frozen=frozen, microbatches=microbatches))
    return lambda batch: step(trained, frozen, partitioner.put_batch(batch))

  def run(name, batch, microbatches=1, mesh=ONE):
    sums, grads = compiled(name, microbatches, mesh)(batches[batch])
    return float(sums.total), float(sums.weight), trees.flatten(jax.device_get(grads))

  return run


def assert_same(got, want):
  assert got[1] == want[1] > 0
  assert got[0] == pytest.approx(want[0], rel=1e-5)
  for path, x in want[2].items():
    np.testing.assert_allclose(got[2][path], x, rtol=2e-3, atol=2e-4 * np.abs(x).max(),
                               err_msg=path)
    assert np.abs(x).max() > 0, path


@pytest.mark.parametrize('name', ADAPTATIONS)
def test_packed_examples_teach_what_the_same_examples_one_a_row_do(name, gradients):
  assert_same(gradients(name, 'six packed'), gradients(name, 'six single'))


@pytest.mark.parametrize('name', ['prefix', 'qlora'])
def test_accumulated_parts_teach_what_the_batch_does(name, gradients):
  assert_same(gradients(name, 'packed', microbatches=4), gradients(name, 'packed'))


@pytest.mark.parametrize('name', ADAPTATIONS)
def test_eight_devices_teach_what_one_does(name, gradients):
  assert_same(gradients(name, 'packed', mesh=MESH), gradients(name, 'packed'))

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
    'lora': Lora(rank=4), 'dora': Lora(rank=4, dora=True), 'prefix': PrefixTuning(length=3),
    'llama_adapter': LlamaAdapter(length=3), 'qlora': Quantized(adaptation=Lora(rank=4), block=8)}
ONE, MESH = MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope='module')
def gradients(configs, random_params):
  """(name, batch, microbatches, mesh) -> (sums by name, gradients by path) of an adapted decoder,
  whose added parameters are not 0."""

  @functools.cache
  def built(name, mesh):
    config = configs['decoder']
    partitioner = Partitioner(mesh.make(jax.devices()[:1] if mesh is ONE else None))
    network = ADAPTATIONS[name].adapt(models.build_network(config, partitioner))
    base = trees.flatten(random_params(config))
    rng = np.random.default_rng(0)
    drawn = {path: base[path] if path in base else rng.normal(0, 0.2, x.shape).astype(np.float32)
             for path, x in trees.flatten(network.shapes).items()}
    params = jax.device_put(trees.fill(network.shapes, drawn),
                            shardings_of(abstract_params(network, partitioner)))
    trained, _, frozen = split_params(network, params)
    return network, partitioner, trained, quantize_frozen(network, frozen)

  def run(name, batch, microbatches=1, mesh=ONE):
    network, partitioner, trained, frozen = built(name, mesh)
    step = jax.jit(lambda params, batch: loss_and_gradients(
        network, [CrossEntropy()], params, batch, None, frozen=frozen, microbatches=microbatches))
    sums, grads = step(trained, partitioner.put_batch(batch))
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
def test_packed_examples_teach_what_the_same_examples_one_a_row_do(
    name, gradients, configs, packed_examples, pack_rows):
  rows = packed_examples(configs['decoder'])[:6]
  single = [[example] for example in itertools.chain(*rows)]
  assert_same(gradients(name, pack_rows(rows, num_rows=14)), gradients(name, pack_rows(single)))


@pytest.mark.parametrize('name', ADAPTATIONS)
def test_accumulated_parts_teach_what_the_batch_does(name, gradients, configs, packed_batch):
  batch = packed_batch(configs['decoder'])
  assert_same(gradients(name, batch, microbatches=4), gradients(name, batch))


@pytest.mark.parametrize('name', ADAPTATIONS)
def test_eight_devices_teach_what_one_does(name, gradients, configs, packed_batch):
  batch = packed_batch(configs['decoder'])
  assert_same(gradients(name, batch, mesh=MESH), gradients(name, batch))

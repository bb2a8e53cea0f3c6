"""Cross-entropy against closed forms, published figures and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from t5x_lite.objectives.cross_entropy import cross_entropy

V = 11


def draw_batch(seed=0):
  rng = np.random.default_rng(seed)
  return (2 * rng.normal(size=(2, 3, V)).astype(np.float32), rng.integers(0, V, (2, 3)),
          rng.choice([0.0, 0.5, 2.0], (2, 3)).astype(np.float32))


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
  got = cross_entropy(jnp.full((1, 2, V), 5.0), jnp.zeros((1, 2), int), jnp.ones((1, 2)))
  assert got['loss'] == got['objective'] == pytest.approx(2 * np.log(V), rel=1e-6)
  assert got['weight'] == 2


def test_sums_are_weighted_and_not_divided():
  logits, targets, weights = draw_batch()
  log_p = scipy.special.log_softmax(logits.astype(np.float64), -1)
  token_loss = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
  got = cross_entropy(logits, targets, weights)
  assert got['loss'] == pytest.approx((token_loss * weights).sum(), rel=1e-5)
  assert got['objective'] == got['loss']
  assert got['weight'] == weights.sum()
  assert got['correct'] == ((logits.argmax(-1) == targets) * weights).sum()


def test_correct_counts_the_weight_of_right_answers():
  targets = jnp.array([[1, 2, 3, 4]])
  logits = 9 * jax.nn.one_hot(jnp.array([[1, 2, 0, 4]]), V)
  got = cross_entropy(logits, targets, jnp.array([[1.0, 0.5, 4.0, 0.0]]))
  assert got['correct'] == 1.5


def test_a_row_scores_the_log_likelihood_of_t5x():
  logits = jnp.arange(24, dtype=jnp.float32).reshape(2, 4, 3)
  targets = jnp.array([[1, 2, 1, 0], [0, 1, 0, 2]])
  weights = jnp.array([[1, 1, 1, 0], [0, 1, 0, 1]])
  sums = jax.vmap(cross_entropy)(logits[:, None], targets[:, None], weights[:, None])
  # T5X's own test allows as much: its figures come from a less exact softmax.
  np.testing.assert_allclose(-sums['loss'], [-3.222973, -1.815315], rtol=1e-4)
  one, two = np.log(np.exp(-1) + 1 + np.exp(1)), np.log(np.exp(-2) + np.exp(-1) + 1)
  np.testing.assert_allclose(sums['loss'], [2 * one + two, one + two], rtol=1e-6)


def test_tokens_without_weight_do_not_count_whatever_they_are():
  logits, targets, weights = draw_batch()
  other = np.where(weights > 0, targets, (targets + 1) % V)
  assert (other != targets).any()
  for got, want in zip(cross_entropy(logits, targets, weights, z_loss=0.0).values(),
                       cross_entropy(logits, other, weights, z_loss=0.0).values()):
    assert got == want


def test_z_loss_adds_the_squared_logarithm_of_the_normaliser_to_the_objective_alone():
  logits = jnp.full((1, 1, V), 2.0)
  got = cross_entropy(logits, jnp.zeros((1, 1), int), jnp.ones((1, 1)), z_loss=0.01)
  log_z = np.log(V) + 2
  assert got['loss'] == pytest.approx(np.log(V), rel=1e-6)
  assert got['objective'] == pytest.approx(np.log(V) + 0.01 * log_z ** 2, rel=1e-6)


@pytest.mark.parametrize('smoothing', [0.1, 0.5])
def test_label_smoothing_is_the_divergence_from_the_soft_target(smoothing):
  logits, targets, _ = draw_batch()
  soft = np.full((2, 3, V), smoothing / (V - 1))
  np.put_along_axis(soft, targets[..., None], 1 - smoothing, -1)
  log_p = scipy.special.log_softmax(logits.astype(np.float64), -1)
  want = scipy.special.rel_entr(soft, np.exp(log_p)).sum()
  got = cross_entropy(logits, targets, np.ones((2, 3)), label_smoothing=smoothing)
  assert got['objective'] == pytest.approx(want, rel=1e-5)
  assert got['loss'] == cross_entropy(logits, targets, np.ones((2, 3)))['loss']


def test_a_perfect_soft_prediction_costs_nothing():
  q = 0.2
  soft = np.full(V, q / (V - 1))
  soft[4] = 1 - q
  got = cross_entropy(jnp.log(soft)[None, None], jnp.array([[4]]), jnp.ones((1, 1)),
                             label_smoothing=q)
  assert got['objective'] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('options', [{}, {'z_loss': 0.1}, {'label_smoothing': 0.2, 'z_loss': 0.05}])
def test_gradient_is_that_of_finite_differences(options):
  logits, targets, weights = draw_batch()
  def objective(flat):
    with jax.enable_x64(True):
      x = jnp.array(flat.reshape(logits.shape), jnp.float64)
      return float(cross_entropy(x, targets, weights, **options)['objective'])
  want = scipy.optimize.approx_fprime(logits.ravel().astype(np.float64), objective, 1e-6)
  got = jax.grad(
      lambda x: cross_entropy(x, targets, weights, **options)['objective'])(logits)
  np.testing.assert_allclose(got.ravel(), want, atol=2e-5)


def test_gradient_is_the_closed_form():
  """(1 + 2 z log Z) softmax - target, times the weight."""
  logits, targets, weights = draw_batch()
  z = 0.1
  log_z = scipy.special.logsumexp(logits, -1, keepdims=True)
  want = (1 + 2 * z * log_z) * scipy.special.softmax(logits, -1) - np.eye(V)[targets]
  got = jax.grad(lambda x: cross_entropy(x, targets, weights, z_loss=z)['objective'])(logits)
  np.testing.assert_allclose(got, want * weights[..., None], atol=1e-5)


def test_large_logits_do_not_overflow():
  logits = jnp.array([[[1e4, 0.0, -1e4]]])
  got = cross_entropy(logits, jnp.array([[1]]), jnp.ones((1, 1)))
  assert got['loss'] == 1e4


def test_integer_weights_and_no_weight_at_all():
  logits, targets, _ = draw_batch()
  got = cross_entropy(logits, targets, np.zeros((2, 3), np.int32), z_loss=0.1)
  assert {k: float(v) for k, v in got.items()} == dict.fromkeys(
      ('objective', 'loss', 'correct', 'weight'), 0.0)


def test_a_tie_is_wrong():
  logits = np.zeros((1, 4, 3), np.float32)
  logits[0, 1, 2] = logits[0, 2, 2] = logits[0, 2, 0] = logits[0, 3, 1] = 1.0
  targets = np.array([[0, 2, 2, 0]])
  sums = cross_entropy(jnp.asarray(logits), jnp.asarray(targets), jnp.ones((1, 4)))
  assert sums['correct'] == 1, 'of a dead model, a sure one, a tie and a wrong one'

"""Reference optima, by direct minimisation."""

import math

import pytest
from scipy import optimize


def _optimal_tokens(form, parameters):
  """The D for which N parameters are optimal: alpha A / N ** alpha = beta B / D ** beta."""
  return (form.beta * form.b / (form.alpha * form.a) * parameters ** form.alpha) ** (1 / form.beta)


@pytest.fixture(scope='session')
def optimal_tokens():
  return _optimal_tokens


@pytest.fixture(scope='session')
def inference_optimum():
  """(N, D) of the minimum 6 N D + 2 N D_served with the loss of an optimal model of so many
  parameters: Sardana et al. 2024 ("Beyond Chinchilla-Optimal", arXiv 2401.00448), equation 2.
  """
  def solve(form, parameters, served):
    loss = form.loss(parameters, _optimal_tokens(form, parameters))
    cost = lambda log_n: math.log(
        math.exp(log_n) * (6 * form.tokens_for(math.exp(log_n), loss) + 2 * served))
    # Below this N no number of tokens reaches the loss.
    low = math.log((form.a / (loss - form.e)) ** (1 / form.alpha))
    found = optimize.minimize_scalar(cost, bounds=(low + 1e-9, math.log(parameters)),
                                     method='bounded', options={'xatol': 1e-12})
    best = math.exp(found.x)
    return best, form.tokens_for(best, loss)

  return solve


@pytest.fixture(scope='session')
def data_constrained_optimum():
  """(N, D) of the lowest `data_constrained_loss` with C = 6 N D."""
  def solve(form, flops, unique):
    middle = math.log(form.optimum(flops)[0])
    loss = lambda log_n: form.data_constrained_loss(
        math.exp(log_n), flops / 6 / math.exp(log_n), unique)
    found = optimize.minimize_scalar(loss, bounds=(middle - 4, middle + 4), method='bounded',
                                     options={'xatol': 1e-12})
    return math.exp(found.x), flops / 6 / math.exp(found.x)

  return solve

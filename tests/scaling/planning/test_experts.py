"""Plans of models with experts: sizes, allocation, gin, and what is refused."""

import json
import re

import pytest

from scaling.laws.experts import JOINT
from scaling.planning import planner
from scaling.planning.request import Request
from t5x_lite import cli
from t5x_lite.core.errors import UserError
from t5x_lite.cost import accounting


@pytest.mark.parametrize('experts, top_k, granularity', [
    (8, 2, 1), pytest.param(8, 1, 1, marks=pytest.mark.slow),
    pytest.param(32, 4, 4, marks=pytest.mark.slow)])
def test_active_parameters_are_those_of_the_law_and_flops_those_of_the_model(
    experts, top_k, granularity):
  plan = planner.make_plan(Request(flops=3e19, experts=experts, top_k=top_k,
                                   granularity=granularity, vocab_size=50_257))
  config, sizes = plan.config, accounting.parameters(plan.config)
  assert (config.num_experts, config.experts_per_token) == (experts, top_k)
  assert plan.parameters == sizes.active < sizes.total == plan.total_parameters
  assert plan.parameters == pytest.approx(plan.optimum[0], rel=0.25)
  assert plan.flops == pytest.approx(3e19, rel=0.01)
  assert plan.flops == pytest.approx(
      accounting.train_flops(config, 0, 2048) / 2048 * plan.tokens, rel=1e-9)
  assert config.mlp_dim / config.embed_dim == pytest.approx(
      11008 / 4096 / granularity, rel=0.15)
  form = JOINT.at(experts / top_k)
  assert plan.loss == pytest.approx(form.loss(sizes.active, plan.tokens))
  assert plan.rounding_loss < 5e-3
  assert any('without experts' in line for line in plan.warnings)


def test_the_command_names_the_mixture_and_its_gin_launches(tmp_path, capsys):
  path = tmp_path / 'plan.gin'
  flags = ['--flops=1e19', '--experts=8', '--top_k=2', '--vocab_size=384', '--task=t']
  assert cli.main(['scaling', 'plan', *flags, f'--output={path}']) == 0
  text = capsys.readouterr().out
  assert 'Plan by joint_experts' in text and '8 experts of' in text and '2 active' in text
  assert 'an active parameter' in text and re.search(r'Without experts, \S+ FLOPs reach', text)
  assert '\nbesiroglu ' not in text
  assert cli.main(['describe', f'--gin_file={path}', '--json']) == 0
  table = json.loads(capsys.readouterr().out)
  assert table['train_flops'] == pytest.approx(1e19, rel=0.01)
  assert f'{table["parameters"]:,} parameters' in text


def test_a_budget_of_a_model_with_experts_is_compared_with_their_laws(capsys):
  assert cli.main(['scaling', 'budget', 'mixtral_8x7b', '--tokens=1e12', '--length=4096',
                   '--json']) == 0
  expected = json.loads(capsys.readouterr().out)['expected']
  assert list(expected) == ['joint_experts']
  assert expected['joint_experts']['parameters'] == 12_879_925_248


@pytest.mark.parametrize('flags, message', [
    (dict(top_k=2), '--top_k=2 is of experts: give --experts'),
    (dict(granularity=4), '--granularity=4 is of experts'),
    (dict(experts=8, top_k=8), 'give fewer than all experts'),
    (dict(experts=1), '--experts=1: give 2 to 4,096'),
    (dict(experts=8, family='gpt2'), 'give --family=llama'),
    (dict(experts=8, family='t5'), 'give --family=llama'),
    (dict(experts=8, max_parameters=1e9), 'count the active ones'),
    (dict(experts=8, law='besiroglu'), 'is of models without experts: choose from joint_experts'),
    (dict(experts=8, law='fine_grained'), 'is of models with experts: give --experts of an'),
    (dict(law='joint_experts'), 'is of models with experts: give --experts'),
    (dict(experts=8, loss=1.2), 'no budget gets below 1.36')])
def test_refusals(flags, message):
  with pytest.raises(UserError, match=re.escape(message)):
    planner.make_plan(Request(**{'flops': None if 'loss' in flags else 1e20,
                                 'vocab_size': 50_257, **flags}))


def test_a_fit_of_dense_models_is_no_law_of_experts(tmp_path):
  (tmp_path / 'fit.json').write_text('{"approach": 3}')
  with pytest.raises(UserError, match='of models without experts: .*--form=experts'):
    planner.make_plan(Request(flops=1e20, experts=8, fit=str(tmp_path)))


@pytest.mark.slow
def test_a_mixture_that_does_not_fit_is_cured_by_fewer_experts():
  request = dict(flops=1e19, vocab_size=50_257, hardware='t4', chips=1, top_k=1)
  with pytest.raises(UserError, match='do not fit the memory of|do not fit 1 x') as caught:
    planner.make_plan(Request(experts=64, **request))
  flags = dict(re.findall(r'--(\w+)=(\d+)', str(caught.value)))
  cured = {name: int(value) for name, value in flags.items()}
  assert cured and 'max_parameters' not in cured
  plan = planner.make_plan(Request(**{'experts': 64, **request, **cured}))
  assert plan.config.num_experts == cured.get('experts', 64)

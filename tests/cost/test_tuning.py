"""The ways to tune a model side by side, against closed forms and the runs' own accounting."""

import dataclasses

import pytest

from t5x_lite import models
from t5x_lite.adaptation.lora import Lora
from t5x_lite.adaptation.quantization.quantized import Quantized
from t5x_lite.cost import accounting, memory, summary, tuning
from t5x_lite.training.optimizers import AdamW
from t5x_lite.training.schedules import Constant

LLAMA = models.ModelConfig(   # 7B
    family='decoder_only', vocab_size=32000, embed_dim=4096, num_layers=32, num_heads=32,
    mlp_dim=11008, tied_embeddings=False, dtype='bfloat16', remat='full')


def test_llama_7b_takes_a_third_by_lora_and_less_by_qlora():
  ways = tuning.compare_ways(LLAMA, (0, 512), mesh={}, rows=1, platform='gpu')
  full, lora, qlora = (ways[name] for name in (tuning.FULL, tuning.LORA, tuning.QLORA))
  assert full['trained_parameters'] == 6_738_415_616
  kernels = 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008))   # of rank 8
  assert lora['trained_parameters'] == qlora['trained_parameters'] == 8 * kernels
  assert full['state'] == pytest.approx(16 * full['trained_parameters'])
  assert lora['step'] < full['step'] / 3 and qlora['step'] < lora['step'] / 3
  assert full['bits'] == lora['bits'] == 32
  whole = 2 * 32000 * 4096 + 65 * 4096   # embeddings, output layer and norms
  rest = full['trained_parameters'] - whole
  assert qlora['bits'] == pytest.approx((4.127 * rest + 32 * whole) / (rest + whole), abs=1e-3)
  # A frozen kernel has no gradient: two passes of three.
  assert lora['train_flops_per_token'] == qlora['train_flops_per_token']
  assert 0.66 < lora['train_flops_per_token'] / full['train_flops_per_token'] < 0.7


def test_a_runs_own_settings_are_taken_and_what_it_refuses_is_said():
  config = models.ModelConfig(family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2,
                              num_heads=4, mlp_dim=48)
  compare = lambda adaptation: tuning.compare_ways(
      config, (0, 16), mesh={}, rows=2, adaptation=adaptation)
  ways = compare(Quantized(adaptation=Lora(rank=4, targets=('attention',)), block=16))
  network = Lora(rank=4, targets=('attention',)).adapt(models.build_network(config))
  assert ways['LoRA']['train_flops_per_token'] * 16 == accounting.train_flops(
      config, 0, 16, network=network)
  assert ways['QLoRA']['trained_parameters'] == 2 * 4 * 4 * (32 + 32)
  refused = compare(Lora(rank=4))['QLoRA']
  assert list(refused) == ['refused'] and 'blocks of 64 do not divide' in refused['refused']
  lines = summary.tuning_lines(compare(Lora(rank=4)))
  assert lines[1].split()[-1] == '-' and lines[-1].startswith('QLoRA: Quantized.block = 64')


def test_65b_by_qlora_fits_48_gb_and_a_frozen_output_layer_has_no_gradient():
  config = dataclasses.replace(LLAMA, embed_dim=8192, num_layers=80, num_heads=64, num_kv_heads=64,
                               mlp_dim=22016)
  held = {}
  for rank in (32, 64):
    network = Quantized(adaptation=Lora(rank=rank)).adapt(models.build_network(config))
    held[rank] = memory.per_device(config, mesh={}, rows=1, targets_length=2048, platform='gpu',
                                   network=network)
  assert held[32].total < 48e9 < held[64].total
  # Of rank 64, the paper's, there are moments of 800 million numbers, which may be paged.
  trained = 80 * 64 * (4 * 2 * 8192 + 3 * (8192 + 22016))
  assert held[64].optimizer == pytest.approx(8 * trained)
  paged = AdamW(learning_rate=Constant(rate=2e-4), paged=True)
  assert memory.per_device(config, mesh={}, rows=1, targets_length=2048, platform='gpu',
                           network=network, optimizer=paged).total < 48 * 1024 ** 3
  full = memory.per_device(config, mesh={}, rows=1, targets_length=2048, platform='gpu')
  assert full.logits - held[32].logits == pytest.approx(4 * 32000 * 8192, rel=1e-3)

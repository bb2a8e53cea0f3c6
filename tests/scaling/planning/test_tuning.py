"""The largest model that a chip tunes: it fits, and one a tenth larger does not."""

from scaling.planning import tuning
from scaling.planning.architecture import config_for_size
from t5x_lite import models
from t5x_lite.cost import hardware
from t5x_lite.cost import tuning as ways
from t5x_lite.training import optimizers, schedules

BASE = models.ModelConfig(family='decoder_only', vocab_size=32000, embed_dim=1024, num_layers=12,
                          num_heads=8, head_dim=128, mlp_dim=2816, tied_embeddings=False)


def test_the_largest_model_fits_the_chip_and_a_larger_one_does_not():
  chip = hardware.find_chip('l4')
  optimizer = optimizers.AdamW(learning_rate=schedules.Constant(rate=1.0))
  found = tuning.compare(BASE, (0, 1024), chip, optimizer)
  sizes = {name: way['largest'][0] for name, way in found.items()}
  assert 8 * sizes['full'] < 4 * sizes['LoRA'] < sizes['QLoRA']
  for name, way in found.items():
    count, step = way['largest']
    assert 0.85 * chip.device_memory < step <= chip.device_memory, name
    larger = config_for_size(BASE, 1.2 * count)
    cost = ways.compare_ways(
        models.ModelConfig(**vars(larger) | {'remat': 'full', 'dtype': chip.dtype}), (0, 1024),
        mesh={}, rows=1, ways=(name,), optimizer=optimizer, platform=chip.platform)[name]
    assert cost['step'] > chip.device_memory
  lines = tuning.format_tuning(found, chip)
  assert lines[0].startswith('Tuning on one device of 24 GB') and 'largest' in lines[-1]

"""A run's encoder of texts, for commands and for whoever reads vectors."""

import pathlib


def load_encoder(folder: str | pathlib.Path, batch_size: int = 64):
  """The TextEncoder of a run, such as one that t5x-lite import made of sentence-transformers'.

  Raises UserError for a folder that is no run, or a model that is no encoder.
  """
  from t5x_lite.commands import infer
  from t5x_lite.commands.adapters import load_chosen
  from t5x_lite.experiment import gin_config
  from t5x_lite.inference.text_encoder import TextEncoder
  run = gin_config.load_run(folder)
  network, partitioner = run.build_network(run.mesh.make())
  params, _ = load_chosen(run, network, partitioner, run.infer.step, run.data.fingerprint(), ())
  return TextEncoder(network, params, partitioner, run.data.tokenizer('inputs'),
                     run.data.lengths.get('inputs') or run.model.max_length or 512,
                     frame=infer.frame_of(run.infer, run.data), batch_size=batch_size)

"""Runs the functions of the folder that this file is in.

Needs jax, which reads such files with flatbuffers, numpy and safetensors:

    pip install jax flatbuffers safetensors

    python load.py --new=20 1 403 407   # ids of a prompt -> the ids that follow

`load()['score'](tokens)` and the like take arrays as model.json says; parameters are read once.
"""

import argparse
import functools
import json
import pathlib

import jax
from jax import export
import numpy as np
from safetensors.numpy import load_file


def load(folder=pathlib.Path(__file__).parent):
  """{name: function of arrays} of a folder; SystemExit if this version of jax cannot read it."""
  about = json.loads((folder / 'model.json').read_text())
  version = about['calling_convention_version']
  oldest = export.minimum_supported_calling_convention_version
  newest = export.maximum_supported_calling_convention_version
  if not oldest <= version <= newest:
    raise SystemExit(f'error: {folder} has the calling convention {version} of jax '
                     f'{about["jax"]}, and jax {jax.__version__} reads {oldest} to {newest}')
  params = jax.device_put(load_file(folder / 'params.safetensors'))
  read = lambda name: export.deserialize(bytearray((folder / f'{name}.stablehlo').read_bytes()))
  return {name: functools.partial(jax.jit(read(name).call), params) for name in about['functions']}


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('ids', type=int, nargs='+')
  parser.add_argument('--new', type=int, default=16)
  args = parser.parse_args()
  ids, room = np.asarray([args.ids], np.int32), np.zeros(args.new, np.int32)
  functions, valid = load(), np.ones(ids.shape, bool)
  about = json.loads(pathlib.Path(__file__).with_name('model.json').read_text())['functions']
  if 'inputs' in about.get('generate', about['score'])['arguments']:   # which a decoder answers
    print(*np.asarray(functions['generate'](ids, valid, np.zeros((1, 1), np.int32), room))[0])
  elif 'generate' in functions:
    print(*np.asarray(functions['generate'](ids, valid, room))[0])
  else:
    print(*np.asarray(functions['score'](ids, valid))[0].argmax(-1))


if __name__ == '__main__':
  main()

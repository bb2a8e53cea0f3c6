"""A worker of decode.py: llama.cpp on a GGUF file, by llama-cpp-python, in a Python that has it."""

import ctypes
import os

import harness
import numpy as np


def prepare(case):
  import llama_cpp as lc

  threads, rows = int(os.environ['NPROC']), case['rows']
  prompt = harness.prompt(case['family'], case['size'], rows, case['prompt'])
  model = lc.llama_model_load_from_file(case['file'].encode(), lc.llama_model_default_params())
  params = lc.llama_context_default_params()
  # What each call reads, as long prompts one by one; keys and values in float32 as on all sides.
  params.n_ctx, params.n_seq_max = rows * case['length'], rows
  params.n_batch = max(harness.SIZES['M']['length'], case['prompt'])
  params.n_threads = params.n_threads_batch = threads
  params.type_k = params.type_v = lc.GGML_TYPE_F32
  # The defaults take 2.5 to 3 times as long with 8 rows.
  params.flash_attn_type, params.kv_unified = 0, True
  context = lc.llama_init_from_model(model, params)
  assert model and context, case
  vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
  batch = lc.llama_batch_init(params.n_batch, 0, 1)

  def read(tokens, first_row, position):
    """Reads [rows, tokens]; returns the likeliest next id of each row."""
    length, wanted = tokens.shape[1], []
    for i, token in enumerate(tokens.flat):
      row, column = divmod(i, length)
      batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), position + column, 1
      batch.seq_id[i][0], batch.logits[i] = first_row + row, column == length - 1
      if column == length - 1:
        wanted.append(i)
    batch.n_tokens = tokens.size
    assert lc.llama_decode(context, batch) == 0
    logits = (lc.llama_get_logits_ith(context, i) for i in wanted)
    return [np.ctypeslib.as_array(ctypes.cast(x, ctypes.POINTER(ctypes.c_float)), (vocab,)).argmax()
            for x in logits]

  def generate(new):
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    at_once = max(1, params.n_batch // prompt.shape[1])
    tokens = [token for first in range(0, rows, at_once)
              for token in read(prompt[first:first + at_once], first, 0)]
    for position in range(case['prompt'], case['prompt'] + new - 1):
      tokens = read(np.array(tokens)[:, None], 0, position)

  info = {'system': lc.llama_print_system_info().decode()}
  return {'': lambda: generate(case['new']), 'first': lambda: generate(1)}, info


if __name__ == '__main__':
  harness.serve(prepare)

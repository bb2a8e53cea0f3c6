"""What llama.cpp makes of a GGUF file, as JSON: python run_llama_cpp.py < requests.json.

A request is {path, length, prompt, new, text, texts}: `new` greedy tokens after the prompt, the
perplexity of a text, the ids of texts. Needs llama-cpp-python alone; keys and values in float32.

llama_cpp.json holds what it gave for exports in float32 (llama-cpp-python 0.3.36).
"""

import json
import sys

from llama_cpp import Llama
import numpy as np


def answer(path, length, prompt, new, text, texts=()):
  """The record of one request."""
  model = Llama(path, n_ctx=length, n_batch=length, logits_all=True, n_threads=1, verbose=False,
                type_k=0, type_v=0, flash_attn=False)
  ids_of = lambda text: model.tokenize(text.encode(), add_bos=True, special=False)
  found = {'ids': [ids_of(text) for text in texts]}
  if prompt is not None:
    found['prompt_ids'], tokens = ids_of(prompt), []
    model.eval(found['prompt_ids'])
    for _ in range(new):
      tokens.append(int(model._scores[-1].argmax()))
      model.eval(tokens[-1:])
    found |= {'tokens': tokens, 'output': model.detokenize(tokens).decode()}
  if text is not None:
    model.reset()
    ids = ids_of(text)
    model.eval(ids)
    logits = model._scores[:len(ids)].astype(np.float64)
    log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_p -= logits.max(-1, keepdims=True)
    nll = -log_p[np.arange(len(ids) - 1), ids[1:]]
    found |= {'text_ids': ids, 'perplexity': float(np.exp(nll.mean()))}
  return found


if __name__ == '__main__':
  print(json.dumps([answer(**request) for request in json.load(sys.stdin)]))

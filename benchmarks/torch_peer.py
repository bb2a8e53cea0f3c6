"""A worker of speed.py, decode.py and tuning.py: transformers (and peft) on torch, eager."""

import os

import harness


def _model(family: str, size: str, **sizes):
  import transformers as tr

  c = harness.SIZES[size] | sizes
  gpt = dict(vocab_size=c['vocab'], n_positions=c['length'], n_embd=c['width'],
             n_layer=c['layers'], n_head=c['heads'], resid_pdrop=0.0, embd_pdrop=0.0,
             attn_pdrop=0.0, bos_token_id=0, eos_token_id=None)
  usual = dict(vocab_size=c['vocab'], hidden_size=c['width'], num_hidden_layers=c['layers'],
               num_attention_heads=c['heads'], max_position_embeddings=c['length'])
  if family == 'gpt2':
    return tr.GPT2LMHeadModel(tr.GPT2Config(**gpt))
  if family == 'llama':
    return tr.LlamaForCausalLM(tr.LlamaConfig(
        **usual, intermediate_size=c['gated_mlp'], bos_token_id=0, eos_token_id=None))
  if family == 't5':
    return tr.T5ForConditionalGeneration(tr.T5Config(
        vocab_size=c['vocab'], d_model=c['width'], d_kv=c['width'] // c['heads'],
        d_ff=c['gated_mlp'], num_layers=c['layers'], num_heads=c['heads'], dropout_rate=0.0,
        feed_forward_proj='gated-gelu', tie_word_embeddings=False, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=None))
  return tr.BertForMaskedLM(tr.BertConfig(
      **usual, intermediate_size=4 * c['width'], hidden_dropout_prob=0.0,
      attention_probs_dropout_prob=0.0))


def _adapted(model):
  """LoRA by peft on all linear layers of the blocks."""
  import peft

  return peft.get_peft_model(model, peft.LoraConfig(
      r=harness.RANK, lora_alpha=harness.RANK, target_modules='all-linear'))


def prepare(case):
  import torch

  torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
  torch.set_flush_denormal(True)   # as XLA does; T5's unscaled attention is full of them
  torch.manual_seed(0)
  family, size = case['family'], case['size']
  model = _model(family, size, **{k: case[k] for k in ('length',) if k in case})
  if case.get('tune', 'full') == 'lora':
    model = _adapted(model)
  info = {'parameters': sum(p.numel() for p in model.parameters()), 'torch': torch.__version__}
  if case['task'] == 'decode':
    model.eval()
    tokens = torch.tensor(harness.prompt(
        family, size, case['rows'], case.get('prompt', harness.PROMPT))).long()

    def generate(new):
      with torch.inference_mode():
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False,
                              max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
    steps = {'': lambda: generate(case.get('new', harness.NEW))}
    return steps | ({'first': lambda: generate(1)} if case.get('apart') else {}), info

  trained = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                fused=True)
  data = []
  for batch in harness.batches(family, size, answers=case.get('answers', 1.0)):
    inputs = torch.tensor(batch['inputs']).long()
    labels = inputs if family in ('gpt2', 'llama') else torch.tensor(batch['targets']).long()
    weights = torch.tensor(batch['weights'])
    if family in ('gpt2', 'llama'):   # which shift the labels themselves
      weights = torch.roll(weights, 1, 1)
    if family != 't5':
      labels = torch.where(weights > 0, labels, -100)
    data.append((inputs, labels))
  more = {'use_cache': False} if family in ('gpt2', 'llama') else {}
  count = iter(range(10 ** 9))

  def step():
    inputs, labels = data[next(count) % len(data)]
    loss = model(input_ids=inputs, labels=labels, **more).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return step, info


if __name__ == '__main__':
  harness.serve(prepare)

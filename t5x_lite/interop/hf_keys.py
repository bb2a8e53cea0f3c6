"""The keys of a config.json: each is read, known to be irrelevant, or refused by name."""

from collections.abc import Sequence
import re
from typing import Any

from t5x_lite.core.errors import UserError
from t5x_lite.interop.json_files import Json, listed

_NEEDED = object()
# Keys that do not change what a network computes in float32: bookkeeping, training, classes of
# other heads, and what transformers 4 wrote of generation into config.json.
_BOOKKEEPING = """
    _attn_implementation_autoset _commit_hash _name_or_path _num_labels architectures auto_map
    attn_implementation bos_token_id cls_token_id decoder_start_token_id dtype eos_token_id
    finetuning_task gradient_checkpointing id2label initializer_range label2id
    language mask_token_id model_type name_or_path num_labels output_attentions
    output_hidden_states output_past pad_token_id prefix pretraining_tp problem_type return_dict
    sep_token_id task_specific_params tf_legacy_loss tokenizer_class torch_dtype torchscript
    transformers_version use_bfloat16 use_cache vocab_file unsloth_version unsloth_fixed
    chunk_size_feed_forward t5x_lite_vocabulary""".split()
_GENERATION = """
    assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule num_beam_groups
    num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p
    typical_p""".split()
_GPT = """
    attn_pdrop embd_pdrop summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj""".split()
_T5 = 'classifier_dropout initializer_factor n_positions'.split()
IRRELEVANT = {
    # reorder_and_upcast_attn: the same product, in another order and precision
    'gpt2': {*_GPT, 'n_ctx', 'reorder_and_upcast_attn'},
    'openai-gpt': {*_GPT, 'n_ctx', 'predict_special_tokens'},
    'llama': {'attention_dropout'}, 'mistral': {'attention_dropout'},
    'gemma': {'attention_dropout'},
    # cache_implementation: where keys and values are kept
    'gemma2': {'attention_dropout', 'cache_implementation'},
    't5': {*_T5}, 'mt5': {*_T5},
    'bert': {'attention_probs_dropout_prob', 'classifier_dropout', 'directionality',
             'pooler_fc_size', 'pooler_num_attention_heads', 'pooler_num_fc_layers',
             'pooler_size_per_head', 'pooler_type'},
}
# Settings of every transformers model that change what it computes, at the value of a plain one.
_PLAIN = {'add_cross_attention': False, 'cross_attention_hidden_size': None, 'is_decoder': False,
          'per_layer_config': None, 'pruned_heads': {}, 'quantization_config': None,
          'tie_encoder_decoder': False}
# A second name of transformers for a key: attribute_map of its config classes.
_GPT_NAMES = {'hidden_size': 'n_embd', 'max_position_embeddings': 'n_positions',
              'num_attention_heads': 'n_head', 'num_hidden_layers': 'n_layer'}
_T5_NAMES = {'hidden_size': 'd_model', 'num_attention_heads': 'num_heads',
             'num_hidden_layers': 'num_layers', 'head_dim': 'd_kv'}
ALIASES = {'gpt2': _GPT_NAMES, 'openai-gpt': _GPT_NAMES, 't5': _T5_NAMES, 'mt5': _T5_NAMES}


class Keys:
  """A config.json that remembers which of its keys were read."""

  def __init__(self, hf: Json):
    """Raises UserError if a key and its alias contradict each other."""
    self.model_type = hf['model_type']
    self.hf = dict(hf)
    for alias, name in ALIASES.get(self.model_type, {}).items():
      if alias in self.hf:
        value = self.hf.pop(alias)
        if self.hf.setdefault(name, value) != value:
          raise UserError(f'config.json: {alias} = {value!r}, and {name} = {self.hf[name]!r} is '
                          'the same setting: remove the wrong one')
    self.read = {*_BOOKKEEPING, *_GENERATION, *IRRELEVANT[self.model_type]}
    seq2seq = self.model_type in ('t5', 'mt5')
    for name, value in (_PLAIN | {'is_encoder_decoder': seq2seq}).items():
      self.fixed(name, value, reason='no model of this project has it')

  def __call__(self, name: str, kind: type, default: Any = _NEEDED, *, null: bool = False) -> Any:
    """The value of a key.

    Args:
      name: of the key.
      kind: int, float, bool, str or list; an int is a float too.
      default: of transformers' class, where the key is absent; it must be there if there is none.
      null: whether null is a value of its own, given as None.
    """
    self.read.add(name)
    if name not in self.hf:
      if default is _NEEDED:
        raise UserError(f'config.json: {name!r} is missing')
      return default
    value = self.hf[name]
    if value is None and null:
      return None
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or kind is not bool and isinstance(value, bool):
      raise UserError(f'config.json: {name} = {value!r} is no {kind.__name__}')
    if kind in (int, float) and abs(value) >= 2 ** 53:
      raise UserError(f'config.json: {name} = {value!r} is out of range')
    return float(value) if kind is float else value

  def fixed(self, name: str, *values: Any, reason: str) -> None:
    """Raises UserError if a key is there and has none of these values; null is the usual one."""
    self.read.add(name)
    value = self.hf.get(name)
    if value is not None and value not in values:
      raise UserError(f'config.json: {name} = {value!r} is not supported ({reason}); '
                      f'{" or ".join(map(repr, values))} is')

  def check_all_read(self) -> None:
    """Raises UserError naming the keys that nothing has read; null is as good as absent."""
    unread = [f'{name} = {value!r:.60}' for name, value in self.hf.items()
              if name not in self.read and value is not None]
    if unread:
      raise UserError(f'config.json: {listed(unread)}: not known for model_type '
                      f'{self.model_type!r}, and the model may compute something else with it; '
                      'remove from config.json what transformers does not read either')


def class_of(hf: Json) -> str | None:
  """The transformers class that a config.json names, None if it names none."""
  names = hf.get('architectures') or [None]
  if not isinstance(names, Sequence) or not isinstance(names[0], str | None):
    raise UserError(f'config.json: architectures = {names!r} is no list of names')
  return names[0] and re.sub(r'^(TF|Flax)', '', names[0])


def number_of_classes(keys: Keys) -> int:
  """How many classes a classifier has; UserError if they do not exclude each other."""
  keys.fixed('problem_type', 'single_label_classification',
             reason='classes exclude each other here')
  labels = keys('id2label', dict, None, null=True)
  return keys('num_labels', int, 2) if labels is None else len(labels)


def unnamed_classes(number: int) -> Json:
  """The keys of classes that have no names."""
  labels = {str(i): f'LABEL_{i}' for i in range(number)}
  return {'id2label': labels, 'label2id': {name: int(i) for i, name in labels.items()}}

"""Exports as GGUF: tensors against their sources, and llama.cpp's outputs against ours."""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import cli, models
from t5x_lite.core.errors import UserError
from t5x_lite.inference import generate
from t5x_lite.interop import gguf_files, gguf_layout, gguf_tokenizer, huggingface
from t5x_lite.models import ModelConfig
from t5x_lite.models.positions import RopeScaling
from t5x_lite.parallel.mesh import MeshConfig
from t5x_lite.parallel.partitioner import Partitioner

gguf = pytest.importorskip('gguf', reason="pip install -e '.[gguf]'")

HERE = pathlib.Path(__file__).parent
LLAMA_CPP = json.loads((HERE / 'llama_cpp.json').read_text(encoding='utf-8'))
PEERS = pathlib.Path(os.environ.get('T5X_LITE_TEST_DATA', '/nonexistent')) / 'peers/gguf'
# A Python that has llama-cpp-python, which takes half an hour to compile: this one, or another.
WITH_LLAMA_CPP = os.environ.get('T5X_LITE_TEST_LLAMA_CPP') or (
    sys.executable if importlib.util.find_spec('llama_cpp') else None)
SIZES = dict(family='decoder_only', vocab_size=64, embed_dim=64, num_layers=2, num_heads=4,
             mlp_dim=96, max_length=32, init_std=0.2)
GPT = dict(norm='layer_norm', activation='gelu', gated_mlp=False, bias=True,
           position_embedding='learned')
GEMMA = dict(activation='gelu', norm_unit_offset=True, scale_embeddings=True, head_dim=32,
             num_kv_heads=1)
CONFIGS = {
    'llama': ModelConfig(**SIZES, num_kv_heads=2, tied_embeddings=False),
    'llama3': ModelConfig(**SIZES, num_kv_heads=2, rope_scaling=RopeScaling(original_length=16)),
    'biased': ModelConfig(**SIZES, num_kv_heads=2, bias=True),
    'mistral': ModelConfig(**SIZES, sliding_window=32),
    'gpt2': ModelConfig(**SIZES, **GPT),
    'gemma': ModelConfig(**SIZES, **GEMMA),
    'gemma2': ModelConfig(**SIZES, **GEMMA, norm_placement='both', sliding_window=8,
                          full_attention_interval=2, attention_softcap=50.0, logits_softcap=30.0),
}
NONE = gguf_tokenizer.Vocabulary('none')


@pytest.fixture
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


def save(path, config, params, dtype='float32', vocabulary=NONE):
  return gguf_files.save_gguf(path, config, params, vocabulary, gguf_files.Prompting(), dtype)


def read(path) -> dict:
  return {t.name: t for t in gguf.GGUFReader(path).tensors}


def values(tensor) -> np.ndarray:
  return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def imported(folder, run) -> pathlib.Path:
  assert cli.main(['import', f'--from={folder}', f'--to={run}']) == 0
  return run


@pytest.fixture(scope='module')
def exports(tmp_path_factory, request):
  """{(model, dtype): file} of the two trained models; those of stories where its data is."""
  folder, found = tmp_path_factory.mktemp('gguf'), {}
  sources = {'gpt2': HERE / 'tiny_gpt2'}
  if PEERS.exists():
    sources['stories'] = request.getfixturevalue('stories_folder')
  for name, source in sources.items():
    run = imported(source, folder / name)
    for dtype in gguf_layout.BLOCKS:
      found[name, dtype] = folder / f'{name}-{dtype}.gguf'
      assert cli.main(['export', f'--from={run}', f'--to={found[name, dtype]}',
                       f'--dtype={dtype}']) == 0
  return found


def test_queries_and_keys_are_in_the_order_of_their_authors_file(stories, exports):
  """llama2.c keeps rotary pairs side by side, as llama.cpp: the import parts them, bit by bit."""
  sizes, w, _ = stories
  ours = {name: ('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_down', 'ffn_up',
                 'attn_norm', 'ffn_norm')[i] for i, name in enumerate(
                     ('wq', 'wk', 'wv', 'wo', 'w1', 'w2', 'w3', 'rms_att', 'rms_ffn'))}
  for dtype in (np.float32, np.float16):
    tensors = read(exports['stories', np.dtype(dtype).name])
    for theirs, name in ours.items():
      for i in range(sizes['layers']):
        kind = np.float32 if 'norm' in name else dtype
        np.testing.assert_array_equal(tensors[f'blk.{i}.{name}.weight'].data,
                                      w[theirs][i].astype(kind))
    np.testing.assert_array_equal(tensors['token_embd.weight'].data, w['embed'].astype(dtype))
    assert len(tensors) == 9 * sizes['layers'] + 2


@pytest.mark.parametrize('name', CONFIGS)
def test_all_tensors_are_there_in_their_type(name, tmp_path, random_params):
  config = CONFIGS[name]
  params = random_params(config)
  tensors, theirs = {}, dict(huggingface.their_tensors(
      gguf_layout.model_type_of(config), config, params))
  for dtype in gguf_layout.BLOCKS:
    save(tmp_path / f'{dtype}.gguf', config, params, dtype)
    tensors[dtype] = read(tmp_path / f'{dtype}.gguf')
    stored = {t.name: t.tensor_type.name for t in tensors[dtype].values()}
    kind = dtype.upper().replace('FLOAT', 'F')
    matrices = {n for n, x in tensors['float32'].items() if len(x.shape) == 2
                and n != 'position_embd.weight'}
    output = 'token_embd.weight' if config.tied_embeddings else 'output.weight'
    assert stored == {n: 'F32' if n not in matrices else 'Q8_0' if (
        n == output and dtype == 'q4_0') else kind for n in stored}
  extra = {'rope_freqs.weight'} if config.rope_scaling else set()
  assert len(tensors['float32']) == len(theirs) + len(extra)
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[
      gguf_layout.ARCHITECTURES[gguf_layout.model_type_of(config)][0].upper()], config.num_layers)
  for their_name, array in theirs.items():
    gguf_name = names.get_name(their_name, ('.weight', '.bias'))
    stored = values(tensors['float32'][gguf_name])
    if name == 'gpt2' and '.c_' in their_name and array.ndim == 2:
      array = array.T
    if name.startswith('gemma') and array.ndim == 1:
      array = array + 1
    if gguf_name.split('.')[-2] in ('attn_q', 'attn_k') and not name.startswith('gemma'):
      heads = config.num_heads if '_q' in gguf_name else config.num_kv_heads
      half = config.head_dim // 2   # rows 0, half, 1, half + 1, … of each head
      order = [h * config.head_dim + j + part * half
               for h in range(heads) for j in range(half) for part in (0, 1)]
      array = array[order]
    np.testing.assert_array_equal(stored, array, err_msg=gguf_name)
    for dtype, bound in (('q8_0', 1 / 127), ('q4_0', 1 / 8)):   # half a step of a block's largest
      block = np.abs(stored).max()
      np.testing.assert_allclose(values(tensors[dtype][gguf_name]), stored, atol=block * bound)


@pytest.mark.skipif(not PEERS.exists(), reason='T5X_LITE_TEST_DATA is not set')
@pytest.mark.parametrize('dtype', ['q8_0', 'q4_0'])
def test_blocks_are_those_of_another_release_to_the_bit(dtype, tmp_path, random_params):
  """As gguf 0.19.0 wrote the bytes of these matrices, outliers, zeros and ties among them."""
  peers = np.load(PEERS / 'gguf.npz')
  config = ModelConfig(**SIZES | {'vocab_size': 8, 'num_layers': 1}, tied_embeddings=False)
  for case in ('a_8x64', 'outlier_2x32', 'zeros_and_ties_2x32'):
    rows = peers[f'{case}/f32']
    table = np.resize(rows, (8, 64)).astype(np.float32)
    params = random_params(config) | {'embedder': {
        'tokens': table, 'output': np.ascontiguousarray(table.T)}}
    save(tmp_path / f'{case}.gguf', config, params, dtype)
    tensors = read(tmp_path / f'{case}.gguf')
    want = np.resize(peers[f'{case}/{dtype.upper()}/bytes'], tensors['token_embd.weight'].n_bytes)
    assert tensors['token_embd.weight'].data.tobytes() == want.tobytes()


def test_llama3_frequencies_are_divided_by_the_factors_of_the_file(tmp_path, random_params):
  scaling = RopeScaling(factor=8.0, original_length=16)
  config = dataclasses.replace(CONFIGS['llama3'], rope_scaling=scaling)
  save(tmp_path / 'm.gguf', config, random_params(config))
  got = values(read(tmp_path / 'm.gguf')['rope_freqs.weight'])
  want = []   # the loop of llama.cpp's converter
  for i in range(0, 16, 2):
    frequency = 10_000 ** -(i / 16)
    wavelength = 2 * math.pi / frequency
    smooth = (16 / wavelength - 1) / (4 - 1)
    want.append(1 if wavelength < 16 / 4 else 8 if wavelength > 16 else 1 / (
        (1 - smooth) / 8 + smooth))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def model_of(name, request, partitioner):
  """(network, params) of a trained model whose outputs llama_cpp.json has."""
  folder = request.getfixturevalue('stories_folder') if name == 'stories' else HERE / 'tiny_gpt2'
  config, params = huggingface.load_model(folder, partitioner)
  return models.build_network(config), params


@pytest.mark.parametrize('name', ['stories', 'gpt2'])
def test_text_and_perplexity_are_those_of_llama_cpp(name, request, partitioner):
  """Of files in float32, 200 tokens and a held-out text; llama.cpp's GELU is of 16 bits."""
  network, params = model_of(name, request, partitioner)
  want, size = LLAMA_CPP[name], network.config.vocab_size
  run = generate.make_greedy(network, partitioner, max_tokens=want['new'], eos_id=-1, pad_id=0,
                             num_ids=size)
  prompt = jnp.asarray([want['prompt_ids']], jnp.int32)
  got = run(params, {'decoder_input_tokens': prompt}, prompt, jnp.ones(prompt.shape, bool)).tokens
  assert got[0].tolist() == want['tokens']
  ids = jnp.asarray([want['text_ids']], jnp.int32)
  logits = jax.jit(lambda p, ids: network.bind(p)({'decoder_input_tokens': ids}))(params, ids)
  log_p = jax.nn.log_softmax(np.asarray(logits, np.float64)[0, :-1])
  nll = -np.take_along_axis(np.asarray(log_p), np.asarray(ids)[0, 1:, None], -1).mean()
  np.testing.assert_allclose(np.exp(nll), want['perplexity'], rtol=1e-3)


@pytest.mark.parametrize('name', ['stories', 'gpt2'])
def test_ids_are_those_of_llama_cpp(name, request):
  """Of the prompt and the text, by the vocabulary that the file is made of."""
  want = LLAMA_CPP[name]
  if name == 'stories':
    import sentencepiece
    model = sentencepiece.SentencePieceProcessor(
        str(request.getfixturevalue('stories_folder') / 'tokenizer.model'))
    encode = lambda text: [1, *model.encode(text)]
  else:
    import tokenizers
    encode = lambda text: tokenizers.Tokenizer.from_file(
        str(HERE / 'tiny_gpt2/tokenizer.json')).encode(text).ids
  for kind in ('prompt', 'text'):
    assert encode(want[kind]) == want[f'{kind}_ids']


def llama_cpp(*requests) -> list[dict]:
  """The answers of llama.cpp itself."""
  done = subprocess.run([WITH_LLAMA_CPP, str(HERE / 'run_llama_cpp.py')], text=True, check=True,
                        input=json.dumps(requests), capture_output=True)
  return json.loads(done.stdout)


needs_llama_cpp = pytest.mark.skipif(
    WITH_LLAMA_CPP is None, reason='llama-cpp-python is not installed, and T5X_LITE_TEST_LLAMA_CPP '
    'names no Python that has it')


@needs_llama_cpp
def test_llama_cpp_still_says_what_is_kept(exports):
  keys = 'length', 'prompt', 'new', 'text'
  names = [name for name, dtype in exports if dtype == 'float32']
  ask = lambda name, dtype: {k: LLAMA_CPP[name][k] for k in keys} | {
      'path': str(exports[name, dtype])}
  for name, got in zip(names, llama_cpp(*(ask(name, 'float32') for name in names))):
    for key in ('prompt_ids', 'tokens', 'output', 'text_ids'):
      assert got[key] == LLAMA_CPP[name][key], (name, key)
    np.testing.assert_allclose(got['perplexity'], LLAMA_CPP[name]['perplexity'], rtol=1e-5)
  # What 16, 8 and 4 bits cost: at most a thousandth, a hundredth, a tenth of the perplexity.
  for dtype, cost in (('float16', 1e-3), ('q8_0', 1e-2), ('q4_0', 1e-1)):
    for name, got in zip(names, llama_cpp(*(ask(name, dtype) for name in names))):
      np.testing.assert_allclose(got['perplexity'], LLAMA_CPP[name]['perplexity'], rtol=cost)


@needs_llama_cpp
@pytest.mark.parametrize('name', CONFIGS)
def test_every_architecture_computes_in_llama_cpp_what_it_does_here(name, tmp_path, random_params):
  """Random models, whose perplexity and greedy ids any wrong tensor or setting changes."""
  config = CONFIGS[name]
  params = random_params(config)
  save(tmp_path / 'm.gguf', config, params, vocabulary=gguf_tokenizer.Vocabulary(
      'llama', [f'<{i}>' for i in range(64)], [gguf_tokenizer.USER_DEFINED] * 64, [0.0] * 64))
  ids = np.random.default_rng(0).integers(3, 64, 30)
  text = ''.join(f'<{i}>' for i in ids)
  got, = llama_cpp(dict(path=str(tmp_path / 'm.gguf'), length=32, prompt=None, new=0, text=text))
  assert got['text_ids'][-30:] == ids.tolist()
  ids = jnp.asarray([got['text_ids']], jnp.int32)
  logits = models.build_network(config).bind(params)({'decoder_input_tokens': ids})
  log_p = np.asarray(jax.nn.log_softmax(logits[0, :-1]))
  nll = -np.take_along_axis(log_p, np.asarray(ids)[0, 1:, None], -1).mean()
  np.testing.assert_allclose(got['perplexity'], np.exp(nll), rtol=2e-3)


@pytest.mark.parametrize('changes, reason', [
    ({'activation': 'gelu_exact'}, "ModelConfig.activation = 'gelu_exact' cannot be written"),
    (GPT | {'activation': 'relu'}, "'gpt2' of llama.cpp has 'gelu'"),
    (GPT | {'norm_placement': 'post', 'mlp_dim': 256},
     "type 'openai-gpt' is not written as GGUF: llama,"),
    (GEMMA | {'tied_embeddings': False}, 'ModelConfig.tied_embeddings = False cannot'),
    (GEMMA | dict(norm_placement='both', sliding_window=8, attention_softcap=50.0),
     'ModelConfig.full_attention_interval = None cannot'),
    ({'position_embedding': 'alibi'}, 'No model of transformers matches this one')])
def test_what_llama_cpp_has_not_is_refused(changes, reason, tmp_path):
  config = ModelConfig(**SIZES | changes)
  with pytest.raises(UserError, match=reason.replace('(', r'\(')):
    save(tmp_path / 'm.gguf', config, None)
  assert not list(tmp_path.iterdir())


def test_a_window_shorter_than_the_context_shortens_it(tmp_path, random_params):
  config = dataclasses.replace(CONFIGS['mistral'], sliding_window=8)
  notes = save(tmp_path / 'm.gguf', config, random_params(config))
  assert notes == ['The context is 8 tokens, the window of the model: llama.cpp has none in this '
                   'architecture']
  field = gguf.GGUFReader(tmp_path / 'm.gguf').fields['llama.context_length']
  assert field.contents() == 8


def test_rows_that_no_block_divides_are_in_float16_and_it_is_said(tmp_path, random_params):
  config = dataclasses.replace(CONFIGS['llama'], mlp_dim=40)
  notes = save(tmp_path / 'm.gguf', config, random_params(config), 'q4_0')
  assert notes == ['2 matrices, such as model.layers.0.mlp.down_proj.weight, are in float16: q4_0 '
                   'has blocks of 32, which do not divide their rows']
  assert read(tmp_path / 'm.gguf')['blk.1.ffn_down.weight'].tensor_type.name == 'F16'


def test_errors_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys):
  run = imported(HERE / 'tiny_gpt2', tmp_path / 'run')
  target = tmp_path / 'm.gguf'

  def refused(*args) -> str:
    capsys.readouterr()
    assert cli.main(['export', f'--from={run}', f'--to={target}', *args]) == 1
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    return err

  assert "--dtype=q4_1: of gguf, did you mean 'q4_0'?" in refused('--dtype=q4_1')
  assert "--dtype=q8_0: of huggingface, choose" in refused('--format=huggingface', '--dtype=q8_0')
  assert "invalid choice: 'onnx'" in refused('--format=onnx')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['run']
  monkeypatch.setattr(gguf.quants, 'quantize', lambda *args: 1 / 0)   # as a disk that is full
  with pytest.raises(ZeroDivisionError):
    cli.main(['export', f'--from={run}', f'--to={target}'])
  assert sorted(p.name for p in tmp_path.iterdir()) == ['run']
  target.write_text('mine')
  assert f'{target} exists and is not overwritten: name another file' in refused()
  assert target.read_text() == 'mine'
  target.unlink()
  monkeypatch.setitem(sys.modules, 'gguf', None)
  assert "GGUF files need gguf: pip install -e '.[gguf]'" in refused()

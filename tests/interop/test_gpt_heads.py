"""GPT-1 and GPT-2 with a head of texts beside transformers: loss, gradients, logits, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is the oracle: pip install torch transformers')
transformers = pytest.importorskip('transformers')

from t5x_lite import models  # noqa: E402
from t5x_lite.core import trees  # noqa: E402
from t5x_lite.core.errors import UserError  # noqa: E402
from t5x_lite.data.features import text_features, text_spans  # noqa: E402
from t5x_lite.interop import hf_configs, hf_tensors, huggingface  # noqa: E402
from t5x_lite.models import ModelConfig  # noqa: E402
from t5x_lite.objectives.classification import Classification  # noqa: E402
from t5x_lite.parallel.mesh import MeshConfig  # noqa: E402
from t5x_lite.parallel.partitioner import Partitioner  # noqa: E402
from t5x_lite.training.step import loss_and_gradients  # noqa: E402

VOCAB, START, EOS, PAD = 61, 2, 1, 0
_GPT = dict(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, summary_first_dropout=0.0, bos_token_id=START,
            eos_token_id=EOS, pad_token_id=PAD)
KINDS = {'gpt1': (transformers.OpenAIGPTConfig, transformers.OpenAIGPTDoubleHeadsModel,
                  transformers.OpenAIGPTForSequenceClassification),
         'gpt2': (transformers.GPT2Config, transformers.GPT2DoubleHeadsModel,
                  transformers.GPT2ForSequenceClassification)}
# Two choices for each of three examples, of unlike lengths.
TEXTS = [[[5, 6, 7], [8, 9, 10, 11, 12]], [[20], [21, 22]], [[30, 31, 32, 33], [37]]]
LABELS = [1, 0, 1]


@pytest.fixture(scope='module')
def partitioner():
  return Partitioner(MeshConfig(data=1).make(jax.devices()[:1]))


def redrawn(kind, which, **more):
  model = KINDS[kind][which](KINDS[kind][0](**_GPT, **more))
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, p in model.named_parameters():
      centre = 1.0 if p.ndim == 1 and name.endswith('weight') else 0.0
      p.copy_(centre + 0.2 * torch.randn(p.shape, generator=generator))
  return model.eval()


def batch_of(texts, length=16):
  rows = [sum(([START, *text, EOS] for text in row), []) for row in texts]
  batch = text_features(rows, [text_spans(row, EOS) for row in rows], length)
  return batch | {'class_labels': np.int32(LABELS)}


def padded(texts):
  """(ids [texts, length], number of ids of each)."""
  rows = [[START, *text, EOS] for row in texts for text in row]
  ids = np.full((len(rows), max(map(len, rows))), PAD)
  for row, text in zip(ids, rows):
    row[:len(text)] = text
  return ids, np.array([*map(len, rows)])


@pytest.mark.parametrize('kind', ['gpt1', pytest.param('gpt2', marks=pytest.mark.slow)])
def test_l3_has_the_loss_and_gradients_of_transformers_double_heads(kind, partitioner, tmp_path):
  model, folder = redrawn(kind, 1), tmp_path / 'theirs'
  model.save_pretrained(folder)
  config, params = huggingface.load_model(folder, partitioner)
  assert (config.head, config.num_classes) == ('choice', None)
  batch = batch_of(TEXTS)
  sums, grads = jax.jit(lambda p, b: loss_and_gradients(
      models.build_network(config), (Classification(language_model=0.5),), p, b, None))(
          params, batch)
  ids, sizes = padded(TEXTS)
  labels = np.where(np.arange(ids.shape[1]) < sizes[:, None], ids, -100)
  pairs = lambda x: torch.tensor(x.reshape(3, 2, *x.shape[1:]))
  out = model(input_ids=pairs(ids), mc_token_ids=pairs(sizes - 1), labels=pairs(labels),
              mc_labels=torch.tensor(LABELS))
  want = out.mc_loss + 0.5 * out.loss
  want.backward()
  value = lambda x: float(x[0] / x[1])
  assert value(sums.metrics['loss']) == pytest.approx(out.mc_loss.item(), rel=1e-4)
  assert value(sums.metrics['language_model_loss']) == pytest.approx(out.loss.item(), rel=1e-4)
  assert float(sums.total / sums.weight) == pytest.approx(want.item(), rel=1e-4)
  theirs = dict(model.named_parameters())
  flat = trees.flatten(jax.tree.map(lambda g: g / sums.weight, grads))
  largest = max(np.abs(g).max() for g in flat.values())
  tensors = hf_tensors.table('openai-gpt' if kind == 'gpt1' else kind, config)
  assert {t.ours for t in tensors} == set(flat)
  for tensor in tensors:
    ours = flat[tensor.ours] if tensor.layer is None else flat[tensor.ours][tensor.layer]
    other = tensor.to_ours(theirs[tensor.theirs].grad.numpy(), ours.shape)
    np.testing.assert_allclose(ours, other, rtol=0, atol=1e-3 * max(np.abs(other).max(),
                                                                    1e-2 * largest),
                               err_msg=tensor.theirs)


@pytest.mark.parametrize('kind', KINDS)
def test_a_classifier_reads_the_last_token_as_transformers_does(kind, partitioner, tmp_path):
  model = redrawn(kind, 2, num_labels=3, id2label={0: 'no', 1: 'yes', 2: 'maybe'})
  model.save_pretrained(tmp_path / 'theirs')
  config, params = huggingface.load_model(tmp_path / 'theirs', partitioner)
  assert (config.head, config.num_classes, config.tied_embeddings) == ('classifier', 3, True)
  single = [[text] for row in TEXTS for text in row]
  ids, _ = padded(single)
  with torch.no_grad():
    want = model(torch.tensor(ids)).logits.numpy()
  batch = {name: jnp.asarray(x) for name, x in batch_of(single).items()}
  network = models.build_network(config)
  got = jax.jit(lambda p, b: network.bind(p).outputs(b).class_logits_BC)(params, batch)
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize('which', [1, 2])
def test_heads_are_written_as_transformers_reads_them(which, partitioner, tmp_path):
  model = redrawn('gpt1', which)
  model.save_pretrained(tmp_path / 'theirs')
  config, params = huggingface.load_model(tmp_path / 'theirs', partitioner)
  (tmp_path / 'ours').mkdir()
  huggingface.save_model(tmp_path / 'ours', config, params)
  back, report = KINDS['gpt1'][which].from_pretrained(tmp_path / 'ours', output_loading_info=True)
  assert not report['missing_keys'] and not report['unexpected_keys']
  for name, p in model.state_dict().items():
    np.testing.assert_array_equal(back.state_dict()[name], p, err_msg=name)


def test_heads_that_transformers_does_not_have_are_refused_by_name():
  sizes = dict(family='decoder_only', vocab_size=64, embed_dim=32, num_layers=2, num_heads=4,
               mlp_dim=128, num_classes=2)
  with pytest.raises(UserError, match="'llama' is closest but cannot have .*num_classes = 2"):
    hf_configs.model_type_of(ModelConfig(**sizes, tied_embeddings=False))
  gpt = dict(norm='layer_norm', norm_epsilon=1e-5, activation='gelu', gated_mlp=False, bias=True,
             position_embedding='learned', max_length=16)
  assert hf_configs.model_type_of(ModelConfig(**sizes, **gpt)) == 'gpt2'
  with pytest.raises(UserError, match="'gpt2' is closest but cannot have tied_embeddings = False"):
    hf_configs.model_type_of(ModelConfig(**sizes, **gpt, tied_embeddings=False))

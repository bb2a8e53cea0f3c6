"""Packaging of t5x_lite. `pip install -e .` makes t5x_lite, tasks, scaling and configs usable."""

import pathlib
import re

from setuptools import find_namespace_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 't5x_lite/__init__.py').read_text())[1]
# Lower bounds are what Python 3.11 resolves to and is tested with, upper bounds the next release
# line after what 3.13 resolves to.
REQUIRES = [
    'jax>=0.10,<0.13', 'flax>=0.12.8,<0.13', 'optax>=0.2.8,<0.3', 'orbax-checkpoint>=0.12,<0.13',
    'seqio>=0.0.20,<0.1', 'tensorflow-datasets>=4.9.10,<5', 'tensorflow>=2.21,<2.23',
    'gin-config>=0.5,<0.6', 'array_record>=0.8,<0.9', 'sentencepiece>=0.2.1,<0.3',
    # Folders of tokenised data, here or at gs://; TFDS and Orbax have it too.
    'etils[epath]>=1.9,<2',
    # A user's own tokenizer.json.
    'tokenizers>=0.20,<0.24',
    # Chat templates, which are Jinja; earlier versions have known escapes from the sandbox.
    'jinja2>=3.1.6,<4',
    # A user's own files: Parquet, Arrow, Zstandard; URLs; Zstandard of windows above 128 MiB.
    'pyarrow>=18,<28', 'fsspec>=2024.6', 'zstandard>=0.22,<0.26',
    'tensorboardX>=2.6,<3', 'numpy>=1.26,<3', 'scipy>=1.14,<2', 'matplotlib>=3.8,<4',
    # Models of Hugging Face and T5X in and out: the readers that their own writers use.
    'safetensors>=0.5,<0.9', 'tensorstore>=0.1.60,<0.2',
    # The metrics of the tasks.
    'rouge-score>=0.1.2,<0.2', 'sacrebleu>=2.4,<3', 'scikit-learn>=1.4,<2',
]
# The oracle of imported models is torch; of this version there is a CPU build for Python 3.11.
ORACLE = ['torch==2.13.0; python_version < "3.12"', 'transformers>=5,<6; python_version < "3.12"',
          # What vLLM unpacks exports in integers with: beside the two above, small wheels.
          'compressed-tensors>=0.20,<0.21; python_version < "3.12"']
# The web page of `t5x-lite scaling app`: brings its own fonts and scripts, so it works offline.
APP = ['nicegui>=3.18,<4']
# Draws of `t5x-lite scaling fit --bayes`: one wheel, which needs nothing beyond JAX's.
BAYES = ['blackjax>=1.7,<2']
# Constraints of the output: automata over tokens of regular expressions, in a Rust wheel.
CONSTRAIN = ['outlines-core>=0.2.14,<0.3']
# The server: ASGI's common framework, server and Prometheus's own client, all small pure wheels.
SERVE = ['starlette>=0.46,<2', 'uvicorn>=0.30,<1', 'prometheus-client>=0.20,<1']
# Files for llama.cpp, by the package of its authors: one small wheel, which needs PyYAML, tqdm and
# requests.
GGUF = ['gguf>=0.19,<0.21']
# Scores of dialogue systems: Moses' tokens, by which their published lexical richness is counted.
DIALOGUE = ['sacremoses>=0.1.1,<0.3']
# lm-evaluation-harness itself, for all its tasks; torch and transformers are no part of it.
EVAL = ['lm_eval>=0.4.13,<0.5']
TEST = ['pytest>=8,<10', 'pytest-xdist>=3.6,<4', 'hypothesis>=6.100,<7', 'ruff>=0.6,<1',
        'tiktoken>=0.9,<1', 'selenium>=4.20,<5', 'jsonschema>=4.18,<5', *APP, *BAYES,
        *CONSTRAIN, *DIALOGUE, *GGUF, *SERVE, 'openai>=2,<4', *ORACLE,
        *(f'{x}; python_version < "3.12"' for x in (*EVAL, 'accelerate>=1,<2'))]
NOTEBOOKS = ['nbclient>=0.10,<1', 'nbformat>=5.10,<6', 'ipykernel>=6.29,<8']

setup(
    name='t5x_lite',
    version=VERSION,
    description='Text Transformers in JAX: from compute budget to trained model',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_namespace_packages(include=[
        't5x_lite', 't5x_lite.*', 'tasks', 'tasks.*', 'scaling', 'scaling.*', 'configs',
        'configs.*']),
    package_data={'': ['*.gin'],
                  't5x_lite': ['cost/*.toml', 'dialogue/structure/*.html', 'dialogue/talk/*.html',
                               'evaluation/*.html', 'serving/*.html'],
                  'tasks': ['instruction/templates/*.jinja'],
                  'scaling': ['data/*.csv', 'data/*.toml', 'app/*.css', 'app/*.html',
                              'data/kbit/*', 'data/ladder/*', 'data/ladder/gin/*',
                              'data/closed_loop/*/*']},
    install_requires=REQUIRES,
    extras_require={
        'test': TEST + NOTEBOOKS, 'notebooks': NOTEBOOKS, 'app': APP, 'bayes': BAYES,
        'constrain': CONSTRAIN, 'dialogue': DIALOGUE, 'eval': EVAL, 'gguf': GGUF, 'serve': SERVE,
        'tensorboard': ['tensorboard>=2.17,<3'], 'wandb': ['wandb>=0.17,<1'],
        'trackio': ['trackio>=0.3,<1'],
        'tpu': ['jax[tpu]'], 'gpu': ['jax[cuda12]'],
    },
    entry_points={'console_scripts': ['t5x-lite = t5x_lite.__main__:run']},
    classifiers=['Programming Language :: Python :: 3.11',
                 'Programming Language :: Python :: 3.12',
                 'Programming Language :: Python :: 3.13'],
)

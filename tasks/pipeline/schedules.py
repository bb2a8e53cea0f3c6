"""Mixtures whose rates change while a model trains."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

RateSchedule = Sequence[tuple[int, Sequence[float]]]


def scheduled(streams: Sequence[tf.data.Dataset], rate_schedule: RateSchedule, batch_size: int,
              seed: int) -> tf.data.Dataset:
  """Rows of endless streams, each drawn by the rates of the step that its batch trains.

  Every stream continues from its position when its rate changes. What is drawn depends on the seed
  and the number of the row alone.

  Args:
    streams: endless data sets of rows.
    rate_schedule: (first step, rate of each stream), in order, the first from step 0.
    batch_size: rows a step.
    seed: of the draws.
  """
  begins = tf.constant([begin for begin, _ in rate_schedule], tf.int64)
  rates = np.asarray([rates for _, rates in rate_schedule])
  edges = tf.constant(np.cumsum(rates / rates.sum(1, keepdims=True), 1), tf.float64)

  def draw(row):
    phase = tf.searchsorted(begins, [row // batch_size], side='right')[0] - 1
    uniform = tf.random.stateless_uniform([1], [seed, row], dtype=tf.float64)
    # The last edge is 1 but for rounding.
    return tf.searchsorted(edges[phase, :-1], uniform, side='right', out_type=tf.int64)[0]

  choices = tf.data.Dataset.counter().map(draw)
  return tf.data.Dataset.choose_from_datasets(streams, choices, stop_on_empty_dataset=False)


def mean_rates(rate_schedule: RateSchedule, steps: int) -> np.ndarray:
  """The share of the rows of so many steps that each task has."""
  ends = [begin for begin, _ in rate_schedule[1:]] + [steps]
  lasts = [max(min(end, steps) - begin, 0) for (begin, _), end in zip(rate_schedule, ends)]
  rates = np.asarray([rates for _, rates in rate_schedule])
  return np.average(rates / rates.sum(1, keepdims=True), axis=0, weights=lasts)

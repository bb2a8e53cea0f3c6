"""Several short examples in one row: best-fit decreasing, a window of examples at a time.

seqio's own packing closes a row as soon as the next example does not fit. Here each example of a
window, the longest first, goes to the row that it fills best (Johnson 1973), which wastes a
percent or two, and NumPy does the copying.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

WINDOW = 1024   # examples; a larger window wastes less and makes the first batch wait longer


def best_fit(converter: type[seqio.FeatureConverter]) -> type[seqio.FeatureConverter]:
  """The same feature converter with this packing in place of seqio's."""

  class BestFit(converter):

    def _pack_or_pad(self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]):
      return pack(ds, packed_lengths) if self.pack else super()._pack_or_pad(ds, packed_lengths)

  BestFit.__name__ = BestFit.__qualname__ = f'BestFit{converter.__name__}'
  return BestFit


def pack(ds: tf.data.Dataset, lengths: Mapping[str, int]) -> tf.data.Dataset:
  """Rows of the examples of `ds`, in an order determined by the examples.

  Args:
    ds: each feature a vector; truncated to its length.
    lengths: of each feature of a row.

  Returns:
    For each feature `f`: `f` [length], `f_segment_ids`, which count the examples of a row from 1,
    and `f_positions` of each id in its example; all 0 on padding.
  """
  names = sorted(lengths)
  dtypes = {name: ds.element_spec[name].dtype for name in names}
  limits = [lengths[name] for name in names]

  def rows(examples):
    flat = [x for name in names for x in (examples[name].flat_values, examples[name].row_lengths())]
    run = lambda *flat: [
        x.astype(dtypes[names[i // 3]].as_numpy_dtype if i % 3 == 0 else np.int32)
        for i, x in enumerate(_pack_window(flat[::2], flat[1::2], limits))]
    out = tf.numpy_function(run, flat, [
        dtype for name in names for dtype in (dtypes[name], tf.int32, tf.int32)])
    keys = [key for name in names for key in (name, f'{name}_segment_ids', f'{name}_positions')]
    return {key: tf.ensure_shape(x, [None, limits[i // 3]])
            for i, (key, x) in enumerate(zip(keys, out))}

  truncate = lambda example: {name: example[name][:lengths[name]] for name in names}
  return ds.map(truncate).ragged_batch(WINDOW).map(rows).unbatch()


def _pack_window(values: Sequence[np.ndarray], sizes: Sequence[np.ndarray], limits: Sequence[int]
                 ) -> list[np.ndarray]:
  """(ids, segments, positions) [rows, limit] of each feature, one after the other.

  Args:
    values: the ids of all examples, one after the other, of each feature.
    sizes: the number of ids [examples] of each feature.
    limits: ids of a row of each feature.
  """
  sizes_NF = np.stack(sizes, 1)
  row_N, segment_N, offset_NF, num_rows = assign_rows(sizes_NF, np.asarray(limits))
  # The longest examples are assigned first; unshuffled rows would be sorted by length.
  row_N = np.random.default_rng(0).permutation(num_rows)[row_N]
  out = []
  for f, (flat, limit) in enumerate(zip(values, limits)):
    size_N = sizes_NF[:, f]
    start_N = np.cumsum(size_N) - size_N
    position = np.arange(len(flat)) - np.repeat(start_N, size_N)
    target = np.repeat(row_N * limit + offset_NF[:, f], size_N) + position
    for content in (flat, np.repeat(segment_N, size_N), position):
      row = np.zeros(num_rows * limit, content.dtype)
      row[target] = content
      out.append(row.reshape(num_rows, limit))
  return out


def assign_rows(sizes_NF: np.ndarray, limits_F: np.ndarray
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
  """Best-fit decreasing: the row and offset of each of N examples of F features.

  Args:
    sizes_NF: ids of each feature of each example, at most `limits_F`.
    limits_F: ids of each feature of a row.

  Returns:
    (row of each example [N], its number in the row from 1 [N], offset of each feature [N, F], the
    number of rows).
  """
  N, F = sizes_NF.shape
  share_NF = sizes_NF / limits_F
  row_N, segment_N = np.zeros(N, np.int64), np.zeros(N, np.int64)
  offset_NF = np.zeros((N, F), np.int64)
  used_RF, count_R = np.zeros((N, F), np.int64), np.zeros(N, np.int64)
  free_R, num_rows = np.zeros(N), 0   # remaining share of a row, summed over its features
  for n in np.argsort(-share_NF.max(1), kind='stable'):
    room_R = limits_F - used_RF[:num_rows] >= sizes_NF[n]
    free = np.where(room_R.all(1), free_R[:num_rows], np.inf)
    row = int(free.argmin()) if num_rows else 0
    if not num_rows or free[row] == np.inf:
      row, free_R[num_rows], num_rows = num_rows, F, num_rows + 1
    row_N[n], offset_NF[n] = row, used_RF[row]
    used_RF[row] += sizes_NF[n]
    free_R[row] -= share_NF[n].sum()
    count_R[row] += 1
    segment_N[n] = count_R[row]
  return row_N, segment_N, offset_NF, num_rows

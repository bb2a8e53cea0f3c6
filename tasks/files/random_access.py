"""The order in which tf.data reads records that can be looked up by index."""

import tensorflow as tf


def index_dataset(
    num_records: int,
    *,
    shuffle: bool = False,
    seed: int | None = None,
    num_shards: int = 1,
    shard_index: int = 0,
    reshuffle_each_iteration: bool | None = None,
) -> tf.data.Dataset:
  """Returns a data set of int64 scalars, the indices of this shard's records in order.

  Args:
    num_records: how many there are in all.
    shuffle: whether to read them in a random permutation.
    seed: of the permutation. Readers that share it partition one global order: shard i of n
      holds every n-th index of it, beginning with the i-th.
    num_shards: how many readers share the records.
    shard_index: which of them this one is.
    reshuffle_each_iteration: as in `tf.data.Dataset.shuffle`.
  """
  dataset = tf.data.Dataset.range(num_records)
  shuffled = lambda ds: ds.shuffle(
      max(num_records, 1), seed=seed, reshuffle_each_iteration=reshuffle_each_iteration
  )
  # Without a seed every reader draws its own permutation, and sharding those would give some
  # records to two readers and some to none: then each shuffles within its fixed share.
  if shuffle and seed is not None:
    dataset = shuffled(dataset)
  if num_shards > 1:
    dataset = dataset.shard(num_shards, shard_index)
  if shuffle and seed is None:
    dataset = shuffled(dataset)
  return dataset

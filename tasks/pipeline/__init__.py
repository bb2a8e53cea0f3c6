"""From seqio tasks to batches: source, converters, packing, mixtures, caches, evaluator."""

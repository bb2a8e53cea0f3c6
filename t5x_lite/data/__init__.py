"""Batches: the names of their features, and the protocol of a source; no data framework."""

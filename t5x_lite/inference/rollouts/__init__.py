"""What a policy writes and how it is rated, as a source of batches."""
